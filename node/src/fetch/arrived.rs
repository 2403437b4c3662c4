//! Chunks that landed and of which the fetch has not heard.

use ftx_proto::digest::Digest;
use ftx_proto::engine::fetch::{Input, SourceId};
use ftx_proto::geometry::ChunkIndex;
use ftx_proto::wire::session::RequestId;

/// Neighbours of one request, with their hashes: one message tells of all of them.
#[derive(Debug)]
pub(super) struct ArrivedRun {
    pub(super) request: RequestId,
    pub(super) first: ChunkIndex,
    pub(super) leaves: Vec<Option<Digest>>,
}

impl ArrivedRun {
    /// Takes what follows it into it; gives back what does not.
    pub(super) fn join(&mut self, next: ArrivedRun) -> Option<ArrivedRun> {
        if self.request != next.request || self.first.get() + self.leaves.len() as u32 != next.first.get() {
            return Some(next);
        }
        self.leaves.extend(next.leaves);
        None
    }

    /// What the fetch is told of it.
    pub(super) fn fact(self, source: SourceId) -> Input {
        let ArrivedRun { request, first, leaves } = self;
        Input::Arrived { source, request, first, leaves }
    }
}
