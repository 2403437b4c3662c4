//! A network in virtual time in which several fetch one content at once: one source with a rate, and fetchers that serve
//! each other. Both engines are the real ones; between them are links with a latency and, into each node, a rate.
//!
//! Everything follows from one seed. No bytes exist here: a chunk is its leaf hash.

#[path = "fetch_content.rs"]
#[allow(dead_code, reason = "folders are fetched elsewhere")]
mod fetch_content;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::engine::fetch::{FetchConfig, FetchEngine, Input, Output, SourceId};
use ftx_proto::engine::serve::{self, ContentKey, PeerKey, ServeConfig, ServeEngine, SessionId};
use ftx_proto::geometry::{CHUNK_SIZE, PieceIndex, Span};
use ftx_proto::time::Time;
use ftx_proto::wire::session::RequestId;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use fetch_content::Content;

/// The first source; all other numbers are fetchers.
pub(crate) const ORIGIN: usize = 0;

/// What a node can do. The default is a good one.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Chunks a second that it sends and receives at most.
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) begins_at: Duration,
    /// Ends without having finished.
    pub(crate) dies_at: Option<Duration>,
    /// Stops serving when it has everything.
    pub(crate) leaves: bool,
    /// Now and then it takes nothing in for so long: others need the processor that it runs on.
    pub(crate) pauses: Duration,
}

impl Default for Member {
    fn default() -> Self {
        Member {
            up: 64_000.0,
            down: 64_000.0,
            begins_at: Duration::ZERO,
            dies_at: None,
            leaves: false,
            pauses: Duration::ZERO,
        }
    }
}

#[derive(Debug)]
enum Event {
    Begin(usize),
    Die(usize),
    /// The first learns of the second, and that of what it has from then on.
    Meet(usize, usize),
    TellNews(usize),
    /// Reaches the second node from the first.
    Asked(usize, usize, RequestId, Span),
    Cancelled(usize, usize, RequestId),
    AskedLayer(usize, usize),
    AskedLeaves(usize, usize, PieceIndex),
    /// Reaches the first node from the second.
    Arrived(usize, usize, RequestId, Span),
    Told(usize, usize, Input),
    Wake,
}

struct Node {
    member: Member,
    /// None at the source, and while it is not there.
    fetch: Option<FetchEngine>,
    serve: ServeEngine,
    here: bool,
    have: PieceSet,
    /// What others have been told that it has.
    told: PieceSet,
    known_to: BTreeSet<usize>,
    written: Vec<bool>,
    down_free_at: Time,
    sent_chunks: u64,
    asked_chunks: u64,
    done_at: Option<Time>,
}

/// The network.
pub(crate) struct Swarm {
    seed: u64,
    content: Content,
    random: ChaCha8Rng,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    event_count: u64,
    nodes: Vec<Node>,
    latency: Duration,
    /// Whether those who fetch know each other's names.
    named: bool,
    check_always: bool,
}

impl Swarm {
    pub(crate) fn new(seed: u64, size: u64, origin: Member) -> Self {
        let mut swarm = Swarm {
            seed,
            content: Content::file(size),
            random: ChaCha8Rng::seed_from_u64(seed),
            now: Time::ZERO,
            events: BTreeMap::new(),
            event_count: 0,
            nodes: Vec::new(),
            latency: Duration::from_micros(500),
            named: true,
            check_always: size < 24 << 20,
        };
        swarm.push(origin);
        swarm.nodes[ORIGIN].have = PieceSet::full(swarm.content.geometry.clone());
        swarm.nodes[ORIGIN].here = true;
        swarm
    }

    /// Nobody says its name: what fetchers do without knowing of each other.
    pub(crate) fn without_names(mut self) -> Self {
        self.named = false;
        self
    }

    pub(crate) fn add(&mut self, member: Member) -> usize {
        let at = member.begins_at;
        let dies_at = member.dies_at;
        self.push(member);
        let number = self.nodes.len() - 1;
        self.at(at, Event::Begin(number));
        if let Some(at) = dies_at {
            self.at(at, Event::Die(number));
        }
        number
    }

    fn push(&mut self, member: Member) {
        let rate = (member.up * f64::from(CHUNK_SIZE)) as u64;
        let config = ServeConfig { max_upload: Some(rate), ..ServeConfig::default() };
        let geometry = &self.content.geometry;
        self.nodes.push(Node {
            member,
            fetch: None,
            serve: ServeEngine::new(config, self.random.random()),
            here: false,
            have: PieceSet::empty(geometry.clone()),
            told: PieceSet::empty(geometry.clone()),
            known_to: BTreeSet::new(),
            written: vec![false; geometry.chunk_count() as usize],
            down_free_at: Time::ZERO,
            sent_chunks: 0,
            asked_chunks: 0,
            done_at: None,
        });
    }

    /// Until everybody who has not died has everything. Panics if that takes too long.
    pub(crate) fn run(&mut self, at_most: Duration) {
        while self.nodes.iter().any(|node| node.waits()) {
            let event = self.events.first_key_value().map(|(&(at, _), _)| at);
            let ticks = self.nodes.iter().flat_map(|node| [node.fetch_deadline(), node.serve.deadline()]);
            let at = ticks.chain([event]).flatten().min().expect("something is to happen");
            self.now = self.now.max(at);
            assert!(self.now.since_origin() < at_most, "seed {} is stuck: {:?}", self.seed, self.stands());
            match event {
                Some(due) if due <= self.now => {
                    let (_, event) = self.events.pop_first().expect("there is one");
                    self.happen(event);
                }
                _ => self.happen(Event::Wake),
            }
        }
    }

    fn stands(&self) -> Vec<String> {
        let stand = |node: &Node| format!("{:?}", node.fetch.as_ref().map(FetchEngine::progress));
        self.nodes.iter().map(stand).collect()
    }

    /// Seconds until the last one had everything, counted from its beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.times().into_iter().fold(0.0, f64::max)
    }

    /// Seconds that each one took who has everything.
    pub(crate) fn times(&self) -> Vec<f64> {
        let took =
            |node: &Node| Some((node.done_at? - Time::from_origin(node.member.begins_at)).as_secs_f64());
        self.nodes.iter().filter_map(took).collect()
    }

    /// What the source has sent, as a multiple of the content.
    pub(crate) fn origin_sent(&self) -> f64 {
        self.nodes[ORIGIN].sent_chunks as f64 / f64::from(self.content.geometry.chunk_count())
    }

    /// Chunks that the fetchers asked for, as a multiple of what they needed.
    pub(crate) fn asked(&self) -> f64 {
        let asked: u64 = self.nodes.iter().map(|node| node.asked_chunks).sum();
        asked as f64 / (f64::from(self.content.geometry.chunk_count()) * (self.nodes.len() - 1) as f64)
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
            Event::Begin(number) => self.begin(number),
            Event::Die(number) => self.leave(number),
            Event::Meet(one, other) => self.meet(one, other),
            Event::TellNews(number) => self.tell_news(number),
            Event::Asked(from, to, request, span) if self.nodes[to].here => {
                assert!(
                    self.nodes[to].have.contains(span.first().piece()),
                    "only what is there is asked for"
                );
                let (session, content) = (SessionId(from as u64), ContentKey(0));
                let geometry = self.content.geometry.clone();
                self.serve(to, serve::Input::Asked { session, request, content, geometry, span });
            }
            Event::Cancelled(from, to, request) if self.nodes[to].here => {
                self.serve(to, serve::Input::Cancelled { session: SessionId(from as u64), request });
            }
            Event::AskedLayer(from, to) if self.nodes[to].here => {
                let (source, hashes) = (source(to), self.content.layer.hashes().to_vec());
                self.after(self.latency, Event::Told(from, to, Input::Layer { source, hashes }));
            }
            Event::AskedLeaves(from, to, piece) if self.nodes[to].here => {
                let source = source(to);
                self.after(self.latency, Event::Told(from, to, Input::LeavesFailed { source, piece }));
            }
            Event::Arrived(at, from, request, span) => self.arrived(at, from, request, span),
            Event::Told(at, from, input) if self.nodes[from].here => self.fetch(at, input),
            Event::Wake => {
                for number in 0..self.nodes.len() {
                    if self.nodes[number].fetch_deadline().is_some_and(|at| at <= self.now) {
                        self.fetch(number, Input::Tick);
                    }
                    if self.nodes[number].serve.deadline().is_some_and(|at| at <= self.now) {
                        self.serve(number, serve::Input::Tick);
                    }
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, number: usize) {
        let geometry = self.content.geometry.clone();
        let (have, seed) = (PieceSet::empty(geometry.clone()), self.random.random());
        let root = self.content.layer.root();
        let mut engine = FetchEngine::new(FetchConfig::default(), geometry, root, have, seed);
        if self.named {
            engine.call_me(name(number));
        }
        self.nodes[number].fetch = Some(engine);
        self.nodes[number].here = true;
        self.meet(number, ORIGIN);
        let others: Vec<usize> =
            (1..self.nodes.len()).filter(|&it| it != number && self.nodes[it].here).collect();
        for other in others {
            for (one, another) in [(number, other), (other, number)] {
                let found_after = Duration::from_millis(self.random.random_range(50..350));
                self.after(found_after, Event::Meet(one, another));
            }
        }
        self.after(NEWS_INTERVAL, Event::TellNews(number));
    }

    fn meet(&mut self, one: usize, other: usize) {
        if !self.nodes[one].here || !self.nodes[other].here || self.nodes[one].done_at.is_some() {
            return;
        }
        let (session, peer) = (SessionId(one as u64), PeerKey(one as u64));
        self.serve(other, serve::Input::Opened { session, peer });
        let whole = other == ORIGIN;
        self.fetch(one, Input::SourceJoined { source: source(other), whole });
        if whole {
            return;
        }
        if self.named {
            self.fetch(one, Input::SourceFetches { source: source(other), name: name(other) });
        }
        self.nodes[other].known_to.insert(one);
        let pieces = self.nodes[other].told.ranges();
        self.after(self.latency, Event::Told(one, other, Input::SourceHas { source: source(other), pieces }));
    }

    /// What is new since the last time goes to all who know the node.
    fn tell_news(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if !node.here {
            return;
        }
        let mut news = node.have.clone();
        for piece in node.told.iter() {
            news.remove(piece);
        }
        node.told = node.have.clone();
        for one in node.known_to.clone().into_iter().filter(|_| !news.is_empty()) {
            let input = Input::SourceHas { source: source(number), pieces: news.ranges() };
            self.after(self.latency, Event::Told(one, number, input));
        }
        self.after(NEWS_INTERVAL, Event::TellNews(number));
    }

    fn leave(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.here = false;
        node.fetch = None;
        for one in std::mem::take(&mut node.known_to) {
            self.serve(number, serve::Input::Closed { session: SessionId(one as u64) });
            self.fetch(one, Input::SourceLeft { source: source(number) });
        }
        for other in 0..self.nodes.len() {
            self.nodes[other].known_to.remove(&number);
            self.serve(other, serve::Input::Closed { session: SessionId(number as u64) });
        }
    }

    fn arrived(&mut self, at: usize, from: usize, request: RequestId, span: Span) {
        if self.nodes[from].here {
            let bytes = u64::from(span.count()) * u64::from(CHUNK_SIZE);
            self.serve(from, serve::Input::Sent { session: SessionId(at as u64), bytes });
        }
        let node = &mut self.nodes[at];
        if !node.here {
            return;
        }
        let mut leaves = Vec::new();
        for chunk in span.chunks() {
            let is_new = !std::mem::replace(&mut node.written[chunk.get() as usize], true);
            leaves.push(is_new.then_some(self.content.truth[chunk.get() as usize]));
        }
        self.fetch(at, Input::Arrived { source: source(from), request, first: span.first(), leaves });
    }

    fn fetch(&mut self, number: usize, input: Input) {
        let Some(engine) = self.nodes[number].fetch.as_mut() else { return };
        engine.handle(self.now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| engine.poll()).collect();
        if self.check_always {
            engine.check_invariants();
        }
        for output in outputs {
            match output {
                Output::Request { source, request, span } => {
                    self.nodes[number].asked_chunks += u64::from(span.count());
                    self.after(self.latency, Event::Asked(number, source.0 as usize, request, span));
                }
                Output::Cancel { source, request } => {
                    self.after(self.latency, Event::Cancelled(number, source.0 as usize, request));
                }
                Output::AskLayer { source } => {
                    self.after(self.latency, Event::AskedLayer(number, source.0 as usize));
                }
                Output::AskLeaves { source, piece } => {
                    self.after(self.latency, Event::AskedLeaves(number, source.0 as usize, piece));
                }
                Output::Verified { piece } => {
                    let node = &mut self.nodes[number];
                    assert!(node.have.insert(piece), "a piece is verified once");
                    let chunks = self.content.geometry.span_of(piece).chunks();
                    assert!(chunks.into_iter().all(|chunk| node.written[chunk.get() as usize]));
                }
                Output::LayerReady(_) => {}
                Output::Reset { .. } | Output::Drop { .. } => panic!("nobody lies here: {output:?}"),
                Output::Complete => self.completed(number),
            }
        }
    }

    fn completed(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        assert!(node.have.is_full(), "complete means that everything is here");
        node.done_at = Some(self.now);
        if node.member.leaves {
            self.leave(number);
        }
    }

    fn serve(&mut self, number: usize, input: serve::Input) {
        self.nodes[number].serve.handle(self.now, input);
        while let Some(output) = self.nodes[number].serve.poll() {
            let serve::Output::Grant { session, request, span, .. } = output else {
                panic!("nobody asks for too much: {output:?}")
            };
            let to = session.0 as usize;
            self.nodes[number].sent_chunks += u64::from(span.count());
            let receiver = &mut self.nodes[to];
            let mut takes = Duration::from_secs_f64(f64::from(span.count()) / receiver.member.down);
            if !receiver.member.pauses.is_zero() && self.random.random_range(0..PAUSES_EVERY) == 0 {
                takes += receiver.member.pauses.mul_f64(self.random.random());
            }
            receiver.down_free_at = receiver.down_free_at.max(self.now + self.latency) + takes;
            let at = receiver.down_free_at.since_origin();
            self.at(at, Event::Arrived(to, number, request, span));
        }
    }
}

impl Node {
    /// It is not done, and will be.
    fn waits(&self) -> bool {
        self.done_at.is_none() && self.member.dies_at.is_none() && (self.fetch.is_some() || !self.here)
    }

    fn fetch_deadline(&self) -> Option<Time> {
        self.fetch.as_ref().and_then(FetchEngine::deadline)
    }
}

fn source(number: usize) -> SourceId {
    SourceId(number as u32)
}

fn name(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0x0123_4567_89ab_cdef)
}

/// After how many grants a pause comes, where there are any.
const PAUSES_EVERY: u32 = 40;

/// How often others are told what is new.
const NEWS_INTERVAL: Duration = Duration::from_millis(70);
