//! The discovery engine against those who do not mean well: storms, forged senders, lies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::engine::discovery::{DiscoveryConfig, DiscoveryEngine, Input, Output, QueryHandle};
use ftx_proto::limits::{
    ANSWERS_BURST, ANSWERS_PER_SECOND, DATAGRAM_SIZE_MAX, PEERS_MAX, QUERIES_MAX, QUERY_OFFERS_MAX,
    SOURCE_ANSWERS_BURST, SOURCE_ANSWERS_PER_SECOND,
};
use ftx_proto::time::Time;
use ftx_proto::wire::discovery::{
    Announce, Datagram, Offer, OfferEntry, OfferedKind, OfferedRoot, Query, Want,
};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// One engine, a catalog that answers at once, and the bytes that went to and fro.
struct Victim {
    engine: DiscoveryEngine,
    now: Time,
    entries: Vec<OfferEntry>,
    bytes_in: BTreeMap<SocketAddr, usize>,
    bytes_out: BTreeMap<SocketAddr, usize>,
    sent: Vec<(SocketAddr, Datagram)>,
    others: Vec<Output>,
}

impl Victim {
    fn new() -> Self {
        Victim {
            engine: DiscoveryEngine::new(DiscoveryConfig::default(), announce(0), 1),
            now: Time::ZERO,
            entries: Vec::new(),
            bytes_in: BTreeMap::new(),
            bytes_out: BTreeMap::new(),
            sent: Vec::new(),
            others: Vec::new(),
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: Datagram) {
        *self.bytes_in.entry(from).or_default() += datagram.encode().len();
        self.input(Input::Received { from, on_link: true, datagram });
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send { to, datagram } => {
                    *self.bytes_out.entry(to).or_default() += datagram.encode().len();
                    self.sent.push((to, datagram));
                }
                Output::Lookup { token, .. } => {
                    let entries = self.entries.clone();
                    self.engine.handle(self.now, Input::Answer { token, entries, more: false });
                }
                other => self.others.push(other),
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.engine.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn assert_no_amplification(&self) {
        for (addr, out) in &self.bytes_out {
            let bytes_in = self.bytes_in.get(addr).copied().unwrap_or_default();
            assert!(*out <= bytes_in, "{out} bytes to {addr}, from which {bytes_in} came");
        }
    }
}

fn announce(instance: u64) -> Announce {
    Announce { node: NodeId([1; 32]), instance: Instance(instance), port: 10_526, name: "x".repeat(64) }
}

fn query(nonce: u64) -> Datagram {
    Datagram::Query(Query { nonce, instance: Instance(u64::MAX), want: Want::All })
}

fn large_entry(number: usize) -> OfferEntry {
    let name = format!("{number}/{}", "x".repeat(200)).parse().expect("a good name");
    OfferEntry { name, kind: OfferedKind::File, size: 1, mtime: 1, root: OfferedRoot::Hashing(1) }
}

fn addr(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a4d_0000 + number).to_be_bytes(), 4000))
}

#[test]
fn a_storm_from_one_sender_is_answered_at_its_rate() {
    let mut victim = Victim::new();
    for ms in 0..10_000 {
        victim.hear(addr(1), query(ms));
        victim.run(Duration::from_millis(1));
    }
    victim.run(Duration::from_secs(1));
    // Each answered query gets the answer and its copy.
    let allowed = 2 * (SOURCE_ANSWERS_BURST + 10 * SOURCE_ANSWERS_PER_SECOND + 1) as usize;
    let sent = victim.sent.len();
    assert!(sent <= allowed && sent > allowed / 2, "{sent} answers, {allowed} allowed");
    assert_eq!(victim.engine.counters().rate_limited as usize, 10_000 - sent / 2);
    victim.assert_no_amplification();
    // An honest asker is still answered.
    victim.hear(addr(2), query(1));
    victim.run(Duration::from_secs(1));
    assert_eq!(victim.sent.iter().filter(|(to, _)| *to == addr(2)).count(), 2);
}

#[test]
fn a_storm_from_forged_senders_is_answered_at_the_rate_for_all() {
    let mut victim = Victim::new();
    victim.entries = (0..3).map(large_entry).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..5_000 {
        for _ in 0..10 {
            victim.hear(addr(rng.random_range(0..65_536)), query(rng.random()));
        }
        victim.run(Duration::from_millis(1));
    }
    victim.run(Duration::from_secs(1));
    let allowed = (ANSWERS_BURST + 5 * ANSWERS_PER_SECOND + 1) as usize;
    assert!(victim.sent.len() <= allowed && victim.sent.len() > allowed / 2, "{}", victim.sent.len());
    victim.assert_no_amplification();
}

#[test]
fn a_storm_of_forged_hellos_is_asked_at_the_rate_and_never_more_than_it_pays_for() {
    let mut victim = Victim::new();
    for handle in 0..5 {
        victim.input(Input::Find { query: QueryHandle(handle), want: Want::All, peers: Vec::new() });
    }
    for instance in 1..=(PEERS_MAX as u64 + 5_000) {
        victim.hear(addr(instance as u32 % 50_000), Datagram::Hello(announce(instance)));
        if instance % 10 == 0 {
            victim.run(Duration::from_millis(1));
        }
    }
    assert_eq!(victim.engine.peers().count(), PEERS_MAX);
    let allowed = (ANSWERS_BURST + 2 * ANSWERS_PER_SECOND) as usize;
    assert!(victim.sent.len() <= allowed, "{}", victim.sent.len());
    victim.assert_no_amplification();
    let gone = victim.others.iter().filter(|output| matches!(output, Output::PeerGone(_))).count();
    assert_eq!(gone, 5_000, "who makes room is reported");
}

#[test]
fn answers_of_any_size_are_no_larger_than_the_query() {
    for count in 0..40 {
        let mut victim = Victim::new();
        victim.entries = (0..count).map(large_entry).collect();
        victim.hear(addr(1), query(1));
        victim.run(Duration::from_millis(150));
        victim.hear(addr(2), query(1));
        victim.run(Duration::from_secs(1));
        assert!(victim.sent.len() >= 2, "both are answered");
        victim.assert_no_amplification();
    }
}

#[test]
fn a_repeated_query_is_answered_again_only_after_a_while() {
    let mut victim = Victim::new();
    victim.entries = (0..3).map(large_entry).collect();
    for _ in 0..19 {
        victim.hear(addr(1), query(1));
        victim.run(Duration::from_millis(10));
    }
    assert_eq!((victim.sent.len(), victim.engine.counters().repeated), (1, 18));
    victim.run(Duration::from_millis(60));
    victim.hear(addr(1), query(1));
    victim.run(Duration::from_millis(100));
    assert_eq!(victim.sent.len(), 2, "the first answer may have been lost");
}

#[test]
fn who_is_not_a_neighbour_gets_nothing() {
    let mut victim = Victim::new();
    victim.input(Input::Find { query: QueryHandle(1), want: Want::All, peers: vec![addr(9)] });
    let nonce = nonce_of(&victim.others);
    victim.sent.clear();
    for datagram in [
        query(1),
        Datagram::Hello(announce(3)),
        Datagram::Offer(Offer { nonce, from: announce(3), entries: Vec::new(), more: false }),
    ] {
        victim.input(Input::Received { from: addr(8), on_link: false, datagram });
    }
    victim.run(Duration::from_millis(50));
    assert_eq!((victim.sent.len(), victim.engine.counters().off_link), (0, 3));
    assert_eq!(victim.engine.peers().count(), 0);
    // Except that whom we asked may answer from wherever it is.
    let offer = Offer { nonce, from: announce(4), entries: Vec::new(), more: false };
    victim.input(Input::Received { from: addr(9), on_link: false, datagram: Datagram::Offer(offer) });
    assert!(victim.others.iter().any(|output| matches!(output, Output::Found { .. })));
}

#[test]
fn offers_that_nobody_asked_for_are_counted_and_forgotten() {
    let mut victim = Victim::new();
    victim.input(Input::Find { query: QueryHandle(1), want: Want::All, peers: Vec::new() });
    let nonce = nonce_of(&victim.others);
    let offer = |nonce, instance| {
        Datagram::Offer(Offer { nonce, from: announce(instance), entries: Vec::new(), more: false })
    };
    victim.hear(addr(1), offer(nonce.wrapping_add(1), 1));
    assert_eq!((victim.engine.counters().stray_offers, victim.engine.peers().count()), (1, 0));
    // One query remembers only so many, however many there are.
    for instance in 1..=(QUERY_OFFERS_MAX as u64 + 100) {
        victim.hear(addr(1), offer(nonce, instance));
    }
    let found = victim.others.iter().filter(|output| matches!(output, Output::Found { .. })).count();
    assert_eq!((found, victim.engine.counters().stray_offers), (QUERY_OFFERS_MAX, 101));
}

#[test]
fn only_who_was_heard_can_say_goodbye() {
    let mut victim = Victim::new();
    victim.hear(addr(1), Datagram::Hello(announce(5)));
    victim.hear(addr(2), Datagram::Bye(announce(5)));
    victim.hear(addr(1), Datagram::Bye(announce(6)));
    assert_eq!(victim.engine.peers().count(), 1);
    victim.hear(addr(1), Datagram::Bye(announce(5)));
    assert_eq!(victim.engine.peers().count(), 0);
}

#[test]
fn our_own_datagrams_are_ignored() {
    let mut victim = Victim::new();
    victim.hear(addr(1), Datagram::Hello(announce(0)));
    let own = Query { nonce: 1, instance: Instance(0), want: Want::All };
    victim.hear(addr(1), Datagram::Query(own));
    victim.run(Duration::from_secs(1));
    assert_eq!((victim.engine.counters().own, victim.sent.len(), victim.engine.peers().count()), (2, 0, 0));
}

#[test]
fn a_catalog_that_never_answers_costs_nothing_for_long() {
    let mut engine = DiscoveryEngine::new(DiscoveryConfig::default(), announce(0), 1);
    for source in 0..200 {
        let input = Input::Received { from: addr(source), on_link: true, datagram: query(1) };
        engine.handle(Time::ZERO, input);
    }
    let deadline = engine.deadline().expect("lookups are under way");
    engine.handle(deadline, Input::Tick);
    assert_eq!((engine.counters().unanswered, engine.deadline()), (200, None));
}

#[test]
fn there_is_an_end_to_queries_of_our_own() {
    let mut victim = Victim::new();
    for handle in 0..=QUERIES_MAX as u64 {
        victim.input(Input::Find { query: QueryHandle(handle), want: Want::All, peers: Vec::new() });
    }
    let refused: Vec<_> =
        victim.others.iter().filter(|output| matches!(output, Output::Refused { .. })).collect();
    assert_eq!(refused, [&Output::Refused { query: QueryHandle(QUERIES_MAX as u64) }]);
}

#[test]
fn a_name_that_is_too_long_is_cut_between_characters() {
    let me = Announce { name: "ü".repeat(40), ..announce(1) };
    let mut engine = DiscoveryEngine::new(DiscoveryConfig::default(), me, 1);
    engine.handle(Time::ZERO, Input::Announce);
    let Some(Output::Broadcast(hello)) = engine.poll() else { panic!("a hello comes first") };
    let bytes = hello.encode();
    assert_eq!(bytes.len(), DATAGRAM_SIZE_MAX);
    assert_eq!(
        Datagram::decode(&bytes),
        Ok(Datagram::Hello(Announce { name: "ü".repeat(32), ..announce(1) }))
    );
}

fn nonce_of(outputs: &[Output]) -> u64 {
    let nonce = outputs.iter().find_map(|output| match output {
        Output::Broadcast(Datagram::Query(query)) => Some(query.nonce),
        _ => None,
    });
    nonce.expect("a query was broadcast")
}
