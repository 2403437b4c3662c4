//! What is late: sources that do not answer, requests that are passed over; and when to look next.

use std::time::Duration;

use crate::time::Time;

use super::piece::Narrowing;
use super::source::Source;
use super::swarm::LOOK_AGAIN;
use super::{DropReason, FetchEngine, Release, SourceId};

impl FetchEngine {
    /// When [`super::Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.is_complete() {
            return None;
        }
        let owed = self.owed();
        let of_sources = self.sources.values().flat_map(|source| {
            let silent = (source.outstanding > 0).then(|| self.silent_at(source, owed));
            let busy = Some(source.busy_until).filter(|&until| until > self.now);
            let layer = self.layer.is_none().then_some(source.layer_due.unwrap_or(source.layer_retry_at));
            let passed_over = self.passed_over_at(source);
            [silent, busy, layer.filter(|&at| at > self.now), passed_over]
        });
        let narrowing = self.suspects.iter().filter_map(|piece| self.active.get(piece)?.narrowing.as_ref());
        let of_pieces =
            narrowing.map(|Narrowing { asked, retry_at, .. }| asked.map(|(_, due)| due).or(Some(*retry_at)));
        let held_back = self.holds_back.then_some(self.now + LOOK_AGAIN);
        let of_pieces = of_pieces.map(|at| at.filter(|&at| at > self.now));
        let earliest = of_sources.chain(of_pieces).chain([held_back]).flatten().min();
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
        let Some(source) = self.sources.get(&id).filter(|source| source.outstanding > 0) else { return };
        if self.silent_at(source, self.owed()) > self.now {
            return;
        }
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.pace.missed(self.now);
        let misses = source.pace.misses();
        let owed: Vec<_> = source.queue.iter().copied().collect();
        self.release(&owed, Release::Late);
        let others_answer = self.sources.iter().any(|(&other, source)| other != id && source.is_responsive());
        if misses >= MISSES_MAX && others_answer {
            self.drop_source(id, DropReason::Unresponsive);
        }
    }

    /// What all sources owe that answer.
    fn owed(&self) -> u32 {
        self.sources.values().filter(|source| source.is_responsive()).map(|source| source.outstanding).sum()
    }

    /// When a source is late with everything; `owed` is what all owe.
    fn silent_at(&self, source: &Source, owed: u32) -> Time {
        let own = if source.is_responsive() { source.outstanding } else { 0 };
        source.pace.silent_at(self.intake.takes(owed - own))
    }

    /// Nobody looked for so long: what came meanwhile is not known yet, and nobody is late.
    pub(super) fn overslept(&mut self, lasted: Duration) {
        let now = self.now;
        for source in self.sources.values_mut() {
            source.pace.overslept(now, lasted);
        }
        for asked in self.active.values_mut().flat_map(|active| active.asked_mut()) {
            asked.at = now.min(asked.at + lasted);
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

/// How fast everything comes, from all sources together.
#[derive(Debug, Default)]
pub(super) struct Intake {
    since: Time,
    chunks: u32,
    rate: Option<f64>,
}

impl Intake {
    /// Something is asked for after nothing was.
    pub(super) fn begin(&mut self, now: Time) {
        (self.since, self.chunks) = (now, 0);
    }

    /// Chunks came.
    pub(super) fn add(&mut self, now: Time, chunks: u32) {
        self.chunks += chunks;
        let elapsed = now.since(self.since).as_secs_f64();
        if elapsed >= INTAKE_SECONDS {
            let sample = f64::from(self.chunks) / elapsed;
            let weight = elapsed / (elapsed + INTAKE_MEMORY_SECONDS);
            self.rate = Some(self.rate.map_or(sample, |rate| rate + weight * (sample - rate)));
            self.begin(now);
        }
    }

    /// How long it takes until so many chunks are here. Where this machine is what is slow, what a source has sent may lie
    /// in its connection until the others' is taken in; then it is not the source that is late.
    fn takes(&self, chunks: u32) -> Duration {
        let seconds = self.rate.map_or(0.0, |rate| f64::from(chunks) / rate.max(1.0));
        Duration::from_secs_f64(seconds.min(LOAD_MAX.as_secs_f64()))
    }
}

/// Over which time the intake is measured, and how long that is remembered.
const INTAKE_SECONDS: f64 = 0.1;
const INTAKE_MEMORY_SECONDS: f64 = 0.25;

/// No longer than this is a source given for what the others owe.
const LOAD_MAX: Duration = Duration::from_secs(4);

/// Shortest time to the next look.
const TICK_MIN: Duration = Duration::from_millis(1);

/// A source that was late with everything so often in a row is dropped, if others answer.
const MISSES_MAX: u32 = 6;
