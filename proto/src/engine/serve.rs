//! The serve engine: who is served next.
//!
//! It owns the requests of all sessions that are not yet granted, and the upload limit. It refuses to read, to send, and
//! to judge whether a chunk is here: the caller asks it only for what is. A crash loses it, and with it all sessions.
//!
//! A request is *queued* until its last chunk is granted, it is cancelled, or its session ends. A grant is *unsent* until
//! [`Input::Sent`]. A peer is *in turn* while one of its sessions has something queued and room for a grant.
//!
//! Peers take turns by bytes (deficit round robin, Shreedhar and Varghese 1995): at each turn a peer is credited one full
//! grant, and keeps what it does not use while it has work. Who leaves the round with credit, since all its grants are
//! unsent, comes back to the front of it: so grants of a few short chunks lose nothing to full ones. The sessions of one
//! peer share its turns. Within a session a request is picked at random, so that receivers of one content get different
//! pieces and can serve each other; what is picked goes on to the end of its piece, since a disk likes runs.
//!
//! Invariants, checked by [`ServeEngine::check_invariants`]: a queued request has chunks left; every index of the queue
//! matches; no session has more unsent grants than allowed; every total equals the sum of its parts; whoever is ready is
//! in turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::geometry::{CHUNK_SIZE, Geometry, Span};
use crate::limits::{FRAME_PAYLOAD_MAX, SESSION_REQUESTS_MAX};
use crate::time::Time;
use crate::wire::session::{Refusal, RequestId};

/// One session that is served. The caller never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Who is behind a session: all sessions of one peer have one share together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// Names a content; opaque to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey(pub u64);

/// What serving may be tuned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeConfig {
    /// Most bytes a second to all peers together; `None` for no limit.
    pub max_upload: Option<u64>,
    /// Most bytes in one grant, but for a single chunk; at most [`FRAME_PAYLOAD_MAX`].
    pub grant_bytes: u64,
    /// Most grants of one session that are not yet sent.
    pub grants_per_session: u32,
    /// Most requests that wait here in all sessions together; those beyond are refused as busy.
    pub requests_max: usize,
    /// When a refused peer may ask again.
    pub retry_after: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            max_upload: None,
            grant_bytes: FRAME_PAYLOAD_MAX as u64,
            grants_per_session: 4,
            requests_max: 64 * 1024,
            retry_after: Duration::from_millis(500),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A session begins.
    Opened {
        /// Which one.
        session: SessionId,
        /// Who is behind it.
        peer: PeerKey,
    },
    /// A session is over; what was granted to it needs no [`Input::Sent`].
    Closed {
        /// Which one.
        session: SessionId,
    },
    /// A session asks for chunks that are here.
    Asked {
        /// Which one.
        session: SessionId,
        /// Its number for the request.
        request: RequestId,
        /// Of which content.
        content: ContentKey,
        /// How that is cut.
        geometry: Geometry,
        /// Which chunks.
        span: Span,
    },
    /// A session does not want the rest of a request any more.
    Cancelled {
        /// Which one.
        session: SessionId,
        /// Its number for the request.
        request: RequestId,
    },
    /// The oldest grant of the session that was not yet sent has been sent, or could not be: then with 0 bytes.
    Sent {
        /// Which one.
        session: SessionId,
        /// How much it really was.
        bytes: u64,
    },
    /// So much has left without a grant, under the same limit.
    Spent {
        /// How much.
        bytes: u64,
    },
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read and send these chunks, in this order among the grants of the session; then [`Input::Sent`].
    Grant {
        /// To which one.
        session: SessionId,
        /// For which of its requests.
        request: RequestId,
        /// Of which content.
        content: ContentKey,
        /// Which chunks: a part of the request.
        span: Span,
    },
    /// Tell the session that the request is not served.
    Refuse {
        /// Which one.
        session: SessionId,
        /// Which request.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The session has more requests than the protocol allows, or one number twice: end it.
    Violation {
        /// Which one.
        session: SessionId,
    },
}

/// Who is served next, for one node.
#[derive(Debug)]
pub struct ServeEngine {
    config: ServeConfig,
    random: ChaCha8Rng,
    outputs: VecDeque<Output>,
    sessions: BTreeMap<SessionId, Session>,
    peers: BTreeMap<PeerKey, Peer>,
    /// Peers in turn, the next one first.
    turns: VecDeque<PeerKey>,
    queued: usize,
    bucket: Option<Bucket>,
    wake: Option<Time>,
}

#[derive(Debug)]
struct Session {
    peer: PeerKey,
    requests: BTreeMap<RequestId, Queued>,
    /// The same requests, to pick one at random.
    picks: Vec<RequestId>,
    /// The request whose piece is being served.
    current: Option<RequestId>,
    /// Bytes that were counted for each unsent grant, the oldest first.
    unsent: VecDeque<u64>,
}

#[derive(Debug)]
struct Queued {
    content: ContentKey,
    geometry: Geometry,
    /// What is not granted yet.
    rest: Span,
    /// Where in `picks`.
    index: usize,
}

#[derive(Debug, Default)]
struct Peer {
    /// The next one to be served first.
    sessions: VecDeque<SessionId>,
    /// Bytes that it may be granted in this turn.
    credit: u64,
    in_turn: bool,
}

impl ServeEngine {
    /// Nobody is served yet.
    pub fn new(config: ServeConfig, seed: u64) -> Self {
        let mut config = ServeConfig {
            grant_bytes: config.grant_bytes.clamp(u64::from(CHUNK_SIZE), FRAME_PAYLOAD_MAX as u64),
            grants_per_session: config.grants_per_session.max(1),
            ..config
        };
        let bucket = config.max_upload.map(|rate| {
            let rate = rate.max(1);
            // Under a low limit smaller grants, so that no single one takes longer than the burst where that can be.
            let burst = (rate as f64 * BURST_SECONDS) as u64;
            config.grant_bytes = config.grant_bytes.min(burst).max(u64::from(CHUNK_SIZE));
            Bucket::new(rate, burst.max(config.grant_bytes))
        });
        ServeEngine {
            config,
            random: ChaCha8Rng::seed_from_u64(seed),
            outputs: VecDeque::new(),
            sessions: BTreeMap::new(),
            peers: BTreeMap::new(),
            turns: VecDeque::new(),
            queued: 0,
            bucket,
            wake: None,
        }
    }

    /// Takes in what happened. Then drain [`ServeEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Opened { session, peer } => self.opened(session, peer),
            Input::Closed { session } => self.closed(session),
            Input::Asked { session, request, content, geometry, span } => {
                self.asked(session, request, Queued { content, geometry, rest: span, index: 0 });
            }
            Input::Cancelled { session, request } => self.remove(session, request),
            Input::Sent { session, bytes } => self.sent(session, bytes),
            Input::Spent { bytes } => {
                if let Some(bucket) = &mut self.bucket {
                    // What has been allowed until now comes first: at a full bucket it would be lost.
                    bucket.fill(now);
                    bucket.take(bytes);
                }
            }
            Input::Tick => {}
        }
        self.grant(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.wake
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many peers could be granted something now, were it not for the upload limit.
    pub fn waiting_count(&self) -> usize {
        self.turns.len()
    }

    /// How many requests are queued in all sessions.
    pub fn queued_count(&self) -> usize {
        self.queued
    }

    fn opened(&mut self, id: SessionId, peer: PeerKey) {
        self.closed(id);
        let session = Session {
            peer,
            requests: BTreeMap::new(),
            picks: Vec::new(),
            current: None,
            unsent: VecDeque::new(),
        };
        self.sessions.insert(id, session);
        self.peers.entry(peer).or_default().sessions.push_back(id);
    }

    fn closed(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.queued -= session.requests.len();
        let Some(peer) = self.peers.get_mut(&session.peer) else { return };
        peer.sessions.retain(|&other| other != id);
        if peer.sessions.is_empty() {
            self.peers.remove(&session.peer);
            self.turns.retain(|&other| other != session.peer);
        }
    }

    fn asked(&mut self, id: SessionId, request: RequestId, queued: Queued) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.requests.len() >= SESSION_REQUESTS_MAX || session.requests.contains_key(&request) {
            self.outputs.push_back(Output::Violation { session: id });
            self.closed(id);
            return;
        }
        if self.queued >= self.config.requests_max {
            let retry_after_ms = u32::try_from(self.config.retry_after.as_millis()).unwrap_or(u32::MAX);
            let refusal = Refusal::Busy { retry_after_ms };
            self.outputs.push_back(Output::Refuse { session: id, request, refusal });
            return;
        }
        session.requests.insert(request, Queued { index: session.picks.len(), ..queued });
        session.picks.push(request);
        self.queued += 1;
        let peer = session.peer;
        self.take_turn(peer);
    }

    /// The request is granted to its end, or not wanted any more.
    fn remove(&mut self, id: SessionId, request: RequestId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(Queued { index, .. }) = session.requests.remove(&request) else { return };
        session.picks.swap_remove(index);
        if let Some(moved) = session.picks.get(index).and_then(|moved| session.requests.get_mut(moved)) {
            moved.index = index;
        }
        if session.current == Some(request) {
            session.current = None;
        }
        self.queued -= 1;
    }

    fn sent(&mut self, id: SessionId, bytes: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(counted) = session.unsent.pop_front() else { return };
        let unused = counted.saturating_sub(bytes);
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(unused);
        }
        let key = session.peer;
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.credit = (peer.credit + unused).min(2 * self.config.grant_bytes);
        }
        self.take_turn(key);
    }

    /// A peer that can be granted something joins the round: anew with credit for one turn, at the end; with what is left
    /// of its turn, at the front.
    fn take_turn(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| !peer.in_turn) else { return };
        peer.in_turn = true;
        match peer.credit {
            0 => {
                peer.credit = self.config.grant_bytes;
                self.turns.push_back(key);
            }
            _ => self.turns.push_front(key),
        }
    }

    /// Grants as much as the limits allow, to whose turn it is.
    fn grant(&mut self, now: Time) {
        self.wake = None;
        if let Some(bucket) = &mut self.bucket {
            bucket.fill(now);
        }
        while let Some(&key) = self.turns.front() {
            let Some((id, run, cost)) = self.next_of(key) else {
                self.turns.pop_front();
                self.end_turn(key);
                continue;
            };
            let Some(peer) = self.peers.get_mut(&key) else { return };
            if peer.credit < cost {
                peer.credit += self.config.grant_bytes;
                self.turns.rotate_left(1);
                continue;
            }
            // Only for whose turn it is: saving up for somebody else would let the next one burst.
            if let Some(at) = self.bucket.as_ref().and_then(|bucket| bucket.wait_for(cost, now)) {
                self.wake = Some(at);
                return;
            }
            peer.credit -= cost;
            // The sessions of a peer take turns as well.
            peer.sessions.retain(|&other| other != id);
            peer.sessions.push_back(id);
            if let Some(bucket) = &mut self.bucket {
                bucket.take(cost);
            }
            self.grant_run(id, run, cost);
        }
    }

    /// The next run of the peer, and its bytes: of its first session that has something queued and room for a grant.
    fn next_of(&mut self, key: PeerKey) -> Option<(SessionId, Span, u64)> {
        let peer = self.peers.get(&key)?;
        peer.sessions.iter().find_map(|&id| {
            let session = self.sessions.get_mut(&id)?;
            if session.unsent.len() >= self.config.grants_per_session as usize || session.picks.is_empty() {
                return None;
            }
            let request = match session.current {
                Some(request) => request,
                None => *session.picks.get(self.random.random_range(0..session.picks.len()))?,
            };
            session.current = Some(request);
            let Queued { geometry, rest, .. } = session.requests.get(&request)?;
            let run = geometry.beginning_of(rest.within(rest.first().piece())?, self.config.grant_bytes);
            Some((id, run, geometry.len_of(run)))
        })
    }

    /// A peer that cannot be granted anything leaves the round. It keeps its credit only while it waits for room.
    fn end_turn(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.in_turn = false;
        let waits = |id| self.sessions.get(id).is_some_and(|session: &Session| !session.picks.is_empty());
        if !peer.sessions.iter().any(waits) {
            peer.credit = 0;
        }
    }

    fn grant_run(&mut self, id: SessionId, run: Span, cost: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(request) = session.current else { return };
        let Some(queued) = session.requests.get_mut(&request) else { return };
        session.unsent.push_back(cost);
        self.outputs.push_back(Output::Grant { session: id, request, content: queued.content, span: run });
        match queued.rest.behind(run) {
            Some(rest) => {
                if rest.first().piece() != run.first().piece() {
                    session.current = None;
                }
                queued.rest = rest;
            }
            None => self.remove(id, request),
        }
    }

    /// Panics if what must always hold between two inputs does not; for tests.
    pub fn check_invariants(&self) {
        let mut queued = 0;
        for (id, session) in &self.sessions {
            queued += session.requests.len();
            assert_eq!(session.picks.len(), session.requests.len());
            for (request, Queued { index, .. }) in &session.requests {
                assert_eq!(session.picks.get(*index), Some(request), "every index matches");
            }
            assert!(session.current.is_none_or(|current| session.requests.contains_key(&current)));
            let room = session.unsent.len() < self.config.grants_per_session as usize;
            assert!(session.unsent.len() <= self.config.grants_per_session as usize);
            let peer = self.peers.get(&session.peer).expect("a session has a peer");
            assert!(peer.sessions.contains(id));
            assert!(!room || session.picks.is_empty() || peer.in_turn, "whoever is ready is in turn");
        }
        assert_eq!(queued, self.queued, "the total is the sum");
        let members: usize = self.peers.values().map(|peer| peer.sessions.len()).sum();
        assert_eq!(members, self.sessions.len());
        assert!(self.peers.values().all(|peer| !peer.sessions.is_empty()), "nobody stays without a session");
        assert_eq!(self.turns.len(), self.peers.values().filter(|peer| peer.in_turn).count());
        assert!(self.turns.is_empty() || self.wake.is_some(), "whoever is ready waits for the limit only");
    }
}

/// The upload limit: bytes that may be granted now, filled at the allowed rate up to a burst.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    burst: f64,
    /// Below 0 after more was spent than was there.
    level: f64,
    filled_at: Option<Time>,
}

impl Bucket {
    fn new(bytes_per_second: u64, burst: u64) -> Self {
        let burst = burst as f64;
        Bucket { bytes_per_second: bytes_per_second as f64, burst, level: burst, filled_at: None }
    }

    fn fill(&mut self, now: Time) {
        let elapsed = now.since(self.filled_at.unwrap_or(now));
        self.level = (self.level + elapsed.as_secs_f64() * self.bytes_per_second).min(self.burst);
        self.filled_at = Some(self.filled_at.map_or(now, |before| before.max(now)));
    }

    /// When there will be enough; `None` if there is now.
    fn wait_for(&self, bytes: u64, now: Time) -> Option<Time> {
        let lacking = bytes as f64 - self.level;
        // A microsecond more than computed, so that rounding never wakes the caller for nothing.
        (lacking > 0.0).then(|| {
            now + Duration::from_secs_f64(lacking / self.bytes_per_second) + Duration::from_micros(1)
        })
    }

    fn take(&mut self, bytes: u64) {
        self.level -= bytes as f64;
    }

    fn give_back(&mut self, bytes: u64) {
        self.level = (self.level + bytes as f64).min(self.burst);
    }
}

/// How much may be granted at once under a limit: what it allows in this time.
const BURST_SECONDS: f64 = 0.05;
