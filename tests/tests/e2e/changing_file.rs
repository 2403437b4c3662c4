//! A shared file that changes or vanishes while it is served: readers fail, or go elsewhere; never wrong bytes.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, Share, TestNet, net};

/// Nodes that share one content slowly, and their files.
fn sources(net: &TestNet, content: &Content, count: usize) -> Vec<(Share, PathBuf)> {
    copies(net, count, "image.iso", &content.bytes)
        .iter()
        .map(|folder| (net.share_with(folder, &["--max-upload", "2M"]), folder.join("image.iso")))
        .collect()
}

/// Fetches while `change` happens to the file of the only source. The result is right or absent.
fn from_the_only_source(seed: u64, change: impl FnOnce(&Path)) {
    let net = net!();
    let content = Content::new(seed, 10 * MIB);
    let sources = sources(&net, &content, 1);
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).args(["--timeout", "3"]).start();
    fetch.wait_for_bytes(3 * MIB as u64);
    change(&sources[0].1);
    let fetched = fetch.finish();

    if fetched.status == 0 {
        content.expect_in(&target);
    } else {
        fetched.last("error");
        assert!(!target.exists(), "a target that was not completed\n{}", fetched.said());
    }
}

/// Fetches while `change` happens to the file of one of two sources. The result is right.
fn from_two_sources(seed: u64, change: impl FnOnce(&Path)) {
    let net = net!();
    let content = Content::new(seed, 12 * MIB);
    let sources = sources(&net, &content, 2);
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).start();
    fetch.wait_for_bytes(3 * MIB as u64);
    change(&sources[0].1);
    let fetched = fetch.finish();

    content.expect_in(&target);
    assert!(fetched.of_source(sources[1].0.node(), "bytes") > 0, "{}", fetched.said());
}

fn overwrite(path: &Path) {
    let mut file = File::options().write(true).open(path).expect("the file opens");
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&vec![0x55; 10 * MIB])).expect("written");
}

fn truncate(path: &Path) {
    File::options().write(true).open(path).and_then(|file| file.set_len(1000)).expect("truncated");
}

fn replace(path: &Path) {
    let new = path.with_extension("new");
    fs::write(&new, Content::new(9, 10 * MIB).bytes).and_then(|()| fs::rename(new, path)).expect("replaced");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("removed");
}

#[test]
fn overwritten_at_the_only_source() {
    from_the_only_source(1201, overwrite);
}

#[test]
fn truncated_at_the_only_source() {
    from_the_only_source(1202, truncate);
}

#[test]
fn replaced_at_the_only_source() {
    from_the_only_source(1203, replace);
}

#[test]
fn removed_at_the_only_source() {
    from_the_only_source(1204, remove);
}

#[test]
fn overwritten_at_one_of_two_sources() {
    from_two_sources(1205, overwrite);
}

#[test]
fn truncated_at_one_of_two_sources() {
    from_two_sources(1206, truncate);
}

#[test]
fn replaced_at_one_of_two_sources() {
    from_two_sources(1207, replace);
}

#[test]
fn removed_at_one_of_two_sources() {
    from_two_sources(1208, remove);
}

#[test]
fn a_reader_that_comes_too_late_makes_the_new_content_known() {
    let net = net!();
    let content = Content::new(1211, 10 * MIB);
    let begun = Instant::now();
    let sources = sources(&net, &content, 1);
    let mut fetch = net.get("image.iso", &net.folder().join("image.iso")).start();
    fetch.wait_for_bytes(2 * MIB as u64);

    overwrite(&sources[0].1);

    // Nobody asks for the name again. The regular scan is 30 seconds after the first.
    let new = Content { bytes: vec![0x55; 10 * MIB] };
    sources[0].0.wait_until_root_is_listed(&net, &new.root());
    assert!(begun.elapsed() < Duration::from_secs(29), "only a regular scan has found it");
    fetch.kill9();
}

#[test]
fn a_file_that_grows_is_served_as_it_is_now_after_a_restart() {
    let net = net!();
    let old = Content::new(1209, 2 * MIB);
    let folder = copies(&net, 1, "image.iso", &old.bytes).remove(0);
    let share = net.share(&folder);
    share.wait_until_hashed(&net, "image.iso");
    let state = share.state();
    share.kill9();
    let new = Content::new(1210, 3 * MIB);
    fs::write(folder.join("image.iso"), &new.bytes).expect("written");

    // The cache of hashes must notice.
    let _share = net.share_again(&folder, &state);
    let target = net.folder().join("image.iso");
    net.get("image.iso", &target).run().done();

    new.expect_in(&target);
}
