//! Groups with a secret: they see themselves and nobody else, and nobody sees them.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ftx_proto::digest::{Instance, Root};
use ftx_proto::limits::SEALED_SIZE_MAX;
use ftx_proto::wire::discovery::{Datagram, Query, Want};
use ftx_proto::wire::session::{Hello, Message, NotAdmitted};
use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Invocation, Share, TestNet, listing, net};
use socket2::{Domain, Socket, Type};

fn secret(net: &TestNet, text: &str) -> PathBuf {
    let file = net.folder().join("secret");
    std::fs::write(&file, text).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    file
}

fn share(net: &TestNet, name: &str, content: &Content, secret: Option<&Path>) -> Share {
    let folder = net.folder();
    put(&folder, name, &content.bytes);
    let flags: Vec<_> =
        secret.iter().flat_map(|file| ["--secret-file", file.to_str().expect("text")]).collect();
    net.share_with(&folder, &flags)
}

fn with(invocation: Invocation, secret: Option<&Path>) -> Invocation {
    match secret {
        Some(file) => invocation.arg("--secret-file").arg(file),
        None => invocation,
    }
}

const ONE: &str = "the secret of the first group\n";
const OTHER: &str = "the secret of the second group\n";

#[test]
fn two_groups_on_one_network_do_not_see_each_other_and_nobody_sees_them() {
    let net = net!();
    let (one, other) = (secret(&net, ONE), secret(&net, OTHER));
    let contents = [Content::new(801, MIB + 1), Content::new(802, MIB + 2), Content::new(803, MIB + 3)];
    let first = share(&net, "plan.pdf", &contents[0], Some(&one));
    let second = share(&net, "plan.pdf", &contents[1], Some(&other));
    let open = share(&net, "plan.pdf", &contents[2], None);

    // The name stands for one content in each of the three.
    let target = net.folder();
    for (content, secret) in contents.iter().zip([Some(&*one), Some(&*other), None]) {
        let path = target.join(content.root());
        with(net.get("plan.pdf", &path), secret).run().done();
        content.expect_in(&path);
        let listed = with(net.node(["ls", "--json"]), secret).run();
        assert_eq!(listed.done()["entries"], 1, "{}", listed.said());
        for other in &contents {
            assert_eq!(
                listed.said().contains(&other.root()),
                other.root() == content.root(),
                "{}",
                listed.said()
            );
        }
    }
    for (secret, ours) in [(Some(&*one), &first), (Some(&*other), &second), (None, &open)] {
        let seen = with(net.node(["peers", "--json"]), secret).run();
        assert_eq!(seen.done()["peers"], 1, "{}", seen.said());
        assert!(seen.said().contains(ours.node()), "{}", seen.said());
    }
}

#[test]
fn a_node_of_a_group_that_is_dialled_all_the_same_says_only_that_it_does_not_talk() {
    let net = net!();
    let (one, other) = (secret(&net, ONE), secret(&net, OTHER));
    let content = Content::new(811, MIB + 1);
    let share = share(&net, "plan.pdf", &content, Some(&one));
    let stranger = ftx_tests::evil::Stranger::new(share.port());
    let hello = Hello { instance: Instance(1), name: "x".to_owned() };
    let heard = stranger.does(stranger.all_that_is_said_to(&Message::Hello(hello)));
    assert_eq!(heard, [Message::NotAdmitted(NotAdmitted::SecretNeeded)]);

    // Who knows another secret finds nobody at all, wherever it asks.
    let peer = format!("127.0.0.1:{}", share.port());
    let target = net.folder();
    for secret in [Some(&*other), None] {
        let flags = ["--timeout", "2", "--native-only", "--peer", &peer];
        with(net.get("plan.pdf", &target.join("x")).args(flags), secret).run().expect_error(5, "no_node");
    }
    assert_eq!(listing(&target), Vec::<String>::new());
}

#[test]
fn a_get_of_a_group_asks_nobody_in_clear() {
    let net = net!();
    let one = secret(&net, ONE);
    let folder = net.folder();
    put(&folder, "plan.pdf", b"from nobody knows whom");
    let _classic = net.share_with(&folder, &["--udp-get"]);
    let get = net.get("plan.pdf", &net.folder().join("plan.pdf")).args(["--timeout", "1"]);
    with(get, Some(&one)).run().expect_error(5, "no_node");
}

/// Everything that is broadcast on the network of the test, until it is taken.
struct Listening {
    stop: Arc<AtomicBool>,
    heard: Option<thread::JoinHandle<Vec<Vec<u8>>>>,
}

impl Listening {
    fn start(net: &TestNet) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_reuse_address(true).and_then(|()| socket.set_reuse_port(true)).expect("a shared port");
        let everybody = SocketAddr::from((Ipv4Addr::new(127, 255, 255, 255), net.port()));
        socket.bind(&everybody.into()).expect("bound to the broadcast address of loopback");
        let socket: UdpSocket = socket.into();
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let heard = thread::spawn(move || {
            let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(len) => heard.push(buffer[..len].to_vec()),
                    Err(_) if stopping.load(Ordering::Relaxed) => return heard,
                    Err(_) => {}
                }
            }
        });
        Listening { stop, heard: Some(heard) }
    }

    fn take(mut self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.heard.take().expect("taken once").join().expect("it listened")
    }
}

fn shows(datagram: &[u8], text: &str) -> bool {
    datagram.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn nothing_that_is_broadcast_shows_a_name_or_a_root() {
    let net = net!();
    let one = secret(&net, ONE);
    let content = Content::new(821, MIB + 1);
    let listening = Listening::start(&net);
    let run = |secret: Option<&Path>| {
        let share = share(&net, "merger-plan.pdf", &content, secret);
        let get = net.get("merger-plan.pdf", &net.folder().join("x")).env("FTX_NAME", "the-buyer");
        with(get, secret).run().done();
        let get = net.get(&content.root(), &net.folder().join("y")).env("FTX_NAME", "the-buyer");
        with(get, secret).run().done();
        share.stop();
    };
    run(Some(&one));
    let sealed = listening.take();
    assert!(sealed.len() >= 3, "a hello, a query, a bye: {}", sealed.len());
    for datagram in &sealed {
        assert!(datagram.starts_with(b"FTXS") && datagram.len() <= SEALED_SIZE_MAX, "{datagram:?}");
        assert!(!shows(datagram, "merger") && !shows(datagram, "FTX1") && !shows(datagram, "the-buyer"));
        assert!(!shows(datagram, &content.root()[..8]));
    }
    let all: std::collections::BTreeSet<_> = sealed.iter().map(|datagram| &datagram[4..16]).collect();
    assert_eq!(all.len(), sealed.len(), "each has a nonce of its own");

    // The same without a secret is heard, so it would have shown.
    let listening = Listening::start(&net);
    run(None);
    let clear = listening.take();
    for text in ["merger-plan.pdf", "the-buyer", &content.root()[..]] {
        assert!(clear.iter().any(|datagram| shows(datagram, text)), "{text}");
    }
}

#[test]
fn who_asks_without_a_seal_gets_no_answer_and_a_replayed_question_one_of_its_size_at_most() {
    let net = net!();
    let one = secret(&net, ONE);
    let content = Content::new(831, 1000);
    let listening = Listening::start(&net);
    let share = share(&net, "plan.pdf", &content, Some(&one));
    with(net.get("plan.pdf", &net.folder().join("x")), Some(&one)).run().done();
    let broadcast = listening.take();
    let replayed = broadcast.iter().max_by_key(|datagram| datagram.len()).expect("a query was heard");
    assert_eq!(replayed.len(), SEALED_SIZE_MAX, "queries and hellos have the size of the largest answer");

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let node = SocketAddr::from((Ipv4Addr::LOCALHOST, share.port()));
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    let query = Query { nonce: 7, instance: Instance(666), want: Want::All };
    let clear = Datagram::Query(query).encode();
    socket.send_to(&clear, node).expect("sent");
    let mut buffer = [0; 4096];
    assert!(socket.recv(&mut buffer).is_err(), "nobody answers what is not sealed");

    let root: Root = content.root().parse().expect("a root");
    let mut all = 0;
    for datagram in &broadcast {
        socket.send_to(datagram, node).expect("sent");
        let mut back = 0;
        while let Ok(len) = socket.recv(&mut buffer) {
            let shows_root = buffer[..len].windows(root.0.len()).any(|window| window == root.0);
            assert!(buffer.starts_with(b"FTXS") && !shows(&buffer[..len], "plan.pdf") && !shows_root);
            back += len;
        }
        assert!(back <= datagram.len(), "{back} bytes came back for {}", datagram.len());
        all += back;
    }
    assert!(all > 0, "a question that is replayed is answered, or nothing was tested");
}

#[test]
fn a_file_of_a_secret_is_checked() {
    let net = net!();
    let file = secret(&net, "fifteen bytes!!\n");
    let peers = || with(net.node(["peers", "--json"]), Some(&file)).run();
    assert!(peers().expect_error(2, "usage").said().contains("15 bytes"));
    std::fs::write(&file, ONE).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("ours");
    assert!(peers().expect_error(2, "usage").said().contains("mode 644"));
}

#[test]
fn status_and_doctor_tell_that_there_is_a_secret() {
    let net = net!();
    let one = secret(&net, ONE);
    let share = share(&net, "plan.pdf", &Content::new(841, 1000), Some(&one));
    let shown = net.node(["status"]).with_state(&share.state()).run().expect_status(0);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("nodes that know its group's secret"), "{text}");
    let asked = net.node(["status", "--json"]).with_state(&share.state()).run();
    let access = &asked.events[0]["access"];
    assert_eq!((&access["secret"], &access["trust"]), (&true.into(), &serde_json::Value::Null), "{access}");

    // Who does not know it gets no answer by UDP, and is told why by TCP.
    let peer = format!("127.0.0.1:{}", share.port());
    let seen = net.node(["doctor", "--json", "--timeout", "1", "--peer", &peer]).run();
    let finding = |event: &&serde_json::Value| event["check"] == "peer" && event["about"] == peer.as_str();
    let told = seen.events.iter().find(finding).unwrap_or_else(|| panic!("{}", seen.said()));
    assert_eq!(told["level"], "warning", "{told}");
    assert!(told["says"].as_str().is_some_and(|says| says.contains("group with a secret")), "{told}");
    let beside = net.node(["doctor", "--json", "--timeout", "1"]).with_state(&share.state()).run();
    assert!(beside.said().contains("only one belongs to a group with a secret"), "{}", beside.said());
    let within = net.node(["doctor", "--json", "--timeout", "2"]).with_state(&share.state());
    assert_eq!(with(within, Some(&one)).run().done()["problems"], 0);
}
