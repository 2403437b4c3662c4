//! The engines of UDP broadcast get against those who do not mean well, and their bounds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::interop::udp_get::client::{self, ClientConfig, ClientEngine, Failure, SERVERS_MAX};
use ftx_proto::interop::udp_get::server::{
    ContentKey, Input, LOOKUPS_MAX, Output, ServedFile, ServerConfig, ServerEngine,
};
use ftx_proto::interop::udp_get::wire::{DATAGRAM_SIZE_MAX, Except, FILE_SIZE_MAX};
use ftx_proto::time::Time;
use proptest::prelude::*;

/// One server with one large file, and the bytes that went where.
struct Victim {
    engine: ServerEngine,
    now: Time,
    size: u64,
    answers: bool,
    sent: BTreeMap<IpAddr, u64>,
    log: Vec<(Time, SocketAddr, Option<u32>)>,
}

impl Victim {
    fn new(config: ServerConfig) -> Self {
        Victim {
            engine: ServerEngine::new(config, 3),
            now: Time::ZERO,
            size: 1 << 40,
            answers: true,
            sent: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            let (to, bytes, number) = match output {
                Output::Lookup { token, .. } if self.answers => {
                    let sha256 = Digest::ZERO;
                    let file = Some(ServedFile { content: ContentKey(0), size: self.size, sha256 });
                    self.engine.handle(self.now, Input::Found { token, file });
                    continue;
                }
                Output::Lookup { .. } => continue,
                Output::Send { to, datagram } => (to, datagram.len(), None),
                Output::SendChunk { to, len, number, .. } => (to, 40 + len as usize, Some(number)),
            };
            *self.sent.entry(to.ip()).or_default() += bytes as u64;
            self.log.push((self.now, to, number));
        }
        assert!(self.engine.deadline().is_none_or(|deadline| deadline > self.now));
    }

    fn ask(&mut self, from: SocketAddr) {
        self.input(Input::Received { from, on_link: true, bytes: b"get a" });
    }

    /// Lets time pass, each tick as late as this.
    fn run(&mut self, duration: Duration, late: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.engine.deadline().map(|due| due + late).filter(|due| *due <= end) {
            self.now = due;
            self.input(Input::Tick);
        }
        self.now = end;
    }
}

fn peer(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn only_hosts_on_the_link_are_answered() {
    let mut victim = Victim::new(ServerConfig::default());
    victim.input(Input::Received { from: peer(1, 9), on_link: false, bytes: b"get a" });
    for to_many in ["255.255.255.255:9", "224.0.0.1:9", "0.0.0.0:9", "10.0.0.1:0", "[ff02::1]:9"] {
        victim.ask(to_many.parse().expect("an address"));
    }
    for malformed in [&b""[..], b"get", b"get /etc/passwd", b"get ../a", b"FTX1", &[b'g'; 60_000]] {
        victim.input(Input::Received { from: peer(1, 9), on_link: true, bytes: malformed });
    }
    let counters = victim.engine.counters();
    assert_eq!((counters.off_link, counters.malformed, counters.bursts), (6, 6, 0));
    assert!(victim.log.is_empty() && victim.engine.deadline().is_none());
    victim.size = FILE_SIZE_MAX + 1;
    victim.ask(peer(1, 9));
    assert_eq!((victim.engine.counters().unknown, victim.log.len()), (1, 0));
}

#[test]
fn an_address_gets_its_rate_however_often_it_asks() {
    let config = ServerConfig { address_rate: 20_000_000, ..ServerConfig::default() };
    let mut victim = Victim::new(config);
    for round in 0..50 {
        (0..40).for_each(|port| victim.ask(peer(1, 1000 + round % 3 * 100 + port)));
        victim.ask(peer(2, 9));
        victim.run(SECOND / 50, Duration::ZERO);
    }
    for (ip, bytes) in &victim.sent {
        assert!(*bytes < 21_000_000, "{ip}: {bytes}");
    }
    assert!(victim.sent[&peer(1, 0).ip()] > 10_000_000);
    assert!(victim.engine.burst_count() <= config.address_bursts_max + 1);
}

#[test]
fn bursts_and_lookups_have_bounds() {
    let config = ServerConfig { total_rate: Some(10_000_000), ..ServerConfig::default() };
    let mut victim = Victim::new(config);
    (0..250).for_each(|host| victim.ask(peer(host, 9)));
    assert_eq!(victim.engine.burst_count(), config.bursts_max);
    assert_eq!(victim.engine.counters().refused, 250 - config.bursts_max as u64);
    victim.run(SECOND, Duration::ZERO);
    let total: u64 = victim.sent.values().sum();
    assert!((9_000_000..10_500_000).contains(&total), "{total}");
    let (most, least) = (victim.sent.values().max(), victim.sent.values().min());
    assert!(most < least.map(|least| least * 2).as_ref(), "{:?}", victim.sent);

    let mut silent = Victim::new(config);
    silent.answers = false;
    for host in 0..=255 {
        (0..4).for_each(|port| silent.ask(peer(host, 1 + port)));
    }
    assert_eq!(silent.engine.counters().refused, 1024 - LOOKUPS_MAX as u64);
    // The catalog has forgotten them; there is room again.
    silent.now += Duration::from_secs(20);
    silent.ask(peer(1, 60_000));
    assert_eq!(silent.engine.counters().refused, 1024 - LOOKUPS_MAX as u64);
}

#[test]
fn a_repeat_drops_the_old_burst_and_announces_first() {
    let mut victim = Victim::new(ServerConfig::default());
    victim.ask(peer(1, 9));
    victim.run(SECOND / 10, Duration::ZERO);
    let before = victim.log.len();
    victim.ask(peer(1, 9));
    victim.run(SECOND / 10, Duration::ZERO);
    assert_eq!(victim.log[before].2, None, "the announcement comes before any chunk");
    assert_eq!(victim.log.iter().filter(|(_, _, number)| number.is_none()).count(), 2);
    assert_eq!((victim.engine.burst_count(), victim.engine.counters().restarted), (1, 1));
    let first: Vec<_> = victim.log[1..20].iter().map(|(_, _, number)| number).collect();
    let second: Vec<_> = victim.log[before + 1..before + 20].iter().map(|(_, _, number)| number).collect();
    assert_ne!(first, second, "shuffled again");
    victim.input(Input::Stopped { to: peer(1, 9) });
    assert_eq!((victim.engine.burst_count(), victim.engine.deadline()), (0, None));
}

#[test]
fn repeats_slow_a_burst_down_and_a_new_client_is_fast() {
    let mut victim = Victim::new(ServerConfig::default());
    let mut rates = Vec::new();
    for _ in 0..12 {
        let before = victim.log.len();
        victim.ask(peer(1, 9));
        victim.run(SECOND, Duration::ZERO);
        rates.push((victim.log.len() - before) as u64 * DATAGRAM_SIZE_MAX as u64 / 1_000_000);
    }
    assert!(rates[0] >= 70 && (33..=37).contains(&rates[1]) && (16..=18).contains(&rates[2]), "{rates:?}");
    assert!(rates[5] >= 16 && rates[6] <= 9 && rates[11] >= 2, "{rates:?}");
    let before = victim.log.len();
    victim.input(Input::Stopped { to: peer(1, 9) });
    victim.ask(peer(1, 10));
    victim.run(SECOND, Duration::ZERO);
    assert!((victim.log.len() - before) as u64 * DATAGRAM_SIZE_MAX as u64 > 70_000_000);
}

#[test]
fn a_late_caller_does_not_flood_a_socket() {
    for late in [1, 10, 200] {
        let mut victim = Victim::new(ServerConfig::default());
        victim.ask(peer(1, 9));
        victim.run(SECOND, Duration::from_millis(late));
        let mut at_once = BTreeMap::new();
        victim.log.iter().for_each(|(at, _, _)| *at_once.entry(at).or_insert(0) += 1);
        let most = at_once.values().max().expect("it sent something");
        assert!(*most <= 140, "{late} ms late: {most} datagrams at once");
    }
}

#[test]
fn huge_announcements_cost_nothing_and_are_refused_when_too_large() {
    let name = "a".parse().expect("a name");
    let except = Except { chunks: u32::MAX, sha256: Digest::ZERO }.encode();
    let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space");
    for host in 0..=255 {
        for port in 1..3 {
            engine.handle(Time::ZERO, client::Input::Received { from: peer(host, port), bytes: &except });
        }
    }
    assert_eq!(engine.servers().count(), SERVERS_MAX);
    assert_eq!(engine.progress(), Some((0, u32::MAX)));

    let config = ClientConfig { size_max: 1 << 30, ..ClientConfig::default() };
    let mut engine = ClientEngine::new(Time::ZERO, &name, config).expect("no space");
    engine.handle(Time::ZERO, client::Input::Received { from: peer(1, 1), bytes: &except });
    let last = std::iter::from_fn(|| engine.poll()).last();
    assert_eq!(last, Some(client::Output::Failed(Failure::TooLarge { chunks: u32::MAX })));
    assert!(ClientEngine::new(Time::ZERO, &"a b".parse().expect("a name"), config).is_err());
}

#[test]
fn a_file_that_changes_is_told() {
    let name = "a".parse().expect("a name");
    let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space");
    let announce = |engine: &mut ClientEngine, now, content| {
        let bytes = Except { chunks: 5, sha256: Digest([content; 32]) }.encode();
        engine.handle(now, client::Input::Received { from: peer(1, 1), bytes: &bytes });
    };
    announce(&mut engine, Time::ZERO, 1);
    let later = Time::from_origin(SECOND);
    engine.handle(later, client::Input::Tick);
    announce(&mut engine, later, 2);
    let last = std::iter::from_fn(|| engine.poll()).last();
    assert_eq!(last, Some(client::Output::Failed(Failure::Changed)));
}

proptest! {
    #[test]
    fn garbage_is_survived(
        datagrams in prop::collection::vec(
            (any::<u8>(), prop_oneof![Just(""), Just("get "), Just("except 3 chunks ")], prop::collection::vec(any::<u8>(), 0..80)),
            0..40,
        ),
    ) {
        let mut victim = Victim::new(ServerConfig::default());
        victim.size = 5000;
        let name = "a".parse().expect("a name");
        let mut engine = ClientEngine::new(Time::ZERO, &name, ClientConfig::default()).expect("no space");
        for (host, begin, rest) in &datagrams {
            let bytes = [begin.as_bytes(), rest].concat();
            victim.input(Input::Received { from: peer(*host, 9), on_link: true, bytes: &bytes });
            engine.handle(victim.now, client::Input::Received { from: peer(*host, 9), bytes: &bytes });
            let wrote = std::iter::from_fn(|| engine.poll())
                .any(|output| matches!(output, client::Output::Write { .. }));
            prop_assert!(!wrote, "no garbage has the hash of its data");
            victim.run(SECOND / 100, Duration::ZERO);
        }
        victim.run(SECOND, Duration::ZERO);
        prop_assert_eq!(victim.engine.burst_count(), 0);
    }
}
