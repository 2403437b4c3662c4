//! One file from a server, over any number of connections.
//!
//! It owns which blocks are here and which connection fetches which. It refuses to see their bytes: connections ask it
//! what to do next, write what they get, and compare the MD5 of the whole at the end, which is all that this protocol has
//! to prove a content. A crash loses it; with the ranges of [`DownloadPlan::missing`] in a journal another one goes on.
//!
//! States: *fetching* → *finished* or *failed*.

use std::ops::Range;

pub use super::queue::ConnectionId;

use super::block::{Block, BlockPlan};
use super::client::Refused;
use super::limits::BLOCK_ATTEMPTS_MAX;
use super::queue::BlockQueue;

/// What a connection should do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadStep {
    /// Ask for this block, then tell [`DownloadPlan::received`], [`DownloadPlan::refused`] or [`DownloadPlan::lost`].
    Fetch(Block),
    /// Nothing yet: ask again when another connection has told something.
    Wait,
    /// Every block is here.
    Finished,
    /// It goes no further. What is missing can be tried again another time.
    Failed(DownloadFailure),
}

/// Why a download goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownloadFailure {
    /// The server refuses a block again and again.
    #[error("{0}")]
    Refused(Refused),
    /// The same block was lost again and again: connections broke, there was no reply, or it had the wrong length.
    #[error("{BLOCK_ATTEMPTS_MAX} attempts without a usable reply")]
    Lost,
}

/// One download.
#[derive(Debug)]
pub struct DownloadPlan {
    queue: BlockQueue,
    failure: Option<DownloadFailure>,
}

impl DownloadPlan {
    /// All of a file.
    pub fn new(plan: BlockPlan) -> Self {
        Self::resume(plan, std::iter::once(0..plan.total_block()))
    }

    /// The rest of a file: the blocks with these numbers.
    pub fn resume(plan: BlockPlan, missing: impl IntoIterator<Item = Range<u64>>) -> Self {
        DownloadPlan { queue: BlockQueue::new(plan, missing), failure: None }
    }

    /// What this connection should do next. Asked twice without a word in between, it says the same.
    pub fn next(&mut self, connection: ConnectionId) -> DownloadStep {
        if let Some(failure) = &self.failure {
            DownloadStep::Failed(failure.clone())
        } else if self.queue.is_done() {
            DownloadStep::Finished
        } else {
            self.queue.take(connection).map_or(DownloadStep::Wait, DownloadStep::Fetch)
        }
    }

    /// The block of this connection came with so many bytes, and those are written. `None` if their number is wrong, so
    /// that they count for nothing: the block is to be fetched again.
    pub fn received(&mut self, connection: ConnectionId, len: usize) -> Option<Block> {
        match self.queue.held_by(connection) {
            Some(block) if block.len() == len => self.queue.done(connection),
            _ => {
                self.lost(connection);
                None
            }
        }
    }

    /// The server refused the block of this connection.
    pub fn refused(&mut self, connection: ConnectionId, refused: Refused) {
        self.put_back(connection, DownloadFailure::Refused(refused));
    }

    /// The block of this connection did not come: it broke, or there was no reply in time.
    pub fn lost(&mut self, connection: ConnectionId) {
        self.put_back(connection, DownloadFailure::Lost);
    }

    /// The plan that the blocks are of.
    pub fn plan(&self) -> BlockPlan {
        self.queue.plan()
    }

    /// The numbers of blocks that are not here: what a journal keeps.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.queue.missing()
    }

    /// Bytes that are here.
    pub fn bytes_done(&self) -> u64 {
        self.queue.bytes_done()
    }

    fn put_back(&mut self, connection: ConnectionId, failure: DownloadFailure) {
        if !self.queue.lost(connection) {
            self.failure.get_or_insert(failure);
        }
    }
}
