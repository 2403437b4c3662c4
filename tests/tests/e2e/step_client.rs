//! `put`, `get`, `rm`, `ls` and `data` with STEP servers of other authors, and with all that goes wrong with them.

use std::path::{Path, PathBuf};

use ftx_tests::data::MIB;
use ftx_tests::step_peer::{Quirks, StepPeer};
use ftx_tests::{Content, Invocation, Signal, TestNet, listing, net};
use serde_json::json;

/// Bytes of a usual block.
const BLOCK: usize = 20_480;

/// A file to be sent, in a folder of its own.
fn file_of(net: &TestNet, content: &Content) -> PathBuf {
    let path = net.folder().join("file.bin");
    std::fs::write(&path, &content.bytes).expect("a file to send");
    path
}

/// `ftx-node put FILE URL --json`.
fn put(net: &TestNet, file: &Path, url: &str) -> Invocation {
    net.node(["put"]).arg(file).arg(url).arg("--json")
}

/// Sends a content to a server and fetches it from there again.
#[track_caller]
fn there_and_back(quirks: Quirks, size: usize, connections: &str) {
    let net = net!();
    let (peer, content) = (StepPeer::start(quirks), Content::new(size as u64, size));
    let url = peer.url("a.user", "some/file.bin");
    let sent = put(&net, &file_of(&net, &content), &url).args(["--connections", connections]).run();
    let sent = sent.done();
    assert_eq!(
        (&sent["size"], &sent["verified"], &sent["key"]),
        (&json!(size), &json!(true), &json!("some/file.bin"))
    );
    assert_eq!(peer.file("some/file.bin").as_ref(), Some(&content.bytes), "{size} bytes");

    let folder = net.folder();
    let fetched = net.get(&url, &folder).args(["--connections", connections]).run();
    assert_eq!(fetched.done()["md5"], sent["md5"]);
    assert_eq!(fetched.done()["size"], size);
    content.expect_in(&folder.join("file.bin"));
    assert_eq!(listing(&folder), ["file.bin"]);
    peer.expect_no_complaints();
}

#[test]
fn files_of_all_sizes_go_there_and_back() {
    for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * MIB + 17] {
        there_and_back(Quirks::default(), size, "4");
    }
    there_and_back(Quirks::default(), 10 * BLOCK, "1");
    there_and_back(Quirks::default(), 10 * BLOCK + 5, "16");
}

#[test]
fn replies_in_pieces_and_in_any_order_are_understood() {
    there_and_back(Quirks { scrambles: true, ..Quirks::default() }, 30 * BLOCK + 1, "4");
}

#[test]
fn the_size_of_blocks_is_what_the_server_says() {
    for block_size in [12_800, 1_000, 300_000] {
        there_and_back(Quirks { block_size, ..Quirks::default() }, MIB + 1, "4");
    }
}

#[test]
fn connections_that_break_are_made_again() {
    for drops_every in [3, 7, 20] {
        there_and_back(Quirks { drops_every: Some(drops_every), ..Quirks::default() }, 60 * BLOCK, "4");
    }
    there_and_back(Quirks { drops_every: Some(5), ..Quirks::default() }, 60 * BLOCK, "1");
}

#[test]
fn an_upload_without_an_md5_at_its_end_is_confirmed() {
    there_and_back(Quirks { keeps_md5_for_get: true, ..Quirks::default() }, 10 * BLOCK, "4");
}

#[test]
fn a_token_that_expires_is_replaced() {
    there_and_back(Quirks { token_uses: Some(20), ..Quirks::default() }, 100 * BLOCK, "4");
}

#[test]
fn a_server_with_one_connection_at_a_time_is_enough() {
    let net = net!();
    let peer = StepPeer::start(Quirks { is_serial: true, ..Quirks::default() });
    let content = Content::new(1, 20 * BLOCK);
    let url = peer.url("a", "k");
    put(&net, &file_of(&net, &content), &url).args(["--timeout", "1"]).run().done();
    assert_eq!(peer.file("k").as_ref(), Some(&content.bytes));
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let net = net!();
    let peer = StepPeer::start(Quirks { silent_after: Some(0), ..Quirks::default() });
    let file = file_of(&net, &Content::new(1, BLOCK));
    let url = peer.url("a", "k");
    put(&net, &file, &url).args(["--timeout", "0.5"]).run().expect_error(12, "timeout");
    let folder = net.folder();
    net.get(&url, &folder).args(["--timeout", "0.5"]).run().expect_error(12, "timeout");
    assert_eq!(listing(&folder), [""; 0]);
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    let net = net!();
    let content = Content::new(1, 50 * BLOCK);
    let quirks = Quirks { silent_after: Some(20), ..Quirks::default() };
    let peer = StepPeer::start(quirks.clone());
    let sent = put(&net, &file_of(&net, &content), &peer.url("a", "k")).args(["--timeout", "0.5"]).run();
    sent.expect_error(12, "timeout");
    let peer = StepPeer::start(quirks).has("k", &content.bytes);
    let folder = net.folder();
    net.get(&peer.url("a", "k"), &folder).args(["--timeout", "0.5"]).run().expect_error(12, "timeout");
    assert!(!folder.join("k").exists());
}

#[test]
fn nobody_at_the_port_is_a_network_error() {
    let net = net!();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("step://a@{}/k", listener.local_addr().expect("its address"));
    drop(listener);
    net.get(&url, &net.folder()).run().expect_error(6, "network");
}

#[test]
fn nothing_with_a_wrong_md5_gets_a_name() {
    let net = net!();
    let lies = Some("00112233445566778899aabbccddeeff");
    let content = Content::new(1, 5 * BLOCK);
    let peer = StepPeer::start(Quirks { lies, ..Quirks::default() }).has("there.bin", &content.bytes);
    let folder = net.folder();
    let refused = net.get(&peer.url("a", "there.bin"), &folder).run().expect_error(7, "integrity");
    assert!(refused.last("error")["message"].to_string().contains("00112233"), "{}", refused.said());
    assert_eq!(listing(&folder), [""; 0]);
    let piped = net.get(&peer.url("a", "there.bin"), Path::new("-")).run();
    assert_eq!((piped.status, piped.stdout.len()), (7, 0), "{}", piped.said());
    // Nor does what another server has wrong count as sent.
    put(&net, &file_of(&net, &content), &peer.url("a", "sent.bin")).run().expect_error(7, "integrity");
}

#[test]
fn a_file_that_cannot_be_verified_is_not_fetched() {
    let net = net!();
    let quirks = Quirks { knows_no_md5: true, keeps_md5_for_get: true, ..Quirks::default() };
    let peer = StepPeer::start(quirks);
    let sent = put(&net, &file_of(&net, &Content::new(1, BLOCK)), &peer.url("a", "k")).run();
    assert_eq!(sent.done()["verified"], false);
    let folder = net.folder();
    net.get(&peer.url("a", "k"), &folder).run().expect_error(7, "integrity");
    assert_eq!(listing(&folder), [""; 0]);
}

#[test]
fn a_password_that_is_not_the_classic_one_comes_from_a_file_or_the_environment() {
    let net = net!();
    let quirks = Quirks { password: Some("a long secret"), ..Quirks::default() };
    let peer = StepPeer::start(quirks).has("k", b"content");
    let url = peer.url("a", "k");
    let get = || net.get(&url, &net.folder().join("x"));
    let refused = get().run().expect_error(10, "refused");
    assert!(refused.last("error")["message"].to_string().contains("--password-file"), "{}", refused.said());
    let secret = net.folder().join("secret");
    std::fs::write(&secret, "a long secret\n").expect("a file with a password");
    get().arg("--password-file").arg(&secret).run().done();
    get().env("FTX_STEP_PASSWORD", "a long secret").run().done();
    get().env("FTX_STEP_PASSWORD", "another").run().expect_error(10, "refused");
    // One in a URL would be seen by everybody.
    let in_url = url.replace("a@", "a:secret@");
    let refused = net.get(&in_url, &net.folder()).run().expect_error(2, "usage");
    assert!(refused.last("error")["message"].to_string().contains("--password-file"), "{}", refused.said());
}

#[test]
fn what_is_there_already_stays() {
    let net = net!();
    let peer = StepPeer::start(Quirks::default()).has("k", b"theirs");
    let (url, content) = (peer.url("a", "k"), Content::new(1, BLOCK));
    let file = file_of(&net, &content);
    put(&net, &file, &url).run().expect_error(9, "exists");
    assert_eq!(peer.file("k").as_deref(), Some(b"theirs".as_slice()));
    net.get(&url, &file).run().expect_error(9, "exists");
    content.expect_in(&file);
    net.get(&url, &file).arg("--force").run().done();
    assert_eq!(std::fs::read(&file).expect("the file"), b"theirs");
}

#[test]
fn a_full_account_is_told_as_such() {
    let net = net!();
    let peer = StepPeer::start(Quirks { quota: Some(3 * BLOCK as u64), ..Quirks::default() });
    let file = file_of(&net, &Content::new(1, 10 * BLOCK));
    put(&net, &file, &peer.url("a", "k")).run().expect_error(8, "disk_full");
}

#[test]
fn files_are_listed_and_deleted() {
    let net = net!();
    let peer = StepPeer::start(Quirks::default()).has("b\u{1b}[2J", b"").has("a/b", b"x");
    let listed = net.node(["ls"]).arg(peer.url("a", "")).run().expect_status(0);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "a/b\nb\\u{1b}[2J\n");
    let rm = || net.node(["rm"]).arg(peer.url("a", "a/b")).arg("--json");
    rm().run().expect_status(0);
    assert_eq!(peer.keys(), ["b\u{1b}[2J"]);
    rm().run().expect_error(3, "not_found");
    net.get(&peer.url("a", "a/b"), &net.folder()).run().expect_error(3, "not_found");
}

#[test]
fn what_there_is_of_a_file_can_be_deleted_too() {
    let net = net!();
    let peer = StepPeer::start(Quirks { dies_after: Some(10), ..Quirks::default() });
    let url = peer.url("a", "k");
    put(&net, &file_of(&net, &Content::new(1, 20 * BLOCK)), &url).run().expect_error(11, "partial");
    peer.revive();
    let rm = || net.node(["rm", &url, "--json"]).run();
    rm().expect_status(0);
    rm().expect_error(3, "not_found");
}

#[test]
fn data_comes_back_as_it_was_saved() {
    let net = net!();
    let peer = StepPeer::start(Quirks::default());
    let url = peer.url("a", "k");
    let data = |action: &str, rest: &[&str]| net.node(["data", action, &url]).args(rest).run();
    let object = r#"{"list": [1, 2.5], "text": "\u00e9\n"}"#;
    data("save", &[object]).expect_status(0);
    let again = data("save", &[object, "--json"]).expect_error(9, "exists");
    assert!(again.last("error")["message"].to_string().contains("existing"), "{}", again.said());
    let got = data("get", &[]).expect_status(0);
    assert_eq!(
        String::from_utf8_lossy(&got.stdout).trim(),
        r#"{"key": "k", "list": [1,2.5], "text": "\u00e9\n"}"#
    );
    data("rm", &[]).expect_status(0);
    data("get", &["--json"]).expect_error(3, "not_found");
    for wrong in ["[]", "{", ""] {
        data("save", &[wrong, "--json"]).expect_error(2, "usage");
    }
    // Without a key the server makes one up.
    let saved = net.node(["data", "save", &peer.url("a", ""), "{}", "--json"]).run();
    assert_eq!(saved.done()["key"], "made-up-0");
    peer.expect_no_complaints();
}

#[test]
fn an_upload_without_a_key_gets_one_from_the_server() {
    let net = net!();
    let (peer, content) = (StepPeer::start(Quirks::default()), Content::new(1, 9 * BLOCK));
    let sent = put(&net, &file_of(&net, &content), &peer.url("a", "")).run();
    assert_eq!(sent.done()["key"], "made-up-0");
    assert_eq!(peer.file("made-up-0"), Some(content.bytes));
}

#[test]
fn an_upload_without_a_key_goes_on_under_the_one_it_got() {
    let net = net!();
    let (content, state) = (Content::new(1, 400 * BLOCK), net.folder());
    let file = file_of(&net, &content);
    let peer = StepPeer::start(Quirks { silent_after: Some(300), ..Quirks::default() });
    let put = || put(&net, &file, &peer.url("a", "")).with_state(&state);
    // Killed when it has said so much, it has written down some of that, and at least the key.
    let mut killed = put().start();
    killed.wait_for("much is done", |event| event["bytes"].as_u64() > Some(290 * BLOCK as u64));
    killed.kill9();
    peer.revive();
    let sent = put().run();
    assert_eq!((sent.done()["key"].as_str(), peer.keys()), (Some("made-up-0"), vec!["made-up-0".to_owned()]));
    assert_eq!(peer.requests("SAVE"), 1);
    assert_eq!(peer.file("made-up-0").as_ref(), Some(&content.bytes));
    // That one is over; the next gets a key of its own.
    assert_eq!(put().run().done()["key"], "made-up-1");
}

#[test]
fn nothing_stays_of_a_download_that_never_began() {
    let net = net!();
    // LOGIN and GET are answered.
    let quirks = Quirks { silent_after: Some(2), ..Quirks::default() };
    let peer = StepPeer::start(quirks).has("k", &[7; 3 * BLOCK]);
    let folder = net.folder();
    net.get(&peer.url("a", "k"), &folder).args(["--timeout", "0.5"]).run().expect_error(12, "timeout");
    assert_eq!(listing(&folder), [""; 0]);
}

#[test]
fn an_interrupted_upload_goes_on_where_it_was() {
    let net = net!();
    let (content, state) = (Content::new(1, 100 * BLOCK), net.folder());
    let file = file_of(&net, &content);
    for (loses_blocks, incomplete) in [(false, 404), (false, 410), (true, 404)] {
        let peer = StepPeer::start(Quirks { dies_after: Some(60), incomplete, ..Quirks::default() });
        let url = peer.url("a", "k");
        put(&net, &file, &url).with_state(&state).run().expect_error(11, "partial");
        let before = peer.requests("UPLOAD");
        peer.revive();
        if loses_blocks {
            peer.forget_blocks("k");
        }
        let sent = put(&net, &file, &url).with_state(&state).run();
        assert_eq!(peer.file("k").as_ref(), Some(&content.bytes), "{}", sent.said());
        let (resumed, blocks) = (sent.done()["resumed"].as_u64(), peer.requests("UPLOAD") - before);
        if loses_blocks {
            assert_eq!(resumed, Some(0));
        } else {
            assert!(resumed > Some(40 * BLOCK as u64) && blocks < 60, "{resumed:?} bytes, {blocks} blocks");
        }
    }
}

#[test]
fn whoever_stops_a_transfer_can_go_on() {
    let net = net!();
    let (content, state, folder) = (Content::new(1, 400 * BLOCK), net.folder(), net.folder());
    let file = file_of(&net, &content);
    let quirks = Quirks { silent_after: Some(300), ..Quirks::default() };
    for is_upload in [true, false] {
        let peer = StepPeer::start(quirks.clone()).has("there", &content.bytes);
        let transfer = || match is_upload {
            true => put(&net, &file, &peer.url("a", "k")).with_state(&state),
            false => net.get(&peer.url("a", "there"), &folder),
        };
        let mut running = transfer().start();
        // Then it waits for replies that do not come.
        running.wait_for("much is done", |event| event["bytes"].as_u64() > Some(290 * BLOCK as u64));
        running.signal(Signal::INT);
        running.finish().expect_error(130, "interrupted");
        assert!(!folder.join("there").exists());
        peer.revive();
        let finished = transfer().run();
        // What is resumed is whole pieces of a MiB, and four connections are never all at the end of one.
        assert!(finished.done()["resumed"].as_u64() >= Some(3 * MIB as u64), "{}", finished.said());
    }
    content.expect_in(&folder.join("there"));
    assert_eq!(listing(&folder), ["there"]);
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let net = net!();
    let content = Content::new(1, 400 * BLOCK);
    let quirks = Quirks { dies_after: Some(300), ..Quirks::default() };
    let peer = StepPeer::start(quirks).has("k", &content.bytes);
    let target = net.folder().join("file");
    net.get(&peer.url("a", "k"), &target).run().expect_error(11, "partial");
    assert!(!target.exists());
    let before = peer.requests("DOWNLOAD");
    peer.revive();
    let fetched = net.get(&peer.url("a", "k"), &target).run();
    assert!(fetched.done()["resumed"].as_u64() >= Some(2 * MIB as u64), "{}", fetched.said());
    assert!(peer.requests("DOWNLOAD") - before < 300);
    content.expect_in(&target);
}

#[test]
fn a_download_goes_to_stdout_when_it_is_verified() {
    let net = net!();
    let content = Content::new(1, 3 * MIB);
    let peer = StepPeer::start(Quirks::default()).has("../k", &content.bytes).has("k", &content.bytes);
    let piped = net.node(["get", &peer.url("a", "k"), "-o", "-"]).run().expect_status(0);
    assert!(piped.stdout == content.bytes, "{} bytes", piped.stdout.len());
    // A key that is no name needs one.
    let dots = peer.url("a", "a/.");
    net.get(&dots, &net.folder()).run().expect_error(2, "usage");
    net.get(&dots, &net.folder().join("name")).run().expect_error(3, "not_found");
}

#[test]
fn several_connections_carry_a_transfer() {
    let net = net!();
    let (peer, content) = (StepPeer::start(Quirks::default()), Content::new(1, 500 * BLOCK));
    let url = peer.url("a", "k");
    put(&net, &file_of(&net, &content), &url).args(["--connections", "6"]).run().done();
    assert_eq!((peer.accepted(), peer.requests("LOGIN")), (6, 1));
    peer.expect_no_complaints();
}

#[test]
fn what_makes_no_sense_with_a_url_is_a_usage_error() {
    let net = net!();
    let file = file_of(&net, &Content::new(1, 1));
    let file = file.to_str().expect("a plain name");
    for args in [
        &["get", "step://a@127.0.0.1:1"][..],
        &["get", "http://127.0.0.1/x"],
        &["get", "step://127.0.0.1:1/k"],
        &["get", "step://a@127.0.0.1:1/k", "--from", "b"],
        &["get", "step://a@127.0.0.1:1/k", "--connections", "0"],
        &["get", "step://a@127.0.0.1:1/k", "--connections", "1000"],
        &["get", "tcp-put://127.0.0.1:1"],
        &["put", file, "udp-get://x"],
        &["put", "no such file", "step://a@127.0.0.1:1/k"],
        &["put", "/", "step://a@127.0.0.1:1/k"],
        &["rm", "step://a@127.0.0.1:1"],
        &["rm", "tcp-put://127.0.0.1:1"],
        &["ls", "step://a@127.0.0.1:1/k"],
        &["data", "get", "step://a@127.0.0.1:1/k", "{}"],
        &["data", "steal", "step://a@127.0.0.1:1/k"],
    ] {
        let refused = net.node(args).run();
        assert_eq!(refused.status, 2, "{args:?}\n{}", refused.said());
        assert!(!refused.stderr.is_empty(), "{args:?}");
    }
}
