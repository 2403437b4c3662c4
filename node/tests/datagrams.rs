//! The serving side of the datagram lane, as somebody who asks meets it, on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_node::actors::catalog::{Catalog, CatalogArguments, CatalogMessage};
use ftx_node::actors::link::Link;
use ftx_node::actors::server::{Server, ServerArguments, ServerMessage, ServerStatistics};
use ftx_node::clock::Clock;
use ftx_node::config::Limits;
use ftx_node::identity::Identity;
use ftx_node::limits::{DATAGRAM_ASKED_BYTES_MAX, DATAGRAM_PROBES_BURST};
use ftx_node::net::connection::{self, Connection, Dialling};
use ftx_node::net::datagram::seal::{Opener, Sealer, Side};
use ftx_node::net::datagram::serving::{DatagramStatistics, Datagrams, DatagramsArguments};
use ftx_node::net::datagram::socket::{DatagramSocket, Mode, Received};
use ftx_node::net::tcp_info::Tries;
use ftx_node::net::tls::Tls;
use ftx_proto::digest::{Instance as NodeInstance, Root};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry};
use ftx_proto::wire::datagram::{Asking, ConnectionId, FragmentMask, Layout, Serving, Want};
use ftx_proto::wire::session::{DatagramsAt, Hello, Message, Refusal, RequestId};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long a test waits for what is sure to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of the file: not a whole number of chunks.
const SIZE: usize = 200 * CHUNK_SIZE as usize + 777;

/// A node that serves one file, as far as that takes.
struct Giver {
    dir: TempDir,
    bytes: Vec<u8>,
    root: Root,
    tls: Tls,
    addr: SocketAddr,
    server: ActorRef<ServerMessage>,
    catalog: ActorRef<CatalogMessage>,
    datagrams: Datagrams,
}

impl Giver {
    async fn start(mode: Mode, max_upload: Option<u64>) -> Self {
        Self::at(Some(Ipv4Addr::LOCALHOST.into()), mode, max_upload, SIZE).await
    }

    async fn at(bind: Option<IpAddr>, mode: Mode, max_upload: Option<u64>, size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..size).map(|at| (at * 31 / 7 + at / 16_384) as u8).collect();
        std::fs::create_dir(dir.path().join("share")).unwrap();
        std::fs::write(dir.path().join("share/file"), &bytes).unwrap();
        let arguments = CatalogArguments {
            shares: vec![dir.path().join("share")],
            state_dir: None,
            hash_threads: NonZeroUsize::new(1).unwrap(),
            rescan_interval: Duration::from_secs(3600),
        };
        let (catalog, _) = Actor::spawn(None, Catalog, arguments).await.unwrap();
        let links = (Link::default(), Link::default());
        links.0.set(catalog.clone());
        let datagrams = Datagrams::new(DatagramsArguments {
            bind,
            mode,
            max_upload,
            server: links.1.clone(),
            catalog: links.0.clone(),
            data: Handle::current(),
        });
        // Without an address to keep to, one socket for both families, as a node has it.
        let listener = TcpListener::bind((bind.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addr = SocketAddr::new(bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
        let tls = Tls::new(&identity(dir.path(), "giver")).unwrap();
        let arguments = ServerArguments {
            listener: Arc::new(listener),
            tls: tls.clone(),
            hello: hello(),
            catalog: links.0.clone(),
            limits: Limits::default(),
            max_upload,
            datagrams: datagrams.clone(),
            inbox: None,
            data: Handle::current(),
            clock: Clock::start(),
        };
        let (server, _) = Actor::spawn(None, Server, arguments).await.unwrap();
        links.1.set(server.clone());
        let root = root_of(&catalog).await;
        Giver { dir, bytes, root, tls, addr, server, catalog, datagrams }
    }

    /// A session, subscribed to the file.
    async fn session(&self) -> Connection {
        let (addr, tls, hello, tries) = (self.addr, self.tls.clone(), hello(), Tries::default());
        let mut session = connection::dial(Dialling { addr, local: None, tls, hello, tries }).await.unwrap();
        session.writer.write(&Message::Subscribe { root: self.root }, b"").await.unwrap();
        let described = session.reader.read().await.unwrap();
        assert!(matches!(described, Some(Message::Describe { whole: true, .. })), "{described:?}");
        session
    }

    async fn asker(&self) -> Asker {
        let session = self.session().await;
        Asker::open(session, self).await
    }

    async fn statistics(&self) -> ServerStatistics {
        let asked = self.server.call(ServerMessage::Statistics, Some(PATIENCE)).await;
        let Ok(CallResult::Success(statistics)) = asked else { panic!("no answer") };
        statistics
    }

    /// Waits until the counters are as described.
    async fn until(&self, what: &str, is_so: impl Fn(&DatagramStatistics) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.datagrams.statistics()) {
            assert!(begun.elapsed() < PATIENCE, "until {what}: {:?}", self.datagrams.statistics());
            tokio::task::yield_now().await;
        }
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(self.bytes.len() as u64).unwrap()
    }

    /// A Want of the whole chunks.
    fn want(&self, number: u32, layout: Layout, chunks: std::ops::Range<u32>) -> Want {
        let chunk = |number| {
            let chunk = self.geometry().chunk(number).unwrap();
            (chunk, layout.all(self.geometry().chunk_len(chunk)))
        };
        Want { number, layout, chunks: chunks.map(chunk).collect() }
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.server.stop(None);
        self.catalog.stop(None);
    }
}

fn identity(dir: &Path, name: &str) -> Identity {
    std::fs::create_dir_all(dir.join(name)).unwrap();
    Identity::load_or_create(&dir.join(name)).unwrap()
}

fn hello() -> Hello {
    Hello { instance: NodeInstance(1), name: "node".to_owned() }
}

async fn root_of(catalog: &ActorRef<CatalogMessage>) -> Root {
    let begun = Instant::now();
    loop {
        let list = |reply| CatalogMessage::List { after: None, limit: 10, reply };
        let Ok(CallResult::Success((entries, _))) = catalog.call(list, Some(PATIENCE)).await else {
            panic!("no answer")
        };
        if let Some(root) = entries.first().and_then(|entry| entry.root) {
            return root;
        }
        assert!(begun.elapsed() < PATIENCE, "not hashed");
        tokio::task::yield_now().await;
    }
}

/// The asking side, as simple as can be.
struct Asker {
    session: Connection,
    socket: DatagramSocket,
    at: DatagramsAt,
    to: SocketAddr,
    sealer: Sealer,
    opener: Opener,
    received: Received,
}

impl Asker {
    async fn open(session: Connection, giver: &Giver) -> Self {
        let mut session = session;
        let at = open(&mut session, giver.root).await.expect("there is a socket");
        let (sealer, opener) =
            session.datagram_secret.keys(&giver.root, Side::Asking, ConnectionId(at.connection));
        Asker {
            session,
            socket: DatagramSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), Mode::Batched).unwrap(),
            at,
            to: SocketAddr::new(giver.addr.ip(), at.port),
            sealer,
            opener,
            received: Received::new(),
        }
    }

    fn sealed(&mut self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.sealer.seal(&mut out, |out| out.extend_from_slice(body)).unwrap();
        out
    }

    async fn send(&self, datagram: &[u8]) {
        self.socket.send(self.to, datagram, datagram.len()).await.unwrap();
    }

    async fn ask(&mut self, body: &[u8]) {
        let datagram = self.sealed(body);
        self.send(&datagram).await;
    }

    /// Fragments that come, until there are so many.
    async fn fragments(&mut self, count: usize) -> Vec<Fragment> {
        let mut all = Vec::new();
        while all.len() < count {
            let received = timeout(PATIENCE, self.socket.recv(&mut self.received)).await;
            received.expect("fragments come").unwrap();
            all.extend(self.opened());
        }
        all
    }

    /// Fragments that are there.
    fn fragments_now(&mut self) -> Vec<Fragment> {
        self.socket.try_recv(&mut self.received).unwrap();
        self.opened()
    }

    fn opened(&mut self) -> Vec<Fragment> {
        let (opener, to) = (&mut self.opener, self.to);
        let open = |(route, datagram): (_, &mut [u8])| {
            let route: ftx_node::net::datagram::socket::Route = route;
            assert_eq!(route.peer, to);
            let (_, body) = opener.open(datagram).expect("it is for us");
            match Serving::decode(body).unwrap() {
                Serving::Data(head, bytes) => Fragment {
                    want: head.want,
                    chunk: head.chunk,
                    fragment: head.fragment,
                    bytes: bytes.to_vec(),
                },
                Serving::Padding { number } => panic!("padding {number} instead of a fragment"),
            }
        };
        self.received.datagrams().map(open).collect()
    }

    /// What the other side says last.
    async fn goodbye(&mut self) -> String {
        loop {
            match timeout(PATIENCE, self.session.reader.read()).await.expect("it ends").unwrap() {
                Some(Message::Goodbye(reason)) => return reason,
                Some(_) => {}
                None => panic!("it ended without a word"),
            }
        }
    }

    async fn lives(&mut self) {
        self.session.writer.write(&Message::Ping(9), b"").await.unwrap();
        let answer = timeout(PATIENCE, self.session.reader.read()).await.expect("there is an answer");
        assert_eq!(answer.unwrap(), Some(Message::Pong(9)));
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Fragment {
    want: u16,
    chunk: u32,
    fragment: u8,
    bytes: Vec<u8>,
}

async fn open(session: &mut Connection, root: Root) -> Option<DatagramsAt> {
    session.writer.write(&Message::OpenDatagrams { root }, b"").await.unwrap();
    match session.reader.read().await.unwrap() {
        Some(Message::Datagrams { root: of, at }) if of == root => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_content_comes_in_datagrams_as_it_is() {
    for mode in [Mode::Batched, Mode::Single] {
        let giver = Giver::start(mode, None).await;
        for (asked, layout) in Layout::ALL.into_iter().enumerate() {
            let mut asker = giver.asker().await;
            let mut file = vec![0; SIZE];
            let count = giver.geometry().chunk_count();
            for (number, first) in (0..count).step_by(10).enumerate() {
                let want = giver.want(number as u32 + 0x1_0000, layout, first..count.min(first + 10));
                asker.ask(&want.encode()).await;
                let got = asker.fragments(want.fragments() as usize).await;
                let sent: Vec<(u16, u32, u8)> =
                    got.iter().map(|fragment| (fragment.want, fragment.chunk, fragment.fragment)).collect();
                let order = want.send_order().into_iter().flat_map(|(chunk, mask)| {
                    mask.iter()
                        .map(move |fragment| (number as u16, chunk.get(), fragment))
                        .collect::<Vec<_>>()
                });
                assert_eq!(sent, order.collect::<Vec<_>>(), "{mode:?} {layout:?}");
                for fragment in got {
                    let len = giver.geometry().chunk_len(giver.geometry().chunk(fragment.chunk).unwrap());
                    let range = layout.range(len, fragment.fragment);
                    let at = fragment.chunk as usize * CHUNK_SIZE as usize + range.start;
                    assert_eq!(fragment.bytes.len(), range.len());
                    file[at..at + range.len()].copy_from_slice(&fragment.bytes);
                }
            }
            assert!(file == giver.bytes, "{mode:?} {layout:?}");
            let sent = (asked as u64 + 1) * SIZE as u64;
            let begun = Instant::now();
            while giver.statistics().await.bytes_sent < sent {
                assert!(begun.elapsed() < PATIENCE, "what is sent is counted");
            }
            assert_eq!(giver.statistics().await.bytes_sent, sent);
        }
        giver.until("all are gone", |statistics| statistics.connections == 0).await;
        assert_eq!(giver.datagrams.statistics(), DatagramStatistics::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_fragments_come_alone() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut asker = giver.asker().await;
    let chunk = giver.geometry().chunk(7).unwrap();
    let mask = FragmentMask::one(0).union(FragmentMask::one(11));
    let layout = Layout::new(12).unwrap();
    asker.ask(&Want { number: 3, layout, chunks: vec![(chunk, mask)] }.encode()).await;
    let got = asker.fragments(2).await;
    let start = 7 * CHUNK_SIZE as usize;
    for (fragment, number) in got.iter().zip([0, 11]) {
        let range = layout.range(CHUNK_SIZE, number);
        let bytes = giver.bytes[start + range.start..start + range.end].to_vec();
        assert_eq!(*fragment, Fragment { want: 3, chunk: 7, fragment: number, bytes });
    }
    assert_eq!(asker.fragments_now(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_from_the_peer_gets_no_answer() {
    for mode in [Mode::Batched, Mode::Single] {
        let giver = Giver::start(mode, None).await;
        let mut asker = giver.asker().await;
        let wanted = giver.want(1, Layout::SMALLEST, 3..4).encode();

        let mut forged = asker.sealed(&wanted);
        *forged.last_mut().unwrap() ^= 1;
        asker.send(&forged).await;
        giver.until("a forgery is counted", |counts| counts.forged == 1).await;

        // The same one from elsewhere: dropped, and not used up.
        let datagram = asker.sealed(&wanted);
        let elsewhere = DatagramSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0).into(), mode).unwrap();
        elsewhere.send(asker.to, &datagram, datagram.len()).await.unwrap();
        giver.until("where it comes from counts", |counts| counts.elsewhere == 1).await;
        asker.send(&datagram).await;
        assert_eq!(asker.fragments(15).await.len(), 15);

        asker.send(&datagram).await;
        giver.until("a copy is counted", |counts| counts.replayed == 1).await;
        let mut foreign = datagram.clone();
        foreign[..4].copy_from_slice(&(asker.at.connection ^ 1).to_be_bytes());
        for bytes in [&foreign[..], b"x", b"no datagram of the lane"] {
            asker.send(bytes).await;
        }
        giver.until("others are counted", |counts| counts.foreign == 3).await;

        // Whatever was answered has been answered before this is.
        asker.ask(&giver.want(2, Layout::SMALLEST, 5..6).encode()).await;
        let after = asker.fragments(15).await;
        assert!(after.len() == 15 && after.iter().all(|fragment| fragment.want == 2), "{mode:?}");
        let mut received = Received::new();
        elsewhere.try_recv(&mut received).unwrap();
        assert!(received.is_empty());
        asker.lives().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_to_the_port_that_proved_itself_last() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut asker = giver.asker().await;
    asker.ask(&giver.want(1, Layout::SMALLEST, 3..4).encode()).await;
    asker.fragments(15).await;
    asker.socket = DatagramSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), Mode::Batched).unwrap();
    asker.ask(&giver.want(2, Layout::SMALLEST, 4..5).encode()).await;
    assert_eq!(asker.fragments(15).await.len(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_ask_take_turns() {
    // Slowly, so that all is asked before much is sent.
    let giver = Giver::start(Mode::Batched, Some(200_000)).await;
    let (mut much, mut little) = (giver.asker().await, giver.asker().await);
    for number in 0..6 {
        much.ask(&giver.want(number, Layout::SMALLEST, number * 10..number * 10 + 10).encode()).await;
    }
    much.fragments(1).await;
    little.ask(&giver.want(0, Layout::SMALLEST, 0..3).encode()).await;
    little.fragments(3 * 15).await;
    let mut before = 0;
    while let got @ 1.. = much.fragments_now().len() {
        before += got;
    }
    // By its turn it would have had three chunks meanwhile; two had left in the first burst, and some while we asked.
    assert!(before <= 20 * 15, "{before} fragments before three chunks of another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_what_there_is_not_has_broken_the_protocol() {
    let giver = Giver::start(Mode::Batched, None).await;
    for body in [
        // A chunk behind the end, a mask of nothing, no message at all.
        &[0x10, 0, 0, 0, 0, 15, 0, 0, 0xff, 0xff, 0, 1][..],
        &[0x10, 0, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0],
        &[0x77],
    ] {
        let mut asker = giver.asker().await;
        asker.ask(body).await;
        let reason = asker.goodbye().await;
        assert!(reason.contains("datagram"), "{reason}");
    }
    assert_eq!(giver.statistics().await.broke_protocol, 3);
    giver.until("they are gone", |statistics| statistics.connections == 0).await;
    // So has who says what only the serving side may say.
    let mut asker = giver.asker().await;
    asker.session.writer.write(&Message::Datagrams { root: giver.root, at: None }, b"").await.unwrap();
    asker.goodbye().await;
    assert_eq!(giver.statistics().await.broke_protocol, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_wants_at_once_stay_bounded() {
    let giver = Giver::start(Mode::Batched, Some(500_000)).await;
    let (mut greedy, mut modest) = (giver.asker().await, giver.asker().await);
    for number in 0..10_000 {
        let first = number % 190;
        greedy.ask(&giver.want(number, Layout::SMALLEST, first..first + 10).encode()).await;
    }
    giver.until("wants are dropped", |statistics| statistics.wants_dropped > 0).await;
    greedy.lives().await;
    modest.ask(&giver.want(0, Layout::SMALLEST, 0..2).encode()).await;
    let begun = Instant::now();
    modest.fragments(2 * 15).await;
    // Two turns of both, not the two seconds of whatever the other one has waiting.
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    // What is still sent for the first one, when it asks for no more, is what may wait.
    let sent_before = giver.statistics().await.bytes_sent;
    let begun = Instant::now();
    let mut last = sent_before;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(300) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
        let now = giver.statistics().await.bytes_sent;
        if now != last {
            (last, quiet_since) = (now, Instant::now());
        }
    }
    assert!(last - sent_before <= DATAGRAM_ASKED_BYTES_MAX as u64 + 65_536, "{}", last - sent_before);
    assert_eq!(giver.statistics().await.broke_protocol, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_changed_is_refused() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut asker = giver.asker().await;
    std::fs::write(giver.dir.path().join("share/file"), b"something else").unwrap();
    asker.ask(&giver.want(0, Layout::SMALLEST, 0..2).encode()).await;
    let refused = timeout(PATIENCE, asker.session.reader.read()).await.expect("it is said").unwrap();
    let reason = Refusal::Changed;
    assert_eq!(refused, Some(Message::Refused { request: None, root: giver.root, reason }));
    assert_eq!(asker.fragments_now(), []);
    giver.until("it is not served any more", |statistics| statistics.connections == 0).await;
    asker.ask(&giver.want(1, Layout::SMALLEST, 0..2).encode()).await;
    giver.until("it is not known any more", |statistics| statistics.foreign == 1).await;
    asker.lives().await;
    // The catalog was told to look again.
    let begun = Instant::now();
    while root_of(&giver.catalog).await == giver.root {
        assert!(begun.elapsed() < PATIENCE, "the catalog does not notice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upload_limit_holds_for_sessions_and_datagrams_together() {
    let rate = 2_000_000;
    let giver = Giver::start(Mode::Batched, Some(rate)).await;
    let (mut asker, mut session) = (giver.asker().await, giver.session().await);
    let begun = Instant::now();
    let request = Message::Request { request: RequestId(1), root: giver.root, first: 0, count: 60 };
    session.writer.write(&request, b"").await.unwrap();
    for number in 0..6 {
        asker.ask(&giver.want(number, Layout::SMALLEST, number * 10..number * 10 + 10).encode()).await;
    }
    let by_datagrams = async {
        asker.fragments(60 * 15).await;
        begun.elapsed()
    };
    let by_session = async {
        let mut received = 0;
        while received < 60 * CHUNK_SIZE as usize {
            let chunks = timeout(PATIENCE, session.reader.read()).await.expect("chunks come").unwrap();
            assert!(matches!(chunks, Some(Message::Chunks { .. })), "{chunks:?}");
            received += session.reader.payload().len();
        }
        begun.elapsed()
    };
    let (first, second) = tokio::join!(by_datagrams, by_session);
    // Each may have a burst of 50 ms, and the last grant and what was not yet told are on their way.
    let total = f64::from(120 * CHUNK_SIZE);
    let (least, all) = (total / rate as f64, first.max(second).as_secs_f64());
    assert!(all >= least - 0.2, "{all} s for what takes {least} s");
    // Neither has to wait until the other one has finished.
    let half = least / 2.0;
    assert!(first.min(second).as_secs_f64() > half * 1.2, "{first:?} {second:?} of {least} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_session_a_connection_ends() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut asker = giver.asker().await;
    asker.ask(&giver.want(0, Layout::SMALLEST, 0..1).encode()).await;
    asker.fragments(15).await;
    asker.session.writer.close().await.unwrap();
    giver.until("it is gone", |statistics| statistics.connections == 0).await;
    asker.ask(&giver.want(1, Layout::SMALLEST, 0..1).encode()).await;
    giver.until("it is not known any more", |statistics| statistics.foreign == 1).await;
    assert_eq!(asker.fragments_now(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_content_has_one_connection_in_a_session() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut first = giver.asker().await;
    let before = first.at;
    let at = open(&mut first.session, giver.root).await.unwrap();
    assert!(at.port == before.port && at.connection != before.connection);
    giver.until("there is one", |statistics| statistics.connections == 1).await;
    first.ask(&giver.want(0, Layout::SMALLEST, 0..1).encode()).await;
    giver.until("the first one is not known any more", |statistics| statistics.foreign == 1).await;
    let secret = first.session.datagram_secret.clone();
    (first.sealer, first.opener) = secret.keys(&giver.root, Side::Asking, ConnectionId(at.connection));
    first.ask(&giver.want(1, Layout::SMALLEST, 0..1).encode()).await;
    assert_eq!(first.fragments(15).await.len(), 15);
    assert_eq!(open(&mut first.session, Root([9; 32])).await, None, "not subscribed to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_as_large_as_they_ask_and_not_too_often() {
    let giver = Giver::start(Mode::Batched, None).await;
    let mut asker = giver.asker().await;
    for (number, bytes) in [(1, 1200), (2, 1452), (3, 8_225), (4, 16_417)] {
        asker.ask(&Asking::Probe { number, bytes }.encode()).await;
        timeout(PATIENCE, asker.socket.recv(&mut asker.received)).await.expect("an answer").unwrap();
        let answers: Vec<(usize, u32)> = asker
            .received
            .datagrams()
            .map(|(_, datagram)| {
                let len = datagram.len();
                match Serving::decode(asker.opener.open(datagram).unwrap().1).unwrap() {
                    Serving::Padding { number } => (len, number),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(answers, [(usize::from(bytes), number)]);
    }
    for number in 0..3 * DATAGRAM_PROBES_BURST {
        asker.ask(&Asking::Probe { number, bytes: 1200 }.encode()).await;
    }
    giver.until("some are not answered", |statistics| statistics.probes_dropped > 0).await;
    asker.lives().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "binds to every address: only within a network namespace of its own"]
async fn a_node_at_every_address_serves_both_families() {
    let mut giver = Giver::at(None, Mode::Batched, None, SIZE).await;
    for ip in
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::new(127, 0, 0, 9).into(), Ipv6Addr::LOCALHOST.into()]
    {
        giver.addr = SocketAddr::new(ip, giver.addr.port());
        let session = giver.session().await;
        let local = if ip.is_ipv4() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
        let mut asker = Asker::open(session, &giver).await;
        asker.socket = DatagramSocket::bind((local, 0).into(), Mode::Batched).unwrap();
        asker.ask(&giver.want(1, Layout::SMALLEST, 3..5).encode()).await;
        assert_eq!(asker.fragments(2 * 15).await.len(), 2 * 15, "{ip}");
    }
}
