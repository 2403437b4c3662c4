//! A connection between two nodes: TCP, TLS, and the `Hello` of both sides, each within a time-out.
//!
//! Between TLS and `Hello` stands whether the two talk to each other at all ([`Admission`](super::admission::Admission)):
//! whoever is not trusted, or does not prove the group's secret, is told that and nothing else, not even a name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::wire::session::{Hello, Message, NotAdmitted};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::datagram::seal::DatagramSecret;
use super::frame::{FrameError, FrameReader, FrameWriter};
use super::group::{Binding, Speaker};
use super::handshake::{self, Shaken};
use super::tcp_info::{TcpWatch, Tries};
use super::tls::Tls;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Proved by its certificate.
    pub node: NodeId,
    /// Which instance it says it is.
    pub instance: Instance,
    /// What it calls itself; printable text is made of it where it is shown.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
}

/// An authenticated connection, ready for messages.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// What it sends.
    pub reader: FrameReader<OwnedReadHalf>,
    /// What we send.
    pub writer: FrameWriter<OwnedWriteHalf>,
    /// Tells how its network does, if it was dialled and descriptors are not short.
    pub watch: Option<TcpWatch>,
    /// From what the keys of its datagrams are made.
    pub datagram_secret: DatagramSecret,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network or TLS says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer does not speak this protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Something else is there, not a node of this version.
    #[error("it is not a node that speaks this version of the protocol")]
    NotANode,
    /// Nothing happened for too long.
    #[error("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// This node does not talk to that one.
    #[error("node {0} is not trusted here; `ftx-node trust add {0}` lets it in")]
    Untrusted(NodeId),
    /// The peer does not know the secret of this node's group.
    #[error("node {0} does not prove that it knows the secret of this node's group")]
    NoProof(NodeId),
    /// The peer knows another secret, or somebody sits in between.
    #[error("node {0} does not know the secret of this node's group, but another one")]
    WrongProof(NodeId),
    /// The peer does not talk to this node.
    #[error("{}", said(*why, *me))]
    NotAdmitted {
        /// Who says it.
        by: NodeId,
        /// What it says.
        why: NotAdmitted,
        /// Who this node is.
        me: NodeId,
    },
}

impl ConnectError {
    /// Who is at the other end, if one of the two nodes does not want to talk to the other; then it is of no use to try
    /// again.
    pub fn refused_with(&self) -> Option<NodeId> {
        match self {
            ConnectError::Untrusted(node) | ConnectError::NoProof(node) | ConnectError::WrongProof(node) => {
                Some(*node)
            }
            ConnectError::NotAdmitted { by, .. } => Some(*by),
            _ => None,
        }
    }

    /// What the peer is told, where it is this node that does not want.
    fn to_say(&self) -> Option<NotAdmitted> {
        match self {
            ConnectError::Untrusted(_) => Some(NotAdmitted::Untrusted),
            ConnectError::NoProof(_) => Some(NotAdmitted::SecretNeeded),
            ConnectError::WrongProof(_) => Some(NotAdmitted::WrongSecret),
            _ => None,
        }
    }
}

/// What it means that the peer says this.
fn said(why: NotAdmitted, me: NodeId) -> String {
    match why {
        NotAdmitted::Untrusted => {
            format!("it does not trust this node; `ftx-node trust add {me}` there would let it in")
        }
        NotAdmitted::SecretNeeded => {
            "it belongs to a group with a secret; --secret-file FILE gives it".to_owned()
        }
        NotAdmitted::WrongSecret => "it belongs to a group with another secret".to_owned(),
    }
}

/// How long a connection may take to be made, from dialling to `Hello`.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses after which a connection that is not yet there is dialled once more.
const DIAL_AGAIN_AFTER: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// Whom to dial, and as whom.
#[derive(Debug, Clone)]
pub struct Dialling {
    /// Where the peer is.
    pub addr: SocketAddr,
    /// The local address to dial from, where the node is confined to one.
    pub local: Option<IpAddr>,
    /// How this node shows itself.
    pub tls: Tls,
    /// What it says first.
    pub hello: Hello,
    /// What is under way there.
    pub tries: Tries,
}

/// Connects to a node.
///
/// A packet that is lost before TCP knows the network costs a second or more. So what takes longer than a handshake takes
/// on any local network is begun once more beside it, and whichever is done first is taken. A peer that has all that was sent
/// and is slow to answer has much to do, and is given no more of it, but for one more try: its answer may be lost as well.
pub async fn dial(dialling: Dialling) -> Result<Connection, ConnectError> {
    let dialling = async {
        let mut tries = JoinSet::new();
        tries.spawn(try_dial(dialling.clone()));
        let mut pauses = DIAL_AGAIN_AFTER.iter();
        loop {
            let again = async {
                match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = tries.join_next() => match done {
                    Some(Ok(Err(_))) if !tries.is_empty() => {}
                    Some(Ok(result)) => return result,
                    Some(Err(failed)) => return Err(io::Error::other(failed).into()),
                    None => return Err(ConnectError::Timeout),
                },
                () = again => {
                    if pauses.as_slice().is_empty() || !dialling.tries.has_arrived() {
                        tries.spawn(try_dial(dialling.clone()));
                    }
                }
            }
        }
    };
    timeout(HANDSHAKE_TIMEOUT, dialling).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn try_dial(dialling: Dialling) -> Result<Connection, ConnectError> {
    let Dialling { addr, local, tls, hello, tries } = dialling;
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    if let Some(local) = local.filter(|local| local.is_ipv4() == addr.is_ipv4()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let mut tcp = socket.connect(addr).await?;
    be_prompt(&tcp)?;
    let watch = TcpWatch::new(&tcp).ok().inspect(|watch| tries.add(watch));
    let shaken = handshake::connect(&mut tcp, tls.client.clone()).await?;
    let connection = greet(tcp, shaken, addr, hello, &tls).await?;
    watch.iter().for_each(|watch| tries.is_made(watch));
    Ok(Connection { watch, ..connection })
}

/// Answers a connection that came in from `addr`. Within the runtime of the caller it is waited for from now on.
pub async fn accept(
    tcp: TcpStream,
    addr: SocketAddr,
    tls: &Tls,
    me: Hello,
) -> Result<Connection, ConnectError> {
    let accepting = async {
        // Otherwise whoever took it from the queue would be woken for all that comes.
        let mut tcp = TcpStream::from_std(tcp.into_std()?)?;
        be_prompt(&tcp)?;
        let shaken = handshake::accept(&mut tcp, tls.server.clone()).await?;
        greet(tcp, shaken, addr, me, tls).await
    };
    timeout(HANDSHAKE_TIMEOUT, accepting).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Lets small messages go out at once, and again soon where they are lost.
fn be_prompt(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    // Where little is on its way, waiting longer each time relieves no network. A system that cannot do it waits.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(tcp).set_tcp_thin_linear_timeouts(true);
    Ok(())
}

async fn greet(
    tcp: TcpStream,
    shaken: Shaken,
    addr: SocketAddr,
    me: Hello,
    tls: &Tls,
) -> Result<Connection, ConnectError> {
    let Shaken { node, speaker, group_binding, datagram_secret, sealer, opener, begun } = shaken;
    let node = node.ok_or(ConnectError::NotANode)?;
    let (dialling, taking) = if speaker == Speaker::Dialling { (tls.me, node) } else { (node, tls.me) };
    let binding = Binding { exported: group_binding, dialling, taking };
    let (read, write) = tcp.into_split();
    let (mut reader, mut writer) = (FrameReader::new(read, opener, begun), FrameWriter::new(write, sealer));
    if let Err(error) = admit(&mut reader, &mut writer, tls, node, speaker, &binding).await {
        if let Some(why) = error.to_say() {
            tell_that_it_is_not_admitted(&mut reader, &mut writer, why).await;
        }
        return Err(error);
    }
    writer.write(&Message::Hello(me), b"").await?;
    match reader.read().await? {
        Some(Message::Hello(Hello { instance, name })) => {
            let peer = Peer { node, instance, name, addr };
            Ok(Connection { peer, reader, writer, watch: None, datagram_secret })
        }
        Some(Message::NotAdmitted(why)) => Err(ConnectError::NotAdmitted { by: node, why, me: tls.me }),
        Some(Message::Prove { .. }) => {
            Err(ConnectError::NotAdmitted { by: node, why: NotAdmitted::SecretNeeded, me: tls.me })
        }
        _ => Err(ConnectError::NotANode),
    }
}

type Reader = FrameReader<OwnedReadHalf>;
type Writer = FrameWriter<OwnedWriteHalf>;

/// Finds out whether the two nodes talk to each other. Where there is a secret, who dialled proves first that it knows it:
/// so nobody gets a proof, at which to try guesses, by dialling.
async fn admit(
    reader: &mut Reader,
    writer: &mut Writer,
    tls: &Tls,
    node: NodeId,
    speaker: Speaker,
    binding: &Binding,
) -> Result<(), ConnectError> {
    if !tls.admission.admits(node, tls.me, speaker == Speaker::Dialling) {
        return Err(ConnectError::Untrusted(node));
    }
    let Some(secret) = tls.admission.secret() else { return Ok(()) };
    let ours = Message::Prove { proof: secret.proof(speaker, binding) };
    if speaker == Speaker::Dialling {
        writer.write(&ours, b"").await?;
    }
    let other = if speaker == Speaker::Dialling { Speaker::Taking } else { Speaker::Dialling };
    match reader.read().await? {
        Some(Message::Prove { proof }) if secret.is_proof(other, binding, &proof) => {}
        Some(Message::Prove { .. }) => return Err(ConnectError::WrongProof(node)),
        Some(Message::NotAdmitted(why)) => {
            return Err(ConnectError::NotAdmitted { by: node, why, me: tls.me });
        }
        Some(Message::Hello(_)) => return Err(ConnectError::NoProof(node)),
        _ => return Err(ConnectError::NotANode),
    }
    if speaker == Speaker::Taking {
        writer.write(&ours, b"").await?;
    }
    Ok(())
}

/// The last word to a peer that is not wanted. What it has sent is read, since a system that closes a connection on unread
/// bytes takes back what it sent itself.
async fn tell_that_it_is_not_admitted(reader: &mut Reader, writer: &mut Writer, why: NotAdmitted) {
    let telling = async {
        writer.write(&Message::NotAdmitted(why), b"").await?;
        writer.close().await?;
        for _ in 0..MESSAGES_OF_UNWANTED_MAX {
            if !matches!(reader.read().await, Ok(Some(_))) {
                break;
            }
        }
        io::Result::Ok(())
    };
    // It may be gone, or stay silent: it was refused all the same.
    let _ = timeout(LAST_WORD_MAX, telling).await;
}

/// Messages that are read of a peer that is not wanted.
const MESSAGES_OF_UNWANTED_MAX: usize = 4;

/// How long a peer that is not wanted has to take that it is not.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);
#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use tokio::io::AsyncWriteExt;

    /// The time is virtual: it passes when nobody has anything else to do.
    #[tokio::test(start_paused = true)]
    async fn a_handshake_of_a_byte_a_second_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::new(&Identity::load_or_create(folder.path()).unwrap()).unwrap();
        let me = Hello { instance: Instance(1), name: String::new() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, addr) = listener.accept().await.unwrap();
        // A record as long as they get, of which there is always a byte more.
        let dribbling = tokio::spawn(async move {
            for byte in [22, 3, 1, 64, 0, 1, 0, 63, 0].into_iter().chain(std::iter::repeat(3)) {
                if slow.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let began = tokio::time::Instant::now();
        let error = accept(tcp, addr, &tls, me).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout), "{error}");
        assert!(began.elapsed() <= HANDSHAKE_TIMEOUT + Duration::from_secs(1));
        dribbling.abort();
    }
}
