//! Names that some system takes for one and the same, a name that is a file here and a folder there, and far too many.

use std::time::Duration;

use ftx_tests::evil::Evil;
use ftx_tests::share::put;
use ftx_tests::{Content, listing, net};

/// Different names, to whom looks at bytes: in case, in how an accent is written, in dots and spaces at the end.
const ALIKE: [&str; 8] = ["Name", "NAME", "name", "n\u{e4}me", "na\u{308}me", "name.", "name..", "name "];

#[test]
fn names_that_are_alike_are_different_files() {
    let net = net!();
    let content = |number: usize| Content::new(3900 + number as u64, 40_000 + number);
    let files: Vec<_> = ALIKE.iter().enumerate().map(|(number, name)| (*name, content(number))).collect();
    let folder = net.folder();
    for (name, content) in &files {
        put(&folder, name, &content.bytes);
        put(&folder.join("tree"), name, &content.bytes);
    }
    let share = net.share(&folder);
    share.wait_until_folder_is_hashed(&net, "tree");
    for (name, content) in &files {
        share.wait_until_hashed(&net, name);
        let target = net.folder().join("it");
        net.get(name, &target).run().done();
        content.expect_in(&target);
    }
    let mut sorted = ALIKE;
    sorted.sort_unstable();
    let target = net.folder().join("tree");
    net.get("tree", &target).run().done();
    assert_eq!(listing(&target), sorted);
    for (name, content) in &files {
        content.expect_in(&target.join(name));
    }
}

#[test]
fn a_name_that_is_a_file_here_and_a_folder_there() {
    let net = net!();
    let (file, folder) = (net.folder(), net.folder());
    let content = Content::new(3910, 100_000);
    put(&file, "thing", &content.bytes);
    put(&folder.join("thing"), "inside", &content.bytes);
    let shares = [net.share(&file), net.share(&folder)];
    shares[0].wait_until_hashed(&net, "thing/inside");
    let target = net.folder().join("thing");
    net.get("thing", &target).run().expect_error(4, "ambiguous");
    assert!(!target.exists());
    net.get("thing", &target).args(["--from", shares[0].node()]).run().done();
    content.expect_in(&target);
    // What is there is a file, and stays one.
    let ended = net.get("thing", &target).args(["--from", shares[1].node()]).run();
    assert_ne!(ended.status, 0, "{}", ended.said());
    content.expect_in(&target);
}

/// As many names as a folder may have within a factor of two: it takes its time, and no more memory than there is for it.
#[test]
fn a_folder_of_a_million_names_by_a_stranger() {
    let net = net!();
    let names: Vec<String> = (0..1_000_000).map(|number| format!("{number:07}-{}", "x".repeat(24))).collect();
    let empty = |name: &'static str| (name, Content { bytes: Vec::new() });
    let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
    let files: Vec<_> = names.into_iter().map(empty).collect();
    let evil = Evil::of_folder("tree", &files, &[], |_| {}, |_| {}, |_, answers| Some(answers));
    let target = net.folder().join("tree");
    // More than this, and it gets none. Most of it is what threads might want.
    let get = net.under(&["prlimit", "--as=4000000000"]).get("tree", &target);
    let get = get.args(["--peer", &evil.peer, "--exclude", "*"]).deadline(Duration::from_secs(300));
    let ended = get.run();
    ended.done();
    assert_eq!(listing(&target), [""; 0]);
}
