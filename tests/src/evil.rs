//! Peers that do not keep to the protocol, made of the node's own pieces and bound to 127.0.0.1.
//!
//! [`Evil`] is offered by discovery and served like any node, except that a *twist* decides what it really answers.
//! [`Stranger`] is a client that can send anything at all. Whatever is waited for has a deadline.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ftx_node::identity::Identity;
use ftx_node::net::connection::{self, Connection};
use ftx_node::net::tls::{Tls, server_name};
use ftx_proto::digest::{Digest, Instance, NodeId, Root};
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::manifest::{Entry, EntryKind, Manifest};
use ftx_proto::merkle::{leaf_hash, piece_hash};
use ftx_proto::wire::discovery::{
    Announce, Datagram, Offer, OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Query, Want,
};
use ftx_proto::wire::session::{HEADER_LEN, Header, Hello, Message, WhichHashes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{self, ClientConfig};

use crate::data::Content;

/// How long anything may take that should take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a twist adds to an answer that is to come late: it stands for a pause and is not sent.
pub const PAUSE: (Message, Vec<u8>) = (Message::Ping(u64::MAX), Vec::new());

/// How long such a pause is.
const PAUSE_LENGTH: Duration = Duration::from_millis(700);

/// What is sent: messages with their payloads.
pub type Answers = Vec<(Message, Vec<u8>)>;

/// Makes of a message and of what an honest node would answer what is answered; `None` closes the connection.
pub type Twist = dyn Fn(&Message, Answers) -> Option<Answers> + Send + Sync;

/// A serving peer that does what its twist says. It ends when it is dropped.
pub struct Evil {
    /// Who it is, by its certificate.
    pub node: String,
    /// Where discovery asks it: for `--peer`.
    pub peer: String,
    _runtime: Runtime,
}

struct Serving {
    contents: Vec<Served>,
    twist: Box<Twist>,
}

/// A content as it is served: the files of a folder together are one, too.
struct Served {
    root: Root,
    geometry: Geometry,
    bytes: Vec<u8>,
}

impl Evil {
    /// Offers and serves `content` as `name`; `announced` may change what discovery hears.
    pub fn start(
        name: &str,
        content: &Content,
        announced: impl Fn(&mut Offer) + Send + Sync + 'static,
        twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
    ) -> Self {
        Self::serve_file(name, content, vec![identity()], announced, Box::new(twist))
    }

    /// The same with other faces: the first that it shows is the one that it announces, then come the others in turn.
    pub fn with_faces(
        name: &str,
        content: &Content,
        faces: Vec<(NodeId, Tls)>,
        twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
    ) -> Self {
        Self::serve_file(name, content, faces, |_| {}, Box::new(twist))
    }

    /// The same with a folder of these files, in order, and links; `spoil` may change what says what is in it.
    pub fn of_folder(
        name: &str,
        files: &[(&str, Content)],
        links: &[(&str, &str)],
        spoil: impl FnOnce(&mut Vec<u8>),
        announced: impl Fn(&mut Offer) + Send + Sync + 'static,
        twist: impl Fn(&Message, Answers) -> Option<Answers> + Send + Sync + 'static,
    ) -> Self {
        let entry = |(path, content): &(&str, Content)| {
            let (size, root) = (content.size(), content.root().parse().expect("a root"));
            let kind = EntryKind::File { size, root, executable: false, mtime: (0, 0) };
            Entry { path: path.parse().expect("a name"), kind }
        };
        let link = |(path, target): &(&str, &str)| {
            let kind = EntryKind::Link { target: (*target).to_owned() };
            Entry { path: path.parse().expect("a name"), kind }
        };
        let mut entries: Vec<_> = files.iter().map(entry).chain(links.iter().map(link)).collect();
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let manifest = Manifest::new(entries).expect("a folder");
        let mut list = manifest.encode().expect("a short one");
        spoil(&mut list);
        let list = Served::new(list);
        let bytes = files.iter().flat_map(|(_, content)| content.bytes.iter().copied()).collect();
        let all = Served { root: manifest.data_root(), geometry: manifest.geometry().clone(), bytes };
        let offered = OfferedManifest { root: list.root, size: list.geometry.size() };
        let entry = OfferEntry {
            name: name.parse().expect("a name"),
            kind: OfferedKind::Folder(Some(offered)),
            size: all.geometry.size(),
            mtime: 0,
            root: OfferedRoot::Whole(manifest.root()),
        };
        Self::serve(vec![list, all], entry, vec![identity()], announced, Box::new(twist))
    }

    fn serve_file(
        name: &str,
        content: &Content,
        faces: Vec<(NodeId, Tls)>,
        announced: impl Fn(&mut Offer) + Send + Sync + 'static,
        twist: Box<Twist>,
    ) -> Self {
        let served = Served::new(content.bytes.clone());
        let entry = OfferEntry {
            name: name.parse().expect("a name"),
            kind: OfferedKind::File,
            size: content.size(),
            mtime: 0,
            root: OfferedRoot::Whole(served.root),
        };
        Self::serve(vec![served], entry, faces, announced, twist)
    }

    fn serve(
        contents: Vec<Served>,
        entry: OfferEntry,
        faces: Vec<(NodeId, Tls)>,
        announced: impl Fn(&mut Offer) + Send + Sync + 'static,
        twist: Box<Twist>,
    ) -> Self {
        let runtime = runtime();
        let node = faces.first().expect("a face").0;
        let serving = Arc::new(Serving { contents, twist });
        let (tcp, udp) = runtime.block_on(async {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port for sessions");
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port for questions");
            (tcp, udp)
        });
        let from = Announce {
            node,
            instance: Instance(rand::random()),
            port: tcp.local_addr().expect("bound").port(),
            name: "evil".to_owned(),
        };
        let offer = Offer { nonce: 0, from, entries: vec![entry], more: false };
        let mut heard = offer.clone();
        announced(&mut heard);
        let hello = Hello { instance: offer.from.instance, name: heard.from.name };
        let peer = udp.local_addr().expect("bound").to_string();
        runtime.spawn(async move {
            let mut buffer = [0; 2000];
            while let Ok((len, to)) = udp.recv_from(&mut buffer).await {
                if let Ok(Datagram::Query(Query { nonce, .. })) = Datagram::decode(&buffer[..len]) {
                    let mut offer = Offer { nonce, ..offer.clone() };
                    announced(&mut offer);
                    let _ = udp.send_to(&Datagram::Offer(offer).encode(), to).await;
                }
            }
        });
        runtime.spawn(async move {
            let mut faces = faces.into_iter().cycle();
            while let (Some((_, tls)), Ok((tcp, addr))) = (faces.next(), tcp.accept().await) {
                let (hello, serving) = (hello.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    if let Ok(connection) = connection::accept(tcp, addr, &tls, hello).await {
                        serving.serve(connection).await;
                    }
                });
            }
        });
        Evil { node: node.to_string(), peer, _runtime: runtime }
    }
}

impl Serving {
    async fn serve(&self, mut connection: Connection) {
        while let Ok(Some(message)) = connection.reader.read().await {
            let Some(answers) = (self.twist)(&message, self.honest(&message)) else { return };
            for (message, payload) in answers {
                if message == PAUSE.0 {
                    tokio::time::sleep(PAUSE_LENGTH).await;
                    continue;
                }
                if connection.writer.write(&message, &payload).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What a node that has the contents answers.
    fn honest(&self, message: &Message) -> Answers {
        match *message {
            Message::Subscribe { root } => {
                let Some(served) = self.served(root) else { return vec![] };
                let size = served.geometry.size();
                vec![(
                    Message::Describe { root, size, mtime: (0, 0), executable: false, whole: true },
                    vec![],
                )]
            }
            Message::WantHashes { request, root, which } => {
                let Some(served) = self.served(root) else { return vec![] };
                let hashes = match which {
                    WhichHashes::PieceLayer => {
                        served.geometry.pieces().map(|piece| served.piece(piece)).collect()
                    }
                    WhichHashes::Leaves { piece } => {
                        served.geometry.piece(piece).map(|piece| served.leaves(piece)).unwrap_or_default()
                    }
                };
                let payload = hashes.iter().flat_map(|hash| hash.0).collect();
                vec![(Message::Hashes { request, first: 0, last: true }, payload)]
            }
            Message::Request { request, root, first, count } => {
                let Some(served) = self.served(root) else { return vec![] };
                let span = served.geometry.span(first, count).expect("a node asks for what there is");
                let run = |run: Span| {
                    (Message::Chunks { request, first: run.first().get() }, served.bytes(run).to_vec())
                };
                span.runs(16).map(run).collect()
            }
            Message::Ping(number) => vec![(Message::Pong(number), vec![])],
            _ => vec![],
        }
    }

    fn served(&self, root: Root) -> Option<&Served> {
        self.contents.iter().find(|served| served.root == root)
    }
}

impl Served {
    /// Of one file, or of what is served like one.
    fn new(bytes: Vec<u8>) -> Self {
        let content = Content { bytes };
        let root = content.root().parse().expect("a root");
        let geometry = Geometry::new(content.size()).expect("small");
        Served { root, geometry, bytes: content.bytes }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let place = self.geometry.bytes_of(span);
        &self.bytes[place.start as usize..place.end as usize]
    }

    fn leaves(&self, piece: PieceIndex) -> Vec<Digest> {
        self.geometry.span_of(piece).runs(1).map(|chunk| leaf_hash(self.bytes(chunk))).collect()
    }

    fn piece(&self, piece: PieceIndex) -> Digest {
        piece_hash(&self.geometry, piece, &self.leaves(piece))
    }
}

/// A client that is not bound to anything. Its sessions are real until it chooses otherwise.
pub struct Stranger {
    runtime: Runtime,
    tls: Tls,
    addr: SocketAddr,
    /// The address that it connects from, if not any.
    from: Option<Ipv4Addr>,
}

/// An established session, with the bytes in the stranger's hands: its TLS is that of everybody, not the node's own.
pub struct Raw {
    stream: TlsStream<TcpStream>,
}

impl Stranger {
    /// Somebody who will bother the node at this port.
    pub fn new(port: u16) -> Self {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Stranger { runtime: runtime(), tls: identity().1, addr, from: None }
    }

    /// The same from another address of this machine, such as 127.0.0.2.
    pub fn from_address(port: u16, from: Ipv4Addr) -> Self {
        Stranger { from: Some(from), ..Self::new(port) }
    }

    /// A session with an identity of its own, both sides having said hello; `None` if the node does not want it.
    pub async fn session_as_another(&self) -> Option<Raw> {
        let connector = tokio_rustls::TlsConnector::from(identity().1.client);
        Self::greet(connector.connect(server_name(), self.connect().await).await.ok()?).await
    }

    /// Who it is, by its certificate.
    pub fn node(&self) -> String {
        self.tls.me.to_string()
    }

    /// Runs something of the stranger's; fails the test if it takes too long.
    #[track_caller]
    pub fn does<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(PATIENCE, what).await }).expect("it ended within its time")
    }

    /// A connection on which nothing has been said.
    pub async fn connect(&self) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).expect("an address of this machine");
        }
        socket.connect(self.addr).await.expect("the node listens")
    }

    /// A TLS handshake that offers these protocols.
    pub async fn handshake(&self, protocols: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake_with(|config| {
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        })
        .await
    }

    /// A TLS handshake with a configuration that is changed like this.
    pub async fn handshake_with(
        &self,
        change: impl FnOnce(&mut ClientConfig),
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = (*self.tls.client).clone();
        change(&mut config);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(server_name(), self.connect().await).await
    }

    /// How it shows itself.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// A session, both sides having said hello.
    pub async fn session(&self) -> Raw {
        let stream = self.handshake(&[b"ftx/1"]).await.expect("the handshake is an honest one");
        Self::greet(stream).await.expect("the node says hello")
    }

    async fn greet(stream: TlsStream<TcpStream>) -> Option<Raw> {
        let mut raw = Raw { stream };
        raw.try_say(&Message::Hello(Hello { instance: Instance(666), name: "stranger".to_owned() })).await;
        matches!(raw.read().await, Some(Message::Hello(_))).then_some(raw)
    }

    /// All that the node says to whoever begins with this and then only listens.
    pub async fn all_that_is_said_to(&self, first: &Message) -> Vec<Message> {
        let stream = self.handshake(&[b"ftx/1"]).await.expect("a handshake is for everybody");
        let mut raw = Raw { stream };
        raw.say(first).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.read().await {
            heard.push(message);
        }
        heard
    }

    /// What the node says of itself when discovery asks it.
    pub async fn announce(&self) -> Announce {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let query = Query { nonce: 7, instance: Instance(666), want: Want::All };
        udp.send_to(&Datagram::Query(query).encode(), self.addr).await.expect("sent");
        let mut buffer = [0; 2000];
        loop {
            let (len, _) = udp.recv_from(&mut buffer).await.expect("received");
            if let Ok(Datagram::Offer(offer)) = Datagram::decode(&buffer[..len]) {
                return offer.from;
            }
        }
    }
}

impl Raw {
    /// Sends a message, or fails the test.
    pub async fn say(&mut self, message: &Message) {
        assert!(self.try_say(message).await, "the session is open");
    }

    /// Sends a message; `false` if the session is over.
    pub async fn try_say(&mut self, message: &Message) -> bool {
        let sent = async {
            self.stream.write_all(&message.encode(0)).await?;
            self.stream.flush().await
        };
        sent.await.is_ok()
    }

    /// Sends bytes; `false` if the session is over.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.is_ok()
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "the session is open");
    }

    /// Says that nothing follows.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next message.
    pub async fn hear(&mut self) -> Message {
        self.read().await.expect("the session goes on")
    }

    /// The next message, as long as there is one. What it carries is thrown away.
    pub async fn read(&mut self) -> Option<Message> {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).await.ok()?;
        let Header { meta_len, payload_len } = Header::decode(header).ok()?;
        let mut bytes = vec![0; meta_len + payload_len];
        self.stream.read_exact(&mut bytes).await.ok()?;
        Message::decode(&bytes[..meta_len], payload_len).ok()
    }

    /// Reads to the end of the session; the reason that the node gave, if it gave one.
    pub async fn farewell(&mut self) -> Option<String> {
        let mut reason = None;
        while let Some(message) = self.read().await {
            if let Message::Goodbye(text) = message {
                reason = Some(text);
            }
        }
        reason
    }
}

/// A fresh identity: who it is, and how it is shown.
pub fn identity() -> (NodeId, Tls) {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Identity::load_or_create(folder.path()).expect("an identity");
    let tls = Tls::new(&identity).expect("it is usable");
    (identity.node(), tls)
}

/// What is shown with this certificate and that key, whether they belong together or not.
pub fn mismatched(
    shown: CertificateDer<'static>,
    key: &rustls::pki_types::PrivateKeyDer<'static>,
) -> Arc<rustls::sign::CertifiedKey> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).expect("a key");
    Arc::new(rustls::sign::CertifiedKey::new(vec![shown], key))
}

/// Always shows the same, or nothing.
#[derive(Debug)]
pub struct Shows(pub Option<Arc<rustls::sign::CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.clone()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
