//! The Source actor: the session with one peer that a fetch gets chunks from.
//!
//! Owns the lanes to that peer and divides what the fetch engine asks for among them: streams, and one datagram lane
//! beside them where that is wanted or gives more ([`Choice`]). It ends with the last stream that is up: one that is still
//! being dialled could carry nothing of what is asked meanwhile, and datagrams hang on a session. What the lanes
//! receive they tell the fetcher themselves; nothing of a chunk comes through here.

use std::sync::Arc;
use std::time::Duration;

use ftx_proto::digest::NodeId;
use ftx_proto::engine::fetch::{Input, SourceId};
use ftx_proto::engine::pull::choice::{
    Carried, Choice, Input as Choosing, LaneKind, LaneMode, Output as Chosen, SAMPLE_INTERVAL,
};
use ftx_proto::geometry::{PieceIndex, Span};
use ftx_proto::wire::session::RequestId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::fetcher::FetcherMessage;
use crate::clock::Clock;
use crate::fetch::landing::Landing;
use crate::fetch::lane::{DatagramsHere, Described, Lane, LaneArguments, LaneCommand, LaneEnd};
use crate::fetch::pull::{PullArguments, SharedBudget};
use crate::limits::LANES_PER_SOURCE_MAX;
use crate::net::connection::Dialling;
use crate::net::datagram::socket::Mode;

/// The Source actor.
#[derive(Debug)]
pub struct Source;

/// What a source is started with.
#[derive(Debug, Clone)]
pub struct SourceArguments {
    /// Its number in the fetch engine.
    pub source: SourceId,
    /// Whom to dial, and how.
    pub dialling: Dialling,
    /// The content.
    pub root: ftx_proto::digest::Root,
    /// Where its chunks go.
    pub landing: Arc<Landing>,
    /// Whose source it is.
    pub fetcher: ActorRef<FetcherMessage>,
    /// Which lanes may be used.
    pub mode: LaneMode,
    /// What all datagram lanes of the fetch may have in flight.
    pub budget: SharedBudget,
    /// What time it is.
    pub clock: Clock,
    /// Where lanes do their work.
    pub data: Handle,
}

/// What a source is told.
#[derive(Debug)]
pub enum SourceMessage {
    /// A lane is connected, and the peer says what it has.
    LaneUp(usize, Described),
    /// A lane is gone, for this reason.
    LaneDown(usize, LaneEnd),
    /// The peer says how it gives datagrams, over the session of this lane; or that it does not.
    Datagrams(usize, Option<DatagramsHere>),
    /// Datagrams pass.
    PullUp(usize),
    /// The first lane has had its time to come up.
    StillDialling,
    /// Time to look how the lanes do.
    Sample,
    /// Datagrams were wanted, and nothing came for too long.
    DatagramsOverdue,
    /// One more lane, if the source has fewer than this.
    WantLanes(usize),
    /// Ask for chunks.
    Request(RequestId, Span),
    /// Do not want them any more.
    Cancel(RequestId),
    /// Ask for the hash of every piece.
    AskLayer,
    /// Ask for the hash of every chunk of a piece.
    AskLeaves(PieceIndex),
}

/// What a source owns.
#[derive(Debug)]
pub struct SourceState {
    arguments: SourceArguments,
    myself: ActorRef<SourceMessage>,
    lanes: Vec<Option<OpenLane>>,
    /// Who it is, once a lane is up.
    peer: Option<NodeId>,
    choice: Choice,
    /// How it gives datagrams, over the session of this lane, until they are wanted: asked for while the stream still moves,
    /// since where much is lost the answer would come behind all that was asked before.
    at_hand: Option<(usize, DatagramsHere)>,
    /// What is told of the source when it is clear on which lane it is asked.
    introduction: Option<Described>,
    /// Something was asked for all the time since the last look.
    busy: bool,
    /// What lanes have carried that are gone.
    gone: [Carried; 2],
    sampling: Option<AbortHandle>,
}

#[derive(Debug)]
struct OpenLane {
    lane: Lane,
    kind: LaneKind,
    up: bool,
    /// The lane over whose session this one was opened.
    over: Option<usize>,
    task: AbortHandle,
}

impl Actor for Source {
    type Msg = SourceMessage;
    type State = SourceState;
    type Arguments = SourceArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SourceMessage>,
        arguments: SourceArguments,
    ) -> Result<SourceState, ActorProcessingErr> {
        let choice = Choice::new(arguments.mode, arguments.clock.now());
        let sampling = (arguments.mode == LaneMode::Auto)
            .then(|| myself.send_interval(SAMPLE_INTERVAL, || SourceMessage::Sample).abort_handle());
        let mut state = SourceState {
            arguments,
            myself,
            lanes: Vec::new(),
            peer: None,
            choice,
            at_hand: None,
            introduction: None,
            busy: false,
            gone: [Carried::default(); 2],
            sampling,
        };
        state.open_lane();
        if state.arguments.mode == LaneMode::Datagram {
            // Whoever wants datagrams knows that packets get lost: the one that comes up first is used.
            state.open_lane();
        } else {
            state.myself.send_after(DIALLING_ALONE, || SourceMessage::StillDialling);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SourceMessage>,
        message: SourceMessage,
        state: &mut SourceState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SourceMessage::LaneUp(number, described) => state.lane_up(&myself, number, described),
            SourceMessage::LaneDown(number, end) => state.lane_down(&myself, number, end),
            SourceMessage::Datagrams(over, here) => state.datagrams(over, here),
            SourceMessage::PullUp(number) => {
                if let Some(Some(open)) = state.lanes.get_mut(number) {
                    open.up = true;
                    state.choose(Choosing::Opened);
                }
            }
            SourceMessage::StillDialling => {
                let is_slow = state.arguments.dialling.tries.has_arrived();
                if state.peer.is_none() && !state.lanes.is_empty() && !is_slow {
                    state.open_lane();
                }
            }
            SourceMessage::Sample => state.sample(),
            SourceMessage::DatagramsOverdue => {
                if state.introduction.is_some() {
                    state.choose(Choosing::Unavailable("no datagrams come from there".to_owned()));
                }
            }
            SourceMessage::WantLanes(count) => {
                let streams = state.open_lanes(LaneKind::Stream).count();
                if state.peer.is_some() && streams < count.min(LANES_PER_SOURCE_MAX) {
                    state.open_lane();
                }
            }
            SourceMessage::Request(request, span) => {
                // Without a lane that is up this source is not introduced yet, or about to end.
                if let Some(number) = state.quietest() {
                    state.ask(&myself, number, request, span);
                }
            }
            SourceMessage::Cancel(request) => {
                // A request that no lane has is answered already, or its lane is gone.
                for open in state.lanes.iter().flatten().filter(|open| open.lane.has(request)) {
                    let _ = open.lane.send(LaneCommand::Cancel(request));
                }
            }
            SourceMessage::AskLayer => {
                if !state.ask_layer() {
                    state.tell(FetcherMessage::Fact(Input::LayerFailed { source: state.arguments.source }));
                }
            }
            SourceMessage::AskLeaves(piece) => {
                if !state.send_to_any(LaneCommand::Leaves(piece)) {
                    let failed = Input::LeavesFailed { source: state.arguments.source, piece };
                    state.tell(FetcherMessage::Fact(failed));
                }
            }
        }
        Ok(())
    }
}

impl Drop for SourceState {
    fn drop(&mut self) {
        for open in self.lanes.iter().flatten() {
            open.task.abort();
        }
        if let Some(sampling) = &self.sampling {
            sampling.abort();
        }
    }
}

impl SourceState {
    fn open_lanes(&self, kind: LaneKind) -> impl Iterator<Item = (usize, &OpenLane)> {
        let open = self.lanes.iter().enumerate().filter_map(|(number, open)| Some((number, open.as_ref()?)));
        open.filter(move |(_, open)| open.kind == kind)
    }

    /// The lane of the chosen kind that has least to do; of the other kind where there is none.
    fn quietest(&self) -> Option<usize> {
        let other = match self.choice.lane() {
            LaneKind::Stream => LaneKind::Datagram,
            LaneKind::Datagram => LaneKind::Stream,
        };
        [self.choice.lane(), other].into_iter().find_map(|kind| {
            let up = self.open_lanes(kind).filter(|(_, open)| open.up);
            up.min_by_key(|(_, open)| open.lane.outstanding()).map(|(number, _)| number)
        })
    }

    fn ask(&mut self, myself: &ActorRef<SourceMessage>, number: usize, request: RequestId, span: Span) {
        let Some(Some(open)) = self.lanes.get(number) else { return };
        if open.lane.send(LaneCommand::Request(request, span)).is_err() {
            self.lane_down(myself, number, LaneEnd::Broke("it takes nothing any more".to_owned()));
        }
    }

    /// Looks how the lanes do.
    fn sample(&mut self) {
        let busy = self.lanes.iter().flatten().any(|open| open.lane.outstanding() > 0);
        let [mut stream, mut datagram] = self.gone;
        let (mut asked, mut stuck) = (0, 0);
        for open in self.lanes.iter().flatten() {
            let is_stuck = open.lane.look();
            let sum = match open.kind {
                LaneKind::Stream => {
                    let is_asked = open.lane.outstanding() > 0;
                    (asked, stuck) = (asked + u32::from(is_asked), stuck + u32::from(is_asked && is_stuck));
                    &mut stream
                }
                LaneKind::Datagram => &mut datagram,
            };
            add(sum, open.lane.carried());
        }
        let was_busy = std::mem::replace(&mut self.busy, busy);
        let (busy, stuck) = (busy && was_busy, stuck > 0 && stuck == asked);
        self.choose(Choosing::Sampled { stream, datagram, busy, stuck });
    }

    /// Lets the choice know something, and does what it decides.
    fn choose(&mut self, input: Choosing) {
        self.choice.handle(self.arguments.clock.now(), input);
        while let Some(output) = self.choice.poll() {
            match output {
                Chosen::Open => self.open_datagrams(),
                Chosen::Use { lane, reason } => self.switch(lane, reason),
            }
        }
    }

    /// Opens the way to get datagrams that is at hand, or asks for one over one of the streams.
    fn open_datagrams(&mut self) {
        if let Some((over, here)) = self.at_hand.take() {
            return self.open_pull(over, here);
        }
        if !self.send_to_any(LaneCommand::OpenDatagrams) {
            self.choose(Choosing::Unavailable("there is no session to ask for datagrams".to_owned()));
        }
    }

    /// The peer has said how it gives datagrams.
    fn datagrams(&mut self, over: usize, here: Option<DatagramsHere>) {
        let Some(here) = here else {
            return self.choose(Choosing::Unavailable("it gives no datagrams".to_owned()));
        };
        if self.open_lanes(LaneKind::Datagram).next().is_some()
            || !matches!(self.lanes.get(over), Some(Some(_)))
        {
            return;
        }
        if self.choice.is_waiting() {
            self.open_pull(over, here);
        } else {
            self.at_hand = Some((over, here));
        }
    }

    fn open_pull(&mut self, over: usize, here: DatagramsHere) {
        let arguments = PullArguments {
            lane: self.lanes.len(),
            source: self.arguments.source,
            peer: here.peer,
            local: self.arguments.dialling.local,
            connection: here.connection,
            secret: here.secret,
            root: self.arguments.root,
            landing: Arc::clone(&self.arguments.landing),
            source_actor: self.myself.clone(),
            fetcher: self.arguments.fetcher.clone(),
            budget: Arc::clone(&self.arguments.budget),
            clock: self.arguments.clock,
            mode: Mode::default(),
        };
        let (lane, task) = Lane::start_pull(arguments, &self.arguments.data);
        self.tell(FetcherMessage::LaneOpened(self.arguments.source, lane.meter()));
        self.lanes.push(Some(OpenLane { lane, kind: LaneKind::Datagram, up: false, over: Some(over), task }));
    }

    /// Asks on this lane from now on.
    fn switch(&mut self, lane: LaneKind, reason: String) {
        let source = self.arguments.source;
        self.tell(FetcherMessage::LaneChosen { source, lane, reason });
        if let Some(described) = self.introduction.take() {
            self.tell(FetcherMessage::SourceReady { source, described });
        }
        if lane == LaneKind::Datagram {
            // What waits on a stream that hardly moves is asked for here. The other way round nothing is in a hurry.
            let streams = self.open_lanes(LaneKind::Stream);
            let taken: Vec<_> = streams.flat_map(|(_, open)| open.lane.take_back()).collect();
            let myself = self.myself.clone();
            for (request, span) in taken {
                if let Some(number) = self.quietest() {
                    self.ask(&myself, number, request, span);
                }
            }
        }
    }

    fn open_lane(&mut self) {
        let arguments = LaneArguments {
            lane: self.lanes.len(),
            source: self.arguments.source,
            dialling: self.arguments.dialling.clone(),
            root: self.arguments.root,
            datagrams: self.peer.is_none() && self.arguments.mode != LaneMode::Stream,
            landing: Arc::clone(&self.arguments.landing),
            source_actor: self.myself.clone(),
            fetcher: self.arguments.fetcher.clone(),
        };
        let (lane, task) = Lane::start(arguments, &self.arguments.data);
        self.lanes.push(Some(OpenLane { lane, kind: LaneKind::Stream, up: false, over: None, task }));
    }

    fn lane_up(&mut self, myself: &ActorRef<SourceMessage>, number: usize, described: Described) {
        if self.peer.is_some_and(|peer| peer != described.peer.node) {
            // What it sent would be put down to the first one.
            let end = LaneEnd::Broke("another node answers at its address".to_owned());
            return self.lane_down(myself, number, end);
        }
        if let Some(Some(open)) = self.lanes.get_mut(number) {
            open.up = true;
        }
        if self.peer.replace(described.peer.node).is_some() {
            return;
        }
        if self.arguments.mode == LaneMode::Datagram {
            self.introduction = Some(described);
            // The lane has asked for datagrams already.
            myself.send_after(DATAGRAMS_PATIENCE, || SourceMessage::DatagramsOverdue);
        } else {
            self.tell(FetcherMessage::SourceReady { source: self.arguments.source, described });
        }
    }

    /// A lane has ended, or is given up.
    fn lane_down(&mut self, myself: &ActorRef<SourceMessage>, number: usize, end: LaneEnd) {
        let Some(open) = self.lanes.get_mut(number).and_then(Option::take) else { return };
        open.task.abort();
        let [stream, datagram] = &mut self.gone;
        add(if open.kind == LaneKind::Stream { stream } else { datagram }, open.lane.carried());
        self.at_hand.take_if(|(over, _)| *over == number);
        let requests = open.lane.unanswered();
        if !requests.is_empty() {
            self.tell(FetcherMessage::Fact(Input::Lost { source: self.arguments.source, requests }));
        }
        let reason = end.to_string();
        if !matches!(end, LaneEnd::Broke(_)) {
            self.tell(FetcherMessage::SourceFailed { source: self.arguments.source, end });
        }
        if !self.open_lanes(LaneKind::Stream).any(|(_, open)| open.up) {
            return myself.stop(Some(reason));
        }
        if open.kind == LaneKind::Datagram {
            self.choose(Choosing::Unavailable(reason));
        }
        // Datagrams whose session is gone are not answered any more.
        let orphan = self.open_lanes(LaneKind::Datagram).find(|(_, open)| open.over == Some(number));
        if let Some(orphan) = orphan.map(|(orphan, _)| orphan) {
            self.lane_down(myself, orphan, LaneEnd::Broke("its session ended".to_owned()));
        }
    }

    /// Asks for the layer: twice if it is small, since everything waits for it and one lost packet holds it up for long.
    fn ask_layer(&self) -> bool {
        let geometry = self.arguments.landing.geometry();
        let times = if geometry.piece_count() <= LAYER_TWICE_MAX { 2 } else { 1 };
        let up = self.open_lanes(LaneKind::Stream).filter(|(_, open)| open.up);
        up.filter(|(_, open)| open.lane.send(LaneCommand::Layer).is_ok()).take(times).count() > 0
    }

    fn send_to_any(&self, command: LaneCommand) -> bool {
        self.open_lanes(LaneKind::Stream).any(|(_, open)| open.up && open.lane.send(command).is_ok())
    }

    fn tell(&self, message: FetcherMessage) {
        // The fetcher may have just ended, and this source is about to.
        let _ = self.arguments.fetcher.cast(message);
    }
}

fn add(sum: &mut Carried, more: Carried) {
    sum.bytes += more.bytes;
    sum.packets += more.packets;
    sum.lost += more.lost;
}

/// Pieces up to which the layer is asked for twice.
const LAYER_TWICE_MAX: u32 = 8192;

/// How long the first lane is dialled alone. TCP waits a second for the answer to its first packet: where it got lost, a second
/// lane is sooner.
const DIALLING_ALONE: Duration = Duration::from_millis(300);

/// How long a source that is to be asked for datagrams may take to send the first.
const DATAGRAMS_PATIENCE: Duration = Duration::from_secs(3);
