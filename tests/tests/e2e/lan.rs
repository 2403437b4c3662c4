//! Hosts on a local network: real interfaces, real broadcast, cables that are pulled.
//!
//! Skipped, loudly, where the system does not let a test make network namespaces.

use std::time::{Duration, Instant};

use ftx_tests::data::MIB;
use ftx_tests::share::put;
use ftx_tests::{Content, Lan, Machine, Share, binary};

/// A node on `host` that shares `content` as `name`.
fn share(host: &Machine, name: &str, content: &Content, flags: &[&str]) -> Share {
    let folder = host.folder();
    put(&folder, name, &content.bytes);
    host.share_with(&folder, flags)
}

#[test]
fn two_hosts_give_to_a_third() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1301, 12 * MIB);
    let shares = [1, 2].map(|host| share(lan.host(host), "image.iso", &content, &["--max-upload", "4M"]));
    let target = lan.host(3).folder().join("image.iso");

    let fetched = lan.host(3).get("image.iso", &target).run();

    content.expect_in(&target);
    for (share, address) in shares.iter().zip(["10.77.0.1:", "10.77.0.2:"]) {
        assert!(fetched.of_source(share.node(), "bytes") > MIB as u64, "{}", fetched.said());
        let source = fetched.sources().iter().find(|source| source["node"] == share.node());
        let addr = source.and_then(|source| source["addr"].as_str()).unwrap_or_default();
        // Every interface has a link-local address too, and whichever answers first is taken.
        assert!(addr.starts_with(address) || addr.starts_with("[fe80:"), "{addr}\n{}", fetched.said());
    }
}

#[test]
fn a_host_on_two_networks_fetches_from_both() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1302, 12 * MIB);
    let shares = [1, 5].map(|host| share(lan.host(host), "image.iso", &content, &["--max-upload", "4M"]));
    let target = lan.host(4).folder().join("image.iso");

    let fetched = lan.host(4).get("image.iso", &target).run();

    content.expect_in(&target);
    for share in &shares {
        assert!(fetched.of_source(share.node(), "bytes") > MIB as u64, "{}", fetched.said());
    }
}

#[test]
fn a_host_on_two_networks_gives_to_both() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1303, 2 * MIB);
    let _share = share(lan.host(4), "image.iso", &content, &[]);
    for host in [2, 5] {
        let target = lan.host(host).folder().join("image.iso");
        lan.host(host).get("image.iso", &target).run().done();
        content.expect_in(&target);
    }
}

#[test]
fn what_is_on_another_network_is_not_found() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let _share = share(lan.host(1), "image.iso", &Content::new(1304, MIB), &[]);
    let target = lan.host(5).folder().join("image.iso");

    lan.host(5).get("image.iso", &target).args(["--timeout", "3"]).run().expect_error(5, "no_node");
}

#[test]
fn bound_to_one_network_a_node_is_unknown_in_the_other() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1305, MIB);
    let _share = share(lan.host(4), "image.iso", &content, &["--bind", "10.77.0.4"]);
    let (inside, outside) = (lan.host(1), lan.host(5));
    let target = inside.folder().join("image.iso");

    inside.get("image.iso", &target).run().done();
    content.expect_in(&target);
    outside
        .get("image.iso", &outside.folder().join("image.iso"))
        .args(["--timeout", "3"])
        .run()
        .expect_error(5, "no_node");
}

#[test]
fn a_pulled_cable_is_survived() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1306, 12 * MIB);
    let _shares = [1, 2].map(|host| share(lan.host(host), "image.iso", &content, &["--max-upload", "2M"]));
    let target = lan.host(3).folder().join("image.iso");

    let mut fetch = lan.host(3).get("image.iso", &target).start();
    fetch.wait_for_bytes(4 * MIB as u64);
    lan.connect(1, false);

    fetch.finish().done();
    content.expect_in(&target);
}

#[test]
fn the_fetching_host_loses_its_own_cable_for_a_while() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1307, 8 * MIB);
    let _share = share(lan.host(1), "image.iso", &content, &["--max-upload", "2M"]);
    let target = lan.host(3).folder().join("image.iso");

    let mut fetch = lan.host(3).get("image.iso", &target).args(["--timeout", "40"]).start();
    let before = fetch.wait_for_bytes(2 * MIB as u64);
    lan.connect(3, false);
    // Some time without anything: what the progress says twice is that nothing comes.
    let mut last = before;
    fetch.wait_for("nothing came any more", |event| {
        let now = event["bytes"].as_u64().unwrap_or(last);
        event["event"] == "progress" && std::mem::replace(&mut last, now) == now
    });
    lan.connect(3, true);

    fetch.finish().done();
    content.expect_in(&target);
}

#[test]
fn an_idle_node_is_quiet() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let _others = [1, 2].map(|host| share(lan.host(host), "image.iso", &Content::new(1308, 1000), &[]));

    // This waits since it measures: whatever a node sends within the time counts.
    let (began, before) = (Instant::now(), lan.sent_bytes(1));
    std::thread::sleep(Duration::from_secs(15));
    let sent = lan.sent_bytes(1) - before;

    let per_second = sent as f64 / began.elapsed().as_secs_f64();
    assert!(per_second < 1024.0, "an idle node sends {per_second:.0} bytes a second");
}
