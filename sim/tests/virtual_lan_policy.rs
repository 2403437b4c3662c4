//! What the datagram lane makes of networks in virtual time: how much of a link it takes, what it does to queues, and
//! what it leaves to others. Virtual time is exact, so the bounds are just below what is reached.

use std::time::Duration;

use ftx_proto::time::Time;
use ftx_sim::virtual_lan::{
    Control, FetchSpec, LinkSpec, PullOutcome, PullRun, PullScenario, RivalSpec, SourceSpec,
};

fn at(seconds: f64) -> Time {
    Time::ZERO + Duration::from_secs_f64(seconds)
}

fn preset(name: &str) -> LinkSpec {
    LinkSpec::preset(name).expect("it exists")
}

fn ethernet() -> LinkSpec {
    preset("ethernet")
}

fn fetch(size: u64, links: Vec<LinkSpec>) -> FetchSpec {
    FetchSpec::new(size, links.into_iter().map(SourceSpec::new).collect())
}

/// A fetch of so many MiB by links to a switch and the last one: the share of the rate that it has, and how it went.
fn share(mib: u64, links: Vec<LinkSpec>, last: LinkSpec) -> (f64, PullOutcome) {
    share_of(PullScenario::one(1, fetch(mib << 20, links), last))
}

fn share_of(scenario: PullScenario) -> (f64, PullOutcome) {
    let rate = scenario.rate();
    let outcome = PullRun::new(scenario).run();
    assert!(outcome.done_at().is_some(), "it ends: {outcome:?}");
    (outcome.goodput() / rate, outcome)
}

/// Mean over the datagrams of the bytes before them in the queue of the last link.
fn queue_mean(outcome: &PullOutcome) -> f64 {
    outcome.last.waited as f64 / outcome.last.sent as f64
}

#[test]
fn losses_cost_little_more_than_what_is_lost() {
    for (loss, least) in [(0.0, 0.93), (0.01, 0.92), (0.05, 0.86), (0.2, 0.68)] {
        let (share, outcome) = share(64, vec![LinkSpec { loss, ..ethernet() }], ethernet());
        assert!(share >= least, "{share} at {loss}");
        assert_eq!(outcome.overflowed(), 0);
    }
}

#[test]
fn where_much_is_lost_no_seed_is_very_unlucky() {
    let mut sum = 0.0;
    for seed in 0..20 {
        let lossy = LinkSpec { loss: 0.2, ..ethernet() };
        let (share, _) = share_of(PullScenario::one(seed, fetch(48 << 20, vec![lossy]), ethernet()));
        assert!(share > 0.5, "{share} with seed {seed}");
        sum += share;
    }
    assert!(sum / 20.0 > 0.7, "{}", sum / 20.0);
}

#[test]
fn several_slower_links_fill_the_last_one() {
    for (loss, least) in [(0.0, 0.92), (0.05, 0.82)] {
        let links = vec![LinkSpec { loss, rate: 25e6, ..ethernet() }; 4];
        let (share, _) = share(32, links, ethernet());
        assert!(share >= least, "{share} at {loss}");
    }
}

#[test]
fn the_air_and_the_mains_are_used_as_well() {
    for (name, least) in [("wifi", 0.80), ("wifi-bad", 0.55), ("powerline", 0.80)] {
        let mut sum = 0.0;
        for seed in 0..5 {
            let scenario = PullScenario::one(seed, fetch(16 << 20, vec![preset(name)]), ethernet());
            sum += share_of(PullScenario { seed, ..scenario }).0;
        }
        assert!(sum / 5.0 >= least, "{name}: {}", sum / 5.0);
    }
}

/// A sender that always has so much in flight, over a last link that is ten times slower: the share of its datagrams
/// that the queue before that link does not hold.
fn overflow_of_fixed_window(bytes: u64) -> f64 {
    let cut = LinkSpec { cuts: vec![Time::ZERO..at(10.0)], ..ethernet() };
    let mut scenario = PullScenario::one(1, fetch(1, vec![cut]), ethernet());
    let link = LinkSpec { rate: 1250e6, ..ethernet() };
    scenario.rivals.push(RivalSpec { link, control: Control::Fixed(bytes), begins: Time::ZERO });
    let mut run = PullRun::new(scenario);
    run.run_to(at(0.5));
    let last = run.outcome().last;
    assert!(run.delivered(0) > 50 << 20, "it is at work");
    last.overflowed as f64 / last.sent as f64
}

#[test]
fn a_short_queue_does_not_run_over_as_with_a_fixed_window() {
    let naive = overflow_of_fixed_window(1 << 20);
    assert!(naive > 0.5, "most is lost: {naive}");
    assert_eq!(overflow_of_fixed_window(200 << 10), 0.0, "what the queue holds it holds");
    let (share, outcome) = share(64, vec![LinkSpec { rate: 1250e6, ..ethernet() }], ethernet());
    let ours = outcome.last.overflowed as f64 / outcome.last.sent as f64;
    assert!(ours <= 0.02 && ours * 10.0 < naive && share > 0.93, "{ours} against {naive}, share {share}");
}

#[test]
fn queues_shorter_than_any_window_lose_little() {
    for (queue, rate) in [(32, 50e6), (64, 50e6), (256, 50e6)] {
        let last = LinkSpec { rate, queue: queue << 10, ..ethernet() };
        let (share, outcome) = share(64, vec![ethernet()], last);
        let lost = outcome.last.overflowed as f64 / outcome.last.sent as f64;
        assert!(share > 0.93 && lost < 0.035, "{queue} KiB: share {share}, lost {lost}");
    }
}

#[test]
fn the_queue_before_the_narrow_link_is_not_kept_full() {
    for (sources, rate) in [(1, 1250e6), (8, 125e6), (32, 125e6)] {
        let (share, outcome) = share(64, vec![LinkSpec { rate, ..ethernet() }; sources], ethernet());
        let mean = queue_mean(&outcome);
        assert!(share > 0.93, "{sources} sources: {share}");
        assert!(mean < 0.8 * f64::from(256 << 10), "{sources} sources: {mean} bytes wait");
    }
}

#[test]
fn many_sources_do_not_flood_the_last_port() {
    for (sources, queue, least, most_lost) in [
        (8, 256, 0.93, 0.0),
        (32, 256, 0.93, 0.005),
        (8, 128, 0.92, 0.02),
        (8, 64, 0.90, 0.03),
        (8, 32, 0.87, 0.05),
    ] {
        let last = LinkSpec { queue: queue << 10, ..ethernet() };
        let (share, outcome) = share(64, vec![ethernet(); sources], last);
        let lost = outcome.last.overflowed as f64 / outcome.last.sent as f64;
        assert!(share >= least && lost <= most_lost, "{sources} and {queue} KiB: share {share}, lost {lost}");
        let in_flight = outcome.fetches[0].in_flight_max;
        assert!(in_flight < 512 << 10, "{in_flight} in flight in all");
    }
}

/// The first one's part of what two have got between two moments, where neither ends in between; together that is at least so many
/// bytes a second.
fn part_of_first(scenario: PullScenario, from: f64, to: f64, least: f64) -> f64 {
    let two_fetches = scenario.fetches.len() == 2;
    let mut run = PullRun::new(scenario);
    let mut got = |until| {
        run.run_to(at(until));
        [run.fetched(0), if two_fetches { run.fetched(1) } else { run.delivered(0) }]
            .map(|bytes| bytes as f64)
    };
    let (before, after) = (got(from), got(to));
    let [first, other] = [after[0] - before[0], after[1] - before[1]];
    assert!(first + other > least * (to - from), "together they use the link: {first} and {other}");
    first / (first + other)
}

#[test]
fn two_fetches_share_a_link() {
    for begins in [0.0, 0.5] {
        for sources in [1, 4] {
            let one = fetch(1 << 30, vec![ethernet(); sources]);
            let other = FetchSpec { begins: at(begins), ..fetch(1 << 30, vec![ethernet()]) };
            let mut scenario = PullScenario::one(1, one, ethernet());
            scenario.fetches.push(other);
            let part = part_of_first(scenario, 1.0, 3.0, 0.85 * 125e6);
            assert!((0.4..=0.6).contains(&part), "{sources} sources, {begins} s later: {part}");
        }
    }
}

#[test]
fn two_fetches_share_the_air_and_the_mains() {
    for name in ["wifi", "powerline"] {
        let mut sum = 0.0;
        for seed in 0..10 {
            let fetch = fetch(1 << 30, vec![ethernet()]);
            let mut scenario = PullScenario::one(seed, fetch.clone(), preset(name));
            scenario.fetches.push(FetchSpec { begins: at(0.5), ..fetch });
            let part = part_of_first(scenario, 1.0, 5.0, 1e6);
            sum += part;
        }
        assert!((0.4..=0.6).contains(&(sum / 10.0)), "{name}: {}", sum / 10.0);
    }
}

#[test]
fn tcp_and_a_fetch_leave_each_other_room() {
    for begins in [0.0, 0.5] {
        for sources in [1, 4] {
            let mut scenario = PullScenario::one(1, fetch(1 << 30, vec![ethernet(); sources]), ethernet());
            let link = LinkSpec { queue: 4 << 20, ..ethernet() };
            scenario.rivals.push(RivalSpec { link, control: Control::Cubic, begins: at(begins) });
            let part = part_of_first(scenario, 1.0, 4.0, 0.85 * 125e6);
            assert!((0.3..=0.7).contains(&part), "{sources} sources, {begins} s later: {part}");
        }
    }
}

#[test]
fn tcp_alone_fills_the_link() {
    // Or it would be no competitor.
    let cut = LinkSpec { cuts: vec![Time::ZERO..at(10.0)], ..ethernet() };
    let mut scenario = PullScenario::one(1, fetch(1, vec![cut]), ethernet());
    let link = LinkSpec { rate: 1250e6, queue: 4 << 20, ..ethernet() };
    scenario.rivals.push(RivalSpec { link, control: Control::Cubic, begins: Time::ZERO });
    let mut run = PullRun::new(scenario);
    run.run_to(at(2.0));
    assert!(run.delivered(0) as f64 > 0.9 * 250e6, "{}", run.delivered(0));
    assert!(run.outcome().last.overflowed > 0, "by filling its queue");
}

#[test]
fn a_source_that_goes_silent_is_given_up_and_the_others_finish() {
    let silent = LinkSpec { cuts: vec![at(0.1)..at(1e6)], ..ethernet() };
    let (_, outcome) = share(64, vec![silent, ethernet()], ethernet());
    let [gone, other] = outcome.fetches[0].sources[..] else { panic!("there are two") };
    assert!(gone.silences >= 1 && other.silences == 0);
    assert!(gone.bytes > 1 << 20 && gone.bytes + other.bytes == 64 << 20);
    let seconds = outcome.done_at().expect("it ended").since_origin().as_secs_f64();
    assert!(seconds < 10.0, "{seconds} s until that was clear");
}

#[test]
fn a_path_that_shrinks_goes_on_with_smaller_datagrams() {
    let mut fetch = fetch(64 << 20, vec![ethernet()]);
    fetch.sources[0].shrinks = Some((at(0.2), 1252));
    let (share, outcome) = share_of(PullScenario::one(1, fetch, ethernet()));
    let source = outcome.fetches[0].sources[0];
    assert!(share > 0.6 && source.silences == 0 && source.fragments == 15, "{share}: {source:?}");
    let (_, before) = share_of(PullScenario::one(
        1,
        FetchSpec::new(1 << 20, vec![SourceSpec::new(ethernet())]),
        ethernet(),
    ));
    assert_eq!(before.fetches[0].sources[0].fragments, 12, "what Ethernet carries is found");
}
