//! Who gets a session: trusted nodes, nodes with the same secret; and nobody in between.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ftx_node::config::Access;
use ftx_node::identity::Identity;
use ftx_node::net::admission::Admission;
use ftx_node::net::connection::{self, ConnectError, Connection, Dialling};
use ftx_node::net::group::{BINDING_LEN, Binding, EXPORTER_LABEL, GroupSecret, Speaker};
use ftx_node::net::tcp_info::Tries;
use ftx_node::net::tls::{Tls, server_name};
use ftx_node::trust;
use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::wire::session::{HEADER_LEN, Header, Hello, Message, NotAdmitted};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

const SECRET: &[u8] = b"the secret of the one group";
const OTHER_SECRET: &[u8] = b"the secret of another group";

/// What a session may take that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

struct Somebody {
    tls: Tls,
    name: &'static str,
    _state: TempDir,
}

impl Somebody {
    fn new(name: &'static str, admission: Admission) -> Self {
        let state = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(state.path()).unwrap();
        Somebody { tls: Tls::admitting(&identity, admission).unwrap(), name, _state: state }
    }

    fn with_secret(name: &'static str, secret: &[u8]) -> Self {
        Self::new(name, Admission::group(GroupSecret::new(secret).unwrap()))
    }

    /// Who trusts nobody but these.
    fn trusting(name: &'static str, nodes: &[NodeId]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust");
        std::fs::write(&file, "").unwrap();
        for node in nodes {
            trust::add(&file, *node, None).unwrap();
        }
        let access = Access { trust: Some(file), secret_file: None };
        let admission = Admission::open(&access).unwrap();
        // The file stays as long as the node does; its identity is read.
        Somebody { _state: dir, ..Self::new(name, admission) }
    }

    fn id(&self) -> NodeId {
        self.tls.me
    }

    fn hello(&self) -> Hello {
        Hello { instance: Instance(1), name: self.name.to_owned() }
    }

    async fn dial(&self, addr: SocketAddr) -> Result<Connection, ConnectError> {
        let dialling = Dialling {
            addr,
            local: None,
            tls: self.tls.clone(),
            hello: self.hello(),
            tries: Tries::default(),
        };
        timeout(PATIENCE, connection::dial(dialling)).await.expect("it ends")
    }

    async fn take(&self, listener: &TcpListener) -> Result<Connection, ConnectError> {
        let (tcp, addr) = listener.accept().await.unwrap();
        timeout(PATIENCE, connection::accept(tcp, addr, &self.tls, self.hello())).await.expect("it ends")
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

type Ended = Result<(), ConnectError>;

/// What becomes of it for who dials and for who takes the session.
async fn meet(dials: &Somebody, takes: &Somebody) -> (Ended, Ended) {
    let (listener, addr) = listener().await;
    let (dialled, taken) = tokio::join!(dials.dial(addr), takes.take(&listener));
    if let (Ok(dialled), Ok(taken)) = (&dialled, &taken) {
        assert_eq!((dialled.peer.node, taken.peer.node), (takes.id(), dials.id()));
        assert_eq!((dialled.peer.name.as_str(), taken.peer.name.as_str()), (takes.name, dials.name));
    }
    (dialled.map(drop), taken.map(drop))
}

fn is_told(ended: &Ended, wanted: NotAdmitted) -> bool {
    matches!(ended, Err(ConnectError::NotAdmitted { why, .. }) if *why == wanted)
}

#[tokio::test]
async fn who_is_not_trusted_gets_no_session_whoever_dials() {
    let stranger = Somebody::new("stranger", Admission::default());
    let friend = Somebody::new("friend", Admission::default());
    let careful = Somebody::trusting("careful", &[friend.id()]);

    assert!(matches!(meet(&friend, &careful).await, (Ok(()), Ok(()))));
    assert!(matches!(meet(&careful, &friend).await, (Ok(()), Ok(()))));

    let (dialled, taken) = meet(&stranger, &careful).await;
    assert!(is_told(&dialled, NotAdmitted::Untrusted), "{dialled:?}");
    assert!(matches!(taken, Err(ConnectError::Untrusted(node)) if node == stranger.id()), "{taken:?}");
    let (dialled, taken) = meet(&careful, &stranger).await;
    assert!(matches!(dialled, Err(ConnectError::Untrusted(node)) if node == stranger.id()), "{dialled:?}");
    assert!(is_told(&taken, NotAdmitted::Untrusted), "{taken:?}");
}

#[tokio::test]
async fn a_group_talks_to_itself_only() {
    let one = Somebody::with_secret("one", SECRET);
    let two = Somebody::with_secret("two", SECRET);
    let other = Somebody::with_secret("other", OTHER_SECRET);
    let nobody = Somebody::new("nobody", Admission::default());

    assert!(matches!(meet(&one, &two).await, (Ok(()), Ok(()))));

    let (dialled, taken) = meet(&other, &one).await;
    assert!(is_told(&dialled, NotAdmitted::WrongSecret), "{dialled:?}");
    assert!(matches!(taken, Err(ConnectError::WrongProof(node)) if node == other.id()), "{taken:?}");

    let (dialled, taken) = meet(&nobody, &one).await;
    assert!(is_told(&dialled, NotAdmitted::SecretNeeded), "{dialled:?}");
    assert!(matches!(taken, Err(ConnectError::NoProof(node)) if node == nobody.id()), "{taken:?}");

    let (dialled, taken) = meet(&one, &nobody).await;
    assert!(matches!(dialled, Err(ConnectError::NoProof(node)) if node == nobody.id()), "{dialled:?}");
    assert!(is_told(&taken, NotAdmitted::SecretNeeded), "{taken:?}");
}

/// A session in the hands of somebody whose TLS is that of everybody, not the node's own.
struct Raw(TlsStream<TcpStream>);

impl Raw {
    async fn dial(somebody: &Somebody, addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let connector = TlsConnector::from(somebody.tls.client.clone());
        Raw(connector.connect(server_name(), tcp).await.unwrap().into())
    }

    async fn take(somebody: &Somebody, listener: &TcpListener) -> Self {
        let (tcp, _) = listener.accept().await.unwrap();
        Raw(TlsAcceptor::from(somebody.tls.server.clone()).accept(tcp).await.unwrap().into())
    }

    /// What a proof in this session is bound to.
    fn exported(&self) -> [u8; BINDING_LEN] {
        let exported = [0; BINDING_LEN];
        let exported = match &self.0 {
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(exported, EXPORTER_LABEL, None)
            }
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(exported, EXPORTER_LABEL, None)
            }
        };
        exported.unwrap()
    }

    async fn say(&mut self, message: &Message) {
        self.0.write_all(&message.encode(0)).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next message, as long as there is one.
    async fn hear(&mut self) -> Option<Message> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).await.ok()?;
        let Header { meta_len, payload_len } = Header::decode(header).unwrap();
        let mut meta = vec![0; meta_len];
        self.0.read_exact(&mut meta).await.unwrap();
        Some(Message::decode(&meta, payload_len).unwrap())
    }
}

/// Somebody in the middle has a session with both sides, and passes on what each of them proves.
#[tokio::test]
async fn a_proof_that_is_passed_on_is_none() {
    let one = Somebody::with_secret("one", SECRET);
    let two = Somebody::with_secret("two", SECRET);
    let middle = Somebody::new("middle", Admission::default());
    let (near, near_addr) = listener().await;
    let (far, far_addr) = listener().await;

    let between = async {
        let mut one = Raw::take(&middle, &near).await;
        let mut two = Raw::dial(&middle, far_addr).await;

        let proof = one.hear().await.expect("who dials proves first");
        assert!(matches!(proof, Message::Prove { .. }), "{proof:?}");
        two.say(&proof).await;
        assert_eq!(two.hear().await, Some(Message::NotAdmitted(NotAdmitted::WrongSecret)));
        assert_eq!(two.hear().await, None, "not a word more, and no name");

        // Nor is it a proof of the other side when it comes back.
        one.say(&proof).await;
        assert_eq!(one.hear().await, Some(Message::NotAdmitted(NotAdmitted::WrongSecret)));
        assert_eq!(one.hear().await, None, "not a word more, and no name");
    };
    let (dialled, taken, ()) = tokio::join!(one.dial(near_addr), two.take(&far), between);
    for refused in [dialled.map(drop), taken.map(drop)] {
        assert!(matches!(refused, Err(ConnectError::WrongProof(node)) if node == middle.id()), "{refused:?}");
    }
}

/// Whoever knows the secret and has both keys still has to prove it anew in each session: what was right in an earlier one is
/// worth nothing, whichever side says it.
#[tokio::test]
async fn a_proof_of_an_earlier_session_is_none() {
    let one = Somebody::with_secret("one", SECRET);
    let two = Somebody::with_secret("two", SECRET);
    let secret = GroupSecret::new(SECRET).unwrap();
    let proof = |speaker, exported| {
        let binding = Binding { exported, dialling: one.id(), taking: two.id() };
        Message::Prove { proof: secret.proof(speaker, &binding) }
    };
    let wrong = Some(Message::NotAdmitted(NotAdmitted::WrongSecret));

    let mut earlier = None;
    for is_first in [true, false] {
        let (listener, addr) = listener().await;
        let dialling = async {
            let mut raw = Raw::dial(&one, addr).await;
            let exported = *earlier.get_or_insert(raw.exported());
            assert_eq!(exported == raw.exported(), is_first, "each session exports something else");
            raw.say(&proof(Speaker::Dialling, exported)).await;
            if is_first {
                raw.say(&Message::Hello(one.hello())).await;
                assert_eq!(raw.hear().await, Some(proof(Speaker::Taking, exported)));
            } else {
                assert_eq!(raw.hear().await, wrong);
            }
        };
        let (taken, ()) = tokio::join!(two.take(&listener), dialling);
        match taken {
            Ok(taken) => assert!(is_first && taken.peer.node == one.id()),
            Err(error) => {
                assert!(!is_first && matches!(error, ConnectError::WrongProof(node) if node == one.id()));
            }
        }
    }

    let mut earlier = None;
    for is_first in [true, false] {
        let (listener, addr) = listener().await;
        let taking = async {
            let mut raw = Raw::take(&two, &listener).await;
            let exported = *earlier.get_or_insert(raw.exported());
            assert_eq!(raw.hear().await, Some(proof(Speaker::Dialling, raw.exported())));
            raw.say(&proof(Speaker::Taking, exported)).await;
            if is_first {
                raw.say(&Message::Hello(two.hello())).await;
                assert_eq!(raw.hear().await, Some(Message::Hello(one.hello())));
            } else {
                assert_eq!(raw.hear().await, wrong);
            }
        };
        let (dialled, ()) = tokio::join!(one.dial(addr), taking);
        match dialled {
            Ok(dialled) => assert!(is_first && dialled.peer.node == two.id()),
            Err(error) => {
                assert!(!is_first && matches!(error, ConnectError::WrongProof(node) if node == two.id()));
            }
        }
    }
}

/// Whoever dials a node of a group hears neither its name nor a proof to try guesses at.
#[tokio::test]
async fn who_proves_nothing_hears_nothing() {
    let one = Somebody::with_secret("one", SECRET);
    let stranger = Somebody::new("stranger", Admission::default());
    for said in
        [Message::Hello(stranger.hello()), Message::List { after: None }, Message::Prove { proof: [0; 32] }]
    {
        let (listener, addr) = listener().await;
        let asking = async {
            let mut one = Raw::dial(&stranger, addr).await;
            one.say(&said).await;
            let mut heard = Vec::new();
            while let Some(message) = one.hear().await {
                heard.push(message);
            }
            heard
        };
        let (taken, heard) = tokio::join!(one.take(&listener), asking);
        assert!(taken.is_err());
        let nothing = heard.iter().all(|message| matches!(message, Message::NotAdmitted(_)));
        assert!(nothing && heard.len() <= 1, "{said:?}: {heard:?}");
    }
}

/// Of a node that serves one other node only, the others hear that.
#[tokio::test]
async fn only_the_one_that_was_named_gets_a_session() {
    let friend = Somebody::new("friend", Admission::default());
    let stranger = Somebody::new("stranger", Admission::default());
    let giver = Somebody::new("giver", Admission::default().only_one());
    assert!(is_told(&meet(&friend, &giver).await.0, NotAdmitted::Untrusted), "nobody is named yet");
    assert!(matches!(meet(&giver, &friend).await, (Ok(()), Ok(()))), "but it may dial");
    giver.tls.admission.name_the_only_one(friend.id());
    assert!(matches!(meet(&friend, &giver).await, (Ok(()), Ok(()))));
    assert!(is_told(&meet(&stranger, &giver).await.0, NotAdmitted::Untrusted));
}
