//! Discovery actors on the loopback network: real sockets, real broadcasts to 127.255.255.255, nothing beyond.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ftx_node::actors::discovery::{
    Discovery, DiscoveryArguments, DiscoveryMessage, DiscoveryStatistics, Found, Lookup,
};
use ftx_node::clock::Clock;
use ftx_proto::digest::{Digest, Instance, NodeId, Root};
use ftx_proto::engine::discovery::Peer;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{Announce, Datagram, OfferEntry, OfferedKind, OfferedRoot, Query, Want};
use ractor::{Actor, ActorRef};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long anything may take that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A port of discovery that no other test uses, for as long as this lives.
struct Port {
    number: u16,
    _reserved: Socket,
}

impl Port {
    fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.set_reuse_port(true).expect("an option");
        // An address of loopback that nothing is ever sent to.
        socket.bind(&SocketAddr::from(([127, 77, 77, 77], 0)).into()).expect("a port of the system's choice");
        let number = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("a port").port();
        Port { number, _reserved: socket }
    }
}

/// A running actor, with the TCP port that a node would hold.
struct Node {
    actor: ActorRef<DiscoveryMessage>,
    running: JoinHandle<()>,
    session: Option<TcpListener>,
    shared: Arc<Mutex<Vec<OfferEntry>>>,
    instance: Instance,
}

impl Node {
    async fn start(port: &Port, instance: u64) -> Self {
        Node::start_with(port.number, instance, Some(session_port())).await
    }

    async fn start_with(port: u16, instance: u64, session: Option<TcpListener>) -> Self {
        let shared = Arc::new(Mutex::new(Vec::<OfferEntry>::new()));
        let node = Self::start_asking(port, instance, session, lookup(shared.clone())).await;
        Node { shared, ..node }
    }

    /// With a catalog of its own.
    async fn start_asking(port: u16, instance: u64, session: Option<TcpListener>, lookup: Lookup) -> Self {
        let session_port =
            session.as_ref().map_or(0, |listener| listener.local_addr().expect("an address").port());
        let me = Announce {
            node: NodeId(Digest::of(&instance.to_le_bytes()).0),
            instance: Instance(instance),
            port: session_port,
            name: format!("node {instance}"),
        };
        let arguments = DiscoveryArguments {
            me,
            bind: Some(LOCALHOST),
            port,
            session_port,
            lookup,
            gets: None,
            clock: Clock::start(),
        };
        let (actor, running) = Actor::spawn(None, Discovery, arguments).await.expect("discovery starts");
        Node { actor, running, session, shared: Arc::default(), instance: Instance(instance) }
    }

    fn session_addr(&self) -> SocketAddr {
        self.session.as_ref().expect("a node that is visible").local_addr().expect("an address")
    }

    fn share(&self, name: &str) {
        let root = OfferedRoot::Whole(Root(Digest::of(name.as_bytes()).0));
        let entry = OfferEntry { name: path(name), kind: OfferedKind::File, size: 5, mtime: 6, root };
        self.shared.lock().expect("no test panics with it").push(entry);
    }

    fn find(&self, want: Want, peers: Vec<SocketAddr>) -> mpsc::Receiver<Found> {
        let (sender, receiver) = mpsc::channel(16);
        self.actor.cast(DiscoveryMessage::Find { want, peers, found: sender }).expect("the actor lives");
        receiver
    }

    async fn statistics(&self) -> DiscoveryStatistics {
        ractor::call_t!(self.actor, DiscoveryMessage::Statistics, 5_000).expect("the actor answers")
    }

    async fn peers(&self) -> Vec<Peer> {
        ractor::call_t!(self.actor, DiscoveryMessage::Peers, 5_000).expect("the actor answers")
    }

    async fn stop(self) {
        self.actor.stop(None);
        self.running.await.expect("the actor ends");
    }
}

fn lookup(shared: Arc<Mutex<Vec<OfferEntry>>>) -> Lookup {
    Arc::new(move |want| {
        let entries = shared.lock().expect("no test panics with it").clone();
        let entries = entries.into_iter().filter(|entry| match &want {
            Want::Name(name) => entry.name == *name,
            Want::Root(prefix) => entry.root.root().is_some_and(|root| prefix.matches(&root)),
            Want::All => true,
        });
        let entries: Vec<_> = entries.collect();
        Box::pin(async move { (entries, false) })
    })
}

#[tokio::test]
async fn a_catalog_that_is_slow_at_first_answers_the_first_question() {
    let port = Port::reserve();
    let asked = Arc::new(AtomicU64::new(0));
    let counting = asked.clone();
    // As one does that reads what it knew in its last run.
    let slow: Lookup = Arc::new(move |_| {
        counting.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            (Vec::new(), true)
        })
    });
    let giving = Node::start_asking(port.number, 1, Some(session_port()), slow).await;
    let asking = Node::start_with(port.number, 2, None).await;
    let mut found = asking.find(Want::All, Vec::new());
    assert!(next(&mut found).await.offer.more);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "repeated questions are answered by the same look");
    asking.stop().await;
    giving.stop().await;
}

/// A port that is free both for TCP, which is taken here, and for UDP, which the node will take.
fn session_port() -> TcpListener {
    loop {
        let tcp = TcpListener::bind((LOCALHOST, 0)).expect("a port of the system's choice");
        if UdpSocket::bind(tcp.local_addr().expect("an address")).is_ok() {
            return tcp;
        }
    }
}

fn path(name: &str) -> RelativePath {
    name.parse().expect("a good name")
}

async fn next(found: &mut mpsc::Receiver<Found>) -> Found {
    tokio::time::timeout(PATIENCE, found.recv()).await.expect("it is found in time").expect("the query lives")
}

/// Asks again and again, until it holds.
async fn eventually<T, F: Future<Output = T>>(ask: impl Fn() -> F, holds: impl Fn(&T) -> bool) -> T {
    let asking = async {
        loop {
            let answer = ask().await;
            if holds(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it happens in time")
}

#[tokio::test]
async fn nodes_find_each_other_by_broadcast() {
    let port = Port::reserve();
    let (a, b, c) = (Node::start(&port, 1).await, Node::start(&port, 2).await, Node::start(&port, 3).await);
    b.share("x/ubuntu.iso");
    c.share("x/ubuntu.iso");
    c.share("other");
    let mut found = a.find(Want::Name(path("x/ubuntu.iso")), Vec::new());
    let mut addrs = Vec::new();
    for _ in 0..2 {
        let Found { addr, offer } = next(&mut found).await;
        assert_eq!(offer.entries.len(), 1);
        assert_eq!(offer.entries[0].name, path("x/ubuntu.iso"));
        addrs.push((offer.from.instance, addr));
    }
    addrs.sort();
    assert_eq!(addrs, [(b.instance, b.session_addr()), (c.instance, c.session_addr())]);
    let statistics = a.statistics().await;
    assert_eq!((statistics.interfaces, statistics.send_failed, statistics.engine.malformed), (1, 0, 0));
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_has_nothing_answers_too() {
    let port = Port::reserve();
    let (a, b) = (Node::start(&port, 1).await, Node::start(&port, 2).await);
    let mut found = a.find(Want::Name(path("nowhere")), Vec::new());
    let Found { addr, offer } = next(&mut found).await;
    assert_eq!((addr, offer.from.instance, offer.entries), (b.session_addr(), b.instance, Vec::new()));
}

#[tokio::test]
async fn a_late_joiner_is_found_while_the_query_lives() {
    let port = Port::reserve();
    let a = Node::start(&port, 1).await;
    let mut found = a.find(Want::All, Vec::new());
    eventually(|| a.statistics(), |statistics| statistics.engine.broadcast >= 3).await;
    let b = Node::start(&port, 2).await;
    assert_eq!(next(&mut found).await.addr, b.session_addr());
}

#[tokio::test]
async fn a_node_is_asked_alone_at_the_port_of_its_sessions() {
    // Their ports of discovery differ, so that no broadcast of one reaches the other.
    let (here, there) = (Port::reserve(), Port::reserve());
    let a = Node::start(&here, 1).await;
    let (b, c) = (Node::start(&there, 2).await, Node::start(&there, 3).await);
    b.share("b");
    c.share("c");
    let mut found = a.find(Want::All, vec![c.session_addr()]);
    let Found { addr, offer } = next(&mut found).await;
    assert_eq!((addr, offer.from.instance), (c.session_addr(), c.instance));
    assert_eq!(offer.entries.len(), 1);
    let asked = c.statistics().await.engine;
    assert!(asked.sent >= 1, "{asked:?}");
    assert_eq!(b.statistics().await.engine.sent, 0, "the other node was not asked");
}

#[tokio::test]
async fn a_node_whose_sessions_are_on_the_port_of_discovery_is_asked_alone_there() {
    let port = Port::reserve();
    let owner = TcpListener::bind((LOCALHOST, port.number));
    // The system gave this port for UDP only; if TCP's is taken, another one will do.
    let Ok(owner) = owner else {
        return Box::pin(retry_with_another_port()).await;
    };
    asked_alone_on_the_shared_port(port, owner).await;
}

async fn retry_with_another_port() {
    loop {
        let port = Port::reserve();
        if let Ok(owner) = TcpListener::bind((LOCALHOST, port.number)) {
            return asked_alone_on_the_shared_port(port, owner).await;
        }
    }
}

async fn asked_alone_on_the_shared_port(port: Port, owner: TcpListener) {
    let owner = Node::start_with(port.number, 1, Some(owner)).await;
    let mut others = Vec::new();
    for instance in 2..6 {
        others.push(Node::start(&port, instance).await);
    }
    let elsewhere = Port::reserve();
    // Several askers: the system would spread them over the sockets of the port.
    for instance in 10..14 {
        let asker = Node::start(&elsewhere, instance).await;
        let mut found = asker.find(Want::All, vec![owner.session_addr()]);
        let others_too = async {
            loop {
                let found = next(&mut found).await;
                // Earlier askers are neighbours of this one.
                if found.offer.from.instance.0 < 10 {
                    return found;
                }
            }
        };
        assert_eq!(others_too.await.offer.from.instance, owner.instance);
    }
    for other in others {
        assert_eq!(other.statistics().await.engine.sent, 0);
    }
}

#[tokio::test]
async fn a_process_that_only_looks_around_is_not_seen() {
    let port = Port::reserve();
    let a = Node::start(&port, 1).await;
    let visitor = Node::start_with(port.number, 2, None).await;
    let mut found = visitor.find(Want::All, Vec::new());
    assert_eq!(next(&mut found).await.offer.from.instance, a.instance);
    assert!(a.peers().await.is_empty());
    visitor.stop().await;
}

#[tokio::test]
async fn peers_are_seen_and_leave_with_a_goodbye() {
    let port = Port::reserve();
    let (a, b) = (Node::start(&port, 1).await, Node::start(&port, 2).await);
    let peers = eventually(|| a.peers(), |peers| !peers.is_empty()).await;
    assert_eq!(peers[0].announce.name, "node 2");
    assert_eq!(peers[0].addresses, [b.session_addr()]);
    b.stop().await;
    eventually(|| a.peers(), Vec::is_empty).await;
}

#[tokio::test]
async fn garbage_is_counted_and_does_no_harm() {
    let port = Port::reserve();
    let (a, b) = (Node::start(&port, 1).await, Node::start(&port, 2).await);
    let stranger = UdpSocket::bind((LOCALHOST, 0)).expect("a socket");
    stranger.set_broadcast(true).expect("an option");
    let padded = Query { nonce: 1, instance: Instance(9), want: Want::All };
    let query = Datagram::Query(padded).encode();
    for garbage in [&b""[..], b"get ubuntu.iso", b"FTX1", b"FTX1\xff\xff\xff", &query[..40], &[0; 5000]] {
        stranger.send_to(garbage, a.session_addr()).expect("loopback carries it");
        stranger.send_to(garbage, ("127.255.255.255", port.number)).expect("loopback carries it");
    }
    eventually(|| a.statistics(), |statistics| statistics.engine.malformed == 12).await;
    eventually(|| b.statistics(), |statistics| statistics.engine.malformed == 6).await;
    assert_eq!(next(&mut a.find(Want::All, Vec::new())).await.addr, b.session_addr());
}

#[tokio::test]
async fn a_query_ends_when_nobody_listens_any_more() {
    let port = Port::reserve();
    let a = Node::start(&port, 1).await;
    let found = a.find(Want::All, Vec::new());
    // Three hellos and some askings; then only silence is left.
    eventually(|| a.statistics(), |statistics| statistics.engine.broadcast >= 3).await;
    drop(found);
    let mut second = a.find(Want::All, Vec::new());
    let b = Node::start(&port, 2).await;
    next(&mut second).await;
    drop(second);
    // Nothing of b's later hellos makes a ask again.
    let sent = eventually(|| b.statistics(), |statistics| statistics.engine.broadcast >= 3).await;
    assert!(sent.engine.broadcast >= 3);
    let before = a.statistics().await.engine.sent;
    let c = Node::start(&port, 3).await;
    eventually(|| a.peers(), |peers| peers.len() == 2).await;
    assert_eq!(a.statistics().await.engine.sent, before);
    c.stop().await;
}

#[tokio::test]
async fn offers_that_find_the_channel_full_come_again() {
    let port = Port::reserve();
    let a = Node::start(&port, 1).await;
    let (b, c) = (Node::start(&port, 2).await, Node::start(&port, 3).await);
    let (sender, mut found) = mpsc::channel(1);
    a.actor
        .cast(DiscoveryMessage::Find { want: Want::All, peers: Vec::new(), found: sender })
        .expect("the actor lives");
    eventually(|| a.statistics(), |statistics| statistics.undelivered > 0).await;
    let mut instances = vec![next(&mut found).await.offer.from.instance];
    instances.push(next(&mut found).await.offer.from.instance);
    instances.sort();
    assert_eq!(instances, [b.instance, c.instance]);
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_told() {
    let nowhere: IpAddr = "203.0.113.77".parse().expect("an address for documentation");
    let arguments = DiscoveryArguments {
        me: Announce { node: NodeId([0; 32]), instance: Instance(1), port: 1, name: String::new() },
        bind: Some(nowhere),
        port: Port::reserve().number,
        session_port: session_port().local_addr().expect("an address").port(),
        lookup: lookup(Arc::default()),
        gets: None,
        clock: Clock::start(),
    };
    let Err(error) = Actor::spawn(None, Discovery, arguments).await else {
        panic!("it has no socket to work with")
    };
    let text = error.to_string();
    assert!(text.contains("203.0.113.77") && text.contains("UDP"), "{text}");
}
