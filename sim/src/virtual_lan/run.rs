//! From a scenario to its outcome: what happens, one event after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ftx_proto::engine::pull::budget::Member;
use ftx_proto::engine::pull::{Fate, Input, Output, PullEngine, PullStatistics};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry};
use ftx_proto::time::Time;
use ftx_proto::wire::datagram::{Asking, DataHead, HEADER_LEN, Layout, TAG_LEN, Want};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use super::fetch::Fetch;
use super::link::Link;
use super::rival::{FRAME_BYTES, Rival};
use super::scenario::{FetchOutcome, PullOutcome, PullScenario, SourceOutcome, SourceSpec, add};

/// What happens next to whom. Sources, fetches and rivals are meant by their places.
#[derive(Debug)]
enum Event {
    Begin(usize),
    /// What a lane asks arrives at its source.
    Asked(usize, u32, Asking),
    /// A source goes on sending what it was asked for.
    Sending(usize),
    AtSwitch(Packet),
    Arrived(Packet),
    /// The deadline of an engine may have come.
    Tick(usize),
    /// A lane that was given up is tried anew.
    Reopen(usize),
    RivalSending(usize),
    RivalAcknowledged(usize, u64),
    RivalTick(usize),
}

/// What is on the links to the node that fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Packet {
    /// From a source, on its lane of this number.
    Answer(usize, u32, Answer),
    /// From a rival.
    Segment(usize, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Answer {
    /// Want, chunk, fragment, bytes.
    Data(u16, u32, u8, usize),
    /// Number of the probe, bytes of the datagram.
    Padding(u32, usize),
}

/// A source, its links, and the lane to it.
#[derive(Debug)]
struct Source {
    fetch: usize,
    member: Member,
    spec: SourceSpec,
    /// `None` before the fetch begins, and while it does not try.
    engine: Option<PullEngine>,
    /// How many lanes there were before.
    lane: u32,
    up: Link,
    back: Link,
    /// What it has been asked for and has not sent.
    to_send: VecDeque<Answer>,
    tick: Option<Time>,
    bytes: u64,
    /// Of the lanes that were.
    statistics: PullStatistics,
    fragments: u8,
}

/// A rival and its links.
#[derive(Debug)]
struct RivalState {
    rival: Rival,
    up: Link,
    back: Link,
    tick: Option<Time>,
    waiting: bool,
}

/// A run of a [`PullScenario`].
#[derive(Debug)]
pub struct PullRun {
    scenario: PullScenario,
    random: ChaCha8Rng,
    now: Time,
    order: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    fetches: Vec<Fetch>,
    sources: Vec<Source>,
    rivals: Vec<RivalState>,
    last: Link,
    log: DefaultHasher,
}

impl PullRun {
    /// A run that has not begun. Panics if a fetch has a size that no content can have.
    pub fn new(scenario: PullScenario) -> Self {
        let (mut fetches, mut sources) = (Vec::new(), Vec::new());
        for (number, spec) in scenario.fetches.iter().enumerate() {
            let first = sources.len();
            for (member, source) in (0..).zip(&spec.sources) {
                sources.push(Source::new(number, Member(member), source.clone()));
            }
            fetches.push(Fetch::new(spec, first..sources.len()));
        }
        let mut run = PullRun {
            random: ChaCha8Rng::seed_from_u64(scenario.seed),
            now: Time::ZERO,
            order: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            fetches,
            sources,
            rivals: scenario.rivals.iter().map(RivalState::new).collect(),
            last: Link::new(scenario.last.clone()),
            log: DefaultHasher::new(),
            scenario,
        };
        for fetch in 0..run.fetches.len() {
            run.later(run.scenario.fetches[fetch].begins, Event::Begin(fetch));
        }
        for rival in 0..run.rivals.len() {
            run.rivals[rival].waiting = true;
            run.later(run.scenario.rivals[rival].begins, Event::RivalSending(rival));
        }
        run
    }

    /// Runs to the end.
    pub fn run(mut self) -> PullOutcome {
        self.run_to(self.scenario.until);
        self.outcome()
    }

    /// Goes on until then, or until every fetch is done.
    pub fn run_to(&mut self, until: Time) {
        while self.fetches.iter().any(|fetch| fetch.done_at.is_none()) {
            let Some(&Reverse((at, number))) = self.order.peek() else { return };
            if at > until {
                return;
            }
            self.order.pop();
            let Some(event) = self.events.remove(&number) else { continue };
            self.now = at;
            self.log(&event);
            self.happen(event);
        }
    }

    /// Bytes of the chunks that a fetch has.
    pub fn fetched(&self, fetch: usize) -> u64 {
        self.fetches[fetch].bytes
    }

    /// Bytes that a rival has delivered.
    pub fn delivered(&self, rival: usize) -> u64 {
        self.rivals[rival].rival.delivered
    }

    /// How it went so far.
    pub fn outcome(&self) -> PullOutcome {
        let fetches = self.fetches.iter().map(|fetch| FetchOutcome {
            done_at: fetch.done_at,
            sources: self.sources[fetch.sources.clone()].iter().map(Source::outcome).collect(),
            in_flight_max: fetch.in_flight_max,
        });
        PullOutcome {
            fetches: fetches.collect(),
            rivals: (0..self.rivals.len()).map(|rival| self.delivered(rival)).collect(),
            last: self.last.count(),
            log: self.log.finish(),
        }
    }

    fn later(&mut self, at: Time, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.order.push(Reverse((at.max(self.now), number)));
        self.events.insert(number, event);
    }

    fn log(&mut self, event: &Event) {
        (self.now.since_origin().as_nanos(), std::mem::discriminant(event)).hash(&mut self.log);
        match event {
            Event::Asked(source, lane, asking) => (source, lane, asking.encode()).hash(&mut self.log),
            Event::AtSwitch(packet) | Event::Arrived(packet) => packet.hash(&mut self.log),
            Event::RivalAcknowledged(rival, number) => (rival, number).hash(&mut self.log),
            Event::Begin(place)
            | Event::Sending(place)
            | Event::Tick(place)
            | Event::Reopen(place)
            | Event::RivalSending(place)
            | Event::RivalTick(place) => place.hash(&mut self.log),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(fetch) => self.fetches[fetch].sources.clone().for_each(|source| self.open(source)),
            Event::Reopen(source) => self.open(source),
            Event::Asked(source, lane, asking) => self.asked(source, lane, &asking),
            Event::Sending(source) => self.send(source),
            Event::AtSwitch(packet) => {
                for at in self.last.send(self.now, packet.frame_len(), &mut self.random) {
                    self.later(at, Event::Arrived(packet));
                }
            }
            Event::Arrived(Packet::Answer(source, lane, answer)) => self.arrived(source, lane, answer),
            Event::Arrived(Packet::Segment(rival, number)) => {
                let state = &mut self.rivals[rival];
                for at in state.back.send(self.now, ACKNOWLEDGEMENT_BYTES, &mut self.random) {
                    self.later(at, Event::RivalAcknowledged(rival, number));
                }
            }
            Event::Tick(source) => {
                let deadline = self.sources[source].engine.as_ref().and_then(PullEngine::deadline);
                self.sources[source].tick = None;
                if deadline.is_some_and(|at| at <= self.now) {
                    self.step(source, Input::Tick);
                }
                self.carry_out(source);
            }
            Event::RivalSending(rival) => {
                self.rivals[rival].waiting = false;
                self.rival_sends(rival);
            }
            Event::RivalAcknowledged(rival, number) => {
                self.rivals[rival].rival.acknowledged(self.now, number);
                self.rival_sends(rival);
            }
            Event::RivalTick(rival) => {
                let state = &mut self.rivals[rival];
                state.tick = None;
                if state.rival.time_out_at().is_some_and(|at| at <= self.now) {
                    state.rival.time_out(self.now);
                }
                self.rival_sends(rival);
            }
        }
    }

    /// Opens a lane to a source.
    fn open(&mut self, source: usize) {
        let state = &mut self.sources[source];
        let fetch = &self.fetches[state.fetch];
        state.engine = Some(PullEngine::new(fetch.geometry.clone(), state.member, fetch.buffer, self.now));
        self.feed(source);
        self.carry_out(source);
    }

    /// What a lane asks has arrived at its source.
    fn asked(&mut self, source: usize, lane: u32, asking: &Asking) {
        let state = &mut self.sources[source];
        if lane != state.lane {
            return;
        }
        let answers = answers(&self.fetches[state.fetch].geometry, asking);
        let idle = state.to_send.is_empty();
        state.to_send.extend(answers);
        if idle {
            self.send(source);
        }
    }

    /// A source sends until its own queue is full; it waits rather than loses.
    fn send(&mut self, source: usize) {
        while let Some(&answer) = self.sources[source].to_send.front() {
            let state = &mut self.sources[source];
            let packet = Packet::Answer(source, state.lane, answer);
            let bytes = packet.frame_len();
            let room_at = state.up.room_at(self.now, bytes);
            if room_at > self.now {
                self.later(room_at + ROUNDING, Event::Sending(source));
                return;
            }
            state.to_send.pop_front();
            let (spec, times) = (state.spec.clone(), state.up.send(self.now, bytes, &mut self.random));
            for at in times {
                let shrunk = spec.shrinks.filter(|(from, _)| *from <= at);
                let max = shrunk.map_or(spec.datagram_max, |(_, max)| max);
                if bytes <= max as u64 + FRAME_HEADERS {
                    self.later(at, Event::AtSwitch(packet));
                }
            }
        }
    }

    fn arrived(&mut self, source: usize, lane: u32, answer: Answer) {
        let state = &mut self.sources[source];
        let Some(engine) = state.engine.as_mut().filter(|_| state.lane == lane) else { return };
        let input = match answer {
            Answer::Padding(number, _) => Input::Padding { number },
            Answer::Data(want, chunk, fragment, len) => {
                let head = DataHead { want, chunk, fragment };
                let fate = engine.data(self.now, head, len).expect("sources are honest here");
                if let Fate::Keep { chunk, place, completes } = fate {
                    let fetch = &mut self.fetches[state.fetch];
                    state.bytes += fetch.keep(self.now, source, (chunk, place), completes);
                }
                Input::Tick
            }
        };
        self.step(source, input);
        self.feed(source);
        self.carry_out(source);
    }

    /// Keeps a source asked for enough, as a fetch does.
    fn feed(&mut self, source: usize) {
        let number = self.sources[source].fetch;
        loop {
            let Some(engine) = &self.sources[source].engine else { return };
            let assigned = self.fetches[number].assign(source, engine.wanted_bytes());
            let Some((request, span)) = assigned else { return };
            self.step(source, Input::Ask { request, span });
        }
    }

    /// Gives an engine something to think about, and looks at what it makes of it.
    fn step(&mut self, source: usize, input: Input) {
        let state = &mut self.sources[source];
        let Some(engine) = &mut state.engine else { return };
        let before = engine.in_flight();
        engine.handle(self.now, input, &mut self.fetches[state.fetch].budget);
        if self.scenario.checked {
            engine.check_invariants();
            let (after, allowed) = (engine.in_flight(), engine.allowed());
            let one_want = allowed.max(u64::from(CHUNK_SIZE));
            assert!(
                after <= before.max(allowed).max(one_want),
                "{after} in flight where {allowed} are allowed"
            );
            assert!(
                allowed <= engine.window().bytes().max(ALLOWED_LEAST),
                "no more than the window is allowed"
            );
        }
    }

    fn carry_out(&mut self, source: usize) {
        let mut silent = false;
        let state = &mut self.sources[source];
        let Some(engine) = &mut state.engine else { return };
        let mut asked = Vec::new();
        while let Some(output) = engine.poll() {
            assert!(!silent, "nothing comes after the end");
            match output {
                Output::Send(asking) => {
                    let bytes = (asking.encode().len() + HEADER_LEN + TAG_LEN) as u64 + FRAME_HEADERS;
                    for at in state.back.send(self.now, bytes, &mut self.random) {
                        asked.push((at, Event::Asked(source, state.lane, asking.clone())));
                    }
                }
                Output::Forget(_) => unreachable!("nothing is cancelled here"),
                Output::Silent => silent = true,
            }
        }
        let deadline = engine.deadline().filter(|at| state.tick.is_none_or(|tick| tick > *at));
        state.tick = deadline.or(state.tick);
        let fetch = &mut self.fetches[state.fetch];
        let engines = self.sources[fetch.sources.clone()].iter().filter_map(|source| source.engine.as_ref());
        fetch.in_flight_max = fetch.in_flight_max.max(engines.map(PullEngine::in_flight).sum());
        asked.into_iter().for_each(|(at, event)| self.later(at, event));
        if let Some(at) = deadline {
            self.later(at, Event::Tick(source));
        }
        if silent {
            self.give_up(source);
        }
    }

    /// A lane is of no use any more: others are asked for what it did not give, and it is tried again later.
    fn give_up(&mut self, source: usize) {
        let state = &mut self.sources[source];
        state.close();
        let fetch = &mut self.fetches[state.fetch];
        fetch.budget.leave(state.member);
        fetch.take_back(source);
        let sources = fetch.sources.clone();
        self.later(self.now + REOPEN_AFTER, Event::Reopen(source));
        for other in sources {
            self.feed(other);
            self.carry_out(other);
        }
    }

    fn rival_sends(&mut self, rival: usize) {
        while !self.rivals[rival].waiting {
            let state = &mut self.rivals[rival];
            let room_at = state.up.room_at(self.now, FRAME_BYTES);
            if room_at > self.now {
                state.waiting = true;
                self.later(room_at + ROUNDING, Event::RivalSending(rival));
                break;
            }
            let Some(number) = state.rival.next(self.now) else { break };
            for at in state.up.send(self.now, FRAME_BYTES, &mut self.random) {
                self.later(at, Event::AtSwitch(Packet::Segment(rival, number)));
            }
        }
        let state = &mut self.rivals[rival];
        if let Some(at) = state.rival.time_out_at()
            && state.tick.is_none()
        {
            state.tick = Some(at);
            self.later(at, Event::RivalTick(rival));
        }
    }
}

impl Source {
    fn new(fetch: usize, member: Member, spec: SourceSpec) -> Self {
        Source {
            fetch,
            member,
            engine: None,
            lane: 0,
            up: Link::new(spec.link.clone()),
            back: Link::new(spec.link.clone()),
            spec,
            to_send: VecDeque::new(),
            tick: None,
            bytes: 0,
            statistics: PullStatistics::default(),
            fragments: Layout::SMALLEST.fragments(),
        }
    }

    /// The lane ends; what was asked on it is not sent any more.
    fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.statistics = add(self.statistics, engine.statistics());
            self.fragments = engine.layout().fragments();
        }
        self.lane += 1;
        self.to_send.clear();
        self.tick = None;
    }

    fn outcome(&self) -> SourceOutcome {
        let (statistics, fragments) = match &self.engine {
            Some(engine) => (add(self.statistics, engine.statistics()), engine.layout().fragments()),
            None => (self.statistics, self.fragments),
        };
        let (bytes, silences, link) = (self.bytes, self.lane, self.up.count());
        SourceOutcome { bytes, statistics, fragments, silences, link }
    }
}

impl RivalState {
    fn new(spec: &super::rival::RivalSpec) -> Self {
        let (up, back) = (Link::new(spec.link.clone()), Link::new(spec.link.without_faults()));
        RivalState { rival: Rival::new(spec.control), up, back, tick: None, waiting: false }
    }
}

impl Packet {
    /// Bytes of its frame.
    fn frame_len(self) -> u64 {
        match self {
            Packet::Answer(_, _, Answer::Data(_, _, _, len)) => (len + DATA_OVERHEAD) as u64 + FRAME_HEADERS,
            Packet::Answer(_, _, Answer::Padding(_, len)) => len as u64 + FRAME_HEADERS,
            Packet::Segment(..) => FRAME_BYTES,
        }
    }
}

/// What a source sends for what it is asked.
fn answers(geometry: &Geometry, asking: &Asking) -> Vec<Answer> {
    match asking {
        Asking::Probe { number, bytes } => vec![Answer::Padding(*number, usize::from(*bytes))],
        Asking::Want(want) => fragments(geometry, want),
    }
}

fn fragments(geometry: &Geometry, want: &Want) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (chunk, mask) in want.send_order() {
        let len = geometry.chunk_len(chunk);
        answers.extend(mask.iter().map(|fragment| {
            Answer::Data(want.number as u16, chunk.get(), fragment, want.layout.range(len, fragment).len())
        }));
    }
    answers
}

/// Bytes of a frame beyond the payload of UDP: Ethernet, IPv4 and UDP.
const FRAME_HEADERS: u64 = 14 + 20 + 8;

/// Bytes of a datagram beyond its fragment.
const DATA_OVERHEAD: usize = HEADER_LEN + TAG_LEN + ftx_proto::wire::datagram::DATA_HEAD_LEN;

/// Bytes of a frame with an acknowledgement of TCP.
const ACKNOWLEDGEMENT_BYTES: u64 = 66;

/// What the budget leaves to each source in any case.
const ALLOWED_LEAST: u64 = 4 * 1024;

/// More than what is lost by rounding times to nanoseconds.
const ROUNDING: Duration = Duration::from_nanos(100);

/// Time from the end of a lane to the next try.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
