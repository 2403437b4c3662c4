//! What was asked on a lane and has not come yet.
//!
//! A lane takes nothing else: each chunk once for each request that asked for it, hashes only as often as they were
//! asked for. So a peer cannot make a fetch keep, or think about, more than the fetch wanted.

use std::collections::{HashMap, VecDeque};

use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::wire::session::RequestId;

use crate::limits::LANE_CLOSED_REQUESTS_MAX;

/// The requests for chunks and for hashes of one lane.
#[derive(Debug, Default)]
pub(super) struct Asked {
    open: HashMap<RequestId, Owed>,
    outstanding: u32,
    /// Cancelled or refused, but some of it may still be on its way.
    closed: VecDeque<(RequestId, Owed)>,
    forgotten: bool,
    /// How often hashes were asked for and are not all here.
    hashes: HashMap<RequestId, u32>,
    /// Hashes that are arriving, frame by frame.
    arriving: HashMap<RequestId, Vec<Digest>>,
}

/// A request, and which of its chunks have not come.
#[derive(Debug, Clone, Copy)]
struct Owed {
    span: Span,
    missing: ChunkMask,
}

/// Hashes that are all here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HashesHere {
    /// Of all pieces.
    Layer(Vec<Digest>),
    /// Of the chunks of one piece.
    Leaves(PieceIndex, Vec<Digest>),
}

/// The numbers of requests for hashes, apart from those for chunks, which the engine gives.
pub(super) const LAYER_REQUEST: RequestId = RequestId(u64::MAX);
const LEAVES_REQUESTS: u64 = 1 << 63;

/// The number of the request for the leaves of a piece.
pub(super) fn leaves_request(piece: PieceIndex) -> RequestId {
    RequestId(LEAVES_REQUESTS | u64::from(piece.get()))
}

/// The piece whose leaves a request with this number is for.
pub(super) fn piece_of_leaves(geometry: &Geometry, request: RequestId) -> Option<PieceIndex> {
    let number = request.0.checked_sub(LEAVES_REQUESTS)?;
    geometry.piece(u32::try_from(number).ok()?)
}

impl Asked {
    /// Chunks of one piece are asked for.
    pub(super) fn open(&mut self, request: RequestId, span: Span) {
        let more = ChunkMask::of(span);
        self.outstanding += more.count();
        match self.open.get_mut(&request) {
            // Parts of one request, which are all that is left of it elsewhere.
            Some(owed) => {
                owed.span = owed.span.cover(span);
                owed.missing = owed.missing.union(more);
            }
            None => {
                self.open.insert(request, Owed { span, missing: more });
            }
        }
    }

    /// Closes all requests, and says what has not come of them.
    pub(super) fn close_all(&mut self, geometry: &Geometry) -> Vec<(RequestId, Span)> {
        let mut all = Vec::new();
        for request in self.all_open() {
            if let Some(owed) = self.open.get(&request) {
                let missing = owed.missing.spans(geometry, owed.span.first().piece());
                all.extend(missing.into_iter().map(|span| (request, span)));
            }
            self.close(request);
        }
        all
    }

    /// Whether the request was asked here and is neither answered nor closed.
    pub(super) fn is_open(&self, request: RequestId) -> bool {
        self.open.contains_key(&request)
    }

    /// All requests that are neither answered nor closed.
    pub(super) fn all_open(&self) -> Vec<RequestId> {
        self.open.keys().copied().collect()
    }

    /// Chunks that are asked for and not here.
    pub(super) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The request is cancelled or refused; `false` if it was not open.
    pub(super) fn close(&mut self, request: RequestId) -> bool {
        let Some(owed) = self.open.remove(&request) else { return false };
        self.outstanding -= owed.missing.count();
        self.closed.push_back((request, owed));
        if self.closed.len() > LANE_CLOSED_REQUESTS_MAX {
            self.closed.pop_front();
            self.forgotten = true;
        }
        true
    }

    /// Which chunks these are, if they were asked for. `Ok(None)`: it was so long ago that nobody remembers.
    pub(super) fn arrived(
        &mut self,
        geometry: &Geometry,
        request: RequestId,
        first: u32,
        bytes: usize,
    ) -> Result<Option<Span>, String> {
        let mut closed = self.closed.iter_mut().rev();
        let (owed, is_open) = match self.open.get_mut(&request) {
            Some(owed) => (owed, true),
            None => match closed.find(|(closed, _)| *closed == request) {
                Some((_, owed)) => (owed, false),
                None if self.forgotten => return Ok(None),
                None => return Err("it sent chunks that nobody asked for".to_owned()),
            },
        };
        let span = geometry
            .span_of_bytes(first, bytes as u64)
            .filter(|span| owed.span.contains(*span))
            .ok_or("it sent other chunks than it was asked for")?;
        let run = ChunkMask::of(span);
        if !run.without(owed.missing).is_empty() {
            return Err("it sent chunks twice".to_owned());
        }
        owed.missing = owed.missing.without(run);
        if is_open {
            self.outstanding -= span.count();
            if owed.missing.is_empty() {
                self.open.remove(&request);
            }
        }
        Ok(Some(span))
    }

    /// Hashes are asked for.
    pub(super) fn open_hashes(&mut self, request: RequestId) {
        *self.hashes.entry(request).or_default() += 1;
    }

    /// Hashes that were asked for are here or refused; `false` if nobody asked.
    pub(super) fn close_hashes(&mut self, request: RequestId) -> bool {
        self.arriving.remove(&request);
        let Some(count) = self.hashes.get_mut(&request) else { return false };
        *count -= 1;
        if *count == 0 {
            self.hashes.remove(&request);
        }
        true
    }

    /// Takes in a frame of hashes; `Ok(None)` until the last one is here.
    pub(super) fn hashes_arrived(
        &mut self,
        geometry: &Geometry,
        request: RequestId,
        first: u32,
        last: bool,
        payload: &[u8],
    ) -> Result<Option<HashesHere>, String> {
        if !self.hashes.contains_key(&request) {
            return Err("it sent hashes that nobody asked for".to_owned());
        }
        let piece = piece_of_leaves(geometry, request);
        let expected = piece.map_or(geometry.piece_count(), |piece| geometry.span_of(piece).count());
        let arriving = self.arriving.entry(request).or_default();
        let count = payload.len() / 32;
        if arriving.len() != first as usize || arriving.len() + count > expected as usize {
            return Err("it sent hashes out of order, or too many".to_owned());
        }
        if count == 0 && !last {
            return Err("it sent empty frames of hashes".to_owned());
        }
        arriving.extend(payload.chunks_exact(32).filter_map(|hash| Some(Digest(hash.try_into().ok()?))));
        if !last {
            return Ok(None);
        }
        let hashes = self.arriving.remove(&request).unwrap_or_default();
        self.close_hashes(request);
        Ok(Some(match piece {
            None => HashesHere::Layer(hashes),
            Some(piece) => HashesHere::Leaves(piece, hashes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use ftx_proto::geometry::CHUNK_SIZE;

    use super::*;

    const CHUNK: usize = CHUNK_SIZE as usize;

    /// Two pieces, the last chunk one byte long.
    fn geometry() -> Geometry {
        Geometry::new(100 * u64::from(CHUNK_SIZE) + 1).unwrap()
    }

    fn asked(request: u64, first: u32, count: u32) -> Asked {
        let mut asked = Asked::default();
        asked.open(RequestId(request), geometry().span(first, count).unwrap());
        asked
    }

    #[test]
    fn what_was_asked_is_taken_in_any_order_and_once() {
        let mut asked = asked(1, 64, 37);
        let mut arrived = |first, bytes| asked.arrived(&geometry(), RequestId(1), first, bytes);
        assert_eq!(arrived(80, 20 * CHUNK + 1), Ok(geometry().span(80, 21)));
        assert!(arrived(100, 1).unwrap_err().contains("twice"));
        assert_eq!(arrived(64, 16 * CHUNK), Ok(geometry().span(64, 16)));
        assert!(arrived(64, CHUNK).unwrap_err().contains("nobody asked"), "it is answered to its end");
        assert_eq!((asked.outstanding(), asked.all_open()), (0, Vec::new()));
    }

    #[test]
    fn other_chunks_and_other_lengths_are_refused() {
        for (request, first, bytes) in [
            (2, 10, CHUNK),
            (1, 9, CHUNK),
            (1, 13, 2 * CHUNK),
            (1, 10, CHUNK - 1),
            (1, 10, CHUNK + 1),
            (1, 200, 1),
        ] {
            let arrived = asked(1, 10, 4).arrived(&geometry(), RequestId(request), first, bytes);
            assert!(arrived.is_err(), "{request} {first} {bytes}");
        }
    }

    #[test]
    fn what_was_on_its_way_when_it_was_cancelled_is_taken_once() {
        let mut asked = asked(1, 10, 4);
        assert!(asked.close(RequestId(1)));
        assert!(!asked.close(RequestId(1)), "it is closed already");
        assert_eq!(asked.outstanding(), 0);
        assert_eq!(asked.arrived(&geometry(), RequestId(1), 11, CHUNK), Ok(geometry().span(11, 1)));
        assert!(asked.arrived(&geometry(), RequestId(1), 11, CHUNK).is_err());
    }

    #[test]
    fn requests_of_long_ago_are_forgotten_and_their_answers_dropped() {
        let mut asked = Asked::default();
        for request in 0..=LANE_CLOSED_REQUESTS_MAX as u64 {
            asked.open(RequestId(request), geometry().span(0, 1).unwrap());
            asked.close(RequestId(request));
        }
        assert_eq!(asked.closed.len(), LANE_CLOSED_REQUESTS_MAX);
        assert_eq!(asked.arrived(&geometry(), RequestId(0), 0, CHUNK), Ok(None));
    }

    #[test]
    fn hashes_are_taken_only_as_asked() {
        let leaves = leaves_request(geometry().piece(1).unwrap());
        let mut asked = Asked::default();
        let frame = |asked: &mut Asked, request, first, last, hashes: usize| {
            asked.hashes_arrived(&geometry(), request, first, last, &vec![7; 32 * hashes])
        };
        assert!(frame(&mut asked, LAYER_REQUEST, 0, true, 2).is_err(), "nobody asked");
        asked.open_hashes(leaves);
        assert_eq!(frame(&mut asked, leaves, 0, false, 30), Ok(None));
        assert!(frame(&mut asked, leaves, 0, false, 1).is_err(), "out of order");
        assert!(frame(&mut asked, leaves, 30, false, 0).is_err(), "nothing, for ever");
        assert!(frame(&mut asked, leaves, 30, true, 8).is_err(), "too many");
        let Ok(Some(HashesHere::Leaves(piece, hashes))) = frame(&mut asked, leaves, 30, true, 7) else {
            panic!("the last frame completes them")
        };
        assert_eq!((piece.get(), hashes.len()), (1, 37));
        assert!(frame(&mut asked, leaves, 0, true, 37).is_err(), "once asked, once answered");
        asked.open_hashes(LAYER_REQUEST);
        assert!(asked.close_hashes(LAYER_REQUEST), "refused");
        assert!(!asked.close_hashes(LAYER_REQUEST));
    }
}
