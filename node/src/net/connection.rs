//! A connection between two nodes: TCP, TLS, and the `Hello` of both sides, each within a time-out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::wire::session::{Hello, Message};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::datagram::seal::DatagramSecret;
use super::frame::{FrameError, FrameReader, FrameWriter};
use super::handshake::{self, Shaken};
use super::tcp_info::TcpWatch;
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
}

/// Connects to a node.
///
/// A packet that is lost before TCP knows the network costs a second or more. So what takes longer than a handshake takes
/// on any local network is begun once more beside it, and whichever is done first is taken.
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
                    tries.spawn(try_dial(dialling.clone()));
                }
            }
        }
    };
    timeout(HANDSHAKE_TIMEOUT, dialling).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn try_dial(dialling: Dialling) -> Result<Connection, ConnectError> {
    let Dialling { addr, local, tls, hello } = dialling;
    let socket = match addr {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    if let Some(local) = local.filter(|local| local.is_ipv4() == addr.is_ipv4()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let mut tcp = socket.connect(addr).await?;
    be_prompt(&tcp)?;
    let watch = TcpWatch::new(&tcp).ok();
    let shaken = handshake::connect(&mut tcp, tls.client.clone()).await?;
    let connection = greet(tcp, shaken, addr, hello).await?;
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
        greet(tcp, shaken, addr, me).await
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
) -> Result<Connection, ConnectError> {
    let Shaken { node, datagram_secret, sealer, opener, begun } = shaken;
    let node = node.ok_or(ConnectError::NotANode)?;
    let (read, write) = tcp.into_split();
    let (mut reader, mut writer) = (FrameReader::new(read, opener, begun), FrameWriter::new(write, sealer));
    writer.write(&Message::Hello(me), b"").await?;
    match reader.read().await? {
        Some(Message::Hello(Hello { instance, name })) => {
            let peer = Peer { node, instance, name, addr };
            Ok(Connection { peer, reader, writer, watch: None, datagram_secret })
        }
        _ => Err(ConnectError::NotANode),
    }
}
