//! The only source of a `get`, killed at any moment and started again; the `get` itself is never touched.

use std::path::PathBuf;

use ftx_tests::crash::{Scenario, Struck, Trial};
use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Finished, Machine, Running, Share, listing, net};

use crate::get::{NAME, expect_whole_or_part};

struct OnlySource {
    machine: Machine,
    content: Content,
    shared: PathBuf,
    share: Option<Share>,
    target: PathBuf,
}

impl OnlySource {
    fn new(machine: &Machine, content: &Content) -> Self {
        let shared = copies(machine, 1, NAME, &content.bytes).remove(0);
        let share = machine.share_with(&shared, &FLAGS);
        let (machine, content, target) = (machine.clone(), content.clone(), machine.folder());
        OnlySource { machine, content, shared, share: Some(share), target }
    }
}

impl Scenario for OnlySource {
    fn begin(&mut self, _round: u64) {
        let _ = std::fs::remove_dir_all(&self.target);
        self.target = self.machine.folder();
    }

    fn start(&mut self) -> Running {
        self.machine.get(NAME, &self.target.join(NAME)).args(["--timeout", "30"]).start()
    }

    fn result(&self) -> Option<PathBuf> {
        Some(self.target.join(NAME))
    }

    fn strike(&mut self, running: Running) -> Struck {
        let share = self.share.take().expect("there always is one");
        let state = share.state();
        let killed = share.kill9();
        assert_eq!(killed.status, 137, "{}", killed.said());
        expect_whole_or_part(&self.target, &self.content);
        self.share = Some(self.machine.share_again_with(&self.shared, &state, &FLAGS));
        Struck::Lives(running)
    }

    fn check_after_kill(&mut self, killed: &Finished) {
        panic!("the get was not to be killed\n{}", killed.said());
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        ended.done();
        self.content.expect_in(&self.target.join(NAME));
        assert_eq!(listing(&self.target), [NAME]);
        true
    }
}

const FLAGS: [&str; 2] = ["--max-upload", "12M"];

fn the_source_is_killed(kills: u64) {
    let net = net!();
    let mut trial = Trial::new(kills);
    let content = Content::new(trial.seed(), 24 * MIB + 12_345);
    trial.run(&mut OnlySource::new(&net, &content));
}

#[test]
fn a_get_outlives_its_source_killed_at_any_moment() {
    the_source_is_killed(4);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_outlives_its_source_killed_at_any_moment_many_times() {
    the_source_is_killed(100);
}
