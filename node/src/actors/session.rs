//! The Session actor: one connection that came in, and what its peer wants.
//!
//! Two tasks carry its bytes: one reads messages and hands them over, at most [`SESSION_MESSAGES_MAX`] at a time, so
//! that a peer that asks faster than it is answered waits in its own socket; one writes, reading each granted span of
//! a file to where it is sent from. The actor between them holds the facts: who the peer is, which
//! contents it has subscribed to, what it was granted. It ends with its connection, and loses nothing that matters.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Root;
use ftx_proto::engine::serve::{ContentKey, SessionId};
use ftx_proto::geometry::Span;
use ftx_proto::limits::{HAVE_RANGES_MAX, LISTING_ENTRIES_MAX};
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::datagram::ConnectionId;
use ftx_proto::wire::session::{Hello, Message, Refusal, RequestId, WhichHashes};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::catalog::CatalogMessage;
use super::link::{LastWord, Link};
use super::server::ServerMessage;
use super::unwanted::Unwanted;
use crate::catalog::{ContentReader, Have};
use crate::inbox::{Inbox, Proposal, no_inbox};
use crate::limits::{HAVE_INTERVAL, SESSION_CONTENTS_MAX, SESSION_IDLE_MAX, SESSION_MESSAGES_MAX};
use crate::net::connection::{self, Peer};
use crate::net::datagram::seal::DatagramSecret;
use crate::net::datagram::serving::{DatagramConnection, Datagrams, Served};
use crate::net::frame::FrameError;
use crate::net::serving::{Outgoing, Saying, write_outgoing};
use crate::net::tls::Tls;
use crate::runtimes;

/// The Session actor.
#[derive(Debug)]
pub struct Session;

/// What a session is started with.
#[derive(Debug)]
pub struct SessionArguments {
    /// Its number at the Server.
    pub session: SessionId,
    /// The connection.
    pub tcp: TcpStream,
    /// Where it came from.
    pub addr: SocketAddr,
    /// Its place among the sessions that are allowed.
    pub permit: OwnedSemaphorePermit,
    /// How this node shows itself.
    pub tls: Tls,
    /// What it says first.
    pub hello: Hello,
    /// Who decides what is served next.
    pub server: ActorRef<ServerMessage>,
    /// What there is to serve.
    pub catalog: Link<CatalogMessage>,
    /// Who serves chunks in datagrams.
    pub datagrams: Datagrams,
    /// Where files go that are put; none: nowhere.
    pub inbox: Option<Arc<Inbox>>,
    /// Tells of connections that are not wanted.
    pub unwanted: Arc<Unwanted>,
    /// Where the connection does its work.
    pub data: Handle,
}

/// What a session is told.
#[derive(Debug)]
pub enum SessionMessage {
    /// The handshake is done, by which the keys of its datagrams are known.
    Established(Peer, DatagramSecret),
    /// The peer says something.
    Received(Message, OwnedSemaphorePermit),
    /// The Server lets this be sent.
    Granted {
        /// The peer's number for the request.
        request: RequestId,
        /// Our number for the content.
        content: ContentKey,
        /// What to send.
        span: Span,
    },
    /// The Server does not take the request.
    Refuse {
        /// The peer's number for the request.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The peer asked for more at once than the protocol allows.
    TooManyRequests,
    /// The peer sent what is no message of this protocol, or no datagram of it.
    Malformed(String),
    /// This node does not talk to the peer any more.
    NotTrusted,
    /// A content cannot be served in datagrams any more.
    DatagramsFailed {
        /// As which it was served.
        connection: ConnectionId,
        /// The content.
        root: Root,
        /// Why.
        refusal: Refusal,
    },
    /// The connection has ended.
    Ended(String),
}

/// What a session owns.
#[derive(Debug)]
pub struct SessionState {
    session: SessionId,
    server: ActorRef<ServerMessage>,
    catalog: Link<CatalogMessage>,
    peer: Option<Peer>,
    datagram_secret: Option<DatagramSecret>,
    datagrams: Datagrams,
    outgoing: mpsc::Sender<Outgoing>,
    permits: Arc<Semaphore>,
    contents: HashMap<Root, Subscribed>,
    by_number: HashMap<ContentKey, Root>,
    connection: AbortHandle,
    inbox: Option<Arc<Inbox>>,
    unwanted: Arc<Unwanted>,
    /// What the peer puts; it ends of itself once the connection has.
    putting: Option<AbortHandle>,
    /// The peer broke the protocol and is being told so; nothing it still says counts.
    closing: bool,
    /// Gives its place back when the session is gone.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Subscribed {
    number: ContentKey,
    layer: Arc<PieceLayer>,
    reader: Arc<ContentReader>,
    telling: Option<AbortHandle>,
    /// Ends with the session.
    datagrams: Option<DatagramConnection>,
}

impl Actor for Session {
    type Msg = SessionMessage;
    type State = SessionState;
    type Arguments = SessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<SessionState, ActorProcessingErr> {
        let SessionArguments {
            session,
            tcp,
            addr,
            permit,
            tls,
            hello,
            server,
            catalog,
            datagrams,
            inbox,
            unwanted,
            data,
        } = arguments;
        let permits = Arc::new(Semaphore::new(SESSION_MESSAGES_MAX));
        let (outgoing, queue) = mpsc::channel(SESSION_MESSAGES_MAX + GRANTS_MAX + 1);
        let feeding = Arc::clone(&permits);
        let told = (myself, server.clone(), catalog.clone(), Arc::clone(&unwanted));
        let connection = async move {
            let (session_actor, server, catalog, unwanted) = told;
            let failed = format!("{addr}: it failed inside this program");
            let last = LastWord::new(session_actor.clone(), SessionMessage::Ended(failed));
            let ended = match connection::accept(tcp, addr, &tls, hello).await {
                Ok(connection) => {
                    let _ = session_actor
                        .cast(SessionMessage::Established(connection.peer, connection.datagram_secret));
                    let writing = write_outgoing(connection.writer, queue, session, server, catalog);
                    tokio::select! {
                        ended = read_messages(connection.reader, &session_actor, feeding) => ended,
                        ended = writing => ended,
                    }
                }
                Err(error) => {
                    if error.refused_with().is_some() {
                        unwanted.tell(addr, &error);
                    } else {
                        tracing::info!(%addr, %error, "a connection that did not become a session");
                    }
                    format!("{addr}: {error}")
                }
            };
            last.say(SessionMessage::Ended(ended));
        };
        Ok(SessionState {
            session,
            server,
            catalog,
            peer: None,
            datagram_secret: None,
            datagrams,
            outgoing,
            permits,
            contents: HashMap::new(),
            by_number: HashMap::new(),
            connection: runtimes::carry(connection, &data),
            inbox,
            unwanted,
            putting: None,
            closing: false,
            _permit: permit,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        let carried_out = match message {
            SessionMessage::Ended(reason) => {
                myself.stop(Some(reason));
                Ok(())
            }
            _ if state.closing => Ok(()),
            SessionMessage::Established(peer, datagram_secret) => {
                tracing::debug!(peer = %peer.node.short(), addr = %peer.addr, "session");
                let (session, node, instance) = (state.session, peer.node, peer.instance);
                let name = peer.name.clone();
                state.peer = Some(peer);
                state.datagram_secret = Some(datagram_secret);
                let _ = state.server.cast(ServerMessage::Opened { session, node, instance, name });
                Ok(())
            }
            SessionMessage::Received(message, permit) => state.received(&myself, message, permit).await,
            SessionMessage::Granted { request, content, span } => {
                state.granted(request, content, span);
                Ok(())
            }
            SessionMessage::Refuse { request, refusal } => {
                // The peer finds the request by its number alone.
                state.refuse_later(Some(request), Root([0; 32]), refusal);
                Ok(())
            }
            SessionMessage::DatagramsFailed { connection, root, refusal } => {
                state.datagrams_failed(connection, root, refusal);
                Ok(())
            }
            SessionMessage::NotTrusted => {
                state.part(&myself, "it does not trust this node any more".to_owned());
                Ok(())
            }
            SessionMessage::TooManyRequests => {
                Err("too many requests at once, or one number for two of them".to_owned())
            }
            SessionMessage::Malformed(violation) => Err(violation),
        };
        if let Err(violation) = carried_out {
            state.close(&myself, violation);
        }
        Ok(())
    }
}

impl Drop for SessionState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        for subscribed in self.contents.values() {
            if let Some(telling) = &subscribed.telling {
                telling.abort();
            }
        }
        self.connection.abort();
    }
}

/// What a peer did against the protocol.
type Violation = String;

impl SessionState {
    async fn received(
        &mut self,
        myself: &ActorRef<SessionMessage>,
        message: Message,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Violation> {
        match message {
            Message::List { after } => self.list(after, permit).await,
            Message::Subscribe { root } => self.subscribe(root, permit).await?,
            Message::WantHashes { request, root, which } => self.want_hashes(request, root, which, permit)?,
            Message::Request { request, root, first, count } => {
                let Some(subscribed) = self.contents.get(&root) else {
                    self.refuse(Some(request), root, Refusal::Unknown, permit);
                    return Ok(());
                };
                let geometry = subscribed.layer.geometry().clone();
                let span = geometry.span(first, count).ok_or("asks for chunks that do not exist")?;
                let (session, content) = (self.session, subscribed.number);
                let asked = ServerMessage::Asked { session, request, content, geometry, span, permit };
                let _ = self.server.cast(asked);
            }
            Message::Cancel { request } => {
                let session = self.session;
                let permit = Some(permit);
                let _ = self.server.cast(ServerMessage::Cancelled { session, request, permit });
            }
            Message::Ping(number) => self.send(Outgoing::Message(Message::Pong(number), permit)),
            Message::Goodbye(_) => {}
            Message::Put { name, size, root, port } => {
                self.put(Proposal { name, size, root, port }, permit)?;
            }
            Message::OpenDatagrams { root } => self.open_datagrams(myself, root, permit),
            Message::Hello(_)
            | Message::Listing { .. }
            | Message::Describe { .. }
            | Message::Have { .. }
            | Message::Hashes { .. }
            | Message::Chunks { .. }
            | Message::Zeros { .. }
            | Message::Refused { .. }
            | Message::Datagrams { .. }
            | Message::Pong(_)
            | Message::Prove { .. }
            | Message::NotAdmitted(_)
            | Message::Putting { .. }
            | Message::HavePut { .. }
            | Message::PutRefused { .. } => {
                return Err("sends what only the serving side may send".to_owned());
            }
        }
        Ok(())
    }

    async fn list(&mut self, after: Option<RelativePath>, permit: OwnedSemaphorePermit) {
        let listing =
            self.catalog.call(|reply| CatalogMessage::List { after, limit: LISTING_ENTRIES_MAX, reply });
        let (entries, more) = listing.await.unwrap_or_default();
        self.send(Outgoing::Message(Message::listing(entries, more), permit));
    }

    async fn subscribe(&mut self, root: Root, permit: OwnedSemaphorePermit) -> Result<(), Violation> {
        if self.contents.len() >= SESSION_CONTENTS_MAX {
            return Err("subscribes to too many contents".to_owned());
        }
        if self.contents.contains_key(&root) {
            return Err("subscribes twice to one content".to_owned());
        }
        let content = self.catalog.call(|reply| CatalogMessage::Open(root, reply)).await.ok().flatten();
        let Some(content) = content else {
            self.refuse(None, root, Refusal::Unknown, permit);
            return Ok(());
        };
        // Opening a file may take as long as its disk or its network likes.
        let opening = Arc::clone(&content);
        let opened = tokio::task::spawn_blocking(move || opening.reader()).await;
        let reader = match opened {
            Ok(Ok(reader)) => Arc::new(reader),
            Ok(Err(error)) => {
                tracing::warn!(name = %content.name(), %error, "cannot be served");
                if error.is_news() {
                    self.catalog.cast(CatalogMessage::Rescan);
                }
                self.refuse(None, root, Refusal::from(&error), permit);
                return Ok(());
            }
            Err(_) => return Err("opening the file failed".to_owned()),
        };
        let have = content.have();
        let describe = Message::Describe {
            root,
            size: content.layer().geometry().size(),
            mtime: content.mtime(),
            executable: content.executable(),
            whole: matches!(have, Have::Whole),
        };
        self.send(Outgoing::Message(describe, permit));
        let telling = match have {
            Have::Whole => None,
            Have::Partial(pieces) => {
                let telling = tell_what_is_new(root, pieces, self.outgoing.clone(), self.permits.clone());
                Some(tokio::spawn(telling).abort_handle())
            }
        };
        let number = ContentKey(self.by_number.len() as u64);
        let layer = Arc::clone(content.layer());
        self.by_number.insert(number, root);
        self.contents.insert(root, Subscribed { number, layer, reader, telling, datagrams: None });
        Ok(())
    }

    /// The peer has a file for the inbox.
    fn put(&mut self, proposal: Proposal, permit: OwnedSemaphorePermit) -> Result<(), Violation> {
        if self.putting.as_ref().is_some_and(|putting| !putting.is_finished()) {
            return Err("puts a file before the last one is done".to_owned());
        }
        match (&self.inbox, &self.peer) {
            (Some(inbox), Some(peer)) => {
                let (queue, permits) = (self.outgoing.clone(), Arc::clone(&self.permits));
                let saying = Saying::new(queue, permits, self.session, self.server.clone());
                let putting = Arc::clone(inbox).take(proposal, peer.clone(), saying);
                self.putting = Some(tokio::spawn(putting).abort_handle());
            }
            _ => self.send(Outgoing::Message(no_inbox(), permit)),
        }
        Ok(())
    }

    /// Lets the peer ask for a content in datagrams, with new keys each time.
    fn open_datagrams(
        &mut self,
        myself: &ActorRef<SessionMessage>,
        root: Root,
        permit: OwnedSemaphorePermit,
    ) {
        let mut at = None;
        if let (Some(subscribed), Some(peer), Some(secret)) =
            (self.contents.get_mut(&root), &self.peer, &self.datagram_secret)
        {
            // The one before ends first, and so makes room for this one.
            subscribed.datagrams = None;
            let (session, reader) = (self.session, Arc::clone(&subscribed.reader));
            let served = Served { session, actor: myself.clone(), peer: peer.addr.ip(), root, reader };
            subscribed.datagrams = self.datagrams.open(served, secret);
            at = subscribed.datagrams.as_ref().map(DatagramConnection::at);
        }
        self.send(Outgoing::Message(Message::Datagrams { root, at }, permit));
    }

    fn datagrams_failed(&mut self, connection: ConnectionId, root: Root, refusal: Refusal) {
        let Some(subscribed) = self.contents.get_mut(&root) else { return };
        // The peer may have opened another one meanwhile.
        if subscribed.datagrams.take_if(|open| open.id() == connection).is_some() {
            self.refuse_later(None, root, refusal);
        }
    }

    fn want_hashes(
        &mut self,
        request: RequestId,
        root: Root,
        which: WhichHashes,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Violation> {
        let Some(subscribed) = self.contents.get(&root) else {
            self.refuse(Some(request), root, Refusal::Unknown, permit);
            return Ok(());
        };
        let layer = Arc::clone(&subscribed.layer);
        match which {
            WhichHashes::PieceLayer => self.send(Outgoing::Layer { request, layer, permit }),
            WhichHashes::Leaves { piece } => {
                let piece = layer.geometry().piece(piece).ok_or("asks for hashes that do not exist")?;
                let reader = Arc::clone(&subscribed.reader);
                self.send(Outgoing::Leaves { request, root, piece, reader, permit });
            }
        }
        Ok(())
    }

    fn granted(&mut self, request: RequestId, content: ContentKey, span: Span) {
        let root = self.by_number.get(&content).copied();
        if let Some((root, subscribed)) = root.and_then(|root| Some((root, self.contents.get(&root)?))) {
            let reader = Arc::clone(&subscribed.reader);
            self.send(Outgoing::Run { request, root, span, reader });
        }
    }

    /// A refusal that no message of the peer waits for: it needs a permit of its own.
    fn refuse_later(&mut self, request: Option<RequestId>, root: Root, reason: Refusal) {
        let (permits, outgoing) = (self.permits.clone(), self.outgoing.clone());
        tokio::spawn(async move {
            if let Ok(permit) = permits.acquire_owned().await {
                let message = Message::Refused { request, root, reason };
                let _ = outgoing.send(Outgoing::Message(message, permit)).await;
            }
        });
    }

    fn refuse(
        &mut self,
        request: Option<RequestId>,
        root: Root,
        reason: Refusal,
        permit: OwnedSemaphorePermit,
    ) {
        self.send(Outgoing::Message(Message::Refused { request, root, reason }, permit));
    }

    /// Ends the session for what its peer did.
    fn close(&mut self, myself: &ActorRef<SessionMessage>, violation: Violation) {
        let who = self.peer.as_ref().map(|peer| format!("{} at {}", peer.node.short(), peer.addr));
        self.unwanted.tell_of_violation(who.as_deref().unwrap_or("?"), &violation);
        let _ = self.server.cast(ServerMessage::BrokeProtocol);
        self.part(myself, violation);
    }

    /// Ends the session. The peer is told why, if it takes that soon.
    fn part(&mut self, myself: &ActorRef<SessionMessage>, why: String) {
        self.closing = true;
        // Nothing more is read.
        self.permits.close();
        if self.outgoing.try_send(Outgoing::Goodbye(why.clone())).is_err() {
            return myself.stop(Some(why));
        }
        // The connection ends itself after its last word; this is for the peer that does not take it.
        myself.send_after(GOODBYE_MAX, || SessionMessage::Ended(why));
    }

    /// Puts something into the writer's queue. Permits and grants are as many as the queue is long, so it is never
    /// full; it is closed once the connection has ended, which is reported in its own way.
    fn send(&mut self, outgoing: Outgoing) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outgoing.try_send(outgoing) {
            unreachable!("the queue has a place for every permit and every grant");
        }
    }
}

/// How long a peer whose session is ended has to take the reason.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Grants that a session may have at once; see [`ftx_proto::engine::serve::ServeConfig`].
const GRANTS_MAX: usize = 16;

/// Hands the peer's messages to the session until the connection ends; says why it did.
async fn read_messages<R: tokio::io::AsyncRead + Unpin>(
    mut reader: crate::net::frame::FrameReader<R>,
    session: &ActorRef<SessionMessage>,
    permits: Arc<Semaphore>,
) -> String {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            // The session is closing; the writer has the last word.
            return std::future::pending().await;
        };
        match timeout(SESSION_IDLE_MAX, reader.read()).await {
            Ok(Ok(Some(message))) => {
                if session.cast(SessionMessage::Received(message, permit)).is_err() {
                    return "stopped".to_owned();
                }
            }
            Ok(Ok(None)) => return "closed by the peer".to_owned(),
            Ok(Err(FrameError::Malformed(error))) => {
                // The stream is of no more use, but the writer's side of it is: the session decides how this ends.
                let _ = session.cast(SessionMessage::Malformed(error.to_string()));
                return std::future::pending().await;
            }
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("silent for {} s", SESSION_IDLE_MAX.as_secs()),
        }
    }
}

/// Tells the peer of pieces of a content as they come, until all are there.
async fn tell_what_is_new(
    root: Root,
    mut pieces: watch::Receiver<Arc<PieceSet>>,
    outgoing: mpsc::Sender<Outgoing>,
    permits: Arc<Semaphore>,
) {
    let mut told = Arc::new(PieceSet::empty(pieces.borrow().geometry().clone()));
    loop {
        let now = Arc::clone(&pieces.borrow_and_update());
        let new = now.without(&told);
        told = now;
        for ranges in new.ranges().chunks(HAVE_RANGES_MAX) {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let message = Outgoing::Message(Message::have(root, ranges), permit);
            if outgoing.send(message).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(HAVE_INTERVAL).await;
        if told.is_full() || pieces.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
