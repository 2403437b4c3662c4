//! Who finds whom on a local network: losses, networks without broadcast, interfaces that come and change, two machines
//! with one identity.
//!
//! Skipped, loudly, where the system does not let a test make network namespaces. How fast many are found at which loss
//! is tested in virtual time, with the engine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use ftx_sim::lan::{Cable, Loss};
use ftx_tests::data::MIB;
use ftx_tests::lan::{BLUE, RED};
use ftx_tests::process::DEADLINE;
use ftx_tests::share::put;
use ftx_tests::{Content, Finished, Lan, Machine, Share, binary};
use serde_json::Value;

const NAME: &str = "image.iso";

const ONLY_IPV4: Cable = Cable { ipv6: false, ..Cable::PLAIN };

fn share(host: &Machine, content: &Content, flags: &[&str]) -> Share {
    let folder = host.folder();
    put(&folder, NAME, &content.bytes);
    host.share_with(&folder, flags)
}

/// Looks around until what is seen is `wanted`; what was seen then.
fn look_until(host: &Machine, what: &str, wanted: impl Fn(&Finished) -> bool) -> Finished {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = host.node(["peers", "--json"]).run();
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}\n{}", seen.said());
    }
}

fn peers(seen: &Finished) -> impl Iterator<Item = &Value> {
    seen.events.iter().filter(|event| event["event"] == "peer")
}

fn addr_of<'a>(seen: &'a Finished, node: &str) -> Option<&'a str> {
    peers(seen).find(|peer| peer["node"] == node).and_then(|peer| peer["addr"].as_str())
}

#[test]
fn ten_holders_are_found_where_three_of_ten_datagrams_get_lost() {
    let Some(lan) = Lan::red(binary!(), 11, Cable::PLAIN) else { return };
    let content = Content::new(1401, MIB);
    for number in 1..=11 {
        lan.network().lose_datagrams(number, Loss::percent(30)).unwrap();
    }
    let shares: Vec<Share> = (1..=10).map(|number| share(lan.host(number), &content, &[])).collect();
    let holders: BTreeSet<&str> = shares.iter().map(Share::node).collect();

    // One look takes little more than half a second and may miss somebody; three do not.
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let looked = lan.host(11).node(["peers", "--json"]).run();
        seen.extend(peers(&looked).filter_map(|peer| peer["node"].as_str().map(str::to_owned)));
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<BTreeSet<_>>(), holders);

    let target = lan.host(11).folder().join(NAME);
    lan.host(11).get(NAME, &target).run().done();
    content.expect_in(&target);
}

#[test]
fn a_host_on_two_networks_sees_who_is_on_either() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1402, 1000);
    let shares = [1, 5].map(|number| share(lan.host(number), &content, &[]));

    let seen = look_until(lan.host(4), "both are seen", |seen| peers(seen).count() == 2);

    for share in &shares {
        assert!(addr_of(&seen, share.node()).is_some(), "{}", seen.said());
    }
}

#[test]
fn where_broadcasts_do_not_pass_a_node_is_asked_by_its_address() {
    let Some(lan) = Lan::red(binary!(), 2, Cable::PLAIN) else { return };
    for number in [1, 2] {
        lan.network().drop_broadcasts(number).unwrap();
    }
    let content = Content::new(1403, MIB);
    let _share = share(lan.host(1), &content, &[]);
    let asker = lan.host(2);
    let target = asker.folder().join(NAME);

    asker.get(NAME, &target).args(["--timeout", "2"]).run().expect_error(5, "no_node");
    asker.get(NAME, &target).args(["--peer", "10.77.0.1"]).run().done();

    content.expect_in(&target);
}

#[test]
fn without_ipv4_all_goes_by_ipv6() {
    let Some(lan) = Lan::red(binary!(), 2, Cable { ipv4: false, ..Cable::PLAIN }) else { return };
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return;
    }
    let content = Content::new(1404, MIB);
    let share = share(lan.host(1), &content, &[]);
    let target = lan.host(2).folder().join(NAME);

    let fetched = lan.host(2).get(NAME, &target).args(["--timeout", "20"]).run();

    content.expect_in(&target);
    let source = fetched.sources().iter().find(|source| source["node"] == share.node());
    let addr = source.and_then(|source| source["addr"].as_str()).unwrap_or_default();
    assert!(addr.starts_with("[fe80:"), "{}", fetched.said());
}

#[test]
fn an_interface_that_comes_up_later_is_used() {
    let Some(lan) = Lan::red(binary!(), 1, ONLY_IPV4) else { return };
    let mut lan = lan;
    let late = lan.add_host(binary!());
    let content = Content::new(1405, MIB);
    let share = share(lan.host(late), &content, &[]);
    let target = lan.host(1).folder().join(NAME);

    // There is nobody yet, and somebody is looking already.
    let fetch = lan.host(1).get(NAME, &target).args(["--timeout", "40"]).start();
    lan.network().plug(late, RED.name, &ONLY_IPV4).unwrap();

    let fetched = fetch.finish();
    assert_eq!(fetched.of_source(share.node(), "bytes"), MIB as u64, "{}", fetched.said());
    content.expect_in(&target);
}

#[test]
fn a_second_network_is_used_when_it_is_there() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let share = share(lan.host(1), &Content::new(1406, 1000), &[]);
    look_until(lan.host(2), "it is seen in the first", |seen| addr_of(seen, share.node()).is_some());

    lan.network().plug(1, BLUE.name, &ONLY_IPV4).unwrap();

    let seen =
        look_until(lan.host(5), "it is seen in the second", |seen| addr_of(seen, share.node()).is_some());
    assert!(addr_of(&seen, share.node()).unwrap().starts_with("10.78.0.1:"), "{}", seen.said());
}

#[test]
fn a_node_is_found_at_its_new_address() {
    let Some(lan) = Lan::red(binary!(), 2, ONLY_IPV4) else { return };
    let content = Content::new(1407, MIB);
    let share = share(lan.host(1), &content, &[]);
    let seen = look_until(lan.host(2), "it is seen", |seen| addr_of(seen, share.node()).is_some());
    assert!(addr_of(&seen, share.node()).unwrap().starts_with("10.77.0.1:"), "{}", seen.said());

    lan.network().change_addr(1, RED.name, Ipv4Addr::new(10, 77, 0, 99)).unwrap();

    look_until(lan.host(2), "it is seen at its new address", |seen| {
        addr_of(seen, share.node()).is_some_and(|addr| addr.starts_with("10.77.0.99:"))
    });
    let target = lan.host(2).folder().join(NAME);
    lan.host(2).get(NAME, &target).run().done();
    content.expect_in(&target);
}

#[test]
fn two_machines_with_one_identity_are_named() {
    let Some(lan) = Lan::red(binary!(), 4, ONLY_IPV4) else { return };
    let content = Content::new(1408, 1000);
    let watching = share(lan.host(3), &content, &[]);
    let first = share(lan.host(1), &content, &[]);
    let (copied, folder) = (lan.host(2).folder(), lan.host(2).folder());
    for entry in std::fs::read_dir(first.state()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copied.join(entry.file_name())).unwrap();
        }
    }
    put(&folder, NAME, &content.bytes);
    let second = lan.host(2).share_again(&folder, &copied);
    assert_eq!(first.node(), second.node());

    let seen = look_until(lan.host(4), "both are seen", |seen| peers(seen).count() == 3);

    let of_two = |peer: &Value| {
        let elsewhere = peer["same_identity_at"][0].as_str().unwrap_or_default().to_owned();
        (peer["addr"].as_str().unwrap_or_default().to_owned(), elsewhere)
    };
    let places: BTreeSet<_> = peers(&seen).filter(|peer| peer["node"] == first.node()).map(of_two).collect();
    let (one, other) = (format!("10.77.0.1:{}", first.port()), format!("10.77.0.2:{}", second.port()));
    assert_eq!(places, BTreeSet::from([(one.clone(), other.clone()), (other, one)]), "{}", seen.said());
    assert!(seen.stderr.contains("10.77.0.1") && seen.stderr.contains("10.77.0.2"), "{}", seen.stderr);
    assert!(
        peers(&seen)
            .all(|peer| peer["node"] == first.node() || peer["same_identity_at"] == serde_json::json!([]))
    );

    // The nodes notice by themselves: with the last hello of the second, or, if those of the first were over before that
    // came, with its next one a minute later.
    for share in [&watching, &first] {
        let deadline = Instant::now() + 3 * DEADLINE;
        while !share.process().stderr().contains("two machines use one identity") {
            assert!(Instant::now() < deadline, "it was not noticed\n{}", share.process().stderr());
            lan.host(4).node(["peers", "--json"]).run();
        }
        let said = share.process().stderr();
        assert!(said.contains("10.77.0.1") && said.contains("10.77.0.2"), "{said}");
    }
}

#[test]
fn a_fetch_beside_a_node_with_the_same_identity_is_nothing_special() {
    let Some(lan) = Lan::new(binary!()) else { return };
    let content = Content::new(1409, 8 * MIB);
    let _source = share(lan.host(1), &content, &["--max-upload", "2M"]);
    // On two networks, so that it has several addresses.
    let node = share(lan.host(4), &Content::new(1410, 1000), &[]);
    let target = lan.host(4).folder().join("other");
    let root = content.root();
    let mut fetch = lan.host(4).get(&root, &target).with_state(&node.state()).start();
    fetch.wait_for_bytes(MIB as u64);

    let seen = lan.host(2).node(["peers", "--json"]).run();

    assert!(peers(&seen).all(|peer| peer["same_identity_at"] == serde_json::json!([])), "{}", seen.said());
    fetch.finish().done();
    let said = node.process().stderr();
    assert!(!said.contains("two machines"), "{said}");
}
