//! When nothing is unassigned: idle sources take over from slow ones, and the last chunks are asked twice.

use crate::chunk_set::ChunkMask;
use crate::geometry::PieceIndex;
use crate::wire::session::RequestId;

use super::source::Source;
use super::swarm::SOON_SECONDS;
use super::{FetchEngine, Output, SourceId, first_run, last_run};

impl FetchEngine {
    pub(super) fn steal_in_turns(&mut self, sources: &[SourceId]) {
        if self.requests.is_empty() {
            return;
        }
        let mut hungry = sources.to_vec();
        for _ in 0..STEALS_MAX {
            hungry.retain(|&id| self.steal(id));
        }
        for &id in sources {
            self.ask_twice(id);
        }
    }

    /// Moves the end of the longest queue to this source, as much as makes both end at the same time. `false` if that
    /// gains nothing.
    fn steal(&mut self, id: SourceId) -> bool {
        let Some(thief) = self.sources.get(&id).filter(|thief| thief.room() > 0) else { return false };
        let own_left = thief.seconds_left();
        // Only one that would soon be idle: estimates are rough, and moving work to and fro costs more than it gains.
        let soon = IDLE_SECONDS + 2.0 * thief.pace.latency();
        if own_left > soon {
            return false;
        }
        // Those who fetch the same answer in their own time, and what is taken from them was often sent already: not for
        // little. A source that is spared does not help them out at all if they will soon be done.
        let of_fellow = if self.is_spared(id) { SOON_SECONDS } else { GAIN_SECONDS_FELLOW };
        let mut victims: Vec<&Source> = self
            .sources
            .iter()
            .filter(|&(&other, source)| {
                let gain = source.seconds_left() - own_left;
                let least = if source.fellow.is_some() { of_fellow } else { 0.0 };
                other != id
                    && source.wanted > 1
                    && gain > least.max(GAIN_SECONDS_MIN + 2.0 * thief.pace.latency())
            })
            .map(|(_, source)| source)
            .collect();
        victims.sort_by(|a, b| b.seconds_left().total_cmp(&a.seconds_left()));
        let found = victims.iter().find_map(|victim| {
            // So much that both need the same time for what they have then.
            let (own, other) = (thief.pace.rate(), victim.pace.rate());
            let surplus = f64::from(victim.wanted) * own - f64::from(thief.wanted) * other;
            let most = ((surplus / (own + other)) as u32).min(thief.room());
            self.end_of_queue(victim, thief, most)
        });
        let Some((request, piece, chunks)) = found else { return false };
        self.take_over(id, request, piece, chunks);
        true
    }

    /// The last chunks in the victim's queue that the thief has and that are asked only once: a run of at most `most`.
    fn end_of_queue(
        &self,
        victim: &Source,
        thief: &Source,
        most: u32,
    ) -> Option<(RequestId, PieceIndex, ChunkMask)> {
        victim.queue.iter().rev().take(QUEUE_LOOK).find_map(|&request| {
            let piece = *self.requests.get(&request)?;
            let active = self.active.get(&piece).filter(|_| thief.has(piece))?;
            let chunks = last_run(active.not_twice(active.find_asked(request)?.wanted), most);
            (!chunks.is_empty()).then_some((request, piece, chunks))
        })
    }

    fn take_over(&mut self, id: SourceId, request: RequestId, piece: PieceIndex, chunks: ChunkMask) {
        let Some(asked) = self.active.get(&piece).and_then(|active| active.find_asked(request)) else {
            return;
        };
        if asked.unanswered == chunks {
            let victim = asked.source;
            self.finish(request);
            self.outputs.push_back(Output::Cancel { source: victim, request });
            self.ask(id, piece, chunks);
        } else {
            // There is no way to cancel a part. The victim serves the part that it keeps first, as a rule, and is told
            // to stop behind it.
            self.ask(id, piece, chunks);
            if let Some(active) = self.active.get_mut(&piece) {
                active.give_away(request, chunks);
            }
            self.settle(piece);
            self.conclude(piece);
        }
    }

    /// At the very end an idle source is asked for what somebody else is asked for already, the oldest first.
    fn ask_twice(&mut self, id: SourceId) {
        let limit = (u64::from(self.geometry.chunk_count()) / 8).clamp(TWICE_MIN, TWICE_MAX);
        if self.missing > limit || self.unassigned > 0 {
            return;
        }
        let is_spared = self.is_spared(id);
        loop {
            let Some(source) = self.sources.get(&id) else { return };
            // One that has not delivered anything yet proves nothing about the others' slowness.
            if source.pace.delivered() == 0 || source.outstanding >= TWICE_MIN as u32 || source.room() == 0 {
                return;
            }
            let oldest = self.requests.iter().find_map(|(&request, &piece)| {
                let active = self.active.get(&piece).filter(|_| source.has(piece))?;
                let asked = active.find_asked(request).filter(|asked| asked.source != id)?;
                if is_spared && self.comes_from_fellow(piece) {
                    return None;
                }
                let others = active.not_twice(asked.wanted);
                (!others.is_empty()).then(|| (piece, first_run(others, source.room())))
            });
            let Some((piece, chunks)) = oldest else { return };
            self.ask(id, piece, chunks);
        }
    }
}

/// A source that has work for less than this, beyond what it costs to ask, looks for more.
const IDLE_SECONDS: f64 = 0.02;

/// Least time that stealing must save, beyond what it costs to ask.
const GAIN_SECONDS_MIN: f64 = 0.002;

/// The same, from who fetches itself.
const GAIN_SECONDS_FELLOW: f64 = 0.25;

/// Most requests stolen by one source at one time.
const STEALS_MAX: u32 = 4;

/// How far from its end a queue is searched.
const QUEUE_LOOK: usize = 32;

/// The last chunks that are asked twice: an eighth of the content, at least and at most so many.
const TWICE_MIN: u64 = 16;
const TWICE_MAX: u64 = 64;
