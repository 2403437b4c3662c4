//! A network in virtual time for the fetch engine: sources with rates, latencies and faults, a receiver that claims
//! and writes chunks, and a checker that knows the truth. Everything follows from one seed.
//!
//! No bytes exist here: a chunk is its leaf hash, and a lie is another hash.
#![allow(dead_code, reason = "every test program uses its part")]

#[path = "fetch_behaviour.rs"]
mod fetch_behaviour;
#[path = "fetch_checks.rs"]
mod fetch_checks;
#[path = "fetch_content.rs"]
mod fetch_content;
#[path = "fetch_found.rs"]
mod fetch_found;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Digest;
use ftx_proto::engine::fetch::{DropReason, FetchConfig, FetchEngine, Input, Output, SourceId, SourceStats};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PieceIndex, Span};
use ftx_proto::limits::RUN_CHUNKS_MAX;
use ftx_proto::time::Time;
use ftx_proto::wire::session::{Refusal, RequestId};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

pub(crate) use fetch_behaviour::Behaviour;
pub(crate) use fetch_content::Content;

/// What travels to a source.
#[derive(Debug, Clone)]
enum Question {
    Request(RequestId, Span),
    Cancel(RequestId),
    Layer,
    Leaves(PieceIndex),
}

#[derive(Debug, Clone)]
enum Event {
    Join(SourceId),
    Have(SourceId, Range<u32>),
    Leave(SourceId),
    BreakLane(SourceId),
    /// Reaches the source, if that is still in the same stay.
    AtSource(SourceId, u32, Question),
    ServeNext(SourceId, u32),
    /// Reaches the receiver, which claims and writes.
    AtReceiver(SourceId, u32, RequestId, Span, Vec<Digest>),
    /// Reaches the engine.
    Report(Input),
    /// An older copy was looked at: these chunks of it, and whether each is right.
    Found(Vec<(u32, bool)>),
    Searched,
    Answer(SourceId, u32, Input),
}

#[derive(Debug)]
struct Peer {
    behaviour: Behaviour,
    /// Counts how often it joined; what belongs to an earlier stay is not delivered.
    stay: u32,
    here: bool,
    announced: PieceSet,
    queue: Vec<(RequestId, Span)>,
    serving: bool,
    /// Chunks asked and neither answered nor given up, by request.
    asked: BTreeMap<RequestId, BTreeSet<u32>>,
    lies_told: BTreeSet<u32>,
    lied_about_hashes: bool,
    lied_written: u64,
    refused_for_good: bool,
    banned: bool,
}

/// The whole network around one fetch.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) engine: FetchEngine,
    pub(crate) now: Time,
    content: Content,
    random: ChaCha8Rng,
    events: BTreeMap<(Time, u64), Event>,
    event_count: u64,
    peers: BTreeMap<SourceId, Peer>,
    written: Vec<Option<(Digest, SourceId)>>,
    /// What the engine has been told is here.
    reported: BTreeSet<u32>,
    /// Of these there is nothing more to get: the verified ones, and those of which nothing is wanted.
    done: PieceSet,
    /// Those of them that are here as a whole.
    whole: PieceSet,
    /// Bytes that are wanted of those that are done.
    done_bytes: u64,
    /// Chunks of those that were not fetched: here from the beginning, or found.
    resumed_chunks: u64,
    found_chunks: u64,
    searching: bool,
    requests_made: BTreeSet<RequestId>,
    window_chunks_max: u32,
    check_always: bool,
    pub(crate) completed_at: Option<Time>,
    pub(crate) dropped: Vec<(SourceId, DropReason)>,
    pub(crate) requested_chunks: u64,
    pub(crate) log: Vec<String>,
    pub(crate) keep_log: bool,
}

impl World {
    pub(crate) fn new(seed: u64, size: u64) -> Self {
        Self::resumed(seed, size, &[], FetchConfig::default())
    }

    /// With these pieces here already.
    pub(crate) fn resumed(seed: u64, size: u64, pieces: &[u32], config: FetchConfig) -> Self {
        Self::fetching(seed, Content::file(size), pieces, config)
    }

    /// Of any content.
    pub(crate) fn fetching(seed: u64, content: Content, pieces: &[u32], config: FetchConfig) -> Self {
        let geometry = content.geometry.clone();
        let mut have = PieceSet::empty(geometry.clone());
        let (mut done, mut whole) = (have.clone(), have.clone());
        let mut written = vec![None; content.truth.len()];
        let (mut reported, mut done_bytes) = (BTreeSet::new(), 0);
        for piece in geometry.pieces() {
            let is_here = pieces.contains(&piece.get());
            if is_here {
                have.insert(piece);
                for chunk in content.wanted_chunks(piece) {
                    written[chunk.get() as usize] = Some((content.truth[chunk.get() as usize], HERE));
                    reported.insert(chunk.get());
                }
            }
            if is_here || content.wanted(piece).is_empty() {
                done.insert(piece);
                done_bytes += content.wanted_bytes(piece);
            }
            if is_here && !content.skipped.contains_key(&piece) {
                whole.insert(piece);
            }
        }
        let (root, skipped) = (content.layer.root(), content.skipped.clone());
        let engine = FetchEngine::selecting(config, geometry.clone(), root, have, skipped, seed);
        let mut world = World {
            engine,
            now: Time::ZERO,
            check_always: geometry.size() < 64 << 20,
            content,
            random: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            events: BTreeMap::new(),
            event_count: 0,
            peers: BTreeMap::new(),
            resumed_chunks: reported.len() as u64,
            found_chunks: 0,
            searching: false,
            written,
            reported,
            done,
            whole,
            done_bytes,
            requests_made: BTreeSet::new(),
            window_chunks_max: (config.window_bytes_max / u64::from(CHUNK_SIZE)).max(4) as u32,
            completed_at: None,
            dropped: Vec::new(),
            requested_chunks: 0,
            log: Vec::new(),
            keep_log: false,
        };
        world.drain();
        world
    }

    pub(crate) fn add(&mut self, behaviour: Behaviour) -> SourceId {
        let id = SourceId(self.peers.len() as u32 + 1);
        self.at(behaviour.joins_at, Event::Join(id));
        if let Some(at) = behaviour.leaves_at {
            self.at(at, Event::Leave(id));
        }
        for &at in &behaviour.breaks_at {
            self.at(at, Event::BreakLane(id));
        }
        self.peers.insert(
            id,
            Peer {
                behaviour,
                stay: 0,
                here: false,
                announced: PieceSet::empty(self.content.geometry.clone()),
                queue: Vec::new(),
                serving: false,
                asked: BTreeMap::new(),
                lies_told: BTreeSet::new(),
                lied_about_hashes: false,
                lied_written: 0,
                refused_for_good: false,
                banned: false,
            },
        );
        id
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.content.geometry.clone()
    }

    pub(crate) fn stats(&self, id: SourceId) -> SourceStats {
        self.engine.source_stats(id).unwrap_or_default()
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.completed_at.expect("the fetch is complete").since_origin().as_secs_f64()
    }

    /// Until the fetch is complete, or nothing can happen any more, or this time is reached.
    pub(crate) fn run(&mut self, until: Duration) {
        let until = Time::from_origin(until);
        while self.completed_at.is_none() && self.next_at().is_some_and(|at| at <= until) && self.step() {}
        if self.completed_at.is_none() {
            self.now = self.now.max(until);
        }
    }

    fn next_at(&self) -> Option<Time> {
        let event = self.events.first_key_value().map(|(&(at, _), _)| at);
        event.into_iter().chain(self.engine.deadline()).min()
    }

    /// The next event or deadline. `false` if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let event = self.events.first_key_value().map(|(&(at, _), _)| at);
        let deadline = self.engine.deadline();
        match (event, deadline) {
            (None, None) => return false,
            (Some(at), due) if due.is_none_or(|due| at <= due) => {
                self.now = self.now.max(at);
                let (_, event) = self.events.pop_first().expect("there is an event");
                self.happen(event);
            }
            (_, Some(due)) => {
                assert!(due >= self.now, "the engine wants to be woken in the past");
                self.now = self.now.max(due);
                self.tell(Input::Tick);
            }
            (Some(_), None) => unreachable!("an event without a deadline is taken above"),
        }
        true
    }

    fn note(&mut self, what: &str, detail: &impl Debug) {
        if self.keep_log {
            self.log.push(format!("{:?} {what} {detail:?}", self.now.since_origin()));
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.event_count += 1;
        self.events.insert((Time::from_origin(at), self.event_count), event);
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at((self.now + delay).since_origin(), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(id) => self.join(id),
            Event::Have(id, range) => {
                let peer = self.peers.get_mut(&id).unwrap();
                if peer.here {
                    peer.announced.insert_range(range.clone());
                    self.tell(Input::SourceHas { source: id, pieces: vec![range] });
                }
            }
            Event::Leave(id) => {
                if self.leave(id) {
                    self.tell(Input::SourceLeft { source: id });
                }
            }
            Event::BreakLane(id) => self.break_lane(id),
            Event::AtSource(id, stay, question) => self.at_source(id, stay, question),
            Event::ServeNext(id, stay) => self.serve_next(id, stay),
            Event::AtReceiver(id, stay, request, span, leaves) => {
                self.at_receiver(id, stay, request, span, leaves);
            }
            Event::Report(input) => self.tell(input),
            Event::Found(chunks) => self.found(&chunks),
            Event::Searched => {
                self.searching = false;
                self.tell(Input::Searched);
            }
            Event::Answer(id, stay, input) => {
                if self.peers[&id].here && self.peers[&id].stay == stay {
                    self.tell(input);
                }
            }
        }
    }

    fn join(&mut self, id: SourceId) {
        let peer = self.peers.get_mut(&id).unwrap();
        if peer.here || peer.banned {
            return;
        }
        peer.here = true;
        peer.stay += 1;
        peer.announced = PieceSet::empty(self.content.geometry.clone());
        let parts = peer.behaviour.parts.clone();
        if parts.is_none() {
            peer.announced = PieceSet::full(self.content.geometry.clone());
        }
        self.tell(Input::SourceJoined { source: id, whole: parts.is_none() });
        for (delay, range) in parts.into_iter().flatten() {
            self.after(delay, Event::Have(id, range));
        }
    }

    /// Whether it was here.
    fn leave(&mut self, id: SourceId) -> bool {
        let peer = self.peers.get_mut(&id).unwrap();
        let was_here = std::mem::replace(&mut peer.here, false);
        peer.queue.clear();
        peer.asked.clear();
        peer.serving = false;
        if let (true, Some(pause), false) = (was_here, peer.behaviour.returns_after, peer.banned) {
            peer.behaviour.returns_after = None;
            self.after(pause, Event::Join(id));
        }
        was_here
    }

    fn break_lane(&mut self, id: SourceId) {
        let peer = self.peers.get_mut(&id).unwrap();
        let half = peer.queue.len().div_ceil(2);
        let requests: Vec<_> = peer.queue.drain(..half).map(|(request, _)| request).collect();
        for request in &requests {
            peer.asked.remove(request);
        }
        if peer.here {
            self.tell(Input::Lost { source: id, requests });
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }

    fn answers(&self, id: SourceId, stay: u32) -> bool {
        let peer = &self.peers[&id];
        let dead = peer.behaviour.dies_at.is_some_and(|at| self.now >= Time::from_origin(at));
        peer.here && peer.stay == stay && !dead
    }

    fn at_source(&mut self, id: SourceId, stay: u32, question: Question) {
        if !self.answers(id, stay) {
            return;
        }
        let behaviour = self.peers[&id].behaviour.clone();
        let gone = behaviour.gone_at.filter(|&(at, _)| self.now >= Time::from_origin(at)).map(|(_, why)| why);
        match question {
            Question::Cancel(request) => {
                self.peers.get_mut(&id).unwrap().queue.retain(|&(queued, _)| queued != request);
            }
            Question::Request(request, span) => {
                let lacks = behaviour.lacks.contains(&span.first().piece().get());
                let refusal = gone.or(lacks.then_some(Refusal::Missing)).or_else(|| {
                    let retry_after_ms = self.random.random_range(0..400);
                    self.chance(behaviour.busy).then_some(Refusal::Busy { retry_after_ms })
                });
                let peer = self.peers.get_mut(&id).unwrap();
                if let Some(refusal) = refusal {
                    peer.refused_for_good |= gone.is_some();
                    self.answer(id, Input::Refused { source: id, request, refusal });
                    return;
                }
                peer.queue.push((request, span));
                if !std::mem::replace(&mut peer.serving, true) {
                    self.happen(Event::ServeNext(id, stay));
                }
            }
            Question::Layer => {
                let mut hashes = self.content.layer.hashes().to_vec();
                if self.chance(behaviour.refuses_hashes) {
                    self.answer(id, Input::LayerFailed { source: id });
                    return;
                }
                if self.chance(behaviour.lies_about_layer) {
                    let wrong = self.random.random_range(0..hashes.len());
                    hashes[wrong] = Digest::of(b"wrong");
                    self.peers.get_mut(&id).unwrap().lied_about_hashes = true;
                }
                self.answer(id, Input::Layer { source: id, hashes });
            }
            Question::Leaves(piece) => {
                let span = self.content.geometry.span_of(piece);
                let mut leaves =
                    self.content.truth[span.first().get() as usize..span.end() as usize].to_vec();
                if self.chance(behaviour.refuses_hashes) {
                    self.answer(id, Input::LeavesFailed { source: id, piece });
                    return;
                }
                if self.chance(behaviour.lies_about_leaves) {
                    leaves.pop();
                    self.peers.get_mut(&id).unwrap().lied_about_hashes = true;
                }
                self.answer(id, Input::Leaves { source: id, piece, leaves });
            }
        }
    }

    /// Sends something to the engine over the source's connection.
    fn answer(&mut self, id: SourceId, input: Input) {
        let peer = &self.peers[&id];
        let (stay, latency, loss) = (peer.stay, peer.behaviour.latency, peer.behaviour.loss);
        if !self.chance(loss) {
            self.after(latency, Event::Answer(id, stay, input));
        }
    }

    /// A server picks any request and serves its runs in order.
    fn serve_next(&mut self, id: SourceId, stay: u32) {
        if !self.answers(id, stay) {
            return;
        }
        let peer = self.peers.get_mut(&id).unwrap();
        if peer.queue.is_empty() {
            peer.serving = false;
            return;
        }
        let pick = self.random.random_range(0..peer.queue.len());
        let (request, span) = peer.queue[pick];
        let run = span.runs(RUN_CHUNKS_MAX).next().unwrap();
        match self.content.geometry.span(run.end(), span.count() - run.count()) {
            Some(rest) => peer.queue[pick].1 = rest,
            None => {
                peer.queue.swap_remove(pick);
            }
        }
        let behaviour = peer.behaviour.clone();
        let mut leaves = Vec::new();
        for chunk in run.chunks() {
            let lies = self.chance(behaviour.lies);
            if lies {
                self.peers.get_mut(&id).unwrap().lies_told.insert(chunk.get());
            }
            leaves.push(if lies { Digest::of(b"a lie") } else { self.content.truth[chunk.get() as usize] });
        }
        let takes = Duration::from_secs_f64(f64::from(run.count()) / behaviour.rate);
        self.after(takes, Event::ServeNext(id, stay));
        if !self.chance(behaviour.loss) {
            self.after(takes + behaviour.latency, Event::AtReceiver(id, stay, request, run, leaves));
        }
    }

    /// The receiver claims each chunk once, writes it, and reports a little later.
    fn at_receiver(&mut self, id: SourceId, stay: u32, request: RequestId, run: Span, leaves: Vec<Digest>) {
        let peer = self.peers.get_mut(&id).unwrap();
        if !peer.here || peer.stay != stay {
            return;
        }
        let mut report = Vec::new();
        for (chunk, leaf) in run.chunks().zip(leaves) {
            let place = &mut self.written[chunk.get() as usize];
            report.push(place.is_none().then_some(leaf));
            if place.is_none() {
                *place = Some((leaf, id));
                if leaf != self.content.truth[chunk.get() as usize] {
                    peer.lied_written += 1;
                }
            }
        }
        let delay = peer.behaviour.report_delay.mul_f64(self.random.random());
        let input = Input::Arrived { source: id, request, first: run.first(), leaves: report };
        self.after(delay, Event::Report(input));
    }

    fn tell(&mut self, input: Input) {
        self.note("<", &input);
        match &input {
            Input::Arrived { source, request, first, leaves } => {
                let run = first.get()..first.get() + leaves.len() as u32;
                for (chunk, leaf) in run.clone().zip(leaves) {
                    if leaf.is_some() {
                        assert!(self.reported.insert(chunk), "a chunk is written once");
                    }
                }
                self.settle_asked(*source, *request, run);
            }
            Input::Found { first, leaves } => {
                for chunk in first.get()..first.get() + leaves.len() as u32 {
                    assert!(self.reported.insert(chunk), "a chunk is written once");
                }
            }
            Input::Refused { source, request, refusal } => {
                let peer = self.peers.get_mut(source).unwrap();
                let span = peer.asked.remove(request);
                if let (Refusal::Missing, Some(chunk)) =
                    (refusal, span.and_then(|span| span.first().copied()))
                {
                    peer.announced.remove(self.content.geometry.chunk(chunk).unwrap().piece());
                }
            }
            _ => {}
        }
        self.engine.handle(self.now, input);
        self.drain();
        if self.check_always {
            self.engine.check_invariants();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            self.note(">", &output);
            assert!(self.completed_at.is_none(), "nothing comes after Complete: {output:?}");
            match output {
                Output::Request { source, request, span } => self.check_request(source, request, span),
                Output::Cancel { source, request } => {
                    let known = self.peers.get_mut(&source).unwrap().asked.remove(&request);
                    assert!(known.is_some(), "only what is under way is cancelled");
                    self.send(source, Question::Cancel(request));
                }
                Output::AskLayer { source } => self.send(source, Question::Layer),
                Output::AskLeaves { source, piece } => self.send(source, Question::Leaves(piece)),
                Output::LayerReady(layer) => assert_eq!(*layer, self.content.layer),
                Output::Verified { piece } => self.check_verified(piece),
                Output::Reset { piece, chunks } => self.reset(piece, chunks),
                Output::Drop { source, why } => self.check_drop(source, why),
                Output::Complete => {
                    assert!(self.done.is_full(), "complete means that everything is verified");
                    self.completed_at = Some(self.now);
                }
            }
        }
        self.check_progress();
    }

    fn send(&mut self, id: SourceId, question: Question) {
        let peer = &self.peers[&id];
        assert!(peer.here, "only who is here is spoken to: {id:?} {question:?}");
        let (stay, latency, loss) = (peer.stay, peer.behaviour.latency, peer.behaviour.loss);
        if !self.chance(loss) {
            self.after(latency, Event::AtSource(id, stay, question));
        }
    }
}

/// Stands for chunks that were here from the beginning, and for those that were found.
const HERE: SourceId = SourceId(u32::MAX);
const FOUND: SourceId = SourceId(u32::MAX - 9);
