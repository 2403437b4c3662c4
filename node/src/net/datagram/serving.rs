//! The serving side of the datagram lane: who may ask for what, and the sockets at which that is answered.
//!
//! There is one socket for each address family, opened when it is first needed, at a port that the system gives; one
//! task for each, on a thread of its own, carries everything from the disk to the socket (`task`). A connection, which is one content within
//! one session, lives as long as its [`DatagramConnection`], which the session holds. It is never said to anybody who
//! is not known that there is something here: what is not sealed with the key of a connection, is not new, or does not
//! come from the address of its session, is dropped and counted. A crash loses all connections, and their sessions.

mod limit;
mod task;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ftx_proto::digest::Root;
use ftx_proto::engine::serve::SessionId;
use ftx_proto::wire::datagram::ConnectionId;
use ftx_proto::wire::session::DatagramsAt;
use ractor::ActorRef;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use self::limit::Limit;
use self::task::{Command, Connection, Task};
use super::seal::{DatagramSecret, OpenerCounts, Side};
use super::socket::{DatagramSocket, Mode};
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::actors::server::ServerMessage;
use crate::actors::session::SessionMessage;
use crate::catalog::ContentReader;
use crate::limits::DATAGRAM_CONNECTIONS_MAX;
use crate::runtimes::Apart;

/// What a node's datagrams are served with.
#[derive(Debug, Clone)]
pub struct DatagramsArguments {
    /// The only address to use, where the node is confined to one.
    pub bind: Option<IpAddr>,
    /// How datagrams are given to the system.
    pub mode: Mode,
    /// Bytes a second that all connections together may send; `None` for no limit.
    pub max_upload: Option<u64>,
    /// Who hears what was sent.
    pub server: Link<ServerMessage>,
    /// Who hears that a file is not what was hashed.
    pub catalog: Link<CatalogMessage>,
    /// Where the tasks run if there are no threads for them.
    pub data: Handle,
}

/// Content that a session may ask for in datagrams.
#[derive(Debug)]
pub struct Served {
    /// Which session.
    pub session: SessionId,
    /// Who hears what goes wrong.
    pub actor: ActorRef<SessionMessage>,
    /// Where the session comes from.
    pub peer: IpAddr,
    /// The content.
    pub root: Root,
    /// Where to read it.
    pub reader: Arc<ContentReader>,
}

/// All connections of a node; see the [module](self).
#[derive(Debug, Clone)]
pub struct Datagrams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bind: Option<IpAddr>,
    mode: Mode,
    data: Handle,
    outside: Arc<Outside>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

/// What the tasks share with each other and with the rest of the node.
#[derive(Debug)]
struct Outside {
    limit: Option<Limit>,
    counters: Counters,
    server: Link<ServerMessage>,
    catalog: Link<CatalogMessage>,
}

#[derive(Debug)]
struct State {
    v4: Option<Open>,
    v6: Option<Open>,
    next: u32,
    stride: u32,
}

/// A socket, and the way to its task.
#[derive(Debug)]
struct Open {
    socket: Arc<DatagramSocket>,
    commands: mpsc::UnboundedSender<Command>,
    task: AbortHandle,
}

/// A connection; it ends when this is dropped.
#[derive(Debug)]
pub struct DatagramConnection {
    at: DatagramsAt,
    commands: mpsc::UnboundedSender<Command>,
}

/// What came in and was not answered, and what could not be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatagramStatistics {
    /// Connections that there are now.
    pub connections: usize,
    /// Not sealed with the key of their connection.
    pub forged: u64,
    /// Came before.
    pub replayed: u64,
    /// Of no connection.
    pub foreign: u64,
    /// Not from the address of the session.
    pub elsewhere: u64,
    /// Wants that were dropped, all or in part: beyond what one connection may have waiting.
    pub wants_dropped: u64,
    /// Probes beyond their rate.
    pub probes_dropped: u64,
    /// Too large for the path.
    pub too_large: u64,
    /// Not sent for another reason.
    pub not_sent: u64,
}

#[derive(Debug, Default)]
struct Counters {
    forged: AtomicU64,
    replayed: AtomicU64,
    foreign: AtomicU64,
    elsewhere: AtomicU64,
    wants_dropped: AtomicU64,
    probes_dropped: AtomicU64,
}

impl Datagrams {
    /// No socket is open yet.
    pub fn new(arguments: DatagramsArguments) -> Self {
        let DatagramsArguments { bind, mode, max_upload, server, catalog, data } = arguments;
        let limit = max_upload.map(Limit::new);
        let outside = Arc::new(Outside { limit, counters: Counters::default(), server, catalog });
        // An odd stride: every number comes once before one comes again.
        let state = State { v4: None, v6: None, next: rand::random(), stride: rand::random::<u32>() | 1 };
        let places = Arc::new(Semaphore::new(DATAGRAM_CONNECTIONS_MAX));
        Datagrams { shared: Arc::new(Shared { bind, mode, data, outside, places, state: Mutex::new(state) }) }
    }

    /// Lets a session's peer ask for a content in datagrams. `None` if there is no socket for it, or no place.
    pub fn open(&self, served: Served, secret: &DatagramSecret) -> Option<DatagramConnection> {
        let shared = &*self.shared;
        let place = Arc::clone(&shared.places).try_acquire_owned().ok()?;
        let peer = served.peer.to_canonical();
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next = state.next.wrapping_add(state.stride);
        let id = ConnectionId(state.next);
        let open = shared
            .socket_for(peer, &mut state)
            .inspect_err(|error| tracing::warn!(%peer, %error, "no datagrams"))
            .ok()?;
        let keys = secret.keys(&served.root, Side::Serving, id);
        let at = DatagramsAt { port: open.socket.local_addr().port(), connection: id.0 };
        let commands = open.commands.clone();
        let connection = Connection::new(Served { peer, ..served }, keys, place);
        commands.send(Command::Open(id, Box::new(connection))).ok()?;
        Some(DatagramConnection { at, commands })
    }

    /// So many peers wait for their turn in their sessions. Where uploads are limited, they have their share of it.
    pub fn set_others_waiting(&self, peers: usize) {
        if let Some(limit) = &self.shared.outside.limit {
            limit.set_others(peers);
        }
    }

    /// What was not answered so far, and what could not be sent.
    pub fn statistics(&self) -> DatagramStatistics {
        let shared = &*self.shared;
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sockets = || [&state.v4, &state.v6].into_iter().flatten().map(|open| &open.socket);
        let counters = &shared.outside.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DatagramStatistics {
            connections: DATAGRAM_CONNECTIONS_MAX - shared.places.available_permits(),
            forged: read(&counters.forged),
            replayed: read(&counters.replayed),
            foreign: read(&counters.foreign),
            elsewhere: read(&counters.elsewhere),
            wants_dropped: read(&counters.wants_dropped),
            probes_dropped: read(&counters.probes_dropped),
            too_large: sockets().map(|socket| socket.too_large()).sum(),
            not_sent: sockets().map(|socket| socket.not_sent()).sum(),
        }
    }
}

impl Shared {
    /// The socket for this peer; opened if there is none, or if its task has failed.
    fn socket_for<'a>(&self, peer: IpAddr, state: &'a mut State) -> std::io::Result<&'a Open> {
        let (slot, any) = match peer {
            IpAddr::V4(_) => (&mut state.v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            IpAddr::V6(_) => (&mut state.v6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        if slot.as_ref().is_none_or(|open| open.commands.is_closed()) {
            let local = SocketAddr::new(self.bind.unwrap_or(any), 0);
            let apart = Apart::start("datagrams-out", &self.data);
            let bind = || {
                let _within = apart.enter();
                DatagramSocket::bind(local, self.mode)
            };
            let socket = Arc::new(bind()?);
            let (commands, orders) = mpsc::unbounded_channel();
            let task = Task::new(Arc::clone(&socket), orders, Arc::clone(&self.outside));
            let task = apart.run(task.run());
            let (addr, buffer) = (socket.local_addr(), socket.receive_buffer_bytes());
            tracing::debug!(%addr, buffer, segments = socket.segments(), "datagrams are served");
            *slot = Some(Open { socket, commands, task });
        }
        slot.as_ref().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for open in [&state.v4, &state.v6].into_iter().flatten() {
            open.task.abort();
        }
    }
}

impl DatagramConnection {
    /// Where the peer asks, and by which number.
    pub fn at(&self) -> DatagramsAt {
        self.at
    }

    /// Its number.
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.at.connection)
    }
}

impl Drop for DatagramConnection {
    fn drop(&mut self) {
        // A task that has ended has no connections either.
        let _ = self.commands.send(Command::Close(self.id()));
    }
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// What an opener did not let in since it had counted `before`.
    fn add_opened(&self, before: OpenerCounts, after: OpenerCounts) {
        Self::add(&self.forged, after.forged - before.forged);
        Self::add(&self.replayed, after.replayed - before.replayed);
        Self::add(&self.foreign, after.foreign - before.foreign);
    }
}
