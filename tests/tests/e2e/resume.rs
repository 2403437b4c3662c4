//! A fetch that is killed goes on where it was.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Share, TestNet, listing, net};

const PART: &str = ".image.iso.ftx-part";
const JOURNAL: &str = ".image.iso.ftx-journal";

/// A node that gives `rate` bytes a second of `content` as `image.iso`.
fn source(net: &TestNet, content: &Content, rate: &str) -> Share {
    net.share_with(&copies(net, 1, "image.iso", &content.bytes)[0], &["--max-upload", rate])
}

/// Starts a get into `target` and kills it when more than `bytes` are there.
fn fetch_some(net: &TestNet, target: &Path, bytes: u64) {
    let mut fetch = net.get("image.iso", &target.join("image.iso")).start();
    fetch.wait_for_bytes(bytes);
    fetch.kill9();
}

#[test]
fn killed_again_and_again_it_ends_with_the_right_bytes() {
    let net = net!();
    let content = Content::new(501, 24 * MIB);
    let _source = source(&net, &content, "8M");
    let target = net.folder();

    for kill in 1..=4 {
        fetch_some(&net, &target, kill * 3 * MIB as u64);
        assert!(!target.join("image.iso").exists(), "the name appeared before the end");
    }
    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    fetched.done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"], "something was left over");
}

#[test]
fn what_was_synced_is_not_fetched_again() {
    let net = net!();
    let content = Content::new(502, 16 * MIB);
    let _source = source(&net, &content, "1500K");
    let target = net.folder();

    // Data is synced every 2 seconds at the latest: what was there 4 seconds before the kill is safe.
    let mut fetch = net.get("image.iso", &target.join("image.iso")).start();
    let safe = fetch.wait_for_bytes(MIB as u64);
    let then = Instant::now();
    fetch.wait_for("4 seconds had passed", |_| then.elapsed() > Duration::from_secs(4));
    fetch.kill9();
    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    content.expect_in(&target.join("image.iso"));
    let again = fetched.bytes_of_sources();
    assert!(again <= content.size() - safe, "{again} bytes though {safe} were safe\n{}", fetched.said());
}

#[test]
fn what_was_verified_is_not_fetched_again_after_a_kill() {
    let net = net!();
    let content = Content::new(510, 24 * MIB);
    let _source = source(&net, &content, "8M");
    let target = net.folder();
    let get = || net.get("image.iso", &target.join("image.iso"));

    // Killed before the journal was ever synced, and again when it went on for a moment.
    let mut verified = 0;
    for kill in 1..=3 {
        let mut fetch = get().start();
        let resumed = fetch.wait_for_bytes(0);
        assert!(resumed >= verified, "went on with {resumed} bytes after {verified} had been verified");
        verified = fetch.wait_for_bytes(kill * 5 * MIB as u64);
        fetch.kill9();
    }
    let fetched = get().run();

    fetched.done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"], "something was left over");
    let again = fetched.bytes_of_sources();
    assert!(
        again <= content.size() - verified,
        "{again} bytes though {verified} were verified\n{}",
        fetched.said()
    );
}

#[test]
fn an_interrupted_get_says_so_and_goes_on_later() {
    let net = net!();
    let content = Content::new(503, 12 * MIB);
    let _source = source(&net, &content, "4M");
    let target = net.folder();

    let mut fetch = net.get("image.iso", &target.join("image.iso")).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    fetch.signal(ftx_tests::Signal::INT);
    fetch.finish().expect_error(130, "interrupted");
    assert!(!target.join("image.iso").exists() && target.join(PART).exists(), "{:?}", listing(&target));
    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
    // An interrupt leaves the time to write down everything.
    let again = fetched.bytes_of_sources();
    assert!(again <= content.size() - 4 * MIB as u64, "{again} bytes were fetched again\n{}", fetched.said());
}

/// Kills a get in the middle, does something to what it left, and expects the next one to end well.
fn after(seed: u64, damage: impl FnOnce(&Path)) {
    let net = net!();
    let content = Content::new(seed, 12 * MIB);
    let _source = source(&net, &content, "2M");
    let target = net.folder();
    // Long enough for the journal to have been written.
    fetch_some(&net, &target, 7 * MIB as u64);

    damage(&target);
    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    fetched.done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"], "something was left over");
}

#[test]
fn a_journal_of_garbage_is_no_obstacle() {
    after(504, |target| fs::write(target.join(JOURNAL), Content::new(1, 5000).bytes).expect("written"));
}

#[test]
fn a_torn_journal_is_no_obstacle() {
    after(505, |target| {
        let path = target.join(JOURNAL);
        let journal = fs::read(&path).expect("the journal is there");
        fs::write(&path, &journal[..journal.len() / 2]).expect("written");
    });
}

#[test]
fn a_lost_journal_is_no_obstacle() {
    after(506, |target| fs::remove_file(target.join(JOURNAL)).expect("the journal was there"));
}

#[test]
fn a_lost_part_is_no_obstacle() {
    after(507, |target| fs::remove_file(target.join(PART)).expect("the part was there"));
}

#[test]
fn the_part_of_another_content_is_not_mixed_in() {
    let net = net!();
    let (old, new) = (Content::new(508, 12 * MIB), Content::new(509, 12 * MIB));
    let source_of_old = source(&net, &old, "6M");
    let target = net.folder();
    fetch_some(&net, &target, 5 * MIB as u64);
    source_of_old.kill9();
    let _source_of_new = source(&net, &new, "20M");

    net.get("image.iso", &target.join("image.iso")).run().done();

    new.expect_in(&target.join("image.iso"));
}
