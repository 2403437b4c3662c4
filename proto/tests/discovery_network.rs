//! The discovery engine in virtual time: many nodes on a network that loses datagrams, replayed from a seed.

mod network;

use std::collections::BTreeSet;
use std::time::Duration;

use ftx_proto::engine::discovery::{DiscoveryConfig, Input, QueryHandle};
use ftx_proto::limits::DATAGRAM_SIZE_MAX;
use ftx_proto::wire::discovery::{OfferedRoot, Want};
use network::{Network, entry, name};

const QUERY: QueryHandle = QueryHandle(7);

fn find(network: &mut Network, asker: usize, want: Want) {
    network.input(asker, Input::Find { query: QUERY, want, peers: Vec::new() });
}

#[test]
fn ten_holders_are_found_within_two_seconds_at_thirty_percent_loss() {
    let mut complete = 0;
    for seed in 0..100 {
        let mut network = Network::new(seed, 11);
        network.loss_percent = 30;
        for holder in 1..=10 {
            network.share(holder, entry("ubuntu.iso", 3));
        }
        find(&mut network, 0, Want::Name(name("ubuntu.iso")));
        network.run(Duration::from_secs(2));
        complete += usize::from(network.found_nodes(0, QUERY).len() == 10);
    }
    assert!(complete >= 95, "only {complete} of 100 seeds");
}

#[test]
fn without_loss_everybody_is_found_in_a_tenth_of_a_second() {
    for seed in 0..20 {
        let mut network = Network::new(seed, 101);
        for holder in 1..=100 {
            network.share(holder, entry("a", 1));
        }
        find(&mut network, 0, Want::Name(name("a")));
        network.run(Duration::from_millis(100));
        assert_eq!(network.found_nodes(0, QUERY).len(), 100, "seed {seed}");
    }
}

#[test]
fn a_hundred_answers_come_one_after_the_other() {
    for seed in 0..20 {
        let mut network = Network::new(seed, 101);
        for node in 0..=100 {
            network.input(node, Input::Announce);
        }
        // They know of each other, as they do when they are asked a minute after they were switched on.
        network.run(Duration::from_secs(5));
        for holder in 1..=100 {
            network.share(holder, entry("a", 1));
        }
        let before = network.heard(0).len();
        find(&mut network, 0, Want::Name(name("a")));
        network.run(Duration::from_millis(400));
        assert_eq!(network.found_nodes(0, QUERY).len(), 100, "seed {seed}");
        // Two copies from each for each of the two askings; what is sent to a hundred at once, comes back over time.
        let heard = &network.heard(0)[before..];
        assert!(heard.len() <= 100 * 4 + 10, "seed {seed}: {} datagrams", heard.len());
        let window = Duration::from_millis(5);
        let most = heard.iter().enumerate().map(|(at, (begin, _))| {
            heard[at..].iter().take_while(|(time, _)| *time < *begin + window).count()
        });
        let most = most.max().unwrap();
        assert!(most <= 50, "seed {seed}: {most} datagrams within 5 ms");
    }
}

#[test]
fn an_identity_on_two_machines_is_told_once() {
    let mut network = Network::new(12, 2);
    for node in 0..2 {
        network.input(node, Input::Announce);
    }
    network.run(Duration::from_secs(70));
    let copy = network.join_as(DiscoveryConfig::default(), 1);
    network.input(copy, Input::Announce);
    network.run(Duration::from_secs(300));
    let told = network.two_places(0);
    assert!(!told.is_empty() && told.len() <= 2, "{told:?}");
    let mut places = [told[0].one.ip(), told[0].other.ip()];
    places.sort();
    assert_eq!(places, [network.addr(1).ip(), network.addr(copy).ip()]);
    // The two know it as well: each has heard itself, and somebody else with its identity.
    for node in [1, copy] {
        assert!(!network.two_places(node).is_empty(), "node {node}");
    }
}

#[test]
fn a_node_that_moves_is_not_at_two_places() {
    let mut network = Network::new(13, 2);
    for node in 0..2 {
        network.input(node, Input::Announce);
    }
    network.run(Duration::from_secs(70));
    // The same process at another address.
    network.moves(1, [10, 77, 9, 9]);
    network.input(1, Input::LinkUp);
    network.run(Duration::from_secs(70));
    // A new process at a third one, after the first was killed and could not say good-bye.
    network.leave(1);
    let again = network.join_as(DiscoveryConfig::default(), 1);
    network.input(again, Input::Announce);
    network.run(Duration::from_secs(300));
    assert_eq!(network.two_places(0), []);
    assert_eq!(network.peers(0), BTreeSet::from([again]));
}

#[test]
fn a_fetch_beside_a_node_is_not_at_two_places() {
    let mut network = Network::new(14, 2);
    let beside = network.join_as(DiscoveryConfig::default(), 1);
    network.moves(1, [10, 77, 9, 9]);
    network.moves(beside, [10, 77, 9, 9]);
    for node in [0, 1, beside] {
        network.input(node, Input::Announce);
    }
    network.run(Duration::from_secs(200));
    assert_eq!(network.peers(0), BTreeSet::from([1, beside]));
    assert!((0..3).all(|node| network.two_places(node).is_empty()));
}

#[test]
fn a_node_that_has_nothing_of_it_says_so() {
    let mut network = Network::new(1, 3);
    find(&mut network, 0, Want::Name(name("nowhere")));
    network.run(Duration::from_secs(1));
    assert_eq!(network.found_nodes(0, QUERY), BTreeSet::from([1, 2]));
    assert!(network.found(0, QUERY).all(|found| found.offer.entries.is_empty() && !found.offer.more));
}

#[test]
fn the_same_offer_is_reported_once_and_again_when_it_changes() {
    let mut network = Network::new(2, 2);
    let mut hashing = entry("big", 9);
    hashing.root = OfferedRoot::Hashing(1000);
    network.share(1, hashing.clone());
    find(&mut network, 0, Want::Name(name("big")));
    network.run(Duration::from_secs(30));
    assert_eq!(network.found(0, QUERY).count(), 1);

    hashing.root = OfferedRoot::Hashing(2000);
    network.replace(1, hashing);
    network.run(Duration::from_secs(6));
    let progress: Vec<_> = network.found(0, QUERY).map(|found| found.offer.entries[0].root).collect();
    assert_eq!(progress, [OfferedRoot::Hashing(1000), OfferedRoot::Hashing(2000)]);
}

#[test]
fn an_offer_that_did_not_reach_the_seeker_is_reported_again() {
    let mut network = Network::new(3, 2);
    find(&mut network, 0, Want::All);
    network.run(Duration::from_secs(1));
    let found = network.found(0, QUERY).next().expect("one node is there").clone();
    network
        .input(0, Input::Undelivered { query: QUERY, instance: found.offer.from.instance, addr: found.addr });
    network.run(Duration::from_secs(6));
    assert_eq!(network.found(0, QUERY).count(), 2);
}

#[test]
fn a_late_joiner_is_found_when_it_says_hello() {
    for seed in 0..50 {
        let mut network = Network::new(seed, 2);
        find(&mut network, 0, Want::Name(name("late")));
        // In the middle between two askings, which are 5 s apart by now.
        network.run(Duration::from_secs(26));
        let late = network.join(DiscoveryConfig::default());
        network.share(late, entry("late", 5));
        network.input(late, Input::Announce);
        network.run(Duration::from_millis(100));
        assert!(network.found_nodes(0, QUERY).contains(&late), "seed {seed}");
    }
}

#[test]
fn a_late_joiner_is_found_even_when_its_hellos_are_lost() {
    for seed in 0..50 {
        let mut network = Network::new(seed, 1);
        find(&mut network, 0, Want::Name(name("late")));
        network.run(Duration::from_secs(60));
        let late = network.join(DiscoveryConfig::default());
        network.share(late, entry("late", 5));
        // It never announces itself, as if all of that were lost.
        network.run(Duration::from_millis(5100));
        assert!(network.found_nodes(0, QUERY).contains(&late), "seed {seed}");
    }
}

#[test]
fn several_queries_reach_a_newcomer_one_by_one() {
    let mut network = Network::new(4, 1);
    for query in 0..3 {
        network.input(0, Input::Find { query: QueryHandle(query), want: Want::All, peers: Vec::new() });
    }
    network.run(Duration::from_secs(26));
    let late = network.join(DiscoveryConfig::default());
    network.input(late, Input::Announce);
    network.run(Duration::from_millis(2100));
    for query in 0..3 {
        assert!(network.found_nodes(0, QueryHandle(query)).contains(&late), "query {query}");
    }
}

#[test]
fn a_query_that_was_stopped_asks_nobody_and_hears_nothing() {
    let mut network = Network::new(5, 2);
    find(&mut network, 0, Want::All);
    network.input(0, Input::StopFind { query: QUERY });
    let sent = network.bytes_sent(0);
    network.run(Duration::from_secs(20));
    assert_eq!((network.found(0, QUERY).count(), network.bytes_sent(0)), (0, sent));
}

#[test]
fn a_new_network_is_asked_at_once() {
    let mut network = Network::new(6, 2);
    network.cut = true;
    find(&mut network, 0, Want::All);
    network.run(Duration::from_secs(26));
    network.cut = false;
    network.input(0, Input::LinkUp);
    network.run(Duration::from_millis(100));
    assert_eq!(network.found_nodes(0, QUERY), BTreeSet::from([1]));
}

#[test]
fn nodes_that_are_asked_directly_need_no_broadcast() {
    let mut network = Network::new(7, 3);
    network.broadcasts = false;
    let peers = vec![network.addr(2)];
    network.input(0, Input::Find { query: QUERY, want: Want::All, peers });
    network.run(Duration::from_secs(1));
    assert_eq!(network.found_nodes(0, QUERY), BTreeSet::from([2]));
}

#[test]
fn peers_come_and_say_goodbye_or_fall_silent() {
    let mut network = Network::new(8, 4);
    for node in 0..4 {
        network.input(node, Input::Announce);
    }
    network.run(Duration::from_secs(3));
    assert_eq!(network.peers(0), BTreeSet::from([1, 2, 3]));
    network.input(1, Input::Shutdown);
    network.leave(1);
    network.run(Duration::from_millis(10));
    assert_eq!(network.peers(0), BTreeSet::from([2, 3]));
    network.leave(2);
    network.run(Duration::from_secs(200));
    assert_eq!(network.peers(0), BTreeSet::from([3]));
    assert_eq!((network.seen_count(0), network.gone_count(0)), (3, 2));
}

#[test]
fn a_node_that_comes_back_is_reported_anew() {
    let mut network = Network::new(9, 2);
    network.share(1, entry("a", 1));
    find(&mut network, 0, Want::Name(name("a")));
    network.input(1, Input::Announce);
    network.run(Duration::from_secs(4));
    network.input(1, Input::Shutdown);
    network.run(Duration::from_millis(10));
    network.input(1, Input::Announce);
    network.run(Duration::from_secs(4));
    assert_eq!(network.found(0, QUERY).count(), 2);
}

#[test]
fn a_process_that_only_looks_around_stays_unseen() {
    let mut network = Network::new(10, 2);
    let visitor = network.join(DiscoveryConfig { visible: false });
    network.input(visitor, Input::Announce);
    find(&mut network, 0, Want::All);
    find(&mut network, visitor, Want::All);
    network.run(Duration::from_secs(3));
    assert_eq!(network.found_nodes(0, QUERY), BTreeSet::from([1]));
    assert_eq!(network.found_nodes(visitor, QUERY), BTreeSet::from([0, 1]));
    network.input(visitor, Input::Shutdown);
    assert!(!network.peers(0).contains(&visitor));
}

#[test]
fn idle_nodes_are_quiet() {
    let mut network = Network::new(11, 5);
    for node in 0..5 {
        network.input(node, Input::Announce);
    }
    network.run(Duration::from_secs(10));
    let before = network.bytes_sent(0);
    network.run(Duration::from_secs(600));
    let bytes = network.bytes_sent(0) - before;
    assert!(bytes > 0 && bytes / 600 < 1024 / 5, "{bytes} bytes in 600 s");
    // Not even somebody who announces news every 100 ms talks more than a little.
    let before = network.bytes_sent(0);
    for _ in 0..100 {
        network.input(0, Input::Announce);
        network.run(Duration::from_millis(100));
    }
    let bytes = network.bytes_sent(0) - before;
    assert!(bytes <= 11 * DATAGRAM_SIZE_MAX as u64, "{bytes} bytes in 10 s");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut network = Network::new(seed, 20);
        network.loss_percent = 20;
        find(&mut network, 0, Want::All);
        network.run(Duration::from_secs(3));
        network.log().to_vec()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
