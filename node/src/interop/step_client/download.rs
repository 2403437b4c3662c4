//! One file from a server into a part file, its MD5, and the final name.
//!
//! The part file and its journal are those of native fetches ([`crate::store`]). There is no root, so the journal is for a
//! content that is named by size and MD5; of the pieces in it is known that they are written, not that they are right.
//! That shows at the end, when the MD5 of the whole is compared, and a part with a wrong one is thrown away as a whole.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PieceIndex};
use ftx_proto::interop::step::block::BlockPlan;
use ftx_proto::interop::step::client::{Outcome, Reply, Request};
use ftx_proto::interop::step::download::{ConnectionId, DownloadPlan, DownloadStep};
use ftx_proto::interop::step::value::{Key, Md5Sum};
use ftx_proto::name::printable;

use super::crew::{self, Step, Stopped, Transfer};
use super::{Repeat, StepClient, damaged};
use crate::error::{Code, Error};
use crate::interop::meter::{Meter, Phase};
use crate::interop::sum::FollowingSum;
use crate::store::{Part, PartFile, Target};

/// What is to be fetched, and how.
#[derive(Debug)]
pub struct Download {
    /// Which file.
    pub key: Key,
    /// Where it goes.
    pub target: Target,
    /// Whether a file that is there is replaced.
    pub force: bool,
    /// Connections at once.
    pub connections: NonZeroUsize,
}

/// What was fetched.
#[derive(Debug)]
pub struct Downloaded {
    /// The finished file, which can still be read from.
    pub part: Arc<PartFile>,
    /// Where it is.
    pub path: PathBuf,
    /// Its MD5, which is the one that the server says.
    pub md5: Md5Sum,
    /// Bytes that were here from an earlier try.
    pub resumed: u64,
    /// From the first request to the final name.
    pub elapsed: Duration,
}

impl StepClient {
    /// Fetches a file. Under its name it appears complete and with the right MD5, or not at all.
    pub async fn download(&self, download: Download, meter: Arc<Meter>) -> Result<Downloaded, Error> {
        let started = Instant::now();
        let mut connection = None;
        let asked = Request::GetFile { key: download.key.clone() };
        let (plan, theirs) = match self.ask(&mut connection, asked, Repeat::Safe).await? {
            Ok(Reply::FilePlan { plan, md5 }) => (plan, md5),
            Ok(other) => return Err(self.account.misanswered(&other)),
            Err(refused) => return Err(self.account.refused(&refused)),
        };
        let Some(theirs) = theirs else {
            let message = format!(
                "{} says no MD5 of '{}', so nothing would show whether it arrives as it is there; it was not fetched",
                self.account.server(),
                printable(download.key.as_str())
            );
            return Err(Error::new(Code::Integrity, message));
        };
        let geometry = Geometry::new(plan.size()).map_err(|error| Error::other(error.to_string()))?;
        let (part, pieces) =
            PartFile::open(download.target, geometry, name_of(plan, theirs), download.force)?;
        let part = Arc::new(part);
        meter.begin(plan.size(), pieces.bytes());

        let fetching =
            Arc::new(Fetching::new(download.key, plan, Arc::clone(&part), &pieces, Arc::clone(&meter))?);
        let fetched = match connection {
            Some(connection) if !pieces.is_full() => {
                let work = crew::work(
                    Arc::clone(&self.account),
                    Arc::clone(&fetching),
                    connection,
                    download.connections,
                );
                self.ended(&fetching, with_journal(&fetching, pieces.clone(), work).await)
            }
            _ => Ok(()),
        };
        fetched.map_err(|error| kept(error, &meter, &part))?;

        meter.enter(Phase::Verifying);
        let ours = fetching.finish_sum().await?;
        if ours != theirs {
            part.discard()?;
            let what = printable(&part.path().display().to_string()).to_string();
            return Err(damaged(&what, ours, theirs, "nothing was kept; run the same command again"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let finished = Arc::clone(&part);
        let path = tokio::task::spawn_blocking(move || {
            // A server of this system says no time of change.
            finished.finish((now.as_secs() as i64, now.subsec_nanos()), false, download.force)
        });
        let path = path.await.map_err(|error| Error::other(format!("finishing failed: {error}")))??;
        let (resumed, elapsed) = (pieces.bytes(), started.elapsed());
        Ok(Downloaded { part, path, md5: ours, resumed, elapsed })
    }

    fn ended(&self, fetching: &Fetching, worked: Result<Option<super::Lost>, Stopped>) -> Result<(), Error> {
        let last = match worked {
            Ok(last) => last,
            Err(Stopped::Failed(error)) => return Err(error),
            Err(Stopped::Lost(lost)) => return Err(self.account.lost(&lost)),
        };
        // A number that no connection had, so nothing is handed out by this.
        match fetching.plan().next(ConnectionId(0)) {
            DownloadStep::Failed(failure) => Err(self.account.download_failed(&failure, last.as_ref())),
            _ => Ok(()),
        }
    }
}

/// What is under way.
struct Fetching {
    key: Key,
    part: Arc<PartFile>,
    plan: Mutex<DownloadPlan>,
    sum: Mutex<Option<FollowingSum>>,
    received: AtomicU64,
    meter: Arc<Meter>,
}

impl Fetching {
    fn new(
        key: Key,
        plan: BlockPlan,
        part: Arc<PartFile>,
        pieces: &PieceSet,
        meter: Arc<Meter>,
    ) -> Result<Self, Error> {
        let download = DownloadPlan::resume(plan, missing_blocks(plan, pieces));
        let read_from = Arc::clone(&part);
        let sum = FollowingSum::start(move |offset, buffer| {
            read_from.read_at(offset, buffer).map_err(std::io::Error::other)
        });
        let sum = sum.map_err(|error| Error::other(format!("cannot start a thread: {error}")))?;
        let fetching = Fetching {
            key,
            part,
            plan: Mutex::new(download),
            sum: Mutex::new(Some(sum)),
            received: AtomicU64::new(0),
            meter,
        };
        fetching.tell_sum();
        Ok(fetching)
    }

    /// Tells the sum how far everything is written.
    fn tell_sum(&self) {
        let frontier = {
            let plan = self.plan();
            let first = plan.missing().first().map(|range| range.start);
            first
                .and_then(|index| plan.plan().block(index))
                .map_or(plan.plan().size(), |block| block.offset())
        };
        if let Some(sum) = &*self.sum.lock().unwrap_or_else(PoisonError::into_inner) {
            sum.reach(frontier);
        }
    }

    async fn finish_sum(&self) -> Result<Md5Sum, Error> {
        let sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sum) = sum else { return Err(Error::other("the sum was taken twice")) };
        let size = self.part.geometry().size();
        sum.finish(size)
            .await
            .map_err(|error| Error::other(format!("cannot sum up what was fetched: {error}")))
    }

    fn plan(&self) -> MutexGuard<'_, DownloadPlan> {
        // Nothing panics half-way through a change of it.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer for Fetching {
    fn next(&self, connection: ConnectionId) -> Result<Step, Error> {
        Ok(match self.plan().next(connection) {
            DownloadStep::Fetch(block) => {
                Step::Ask(Request::Download { key: self.key.clone(), index: block.index() })
            }
            DownloadStep::Wait => Step::Wait,
            DownloadStep::Finished | DownloadStep::Failed(_) => Step::End,
        })
    }

    fn replied(&self, connection: ConnectionId, outcome: Outcome) -> Result<(), Error> {
        let bytes = match outcome {
            Ok(Reply::Block { bytes }) => bytes,
            Ok(_) => {
                self.plan().lost(connection);
                return Ok(());
            }
            Err(refused) => {
                self.plan().refused(connection, refused);
                return Ok(());
            }
        };
        let DownloadStep::Fetch(block) = self.plan().next(connection) else { return Ok(()) };
        if block.len() == bytes.len() {
            self.part.write_at(block.offset(), &bytes)?;
        }
        {
            // Only now: what is told to the plan is written.
            let mut plan = self.plan();
            plan.received(connection, bytes.len());
            self.meter.reach(plan.bytes_done());
        }
        if self.received.fetch_add(1, Ordering::Relaxed).is_multiple_of(TELL_BLOCKS) {
            self.tell_sum();
        }
        Ok(())
    }

    fn lost(&self, connection: ConnectionId) {
        self.plan().lost(connection);
    }
}

/// Does the work, and meanwhile and at its end, even one that comes from outside, makes last what is there.
async fn with_journal<T>(fetching: &Fetching, committed: PieceSet, work: impl Future<Output = T>) -> T {
    let mut keeper = JournalKeeper { fetching, committed };
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(crate::limits::JOURNAL_INTERVAL, &mut work).await {
            Ok(result) => return result,
            Err(_) => {
                let (part, new) = (Arc::clone(&fetching.part), keeper.new_pieces());
                let committed = tokio::task::spawn_blocking(move || part.commit(&new));
                // The transfer goes on meanwhile.
                if let Ok(Err(error)) = committed.await {
                    tracing::warn!("{error}");
                }
            }
        }
    }
}

struct JournalKeeper<'a> {
    fetching: &'a Fetching,
    committed: PieceSet,
}

impl JournalKeeper<'_> {
    /// The pieces that are here and were not yet committed.
    fn new_pieces(&mut self) -> Vec<PieceIndex> {
        let (plan, missing) = {
            let plan = self.fetching.plan();
            (plan.plan(), plan.missing())
        };
        let whole = whole_pieces(plan, &missing, self.fetching.part.geometry());
        // When nothing is missing the file is about to be finished or thrown away, and needs no journal.
        whole.filter(|piece| !missing.is_empty() && self.committed.insert(*piece)).collect()
    }
}

impl Drop for JournalKeeper<'_> {
    fn drop(&mut self) {
        let new = self.new_pieces();
        // An error costs no more than fetching these pieces again.
        if let Err(error) = self.fetching.part.commit(&new) {
            tracing::warn!("{error}");
        }
    }
}

/// The pieces that no missing block lies in.
fn whole_pieces(
    plan: BlockPlan,
    missing: &[Range<u64>],
    geometry: &Geometry,
) -> impl Iterator<Item = PieceIndex> {
    let mut gaps: Vec<Range<u64>> = missing.iter().map(|blocks| bytes_of(plan, blocks)).rev().collect();
    geometry.pieces().filter(move |piece| {
        let place = geometry.bytes_of(geometry.span_of(*piece));
        while gaps.last().is_some_and(|gap| gap.end <= place.start) {
            gaps.pop();
        }
        gaps.last().is_none_or(|gap| gap.start >= place.end)
    })
}

/// The blocks that do not lie in these pieces with all their bytes.
fn missing_blocks(plan: BlockPlan, pieces: &PieceSet) -> Vec<Range<u64>> {
    let geometry = pieces.geometry();
    let block_size = u64::from(plan.block_size());
    let mut missing: Vec<Range<u64>> = Vec::new();
    for piece in geometry.pieces().filter(|piece| !pieces.contains(*piece)) {
        let place = geometry.bytes_of(geometry.span_of(piece));
        let blocks = place.start / block_size..place.end.div_ceil(block_size);
        match missing.last_mut() {
            Some(last) if last.end >= blocks.start => last.end = blocks.end,
            _ => missing.push(blocks),
        }
    }
    missing
}

/// Where these blocks are in the file.
fn bytes_of(plan: BlockPlan, blocks: &Range<u64>) -> Range<u64> {
    let start = plan.block(blocks.start).map_or(plan.size(), |block| block.offset());
    let end = plan.block(blocks.end).map_or(plan.size(), |block| block.offset());
    start..end
}

/// What the journal calls a content of which only size and MD5 are known. It cannot be the root of anything else, since
/// both are hashes.
fn name_of(plan: BlockPlan, md5: Md5Sum) -> Root {
    Root(Digest::of(format!("STEP {} {md5}", plan.size()).as_bytes()).0)
}

/// Whoever loses a connection wants to know what is left.
fn kept(error: Error, meter: &Meter, part: &PartFile) -> Error {
    let bytes = meter.read().bytes;
    if bytes == 0
        && let Err(left) = part.discard()
    {
        tracing::warn!("an empty part stays: {left}");
    }
    if part.path() == Path::new("-") || bytes == 0 || error.code != Code::Network {
        return error;
    }
    let size = part.geometry().size();
    let message =
        format!("{error}; {bytes} bytes of {size} are here, and the same command goes on from there");
    Error::new(Code::Partial, message)
}

/// Blocks after which the sum is told how far it can go.
const TELL_BLOCKS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::interop::step::value::FileSize;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_journalled_is_not_fetched_again(
            size in 0u64..9_000_000,
            block_size in 5_000u64..3_000_000,
            gaps in prop::collection::vec((0u64..1800, 1u64..40), 0..6),
        ) {
            let plan = BlockPlan::announced(FileSize::new(size).unwrap(), block_size).unwrap();
            let geometry = Geometry::new(size).unwrap();
            // Clipped, sorted and joined by the plan.
            let gaps = gaps.into_iter().map(|(start, len)| start..start + len);
            let missing = DownloadPlan::resume(plan, gaps).missing();
            let mut pieces = PieceSet::empty(geometry.clone());
            for piece in whole_pieces(plan, &missing, &geometry) {
                pieces.insert(piece);
            }
            let again = missing_blocks(plan, &pieces);
            let is_in = |ranges: &[Range<u64>], block| ranges.iter().any(|range| range.contains(&block));
            for index in 0..plan.total_block() {
                let block = plan.block(index).unwrap();
                let place = block.offset()..block.offset() + block.len() as u64;
                let touches_a_gap = geometry.pieces().any(|piece| {
                    let piece = geometry.bytes_of(geometry.span_of(piece));
                    let overlaps = |other: &Range<u64>| piece.start < other.end && other.start < piece.end;
                    overlaps(&place) && missing.iter().any(|gap| overlaps(&bytes_of(plan, gap)))
                });
                prop_assert_eq!(is_in(&again, index), touches_a_gap, "block {}", index);
            }
        }
    }
}
