//! A source that appears while the fetch is under way.

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, net};

#[test]
fn a_late_source_takes_part() {
    let net = net!();
    let content = Content::new(401, 20 * MIB);
    let folders = copies(&net, 2, "image.iso", &content.bytes);
    let early = net.share_with(&folders[0], &["--max-upload", "1M"]);
    let target = net.folder().join("image.iso");

    let mut fetch = net.get("image.iso", &target).start();
    fetch.wait_for_bytes(2 * MIB as u64);
    let late = net.share_with(&folders[1], &["--max-upload", "10M"]);
    let joined = |event: &serde_json::Value| {
        event["event"] == "source" && event["state"] == "joined" && event["node"] == late.node()
    };
    fetch.wait_for("the late source joined", joined);
    let fetched = fetch.finish();

    content.expect_in(&target);
    let (from_early, from_late) =
        (fetched.of_source(early.node(), "bytes"), fetched.of_source(late.node(), "bytes"));
    assert!(from_late > from_early && from_early > 0, "{from_early} and {from_late}\n{}", fetched.said());
}
