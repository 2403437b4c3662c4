//! How a node is, as it tells its owner.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use ftx_tests::data::MIB;
use ftx_tests::process::DEADLINE;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, Finished, Machine, net};
use serde_json::Value;

fn ask(machine: &Machine, state: &Path) -> Finished {
    machine.node(["status", "--json"]).with_state(state).run()
}

fn nodes(asked: &Finished) -> Vec<&Value> {
    asked.events.iter().filter(|event| event["event"] == "status").collect()
}

/// Asks until what the only node of this state says is `wanted`.
fn ask_until(machine: &Machine, state: &Path, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let asked = ask(machine, state);
        asked.done();
        if let [status] = nodes(&asked)[..]
            && wanted(status)
        {
            return status.clone();
        }
        assert!(Instant::now() < deadline, "{what}\n{}", asked.said());
    }
}

#[test]
fn a_node_tells_what_it_shares() {
    let net = net!();
    let (one, two, inbox) = (net.folder(), net.folder(), net.folder());
    put(&one, "a/b/large", &Content::new(1701, 3 * MIB).bytes);
    put(&one, "a/small", b"x");
    let single = put(&two, "single", b"yz");
    put(&two, "other", b"not shared");
    let node = net.share_with(
        &one,
        &[
            "--share",
            single.to_str().unwrap(),
            "--inbox",
            inbox.to_str().unwrap(),
            "--tcp-put=127.0.0.1:0",
            "--name",
            "ada",
            "--max-upload",
            "5MB",
        ],
    );

    let done =
        |status: &Value| status["hashing"]["files_done"] == 3 && status["hashing"]["scanning"] == false;
    let status = ask_until(&net, &node.state(), "all is hashed", done);

    assert_eq!(status["v"], 1);
    assert_eq!(status["node"], node.node());
    assert_eq!(status["name"], "ada");
    assert_eq!(status["pid"], node.process().id());
    assert_eq!(status["port"], net.port());
    assert_eq!(status["session_addr"], format!("127.0.0.1:{}", node.port()));
    assert_eq!(status["addresses"][0]["addr"], "127.0.0.1");
    assert!(status["uptime_seconds"].as_f64().is_some_and(|up| up > 0.0), "{status}");
    let shares = status["shares"].as_array().unwrap();
    let counts = |share: &Value| {
        ["files", "folders", "bytes", "hashed_files"].map(|field| share[field].as_u64().unwrap())
    };
    assert_eq!(
        shares.iter().map(counts).collect::<Vec<_>>(),
        [[2, 2, 3 * MIB as u64 + 1, 2], [1, 0, 2, 1], [0, 0, 0, 0]]
    );
    assert!(shares[1]["path"].as_str().unwrap().ends_with("/single"), "{status}");
    assert_eq!(status["hashing"]["files_waiting"], 0);
    assert_eq!(status["hashing"]["bytes_waiting"], 0);
    assert_eq!(status["upload"]["limit"], 5_000_000);
    assert_eq!(status["inbox"]["path"], inbox.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(status["services"]["tcp_put"], node.service("tcp_put").to_string());

    // People get the same as a table.
    let shown = net.node(["status"]).with_state(&node.state()).run().expect_status(0);
    let text = String::from_utf8(shown.stdout.clone()).unwrap();
    for part in
        ["ada (", "2 files, 2 folders, 3.1 MB", "all 3 files are hashed", "tcp-put at", "at most 5.0 MB/s"]
    {
        assert!(text.contains(part), "{part}\n{}", shown.said());
    }
}

#[test]
fn only_the_owner_can_ask() {
    let net = net!();
    let node = net.share(&net.folder());
    let run = node.state().join("run");
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run), 0o700);
    let sockets: Vec<_> = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    assert_eq!(mode(&sockets[0]), 0o600);
    assert_eq!(node.stop().status, 0);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
}

#[test]
fn where_no_node_runs_that_is_said() {
    let net = net!();
    let state = net.folder().join("state");
    let asked = ask(&net, &state).expect_error(5, "no_node");
    assert!(asked.said().contains(state.to_str().unwrap()), "{}", asked.said());

    // What a killed one leaves is none, and the next one puts it away.
    let killed = net.share(&net.folder());
    let state = killed.state();
    killed.kill9();
    let left = || std::fs::read_dir(state.join("run")).unwrap().count();
    assert_eq!(left(), 1);
    ask(&net, &state).expect_error(5, "no_node");
    let again = net.share_again(&net.folder(), &state);
    assert_eq!(left(), 1);
    let asked = ask(&net, &state);
    assert_eq!(nodes(&asked)[0]["pid"], again.process().id(), "{}", asked.said());
}

#[test]
fn a_node_that_hangs_is_told_from_none() {
    let net = net!();
    let node = net.share(&net.folder());
    node.freeze();
    let asked = ask(&net, &node.state()).expect_error(12, "timeout");
    assert!(asked.said().contains("does not answer"), "{}", asked.said());
    node.thaw();
    ask(&net, &node.state()).done();
}

#[test]
fn a_fetch_is_told_by_both_sides() {
    let net = net!();
    let content = Content::new(1702, 12 * MIB);
    let giver = net.share_with(&copies(&net, 1, "image.iso", &content.bytes)[0], &["--max-upload", "2M"]);
    let beside = net.share(&net.folder());
    let target = net.folder().join("image.iso");
    let mut get = net.get("image.iso", &target).with_state(&beside.state()).start();
    get.wait_for_bytes(MIB as u64);

    let is_sending = |status: &Value| {
        let rate = status["upload"]["bytes_per_second"].as_f64().unwrap_or(0.0);
        let given = status["sessions"][0]["stream_bytes"].as_u64().unwrap_or(0);
        rate > 100_000.0 && given > MIB as u64
    };
    let status = ask_until(&net, &giver.state(), "somebody is served", is_sending);
    assert_eq!(status["sessions"][0]["node"], beside.node(), "{status}");
    assert!(status["sessions"][0]["connections"].as_u64().unwrap() >= 1, "{status}");

    let asked = ask(&net, &beside.state());
    let both = nodes(&asked);
    assert_eq!(both.len(), 2, "{}", asked.said());
    assert!(both.iter().all(|status| status["node"] == beside.node()));
    assert_ne!(both[0]["instance"], both[1]["instance"]);
    // The one that runs longest comes first.
    assert_eq!(both[0]["pid"], beside.process().id());
    assert_eq!(both[0]["fetches"], serde_json::json!([]));
    let fetch = &both[1]["fetches"][0];
    assert_eq!(fetch["name"], "image.iso", "{}", asked.said());
    assert_eq!(fetch["root"], content.root().as_str());
    assert_eq!(fetch["size"], content.size());
    assert!(fetch["bytes"].as_u64().unwrap() > MIB as u64, "{fetch}");
    assert_eq!(fetch["sources"], 1);

    get.finish().done();
    assert_eq!(nodes(&ask(&net, &beside.state())).len(), 1);
}

#[test]
fn hashing_in_the_background_is_told() {
    let net = net!();
    let folder = net.folder();
    // Bytes that are not there take time to be hashed too.
    for number in 0..4 {
        let file = std::fs::File::create(folder.join(format!("large{number}"))).unwrap();
        file.set_len(2 << 30).unwrap();
    }
    let node = net.share(&folder);

    let is_hashing = |status: &Value| {
        let hashing = &status["hashing"];
        hashing["bytes_per_second"].as_f64().unwrap_or(0.0) > 0.0
            && hashing["now"][0]["done"].as_u64() > Some(0)
    };
    let status = ask_until(&net, &node.state(), "something is being hashed", is_hashing);

    let hashing = &status["hashing"];
    let bytes = |field: &str| hashing[field].as_u64().unwrap();
    assert_eq!(bytes("bytes_done") + bytes("bytes_waiting"), 8 << 30, "{status}");
    assert_eq!(bytes("files_done") + bytes("files_waiting"), 4, "{status}");
    assert!(hashing["now"][0]["path"].as_str().unwrap().contains("/large"), "{status}");
    assert_eq!(hashing["now"][0]["size"], 2u64 << 30, "{status}");
}
