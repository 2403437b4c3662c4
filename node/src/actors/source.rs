//! The Source actor: the session with one peer that a fetch gets chunks from.
//!
//! Owns the lanes to that peer and divides what the fetch engine asks for among them. It ends with its last lane. What
//! the lanes receive they tell the fetcher themselves; nothing of a chunk comes through here.

use std::sync::Arc;

use ftx_proto::engine::fetch::SourceId;
use ftx_proto::geometry::{PieceIndex, Span};
use ftx_proto::wire::session::RequestId;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::fetcher::FetcherMessage;
use crate::fetch::landing::Landing;
use crate::fetch::lane::{Described, Lane, LaneArguments, LaneCommand};
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
    LaneDown(usize, String),
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
    introduced: bool,
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
        let mut state = SourceState { arguments, myself, lanes: Vec::new(), introduced: false };
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
            SourceMessage::LaneUp(number, described) => state.lane_up(number, described),
            SourceMessage::LaneDown(number, reason) => {
                state.lane_down(number);
                if state.lanes.iter().all(Option::is_none) {
                    myself.stop(Some(reason));
                }
            }
            SourceMessage::WantLanes(count) => {
                if state.introduced && state.open_count() < count.min(LANES_PER_SOURCE_MAX) {
                    state.open_lane();
                }
            }
            SourceMessage::Request(request, span) => {
                let quietest = state.lanes.iter().flatten().filter(|open| open.up);
                let quietest = quietest.min_by_key(|open| open.lane.outstanding());
                let sent = quietest.map(|open| open.lane.send(LaneCommand::Request(request, span)));
                if sent != Some(Ok(())) {
                    state.tell(FetcherMessage::Lost {
                        source: state.arguments.source,
                        requests: vec![request],
                    });
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

    fn lane_up(&mut self, number: usize, described: Described) {
        if let Some(Some(open)) = self.lanes.get_mut(number) {
            open.up = true;
        }
        if !self.introduced {
            self.introduced = true;
            self.tell(FetcherMessage::SourceReady { source: self.arguments.source, described });
        }
    }

    fn lane_down(&mut self, number: usize) {
        let Some(open) = self.lanes.get_mut(number).and_then(Option::take) else { return };
        let requests = open.lane.unanswered();
        if !requests.is_empty() {
            self.tell(FetcherMessage::Lost { source: self.arguments.source, requests });
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
