//! What is late: sources that do not answer, requests that are passed over; and when to look next.

use std::time::Duration;

use crate::time::Time;

use super::piece::Narrowing;
use super::source::Source;
use super::{DropReason, FetchEngine, Release, SourceId};

impl FetchEngine {
    /// When [`super::Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.is_complete() {
            return None;
        }
        let of_sources = self.sources.values().flat_map(|source| {
            let silent = (source.outstanding > 0).then(|| source.pace.silent_at());
            let busy = Some(source.busy_until).filter(|&until| until > self.now);
            let layer = self.layer.is_none().then_some(source.layer_due.unwrap_or(source.layer_retry_at));
            let passed_over = self.passed_over_at(source);
            [silent, busy, layer.filter(|&at| at > self.now), passed_over]
        });
        let narrowing = self.suspects.iter().filter_map(|piece| self.active.get(piece)?.narrowing.as_ref());
        let of_pieces =
            narrowing.map(|Narrowing { asked, retry_at, .. }| asked.map(|(_, due)| due).or(Some(*retry_at)));
        let earliest = of_sources.chain(of_pieces.map(|at| at.filter(|&at| at > self.now))).flatten().min();
        // What has become late while sources were asked is looked at soon, but never in a loop without time passing.
        earliest.map(|at| at.max(self.now + TICK_MIN))
    }

    /// Takes back what is late.
    pub(super) fn expire(&mut self) {
        let ids: Vec<SourceId> = self.sources.keys().copied().collect();
        for id in ids {
            while let Some(source) = self.sources.get(&id)
                && self.passed_over_at(source).is_some_and(|at| at <= self.now)
                && let Some(&oldest) = source.queue.first()
            {
                self.release(&[oldest], Release::Late);
            }
            self.expire_source(id);
        }
    }

    fn expire_source(&mut self, id: SourceId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.outstanding == 0 || source.pace.silent_at() > self.now {
            return;
        }
        source.pace.missed(self.now);
        let misses = source.pace.misses();
        let owed: Vec<_> = source.queue.iter().copied().collect();
        self.release(&owed, Release::Late);
        let others_answer = self.sources.iter().any(|(&other, source)| other != id && source.is_responsive());
        if misses >= MISSES_MAX && others_answer {
            self.drop_source(id, DropReason::Unresponsive);
        }
    }

    /// When the oldest request of a source is late although others are answered; `None` while it is not passed over.
    fn passed_over_at(&self, source: &Source) -> Option<Time> {
        let oldest = source.queue.first()?;
        let asked = self.active.get(self.requests.get(oldest)?)?.find_asked(*oldest)?;
        (source.pace.delivered() >= asked.overdue_at_delivered)
            .then(|| asked.at + source.pace.response_timeout())
    }
}

/// Shortest time to the next look.
const TICK_MIN: Duration = Duration::from_millis(1);

/// A source that was late with everything so often in a row is dropped, if others answer.
const MISSES_MAX: u32 = 6;
