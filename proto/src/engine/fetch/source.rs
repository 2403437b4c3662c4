//! A source that is here: what it has, what is requested from it, how fast it is.

use std::collections::BTreeSet;

use crate::chunk_set::PieceSet;
use crate::geometry::{Geometry, PieceIndex};
use crate::time::Time;
use crate::wire::session::RequestId;

use super::order::PlaceSet;
use super::pace::Pace;
use super::swarm::Fellow;

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
