//! One file, fetched from all the nodes that have it.

use ftx_tests::data::MIB;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, listing, net};

#[test]
fn three_sources_each_give_a_real_part() {
    let net = net!();
    let content = Content::new(101, 24 * MIB);
    let shares: Vec<_> = copies(&net, 3, "image.iso", &content.bytes)
        .iter()
        .map(|folder| net.share_with(folder, &["--max-upload", "6M"]))
        .collect();
    let target = net.folder();

    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
    assert_eq!(fetched.sources().len(), 3, "{}", fetched.said());
    for share in &shares {
        let part = fetched.of_source(share.node(), "bytes");
        assert!(part >= content.size() / 10, "{part} bytes from {}\n{}", share.node(), fetched.said());
        assert_eq!(fetched.of_source(share.node(), "bad"), 0, "{}", fetched.said());
    }
    // All of it has come from somewhere, and little of it twice.
    let bytes = fetched.bytes_of_sources();
    assert!(bytes >= content.size() && bytes <= content.size() * 5 / 4, "{bytes}\n{}", fetched.said());
}

#[test]
fn a_slow_source_does_not_hold_up_the_others() {
    let net = net!();
    let content = Content::new(102, 16 * MIB);
    let folders = copies(&net, 2, "image.iso", &content.bytes);
    let slow = net.share_with(&folders[0], &["--max-upload", "200K"]);
    let fast = net.share_with(&folders[1], &["--max-upload", "8M"]);
    let target = net.folder().join("image.iso");

    let fetched = net.get("image.iso", &target).run();

    content.expect_in(&target);
    let (from_slow, from_fast) =
        (fetched.of_source(slow.node(), "bytes"), fetched.of_source(fast.node(), "bytes"));
    assert!(from_fast > 4 * from_slow, "{from_slow} and {from_fast}\n{}", fetched.said());
    // Half of the content each would keep the slow one busy for 40 seconds.
    assert!(fetched.elapsed.as_secs() < 20, "{}", fetched.said());
}

#[test]
fn the_same_content_is_one_content_whatever_it_is_called() {
    let net = net!();
    let content = Content::new(103, 12 * MIB);
    let (first, second) = (net.folder(), net.folder());
    put(&first, "ubuntu.iso", &content.bytes);
    put(&second, "backup/old.iso", &content.bytes);
    let shares = [&first, &second].map(|folder| net.share_with(folder, &["--max-upload", "4M"]));
    for (share, name) in shares.iter().zip(["ubuntu.iso", "backup/old.iso"]) {
        assert_eq!(share.wait_until_hashed(&net, name), content.root());
    }
    let target = net.folder().join("mine.iso");

    let fetched = net.get(&content.root(), &target).run();

    content.expect_in(&target);
    for share in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > 0, "{}", fetched.said());
    }
}

#[test]
fn eight_sources_at_once() {
    let net = net!();
    let content = Content::new(104, 8 * MIB);
    let shares: Vec<_> = copies(&net, 8, "image.iso", &content.bytes)
        .iter()
        .map(|folder| net.share_with(folder, &["--max-upload", "1M"]))
        .collect();
    let target = net.folder().join("image.iso");

    let fetched = net.get("image.iso", &target).run();

    content.expect_in(&target);
    let gave = shares.iter().filter(|share| fetched.of_source(share.node(), "bytes") > 0).count();
    assert!(gave >= 6, "{gave} of eight gave something\n{}", fetched.said());
}
