//! A source that is here: what it has, what is requested from it, how fast it is.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::chunk_set::PieceSet;
use crate::geometry::{Geometry, PieceIndex};
use crate::time::Time;
use crate::wire::session::RequestId;

use super::order::PlaceSet;
use super::pace::Pace;
use super::swarm::Fellow;
use super::{FetchEngine, Release, SourceId};

/// What a source has of the content.
#[derive(Debug)]
pub(super) enum Holding {
    /// Every piece.
    Whole,
    /// These pieces, and by their places in the order those of them that nobody has begun.
    Part { has: PieceSet, fresh: PlaceSet },
}

/// A source that is here.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) holding: Holding,
    pub(super) pace: Pace,
    /// Requests under way, in the order they were asked.
    pub(super) queue: BTreeSet<RequestId>,
    /// Chunks that these requests still owe.
    pub(super) outstanding: u32,
    /// How many of these are counted on, and not asked from somebody else instead.
    pub(super) wanted: u32,
    /// Where in the order it begins its next piece.
    pub(super) cursor: u32,
    /// The piece that it goes on with.
    pub(super) current: Option<PieceIndex>,
    /// It is busy until then.
    pub(super) busy_until: Time,
    /// How often it was asked for the piece layer, and until when it is given time for an answer.
    pub(super) layer_attempts: u32,
    pub(super) layer_due: Option<Time>,
    /// It would not give the layer; not to be asked again before.
    pub(super) layer_retry_at: Time,
    /// It is fetching the content itself.
    pub(super) fellow: Option<Fellow>,
}

impl Source {
    pub(super) fn new(geometry: &Geometry, whole: bool, pace: Pace, cursor: u32, now: Time) -> Self {
        let part = || Holding::Part {
            has: PieceSet::empty(geometry.clone()),
            fresh: PlaceSet::empty(geometry.piece_count()),
        };
        Source {
            holding: if whole { Holding::Whole } else { part() },
            pace,
            queue: BTreeSet::new(),
            outstanding: 0,
            wanted: 0,
            cursor,
            current: None,
            busy_until: now,
            layer_attempts: 0,
            layer_due: None,
            layer_retry_at: now,
            fellow: None,
        }
    }

    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        match &self.holding {
            Holding::Whole => true,
            Holding::Part { has, .. } => has.contains(piece),
        }
    }

    /// Chunks that may be requested from it now.
    pub(super) fn room(&self) -> u32 {
        self.pace.window().saturating_sub(self.outstanding)
    }

    pub(super) fn is_busy(&self, now: Time) -> bool {
        self.busy_until > now
    }

    /// It answers: it was not late with everything the last time.
    pub(super) fn is_responsive(&self) -> bool {
        self.pace.misses() == 0
    }

    /// Seconds until all that is wanted from it is here.
    pub(super) fn seconds_left(&self) -> f64 {
        f64::from(self.wanted) / self.pace.rate()
    }
}

impl FetchEngine {
    /// The source has these pieces now.
    pub(super) fn source_has(&mut self, id: SourceId, ranges: &[Range<u32>]) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let Holding::Part { has, fresh } = &mut source.holding else { return };
        let mut first_hand = 0;
        for range in ranges {
            for number in range.start..range.end.min(self.geometry.piece_count()) {
                if !self.geometry.piece(number).is_some_and(|piece| has.insert(piece)) {
                    continue;
                }
                if let Some(count) = self.availability.get_mut(number as usize) {
                    first_hand += u32::from(*count == 0);
                    *count = count.saturating_add(1);
                }
                let place = self.order.place_of(number);
                if self.fresh.contains(place) {
                    fresh.insert(place);
                }
            }
        }
        if let Some(fellow) = &mut source.fellow {
            fellow.has_first(self.now, first_hand);
        }
    }

    /// The source said that it has the piece, and has not. What else it still owes of it will not come either.
    pub(super) fn source_lacks(&mut self, id: SourceId, piece: PieceIndex) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if matches!(source.holding, Holding::Whole) {
            let has = PieceSet::full(self.geometry.clone());
            source.holding = Holding::Part { has, fresh: self.fresh.clone() };
            if self.availability.is_empty() {
                self.count_availability();
            } else {
                self.availability.iter_mut().for_each(|count| *count = count.saturating_add(1));
            }
        }
        let Some(source) = self.sources.get_mut(&id) else { return };
        if let Holding::Part { has, fresh } = &mut source.holding {
            fresh.remove(self.order.place_of(piece.get()));
            if let (true, Some(count)) = (has.remove(piece), self.availability.get_mut(piece.get() as usize))
            {
                *count = count.saturating_sub(1);
            }
        }
        let owed: Vec<_> = self
            .active
            .get(&piece)
            .into_iter()
            .flat_map(|active| active.asked())
            .filter(|asked| asked.source == id)
            .map(|asked| asked.id)
            .collect();
        self.release(&owed, Release::Cancelled);
    }

    /// Counts from now on how many have each piece.
    pub(super) fn count_availability(&mut self) {
        if !self.availability.is_empty() {
            return;
        }
        self.availability = vec![0; self.geometry.piece_count() as usize];
        for source in self.sources.values() {
            if let Holding::Part { has, .. } = &source.holding {
                for piece in has.iter() {
                    if let Some(count) = self.availability.get_mut(piece.get() as usize) {
                        *count = count.saturating_add(1);
                    }
                }
            }
        }
    }
}
