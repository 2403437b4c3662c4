//! What of a folder need not cross the network: files that are there twice, and what the target has under other names.

use std::fs;
use std::path::Path;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::tree::Tree;
use ftx_tests::{Content, net};

use crate::folders::{NAME, expect_nothing_left};

/// Fills `tree` with equal files: many small ones, and large ones. Returns the bytes of the distinct ones.
fn fill_with_equal_files(tree: &Path) -> u64 {
    let mut distinct = 0;
    for kind in 0..40u64 {
        let content = Content::new(4000 + kind, 100 + kind as usize * 700);
        distinct += content.size();
        for copy in 0..5 {
            put(tree, &format!("{copy}/small {kind}"), &content.bytes);
        }
    }
    for kind in 0..2u64 {
        let content = Content::new(4100 + kind, 3 * MIB + 17);
        distinct += content.size();
        for copy in 0..3 {
            put(tree, &format!("{copy}/large {kind}"), &content.bytes);
        }
    }
    distinct
}

#[test]
fn equal_files_come_once() {
    let net = net!();
    let folder = net.folder();
    let distinct = fill_with_equal_files(&folder.join(NAME));
    let tree = Tree::read(&folder.join(NAME));
    let share = net.share_with(&folder, &["--max-upload", "2M"]);
    share.wait_until_folder_is_hashed(&net, NAME);
    let to = net.folder();
    let mut killed = net.get(NAME, &to.join(NAME)).start();
    let bytes = killed.wait_for_bytes(2 * MIB as u64);
    killed.kill9();

    let fetched = net.get(NAME, &to.join(NAME)).run();

    let done = fetched.done();
    assert_eq!(done["size"], tree.size(), "{}", fetched.said());
    assert_eq!(done["copied_files"], 4 * 40 + 2 * 2, "{}", fetched.said());
    let came = fetched.bytes_of_sources();
    assert!(came + bytes <= distinct, "{came} of {distinct}, after {bytes}\n{}", fetched.said());
    let told =
        done["fetched"].as_u64().zip(done["resumed"].as_u64()).map(|(fetched, resumed)| fetched + resumed);
    assert!(told.is_some_and(|told| told <= distinct), "{distinct} in all\n{}", fetched.said());
    tree.expect_in(&to.join(NAME));
    expect_nothing_left(&to);
    // And again nothing.
    assert_eq!(net.get(NAME, &to.join(NAME)).run().bytes_of_sources(), 0);
}

#[test]
fn a_large_file_that_was_renamed_and_changed_is_not_fetched_anew() {
    let net = net!();
    let folder = net.folder();
    let tree = folder.join(NAME);
    let mut image = Content::new(4200, 6 * MIB).bytes;
    put(&tree, "2026/image", &image);
    put(&tree, "2026/unlike", &Content::new(4201, 2 * MIB).bytes);
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, NAME);
    let to = net.folder();
    image[MIB + 7] ^= 1;
    put(&to.join(NAME), "2025/image", &image);
    put(&to.join(NAME), "2025/unlike", &Content::new(4202, 2 * MIB).bytes);

    let fetched = net.get(NAME, &to.join(NAME)).arg("--delete").run();

    fetched.done();
    assert_eq!(fetched.bytes_of_sources(), 2 * MIB as u64 + 16 * 1024, "{}", fetched.said());
    Tree::read(&tree).expect_in(&to.join(NAME));
    assert!(fs::read(to.join(NAME).join("2026/image")).is_ok_and(|bytes| bytes != image));
    expect_nothing_left(&to);
}
