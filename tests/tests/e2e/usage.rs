//! What the command line refuses, and how it says so.

use ftx_tests::share::put;
use ftx_tests::{Content, TestNet, binary, net};

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let net = net!();
    for args in [
        &["get"][..],
        &["get", "a", "b"],
        &["get", "a", "--no-such-flag"],
        &["--no-such-flag"],
        &["no-such-command"],
        &["get", "a", "--timeout", "soon"],
        &["--share", ".", "--max-upload", "fast"],
        &["verify", "a"],
        &["verify", "a", "not-a-root"],
        &[],
    ] {
        let refused = net.node(args).run();
        assert_eq!(refused.status, 2, "{args:?}\n{}", refused.said());
        assert!(!refused.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn addresses_and_ports_that_are_none_are_usage_errors() {
    let net = net!();
    // Hashing needs no network: were the flag accepted, nothing would be sent.
    for (flag, value) in [("--port", "70000"), ("--port", "http"), ("--bind", "not-an-address")] {
        let refused = net.node(["hash", "."]).instead(flag, value).run();
        assert_eq!(refused.status, 2, "{flag} {value}\n{}", refused.said());
        assert!(refused.stderr.contains(value), "{}", refused.said());
    }
}

#[test]
fn help_and_version_are_not_errors() {
    let net = net!();
    for (flag, shows) in [("--help", "--share"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let shown = net.node([flag]).run().expect_status(0);
        assert!(String::from_utf8_lossy(&shown.stdout).contains(shows), "{}", shown.said());
    }
}

#[test]
fn a_share_that_does_not_exist_is_named() {
    let net = net!();
    let there = net.folder();
    let missing = there.join("missing folder");
    let refused = net.node(["--share"]).arg(&there).arg("--share").arg(&missing).run().expect_status(2);
    assert!(refused.stderr.contains("missing folder"), "{}", refused.said());
}

#[test]
fn a_session_port_in_use_is_moved_on_from() {
    let (net, _taken) = TestNet::with_port_taken(binary!());
    let folder = net.folder();
    let content = Content::new(1601, 100_000);
    put(&folder, "image.iso", &content.bytes);

    let share = net.share(&folder);

    assert_ne!(share.port(), net.port());
    // It says that the port is in use.
    share.process().wait_for_stderr(&net.port().to_string());
    let target = net.folder().join("image.iso");
    net.get("image.iso", &target).run().done();
    content.expect_in(&target);
}

#[test]
fn people_get_a_line_when_the_node_is_ready() {
    let net = net!();
    let mut node = net.node(["--share"]).arg(net.folder()).start();
    let line = node.next_line().expect("a line");
    assert!(line.starts_with("ready"), "{line}");
}

#[test]
fn errors_go_to_standard_error() {
    let net = net!();
    let failed = net.node(["get", "image.iso", "--timeout", "2"]).run().expect_status(5);
    assert_eq!(String::from_utf8_lossy(&failed.stdout), "");
    assert!(!failed.stderr.is_empty());
}

#[test]
fn flags_can_come_from_the_environment() {
    let net = net!();
    let refused = net.node(["get", "image.iso"]).env("FTX_TIMEOUT", "nonsense").run();
    assert_eq!(refused.status, 2, "{}", refused.said());
    let failed = net.node(["get", "image.iso"]).env("FTX_TIMEOUT", "1").env("FTX_JSON", "true").run();
    failed.expect_error(5, "no_node");
}
