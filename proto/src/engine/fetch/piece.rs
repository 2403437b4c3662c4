//! A piece that is begun: what of it is here, from whom, and who is asked for the rest.

use std::collections::BTreeMap;

use crate::chunk_set::ChunkMask;
use crate::digest::Digest;
use crate::geometry::Span;
use crate::time::Time;
use crate::wire::session::RequestId;

use super::SourceId;

/// A request that is under way: neither answered to its end nor cancelled.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) source: SourceId,
    pub(super) span: Span,
    pub(super) at: Time,
    /// Once the source has delivered this many chunks, this request has been passed over.
    pub(super) overdue_at_delivered: u64,
    /// What may still come.
    pub(super) unanswered: ChunkMask,
    /// What is counted on: a part of `unanswered`. The rest is here already, or was given to a faster source.
    pub(super) wanted: ChunkMask,
    /// What the source's total has counted of `wanted`.
    pub(super) counted_wanted: u32,
}

/// A piece that is begun and not verified.
#[derive(Debug)]
pub(super) struct ActivePiece {
    /// What is wanted of it.
    all: ChunkMask,
    arrived: ChunkMask,
    leaves: Vec<Digest>,
    from: Vec<SourceId>,
    asked: Vec<Asked>,
    once: ChunkMask,
    twice: ChunkMask,
    /// Who goes on with what is unassigned before others do.
    pub(super) owner: Option<SourceId>,
    /// Who did not deliver these chunks the last time, so that somebody else is asked first.
    pub(super) shunned: Option<(SourceId, ChunkMask)>,
    /// The right leaves, once they had to be asked for.
    pub(super) truth: Option<Vec<Digest>>,
    /// Set while all chunks are here and wrong.
    pub(super) narrowing: Option<Narrowing>,
    /// What the engine's total has counted of this piece.
    pub(super) counted_unassigned: u32,
}

/// The search for the chunks that are wrong: the leaves are wanted.
#[derive(Debug, Default)]
pub(super) struct Narrowing {
    /// Who is asked, and until when.
    pub(super) asked: Option<(SourceId, Time)>,
    /// How often each has been asked.
    pub(super) attempts: BTreeMap<SourceId, u32>,
    /// When to ask the next.
    pub(super) retry_at: Time,
}

impl ActivePiece {
    /// A piece of so many chunks, of which `wanted` are.
    pub(super) fn new(chunks: u32, wanted: ChunkMask) -> Self {
        ActivePiece {
            all: wanted,
            arrived: ChunkMask::EMPTY,
            leaves: vec![Digest::ZERO; chunks as usize],
            from: vec![SourceId(u32::MAX); chunks as usize],
            asked: Vec::new(),
            once: ChunkMask::EMPTY,
            twice: ChunkMask::EMPTY,
            owner: None,
            shunned: None,
            truth: None,
            narrowing: None,
            counted_unassigned: wanted.count(),
        }
    }

    pub(super) fn all(&self) -> ChunkMask {
        self.all
    }

    pub(super) fn arrived(&self) -> ChunkMask {
        self.arrived
    }

    pub(super) fn is_whole(&self) -> bool {
        self.arrived == self.all
    }

    /// Chunks that are neither here nor requested.
    pub(super) fn unassigned(&self) -> ChunkMask {
        self.all.without(self.arrived).without(self.once)
    }

    /// Chunks of this mask of which a further copy may be requested.
    pub(super) fn not_twice(&self, chunks: ChunkMask) -> ChunkMask {
        chunks.without(self.twice)
    }

    /// Chunks of which two copies are requested.
    pub(super) fn twice(&self) -> ChunkMask {
        self.twice
    }

    pub(super) fn leaves(&self) -> &[Digest] {
        &self.leaves
    }

    /// Who sent each chunk; means something for those that are here.
    pub(super) fn from(&self) -> &[SourceId] {
        &self.from
    }

    pub(super) fn asked(&self) -> &[Asked] {
        &self.asked
    }

    pub(super) fn asked_mut(&mut self) -> &mut [Asked] {
        &mut self.asked
    }

    pub(super) fn find_asked(&self, id: RequestId) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.id == id)
    }

    pub(super) fn push_asked(&mut self, asked: Asked) {
        self.asked.push(asked);
        self.recount();
    }

    pub(super) fn take_asked(&mut self, id: RequestId) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.id == id)?;
        let asked = self.asked.remove(at);
        self.recount();
        Some(asked)
    }

    /// The request has answered these chunks, one way or the other. Returns how many of them it still owed.
    pub(super) fn answer(&mut self, id: RequestId, chunks: ChunkMask) -> u32 {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) else { return 0 };
        let answered = asked.unanswered.intersection(chunks).count();
        asked.unanswered = asked.unanswered.without(chunks);
        asked.wanted = asked.wanted.without(chunks);
        self.recount();
        answered
    }

    /// Nobody counts on this request for these chunks any more, since somebody else is asked for them.
    pub(super) fn give_away(&mut self, id: RequestId, chunks: ChunkMask) {
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) {
            asked.wanted = asked.wanted.without(chunks);
        }
        self.recount();
    }

    /// A chunk is here. `false` if it was already.
    pub(super) fn put(&mut self, place: u32, leaf: Digest, source: SourceId) -> bool {
        if self.arrived.contains(place) || !self.all.contains(place) {
            return false;
        }
        let index = place as usize;
        if let (Some(slot), Some(from)) = (self.leaves.get_mut(index), self.from.get_mut(index)) {
            (*slot, *from) = (leaf, source);
            self.arrived = self.arrived.union(ChunkMask(1 << place));
            for asked in &mut self.asked {
                asked.wanted = asked.wanted.without(self.arrived);
            }
        }
        true
    }

    /// These chunks are not here after all.
    pub(super) fn reset(&mut self, chunks: ChunkMask) {
        self.arrived = self.arrived.without(chunks);
        self.recount();
    }

    /// Requests that nobody counts on: answered to their end, or what they still owe is not wanted.
    pub(super) fn done_with(&self) -> Vec<RequestId> {
        self.asked.iter().filter(|asked| asked.wanted.is_empty()).map(|asked| asked.id).collect()
    }

    /// The only source of all that is here, if there is only one.
    pub(super) fn only_source(&self) -> Option<SourceId> {
        let first = *self.from.get(self.arrived.iter().next()? as usize)?;
        self.arrived.iter().all(|place| self.from.get(place as usize) == Some(&first)).then_some(first)
    }

    /// Counts the copies anew. A chunk whose only wanted copy is gone becomes wanted of whoever else still owes it.
    fn recount(&mut self) {
        let (mut once, mut twice, mut wanted) = (ChunkMask::EMPTY, ChunkMask::EMPTY, ChunkMask::EMPTY);
        for asked in &self.asked {
            twice = twice.union(once.intersection(asked.unanswered));
            once = once.union(asked.unanswered);
            wanted = wanted.union(asked.wanted);
        }
        (self.once, self.twice) = (once, twice);
        let mut orphans = once.without(wanted).without(self.arrived);
        for asked in &mut self.asked {
            let adopted = asked.unanswered.intersection(orphans);
            asked.wanted = asked.wanted.union(adopted);
            orphans = orphans.without(adopted);
        }
    }

    /// Panics if what must always hold does not; see the list in [`super`].
    pub(super) fn check(&self, has_layer: bool) {
        let mut copies: BTreeMap<u32, u32> = BTreeMap::new();
        let mut wanted = ChunkMask::EMPTY;
        for asked in &self.asked {
            assert!(!asked.wanted.is_empty(), "a request that nobody counts on is over");
            assert!(asked.wanted.without(asked.unanswered).is_empty(), "only what can come is counted on");
            assert!(asked.wanted.intersection(self.arrived).is_empty(), "what is here is not wanted");
            assert!(
                asked.unanswered.without(ChunkMask::of(asked.span)).is_empty(),
                "answers lie in the span"
            );
            for place in asked.unanswered.iter() {
                *copies.entry(place).or_insert(0) += 1;
            }
            wanted = wanted.union(asked.wanted);
        }
        assert!(copies.values().all(|&n| n <= 2), "never more than two copies");
        let missing = self.all.without(self.arrived);
        assert_eq!(wanted, self.once.intersection(missing), "what is asked and missing is counted on");
        assert!(self.arrived.without(self.all).is_empty() && self.once.without(self.all).is_empty());
        let judged = self.is_whole() && has_layer;
        assert_eq!(self.narrowing.is_some(), judged, "a whole piece is verified or narrowed down");
        assert!(self.narrowing.is_none() || self.asked.is_empty(), "nothing is asked of a whole piece");
    }
}
