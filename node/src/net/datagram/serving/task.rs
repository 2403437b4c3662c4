//! The task of one socket: it hears what is wanted, reads it, seals it and sends it; nobody else holds its bytes.
//!
//! A Want is credit for its fragments, once: what a connection has waiting is bounded, what is beyond is dropped, and
//! asked for again by whoever still wants it. Connections take turns, the fragments of one chunk each. Nothing is
//! remembered of what was sent, and nothing is ever sent a second time without being asked for.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::engine::serve::SessionId;
use ftx_proto::geometry::{CHUNK_SIZE, ChunkIndex, Geometry};
use ftx_proto::wire::datagram::{
    Asking, ConnectionId, DATA_HEAD_LEN, DataHead, FragmentMask, HEADER_LEN, Header, Layout, TAG_LEN, Want,
    padding,
};
use ftx_proto::wire::session::Refusal;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::seal::{Opener, Sealer};
use super::super::socket::{CALL_BYTES_MAX, DatagramSocket, Received, Route};
use super::{Counters, Outside, Served};
use crate::actors::catalog::CatalogMessage;
use crate::actors::server::ServerMessage;
use crate::actors::session::SessionMessage;
use crate::catalog::{ChunkPart, ReadError};
use crate::faults;
use crate::limits::{
    DATAGRAM_ASKED_BYTES_MAX, DATAGRAM_PROBE_INTERVAL, DATAGRAM_PROBES_BURST, DATAGRAM_REPORT_BYTES,
    DATAGRAM_REPORT_INTERVAL,
};

/// What a task is told. There are at most two of them for each place that a connection takes.
#[derive(Debug)]
pub(super) enum Command {
    /// There is one more.
    Open(ConnectionId, Box<Connection>),
    /// It is over.
    Close(ConnectionId),
}

/// One content within one session.
#[derive(Debug)]
pub(super) struct Connection {
    served: Served,
    geometry: Geometry,
    sealer: Sealer,
    opener: Opener,
    /// Where the peer was when it last proved itself.
    route: Option<Route>,
    /// What it wants, in the order in which it is sent.
    queue: VecDeque<Entry>,
    /// Bytes of the datagrams that this makes.
    queued_bytes: usize,
    probes: Probes,
    _place: OwnedSemaphorePermit,
}

/// Fragments of one chunk that are wanted.
#[derive(Debug, Clone, Copy)]
struct Entry {
    chunk: ChunkIndex,
    mask: FragmentMask,
    layout: Layout,
    /// Low bits of the number of the Want.
    want: u16,
}

/// Datagrams that are still to be sealed.
struct Made<'a> {
    /// One behind the other.
    datagrams: &'a mut [u8],
    /// Bytes of each but the last one.
    segment: usize,
    /// Bytes of chunks that they hold.
    bytes: usize,
}

/// Probes that are still answered; there is one more after every interval.
#[derive(Debug)]
struct Probes {
    left: u32,
    /// Since when one more is due.
    since: Option<Instant>,
}

/// What a datagram asks for.
enum Heard {
    /// Nothing that is answered.
    Nothing,
    /// There is something to send.
    Wanted,
    /// To be answered at once, with this body.
    Probe(Vec<u8>),
    /// The peer broke the protocol.
    Broke(String),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Task {
    socket: Arc<DatagramSocket>,
    commands: mpsc::UnboundedReceiver<Command>,
    outside: Arc<Outside>,
    connections: HashMap<ConnectionId, Connection>,
    /// Those with something queued, the next one first.
    turns: VecDeque<ConnectionId>,
    received: Received,
    /// What is sent in this turn, and the datagrams of it.
    turn: Vec<Entry>,
    out: Vec<u8>,
    /// Bytes of chunks that the Server has not been told of.
    sent: HashMap<SessionId, u64>,
    sent_bytes: u64,
    /// When it is to be told of them.
    report_at: Option<Instant>,
}

impl Connection {
    pub(super) fn new(
        served: Served,
        (sealer, opener): (Sealer, Opener),
        place: OwnedSemaphorePermit,
    ) -> Self {
        Connection {
            geometry: served.reader.geometry().clone(),
            served,
            sealer,
            opener,
            route: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            probes: Probes { left: DATAGRAM_PROBES_BURST, since: None },
            _place: place,
        }
    }

    fn hear(&mut self, route: Route, datagram: &mut [u8], now: Instant, counters: &Counters) -> Heard {
        let came_from: IpAddr = route.peer.ip().to_canonical();
        if came_from != self.served.peer {
            Counters::add(&counters.elsewhere, 1);
            return Heard::Nothing;
        }
        let before = self.opener.counts();
        let Some((_, body)) = self.opener.open(datagram) else {
            counters.add_opened(before, self.opener.counts());
            return Heard::Nothing;
        };
        self.route = Some(route);
        match Asking::decode(body, &self.geometry) {
            Ok(Asking::Want(want)) => self.want(&want, counters),
            Ok(Asking::Probe { number, bytes }) if self.probes.take(now) => {
                Heard::Probe(padding(number, bytes))
            }
            Ok(Asking::Probe { .. }) => {
                Counters::add(&counters.probes_dropped, 1);
                Heard::Nothing
            }
            Err(error) => Heard::Broke(format!("asks for nothing that there is, in a datagram: {error}")),
        }
    }

    fn want(&mut self, want: &Want, counters: &Counters) -> Heard {
        for (chunk, mask) in want.send_order() {
            let entry = Entry { chunk, mask, layout: want.layout, want: want.number as u16 };
            let bytes = self.bytes_of(&entry);
            if self.queued_bytes + bytes > DATAGRAM_ASKED_BYTES_MAX {
                Counters::add(&counters.wants_dropped, 1);
                break;
            }
            self.queued_bytes += bytes;
            self.queue.push_back(entry);
        }
        if self.queue.is_empty() { Heard::Nothing } else { Heard::Wanted }
    }

    /// Bytes of the datagrams that these fragments make.
    fn bytes_of(&self, entry: &Entry) -> usize {
        let len = self.geometry.chunk_len(entry.chunk);
        let fragments = entry.mask.iter().map(|fragment| entry.layout.range(len, fragment).len());
        fragments.map(|len| len + OVERHEAD).sum()
    }
}

impl Probes {
    /// Whether one more is answered.
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let intervals =
            now.saturating_duration_since(since).as_millis() / DATAGRAM_PROBE_INTERVAL.as_millis();
        if intervals > 0 {
            self.left = self.left.saturating_add(intervals as u32).min(DATAGRAM_PROBES_BURST);
            self.since = Some(now);
        }
        let answered = self.left > 0;
        self.left = self.left.saturating_sub(1);
        answered
    }
}

impl Task {
    pub(super) fn new(
        socket: Arc<DatagramSocket>,
        commands: mpsc::UnboundedReceiver<Command>,
        outside: Arc<Outside>,
    ) -> Self {
        Task {
            socket,
            commands,
            outside,
            connections: HashMap::new(),
            turns: VecDeque::new(),
            received: Received::new(),
            turn: Vec::new(),
            out: Vec::new(),
            sent: HashMap::new(),
            sent_bytes: 0,
            report_at: None,
        }
    }

    /// Serves until nobody can open a connection any more.
    pub(super) async fn run(mut self) {
        // One timer, that is put off again and again: a new one each time wakes whoever waits for the system.
        let mut due = pin!(sleep_until(Instant::now()));
        loop {
            faults::point("serving datagrams");
            let now = Instant::now();
            if self.sent_bytes >= DATAGRAM_REPORT_BYTES || self.report_at.is_some_and(|at| at <= now) {
                self.report();
            }
            let wait = self.outside.limit.as_ref().and_then(|limit| limit.wait(now));
            if !self.turns.is_empty() && wait.is_none() {
                // What came in meanwhile, which takes no time if there is nothing.
                let heard = self.socket.try_recv(&mut self.received);
                self.heard(heard).await;
                self.serve().await;
                consume_budget().await;
                continue;
            }
            let limited = wait.filter(|_| !self.turns.is_empty());
            let wake = [limited, self.report_at].into_iter().flatten().min();
            if let Some(at) = wake.filter(|at| *at != due.deadline()) {
                due.as_mut().reset(at);
            }
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                heard = self.socket.recv(&mut self.received) => self.heard(heard).await,
                () = &mut due, if wake.is_some() => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(id, connection) => {
                self.connections.insert(id, *connection);
            }
            Command::Close(id) => self.close(id),
        }
    }

    /// Takes in the datagrams that were received.
    async fn heard(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, "cannot receive datagrams");
            // That passes or not; it must not become a busy loop.
            return sleep(RECEIVE_PAUSE).await;
        }
        // A connection is opened before its peer can know of it, and what was closed is not served any more.
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        let now = Instant::now();
        let mut broken = Vec::new();
        for (route, datagram) in self.received.datagrams() {
            let counters = &self.outside.counters;
            let id = Header::decode(datagram).map(|header| header.connection);
            let Some((id, connection)) = id.and_then(|id| Some((id, self.connections.get_mut(&id)?))) else {
                Counters::add(&counters.foreign, 1);
                continue;
            };
            let in_turn = !connection.queue.is_empty();
            match connection.hear(route, datagram, now, counters) {
                Heard::Wanted if !in_turn => {
                    self.turns.push_back(id);
                    if let Some(limit) = &self.outside.limit {
                        limit.begin();
                    }
                }
                Heard::Nothing | Heard::Wanted => {}
                Heard::Probe(body) => {
                    self.out.clear();
                    if connection.sealer.seal(&mut self.out, |out| out.extend_from_slice(&body)).is_ok() {
                        if let Some(limit) = &self.outside.limit {
                            limit.take(self.out.len());
                        }
                        // Now or never: it is asked again.
                        let _ = self.socket.try_send(route, &self.out, self.out.len());
                    }
                }
                Heard::Broke(violation) => {
                    let _ = connection.served.actor.cast(SessionMessage::Malformed(violation));
                    broken.push(id);
                }
            }
        }
        for id in broken {
            self.close(id);
        }
    }

    /// Sends the fragments of one chunk to whose turn it is; of a few chunks, where their datagrams are alike.
    async fn serve(&mut self) {
        let Some(id) = self.turns.pop_front() else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // Where uploads are limited, what is sent at once has to be small.
        let most = if self.outside.limit.is_some() { CALL_BYTES_MAX } else { TURN_BYTES_MAX };
        connection.take_turn(most, &mut self.turn);
        let Some(route) = connection.route.filter(|_| !self.turn.is_empty()) else { return };
        let Made { datagrams, segment, bytes } = match connection.make(&self.turn, &mut self.out) {
            Ok(made) => made,
            Err(error) => {
                if error.is_news() {
                    self.outside.catalog.cast(CatalogMessage::Rescan);
                }
                return self.fail(id, Refusal::from(&error));
            }
        };
        if let Some(limit) = &self.outside.limit {
            limit.take(bytes);
        }
        *self.sent.entry(connection.served.session).or_default() += bytes as u64;
        self.sent_bytes += bytes as u64;
        if self.report_at.is_none() {
            self.report_at = Some(Instant::now() + DATAGRAM_REPORT_INTERVAL);
        }
        // What is sealed with one call's worth of others is sent at once: the peer need not wait for all of it.
        let per_call = (CALL_BYTES_MAX / segment).max(1) * segment;
        for call in datagrams.chunks_mut(per_call) {
            let sealer = &mut connection.sealer;
            if call.chunks_mut(segment).any(|datagram| sealer.seal_in_place(datagram).is_err()) {
                // Every number is used: it can be opened anew.
                return self.fail(id, Refusal::Busy { retry_after_ms: 0 });
            }
            if let Err(error) = self.socket.send(route, call, segment).await {
                tracing::warn!(%error, "cannot send datagrams");
                sleep(RECEIVE_PAUSE).await;
            }
        }
        if !connection.queue.is_empty() {
            self.turns.push_back(id);
        } else if let Some(limit) = &self.outside.limit {
            limit.end();
        }
    }

    /// Ends the connection whose turn it is, and tells its session why.
    fn fail(&mut self, id: ConnectionId, refusal: Refusal) {
        if let Some(Connection { served, .. }) = self.connections.get(&id) {
            let failed = SessionMessage::DatagramsFailed { connection: id, root: served.root, refusal };
            let _ = served.actor.cast(failed);
        }
        // As if it had its turn still, which ends with it.
        self.turns.push_front(id);
        self.close(id);
    }

    fn close(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        let before = self.turns.len();
        self.turns.retain(|other| *other != id);
        if let Some(limit) = self.outside.limit.as_ref().filter(|_| self.turns.len() < before) {
            limit.end();
        }
    }

    /// Tells the Server what was sent since it was last told.
    fn report(&mut self) {
        for (session, bytes) in self.sent.drain() {
            self.outside.server.cast(ServerMessage::SentDatagrams { session, bytes });
        }
        self.sent_bytes = 0;
        self.report_at = None;
    }
}

impl Drop for Task {
    /// Also when the task is aborted or panics: the share of the limit must not stay taken.
    fn drop(&mut self) {
        if let Some(limit) = &self.outside.limit {
            self.turns.iter().for_each(|_| limit.end());
        }
    }
}

impl Connection {
    /// Takes what is queued next, and what follows it as long as all that makes datagrams of one size and at most so many
    /// bytes of them.
    fn take_turn(&mut self, most: usize, turn: &mut Vec<Entry>) {
        turn.clear();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let more = self.bytes_of(next);
            let goes_with = |first: &Entry| {
                let is_even = (CHUNK_SIZE as usize).is_multiple_of(first.layout.fragment_len());
                let is_whole = |entry: &Entry| self.geometry.chunk_len(entry.chunk) == CHUNK_SIZE;
                is_even
                    && is_whole(first)
                    && is_whole(next)
                    && next.layout == first.layout
                    && bytes + more <= most
            };
            if !turn.first().is_none_or(goes_with) {
                break;
            }
            bytes += more;
            turn.push(*next);
            self.queue.pop_front();
        }
        self.queued_bytes -= bytes;
    }

    /// Makes the datagrams of these fragments in `out`, where whatever was there before is overwritten.
    fn make<'a>(&self, turn: &[Entry], out: &'a mut Vec<u8>) -> Result<Made<'a>, ReadError> {
        let total = turn.iter().map(|entry| self.bytes_of(entry)).sum();
        if out.len() < total {
            out.resize(total, 0);
        }
        let out = &mut out[..total];
        let mut rest = &mut *out;
        let (mut parts, mut segment) = (Vec::new(), 0);
        for entry in turn {
            let len = self.geometry.chunk_len(entry.chunk);
            for fragment in entry.mask.iter() {
                let place = entry.layout.range(len, fragment);
                let (datagram, behind) = rest.split_at_mut(place.len() + OVERHEAD);
                rest = behind;
                segment = segment.max(datagram.len());
                let head = DataHead { want: entry.want, chunk: entry.chunk.get(), fragment };
                let (front, body) = datagram.split_at_mut(HEADER_LEN + DATA_HEAD_LEN);
                front[HEADER_LEN..].copy_from_slice(&head.encode());
                parts.push(ChunkPart {
                    chunk: entry.chunk,
                    from: place.start,
                    buffer: &mut body[..place.len()],
                });
            }
        }
        let bytes = parts.iter().map(|part| part.buffer.len()).sum();
        self.served.reader.read_parts(&mut parts)?;
        Ok(Made { datagrams: out, segment, bytes })
    }
}

/// Bytes by which a datagram is longer than its fragment.
const OVERHEAD: usize = HEADER_LEN + DATA_HEAD_LEN + TAG_LEN;

/// Bytes of the datagrams that one turn sends at most, where they are alike: a few calls.
const TURN_BYTES_MAX: usize = 3 * CALL_BYTES_MAX;

/// How long to leave a socket alone that does not work.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);
