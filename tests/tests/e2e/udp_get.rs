//! udp-get: the node with clients and servers as the original ones are, and with itself.
//!
//! Everything is sent to 127.0.0.1 or broadcast to 127.255.255.255: nothing leaves the machine.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, TestNet, listing, net, sha256_hex};
use socket2::{Domain, Socket, Type};

/// Where a client broadcasts on loopback.
fn everybody(net: &TestNet) -> SocketAddr {
    SocketAddr::from(([127, 255, 255, 255], net.port()))
}

/// A client as the original one is: one socket with the usual buffer, a second for each receive, every request a
/// broadcast.
struct Client {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Client {
    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Client { socket, to }
    }

    fn ask(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.to).unwrap();
    }

    fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 4096];
        let (len, from) = self.socket.recv_from(&mut buffer).ok()?;
        Some((buffer[..len].to_vec(), from))
    }

    /// Number of chunks and hash, as announced, after at most 11 requests.
    fn announced(&self, name: &str) -> (usize, String, SocketAddr) {
        for _ in 0..11 {
            self.ask(format!("get {name}").as_bytes());
            let Some((datagram, from)) = self.receive() else { continue };
            if let Some(text) = datagram.strip_prefix(b"except ") {
                let text = std::str::from_utf8(text).unwrap();
                let words: Vec<_> = text.split(' ').collect();
                assert!(words.len() == 3 && words[1] == "chunks" && words[2].len() == 64, "{text:?}");
                return (words[0].parse().unwrap(), words[2].to_owned(), from);
            }
        }
        panic!("{name} was not announced");
    }

    fn get(&self, name: &str) -> (Vec<u8>, String, SocketAddr) {
        let mut chunks = BTreeMap::new();
        loop {
            let (count, hash, from) = self.announced(name);
            while chunks.len() < count {
                let Some((datagram, _)) = self.receive() else { break };
                if datagram.starts_with(b"except ") {
                    continue;
                }
                let (number, rest) = datagram.split_first_chunk::<4>().unwrap();
                let (len, rest) = rest.split_first_chunk::<4>().unwrap();
                let len = u32::from_be_bytes(*len) as usize;
                assert_eq!(rest.len(), len + 32);
                let sum: String = rest[len..].iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(sum, sha256_hex(&rest[..len]));
                chunks.insert(u32::from_be_bytes(*number) as usize, rest[..len].to_vec());
            }
            if chunks.len() == count {
                assert!(chunks.keys().copied().eq(0..count));
                return (chunks.into_values().flatten().collect(), hash, from);
            }
        }
    }
}

#[test]
fn classic_clients_get_files_of_any_size() {
    let net = net!();
    let folder = net.folder();
    let sizes = [0, 1, 1023, 1024, 1025, 10 * 1024, 300_001, 3 * MIB];
    for size in sizes {
        put(&folder, &format!("sub/{size}.bin"), &Content::new(1, size).bytes);
    }
    let share = net.share_with(&folder, &["--udp-get"]);
    assert_eq!(share.service("udp_get").port(), net.port());
    for size in sizes {
        let content = Content::new(1, size);
        let (bytes, hash, from) = Client::new(everybody(&net)).get(&format!("sub/{size}.bin"));
        assert_eq!(hash, sha256_hex(&content.bytes));
        assert!(bytes == content.bytes, "{size}");
        assert_eq!(
            from,
            SocketAddr::from(([127, 0, 0, 1], net.port())),
            "answers come from the port that listens"
        );
    }
}

#[test]
fn every_node_that_has_it_answers_from_the_port_that_listens() {
    let net = net!();
    let content = Content::new(2, 100_000);
    let folder = net.folder();
    put(&folder, "f", &content.bytes);
    let shares: Vec<_> = (0..3).map(|_| net.share_with(&folder, &["--udp-get"])).collect();
    let client = Client::new(everybody(&net));
    client.ask(b"get f");
    let mut announced = 0;
    while announced < shares.len() {
        let (datagram, from) = client.receive().expect("three announcements");
        announced += usize::from(datagram.starts_with(b"except "));
        assert_eq!(from.port(), net.port());
    }
    assert!(client.get("f").0 == content.bytes);
    // Native nodes still find each other on that port.
    let target = net.folder().join("f");
    net.get("f", &target).run().expect_status(0);
    content.expect_in(&target);
}

#[test]
fn a_node_is_heard_by_unicast_too_at_its_own_port() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "f", b"content");
    let first = net.share_with(&folder, &["--udp-get"]);
    let second = net.share_with(&folder, &["--udp-get"]);
    assert_ne!(first.port(), second.port());
    for share in [first, second] {
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], share.port())));
        assert_eq!(client.get("f").0, b"content");
    }
}

#[test]
fn only_what_is_shared_is_answered() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "shared/f", b"f");
    put(&folder, "secret", b"secret");
    let _share = net.share_with(&folder.join("shared"), &["--udp-get"]);
    let client = Client::new(everybody(&net));
    let absolute = format!("get {}", folder.join("secret").display());
    for datagram in
        [&b"get no"[..], b"get ../secret", b"get", b"get ", b"get  f", b"get \xff", absolute.as_bytes()]
    {
        client.ask(datagram);
    }
    client.ask(b"getting f and more");
    let (datagram, _) = client.receive().expect("the last one is answered");
    assert_eq!(datagram, format!("except 1 chunks {}", sha256_hex(b"f")).as_bytes(), "and nothing before it");
}

#[test]
fn a_node_that_was_not_told_to_does_not_answer() {
    let net = net!();
    let folder = net.folder();
    put(&folder, "f", b"f");
    let _share = net.share(&folder);
    let got = net.node(["get", "udp-get://f", "--json", "--timeout", "0.5"]).within(&net.folder()).run();
    got.expect_error(5, "no_node");
}

#[test]
fn a_repeated_request_begins_again() {
    let net = net!();
    let folder = net.folder();
    let content = Content::new(3, 20 * MIB);
    put(&folder, "f", &content.bytes);
    let _share = net.share_with(&folder, &["--udp-get"]);
    let client = Client::new(everybody(&net));
    let (count, _, _) = client.announced("f");
    client.receive().expect("the burst goes on");
    client.ask(b"get f");
    let mut before = 0;
    loop {
        let (datagram, _) = client.receive().expect("it is announced again");
        if datagram.starts_with(b"except ") {
            break;
        }
        before += 1;
    }
    assert!(before < count / 2, "{before} of {count} chunks came before");
}

#[test]
fn nodes_fetch_from_nodes() {
    let net = net!();
    let folder = net.folder();
    for size in [0, 1, 1024, 5 * MIB + 3] {
        put(&folder, &format!("{size}.bin"), &Content::new(4, size).bytes);
    }
    let shares = [net.share_with(&folder, &["--udp-get"]), net.share_with(&folder, &["--udp-get"])];
    for size in [0, 1, 1024, 5 * MIB + 3] {
        let content = Content::new(4, size);
        let target = net.folder();
        let url = format!("udp-get://{size}.bin");
        let got = net.node(["get", &url, "--json"]).within(&target).run().expect_status(0);
        let done = got.last("done");
        assert_eq!((&done["size"], &done["sha256"]), (&size.into(), &sha256_hex(&content.bytes).into()));
        assert_eq!(got.bytes_of_sources(), size as u64);
        assert_eq!(listing(&target), [format!("{size}.bin")]);
        content.expect_in(&target.join(format!("{size}.bin")));
        net.node(["get", &url]).within(&target).run().expect_status(9);
    }
    for share in &shares {
        let peer = format!("127.0.0.1:{}", share.port());
        let got = net.node(["get", "udp-get://1024.bin", "-o", "-", "--peer", &peer]).run().expect_status(0);
        assert_eq!(got.stdout, Content::new(4, 1024).bytes);
    }
    net.node(["get", "udp-get://a b", "--json"]).run().expect_error(2, "usage");
}

/// How a server that stands in for an original one goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Of the first bursts each loses all but every so many chunks.
    Loses(u32),
    /// Announces the hash of something else.
    Hash,
    /// Announces, and sends nothing.
    Silent,
    /// Puts a wrong hash behind every chunk of the first burst.
    Damages,
    /// Announces the hash of something that nobody sends, which others announce too.
    Lies,
}

/// A server as the original one is, without pacing. It answers from a socket of its own, which unlike the one that hears
/// broadcasts can send.
fn original(net: &TestNet, name: &'static str, content: &[u8], fault: Fault) -> SocketAddr {
    let hearing = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    hearing.set_reuse_address(true).unwrap();
    hearing.set_reuse_port(true).unwrap();
    hearing.bind(&everybody(net).into()).unwrap();
    let hearing: UdpSocket = hearing.into();
    let answering = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = answering.local_addr().unwrap();
    let content = content.to_vec();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        for burst in 0u32.. {
            let (len, to) = hearing.recv_from(&mut buffer).unwrap();
            if &buffer[..len] != format!("get {name}").as_bytes() {
                continue;
            }
            let hash = if matches!(fault, Fault::Hash | Fault::Lies) {
                sha256_hex(b"other")
            } else {
                sha256_hex(&content)
            };
            let chunks: Vec<(u32, &[u8])> = (0..).zip(content.chunks(1024)).collect();
            // Whoever asked may have gone.
            let _ = answering.send_to(format!("except {} chunks {hash}", chunks.len()).as_bytes(), to);
            for (number, chunk) in chunks.into_iter().rev() {
                let is_lost = match fault {
                    Fault::Loses(every) => burst < every && number % every != burst,
                    Fault::Silent => true,
                    _ => false,
                };
                let mut datagram = [number.to_be_bytes(), (chunk.len() as u32).to_be_bytes()].concat();
                datagram.extend(chunk);
                let sum = sha256_hex(if fault == Fault::Damages && burst == 0 { b"x" } else { chunk });
                let byte = |at: usize| u8::from_str_radix(&sum[at..at + 2], 16).unwrap();
                datagram.extend((0..64).step_by(2).map(byte));
                if !is_lost {
                    let _ = answering.send_to(&datagram, to);
                }
            }
        }
    });
    addr
}

#[test]
fn original_servers_serve_the_node() {
    let net = net!();
    for (name, size) in [("empty", 0), ("one", 1), ("even", 4096), ("odd", 70_001)] {
        let content = Content::new(5, size);
        original(&net, name, &content.bytes, Fault::None);
        let target = net.folder();
        let got = net.node(["get", &format!("udp-get://{name}"), "--json"]).within(&target).run();
        got.expect_status(0);
        content.expect_in(&target.join(name));
    }
}

#[test]
fn chunks_that_are_lost_or_damaged_are_asked_for_again() {
    let net = net!();
    let content = Content::new(6, 50_000);
    for (name, fault) in [("lost", Fault::Loses(3)), ("damaged", Fault::Damages)] {
        original(&net, name, &content.bytes, fault);
        let target = net.folder();
        let got = net.node(["get", &format!("udp-get://{name}"), "--json"]).within(&target).run();
        assert_eq!(got.status, 0, "{fault:?}\n{}", got.said());
        content.expect_in(&target.join(name));
    }
}

#[test]
fn several_servers_of_one_file_give_it_together() {
    let net = net!();
    let content = Content::new(7, 60_000);
    // Neither of them ever sends all of it.
    let servers = [Fault::Loses(1000), Fault::None].map(|fault| original(&net, "f", &content.bytes, fault));
    let target = net.folder();
    let got = net.node(["get", "udp-get://f", "--json"]).within(&target).run().expect_status(0);
    content.expect_in(&target.join("f"));
    for server in servers {
        let told = got.sources().iter().any(|source| source["addr"] == server.to_string());
        assert!(told, "{server}\n{}", got.said());
    }
}

#[test]
fn a_plain_name_that_no_node_has_is_asked_for_there_too() {
    let net = net!();
    let content = Content::new(9, 30_000);
    original(&net, "f", &content.bytes, Fault::None);
    let _node = net.share(&net.folder());
    let target = net.folder();
    let get = |name: &str, more: &[&str]| {
        net.node(["get", name, "--timeout", "1"]).args(more.to_vec()).within(&target).run()
    };
    get("f", &["--json", "--native-only"]).expect_error(3, "not_found");
    get("f@01234567", &["--json"]).expect_error(3, "not_found");
    get("f", &["--json", "--from", "somebody"]).expect_error(3, "not_found");
    get("g", &["--json"]).expect_error(3, "not_found");
    assert!(listing(&target).is_empty(), "{:?}", listing(&target));
    let got = get("f", &["--json"]).expect_status(0);
    let fallback = got.events.iter().find(|event| event["event"] == "fallback");
    assert_eq!(fallback.expect("it is said")["to"], "udp-get://f");
    assert_eq!(got.last("done")["sha256"], sha256_hex(&content.bytes));
    content.expect_in(&target.join("f"));
    let told = get("f", &["--force"]).expect_status(0);
    assert!(told.stderr.contains("udp-get"), "{}", told.said());
}

#[test]
fn where_one_server_is_asked_another_one_is_not_heard() {
    let net = net!();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let peer = server.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, to)) = server.recv_from(&mut buffer) {
            let hash = sha256_hex(b"another file");
            stranger.send_to(format!("except 1 chunks {hash}").as_bytes(), to).unwrap();
            server.send_to(format!("except 0 chunks {}", sha256_hex(b"")).as_bytes(), to).unwrap();
        }
    });
    let target = net.folder();
    let get = || net.node(["get", "udp-get://f", "--peer", &peer]).within(&target);
    get().run().expect_status(0);
    assert_eq!(std::fs::read(target.join("f")).unwrap(), b"");
}

#[test]
fn of_several_that_announced_it_all_are_named_when_the_file_is_wrong() {
    let net = net!();
    let content = Content::new(10, 60_000);
    let servers = [(); 2].map(|()| original(&net, "f", &content.bytes, Fault::Lies).to_string());
    let target = net.folder();
    let failed =
        net.node(["get", "udp-get://f", "--json"]).within(&target).run().expect_error(7, "integrity");
    let message = failed.last("error")["message"].to_string();
    let named = servers.iter().filter(|server| message.contains(*server)).count();
    // One alone may have been faster with every chunk.
    assert!(named == 2 && message.contains("--peer") || named == 0, "{message}");
    assert!(listing(&target).is_empty(), "{:?}", listing(&target));
}

#[test]
fn what_goes_wrong_is_told_apart_and_leaves_nothing() {
    let net = net!();
    let content = Content::new(8, 20_000);
    original(&net, "wrong", &content.bytes, Fault::Hash);
    original(&net, "silent", &content.bytes, Fault::Silent);
    original(&net, "two", &content.bytes, Fault::None);
    original(&net, "two", b"something else", Fault::None);
    let target = net.folder();
    let get = |name: &str| {
        let url = format!("udp-get://{name}");
        net.node(["get", &url, "--json", "--timeout", "0.7"]).within(&target).run()
    };
    get("wrong").expect_error(7, "integrity");
    get("silent").expect_error(12, "timeout");
    get("two").expect_error(4, "ambiguous");
    get("nobody-has-it").expect_error(5, "no_node");
    assert!(listing(&target).is_empty(), "{:?}", listing(&target));
}
