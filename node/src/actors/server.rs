//! The Server actor: who is being served what.
//!
//! Owns the accepting task, the sessions that came in (as their supervisor), and the serve engine, which decides whose
//! request is next. It never touches a chunk: it grants spans, the session's own task reads and sends them. When it is
//! restarted, its sessions end and the peers dial again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::engine::serve::{ContentKey, Input, Output, PeerKey, ServeConfig, ServeEngine, SessionId};
use ftx_proto::geometry::{Geometry, Span};
use ftx_proto::name::printable;
use ftx_proto::time::Time;
use ftx_proto::wire::session::{Hello, RequestId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinHandle};

use super::accept::Accepting;
use super::catalog::CatalogMessage;
use super::link::Link;
use super::places::{Place, who_goes};
use super::session::{Session, SessionArguments, SessionMessage};
use super::turns::Turns;
use super::unwanted::Unwanted;
use crate::clock::Clock;
use crate::config::Limits;
use crate::inbox::Inbox;
use crate::limits::{INBOX_TIDY_INTERVAL, TRUST_INTERVAL};
use crate::net::datagram::serving::{DatagramStatistics, Datagrams};
use crate::net::tls::Tls;
use crate::throttle::tell_of_failed;

/// The Server actor.
#[derive(Debug)]
pub struct Server;

/// What the Server is started with.
#[derive(Debug, Clone)]
pub struct ServerArguments {
    /// Where sessions come in; outlives restarts of the actor.
    pub listener: Arc<TcpListener>,
    /// How this node shows itself.
    pub tls: Tls,
    /// What it says first.
    pub hello: Hello,
    /// What there is to serve.
    pub catalog: Link<CatalogMessage>,
    /// How many sessions there may be, and how many may begin a second.
    pub limits: Limits,
    /// Bytes per second that all sessions together may send; `None` for no limit.
    pub max_upload: Option<u64>,
    /// Who serves chunks in datagrams; outlives restarts of the actor.
    pub datagrams: Datagrams,
    /// Where files go that are put; none: nowhere.
    pub inbox: Option<Arc<Inbox>>,
    /// Where connections do their work.
    pub data: Handle,
    /// What time it is.
    pub clock: Clock,
}

/// What the Server is told.
#[derive(Debug)]
pub enum ServerMessage {
    /// A connection came in.
    Accepted(TcpStream, SocketAddr, OwnedSemaphorePermit),
    /// A session knows who its peer is. All sessions of one peer share one turn; two instances of an identity are two
    /// peers.
    Opened {
        /// Which session.
        session: SessionId,
        /// Proved by its certificate.
        node: NodeId,
        /// Which instance it says it is.
        instance: Instance,
        /// What it calls itself.
        name: String,
    },
    /// A session's peer asks for chunks.
    Asked {
        /// Which session.
        session: SessionId,
        /// The peer's number for the request.
        request: RequestId,
        /// The session's number for the content.
        content: ContentKey,
        /// How that is cut.
        geometry: Geometry,
        /// What is asked for.
        span: Span,
        /// Of the session's messages: what waits in this mailbox is bounded by them.
        permit: OwnedSemaphorePermit,
    },
    /// The peer does not want it any more, or it cannot be read.
    Cancelled {
        /// Which session.
        session: SessionId,
        /// The peer's number for the request.
        request: RequestId,
        /// Of the session's messages, where it was one.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// What was granted has left, or cannot be sent.
    Sent {
        /// Which session.
        session: SessionId,
        /// Bytes that were sent of each grant, in the order they were granted.
        grants: Vec<u64>,
    },
    /// Chunks of a session have left in datagrams.
    SentDatagrams {
        /// Which session.
        session: SessionId,
        /// Bytes that were sent.
        bytes: u64,
    },
    /// What a session's peer puts here goes on.
    PutGoesOn(SessionId),
    /// A session is closed since its peer broke the protocol.
    BrokeProtocol,
    /// All places are taken and somebody at this address waits for one: whether somebody else has to go.
    MakeRoom(IpAddr, RpcReplyPort<bool>),
    /// The engine's deadline has come.
    Tick,
    /// Time to look whether who has a session is still trusted.
    LookWhoIsTrusted,
    /// Time to remove from the inbox what nobody went on with.
    TidyInbox,
    /// How much is going on.
    Statistics(RpcReplyPort<ServerStatistics>),
    /// Who has sessions, and what each was given; sessions of one peer are told as one.
    Peers(RpcReplyPort<Vec<ServedPeer>>),
}

/// A peer that has sessions with this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPeer {
    /// Proved by its certificate.
    pub node: NodeId,
    /// Which instance it says it is.
    pub instance: Instance,
    /// What it calls itself.
    pub name: String,
    /// Where one of its sessions comes from.
    pub addr: SocketAddr,
    /// How many sessions it has: connections of TCP.
    pub connections: usize,
    /// Bytes of chunks that were sent in them.
    pub stream_bytes: u64,
    /// Bytes of chunks that were sent beside them, in datagrams.
    pub datagram_bytes: u64,
    /// How long it has neither asked for anything nor taken anything.
    pub quiet: Duration,
}

/// How much the Server has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerStatistics {
    /// Sessions open now, their handshake done.
    pub sessions: usize,
    /// Sessions that were closed since their peer broke the protocol.
    pub broke_protocol: u64,
    /// Bytes of chunks sent since the start, in sessions and in datagrams.
    pub bytes_sent: u64,
    /// What came in datagrams and was not answered.
    pub datagrams: DatagramStatistics,
    /// Connections turned away because there were too many.
    pub turned_away: u64,
}

/// What the Server owns.
#[derive(Debug)]
pub struct ServerState {
    arguments: ServerArguments,
    engine: ServeEngine,
    sessions: HashMap<SessionId, Open>,
    by_actor: HashMap<ActorId, SessionId>,
    next_session: u64,
    ticking: Option<AbortHandle>,
    /// Look who is trusted, where not everybody is, and for what is forgotten in the inbox.
    timers: Vec<AbortHandle>,
    /// What version of that was looked at.
    trust_seen: Option<u64>,
    accepting: AbortHandle,
    statistics: ServerStatistics,
    turned_away: Arc<AtomicU64>,
    hasher: RandomState,
    turns: Turns<Newcomer>,
    unwanted: Arc<Unwanted>,
}

/// A connection that waits for its handshake.
#[derive(Debug)]
struct Newcomer {
    tcp: TcpStream,
    addr: SocketAddr,
    permit: OwnedSemaphorePermit,
}

/// A session, and what tells who goes first when all places are taken.
#[derive(Debug)]
struct Open {
    actor: ActorRef<SessionMessage>,
    place: Place,
    /// Where its connection comes from.
    addr: SocketAddr,
    /// Who it is, once the handshake is done.
    peer: Option<(NodeId, Instance, String)>,
    stream_bytes: u64,
    datagram_bytes: u64,
    /// It has been told to go.
    leaving: bool,
}

impl Open {
    /// Ends it if its peer is not trusted any more.
    fn part_with_untrusted(&mut self, tls: &Tls) {
        let Some((node, _, name)) = self.peer.as_ref().filter(|_| !self.leaving) else { return };
        if !tls.admission.admits(*node, tls.me, false) {
            let name = printable(name);
            tracing::warn!(node = %node.short(), %name, addr = %self.addr, "not trusted any more: its session ends");
            self.leaving = true;
            // One that has just ended is reported by its supervision event.
            let _ = self.actor.cast(SessionMessage::NotTrusted);
        }
    }
}

impl Actor for Server {
    type Msg = ServerMessage;
    type State = ServerState;
    type Arguments = ServerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ServerMessage>,
        arguments: ServerArguments,
    ) -> Result<ServerState, ActorProcessingErr> {
        let config = ServeConfig { max_upload: arguments.max_upload, ..ServeConfig::default() };
        let turned_away = Arc::<AtomicU64>::default();
        let accepting = Accepting {
            system: "sessions",
            listener: Arc::clone(&arguments.listener),
            connections_max: arguments.limits.sessions.into(),
            accepted: ServerMessage::Accepted,
            make_room: Some(ServerMessage::MakeRoom),
            turned_away: Arc::clone(&turned_away),
        };
        let accepting = tokio::spawn(accepting.run(myself.clone()));
        let names = arguments.tls.admission.trusted();
        let trust = names.map(|_| myself.send_interval(TRUST_INTERVAL, || ServerMessage::LookWhoIsTrusted));
        let inbox = arguments.inbox.as_ref();
        let tidying = inbox.map(|_| myself.send_interval(INBOX_TIDY_INTERVAL, || ServerMessage::TidyInbox));
        Ok(ServerState {
            engine: ServeEngine::new(config, rand::random()),
            sessions: HashMap::new(),
            by_actor: HashMap::new(),
            next_session: 0,
            ticking: None,
            timers: trust.iter().chain(&tidying).map(JoinHandle::abort_handle).collect(),
            trust_seen: None,
            accepting: accepting.abort_handle(),
            statistics: ServerStatistics::default(),
            turned_away,
            hasher: RandomState::new(),
            unwanted: Arc::default(),
            turns: Turns::new(arguments.clock.now(), arguments.limits.handshakes_per_second.into()),
            arguments,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ServerMessage>,
        message: ServerMessage,
        state: &mut ServerState,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.arguments.clock.now();
        match message {
            ServerMessage::Accepted(tcp, addr, permit) => {
                state.turns.push(now, addr.ip(), Newcomer { tcp, addr, permit });
                state.open_sessions(&myself, now).await;
            }
            ServerMessage::Opened { session, node, instance, name } => {
                let peer = state.peer_key(node, instance);
                // That a session has ended is heard before what it said last. The engine would keep it for ever.
                let Some(open) = state.sessions.get_mut(&session) else { return Ok(()) };
                open.peer = Some((node, instance, name));
                open.place.peer = Some(peer);
                open.place.active = now;
                // Perhaps it was removed between the handshake and this.
                open.part_with_untrusted(&state.arguments.tls);
                state.engine.handle(now, Input::Opened { session, peer });
            }
            ServerMessage::Asked { session, request, content, geometry, span, permit: _permit } => {
                state.is_active(session, now);
                state.engine.handle(now, Input::Asked { session, request, content, geometry, span });
            }
            ServerMessage::Cancelled { session, request, permit: _permit } => {
                state.engine.handle(now, Input::Cancelled { session, request });
            }
            ServerMessage::Sent { session, grants } => {
                let bytes: u64 = grants.iter().sum();
                state.statistics.bytes_sent += bytes;
                if let Some(open) = state.is_active(session, now) {
                    open.stream_bytes += bytes;
                }
                for bytes in grants {
                    state.engine.handle(now, Input::Sent { session, bytes });
                }
            }
            ServerMessage::SentDatagrams { session, bytes } => {
                state.statistics.bytes_sent += bytes;
                if let Some(open) = state.is_active(session, now) {
                    open.datagram_bytes += bytes;
                }
                state.engine.handle(now, Input::Spent { bytes });
            }
            ServerMessage::PutGoesOn(session) => {
                state.is_active(session, now);
                return Ok(());
            }
            ServerMessage::BrokeProtocol => {
                state.statistics.broke_protocol += 1;
                return Ok(());
            }
            ServerMessage::MakeRoom(from, reply) => {
                // Whoever asked may have given up.
                let _ = reply.send(state.make_room(now, from));
                return Ok(());
            }
            ServerMessage::Tick => {
                state.open_sessions(&myself, now).await;
                state.engine.handle(now, Input::Tick);
            }
            ServerMessage::LookWhoIsTrusted => {
                let tls = &state.arguments.tls;
                let version = tls.admission.version();
                if std::mem::replace(&mut state.trust_seen, version) != version {
                    state.sessions.values_mut().for_each(|open| open.part_with_untrusted(tls));
                }
                return Ok(());
            }
            ServerMessage::TidyInbox => {
                if let Some(inbox) = state.arguments.inbox.clone() {
                    tokio::task::spawn_blocking(move || inbox.remove_forgotten());
                }
                return Ok(());
            }
            ServerMessage::Statistics(reply) => {
                state.statistics.sessions = state.engine.session_count();
                state.statistics.datagrams = state.arguments.datagrams.statistics();
                state.statistics.turned_away = state.turned_away.load(Ordering::Relaxed);
                // Whoever asked may have given up.
                let _ = reply.send(state.statistics);
                return Ok(());
            }
            ServerMessage::Peers(reply) => {
                let _ = reply.send(state.peers(now));
                return Ok(());
            }
        }
        state.carry_out(&myself);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ServerMessage>,
        event: SupervisionEvent,
        state: &mut ServerState,
    ) -> Result<(), ActorProcessingErr> {
        let ended = match &event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                tracing::debug!(reason = reason.as_deref().unwrap_or("stopped"), "session ended");
                Some(actor.get_id())
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                tell_of_failed("a session", error);
                Some(actor.get_id())
            }
            _ => None,
        };
        if let Some(session) = ended.and_then(|actor| state.by_actor.remove(&actor)) {
            state.sessions.remove(&session);
            state.engine.handle(state.arguments.clock.now(), Input::Closed { session });
            state.carry_out(&myself);
        }
        Ok(())
    }
}

impl Drop for ServerState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.accepting.abort();
        for task in self.ticking.iter().chain(&self.timers) {
            task.abort();
        }
    }
}

impl ServerState {
    /// Begins with those whose turn it is.
    async fn open_sessions(&mut self, myself: &ActorRef<ServerMessage>, now: Time) {
        while let Some(newcomer) = self.turns.next(now) {
            self.open_session(myself, newcomer).await;
        }
    }

    async fn open_session(&mut self, myself: &ActorRef<ServerMessage>, newcomer: Newcomer) {
        let Newcomer { tcp, addr, permit } = newcomer;
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let arguments = SessionArguments {
            session,
            tcp,
            addr,
            permit,
            tls: self.arguments.tls.clone(),
            hello: self.arguments.hello.clone(),
            server: myself.clone(),
            catalog: self.arguments.catalog.clone(),
            datagrams: self.arguments.datagrams.clone(),
            inbox: self.arguments.inbox.clone(),
            unwanted: Arc::clone(&self.unwanted),
            data: self.arguments.data.clone(),
        };
        match Session::spawn_linked(None, Session, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.by_actor.insert(actor.get_id(), session);
                let active = self.arguments.clock.now();
                let open = Open {
                    actor,
                    place: Place { from: addr.ip(), peer: None, active },
                    addr,
                    peer: None,
                    stream_bytes: 0,
                    datagram_bytes: 0,
                    leaving: false,
                };
                self.sessions.insert(session, open);
            }
            Err(error) => tracing::warn!(%addr, %error, "cannot start a session"),
        }
    }

    /// By what the share of a peer is counted. Who only says to be the instance of another does not get at that one's.
    fn peer_key(&self, node: NodeId, instance: Instance) -> PeerKey {
        PeerKey(self.hasher.hash_one((node.0, instance.0)))
    }

    fn is_active(&mut self, session: SessionId, now: Time) -> Option<&mut Open> {
        let open = self.sessions.get_mut(&session)?;
        open.place.active = now;
        Some(open)
    }

    fn peers(&self, now: Time) -> Vec<ServedPeer> {
        let mut peers: BTreeMap<(NodeId, Instance), ServedPeer> = BTreeMap::new();
        for open in self.sessions.values() {
            let Some((node, instance, name)) = &open.peer else { continue };
            let (node, instance, quiet) = (*node, *instance, now.since(open.place.active));
            let peer = peers.entry((node, instance)).or_insert_with(|| ServedPeer {
                node,
                instance,
                name: name.clone(),
                addr: open.addr,
                connections: 0,
                stream_bytes: 0,
                datagram_bytes: 0,
                quiet,
            });
            peer.connections += 1;
            peer.stream_bytes += open.stream_bytes;
            peer.datagram_bytes += open.datagram_bytes;
            peer.quiet = peer.quiet.min(quiet);
        }
        peers.into_values().collect()
    }

    /// Ends the session that is missed least, if it is fair that one goes for somebody at this address; first of all those
    /// that have not even begun.
    fn make_room(&mut self, now: Time, from: IpAddr) -> bool {
        if self.turns.give_up_for(from).is_some() {
            return true;
        }
        let staying = self.sessions.iter().filter(|(_, open)| !open.leaving);
        let places = staying.map(|(session, open)| (*session, open.place));
        let goes = who_goes(places, |from| self.turns.waiting_at(from), from, now);
        let Some(open) = goes.and_then(|session| self.sessions.get_mut(&session)) else { return false };
        open.leaving = true;
        open.actor.stop(Some("made room for another session".to_owned()));
        true
    }

    /// Does what the engine decided, and sees that it is asked again at its deadline.
    fn carry_out(&mut self, myself: &ActorRef<ServerMessage>) {
        while let Some(output) = self.engine.poll() {
            let (session, message) = match output {
                Output::Grant { session, request, content, span } => {
                    (session, SessionMessage::Granted { request, content, span })
                }
                Output::Refuse { session, request, refusal } => {
                    (session, SessionMessage::Refuse { request, refusal })
                }
                Output::Violation { session } => (session, SessionMessage::TooManyRequests),
            };
            if let Some(open) = self.sessions.get(&session) {
                // A session that has just ended is reported by its supervision event.
                let _ = open.actor.cast(message);
            }
        }
        self.arguments.datagrams.set_others_waiting(self.engine.waiting_count());
        if let Some(tick) = self.ticking.take() {
            tick.abort();
        }
        if let Some(deadline) = self.engine.deadline().into_iter().chain(self.turns.deadline()).min() {
            let at = self.arguments.clock.instant(deadline);
            let myself = myself.clone();
            let tick = tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                let _ = myself.cast(ServerMessage::Tick);
            });
            self.ticking = Some(tick.abort_handle());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::net::datagram::serving::DatagramsArguments;
    use crate::net::datagram::socket::Mode;
    use ractor::rpc::CallResult;
    use tokio::sync::Semaphore;

    async fn server() -> ActorRef<ServerMessage> {
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::new(&Identity::load_or_create(folder.path()).unwrap()).unwrap();
        let arguments = ServerArguments {
            listener: Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap()),
            tls,
            hello: Hello { instance: Instance(1), name: String::new() },
            catalog: Link::default(),
            limits: Limits::default(),
            max_upload: None,
            datagrams: Datagrams::new(DatagramsArguments {
                bind: Some(std::net::Ipv4Addr::LOCALHOST.into()),
                mode: Mode::default(),
                max_upload: None,
                server: Link::default(),
                catalog: Link::default(),
                data: Handle::current(),
            }),
            inbox: None,
            data: Handle::current(),
            clock: Clock::start(),
        };
        Server::spawn(None, Server, arguments).await.unwrap().0
    }

    async fn statistics(server: &ActorRef<ServerMessage>) -> ServerStatistics {
        let asked = server.call(ServerMessage::Statistics, Some(Duration::from_secs(10))).await;
        let Ok(CallResult::Success(statistics)) = asked else { panic!("{asked:?}") };
        statistics
    }

    #[tokio::test]
    async fn what_a_session_said_last_does_not_bring_it_back() {
        let server = server().await;
        let permits = Arc::new(Semaphore::new(1));
        // As it is when a session ends at once: its end overtakes what it said.
        let session = SessionId(5);
        let geometry = Geometry::new(10).unwrap();
        let span = geometry.span(0, 1).unwrap();
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let (request, content) = (RequestId(1), ContentKey(0));
        let name = String::new();
        let opened = ServerMessage::Opened { session, node: NodeId([1; 32]), instance: Instance(1), name };
        server.cast(opened).unwrap();
        server.cast(ServerMessage::Asked { session, request, content, geometry, span, permit }).unwrap();
        assert_eq!(statistics(&server).await.sessions, 0);
        assert_eq!(permits.available_permits(), 1, "what was looked at does not count any more");
        server.stop_and_wait(None, None).await.unwrap();
    }
}
