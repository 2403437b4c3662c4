//! A `get` onto a disk that loses its power at any moment.

use std::path::PathBuf;

use ftx_tests::crash::{Scenario, Struck, Trial};
use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::power::{Disk, Image};
use ftx_tests::{Content, Finished, Machine, Running, listing, net};

use crate::get::{NAME, expect_whole_or_part, resumed, source};

/// Fetches one file, each round onto another disk.
struct OntoDisk {
    machine: Machine,
    content: Content,
    blank: Image,
    folder: PathBuf,
    disk: Option<Disk>,
    options: &'static str,
    /// Bytes that a process has told are safe, and whether it has told that all is done.
    safe: u64,
    named: bool,
}

/// Ways to mount it, from what most have to what promises least.
const OPTIONS: [&str; 4] =
    ["defaults", "commit=1", "data=writeback,noauto_da_alloc", "data=writeback,noauto_da_alloc,commit=1"];

impl OntoDisk {
    fn new(machine: &Machine, content: &Content) -> Self {
        OntoDisk {
            folder: machine.folder(),
            machine: machine.clone(),
            content: content.clone(),
            blank: Image::blank(64),
            disk: None,
            options: OPTIONS[0],
            safe: 0,
            named: false,
        }
    }

    fn disk(&mut self) -> &mut Disk {
        self.disk.as_mut().expect("a disk is mounted")
    }

    /// Cuts the power, unless it is gone already, and gives it back.
    fn power_cycle(&mut self) {
        let disk = self.disk();
        if disk.has_power() {
            disk.cut();
        }
        let image = disk.image();
        self.disk = None;
        self.disk = Some(image.mount(&self.folder, self.options));
    }
}

impl Scenario for OntoDisk {
    fn begin(&mut self, round: u64) {
        self.options = OPTIONS[round as usize % OPTIONS.len()];
        self.disk = None;
        self.disk = Some(self.blank.mount(&self.folder, self.options));
        (self.safe, self.named) = (0, false);
    }

    fn start(&mut self) -> Running {
        self.machine.get(NAME, &self.folder.join(NAME)).start()
    }

    fn result(&self) -> Option<PathBuf> {
        Some(self.folder.join(NAME))
    }

    fn strike(&mut self, running: Running) -> Struck {
        self.disk().cut();
        Struck::Killed(running.kill9())
    }

    fn check_after_kill(&mut self, killed: &Finished) {
        if let Some(resumed) = resumed(&killed.events) {
            assert!(resumed >= self.safe, "{} were safe before\n{}", self.safe, killed.said());
        }
        self.safe = killed.events.iter().filter_map(|event| event["safe"].as_u64()).fold(self.safe, u64::max);
        self.power_cycle();
        self.named = expect_whole_or_part(&self.folder, &self.content);
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        if ended.status != 0 && !self.disk().has_power() {
            // It has noticed before it was killed.
            self.check_after_kill(&ended);
            return false;
        }
        if self.named {
            ended.expect_error(9, "exists");
        } else {
            let resumed = ended.done()["resumed"].as_u64().expect("done says what was there");
            assert!(resumed >= self.safe, "{} were safe before\n{}", self.safe, ended.said());
        }
        // What was told to be done stays done.
        self.power_cycle();
        assert!(expect_whole_or_part(&self.folder, &self.content), "{:?}", listing(&self.folder));
        self.machine.get(NAME, &self.folder.join(NAME)).run().expect_error(9, "exists");
        assert_eq!(listing(&self.folder), [NAME, "lost+found"], "something was left over");
        true
    }
}

fn power_cuts(kills: u64) {
    inside::run(Namespaces::RealRoot, || {
        let net = net!();
        let mut trial = Trial::new(kills);
        let content = Content::new(trial.seed(), 24 * MIB + 12_345);
        // Slow enough that the journal is written on the way, which is every two seconds.
        let _source = source(&net, &content, "5M");
        trial.run(&mut OntoDisk::new(&net, &content));
    });
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_safe() {
    power_cuts(6);
}

#[test]
#[ignore = "takes minutes"]
fn a_power_cut_at_any_moment_loses_nothing_that_was_safe_many_times() {
    power_cuts(120);
}

#[test]
fn what_is_not_synced_is_lost_on_the_disk_of_these_tests() {
    inside::run(Namespaces::RealRoot, || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path();
        let mut disk = Image::blank(16).mount(at, "defaults");
        let synced = std::fs::File::create(at.join("synced")).expect("created");
        std::fs::write(at.join("synced"), "synced").and_then(|()| synced.sync_all()).expect("written");
        std::fs::write(at.join("written"), "written").expect("written");
        disk.cut();
        assert!(std::fs::File::open(at.join("written")).and_then(|file| file.sync_all()).is_err());
        let image = disk.image();
        drop(disk);
        let _disk = image.mount(at, "defaults");
        assert_eq!(listing(at), ["lost+found", "synced"]);
        assert_eq!(std::fs::read(at.join("synced")).ok().as_deref(), Some(&b"synced"[..]));
    });
}
