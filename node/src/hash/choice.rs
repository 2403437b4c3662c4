//! Which engine hashes which messages, by how long each takes: measured once, in a few milliseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ftx_proto::digest::Digest;

use super::engine::Engine;
use super::lanes::{LANES_MAX, blocks_of};

/// What each engine costs here.
#[derive(Debug)]
pub(super) struct Choice {
    /// Picoseconds that a pass takes for each block of its longest message. At least one engine.
    costs: Vec<(Engine, u64)>,
}

/// Some messages that one engine hashes in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    engine: Engine,
    messages: usize,
}

/// Bytes of each message that is hashed to measure.
const SAMPLE_BYTES: usize = 4096;

/// How often every engine is tried. The best time counts: what disturbs only makes it longer.
const ROUNDS_MAX: usize = 8;

/// How often at least, however long that takes: where others want the processor it may be gone in the middle of a pass, and
/// an engine that was tried only then would never be used again.
const ROUNDS_MIN: usize = 4;

/// No round beyond these is begun after that long.
const MEASURING_MAX: Duration = Duration::from_millis(5);

/// What is best here.
pub(super) fn chosen() -> &'static Choice {
    static CHOSEN: OnceLock<Choice> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let costs = measure(&Engine::available());
        let choice = Choice::from_costs(&costs);
        tracing::debug!(?costs, many = choice.engine_for_many().name(), "hashing was measured");
        choice
    })
}

/// The time that one pass of each engine takes.
fn measure(engines: &[Engine]) -> Vec<(Engine, Duration)> {
    let samples: Vec<u8> = (0..SAMPLE_BYTES * LANES_MAX).map(|place| (place % 251) as u8).collect();
    let messages: Vec<&[u8]> = samples.chunks(SAMPLE_BYTES).collect();
    let mut digests = [Digest::ZERO; LANES_MAX];
    best_of(engines, |engine| {
        let begun = Instant::now();
        engine.hash_pass(&messages[..engine.lanes()], &mut digests[..engine.lanes()]);
        begun.elapsed()
    })
}

/// The shortest of the times that each engine takes for a pass.
fn best_of(engines: &[Engine], mut pass: impl FnMut(Engine) -> Duration) -> Vec<(Engine, Duration)> {
    let mut costs: Vec<_> = engines.iter().map(|&engine| (engine, Duration::MAX)).collect();
    let mut measured = Duration::ZERO;
    for round in 0..ROUNDS_MAX {
        if round >= ROUNDS_MIN && measured > MEASURING_MAX {
            break;
        }
        for (engine, best) in &mut costs {
            let taken = pass(*engine);
            measured = measured.saturating_add(taken);
            *best = taken.min(*best);
        }
    }
    costs
}

impl Choice {
    /// For engines whose passes over the samples take this long.
    fn from_costs(costs: &[(Engine, Duration)]) -> Self {
        let blocks = blocks_of(SAMPLE_BYTES) as u128;
        // An hour stands for what could not be measured, and leaves room for sums.
        let of_block = |pass: Duration| pass.min(Duration::from_secs(3600)).as_nanos() * 1000 / blocks;
        let costs = costs.iter().map(|(engine, pass)| (*engine, of_block(*pass) as u64));
        let mut choice = Choice { costs: costs.collect() };
        if choice.costs.is_empty() {
            choice.costs.push((Engine::SINGLE, 0));
        }
        choice
    }

    /// The engine for as many messages of one length as any engine has lanes.
    pub(super) fn engine_for_many(&self) -> Engine {
        self.passes(&[1; LANES_MAX])[0].engine
    }

    /// The passes that take the least time for messages of so many blocks, which are in order, the longest first.
    fn passes(&self, blocks: &[usize]) -> Vec<Pass> {
        let count = blocks.len();
        // From each message on: the least time, and the pass to begin with.
        let mut least = vec![(0_u64, Pass { engine: Engine::SINGLE, messages: 1 }); count + 1];
        for first in (0..count).rev() {
            let begun_with = |&(engine, cost): &(Engine, u64)| {
                let pass = Pass { engine, messages: engine.lanes().min(count - first) };
                let time = cost.saturating_mul(blocks[first] as u64);
                (time.saturating_add(least[first + pass.messages].0), pass)
            };
            if let Some(best) = self.costs.iter().map(begun_with).min_by_key(|(time, _)| *time) {
                least[first] = best;
            }
        }
        let mut first = 0;
        std::iter::from_fn(|| {
            let (_, pass) = *least[..count].get(first)?;
            first += pass.messages;
            Some(pass)
        })
        .collect()
    }

    /// Appends the SHA-256 of each message, in order.
    pub(super) fn hash(&self, messages: &[&[u8]], out: &mut Vec<Digest>) {
        let before = out.len();
        out.resize(before + messages.len(), Digest::ZERO);
        let digests = &mut out[before..];
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(messages[*place].len()));
        let blocks: Vec<usize> = order.iter().map(|place| blocks_of(messages[*place].len())).collect();
        let mut rest = order.as_slice();
        for pass in self.passes(&blocks) {
            let (places, behind) = rest.split_at(pass.messages);
            rest = behind;
            let mut taken = [[].as_slice(); LANES_MAX];
            let mut found = [Digest::ZERO; LANES_MAX];
            for (message, place) in taken.iter_mut().zip(places) {
                *message = messages[*place];
            }
            pass.engine.hash_pass(&taken[..places.len()], &mut found[..places.len()]);
            for (digest, place) in found.iter().zip(places) {
                digests[*place] = *digest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages each pass takes, where there are so many of one length.
    fn passes(choice: &Choice, count: usize) -> Vec<usize> {
        choice.passes(&vec![10; count]).iter().map(|pass| pass.messages).collect()
    }

    /// A pass takes 10 µs, and 2 µs more for each lane.
    fn with_costly_lanes(engine: Engine) -> (Engine, Duration) {
        (engine, Duration::from_micros(10 + 2 * engine.lanes() as u64))
    }

    #[test]
    fn without_figures_or_with_one_engine_there_is_a_choice() {
        for costs in [vec![], vec![(Engine::SINGLE, Duration::MAX)], vec![(Engine::SINGLE, Duration::ZERO)]] {
            assert_eq!(passes(&Choice::from_costs(&costs), 3), [1, 1, 1]);
        }
        assert_eq!(passes(&Choice::from_costs(&[]), 0), [0; 0]);
    }

    #[test]
    fn few_messages_do_not_pay_for_many_lanes() {
        let engines = Engine::available();
        let costs: Vec<_> = engines.iter().map(|&engine| with_costly_lanes(engine)).collect();
        let choice = Choice::from_costs(&costs);
        let cost = |lanes: usize| 10 + 2 * lanes;
        for count in 1..=40 {
            let passes = choice.passes(&vec![65; count]);
            assert_eq!(passes.iter().map(|pass| pass.messages).sum::<usize>(), count);
            let time: usize = passes.iter().map(|pass| cost(pass.engine.lanes())).sum();
            for engine in &engines {
                let alone = count.div_ceil(engine.lanes()) * cost(engine.lanes());
                assert!(time <= alone, "{count} messages: {time} µs, {} alone {alone} µs", engine.name());
            }
        }
        assert_eq!(passes(&choice, 1), [1]);
    }

    #[test]
    fn short_messages_do_not_pay_for_one_long_one() {
        let engines = Engine::available();
        let costs: Vec<_> = engines.iter().map(|&engine| with_costly_lanes(engine)).collect();
        let choice = Choice::from_costs(&costs);
        let mut blocks = vec![1; LANES_MAX];
        blocks[0] = 1000;
        let passes = choice.passes(&blocks);
        assert_eq!(passes[0].engine, Engine::SINGLE, "the others would not make up for the lanes");
        assert_eq!(passes.iter().map(|pass| pass.messages).sum::<usize>(), LANES_MAX);
    }

    #[test]
    fn an_engine_that_is_slow_here_is_not_used() {
        let slow = |&engine: &Engine| {
            (engine, Duration::from_micros(if engine == Engine::SINGLE { 1 } else { 1000 }))
        };
        let costs: Vec<_> = Engine::available().iter().map(slow).collect();
        assert_eq!(passes(&Choice::from_costs(&costs), 40), [1; 40]);
    }

    #[test]
    fn an_engine_that_was_disturbed_is_tried_again() {
        let engines = Engine::available();
        let mut passes = 0;
        // The processor is away in the middle of every pass of the first rounds.
        let costs = best_of(&engines, |engine| {
            passes += 1;
            let away = if passes <= (ROUNDS_MIN - 1) * engines.len() { 50 } else { 0 };
            Duration::from_millis(away) + with_costly_lanes(engine).1
        });
        assert_eq!(costs, engines.iter().map(|&engine| with_costly_lanes(engine)).collect::<Vec<_>>());
        assert_eq!(passes, ROUNDS_MIN * engines.len(), "and no longer than that");
    }

    #[test]
    fn measuring_tells_a_time_of_each() {
        let engines = Engine::available();
        let costs = measure(&engines);
        assert_eq!(costs.iter().map(|(engine, _)| *engine).collect::<Vec<_>>(), engines);
        assert!(costs.iter().all(|(_, time)| (Duration::from_nanos(1)..Duration::MAX).contains(time)));
    }
}
