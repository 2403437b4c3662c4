//! What a fetch does in plain situations, told one by one.

#[path = "support/fetch_world.rs"]
mod fetch_world;

use std::time::Duration;

use fetch_world::{Behaviour, World};
use ftx_proto::engine::fetch::{DropReason, FetchConfig, Lie, SourceId};
use ftx_proto::geometry::{CHUNK_SIZE, PIECE_SIZE};
use ftx_proto::wire::session::Refusal;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn good() -> Behaviour {
    Behaviour::default()
}

/// Runs to the end, which must come.
fn complete(world: &mut World) -> f64 {
    world.run(10 * MINUTE);
    world.check_end();
    world.seconds()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn four_equal_sources_share_evenly() {
    let mut world = World::new(1, 64 * MIB);
    let sources: Vec<_> = (0..4).map(|_| world.add(good())).collect();
    // 4,096 chunks at 4 × 6,400 a second.
    let took = complete(&mut world);
    assert!((0.16..0.20).contains(&took), "{took}");
    for id in sources {
        let chunks = world.stats(id).chunks;
        assert!((900..=1150).contains(&chunks), "{id:?}: {chunks}");
    }
    assert!(world.requested_chunks < 4096 + 400, "{} asked for 4096", world.requested_chunks);
}

#[test]
fn small_files_come_from_everybody() {
    for (size, least) in [(4 * MIB, 40), (MIB, 8)] {
        let mut world = World::new(2, size);
        let sources: Vec<_> = (0..4).map(|_| world.add(good())).collect();
        complete(&mut world);
        for id in sources {
            assert!(world.stats(id).chunks >= least, "{size}: {id:?}: {:?}", world.stats(id));
        }
        let chunks = size / u64::from(CHUNK_SIZE);
        // Fewer than half of the chunks were ever asked from a second source, and fewer came twice.
        let duplicates: u64 = world.engine.all_stats().map(|(_, stats)| stats.duplicates).sum();
        assert!(duplicates <= chunks / 4, "{size}: {duplicates} duplicates");
    }
}

#[test]
fn a_slow_source_does_not_hold_up_the_end() {
    let mut world = World::new(3, 64 * MIB);
    let fast = world.add(good());
    let slow = world.add(Behaviour { rate: 640.0, ..good() });
    // Together 7,040 chunks a second; the slow one alone would need 0.1 s for a single piece.
    let took = complete(&mut world);
    assert!(took < 0.68, "{took}");
    let (fast, slow) = (world.stats(fast).chunks, world.stats(slow).chunks);
    assert!(slow > 250 && fast > 3400, "{fast} and {slow}");
}

#[test]
fn a_very_slow_source_is_stolen_from() {
    let mut world = World::new(4, 8 * MIB);
    world.add(Behaviour { rate: 5.0, ..good() });
    world.add(Behaviour { joins_at: seconds(0.01), ..good() });
    let took = complete(&mut world);
    assert!(took < 0.3, "{took}");
}

#[test]
fn one_dies_in_the_middle() {
    let mut world = World::new(5, 64 * MIB);
    let dead = world.add(Behaviour { dies_at: Some(seconds(0.1)), ..good() });
    let alive = world.add(good());
    let took = complete(&mut world);
    // What the dead one owed is taken over at the end, or asked again after half a second.
    assert!(took < 1.2, "{took}");
    assert!(world.stats(dead).chunks > 300 && world.stats(alive).retransmitted == 0);
}

#[test]
fn one_leaves_in_the_middle() {
    let mut world = World::new(6, 64 * MIB);
    let left = world.add(Behaviour { leaves_at: Some(seconds(0.1)), ..good() });
    world.add(good());
    let took = complete(&mut world);
    assert!(took < 0.64, "{took}");
    assert!(world.stats(left).retransmitted > 0);
}

#[test]
fn a_liar_is_named_and_only_its_chunks_are_fetched_again() {
    let mut world = World::new(7, 32 * MIB);
    let liar = world.add(Behaviour { lies: 0.05, ..good() });
    let honest: Vec<_> = (0..2).map(|_| world.add(good())).collect();
    complete(&mut world);
    assert!(matches!(world.dropped[..], [(id, DropReason::Lied(Lie::Chunk(_)))] if id == liar));
    assert!(world.stats(liar).bad > 0 && world.stats(liar).chunks > 0);
    assert!(honest.iter().all(|&id| world.stats(id).bad == 0));
}

#[test]
fn a_liar_alone_is_found_out() {
    for (refuses_hashes, lies_about_leaves) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)] {
        let mut world = World::new(8, 2 * MIB);
        // The layer comes from an honest one that leaves.
        world.add(Behaviour { rate: 0.001, leaves_at: Some(seconds(0.01)), ..good() });
        let joins_at = seconds(0.02);
        let liar = world.add(Behaviour { lies: 1.0, refuses_hashes, lies_about_leaves, joins_at, ..good() });
        world.run(MINUTE);
        assert!(
            matches!(world.dropped[..], [(id, DropReason::Lied(_))] if id == liar),
            "{:?}",
            world.dropped
        );
        assert!(world.engine.is_starved());
        assert_eq!(
            world.stats(liar).bad > 0,
            lies_about_leaves == 0.0,
            "proved wrong are its chunks, or its leaves"
        );
        world.add(Behaviour { joins_at: world.now.since_origin(), ..good() });
        complete(&mut world);
    }
}

#[test]
fn a_liar_that_comes_back_stays_out() {
    let mut world = World::new(9, 4 * MIB);
    let liar = world.add(Behaviour { lies_about_layer: 1.0, ..good() });
    world.run(seconds(1.0));
    assert_eq!(world.dropped, [(liar, DropReason::Lied(Lie::Layer))]);
    use ftx_proto::engine::fetch::{Input, Output};
    world.engine.handle(world.now, Input::SourceJoined { source: liar, whole: true });
    let outputs: Vec<_> = std::iter::from_fn(|| world.engine.poll()).collect();
    assert_eq!(outputs, [Output::Drop { source: liar, why: DropReason::Lied(Lie::Layer) }]);
}

#[test]
fn a_late_joiner_gets_work() {
    let mut world = World::new(10, 64 * MIB);
    world.add(good());
    let late = world.add(Behaviour { joins_at: seconds(0.32), ..good() });
    let took = complete(&mut world);
    // Half was done by then; the other half goes twice as fast.
    assert!(took < 0.50, "{took}");
    assert!((800..1200).contains(&world.stats(late).chunks), "{:?}", world.stats(late));
}

#[test]
fn complementary_halves_make_a_whole() {
    let mut world = World::new(11, 32 * MIB);
    let first = world.add(Behaviour { parts: Some(vec![(Duration::ZERO, 0..16)]), ..good() });
    let second = world.add(Behaviour { parts: Some(vec![(seconds(0.01), 16..32)]), ..good() });
    let took = complete(&mut world);
    assert!(took < 0.20, "{took}");
    assert_eq!((world.stats(first).chunks, world.stats(second).chunks), (1024, 1024));
}

#[test]
fn what_only_one_has_is_asked_from_that_one_first() {
    let mut world = World::new(12, 64 * MIB);
    let whole = world.add(good());
    for _ in 0..2 {
        world.add(Behaviour { parts: Some(vec![(Duration::ZERO, 0..48)]), ..good() });
    }
    let took = complete(&mut world);
    // 16 pieces are with one source only, so a third of 64 is not too much for it: it can start with them.
    assert!(took < 0.26, "{took}");
    assert!(world.stats(whole).chunks >= 16 * 64);
}

#[test]
fn a_part_that_grows_is_used_as_it_grows() {
    let mut world = World::new(13, 16 * MIB);
    let steps = (0..16).map(|n| (Duration::from_millis(100 * u64::from(n)), n..n + 1)).collect();
    world.add(Behaviour { parts: Some(steps), ..good() });
    let took = complete(&mut world);
    assert!((1.5..1.6).contains(&took), "{took}");
}

#[test]
fn one_chunk_from_two() {
    for size in [1, u64::from(CHUNK_SIZE)] {
        let mut world = World::new(14, size);
        world.add(good());
        world.add(good());
        let took = complete(&mut world);
        assert!(took < 0.01, "{took}");
        assert_eq!(world.requested_chunks, 1);
    }
}

#[test]
fn nothing_is_complete_at_once() {
    let mut world = World::new(15, 0);
    assert_eq!(complete(&mut world), 0.0);
    let mut resumed = World::resumed(16, 3 * MIB, &[0, 1, 2], FetchConfig::default());
    assert_eq!(complete(&mut resumed), 0.0);
}

#[test]
fn a_resumed_fetch_asks_for_the_rest_only() {
    let mut world = World::resumed(17, 8 * MIB - 5, &[0, 2, 3, 7], FetchConfig::default());
    world.add(good());
    complete(&mut world);
    assert_eq!(world.requested_chunks, 256);
}

#[test]
fn one_source_with_loss_gets_there() {
    let mut world = World::new(18, 8 * MIB);
    let source = world.add(Behaviour { loss: 0.2, ..good() });
    let took = complete(&mut world);
    assert!(took < 60.0, "{took}");
    assert!(world.stats(source).retransmitted > 0);
}

#[test]
fn a_slow_but_steady_source_is_not_timed_out() {
    // 200 KiB a second, in runs of 256 KiB: one every 1.3 s, and 2 MiB are asked for at first.
    let mut world = World::new(19, 8 * MIB);
    let source = world.add(Behaviour { rate: 12.5, ..good() });
    let took = complete(&mut world);
    // 41 s is what the rate allows.
    assert!(took < 43.0, "{took}");
    let stats = world.stats(source);
    assert!(stats.retransmitted <= 128, "only before anything was measured: {stats:?}");
    assert_eq!(stats.bad, 0);
}

#[test]
fn a_far_source_is_as_fast_as_a_near_one() {
    let mut world = World::new(20, 512 * MIB);
    world.add(Behaviour { latency: Duration::from_millis(200), ..good() });
    // 16 MiB every 400 ms is the most that the largest window allows: 13 s, with a start in 2 MiB.
    let took = complete(&mut world);
    assert!(took < 17.0, "{took}");
}

#[test]
fn a_busy_source_is_left_alone_until_it_said() {
    let mut world = World::new(21, 16 * MIB);
    world.add(Behaviour { busy: 0.5, ..good() });
    let took = complete(&mut world);
    assert!(took < 20.0, "{took}");
}

#[test]
fn a_source_whose_file_changed_is_dropped_without_blame() {
    let mut world = World::new(22, 32 * MIB);
    let changed = world.add(Behaviour { gone_at: Some((seconds(0.05), Refusal::Changed)), ..good() });
    world.add(good());
    complete(&mut world);
    assert_eq!(world.dropped, [(changed, DropReason::Gone(Refusal::Changed))]);
}

#[test]
fn a_silent_source_is_dropped_when_others_answer() {
    let mut world = World::new(23, 64 * MIB);
    let silent = world.add(Behaviour { dies_at: Some(Duration::ZERO), ..good() });
    world.add(Behaviour { rate: 100.0, ..good() });
    complete(&mut world);
    assert_eq!(world.dropped, [(silent, DropReason::Unresponsive)]);
}

#[test]
fn the_layer_is_asked_from_another_when_the_first_does_not_answer() {
    let mut world = World::new(24, 8 * MIB);
    world.add(Behaviour { dies_at: Some(Duration::ZERO), ..good() });
    world.add(good());
    let took = complete(&mut world);
    assert!(took < 4.0, "{took}");
}

#[test]
fn with_nobody_left_it_waits_and_goes_on_with_the_next() {
    let mut world = World::new(25, 64 * MIB);
    world.add(Behaviour { leaves_at: Some(seconds(0.2)), ..good() });
    world.add(Behaviour { joins_at: seconds(5.0), ..good() });
    world.run(seconds(4.0));
    assert!(world.engine.is_starved());
    let before = world.engine.progress();
    assert!(before.pieces > 10 && before.pieces < before.pieces_total);
    world.run(MINUTE);
    world.check_end();
    assert!(world.seconds() < 5.6);
}

#[test]
fn ten_gibibytes_are_planned_in_a_moment() {
    let mut world = World::new(26, 10 << 30);
    let sources: Vec<_> = (0..4).map(|_| world.add(Behaviour { rate: 16_000.0, ..good() })).collect();
    let took = complete(&mut world);
    let chunks = (10u64 << 30) / u64::from(CHUNK_SIZE);
    assert!(took < 1.05 * chunks as f64 / (4.0 * 16_000.0), "{took}");
    for id in sources {
        let share = world.stats(id).chunks as f64 / chunks as f64;
        assert!((0.23..0.27).contains(&share), "{share}");
    }
    assert!(world.requested_chunks < chunks + chunks / 100);
}

#[test]
fn the_largest_content_can_be_begun() {
    use ftx_proto::chunk_set::PieceSet;
    use ftx_proto::digest::Root;
    use ftx_proto::engine::fetch::{FetchEngine, Input, Output};
    use ftx_proto::geometry::Geometry;
    use ftx_proto::time::Time;

    let geometry = Geometry::new((1 << 24) * PIECE_SIZE).unwrap();
    let mut engine = FetchEngine::new(
        FetchConfig::default(),
        geometry.clone(),
        Root([1; 32]),
        PieceSet::empty(geometry),
        27,
    );
    let source = SourceId(1);
    engine.handle(Time::ZERO, Input::SourceJoined { source, whole: false });
    engine.handle(Time::ZERO, Input::SourceHas { source, pieces: vec![0..1000, 5..u32::MAX] });
    assert_eq!(engine.poll(), Some(Output::AskLayer { source }));
    assert_eq!(engine.progress().bytes_total, 1 << 44);
    assert!(!engine.is_starved());
}
