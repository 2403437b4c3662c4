//! Chunks in datagrams: `get --lane`, on loopback and on networks that lose packets.

use std::path::Path;

use ftx_sim::lan::{Cable, Loss, Shape};
use ftx_tests::data::MIB;
use ftx_tests::share::{copies, put};
use ftx_tests::{Content, Finished, Lan, Share, binary, net};
use serde_json::Value;

const NAME: &str = "image.iso";

fn share(lan: &Lan, number: usize, content: &Content, flags: &[&str]) -> Share {
    let folder = lan.host(number).folder();
    put(&folder, NAME, &content.bytes);
    lan.host(number).share_with(&folder, flags)
}

/// Hosts on links that lose this share of everything that arrives, and have a rate.
fn lossy(count: usize, percent: u32, rate: &str) -> Option<Lan> {
    let shape = Shape { rate: Some(rate.parse().unwrap()), loss: Loss::percent(percent), ..Shape::NONE };
    Lan::red(binary!(), count, Cable { shape, ..Cable::PLAIN })
}

fn lanes(fetched: &Finished) -> Vec<&str> {
    fetched.sources().iter().filter_map(|source| source["lane"].as_str()).collect()
}

fn reasons(fetched: &Finished) -> Vec<&Value> {
    fetched.sources().iter().map(|source| &source["lane_reason"]).collect()
}

#[test]
fn every_size_comes_in_datagrams() {
    let net = net!();
    for (seed, size) in [1, 16_383, 16_384, 16_385, MIB - 1, MIB + 1, 20 * MIB + 5].into_iter().enumerate() {
        let content = Content::new(1500 + seed as u64, size);
        let name = format!("{size}.bin");
        let _share = net.share(&copies(&net, 1, &name, &content.bytes)[0]);
        let target = net.folder().join(&name);

        let fetched = net.get(&name, &target).args(["--lane", "datagram"]).run();

        fetched.done();
        content.expect_in(&target);
        assert_eq!(lanes(&fetched), ["datagram"], "{size}: {:?}", reasons(&fetched));
    }
}

#[test]
fn a_partial_node_gives_in_datagrams_what_it_has() {
    let net = net!();
    let content = Content::new(1509, 16 * MIB);
    let folder = copies(&net, 1, NAME, &content.bytes).remove(0);
    let origin = net.share_with(&folder, &["--max-upload", "3M"]);
    let (state, origin_node) = (origin.state(), origin.node().to_owned());
    let targets = [net.folder().join(NAME), net.folder().join(NAME)];

    // The first has a part, and its only source is gone: so the second has that part from the first alone.
    let mut first = net.get(NAME, &targets[0]).args(["--timeout", "50"]).start();
    first.wait_for_bytes(8 * MIB as u64);
    origin.kill9();
    let mut second = net.get(NAME, &targets[1]).args(["--timeout", "50", "--lane", "datagram"]).start();
    second.wait_for_bytes(4 * MIB as u64);

    // What the first has not comes from the origin once that is back.
    let _origin = net.share_again(&folder, &state);
    let (first, second) = (first.finish(), second.finish());
    first.done();
    content.expect_in(&targets[0]);
    content.expect_in(&targets[1]);
    let of_first: Vec<_> =
        second.sources().iter().filter(|source| source["node"] != origin_node.as_str()).collect();
    let bytes: u64 = of_first.iter().filter_map(|source| source["bytes"].as_u64()).sum();
    assert!(bytes >= 4 * MIB as u64, "{bytes}\n{}", second.said());
    // With its session the way of its datagrams ends as well: the first may be done before the second is.
    let by_datagrams =
        |source: &&Value| source["lane"] == "datagram" || source["lane_reason"] == "its session ended";
    assert!(of_first.iter().all(by_datagrams), "{}", second.said());
    assert!(second.of_source(&origin_node, "bytes") > 0, "{}", second.said());
}

#[test]
fn without_losses_the_stream_is_used() {
    let net = net!();
    let content = Content::new(1510, 8 * MIB);
    let _share = net.share(&copies(&net, 1, NAME, &content.bytes)[0]);
    for lane in ["auto", "stream"] {
        let fetched = net.get(NAME, &net.folder().join(NAME)).args(["--lane", lane]).run();
        fetched.done();
        assert_eq!(lanes(&fetched), ["stream"], "{lane}");
    }
}

#[test]
fn an_unknown_lane_is_a_usage_error() {
    let net = net!();
    let finished = net.get(NAME, &net.folder().join(NAME)).args(["--lane", "pigeon"]).run();
    finished.expect_status(2);
}

#[test]
fn a_lossy_network_is_noticed_and_datagrams_are_taken() {
    let Some(lan) = lossy(2, 5, "1gbit") else { return };
    // Most machines use it. Others, as bbr, take losses for what they are, and the stream does well.
    lan.network().congestion_control(1, "red", "cubic").unwrap();
    let content = Content::new(1511, 48 * MIB);
    let _share = share(&lan, 1, &content, &[]);
    let target = lan.host(2).folder().join(NAME);

    let fetched = lan.host(2).get(NAME, &target).run();

    fetched.done();
    content.expect_in(&target);
    assert_eq!(lanes(&fetched), ["datagram"], "{:?}", reasons(&fetched));
    assert!(reasons(&fetched)[0].as_str().unwrap().contains("MB/s"), "{:?}", reasons(&fetched));
}

#[test]
fn several_sources_give_datagrams_at_once_and_one_may_be_killed() {
    let Some(lan) = lossy(4, 10, "200mbit") else { return };
    let content = Content::new(1512, 48 * MIB);
    let mut shares: Vec<Share> = (1..=3).map(|number| share(&lan, number, &content, &[])).collect();
    let target = lan.host(4).folder().join(NAME);

    let mut fetch = lan.host(4).get(NAME, &target).args(["--lane", "datagram"]).start();
    fetch.wait_for_bytes(8 * MIB as u64);
    shares.remove(0).kill9();
    let fetched = fetch.finish();

    fetched.done();
    content.expect_in(&target);
    for share in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > 0, "everybody gives something");
    }
}

#[test]
fn a_fetch_in_datagrams_goes_on_after_a_kill() {
    let net = net!();
    let content = Content::new(1513, 24 * MIB);
    let _share = net.share_with(&copies(&net, 1, NAME, &content.bytes)[0], &["--max-upload", "8M"]);
    let target = net.folder().join(NAME);

    let mut fetch = net.get(NAME, &target).args(["--lane", "datagram"]).start();
    let there = fetch.wait_for_bytes(6 * MIB as u64);
    fetch.kill9();
    assert!(!Path::new(&target).exists());
    let fetched = net.get(NAME, &target).args(["--lane", "datagram"]).run();

    content.expect_in(&target);
    assert!(
        fetched.bytes_of_sources() <= content.bytes.len() as u64 - there,
        "what was verified is not fetched again"
    );
}

#[test]
fn where_datagrams_stop_passing_the_stream_takes_over() {
    let Some(lan) = Lan::red(binary!(), 2, Cable::PLAIN) else { return };
    let content = Content::new(1514, 24 * MIB);
    let _share = share(&lan, 1, &content, &["--max-upload", "6M"]);
    let target = lan.host(2).folder().join(NAME);

    let mut fetch = lan.host(2).get(NAME, &target).args(["--lane", "datagram"]).start();
    fetch.wait_for_bytes(2 * MIB as u64);
    lan.network().lose_datagrams(2, Loss::percent(100)).unwrap();
    let fetched = fetch.finish();

    fetched.done();
    content.expect_in(&target);
    assert_eq!(lanes(&fetched), ["stream"]);
    assert!(reasons(&fetched)[0].as_str().unwrap().contains("datagrams"), "{:?}", reasons(&fetched));
}

#[test]
fn a_path_that_becomes_narrower_goes_on() {
    let Some(lan) = Lan::red(binary!(), 2, Cable::PLAIN) else { return };
    let content = Content::new(1516, 24 * MIB);
    let _share = share(&lan, 1, &content, &["--max-upload", "6M"]);
    let target = lan.host(2).folder().join(NAME);

    let mut fetch = lan.host(2).get(NAME, &target).args(["--lane", "datagram"]).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    // Smaller than the datagrams that were found to pass; the smallest ones still do.
    for host in 1..=2 {
        lan.network().ip(host, "link set red mtu 1300").unwrap();
    }
    let fetched = fetch.finish();

    fetched.done();
    content.expect_in(&target);
    assert_eq!(lanes(&fetched), ["datagram"], "{:?}", reasons(&fetched));
}
