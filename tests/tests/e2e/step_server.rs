//! The node as a STEP server: what clients put is kept, given back, and found on the network.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::step::{BLOCK, StepClient, md5_hex};
use ftx_tests::{Content, Share, TestNet, binary, listing, net};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde_json::json;

/// A node that speaks STEP, with an inbox and an empty share.
struct Server {
    net: TestNet,
    share: PathBuf,
    inbox: PathBuf,
    node: Share,
}

impl Server {
    fn classic() -> Self {
        Self::with(&["--step-auth", "classic"])
    }

    fn with(flags: &[&str]) -> Self {
        let net = net!();
        let (share, inbox) = (net.folder(), net.folder());
        let node = net.share_with(&share, &[&step_flags(&inbox)[..], flags].concat());
        Server { net, share, inbox, node }
    }

    /// Ends the node as `kill -9` does, and starts it again.
    fn kill_and_start_again(mut self, flags: &[&str]) -> Self {
        let state = self.node.state();
        let flags = [&step_flags(&self.inbox)[..], flags].concat();
        self.node.kill9();
        self.node = self.net.share_again_with(&self.share, &state, &flags);
        self
    }

    fn login(&self, user: &str) -> StepClient {
        StepClient::classic(self.node.service("step"), user)
    }

    /// Fetches with the node's own protocol what was put by STEP.
    fn expect_on_the_network(&self, name: &str, content: &Content) {
        let target = self.net.folder().join("fetched");
        self.net.get(name, &target).run().done();
        content.expect_in(&target);
    }
}

fn step_flags(inbox: &Path) -> [&str; 3] {
    ["--step=127.0.0.1:0", "--inbox", inbox.to_str().expect("a path that is text")]
}

/// Makes a file of users with one in it.
fn users_file(folder: &Path, name: &str, password: &str) -> PathBuf {
    let file = folder.join("users");
    add_user(&file, name, password);
    file
}

fn add_user(file: &Path, name: &str, password: &str) {
    let mut adding = Command::new(binary!());
    adding.args(["step-user", "add", name, "--file"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut adding = adding.spawn().expect("step-user starts");
    let input = format!("{password}\n");
    adding.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the password is read");
    assert!(adding.wait().expect("it ends").success());
}

#[test]
fn a_file_that_is_put_can_be_got_in_both_ways() {
    let server = Server::classic();
    let content = Content::new(901, 3 * MIB + 17);
    let mut client = server.login("alice");

    let plan = client.save("disk/image.iso", content.bytes.len()).expect(200).json;
    assert_eq!((&plan["block_size"], &plan["total_block"]), (&json!(BLOCK), &json!(154)), "{plan}");
    client.info("disk/image.iso").expect(404);
    // All at once, without waiting for any reply.
    for index in 0..154 {
        client.send_block("disk/image.iso", index, &content.bytes);
    }
    for index in 0..154 {
        let reply = client.receive().expect(200).json;
        assert_eq!((&reply["key"], &reply["block_index"]), (&json!("disk/image.iso"), &json!(index)));
        let md5 = if index == 153 { json!(md5_hex(&content.bytes)) } else { json!(null) };
        assert_eq!(reply["md5"], md5, "{reply}");
    }

    assert!(client.download("disk/image.iso") == content.bytes);
    server.expect_on_the_network("alice/disk/image.iso", &content);
    client.save("disk/image.iso", 5).expect(402);
    let listed = client.ask("GET", "FILE", json!({}), &[]).expect(200);
    assert_eq!(listed.json["file_list"], json!(["disk/image.iso"]));
    client.ask("DELETE", "FILE", json!({ "key": "disk/image.iso" }), &[]).expect(200);
    client.info("disk/image.iso").expect(404);
    assert_eq!(listing(&server.inbox), [".ftx-step"], "folders that are empty go too");
}

#[test]
fn four_connections_send_blocks_in_any_order_and_one_is_told_the_sum() {
    let server = Server::classic();
    let content = Content::new(902, 8 * MIB + 1);
    let mut first = server.login("alice");
    let key = first.ask("SAVE", "FILE", json!({ "size": content.bytes.len() }), &[]).expect(200).json["key"]
        .clone();
    let key = key.as_str().expect("a key is made");
    let token = first.token.clone().expect("a token");
    let mut order: Vec<usize> = (0..content.bytes.len().div_ceil(BLOCK)).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(902));

    let sums: Vec<String> = std::thread::scope(|scope| {
        let parts = order.chunks(order.len().div_ceil(4));
        let threads: Vec<_> = parts
            .map(|part| {
                let (token, content, addr) = (&token, &content, server.node.service("step"));
                scope.spawn(move || {
                    let mut client = StepClient::with_token(addr, token);
                    let upload = |index: &usize| client.upload(key, *index, &content.bytes).expect(200).json;
                    let replies: Vec<_> = part.iter().map(upload).collect();
                    replies
                        .iter()
                        .filter_map(|reply| reply["md5"].as_str().map(str::to_owned))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("its connection went well")).collect()
    });

    assert_eq!(sums, [md5_hex(&content.bytes)]);
    assert!(first.download(key) == content.bytes);
    server.expect_on_the_network(&format!("alice/{key}"), &content);
}

#[test]
fn an_upload_goes_on_after_the_node_was_killed() {
    let net = net!();
    let users = users_file(&net.folder(), "al.ice", "secret");
    let flags = ["--step-auth", users.to_str().expect("a path that is text")];
    let mut server = Server::with(&flags);
    let content = Content::new(903, 12 * MIB + 5);
    let count = content.bytes.len().div_ceil(BLOCK);
    let mut client = StepClient::connect(server.node.service("step"));
    client.login("al.ice", "wrong").expect(401);
    client.login("al.ice", &md5_hex(b"al.ice")).expect(401);
    client.login("al.ice", &md5_hex(b"secret")).expect(200);
    client.login("al.ice", "secret").expect(200);
    let token = client.token.clone().expect("a token");
    client.save("a", content.bytes.len()).expect(200);

    for kill in 0..4 {
        // Every fourth block, to the last that was confirmed when the node is killed.
        for index in (kill..count).step_by(4) {
            let reply = client.upload("a", index, &content.bytes).expect(200);
            let last = kill == 3 && index + 4 >= count;
            assert_eq!(reply.json["md5"].as_str().is_some(), last, "{}", reply.json);
        }
        server = server.kill_and_start_again(&flags);
        // The token is as good as before.
        client = StepClient::with_token(server.node.service("step"), &token);
    }

    assert!(client.download("a") == content.bytes);
    server.expect_on_the_network("al_ice/a", &content);
}

#[test]
fn tokens_of_others_are_refused() {
    let server = Server::classic();
    let mut alice = server.login("alice");
    alice.put("a", b"of alice");
    let good = alice.token.clone().expect("a token");
    for token in ["", "YWJj", "%%%", &good[..good.len() - 8], "YS5iLmxvZ2luLmM=", &"A".repeat(9000)] {
        let reply = StepClient::with_token(server.node.service("step"), token).info("a").expect(403);
        assert_eq!(reply.json["type"], "AUTH", "{}", reply.json);
    }
    StepClient::connect(server.node.service("step")).info("a").expect(403);
    let mut bob = server.login("bob");
    bob.info("a").expect(404);
    bob.ask("DELETE", "FILE", json!({ "key": "a" }), &[]).expect(404);
    assert_eq!(alice.download("a"), b"of alice");
    StepClient::connect(server.node.service("step")).login("alice", "secret").expect(401);
}

#[test]
fn a_user_who_is_removed_or_has_another_password_is_out_at_once() {
    let net = net!();
    let users = users_file(&net.folder(), "alice", "secret");
    add_user(&users, "bob", "other");
    let server = Server::with(&["--step-auth", users.to_str().expect("a path that is text")]);
    let client = |name, password| {
        let mut client = StepClient::connect(server.node.service("step"));
        client.login(name, password).expect(200);
        client
    };
    let (mut alice, mut bob) = (client("alice", "secret"), client("bob", "other"));
    alice.put("a", b"of alice");
    alice.save("half", 2 * BLOCK).expect(200);

    add_user(&users, "alice", "changed");
    let refused = alice.info("a").expect(403).json;
    assert_eq!((&refused["status_msg"], &refused["type"]), (&json!("Token is wrong."), &json!("AUTH")));
    alice.upload("half", 0, &[0; 2 * BLOCK]).expect(403);
    let token = alice.token.clone().expect("a token");
    StepClient::with_token(server.node.service("step"), &token).info("a").expect(403);
    alice.login("alice", "secret").expect(401);
    alice.login("alice", "changed").expect(200);
    assert_eq!(alice.download("a"), b"of alice");
    bob.info("a").expect(404);

    let removed = Command::new(binary!()).args(["step-user", "rm", "bob", "--file"]).arg(&users).output();
    assert!(removed.expect("step-user runs").status.success());
    bob.info("a").expect(403);
    bob.login("bob", "other").expect(401);
    alice.info("a").expect(200);
}

#[test]
fn no_key_leads_out_of_the_inbox() {
    let server = Server::classic();
    let mut client = server.login("alice");
    let long = "k".repeat(5000);
    for key in ["../x", "a/../../x", "..", "a\\..\\x", "nul\0", "", &long] {
        client.save(key, 5).expect(402);
        client.info(key).expect(404);
        client.ask("UPLOAD", "FILE", json!({ "key": key, "block_index": 0 }), b"hello").expect(408);
    }
    let keys =
        ["/etc/passwd", "C:\\x\\y", "./a", "a//b", ".ftx-step/lock", "ü/文件", "a b", &"k".repeat(1000)];
    for key in keys {
        assert_eq!(client.put(key, b"hello"), md5_hex(b"hello"), "{key}");
        assert_eq!(client.download(key), b"hello", "{key}");
    }
    let listed = client.ask("GET", "FILE", json!({}), &[]).expect(200);
    assert_eq!(listed.json["file_list"].as_array().map(Vec::len), Some(keys.len()), "{}", listed.json);
    assert_eq!(listing(&server.inbox), [".ftx-step", "alice"]);
    server.login("../bob").put("a", b"of bob");
    assert_eq!(listing(&server.inbox), [".ftx-step", "__%2Fbob", "alice"]);
}

#[test]
fn garbage_ends_one_connection_and_no_other() {
    let server = Server::classic();
    let mut good = server.login("alice");
    good.save("a", 2 * BLOCK).expect(200);
    let junk = Content::new(904, 5000).bytes;
    let endless = [&u32::MAX.to_be_bytes()[..], &[0; 4], b"{"].concat();
    let not_json = [&4u32.to_be_bytes()[..], &[0; 4], b"{]}x"].concat();
    for bytes in [&junk[..], &endless, &not_json, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut bad = StepClient::connect(server.node.service("step"));
        bad.send_raw(bytes);
        assert!(bad.is_closed());
    }
    for (fields, status) in [
        (json!({ "key": "a", "block_index": 2 }), 405),
        (json!({ "key": "a", "block_index": -1 }), 410),
        (json!({ "key": "a" }), 410),
        (json!({ "key": "a", "block_index": 0 }), 406),
        (json!({ "key": 5, "block_index": 0 }), 410),
    ] {
        good.ask("UPLOAD", "FILE", fields, b"short").expect(status);
    }
    good.ask("INFO", "FILE", json!({}), &[]).expect(408);
    let content = Content::new(905, 2 * BLOCK).bytes;
    good.upload("a", 0, &content).expect(200);
    assert_eq!(good.upload("a", 1, &content).expect(200).json["md5"], md5_hex(&content));
    assert!(server.node.process().stderr().contains("unsafe"), "classic is announced as what it is");
}

#[test]
fn thirty_clients_at_once() {
    let server = Server::classic();
    let addr = server.node.service("step");
    let contents: Vec<Content> =
        (0..30).map(|number| Content::new(910 + number, MIB / 2 + number as usize)).collect();
    std::thread::scope(|scope| {
        for (number, content) in contents.iter().enumerate() {
            scope.spawn(move || {
                let mut client = StepClient::classic(addr, &format!("user{}", number % 5));
                let key = format!("dir/{number}");
                assert_eq!(client.put(&key, &content.bytes), md5_hex(&content.bytes));
                assert!(client.download(&key) == content.bytes);
            });
        }
    });
    server.expect_on_the_network("user3/dir/28", &contents[28]);
}

#[test]
fn a_quota_and_a_missing_inbox_are_told() {
    let server = Server::with(&["--step-auth", "classic", "--inbox-quota", "100KB"]);
    let mut client = server.login("alice");
    let refused = client.save("a", 100_001).expect(402);
    assert!(
        refused.json["status_msg"].as_str().is_some_and(|text| text.contains("quota")),
        "{}",
        refused.json
    );
    client.put("a", &[7; 100_000]);
    client.save("b", 1).expect(402);
    server.login("bob").save("b", 1).expect(200);

    let net = net!();
    let folder = net.folder();
    put(&folder, "sub/file", b"shared");
    let node = net.share_with(&folder, &["--step=127.0.0.1:0", "--step-auth", "classic"]);
    let mut client = StepClient::classic(node.service("step"), "alice");
    assert_eq!(client.download("sub/file"), b"shared");
    client.save("a", 1).expect(402);
    client.ask("SAVE", "DATA", json!({ "key": "a", "x": 1 }), &[]).expect(402);
    client.ask("DELETE", "FILE", json!({ "key": "sub/file" }), &[]).expect(403);
    assert_eq!(fs::read(folder.join("sub/file")).expect("it is there"), b"shared");
}

#[test]
fn data_is_kept_as_it_was_and_without_the_token() {
    let server = Server::classic();
    let mut client = server.login("alice");
    let fields = json!({ "key": "ü", "n": 1.5, "deep": { "list": [1, null, "x"] } });
    client.ask("SAVE", "DATA", fields.clone(), &[]).expect(200);
    client.ask("SAVE", "DATA", fields, &[]).expect(402);
    let server = server.kill_and_start_again(&["--step-auth", "classic"]);
    let mut client = server.login("alice");
    let found = client.ask("GET", "DATA", json!({ "key": "ü" }), &[]).expect(200).json;
    assert_eq!((&found["n"], &found["deep"]), (&json!(1.5), &json!({ "list": [1, null, "x"] })));
    assert_eq!(found["token"], json!(null));
    client.ask("DELETE", "DATA", json!({ "key": "ü" }), &[]).expect(200);
    client.ask("GET", "DATA", json!({ "key": "ü" }), &[]).expect(404);
}

#[test]
fn what_is_wrong_at_the_start_is_told() {
    let net = net!();
    let folder = net.folder();
    let start =
        |flags: &[&str]| net.node(["--share"]).arg(&folder).arg("--json").args(flags.iter().copied()).run();
    start(&["--step"]).expect_error(2, "usage");
    start(&["--step=nonsense", "--step-auth", "classic"]).expect_status(2);
    start(&["--step=127.0.0.1:0", "--step-auth", "/nonexistent"]).expect_error(2, "usage");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let refused = start(&[&format!("--step={addr}"), "--step-auth", "classic"]).expect_error(6, "network");
    let message = refused.last("error")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(&addr), "{message}");
}

#[test]
fn a_client_may_send_all_of_a_file_before_it_reads_a_reply() {
    let server = Server::classic();
    let mut client = server.login("alice");
    // So many that the replies fit no socket: those to errors are as long as others, and need no blocks.
    let count = 40_000;
    for index in 0..count {
        client.send("UPLOAD", "FILE", json!({ "key": "k".repeat(200), "block_index": index }), &[]);
    }
    for _ in 0..count {
        client.receive().expect(408);
    }
    assert_eq!(client.put("a", b"hello"), md5_hex(b"hello"));
}

#[test]
fn a_byte_now_and_then_holds_no_place() {
    let server = Server::classic();
    let addr = server.node.service("step");
    let mut slow: Vec<TcpStream> = (0..256).map(|_| TcpStream::connect(addr).expect("a place")).collect();
    for tcp in &mut slow {
        tcp.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        tcp.write_all(&60_000u32.to_be_bytes()).expect("it is taken");
        tcp.write_all(&0u32.to_be_bytes()).expect("it is taken");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "whoever has something to say gets a place");
        for tcp in &mut slow {
            // The one that had to go for another.
            let _ = tcp.write_all(b" ");
        }
        let _ = slow[0].read(&mut [0]);
        let mut tcp = TcpStream::connect(addr).expect("the node listens");
        tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        let json = br#"{"operation": "INFO", "direction": "REQUEST", "type": "FILE"}"#;
        let frame = [&(json.len() as u32).to_be_bytes()[..], &[0; 4], json].concat();
        let mut reply = [0; 8];
        if tcp.write_all(&frame).is_ok() && tcp.read_exact(&mut reply).is_ok() {
            return;
        }
    }
}
