//! A node that is still fetching gives what it has already.

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, net};

#[test]
fn a_partial_node_is_a_source() {
    let net = net!();
    let content = Content::new(801, 16 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let origin = net.share_with(&folder, &["--max-upload", "3M"]);
    let (state, origin_node) = (origin.state(), origin.node().to_owned());
    let targets = [net.folder().join("image.iso"), net.folder().join("image.iso")];

    // The first fetches a good part, then its only source is gone, and it waits.
    let mut first = net.get("image.iso", &targets[0]).args(["--timeout", "50"]).start();
    first.wait_for_bytes(8 * MIB as u64);
    origin.kill9();

    // The second can have that part from nobody but the first.
    let mut second = net.get("image.iso", &targets[1]).args(["--timeout", "50"]).start();
    second.wait_for_bytes(4 * MIB as u64);

    // Both end once the origin is back.
    let _origin = net.share_again(&folder, &state);
    let (first, second) = (first.finish(), second.finish());
    first.done();
    content.expect_in(&targets[0]);
    content.expect_in(&targets[1]);
    let from_first: u64 = second.bytes_of_sources() - second.of_source(&origin_node, "bytes");
    assert!(from_first >= 4 * MIB as u64, "{from_first}\n{}", second.said());
}

#[test]
fn those_who_fetch_help_each_other() {
    let net = net!();
    let content = Content::new(802, 8 * MIB);
    let folder = copies(&net, 1, "image.iso", &content.bytes).remove(0);
    let origin = net.share_with(&folder, &["--max-upload", "1M"]);

    // Three times 8 MiB would take 24 s from the origin alone.
    let targets: Vec<_> = (0..3).map(|_| net.folder().join("image.iso")).collect();
    let fetches: Vec<_> = targets.iter().map(|target| net.get("image.iso", target).start()).collect();
    let fetched: Vec<_> = fetches.into_iter().map(|fetch| fetch.finish()).collect();

    let mut from_origin = 0;
    for (fetched, target) in fetched.iter().zip(&targets) {
        fetched.done();
        content.expect_in(target);
        from_origin += fetched.of_source(origin.node(), "bytes");
    }
    assert!(from_origin < 20 * MIB as u64, "{from_origin} of 24 MiB came from the origin");
}
