//! A `get` that is killed at any moment.

use std::io::Write;
use std::path::{Path, PathBuf};

use ftx_sim::lan::Cable;
use ftx_tests::crash::{Scenario, Trial};
use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Finished, Lan, Machine, Running, Share, binary, listing, net};
use serde_json::Value;

/// Fetches one file, each round to another folder.
pub(crate) struct FileGet {
    machine: Machine,
    content: Content,
    folder: PathBuf,
    /// What it replaces, if it replaces something.
    old: Option<Content>,
    /// Verified bytes that a killed process has told.
    told: u64,
    /// Whether a killed process was that far that the file has its name.
    named: bool,
}

pub(crate) const NAME: &str = "image.iso";
pub(crate) const PART: &str = ".image.iso.ftx-part";
pub(crate) const JOURNAL: &str = ".image.iso.ftx-journal";

impl FileGet {
    pub(crate) fn new(machine: &Machine, content: &Content) -> Self {
        let (machine, content) = (machine.clone(), content.clone());
        FileGet { folder: machine.folder(), machine, content, old: None, told: 0, named: false }
    }

    /// The same, with `--force` and another file in its place.
    fn replacing(self, old: Content) -> Self {
        FileGet { old: Some(old), ..self }
    }

    fn target(&self) -> PathBuf {
        self.folder.join(NAME)
    }
}

impl Scenario for FileGet {
    fn begin(&mut self, _round: u64) {
        // What the last round left is not kept: a long trial has many.
        let _ = std::fs::remove_dir_all(&self.folder);
        self.folder = self.machine.folder();
        (self.told, self.named) = (0, false);
        if let Some(old) = &self.old {
            std::fs::write(self.target(), &old.bytes).expect("a file to replace");
        }
    }

    fn start(&mut self) -> Running {
        let force = self.old.as_ref().map(|_| "--force");
        self.machine.get(NAME, &self.target()).args(force).start()
    }

    fn result(&self) -> Option<PathBuf> {
        // Of one that is replaced, nothing appears that was not there.
        self.old.is_none().then(|| self.target())
    }

    fn check_after_kill(&mut self, killed: &Finished) {
        self.named = match &self.old {
            Some(old) if std::fs::read(self.target()).is_ok_and(|bytes| bytes == old.bytes) => false,
            // The next one begins to replace this one, so there may be a part beside it.
            Some(_) => {
                self.content.expect_in(&self.target());
                true
            }
            None => expect_whole_or_part(&self.folder, &self.content),
        };
        if let Some(resumed) = resumed(&killed.events) {
            assert!(resumed >= self.told, "{} were verified before\n{}", self.told, killed.said());
        }
        let told = killed.events.iter().filter_map(verified).max().unwrap_or(0);
        // One that is told to replace what is there replaces what it has just fetched itself as well.
        self.told = if self.named { 0 } else { self.told.max(told) };
    }

    fn check_after_end(&mut self, ended: Finished) -> bool {
        if self.named && self.old.is_none() {
            // There already, and the journal that the killed one left is tidied up.
            ended.expect_error(9, "exists");
        } else {
            let done = ended.done();
            let resumed = done["resumed"].as_u64().expect("done says what was there");
            assert!(resumed >= self.told, "{} were verified before\n{}", self.told, ended.said());
            let again = ended.bytes_of_sources() + resumed;
            assert!(again <= self.content.size(), "{again} bytes\n{}", ended.said());
        }
        self.content.expect_in(&self.target());
        assert_eq!(listing(&self.folder), [NAME], "something was left over");
        true
    }
}

/// Fails unless the folder holds either the file, whole, or what goes on to it; says whether it is the file.
pub(crate) fn expect_whole_or_part(folder: &Path, content: &Content) -> bool {
    let names = listing(folder);
    let known = [NAME, PART, JOURNAL, "lost+found"];
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "{names:?}");
    let is_whole = names.iter().any(|name| name == NAME);
    if is_whole {
        content.expect_in(&folder.join(NAME));
        assert!(!names.iter().any(|name| name == PART), "{names:?}");
    }
    is_whole
}

/// The bytes that a fetch says are verified.
pub(crate) fn verified(event: &Value) -> Option<u64> {
    (event["event"] == "progress" && event["safe"].is_u64()).then(|| event["bytes"].as_u64()).flatten()
}

/// The bytes that a fetch has begun with: what is safe when it tells of itself first.
pub(crate) fn resumed(events: &[Value]) -> Option<u64> {
    events.iter().find_map(|event| event["safe"].as_u64())
}

/// A node that gives `rate` bytes a second of the content.
pub(crate) fn source(machine: &Machine, content: &Content, rate: &str) -> Share {
    let share = machine.share_with(&copies(machine, 1, NAME, &content.bytes)[0], &["--max-upload", rate]);
    share.wait_until_hashed(machine, NAME);
    share
}

fn killed_at_any_moment(kills: u64) {
    let net = net!();
    let mut trial = Trial::new(kills);
    let content = Content::new(trial.seed(), 16 * MIB + 12_345);
    let _source = source(&net, &content, "16M");
    trial.run(&mut FileGet::new(&net, &content));
}

#[test]
fn a_get_killed_at_any_moment_goes_on_and_ends_right() {
    killed_at_any_moment(10);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_killed_at_any_moment_goes_on_and_ends_right_many_times() {
    killed_at_any_moment(300);
}

fn replaced(kills: u64) {
    let net = net!();
    let mut trial = Trial::new(kills);
    let (old, content) = (Content::new(trial.seed() + 1, 5 * MIB), Content::new(trial.seed(), 8 * MIB + 1));
    let _source = source(&net, &content, "16M");
    trial.run(&mut FileGet::new(&net, &content).replacing(old));
}

#[test]
fn a_get_that_replaces_a_file_leaves_the_old_one_or_the_new_one() {
    replaced(6);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_that_replaces_a_file_leaves_the_old_one_or_the_new_one_many_times() {
    replaced(150);
}

fn small_files_too(kills: u64) {
    let net = net!();
    let mut trial = Trial::new(kills);
    // Less than a piece: either it is there or not.
    let content = Content::new(trial.seed(), 300_000);
    let _source = source(&net, &content, "1M");
    trial.run(&mut FileGet::new(&net, &content));
}

#[test]
fn a_get_of_a_small_file_killed_at_any_moment_ends_right() {
    small_files_too(4);
}

#[test]
#[ignore = "takes minutes"]
fn a_get_of_a_small_file_killed_at_any_moment_ends_right_many_times() {
    small_files_too(200);
}

/// What a source has sent in all is the file, and what was in flight at each kill: not more.
fn fetched_again(kills: u64) {
    let Some(lan) = Lan::red(binary!(), 2, Cable::PLAIN) else { return };
    let mut trial = Trial::new(kills);
    let content = Content::new(trial.seed(), 16 * MIB);
    let _source = source(lan.host(1), &content, RATE);
    let before = lan.sent_bytes(1);
    trial.run(&mut FileGet::new(lan.host(2), &content));
    let sent = lan.sent_bytes(1) - before;
    let files = trial.rounds * content.size();
    // Headers of TCP, TLS and frames: 1448 of 1514 bytes are TLS, and the hashes of the pieces and the answers come too.
    let again = sent.saturating_sub(files + files / 16);
    let each = again / trial.kills.max(1);
    let text = format!("{sent} bytes sent for {files}, so {each} again for each of {} kills", trial.kills);
    // Not `eprintln`: the test runner would hide it.
    let _ = writeln!(std::io::stderr(), "{text}");
    assert!(each <= IN_FLIGHT_MAX, "{text}");
}

/// Bytes a second.
const RATE: &str = "12M";

/// At this rate: half a second of it is asked for ahead, and a piece of which a chunk is missing is not kept.
const IN_FLIGHT_MAX: u64 = 12 * MIB as u64 / 2 + 2 * MIB as u64;

#[test]
fn no_more_is_fetched_again_than_was_in_flight() {
    fetched_again(6);
}

#[test]
#[ignore = "takes minutes"]
fn no_more_is_fetched_again_than_was_in_flight_many_times() {
    fetched_again(150);
}
