//! What is not there, and nobody there: told apart, and told in time.

use std::time::Duration;

use ftx_tests::data::MIB;
use ftx_tests::share::copies;
use ftx_tests::{Content, listing, net};

/// The time-out given, and what starting and stopping a process may take on a busy machine.
const TIMEOUT: &str = "3";
const IN_TIME: Duration = Duration::from_secs(3 + 4);

#[test]
fn a_name_that_nobody_has_is_not_found() {
    let net = net!();
    let _share = net.share(&copies(&net, 1, "other.iso", &Content::new(701, MIB).bytes)[0]);
    let target = net.folder();

    let failed = net
        .get("image.iso", &target.join("image.iso"))
        .args(["--timeout", TIMEOUT])
        .run()
        .expect_error(3, "not_found");

    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
    assert!(failed.last("error")["message"].to_string().contains("image.iso"), "{}", failed.said());
    assert_eq!(listing(&target), Vec::<String>::new());
}

#[test]
fn a_root_that_nobody_has_is_not_found() {
    let net = net!();
    let _share = net.share(&copies(&net, 1, "other.iso", &Content::new(702, MIB).bytes)[0]);
    let root = Content::new(703, MIB).root();
    for wanted in [&root[..], &root[..12]] {
        let failed = net
            .get(wanted, &net.folder().join("image.iso"))
            .args(["--timeout", TIMEOUT])
            .run()
            .expect_error(3, "not_found");
        assert!(failed.elapsed < IN_TIME, "{}", failed.said());
    }
}

#[test]
fn nobody_there_is_another_matter() {
    let net = net!();
    let target = net.folder();

    let failed = net
        .get("image.iso", &target.join("image.iso"))
        .args(["--timeout", TIMEOUT])
        .run()
        .expect_error(5, "no_node");

    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
    assert_eq!(listing(&target), Vec::<String>::new());
}

#[test]
fn the_node_that_was_asked_for_is_not_there() {
    let net = net!();
    let _share = net.share(&copies(&net, 1, "image.iso", &Content::new(704, MIB).bytes)[0]);
    let stranger = "5".repeat(64);

    let failed = net
        .get("image.iso", &net.folder().join("image.iso"))
        .args(["--from", &stranger, "--timeout", TIMEOUT])
        .run();

    assert!([3, 5].contains(&failed.status), "{}", failed.said());
    failed.last("error");
    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
}

#[test]
fn a_peer_that_does_not_listen_is_told_in_time() {
    let net = net!();
    // A port that was free a moment ago, and on which nobody is.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let nobody = nobody.expect("a free port").to_string();

    let failed = net
        .get("image.iso", &net.folder().join("image.iso"))
        .args(["--peer", &nobody, "--timeout", TIMEOUT])
        .run();

    assert!([5, 6].contains(&failed.status), "{}", failed.said());
    assert!(failed.elapsed < IN_TIME, "{}", failed.said());
}
