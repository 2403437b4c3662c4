//! The engine's invariants, for tests: everything that [`super`] says holds between two inputs. And what its caller must
//! see to.

use std::collections::BTreeSet;

use crate::chunk_set::ChunkMask;
use crate::geometry::{Geometry, PieceIndex};

use super::source::Holding;
use super::{FetchEngine, SourceId};

impl FetchEngine {
    /// Panics if what must always hold between two inputs does not. Costs time in proportion to the content.
    pub fn check_invariants(&self) {
        self.check_pieces();
        self.check_requests();
        self.check_sources();
    }

    fn check_pieces(&self) {
        let (mut unassigned, mut missing, mut unfinished) = (0, 0, 0);
        for piece in self.geometry.pieces() {
            let fresh = self.fresh.contains(self.order.place_of(piece.get()));
            let active = self.active.get(&piece);
            let all = ChunkMask::of(self.geometry.span_of(piece));
            let wanted = all.without(self.skipped.get(&piece).copied().unwrap_or_default());
            let is_done = !fresh && active.is_none();
            if wanted == all || self.spared.contains(piece) {
                assert_eq!(self.have.contains(piece), is_done, "what is verified is told");
            } else {
                assert!(!self.have.contains(piece), "what is not all here is not told");
            }
            unfinished += u32::from(!is_done);
            let states = [fresh, active.is_some(), is_done];
            assert_eq!(
                states.iter().filter(|&&is| is).count(),
                1,
                "a piece is in one state: {piece:?} {states:?}"
            );
            let chunks = u64::from(wanted.count());
            if fresh {
                unassigned += chunks;
                missing += chunks;
            }
            let Some(active) = active else { continue };
            active.check(self.layer.is_some());
            assert_eq!(u64::from(active.all().count()), chunks);
            assert_eq!(active.counted_unassigned, active.unassigned().count());
            assert_eq!(
                self.open.contains(&piece),
                !active.unassigned().is_empty(),
                "open means unassigned chunks"
            );
            assert_eq!(self.suspects.contains(&piece), active.narrowing.is_some());
            unassigned += u64::from(active.unassigned().count());
            missing += chunks - u64::from(active.arrived().count());
        }
        assert_eq!((self.unassigned, self.missing), (unassigned, missing), "totals are sums");
        assert_eq!(self.unfinished, unfinished, "what is neither fresh nor active is done");
        assert!(self.open.iter().chain(&self.suspects).all(|piece| self.active.contains_key(piece)));
    }

    fn check_requests(&self) {
        let mut seen = 0;
        for (piece, active) in &self.active {
            let mut by_source: BTreeSet<(SourceId, u32)> = BTreeSet::new();
            for asked in active.asked() {
                seen += 1;
                assert_eq!(self.requests.get(&asked.id), Some(piece));
                let source = self.sources.get(&asked.source).expect("only who is here is asked");
                assert!(source.has(*piece), "nothing is asked from who lacks it");
                assert!(source.queue.contains(&asked.id));
                for place in asked.unanswered.iter() {
                    assert!(by_source.insert((asked.source, place)), "no source is asked twice at a time");
                }
            }
            let asked =
                active.asked().iter().fold(ChunkMask::EMPTY, |all, asked| all.union(asked.unanswered));
            assert!(active.twice().without(asked).is_empty());
        }
        assert_eq!(seen, self.requests.len(), "every request belongs to an active piece");
        let unproved = if self.layer.is_some() { 0 } else { self.active.len() };
        assert!(unproved <= super::UNPROVED_PIECES_MAX, "little is begun before the layer is known");
    }

    fn check_sources(&self) {
        for (id, source) in &self.sources {
            assert!(!self.liars.contains_key(id) && self.stats.contains_key(id));
            let owed = |request| {
                let piece = self.requests.get(request)?;
                let asked = self.active.get(piece)?.find_asked(*request)?;
                assert_eq!(asked.source, *id);
                assert_eq!(asked.counted_wanted, asked.wanted.count());
                Some((asked.unanswered.count(), asked.wanted.count()))
            };
            let owed = source.queue.iter().map(|request| owed(request).expect("a queued request is known"));
            let sums = owed.fold((0, 0), |(owed, wanted), (o, w)| (owed + o, wanted + w));
            assert_eq!(sums, (source.outstanding, source.wanted), "totals are sums");
            if let Holding::Part { has, fresh } = &source.holding {
                for piece in self.geometry.pieces() {
                    let place = self.order.place_of(piece.get());
                    assert_eq!(fresh.contains(place), self.fresh.contains(place) && has.contains(piece));
                }
                assert_eq!(self.availability.len(), self.geometry.piece_count() as usize);
            }
        }
        assert!(self.deadline().is_none_or(|at| at > self.now), "what is due is done");
    }
}

/// Panics unless these chunks of a piece are all that some files have there.
pub(super) fn skips_files(geometry: &Geometry, piece: PieceIndex, chunks: ChunkMask) {
    let span = geometry.span_of(piece);
    assert!(chunks.without(ChunkMask::of(span)).is_empty(), "only what exists is skipped");
    for segment in geometry.segments(span) {
        let of_file = ChunkMask::of(segment.span);
        let skipped = chunks.intersection(of_file);
        assert!(skipped.is_empty() || skipped == of_file, "a file's part of a piece is skipped or is not");
    }
}
