//! Several fetch one content at once from a source that cannot send it to each: they have to serve each other.
//!
//! `FTX_SEED=N` replays one network, `FTX_SEEDS=N` tries that many.

#[path = "support/swarm_world.rs"]
mod swarm_world;

use std::time::Duration;

use ftx_proto::geometry::PIECE_CHUNKS;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use swarm_world::{Member, Swarm};

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// 50 MiB a second.
fn origin() -> Member {
    Member { up: 3200.0, ..Member::default() }
}

/// Eight that begin at the same time.
fn eight(seed: u64, named: bool) -> Swarm {
    let mut swarm = Swarm::new(seed, 256 * MIB, origin());
    if !named {
        swarm = swarm.without_names();
    }
    for _ in 0..8 {
        swarm.add(Member { leaves: true, ..Member::default() });
    }
    swarm.run(MINUTE);
    swarm
}

#[test]
fn eight_have_it_hardly_later_than_one_alone() {
    let mut alone = Swarm::new(1, 256 * MIB, origin());
    alone.add(Member::default());
    alone.run(MINUTE);
    let alone = alone.seconds();
    for seed in 1..4 {
        let swarm = eight(seed, true);
        let (ratio, sent) = (swarm.seconds() / alone, swarm.origin_sent());
        eprintln!("seed {seed}: {ratio:.3} {sent:.3} {:.3}", swarm.asked());
        assert!(ratio < 1.15, "seed {seed}: {ratio} of {alone} s");
        assert!(sent < 1.1, "seed {seed}: the source sent {sent} of it");
        assert!(swarm.asked() < 1.06, "seed {seed}: {} of what they need was asked for", swarm.asked());
    }
}

#[test]
fn who_pauses_now_and_then_is_asked_for_nothing_in_vain() {
    for seed in 1..4 {
        let mut swarm = Swarm::new(seed, 128 * MIB, origin());
        for _ in 0..8 {
            swarm.add(Member { pauses: Duration::from_millis(200), ..Member::default() });
        }
        swarm.run(MINUTE);
        eprintln!("seed {seed}: {:.3} s {:.3} {:.3}", swarm.seconds(), swarm.origin_sent(), swarm.asked());
        assert!(swarm.asked() < 1.12, "seed {seed}: {} of what they need was asked for", swarm.asked());
        assert!(swarm.origin_sent() < 1.2, "seed {seed}: the source sent {} of it", swarm.origin_sent());
    }
}

#[test]
fn knowing_each_other_spares_the_source() {
    let (named, unnamed) = (eight(7, true).origin_sent(), eight(7, false).origin_sent());
    eprintln!("{named} {unnamed}");
    assert!(named < unnamed, "{named} with names, {unnamed} without");
}

#[test]
fn a_slow_one_does_not_hold_up_the_others() {
    for seed in 1..4 {
        let mut swarm = Swarm::new(seed, 64 * MIB, origin());
        for _ in 0..4 {
            swarm.add(Member::default());
        }
        // It takes 5 MiB a second: those who are done before it leave it alone with the source.
        swarm.add(Member { down: 320.0, ..Member::default() });
        swarm.run(MINUTE);
        let mut times = swarm.times();
        times.sort_by(f64::total_cmp);
        eprintln!("{times:?} {}", swarm.origin_sent());
        // Alone, one of them needs 1.28 s, and the slow one 12.8 s.
        assert!(times[3] < 2.0 && times[4] < 15.0, "seed {seed}: {times:?}");
    }
}

#[test]
fn a_slow_one_that_has_much_does_not_hold_down_who_comes_late() {
    for (seed, up) in [(1, 64.0), (2, 320.0), (3, 640.0), (4, 1280.0)] {
        let mut swarm = Swarm::new(seed, 64 * MIB, origin());
        // It gets and gives little: half of the content is there when the other one begins.
        swarm.add(Member { down: 320.0, up, ..Member::default() });
        swarm.add(Member { begins_at: Duration::from_secs(6), ..Member::default() });
        swarm.run(MINUTE);
        let late = swarm.times()[1];
        eprintln!("up {up}: {late} s, sent {}", swarm.origin_sent());
        // Alone it needs 1.28 s.
        assert!(late < 1.6, "up {up}: {late} s");
    }
}

#[test]
fn who_dies_is_not_waited_for() {
    for seed in 1..4 {
        let mut swarm = Swarm::new(seed, 64 * MIB, origin());
        for number in 0..6 {
            let dies_at = (number < 2).then(|| Duration::from_millis(700));
            swarm.add(Member { dies_at, ..Member::default() });
        }
        swarm.run(MINUTE);
        let (took, sent) = (swarm.seconds(), swarm.origin_sent());
        eprintln!("{took} {sent}");
        assert!(took < 2.2 && sent < 1.5, "seed {seed}: {took} s, sent {sent}");
    }
}

#[test]
fn who_comes_late_gets_it_from_the_others() {
    let mut swarm = Swarm::new(3, 128 * MIB, origin());
    for number in 0..6 {
        let begins_at = Duration::from_millis(350 * number);
        swarm.add(Member { begins_at, ..Member::default() });
    }
    swarm.run(MINUTE);
    eprintln!("{} {}", swarm.seconds(), swarm.origin_sent());
    // Alone, each of them needs 2.56 s.
    assert!(
        swarm.seconds() < 3.4 && swarm.origin_sent() < 1.3,
        "{} {}",
        swarm.seconds(),
        swarm.origin_sent()
    );
}

#[test]
fn every_swarm_comes_to_its_end_and_spares_the_source() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("FTX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FTX_SEEDS").unwrap_or(SEEDS),
    };
    let (mut worst, mut sum) = (0.0f64, 0.0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let pieces = random.random_range(1..24u64);
        let size = pieces * MIB - random.random_range(0..MIB);
        let up = 10f64.powf(random.random_range(2.0..4.3));
        let mut swarm = Swarm::new(seed, size, Member { up, ..Member::default() });
        let fetchers = random.random_range(2..8);
        for fetcher in 0..fetchers {
            let mut chance = |share| random.random::<f64>() < share;
            let (late, dies, slow, leaves) =
                (chance(0.2), fetcher > 0 && chance(0.1), chance(0.2), chance(0.5));
            let mut within = |seconds: f64| Duration::from_secs_f64(random.random_range(0.0..seconds));
            let alone = (size >> 14) as f64 / up + 0.1;
            let mut member = Member { leaves, ..Member::default() };
            if late {
                member.begins_at = within(alone);
            }
            if dies {
                member.dies_at = Some(member.begins_at + within(alone));
            }
            if slow {
                member.down = 10f64.powf(random.random_range(2.0..4.0));
                member.up = 10f64.powf(random.random_range(2.0..4.0));
            }
            swarm.add(member);
        }
        swarm.run(30 * MINUTE);
        // More than everything to everybody, as where nobody serves, only by what is on its way when it is cancelled.
        let most = fetchers as f64 + 64.0 / (pieces * u64::from(PIECE_CHUNKS)) as f64 + 0.5;
        assert!(swarm.origin_sent() < most, "seed {seed}: {}", swarm.origin_sent());
        worst = worst.max(swarm.origin_sent() / fetchers as f64);
        sum += swarm.origin_sent() / fetchers as f64;
    }
    eprintln!("sent for each fetcher: {} on average, {worst} at most", sum / count as f64);
}

const SEEDS: u64 = 300;
