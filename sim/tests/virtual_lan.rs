//! Fetches by the datagram lane over random networks in virtual time, with every promise of the engine checked at every
//! step. A seed decides everything: `FTX_SEED=N` replays one, `FTX_SEEDS=N` tries that many.

use std::ops::Range;
use std::panic::catch_unwind;
use std::time::Duration;

use ftx_proto::time::Time;
use ftx_sim::virtual_lan::{
    Bursts, Control, FetchSpec, LinkSpec, PullOutcome, PullRun, PullScenario, RivalSpec, SourceSpec,
};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// A time between these, in microseconds, as likely short as long.
fn micros(random: &mut ChaCha8Rng, range: Range<f64>) -> Duration {
    Duration::from_micros(about(random, range) as u64)
}

/// A number between these, as likely of one magnitude as of another.
fn about(random: &mut ChaCha8Rng, range: Range<f64>) -> f64 {
    random.random_range(range.start.ln()..range.end.ln()).exp()
}

/// Whether something that happens in one of so many cases does.
fn one_in(random: &mut ChaCha8Rng, cases: u32) -> bool {
    random.random_ratio(1, cases)
}

fn cuts(random: &mut ChaCha8Rng) -> Vec<Range<Time>> {
    let mut from = Time::ZERO;
    let mut cuts = Vec::new();
    for _ in 0..random.random_range(1..4) {
        from += micros(random, 1e3..2e6);
        let to = from + micros(random, 1e3..8e6);
        cuts.push(from..to);
        from = to;
    }
    cuts
}

/// A link: as one of the presets, or with everything left to chance.
fn link(random: &mut ChaCha8Rng) -> LinkSpec {
    let presets = ["ethernet", "wifi", "wifi-bad", "powerline"];
    let mut link = LinkSpec::preset(presets[random.random_range(0..presets.len())]).expect("it exists");
    if random.random::<bool>() {
        link.rate = about(random, 2e5..1.25e9);
        link.delay = micros(random, 10.0..30e3);
        link.queue = about(random, 17e3..1e6) as u64;
        link.jitter = if one_in(random, 2) { micros(random, 10.0..30e3) } else { Duration::ZERO };
    }
    if one_in(random, 2) {
        link.loss = random.random_range(0.0..0.4);
    }
    if one_in(random, 4) {
        let (every, length) = (about(random, 50.0..5e3), about(random, 2.0..100.0));
        link.bursts = Some(Bursts { every, length, loss: random.random_range(0.5..1.0) });
    }
    if one_in(random, 3) {
        link.reorder = about(random, 0.001..0.3);
        link.reorder_by = micros(random, 10.0..20e3);
    }
    if one_in(random, 3) {
        link.duplicate = about(random, 0.001..0.3);
    }
    if one_in(random, 5) {
        link.cuts = cuts(random);
    }
    link
}

fn source(random: &mut ChaCha8Rng) -> SourceSpec {
    let mut source = SourceSpec::new(link(random));
    // Paths of any Ethernet, of jumbo frames and of loopback; sometimes one that grows narrow.
    source.datagram_max = [1252, 1300, 1472, 1472, 8972, 65_507][random.random_range(0..6)];
    if one_in(random, 5) {
        let at = Time::ZERO + micros(random, 1e3..1e6);
        source.shrinks = Some((at, if one_in(random, 2) { 1252 } else { 1472 }));
    }
    source
}

/// Decides the whole network from the seed.
fn scenario(seed: u64) -> PullScenario {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let random = &mut random;
    let sources = (0..random.random_range(1..=12)).map(|_| source(random)).collect();
    let mut fetch = FetchSpec::new(about(random, 1.0..(8 << 20) as f64).round() as u64, sources);
    if one_in(random, 3) {
        fetch.buffer = about(random, 4e3..4e6) as u64;
    }
    let last = if one_in(random, 3) {
        link(random)
    } else {
        LinkSpec::wire(125e6, Duration::from_micros(50), 256 << 10)
    };
    let mut scenario = PullScenario::one(seed, fetch, last);
    if one_in(random, 6) {
        let control =
            if one_in(random, 2) { Control::Cubic } else { Control::Fixed(about(random, 2e3..1e5) as u64) };
        // One that sends little enough to simulate: what matters is that it is in the way.
        let link = LinkSpec::wire(about(random, 1e5..2e6), Duration::from_micros(50), 64 << 10);
        scenario.rivals.push(RivalSpec { link, control, begins: Time::ZERO });
    }
    scenario.until = Time::ZERO + HOUR;
    scenario.checked = true;
    scenario
}

fn simulate(seed: u64) -> PullOutcome {
    let scenario = scenario(seed);
    let size = scenario.fetches[0].size;
    let outcome = PullRun::new(scenario).run();
    assert!(
        outcome.done_at().is_some(),
        "seed {seed}: every fault ends or leaves something through: {outcome:?}"
    );
    let bytes: u64 = outcome.fetches[0].sources.iter().map(|source| source.bytes).sum();
    assert_eq!(bytes, size, "seed {seed}: every byte comes, and once");
    outcome
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_fetch_ends_with_every_byte() {
    if let Some(seed) = number("FTX_SEED") {
        println!("{:#?}", scenario(seed));
        println!("{:#?}", simulate(seed));
        return;
    }
    let seeds = number("FTX_SEEDS").unwrap_or(SEEDS);
    let (mut lossy, mut silent, mut late, mut useless) = (0, 0, 0, 0);
    for seed in 0..seeds {
        let Ok(outcome) = catch_unwind(|| simulate(seed)) else {
            panic!(
                "replay with: FTX_SEED={seed} cargo test -p ftx-sim --test virtual_lan every_fetch -- --nocapture"
            );
        };
        let statistics = outcome.statistics();
        let sources = &outcome.fetches[0].sources;
        lossy += u64::from(statistics.lost > 0);
        silent += u64::from(sources.iter().any(|source| source.silences > 0));
        late += u64::from(statistics.late > 0);
        useless += u64::from(statistics.useless > 0);
    }
    println!(
        "{seeds} networks: {lossy} lost something, {silent} had a silent source, {late} late, {useless} twice"
    );
    assert!(lossy * 2 > seeds && silent * 30 > seeds && late * 4 > seeds && useless * 4 > seeds);
}

#[test]
fn a_seed_gives_the_same_log_every_time() {
    let (mut before, mut different) = (0, 0);
    for seed in (0..SEEDS).step_by(10) {
        let (one, other) = (simulate(seed), simulate(seed));
        assert_eq!(one, other, "seed {seed}");
        different += u64::from(one.log != before);
        before = one.log;
    }
    assert_eq!(different, SEEDS.div_ceil(10), "another seed gives another log");
}

/// How many seeds are tried where nothing else is said.
const SEEDS: u64 = 400;

/// Virtual time after which a fetch hangs. A source that loses 40 % both ways is that slow at its worst.
const HOUR: Duration = Duration::from_secs(3600);
