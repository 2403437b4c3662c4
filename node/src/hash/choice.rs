//! Which engine hashes how many messages: measured once, in a few milliseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ftx_proto::digest::Digest;

use super::engine::Engine;
use super::lanes::LANES_MAX;

/// The engine to begin with, for each number of messages that wait.
#[derive(Debug)]
pub(super) struct Choice {
    /// For 1 message and so on; the last one also for more.
    engines: [Engine; LANES_MAX],
}

/// Bytes of each message that is hashed to measure.
const SAMPLE_BYTES: usize = 4096;

/// How often every engine is tried. The best time counts: what disturbs only makes it longer.
const ROUNDS_MAX: usize = 8;

/// No further round is begun after that long.
const MEASURING_MAX: Duration = Duration::from_millis(5);

/// What is best here.
pub(super) fn chosen() -> &'static Choice {
    static CHOSEN: OnceLock<Choice> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let costs = measure(&Engine::available());
        let choice = Choice::from_costs(&costs);
        tracing::debug!(?costs, many = choice.engine_for(LANES_MAX).name(), "hashing was measured");
        choice
    })
}

/// The time that one pass of each engine takes.
fn measure(engines: &[Engine]) -> Vec<(Engine, Duration)> {
    let samples: Vec<u8> = (0..SAMPLE_BYTES * LANES_MAX).map(|place| (place % 251) as u8).collect();
    let messages: Vec<&[u8]> = samples.chunks(SAMPLE_BYTES).collect();
    let mut digests = Vec::with_capacity(LANES_MAX);
    let mut costs: Vec<_> = engines.iter().map(|&engine| (engine, Duration::MAX)).collect();
    let begun = Instant::now();
    for round in 0..ROUNDS_MAX {
        if round > 0 && begun.elapsed() > MEASURING_MAX {
            break;
        }
        for (engine, best) in &mut costs {
            digests.clear();
            let begun = Instant::now();
            engine.hash_pass(&messages[..engine.lanes()], &mut digests);
            *best = begun.elapsed().min(*best);
        }
    }
    costs
}

impl Choice {
    /// The one that needs the least time, where a pass of each engine takes this long.
    fn from_costs(costs: &[(Engine, Duration)]) -> Self {
        // The least time for that many messages, found for fewer of them first.
        let mut least = vec![Duration::ZERO];
        let mut engines = [Engine::SINGLE; LANES_MAX];
        for (before, chosen) in engines.iter_mut().enumerate() {
            let count = before + 1;
            let whole = |&(engine, pass): &(Engine, Duration)| {
                (pass.saturating_add(least[count.saturating_sub(engine.lanes())]), engine)
            };
            let best = costs.iter().map(whole).min_by_key(|(time, _)| *time);
            let (time, engine) = best.unwrap_or((Duration::MAX, Engine::SINGLE));
            least.push(time);
            *chosen = engine;
        }
        Choice { engines }
    }

    /// The engine for the first pass, where that many messages of one length wait.
    pub(super) fn engine_for(&self, count: usize) -> Engine {
        self.engines[count.clamp(1, LANES_MAX) - 1]
    }

    /// Appends the SHA-256 of each message, in order.
    pub(super) fn hash(&self, messages: &[&[u8]], out: &mut Vec<Digest>) {
        for mut equal in messages.chunk_by(|a, b| a.len() == b.len()) {
            while !equal.is_empty() {
                let engine = self.engine_for(equal.len());
                let (pass, rest) = equal.split_at(engine.lanes().min(equal.len()));
                engine.hash_pass(pass, out);
                equal = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a choice takes for each number of messages, by the costs that it was made from.
    fn passes(choice: &Choice, mut count: usize) -> Vec<usize> {
        let mut passes = Vec::new();
        while count > 0 {
            let lanes = choice.engine_for(count).lanes();
            passes.push(lanes);
            count = count.saturating_sub(lanes);
        }
        passes
    }

    #[test]
    fn without_figures_or_with_one_engine_there_is_a_choice() {
        for costs in [vec![], vec![(Engine::SINGLE, Duration::MAX)], vec![(Engine::SINGLE, Duration::ZERO)]] {
            assert_eq!(passes(&Choice::from_costs(&costs), 3), [1, 1, 1]);
        }
    }

    #[test]
    fn few_messages_do_not_pay_for_many_lanes() {
        let engines = Engine::available();
        // A pass takes 10 µs, and 2 µs more for each lane.
        let costs: Vec<_> = engines
            .iter()
            .map(|&engine| (engine, Duration::from_micros(10 + 2 * engine.lanes() as u64)))
            .collect();
        let choice = Choice::from_costs(&costs);
        let cost = |lanes: usize| 10 + 2 * lanes;
        for count in 1..=40 {
            let time: usize = passes(&choice, count).into_iter().map(cost).sum();
            for engine in &engines {
                let alone = count.div_ceil(engine.lanes()) * cost(engine.lanes());
                assert!(time <= alone, "{count} messages: {time} µs, {} alone {alone} µs", engine.name());
            }
        }
        assert_eq!(passes(&choice, 1), [1]);
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
    fn measuring_tells_a_time_of_each() {
        let engines = Engine::available();
        let costs = measure(&engines);
        assert_eq!(costs.iter().map(|(engine, _)| *engine).collect::<Vec<_>>(), engines);
        assert!(costs.iter().all(|(_, time)| (Duration::from_nanos(1)..Duration::MAX).contains(time)));
    }
}
