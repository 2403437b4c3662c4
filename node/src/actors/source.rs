//! The Source actor: the session with one peer that a fetch gets chunks from.
//!
//! Owns the lanes to that peer and divides what the fetch engine asks for among them. It ends with the last lane that is
//! up: one that is still being dialled could carry nothing of what is asked meanwhile. What the lanes receive they tell
//! the fetcher themselves; nothing of a chunk comes through here.

use std::sync::Arc;

use ftx_proto::digest::NodeId;
use ftx_proto::engine::fetch::SourceId;
use ftx_proto::geometry::{PieceIndex, Span};
use ftx_proto::wire::session::RequestId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::fetcher::FetcherMessage;
use crate::fetch::landing::Landing;
use crate::fetch::lane::{Described, Lane, LaneArguments, LaneCommand, LaneEnd};
use crate::limits::LANES_PER_SOURCE_MAX;
use crate::net::connection::Dialling;

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
}

#[derive(Debug)]
struct OpenLane {
    lane: Lane,
    up: bool,
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
        let mut state = SourceState { arguments, myself, lanes: Vec::new(), peer: None };
        state.open_lane();
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
            SourceMessage::WantLanes(count) => {
                if state.peer.is_some() && state.open_count() < count.min(LANES_PER_SOURCE_MAX) {
                    state.open_lane();
                }
            }
            SourceMessage::Request(request, span) => {
                let open = state.lanes.iter().enumerate().filter_map(|(n, open)| Some((n, open.as_ref()?)));
                let quietest =
                    open.filter(|(_, open)| open.up).min_by_key(|(_, open)| open.lane.outstanding());
                // Without a lane that is up this source is not introduced yet, or about to end.
                if let Some((number, open)) = quietest
                    && open.lane.send(LaneCommand::Request(request, span)).is_err()
                {
                    let end = LaneEnd::Broke("it takes nothing any more".to_owned());
                    state.lane_down(&myself, number, end);
                }
            }
            SourceMessage::Cancel(request) => {
                // A request that no lane has is answered already, or its lane is gone.
                if let Some(open) = state.lanes.iter().flatten().find(|open| open.lane.has(request)) {
                    let _ = open.lane.send(LaneCommand::Cancel(request));
                }
            }
            SourceMessage::AskLayer => {
                if !state.send_to_any(LaneCommand::Layer) {
                    state.tell(FetcherMessage::LayerFailed { source: state.arguments.source });
                }
            }
            SourceMessage::AskLeaves(piece) => {
                if !state.send_to_any(LaneCommand::Leaves(piece)) {
                    state.tell(FetcherMessage::LeavesFailed { source: state.arguments.source, piece });
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
    }
}

impl SourceState {
    fn open_count(&self) -> usize {
        self.lanes.iter().flatten().count()
    }

    fn open_lane(&mut self) {
        let arguments = LaneArguments {
            lane: self.lanes.len(),
            source: self.arguments.source,
            dialling: self.arguments.dialling.clone(),
            root: self.arguments.root,
            landing: Arc::clone(&self.arguments.landing),
            source_actor: self.myself.clone(),
            fetcher: self.arguments.fetcher.clone(),
        };
        let (lane, task) = Lane::start(arguments, &self.arguments.data);
        self.lanes.push(Some(OpenLane { lane, up: false, task }));
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
        if self.peer.replace(described.peer.node).is_none() {
            self.tell(FetcherMessage::SourceReady { source: self.arguments.source, described });
        }
    }

    /// A lane has ended, or is given up.
    fn lane_down(&mut self, myself: &ActorRef<SourceMessage>, number: usize, end: LaneEnd) {
        let Some(open) = self.lanes.get_mut(number).and_then(Option::take) else { return };
        open.task.abort();
        let requests = open.lane.unanswered();
        if !requests.is_empty() {
            self.tell(FetcherMessage::Lost { source: self.arguments.source, requests });
        }
        let reason = end.to_string();
        if !matches!(end, LaneEnd::Broke(_)) {
            self.tell(FetcherMessage::SourceFailed { source: self.arguments.source, end });
        }
        if !self.lanes.iter().flatten().any(|open| open.up) {
            myself.stop(Some(reason));
        }
    }

    fn send_to_any(&self, command: LaneCommand) -> bool {
        self.lanes.iter().flatten().any(|open| open.up && open.lane.send(command).is_ok())
    }

    fn tell(&self, message: FetcherMessage) {
        // The fetcher may have just ended, and this source is about to.
        let _ = self.arguments.fetcher.cast(message);
    }
}
