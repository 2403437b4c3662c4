//! The side that fetches: which chunks are missing, who was asked for them, and whether what comes is right.

use std::collections::BTreeMap;
use std::ops::Range;

use ftx_proto::engine::pull::budget::Budget;
use ftx_proto::geometry::{CHUNK_SIZE, ChunkIndex, Geometry, Span};
use ftx_proto::time::Time;
use ftx_proto::wire::session::RequestId;

use super::scenario::FetchSpec;

/// One fetch at work.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) geometry: Geometry,
    pub(super) budget: Budget,
    pub(super) buffer: u64,
    /// Places of its sources among those of the run.
    pub(super) sources: Range<usize>,
    pub(super) done_at: Option<Time>,
    pub(super) in_flight_max: u64,
    /// Bytes of the chunks that are complete.
    pub(super) bytes: u64,
    /// Chunks that nobody is asked for, the next ones last.
    unassigned: Vec<Span>,
    missing: BTreeMap<ChunkIndex, Missing>,
    next_request: u64,
}

/// A chunk that is not complete.
#[derive(Debug, Default)]
struct Missing {
    /// Who was asked for it, with what request.
    asked: Option<(usize, RequestId)>,
    /// Which bytes of it are here.
    here: Vec<Range<usize>>,
}

impl Fetch {
    /// A fetch that has not begun. Panics if there cannot be such a content.
    pub(super) fn new(spec: &FetchSpec, sources: Range<usize>) -> Self {
        let geometry = Geometry::new(spec.size).expect("a size that a content can have");
        let all = geometry.span(0, geometry.chunk_count());
        let mut unassigned: Vec<Span> = all.iter().flat_map(|all| all.runs(RUN_CHUNKS)).collect();
        unassigned.reverse();
        let missing = all.iter().flat_map(Span::chunks).map(|chunk| (chunk, Missing::default())).collect();
        Fetch {
            geometry,
            budget: Budget::new(),
            buffer: spec.buffer,
            sources,
            done_at: None,
            in_flight_max: 0,
            bytes: 0,
            unassigned,
            missing,
            next_request: 0,
        }
    }

    /// The next chunks that a source is to be asked for, if it is asked for so little now.
    pub(super) fn assign(&mut self, source: usize, wanted_bytes: u64) -> Option<(RequestId, Span)> {
        if wanted_bytes >= ASKED_BYTES {
            return None;
        }
        let span = self.unassigned.pop()?;
        let request = RequestId(self.next_request);
        self.next_request += 1;
        for chunk in span.chunks() {
            self.missing.entry(chunk).or_default().asked = Some((source, request));
        }
        Some((request, span))
    }

    /// A source is gone: others are to be asked for what it did not give. Whatever came of a chunk that is not complete
    /// goes with the lane.
    pub(super) fn take_back(&mut self, source: usize) {
        for (chunk, missing) in self.missing.iter_mut().rev() {
            if missing.asked.take_if(|(asked, _)| *asked == source).is_some() {
                missing.here.clear();
                self.unassigned.extend(self.geometry.span(chunk.get(), 1));
            }
        }
    }

    /// Takes in bytes that the engine says to keep. Panics if it should not have said so.
    pub(super) fn keep(
        &mut self,
        now: Time,
        source: usize,
        (chunk, place): (ChunkIndex, Range<usize>),
        completes: Option<RequestId>,
    ) -> u64 {
        let len = self.geometry.chunk_len(chunk) as usize;
        let missing = self.missing.get_mut(&chunk).expect("a chunk that is complete gets no bytes");
        let (asked, request) = missing.asked.expect("only what was asked for comes");
        assert_eq!(asked, source, "bytes come from whom was asked");
        assert!(!place.is_empty() && place.end <= len, "bytes have a place in their chunk");
        missing.here.push(place);
        let Some(completes) = completes else { return 0 };
        assert_eq!(completes, request, "a chunk completes the request that it was asked with");
        missing.here.sort_unstable_by_key(|range| range.start);
        let end =
            missing.here.iter().fold(0, |end, here| if here.start <= end { end.max(here.end) } else { end });
        assert_eq!(end, len, "a complete chunk has all its bytes");
        self.missing.remove(&chunk);
        self.bytes += len as u64;
        if self.missing.is_empty() {
            self.done_at = Some(now);
        }
        len as u64
    }
}

/// Chunks of one request.
const RUN_CHUNKS: u32 = 16;

/// A source is always asked for so much, as long as there is something.
const ASKED_BYTES: u64 = 64 * CHUNK_SIZE as u64;
