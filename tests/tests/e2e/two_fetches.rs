//! Fetches beside each other on one machine.

use ftx_tests::data::MIB;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, listing, net};

#[test]
fn one_file_to_two_targets() {
    let net = net!();
    let content = Content::new(1101, 12 * MIB);
    let _share = net.share(&copies(&net, 1, "image.iso", &content.bytes)[0]);
    let targets = [net.folder().join("image.iso"), net.folder().join("image.iso")];

    let fetches = targets.each_ref().map(|target| net.get("image.iso", target).start());
    for (fetch, target) in fetches.into_iter().zip(&targets) {
        fetch.finish().done();
        content.expect_in(target);
    }
}

#[test]
fn a_target_that_is_being_fetched_is_locked() {
    let net = net!();
    let content = Content::new(1102, 8 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let _share = net.share_with(&folder, &["--max-upload", "2M"]);
    let target = net.folder();

    let mut first = net.get("image.iso", &target.join("image.iso")).start();
    first.wait_for_bytes(2 * MIB as u64);
    let second = net.get("image.iso", &target.join("image.iso")).run().expect_status(1);
    let message = second.last("error")["message"].as_str().unwrap_or_default().to_lowercase();
    assert!(message.contains("being fetched") || message.contains("locked"), "{}", second.said());

    // The first is not disturbed, and after it the target is free again.
    first.finish().done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
    net.get("image.iso", &target.join("image.iso")).arg("--force").run().done();
}

#[test]
fn the_lock_of_a_killed_get_is_gone_with_it() {
    let net = net!();
    let content = Content::new(1103, 8 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let _share = net.share_with(&folder, &["--max-upload", "4M"]);
    let target = net.folder().join("image.iso");

    let mut first = net.get("image.iso", &target).start();
    first.wait_for_bytes(2 * MIB as u64);
    first.kill9();

    net.get("image.iso", &target).run().done();
    content.expect_in(&target);
}

#[test]
fn a_get_beside_a_node_of_the_same_identity() {
    let net = net!();
    let (theirs, ours) = (Content::new(1104, 4 * MIB), Content::new(1105, 2 * MIB));
    let _other = net.share(&copies(&net, 1, "theirs.iso", &theirs.bytes)[0]);
    let folder = net.folder();
    put(&folder, "ours.iso", &ours.bytes);
    let node = net.share(&folder);

    // The same state folder is the same identity: from others, and from the node itself, files are fetched.
    for (name, content) in [("theirs.iso", &theirs), ("ours.iso", &ours)] {
        let target = net.folder().join(name);
        net.get(name, &target).with_state(&node.state()).run().done();
        content.expect_in(&target);
    }
}

#[test]
fn two_nodes_on_one_machine_are_both_found() {
    let net = net!();
    let contents = [Content::new(1106, MIB), Content::new(1107, MIB)];
    let _shares: Vec<_> = contents
        .iter()
        .zip(["one.iso", "two.iso"])
        .map(|(content, name)| net.share(&copies(&net, 1, name, &content.bytes)[0]))
        .collect();
    for (content, name) in contents.iter().zip(["one.iso", "two.iso"]) {
        let target = net.folder().join(name);
        net.get(name, &target).run().done();
        content.expect_in(&target);
    }
}
