//! A `get` of a folder that is killed at any moment, or whose disk loses its power.

use std::path::{Path, PathBuf};

use ftx_tests::crash::{Scenario, Struck, Trial};
use ftx_tests::data::MIB;
use ftx_tests::inside::{self, Namespaces};
use ftx_tests::power::{Disk, Image};
use ftx_tests::share::put;
use ftx_tests::tree::{Entry, Shape, Tree};
use ftx_tests::{Finished, Machine, Running, Share, listing, net};

use crate::get::{resumed, verified};
use crate::power::OPTIONS;

const NAME: &str = "tree";
const KNOWN: [&str; 4] = [NAME, ".tree.ftx-part", ".tree.ftx-journal", "lost+found"];

/// Fetches one folder, each round to another place.
struct FolderGet {
    machine: Machine,
    /// Where the tree comes from: its own shape, and what a fetch makes of it.
    seed: u64,
    tree: Tree,
    folder: PathBuf,
    state: PathBuf,
    kind: Kind,
    /// What was at the target when the round began.
    old: Option<Tree>,
    /// Bytes that are to be fetched, and how many of them a process has told that it has.
    size: u64,
    told: u64,
    /// Whether the target was seen as it should be at the end.
    is_there: bool,
}

/// Where the folder goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Where nothing is.
    New,
    /// Into an older version of it.
    Into,
    /// The same, and what is not in it goes.
    Delete,
    /// Where something of another kind is, which is replaced: by turns at the target itself, and within an older version.
    Force,
}

/// What has the place of a folder.
const IN_THE_WAY: &[u8] = b"in the way";

/// Where [`Kind::Force`] has a folder in the place of a file.
const REPLACED: &str = "tool";

/// Many small files, and some of several pieces.
const SHAPE: Shape = Shape { entries: 80, large: 2 * MIB + 17, bytes_max: 10 * MIB };

impl FolderGet {
    /// Shares the tree of this seed at a rate, and prepares to fetch it.
    fn new(machine: &Machine, seed: u64, rate: &str, kind: Kind) -> (Self, Share) {
        let shared = machine.folder();
        let folder = shared.join(NAME);
        std::fs::create_dir(&folder).expect("made");
        Tree::make(&folder, seed, SHAPE);
        // Some of it is there twice.
        for name in ["large", "tool"] {
            std::fs::copy(folder.join(name), folder.join(format!("{name} again"))).expect("copied");
        }
        let tree = Tree::read(&folder).as_fetched();
        let share = machine.share_with(&shared, &["--max-upload", rate]);
        share.wait_until_folder_is_hashed(machine, NAME);
        let (folder, state) = (machine.folder(), machine.folder());
        let size = tree.size();
        let machine = machine.clone();
        let get =
            FolderGet { machine, seed, tree, folder, state, kind, old: None, size, told: 0, is_there: false };
        (get, share)
    }

    fn target(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Puts there what a round begins with.
    fn prepare(&mut self, round: u64) {
        (self.told, self.is_there, self.old) = (0, false, None);
        let target = self.target();
        match self.kind {
            Kind::New => {}
            Kind::Force if round % 2 == 1 => std::fs::write(&target, IN_THE_WAY).expect("written"),
            Kind::Into | Kind::Delete | Kind::Force => {
                std::fs::create_dir(&target).expect("made");
                Tree::make(&target, self.seed, SHAPE);
                self.old = Some(Tree::age(&target, round));
            }
        }
        if let (Kind::Force, Some(old)) = (self.kind, &mut self.old) {
            let _ = std::fs::remove_file(target.join(REPLACED));
            put(&target, &format!("{REPLACED}/inner"), IN_THE_WAY);
            std::fs::remove_dir_all(target.join("empty folder")).expect("removed");
            std::fs::write(target.join("empty folder"), IN_THE_WAY).expect("written");
            *old = Tree::read(&target);
        }
    }

    /// Whether this is what has to make room.
    fn is_replaced(&self, path: &Path) -> bool {
        self.kind == Kind::Force && (path.starts_with(REPLACED) || path.starts_with("empty folder"))
    }

    /// What is there at the end.
    fn wanted(&self) -> Tree {
        match (&self.old, self.kind) {
            (Some(old), Kind::Into | Kind::Force) => self.tree.and(&self.besides(old)),
            _ => self.tree.clone(),
        }
    }

    /// What of an older version is not in the folder.
    fn besides(&self, old: &Tree) -> Tree {
        old.only(|path, _| self.tree.entry(path).is_none() && !self.is_replaced(path))
    }

    /// Fails unless all that is there is entirely old or entirely new; says whether it is as it should be at the end.
    fn look(&self) -> bool {
        let names = listing(&self.folder);
        assert!(names.iter().all(|name| KNOWN.contains(&name.as_str())), "{names:?}");
        let Some(old) = &self.old else {
            let is_there = self.target().is_dir();
            if is_there {
                self.tree.expect_in(&self.target());
            } else if self.target().exists() {
                assert_eq!(std::fs::read(self.target()).expect("it can be read"), IN_THE_WAY);
            }
            return is_there;
        };
        let now = Tree::read(&self.target());
        for (path, entry) in now.entries() {
            let is = |other: &Tree| other.entry(path).is_some_and(|other| is_same(entry, other));
            assert!(is(old) || is(&self.tree), "{path:?} is {entry:?}, neither the old one nor the new one");
        }
        for (path, entry) in old.entries().filter(|(path, _)| now.entry(path).is_none()) {
            let may_go = self.kind == Kind::Delete && self.tree.entry(path).is_none();
            assert!(may_go || self.is_replaced(path), "{path:?} is gone, which was {entry:?}");
        }
        self.wanted().differences(&self.target()).is_empty()
    }

    /// Takes in what a process has said before it was killed.
    fn hear(&mut self, killed: &Finished, bytes: u64) {
        if let (Some(resumed), Kind::New, false) = (resumed(&killed.events), self.kind, self.is_there) {
            assert!(resumed >= self.told, "{} were there before\n{}", self.told, killed.said());
        }
        self.told = self.told.max(bytes);
    }

    /// Fails unless it ended well and all is there, and nothing else.
    fn expect_end(&self, ended: &Finished) {
        ended.done();
        let fetched = ended.bytes_of_sources();
        assert!(fetched + self.told <= self.size, "{fetched} bytes after {}\n{}", self.told, ended.said());
        self.expect_all();
    }

    fn expect_all(&self) {
        self.wanted().expect_in(&self.target());
        let names = listing(&self.folder);
        assert!(names.iter().all(|name| [NAME, "lost+found"].contains(&name.as_str())), "{names:?}");
    }
}

/// Whether two entries are the same but for times and permissions.
fn is_same(one: &Entry, other: &Entry) -> bool {
    match (one, other) {
        (Entry::Folder { .. }, Entry::Folder { .. }) => true,
        (Entry::File { sha256: one, .. }, Entry::File { sha256: other, .. }) => one == other,
        (one, other) => one == other,
    }
}

impl Scenario for FolderGet {
    fn begin(&mut self, round: u64) {
        let _ = std::fs::remove_dir_all(&self.folder);
        (self.folder, self.state) = (self.machine.folder(), self.machine.folder());
        self.prepare(round);
    }

    fn start(&mut self) -> Running {
        let flag = match self.kind {
            Kind::New | Kind::Into => None,
            Kind::Delete => Some("--delete"),
            Kind::Force => Some("--force"),
        };
        self.machine.get(NAME, &self.target()).args(flag).with_state(&self.state).start()
    }

    fn result(&self) -> Option<PathBuf> {
        match &self.old {
            None if self.kind == Kind::Force => None,
            None => Some(self.target()),
            // The first of the files that come into their places.
            Some(old) => {
                let new = self.tree.entries().find(|(path, _)| old.entry(path).is_none());
                new.map(|(path, _)| self.target().join(path))
            }
        }
    }

    fn check_after_kill(&mut self, killed: &Finished) {
        let bytes = killed.events.iter().filter_map(verified).max().unwrap_or(0);
        self.hear(killed, bytes);
        self.is_there = self.look();
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        if self.is_there {
            assert_eq!(ended.bytes_of_sources(), 0, "{}", ended.said());
        }
        self.expect_end(&ended);
        true
    }
}

fn killed_at_any_moment(kills: u64, kind: Kind) {
    let net = net!();
    let mut trial = Trial::new(kills);
    let (mut get, _share) = FolderGet::new(&net, trial.seed(), "16M", kind);
    trial.run(&mut get);
}

#[test]
fn a_get_of_a_folder_killed_at_any_moment_leaves_nothing_or_all_of_it() {
    killed_at_any_moment(5, Kind::New);
}

#[test]
fn a_get_into_a_folder_killed_at_any_moment_leaves_old_or_new_files() {
    killed_at_any_moment(5, Kind::Into);
}

#[test]
fn a_get_that_deletes_killed_at_any_moment_deletes_nothing_else() {
    killed_at_any_moment(4, Kind::Delete);
}

#[test]
fn a_get_that_replaces_killed_at_any_moment_leaves_what_was_there_or_what_comes() {
    killed_at_any_moment(5, Kind::Force);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_that_replaces_killed_at_any_moment_leaves_what_was_there_or_what_comes_many_times() {
    killed_at_any_moment(200, Kind::Force);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_of_a_folder_killed_at_any_moment_leaves_nothing_or_all_of_it_many_times() {
    killed_at_any_moment(200, Kind::New);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_into_a_folder_killed_at_any_moment_leaves_old_or_new_files_many_times() {
    killed_at_any_moment(200, Kind::Into);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_that_deletes_killed_at_any_moment_deletes_nothing_else_many_times() {
    killed_at_any_moment(200, Kind::Delete);
}

/// The same, onto another disk each round, that loses its power.
struct OntoDisk {
    get: FolderGet,
    blank: Image,
    disk: Option<Disk>,
    options: &'static str,
}

impl OntoDisk {
    fn disk(&mut self) -> &mut Disk {
        self.disk.as_mut().expect("a disk is mounted")
    }

    fn power_cycle(&mut self) {
        let disk = self.disk();
        if disk.has_power() {
            disk.cut();
        }
        let image = disk.image();
        self.disk = None;
        self.disk = Some(image.mount(&self.get.folder, self.options));
    }
}

impl Scenario for OntoDisk {
    fn begin(&mut self, round: u64) {
        self.options = OPTIONS[round as usize % OPTIONS.len()];
        self.disk = None;
        self.disk = Some(self.blank.mount(&self.get.folder, self.options));
        self.get.state = self.get.machine.folder();
        self.get.prepare(round);
        // What was there is not what is to be lost.
        inside::tool("sync", &["-f"], Some(&self.get.folder));
    }

    fn start(&mut self) -> Running {
        self.get.start()
    }

    fn result(&self) -> Option<PathBuf> {
        self.get.result()
    }

    fn strike(&mut self, running: Running) -> Struck {
        self.disk().cut();
        Struck::Killed(running.kill9())
    }

    fn check_after_kill(&mut self, killed: &Finished) {
        let safe = killed.events.iter().filter_map(|event| event["safe"].as_u64()).max().unwrap_or(0);
        self.get.hear(killed, safe);
        self.power_cycle();
        self.get.is_there = self.get.look();
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        if ended.status != 0 && !self.disk().has_power() {
            // It has noticed before it was killed.
            self.check_after_kill(&ended);
            return false;
        }
        self.get.expect_end(&ended);
        // What was told to be done stays done.
        self.power_cycle();
        assert!(self.get.look(), "{:?}", self.get.wanted().differences(&self.get.target()));
        // The name of the journal may have come back, which was removed last.
        let again = self.get.start().finish();
        assert_eq!(again.bytes_of_sources(), 0, "{}", again.said());
        self.get.expect_all();
        true
    }
}

fn power_cuts(kills: u64, kind: Kind) {
    inside::run(Namespaces::RealRoot, || {
        let net = net!();
        let mut trial = Trial::new(kills);
        // Slow enough that the journal is written on the way, which is every two seconds.
        let (get, _share) = FolderGet::new(&net, trial.seed(), "3M", kind);
        trial.run(&mut OntoDisk { get, blank: Image::blank(64), disk: None, options: OPTIONS[0] });
    });
}

#[test]
fn a_power_cut_at_any_moment_leaves_nothing_of_a_folder_or_all_of_it() {
    power_cuts(3, Kind::New);
}

#[test]
fn a_power_cut_at_any_moment_leaves_old_or_new_files() {
    power_cuts(3, Kind::Into);
}

#[test]
#[ignore = "takes minutes"]
fn a_power_cut_at_any_moment_leaves_nothing_of_a_folder_or_all_of_it_many_times() {
    power_cuts(100, Kind::New);
}

#[test]
#[ignore = "takes minutes"]
fn a_power_cut_at_any_moment_leaves_old_or_new_files_many_times() {
    power_cuts(100, Kind::Delete);
}
