//! Which blocks of a file are still to be moved, and which connection has which in hand.
//!
//! A block is *waiting* → *out* with one connection → *done*, or waiting again if it was lost. What is done is not kept:
//! it is every block that is neither waiting nor out. So memory follows the number of connections, not of blocks.
//!
//! Invariants: no block is in two states; a connection has at most one; `left` counts what is not done.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::block::{Block, BlockPlan};
use super::limits::BLOCK_ATTEMPTS_MAX;

/// One of the connections that share the work. Its owner never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

#[derive(Debug)]
pub(super) struct BlockQueue {
    plan: BlockPlan,
    /// In the order in which they are handed out; none empty.
    waiting: VecDeque<Range<u64>>,
    out: BTreeMap<ConnectionId, Block>,
    /// How often each block was lost; only of those that were, and are not done.
    losses: BTreeMap<u64, u32>,
    /// Blocks that are waiting or out.
    left: u64,
}

impl BlockQueue {
    /// The blocks with the numbers in `missing` are to be moved. Numbers beyond the end are left out.
    pub(super) fn new(plan: BlockPlan, missing: impl IntoIterator<Item = Range<u64>>) -> Self {
        let total = plan.total_block();
        let clipped = missing.into_iter().map(|range| range.start..range.end.min(total)).collect();
        let waiting: VecDeque<_> = merged(clipped).into();
        let left = waiting.iter().map(|range| range.end - range.start).sum();
        BlockQueue { plan, waiting, out: BTreeMap::new(), losses: BTreeMap::new(), left }
    }

    /// The next block for this connection; the one it has, if it has one.
    pub(super) fn take(&mut self, connection: ConnectionId) -> Option<Block> {
        if let Some(&block) = self.out.get(&connection) {
            return Some(block);
        }
        let range = self.waiting.front_mut()?;
        let block = self.plan.block(range.start)?;
        range.start += 1;
        if range.is_empty() {
            self.waiting.pop_front();
        }
        self.out.insert(connection, block);
        Some(block)
    }

    /// The block that this connection has is done.
    pub(super) fn done(&mut self, connection: ConnectionId) -> Option<Block> {
        let block = self.out.remove(&connection)?;
        self.losses.remove(&block.index());
        self.left -= 1;
        Some(block)
    }

    /// The block that this connection has is to be moved again, before others; `false` if it was lost too often.
    pub(super) fn lost(&mut self, connection: ConnectionId) -> bool {
        let Some(block) = self.out.remove(&connection) else { return true };
        self.waiting.push_front(block.index()..block.index() + 1);
        let losses = self.losses.entry(block.index()).or_default();
        *losses += 1;
        *losses < BLOCK_ATTEMPTS_MAX
    }

    /// The last block of the file is to be moved once more, although it is done.
    pub(super) fn repeat_last(&mut self) {
        if let Some(last) = self.plan.total_block().checked_sub(1) {
            debug_assert!(self.is_done(), "only what is done can be repeated");
            self.waiting.push_back(last..last + 1);
            self.left += 1;
        }
    }

    /// The block that this connection has.
    pub(super) fn held_by(&self, connection: ConnectionId) -> Option<Block> {
        self.out.get(&connection).copied()
    }

    pub(super) fn plan(&self) -> BlockPlan {
        self.plan
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Whether one block is left to hand out, while others are out.
    pub(super) fn is_last_of_several(&self) -> bool {
        self.left > 1 && self.left - self.out.len() as u64 == 1
    }

    /// Bytes of the blocks that are done.
    pub(super) fn bytes_done(&self) -> u64 {
        let missing = self.missing();
        let block_size = u64::from(self.plan.block_size());
        let bytes_left = missing.iter().map(|range| {
            let end = range.end.saturating_mul(block_size).min(self.plan.size());
            end.saturating_sub(range.start.saturating_mul(block_size))
        });
        self.plan.size() - bytes_left.sum::<u64>()
    }

    /// The numbers of blocks that are not done: in order, apart from each other, none empty.
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        let out = self.out.values().map(|block| block.index()..block.index() + 1);
        merged(self.waiting.iter().cloned().chain(out).collect())
    }
}

/// The same numbers in order, as few ranges as possible.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}
