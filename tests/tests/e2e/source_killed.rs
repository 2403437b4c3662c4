//! Sources that go away in the middle of a fetch.

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, listing, net};

#[test]
fn one_of_three_sources_is_killed() {
    let net = net!();
    let content = Content::new(201, 24 * MIB);
    let mut shares: Vec<_> = copies(&net, 3, "image.iso", &content.bytes)
        .iter()
        .map(|folder| net.share_with(folder, &["--max-upload", "3M"]))
        .collect();
    let target = net.folder();

    let mut fetch = net.get("image.iso", &target.join("image.iso")).start();
    fetch.wait_for_bytes(6 * MIB as u64);
    shares.remove(0).kill9();
    let fetched = fetch.finish();

    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
    for share in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > 0, "{}", fetched.said());
    }
}

#[test]
fn a_source_that_hangs_without_a_word_is_done_without() {
    let net = net!();
    let content = Content::new(202, 12 * MIB);
    let folders = copies(&net, 2, "image.iso", &content.bytes);
    let hanging = net.share_with(&folders[0], &["--max-upload", "2M"]);
    let _other = net.share_with(&folders[1], &["--max-upload", "2M"]);
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    // The connection stays, and what was asked for never comes.
    hanging.freeze();
    let fetched = fetch.finish();

    fetched.done();
    content.expect_in(&target);
}

#[test]
fn a_source_that_stops_in_good_order_is_replaced_too() {
    let net = net!();
    let content = Content::new(203, 12 * MIB);
    let folders = copies(&net, 2, "image.iso", &content.bytes);
    let leaving = net.share_with(&folders[0], &["--max-upload", "2M"]);
    let _other = net.share_with(&folders[1], &["--max-upload", "2M"]);
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    let stopped = leaving.stop();
    let fetched = fetch.finish();

    assert!([0, 130].contains(&stopped.status), "{}", stopped.said());
    fetched.done();
    content.expect_in(&target);
}

#[test]
fn with_no_source_left_the_fetch_gives_up_in_time_and_goes_on_later() {
    let net = net!();
    let content = Content::new(204, 12 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let only = net.share_with(&folder, &["--max-upload", "2M"]);
    let state = only.state();
    let target = net.folder();

    let mut fetch = net.get("image.iso", &target.join("image.iso")).args(["--timeout", "3"]).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    only.kill9();
    let given_up = fetch.finish().expect_error(11, "partial");
    assert!(!target.join("image.iso").exists(), "{}", given_up.said());
    assert!(target.join(".image.iso.ftx-part").exists(), "the part stays\n{}", given_up.said());

    let _again = net.share_again(&folder, &state);
    let fetched = net.get("image.iso", &target.join("image.iso")).run();

    fetched.done();
    content.expect_in(&target.join("image.iso"));
    assert_eq!(listing(&target), ["image.iso"]);
    let bytes = fetched.bytes_of_sources();
    assert!(bytes < content.size() - 2 * MIB as u64, "{bytes} bytes were fetched again\n{}", fetched.said());
}

#[test]
fn a_source_that_comes_back_within_the_time_out_is_used_again() {
    let net = net!();
    let content = Content::new(205, 12 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let only = net.share_with(&folder, &["--max-upload", "2M"]);
    let state = only.state();
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).args(["--timeout", "40"]).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    only.kill9();
    let _again = net.share_again(&folder, &state);

    fetch.finish().done();
    content.expect_in(&target);
}
