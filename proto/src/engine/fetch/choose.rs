//! Whom to ask for what: unassigned chunks first, then those of slower sources ([`super::steal`]).

use rand::RngExt;

use crate::chunk_set::ChunkMask;
use crate::geometry::{PIECE_CHUNKS, PieceIndex};
use crate::limits::RUN_CHUNKS_MAX;
use crate::wire::session::RequestId;

use super::piece::Asked;
use super::source::{Holding, Source};
use super::{FetchEngine, Output, SourceId, first_run};

impl FetchEngine {
    /// Fills the windows of all sources, in turns.
    pub(super) fn schedule(&mut self) {
        let (now, mut responsive, mut silent) = (self.now, Vec::new(), Vec::new());
        self.holds_back = false;
        for (&id, source) in
            self.sources.iter().filter(|(_, source)| !source.is_busy(now) && source.room() > 0)
        {
            if source.is_responsive() { responsive.push(id) } else { silent.push((source.pace.misses(), id)) }
        }
        // Among silent ones the least so first: otherwise a dead one could keep the last chunk from one that is not.
        silent.sort_unstable();
        let silent: Vec<_> = silent.into_iter().map(|(_, id)| id).collect();
        let turn = self.next_request as usize % responsive.len().max(1);
        responsive.rotate_left(turn);
        self.take_in_turns(&responsive);
        self.steal_in_turns(&responsive);
        // What nobody else can or will take, a silent source is probed with.
        self.take_in_turns(&silent);
    }

    fn take_in_turns(&mut self, sources: &[SourceId]) {
        let mut hungry = sources.to_vec();
        while !hungry.is_empty() && self.unassigned > 0 {
            hungry.retain(|&id| self.take(id));
        }
    }

    /// Asks the source for some unassigned chunks. `false` if it has no room, or nothing of what is unassigned.
    fn take(&mut self, id: SourceId) -> bool {
        let sources = self.sources.len() as u64;
        // Towards the end requests become smaller, so that all sources end at about the same time. From a source that
        // is alone not smaller than a run: just enough for others that join now to take something over.
        let least = if sources > 1 { 1 } else { u64::from(RUN_CHUNKS_MAX) };
        let share = (self.unassigned / (2 * sources.max(2))).clamp(least, u64::from(PIECE_CHUNKS)) as u32;
        let Some(source) = self.sources.get(&id) else { return false };
        let grain = source.pace.grain().min(share);
        if source.room() < grain {
            return false;
        }
        let Some((piece, chunks)) = self.pick(id) else { return false };
        self.ask(id, piece, first_run(chunks, grain));
        if let (Some(active), Some(source)) = (self.active.get_mut(&piece), self.sources.get_mut(&id)) {
            active.owner = Some(id);
            source.current = Some(piece);
        }
        true
    }

    /// The piece that the source should go on with, and its chunks that it may be asked for: what it has begun, what
    /// nobody goes on with, a fresh one, or what another goes on with.
    fn pick(&mut self, id: SourceId) -> Option<(PieceIndex, ChunkMask)> {
        let is_spared = self.is_spared(id);
        if let Some(piece) = self.sources.get(&id)?.current {
            let chunks = self.available(id, piece);
            if !chunks.is_empty() {
                return Some((piece, chunks));
            }
        }
        let (mut of_others, mut holds_back) = (None, false);
        for &piece in &self.open {
            let chunks = self.available(id, piece);
            if chunks.is_empty() {
                continue;
            }
            if is_spared && self.comes_from_fellow(piece) {
                holds_back = true;
                continue;
            }
            let owner = self.active.get(&piece).and_then(|active| active.owner);
            let is_owned =
                owner.and_then(|owner| self.sources.get(&owner)).is_some_and(Source::is_responsive);
            if !is_owned || owner == Some(id) {
                return Some((piece, chunks));
            }
            of_others = of_others.or(Some((piece, chunks)));
        }
        self.holds_back |= holds_back;
        match self.pick_fresh(id, is_spared) {
            Some(piece) if self.may_begin() && self.make_room() => {
                self.activate(piece);
                Some((piece, self.available(id, piece)))
            }
            _ => of_others,
        }
    }

    /// The unassigned chunks of an active piece that the source may be asked for. What it did not deliver the last time
    /// is left to others, where there are any.
    fn available(&self, id: SourceId, piece: PieceIndex) -> ChunkMask {
        let (Some(active), Some(source)) = (self.active.get(&piece), self.sources.get(&id)) else {
            return ChunkMask::EMPTY;
        };
        let chunks = active.unassigned();
        if chunks.is_empty() || !source.has(piece) {
            return ChunkMask::EMPTY;
        }
        match active.shunned {
            Some((shunned, failed)) if shunned == id && !chunks.intersection(failed).is_empty() => {
                let another = |(&other, source): (&SourceId, &Source)| {
                    other != id && source.is_responsive() && !source.is_busy(self.now) && source.has(piece)
                };
                if self.sources.iter().any(another) { chunks.without(failed) } else { chunks }
            }
            _ => chunks,
        }
    }

    /// A piece that nobody has begun: the next in the source's slice of the order; with sources that have parts, the
    /// rarest of a sample; from one that is spared, see [`super::swarm`].
    fn pick_fresh(&mut self, id: SourceId, is_spared: bool) -> Option<PieceIndex> {
        if is_spared {
            return self.choose_spared(id);
        }
        let source = self.sources.get_mut(&id)?;
        let fresh = match &source.holding {
            Holding::Whole => &self.fresh,
            Holding::Part { fresh, .. } => fresh,
        };
        let first = fresh.next_around(source.cursor)?;
        source.cursor = first;
        if self.availability.is_empty() {
            return self.geometry.piece(self.order.piece_at(first));
        }
        let mut best: Option<(u16, u32)> = None;
        let mut place = first;
        for draw in 0..2 * SAMPLE {
            let number = self.order.piece_at(place);
            let count = self.availability.get(number as usize).copied().unwrap_or(0);
            if best.is_none_or(|(least, _)| count < least) {
                best = Some((count, number));
            }
            let next = if draw < SAMPLE {
                (place + 1) % self.geometry.piece_count()
            } else {
                self.random.random_range(0..self.geometry.piece_count())
            };
            place = fresh.next_around(next)?;
        }
        best.and_then(|(_, number)| self.geometry.piece(number))
    }

    /// Asks the source for a run of chunks of an active piece.
    pub(super) fn ask(&mut self, id: SourceId, piece: PieceIndex, chunks: ChunkMask) {
        let first = self.geometry.span_of(piece).first().get() + chunks.0.trailing_zeros();
        let (Some(span), Some(active), Some(source)) = (
            self.geometry.span(first, chunks.count()),
            self.active.get_mut(&piece),
            self.sources.get_mut(&id),
        ) else {
            return;
        };
        debug_assert_eq!(ChunkMask::of(span), chunks, "a request is one run");
        debug_assert!(source.has(piece), "nothing is asked from who lacks it");
        let request = RequestId(self.next_request);
        self.next_request += 1;
        if self.requests.is_empty() {
            self.intake.begin(self.now);
        }
        source.pace.asked(self.now, source.outstanding == 0);
        source.outstanding += span.count();
        source.queue.insert(request);
        let patience = PASSED_OVER * u64::from(source.outstanding) + u64::from(RUN_CHUNKS_MAX);
        active.push_asked(Asked {
            id: request,
            source: id,
            span,
            at: self.now,
            overdue_at_delivered: source.pace.delivered() + patience,
            unanswered: chunks,
            wanted: chunks,
            counted_wanted: 0,
        });
        self.requests.insert(request, piece);
        self.settle(piece);
        self.outputs.push_back(Output::Request { source: id, request, span });
    }
}

/// How many candidates are drawn from the source's slice to find a rare piece, and as many again from anywhere.
const SAMPLE: u32 = 8;

/// A request is passed over when this many times what was under way at its time has come since. A server picks among
/// requests at random, so being passed over once or twice means nothing.
const PASSED_OVER: u64 = 4;
