//! TCP put: the node with clients and servers as the original ones are, and with itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::step::StepClient;
use ftx_tests::{Content, Machine, Share, listing, net};

/// A node that takes files into its inbox.
fn server(net: &Machine) -> (Share, SocketAddr, PathBuf) {
    server_with(net, &[])
}

fn server_with(net: &Machine, flags: &[&str]) -> (Share, SocketAddr, PathBuf) {
    let inbox = net.folder();
    let flag = format!("--inbox={}", inbox.display());
    let share = net.share_with(&net.folder(), &[&["--tcp-put=127.0.0.1:0", &flag], flags].concat());
    let addr = share.service("tcp_put");
    (share, addr, inbox)
}

fn connect(server: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(server).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    tcp
}

/// What one receive brings, as the original client looks at it.
fn recv(tcp: &mut TcpStream) -> Vec<u8> {
    let mut buffer = [0; 1024];
    let len = tcp.read(&mut buffer).unwrap_or(0);
    buffer[..len].to_vec()
}

/// Pushes a file as the original client does. `Err` with what came instead of `READY` or `OK`.
fn push(server: SocketAddr, name: &str, bytes: &[u8]) -> Result<(), Vec<u8>> {
    let mut tcp = connect(server);
    tcp.write_all(format!("{name}\n").as_bytes()).unwrap();
    tcp.write_all(format!("{}\n", bytes.len()).as_bytes()).unwrap();
    let ready = recv(&mut tcp);
    if ready != b"READY" {
        return Err(ready);
    }
    tcp.write_all(bytes).unwrap();
    let ok = recv(&mut tcp);
    if ok != b"OK" {
        return Err(ok);
    }
    assert!(recv(&mut tcp).is_empty(), "nothing follows");
    Ok(())
}

/// Sends these bytes and then nothing; all that the server says.
fn say(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = connect(server);
    let mut said = Vec::new();
    // A server that refuses early may have closed already.
    let _ = tcp.write_all(bytes);
    let _ = tcp.shutdown(Shutdown::Write);
    let _ = tcp.read_to_end(&mut said);
    said
}

#[test]
fn classic_clients_push_files_of_any_size() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    for size in [0, 1, 1023, 1024, 65_536, 3 * MIB + 1] {
        let content = Content::new(1, size);
        let name = format!("{size}.bin");
        push(server, &name, &content.bytes).unwrap_or_else(|said| panic!("{size}: {said:?}"));
        content.expect_in(&inbox.join(&name));
    }
    assert_eq!(listing(&inbox).len(), 6, "{:?}", listing(&inbox));
    // What is complete there is shared.
    let target = net.folder().join("fetched");
    net.get("1024.bin", &target).run().expect_status(0);
    Content::new(1, 1024).expect_in(&target);
}

#[test]
fn lines_and_data_may_arrive_together_or_byte_by_byte() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    assert_eq!(say(server, b"together\n5\nhello and beyond"), b"READYOK");
    let mut tcp = connect(server);
    for byte in b"slowly\r\n5\r\nhello" {
        tcp.write_all(&[*byte]).unwrap();
    }
    let mut said = Vec::new();
    tcp.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"READYOK");
    for name in ["together", "slowly"] {
        assert_eq!(std::fs::read(inbox.join(name)).unwrap(), b"hello");
    }
}

#[test]
fn names_stay_within_the_inbox() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    let parent = inbox.parent().unwrap().to_owned();
    let before = listing(&parent);
    let escapes = ["../../a", "/tmp/b", "C:\\dir\\c", "./d", "x/../e"];
    for name in escapes {
        push(server, name, name.as_bytes()).unwrap_or_else(|said| panic!("{name}: {said:?}"));
    }
    assert_eq!(listing(&inbox), ["a", "b", "c", "d", "e"]);
    assert_eq!(listing(&parent), before);
    for name in ["..", ".", "", "a/", "x\0y", ".a.ftx-part", ".ftx-step"] {
        assert_eq!(push(server, name, b"x"), Err(Vec::new()), "{name:?}");
    }
    assert_eq!(listing(&inbox), ["a", "b", "c", "d", "e"]);
}

#[test]
fn a_finished_file_is_never_replaced() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    push(server, "f", b"first").unwrap();
    assert_eq!(push(server, "f", b"second"), Err(Vec::new()));
    assert_eq!(std::fs::read(inbox.join("f")).unwrap(), b"first");
    std::fs::create_dir(inbox.join("folder")).unwrap();
    assert_eq!(push(server, "folder", b"x"), Err(Vec::new()));
    std::os::unix::fs::symlink("/tmp/no-such-file", inbox.join("link")).unwrap();
    assert_eq!(push(server, "link", b"x"), Err(Vec::new()));
    assert_eq!(listing(&inbox), ["f", "folder", "link"]);
    assert!(listing(&inbox.join("folder")).is_empty());
}

#[test]
fn what_is_cut_short_or_wrong_leaves_nothing() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    assert_eq!(say(server, b"short\n10\nhello"), b"READY");
    for bytes in [
        &b""[..],
        b"name",
        b"name\n",
        b"name\n5",
        b"n\n-1\nx",
        b"n\nfive\nx",
        b"n\n\nx",
        b"n\n99999999999999999999\n",
    ] {
        assert_eq!(say(server, bytes), b"", "{bytes:?}");
    }
    assert_eq!(say(server, &b"x".repeat(100_000)), b"");
    // More than any disk has.
    assert_eq!(say(server, format!("huge\n{}\n", 1u64 << 43).as_bytes()), b"");
    assert!(listing(&inbox).is_empty(), "{:?}", listing(&inbox));
    // Others are not harmed.
    push(server, "f", b"x").unwrap();
}

#[test]
fn two_do_not_write_to_one_name() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    let mut first = connect(server);
    first.write_all(b"f\n5\n").unwrap();
    assert_eq!(recv(&mut first), b"READY");
    assert_eq!(push(server, "f", b"other"), Err(Vec::new()));
    first.write_all(b"hello").unwrap();
    assert_eq!(recv(&mut first), b"OK");
    assert_eq!(std::fs::read(inbox.join("f")).unwrap(), b"hello");
}

#[test]
fn quotas_hold_for_what_is_there_and_what_is_under_way() {
    let net = net!();
    let flags = ["--inbox-quota=100KB", "--inbox-total=130KB", "--step=127.0.0.1:0", "--step-auth=classic"];
    let (share, server, inbox) = server_with(&net, &flags);
    let refused = Err(Vec::new());
    push(server, "a", &[1; 60_000]).unwrap();
    assert_eq!(push(server, "b", &[2; 40_001]), refused, "all who push share one quota");
    let mut pushing = connect(server);
    pushing.write_all(b"c\n40000\n").unwrap();
    assert_eq!(recv(&mut pushing), b"READY");
    assert_eq!(push(server, "d", &[4]), refused, "promised is promised");
    pushing.shutdown(Shutdown::Both).unwrap();
    drop(pushing);
    // Its room is free again as soon as the node has seen that it is gone.
    let deadline = Instant::now() + Duration::from_secs(20);
    while push(server, "e", &[5; 30_000]) != Ok(()) {
        assert!(Instant::now() < deadline, "what broke off gives its room back");
    }
    let mut alice = StepClient::classic(share.service("step"), "alice");
    alice.save("f", 40_001).expect(402);
    alice.save("f", 40_000).expect(200);
    assert_eq!(push(server, "g", &[7]), refused, "of all together");
    assert_eq!(listing(&inbox), [".ftx-step", "a", "e"]);
    let log = share.process().stderr();
    assert!(log.contains("quota"), "{log}");
}

#[test]
fn a_quota_outlives_the_node_without_step_too() {
    let net = net!();
    let inbox = net.folder();
    put(&inbox, "before", &[0; 90_000]);
    let flag = format!("--inbox={}", inbox.display());
    let flags = ["--tcp-put=127.0.0.1:0", &flag, "--inbox-quota=100KB"];
    let share = net.share_with(&net.folder(), &flags);
    let server = share.service("tcp_put");
    assert_eq!(push(server, "a", &[1; 10_001]), Err(Vec::new()));
    push(server, "a", &[1; 10_000]).unwrap();
    assert_eq!(push(server, "empty", &[]), Ok(()));
    assert_eq!(push(server, "b", &[1]), Err(Vec::new()));
    assert_eq!(listing(&inbox), ["a", "before", "empty"]);
}

#[test]
fn without_an_inbox_everything_is_refused() {
    let net = net!();
    let share = net.share_with(&net.folder(), &["--tcp-put=127.0.0.1:0"]);
    assert_eq!(push(share.service("tcp_put"), "f", b"x"), Err(Vec::new()));
}

#[test]
fn nodes_push_to_nodes() {
    let net = net!();
    let (_share, server, inbox) = server(&net);
    let folder = net.folder();
    for size in [0, 1, 5 * MIB + 3] {
        let content = Content::new(2, size);
        let name = format!("{size}.bin");
        let path = put(&folder, &name, &content.bytes);
        let url = format!("tcp-put://{server}");
        let pushed = net.node(["put", path.to_str().unwrap(), &url, "--json"]).run().expect_status(0);
        assert_eq!(pushed.last("done")["size"], size);
        content.expect_in(&inbox.join(&name));
        // It is there already, and this system has no other word for that.
        net.node(["put", path.to_str().unwrap(), &url, "--json"]).run().expect_error(10, "refused");
    }
}

/// An original server: takes what the first receive brings as the name and what the second brings as the size.
fn original(folder: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, folder) = (listener.local_addr().unwrap(), folder.to_owned());
    thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        let name = text(recv(&mut tcp));
        let size: usize = text(recv(&mut tcp)).parse().unwrap();
        tcp.write_all(b"READY").unwrap();
        let mut bytes = vec![0; size];
        tcp.read_exact(&mut bytes).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
        tcp.write_all(b"OK").unwrap();
    });
    addr
}

#[test]
fn original_servers_take_files_from_the_node() {
    let net = net!();
    for size in [0, 1, 2 * MIB] {
        let content = Content::new(3, size);
        let path = put(&net.folder(), "sub/a file.bin", &content.bytes);
        let target = net.folder();
        let url = format!("tcp-put://{}/", original(&target));
        net.node(["put", path.to_str().unwrap(), &url]).run().expect_status(0);
        content.expect_in(&target.join("a file.bin"));
    }
}

/// A server that says these bytes once it has heard something, then goes on reading, or closes.
fn saying(word: &'static [u8], closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let (name, size) = (recv(&mut tcp), recv(&mut tcp));
        assert!(name == b"f\n" && size == b"1000000\n", "{name:?} {size:?}");
        tcp.write_all(word).unwrap();
        if !closes {
            let mut rest = Vec::new();
            // However the client goes.
            let _ = tcp.read_to_end(&mut rest);
        }
    });
    addr
}

#[test]
fn servers_that_go_wrong_are_told_apart() {
    let net = net!();
    let path = put(&net.folder(), "f", &[7; 1_000_000]);
    for (word, closes, status, code) in [
        (&b""[..], true, 10, "refused"),
        (b"", false, 12, "timeout"),
        (b"READY", false, 12, "timeout"),
        (b"NO", false, 6, "network"),
        (b"READY", true, 6, "network"),
        // Nobody can have what was not sent yet.
        (b"READYOK", true, 6, "network"),
        (b"READYOK", false, 6, "network"),
    ] {
        let url = format!("tcp-put://{}", saying(word, closes));
        let put = net.node(["put", path.to_str().unwrap(), &url, "--json", "--timeout", "0.5"]);
        put.run().expect_error(status, code);
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("tcp-put://{closed}");
    net.node(["put", path.to_str().unwrap(), &url, "--json"]).run().expect_error(6, "network");
    net.node(["put", "/no/such/file", &url, "--json"]).run().expect_error(2, "usage");
    // A pipe would be waited for, and its bytes have no number.
    let pipe = net.folder().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    net.node(["put", pipe.to_str().unwrap(), &url, "--json"]).run().expect_error(2, "usage");
    // Nor does a name write to the terminal.
    let refused = net.node(["put", "/no/such\u{1b}[2J", &url]).run().expect_status(2);
    assert!(!refused.stderr.contains('\u{1b}'), "{}", refused.said());
}
