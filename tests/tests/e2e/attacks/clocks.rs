//! Clocks that jump: of a node that shares, of one that fetches, before they start and while they run. What is true of time
//! here is what passes, and the times of files are only told.
//!
//! A process is given another clock by a small library that is loaded before it, and reads from a file how far it is off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Invocation, Share, TestNet, inside, net};

use super::{NAME, SIZE};

const YEAR: i64 = 365 * 24 * 3600;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *seconds;

__attribute__((constructor)) static void begin(void) {
    seconds = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("CLOCK_OFF_BY"), O_RDONLY), 0);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && seconds) time->tv_sec += *seconds;
    return result;
}
"#;

/// A clock that is off by some seconds.
struct Clock {
    library: PathBuf,
    off_by: PathBuf,
}

impl Clock {
    fn new(net: &TestNet, seconds: i64) -> Self {
        let folder = net.folder();
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, LIBRARY).expect("written");
        let source = source.to_str().expect("a path of ours");
        inside::tool("cc", &["-shared", "-fPIC", "-O1", source, "-o"], Some(&library));
        let clock = Clock { library, off_by: folder.join("seconds") };
        fs::write(&clock.off_by, seconds.to_ne_bytes()).expect("written");
        clock
    }

    /// Jumps, for whoever has it.
    fn jump_to(&self, seconds: i64) {
        let file = File::options().write(true).open(&self.off_by).expect("it is there");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
    }

    /// Gives it to a process.
    fn of(&self, process: Invocation) -> Invocation {
        process.env("LD_PRELOAD", &self.library).env("CLOCK_OFF_BY", &self.off_by)
    }
}

#[test]
fn clocks_that_are_decades_apart() {
    let net = net!();
    let content = Content::new(3701, SIZE);
    let folder = net.folder();
    put(&folder, NAME, &content.bytes);
    for (shares, fetches) in [(60 * YEAR, -50 * YEAR), (-50 * YEAR, 60 * YEAR)] {
        let (ahead, behind) = (Clock::new(&net, shares), Clock::new(&net, fetches));
        let share = Share::start(ahead.of(net.node(["--share"]).arg(&folder).arg("--json")));
        share.wait_until_hashed(&net, NAME);
        let asked = net.node(["status", "--json"]).with_state(&share.state()).run();
        let started = asked.events.iter().find_map(|event| event["started"].as_f64()).expect("it tells");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a sane clock here");
        assert!((started - now.as_secs_f64() - shares as f64).abs() < YEAR as f64, "{started}");
        let target = net.folder().join(NAME);
        behind.of(net.get(NAME, &target)).run().done();
        content.expect_in(&target);
    }
}

#[test]
fn a_clock_that_jumps_during_a_fetch() {
    let net = net!();
    let content = Content::new(3702, SIZE);
    let folder = net.folder();
    put(&folder, NAME, &content.bytes);
    let clocks = [0, 0].map(|seconds| Clock::new(&net, seconds));
    let share = net.node(["--share"]).arg(&folder).args(["--json", "--max-upload", "2M"]);
    let share = Share::start(clocks[0].of(share));
    share.wait_until_hashed(&net, NAME);
    let target = net.folder().join(NAME);
    let mut fetch = clocks[1].of(net.get(NAME, &target)).start();
    for (piece, seconds) in [YEAR, -YEAR, 0, -40 * YEAR, 3600].into_iter().enumerate() {
        fetch.wait_for_bytes((piece * MIB) as u64);
        clocks[piece % 2].jump_to(seconds);
    }
    fetch.finish().done();
    content.expect_in(&target);
}

#[test]
fn a_file_that_changes_while_the_clock_jumps_is_never_given_as_it_was() {
    let net = net!();
    let folder = net.folder();
    let clock = Clock::new(&net, 0);
    let start = |state: Option<PathBuf>| {
        let node = net.node(["--share"]).arg(&folder).arg("--json");
        Share::start(clock.of(state.iter().fold(node, |node, state| node.with_state(state))))
    };
    let mut state = None;
    for (round, seconds) in [0, 2 * YEAR, -2 * YEAR, -30 * YEAR, 0].into_iter().enumerate() {
        let content = Content::new(3710 + round as u64, SIZE);
        // In one round it changes while the node is away, in the next while it is there.
        let share = if round % 2 == 0 {
            put(&folder, NAME, &content.bytes);
            clock.jump_to(seconds);
            start(state.take())
        } else {
            let share = start(state.take());
            clock.jump_to(seconds);
            put(&folder, NAME, &content.bytes);
            share
        };
        let root = content.root();
        share.wait_until_root_is_listed(&net, &root);
        let target = net.folder().join(NAME);
        net.get(NAME, &target).run().done();
        content.expect_in(&target);
        state = Some(share.state());
        share.stop();
    }
}

#[test]
fn files_from_the_future_and_from_before_all_time() {
    let net = net!();
    let content = Content::new(3720, SIZE);
    let folder = net.folder();
    put(&folder.join("tree"), "new", &content.bytes);
    put(&folder.join("tree"), "old", &content.bytes[..MIB]);
    let at = |name: &str, time: SystemTime| {
        let file = File::options().write(true).open(folder.join("tree").join(name)).expect("it is there");
        file.set_modified(time).expect("the file system takes it");
    };
    let (future, past) = (Duration::from_secs(13_000_000_000), Duration::from_secs(2_000_000_000));
    at("new", SystemTime::UNIX_EPOCH + future);
    at("old", SystemTime::UNIX_EPOCH - past);
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, "tree");
    let target = net.folder().join("tree");
    let state = net.folder();
    for _ in 0..2 {
        net.get("tree", &target).args(["--force"]).with_state(&state).run().done();
        content.expect_in(&target.join("new"));
        for name in ["new", "old"] {
            let time =
                |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).expect("it is there");
            assert_eq!(time(target.join(name)), time(folder.join("tree").join(name)), "{name}");
        }
    }
}
