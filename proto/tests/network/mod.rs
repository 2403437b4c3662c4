//! A local network in virtual time: datagrams are encoded, lost, delayed, delivered and decoded; all from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::{Digest, Instance, NodeId, Root};
use ftx_proto::engine::discovery::{
    DiscoveryConfig, DiscoveryEngine, Input, LookupToken, Output, QueryHandle, TwoPlaces,
};
use ftx_proto::name::RelativePath;
use ftx_proto::time::Time;
use ftx_proto::wire::discovery::{Announce, Datagram, Offer, OfferEntry, OfferedKind, OfferedRoot, Want};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// What a query has found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) query: QueryHandle,
    pub(crate) addr: SocketAddr,
    pub(crate) offer: Offer,
}

pub(crate) struct Network {
    pub(crate) loss_percent: u32,
    /// Whether broadcasts are carried.
    pub(crate) broadcasts: bool,
    /// Nothing is carried at all.
    pub(crate) cut: bool,
    now: Time,
    seed: u64,
    rng: ChaCha8Rng,
    nodes: Vec<Node>,
    /// Events by their time, and by number among those of the same time.
    events: BTreeMap<(Time, u64), Event>,
    event_count: u64,
    log: Vec<String>,
}

struct Node {
    engine: DiscoveryEngine,
    addr: SocketAddr,
    gone: bool,
    shared: Vec<OfferEntry>,
    found: Vec<Found>,
    bytes_sent: u64,
    seen: usize,
    peers_gone: usize,
    two_places: Vec<TwoPlaces>,
    /// What reached it.
    heard: Vec<(Time, SocketAddr)>,
}

enum Event {
    Deliver { from: SocketAddr, to: usize, payload: Vec<u8> },
    Answer { node: usize, token: LookupToken, want: Want },
}

pub(crate) fn name(text: &str) -> RelativePath {
    text.parse().expect("a name for a test is a good one")
}

pub(crate) fn entry(text: &str, content: u8) -> OfferEntry {
    let root = OfferedRoot::Whole(Root(Digest::of(&[content]).0));
    OfferEntry { name: name(text), kind: OfferedKind::File, size: 1000, mtime: 1_700_000_000, root }
}

impl Network {
    /// `count` nodes that share nothing yet.
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut network = Network {
            loss_percent: 0,
            broadcasts: true,
            cut: false,
            now: Time::ZERO,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            nodes: Vec::new(),
            events: BTreeMap::new(),
            event_count: 0,
            log: Vec::new(),
        };
        for _ in 0..count {
            network.join(DiscoveryConfig::default());
        }
        network
    }

    /// One more node; its number.
    pub(crate) fn join(&mut self, config: DiscoveryConfig) -> usize {
        self.join_as(config, self.nodes.len())
    }

    /// One more node, on a machine of its own, with the identity of the node `identity`; its number.
    pub(crate) fn join_as(&mut self, config: DiscoveryConfig, identity: usize) -> usize {
        let number = self.nodes.len();
        let me = Announce {
            node: NodeId(Digest::of(&identity.to_le_bytes()).0),
            instance: Instance(number as u64),
            port: 10_526,
            name: format!("node {number}"),
        };
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(number as u64);
        self.nodes.push(Node {
            engine: DiscoveryEngine::new(config, me, seed),
            addr: SocketAddr::from(([10, 77, (number / 250) as u8, (number % 250) as u8 + 1], 40_000)),
            gone: false,
            shared: Vec::new(),
            found: Vec::new(),
            bytes_sent: 0,
            seen: 0,
            peers_gone: 0,
            two_places: Vec::new(),
            heard: Vec::new(),
        });
        number
    }

    /// A node neither hears nor says anything any more.
    pub(crate) fn leave(&mut self, node: usize) {
        self.nodes[node].gone = true;
    }

    pub(crate) fn share(&mut self, node: usize, entry: OfferEntry) {
        self.nodes[node].shared.push(entry);
    }

    /// All that a node shares is this now.
    pub(crate) fn replace(&mut self, node: usize, entry: OfferEntry) {
        self.nodes[node].shared = vec![entry];
    }

    pub(crate) fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].addr
    }

    pub(crate) fn found(&self, node: usize, query: QueryHandle) -> impl Iterator<Item = &Found> {
        self.nodes[node].found.iter().filter(move |found| found.query == query)
    }

    /// Whom a query has found, by number; each at the address of its sessions.
    pub(crate) fn found_nodes(&self, node: usize, query: QueryHandle) -> BTreeSet<usize> {
        self.found(node, query)
            .map(|found| {
                let number = found.offer.from.instance.0 as usize;
                assert_eq!(found.addr, SocketAddr::new(self.nodes[number].addr.ip(), 10_526));
                number
            })
            .collect()
    }

    pub(crate) fn peers(&self, node: usize) -> BTreeSet<usize> {
        self.nodes[node].engine.peers().map(|peer| peer.announce.instance.0 as usize).collect()
    }

    pub(crate) fn seen_count(&self, node: usize) -> usize {
        self.nodes[node].seen
    }

    pub(crate) fn gone_count(&self, node: usize) -> usize {
        self.nodes[node].peers_gone
    }

    /// Whom a node has found at two places.
    pub(crate) fn two_places(&self, node: usize) -> &[TwoPlaces] {
        &self.nodes[node].two_places
    }

    /// A node is at another address from now on.
    pub(crate) fn moves(&mut self, node: usize, addr: [u8; 4]) {
        self.nodes[node].addr.set_ip(addr.into());
    }

    /// What has reached a node so far: when, and from where.
    pub(crate) fn heard(&self, node: usize) -> &[(Time, SocketAddr)] {
        &self.nodes[node].heard
    }

    pub(crate) fn bytes_sent(&self, node: usize) -> u64 {
        self.nodes[node].bytes_sent
    }

    /// Everything that happened.
    pub(crate) fn log(&self) -> &[String] {
        &self.log
    }

    /// Gives a node one input, and carries out what it wants.
    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let now = self.now;
        self.nodes[node].engine.handle(now, input);
        while let Some(output) = self.nodes[node].engine.poll() {
            self.output(node, output);
        }
        let deadline = self.nodes[node].engine.deadline();
        assert!(
            deadline.is_none_or(|deadline| deadline > now),
            "a deadline in the past wakes a node for ever"
        );
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let event = self.events.first_key_value().map(|((time, _), _)| *time);
            let deadline = (0..self.nodes.len())
                .filter(|node| !self.nodes[*node].gone)
                .filter_map(|node| Some((self.nodes[node].engine.deadline()?, node)))
                .min();
            let next = event.into_iter().chain(deadline.map(|(time, _)| time)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            match deadline {
                Some((time, node)) if event.is_none_or(|event| time <= event) => {
                    self.input(node, Input::Tick)
                }
                _ => self.happen(),
            }
        }
        self.now = end;
    }

    fn happen(&mut self) {
        let Some((_, event)) = self.events.pop_first() else { return };
        match event {
            Event::Deliver { to, .. } if self.nodes[to].gone => {}
            Event::Deliver { from, to, payload } => {
                let datagram = Datagram::decode(&payload).expect("what a node sends is well-formed");
                self.nodes[to].heard.push((self.now, from));
                self.log.push(format!("{:?} {to} {datagram:?}", self.now));
                self.input(to, Input::Received { from, on_link: true, datagram });
            }
            Event::Answer { node, token, want } => {
                let shared = &self.nodes[node].shared;
                let matches = |entry: &&OfferEntry| match &want {
                    Want::Name(name) => entry.name == *name,
                    Want::Root(prefix) => entry.root.root().is_some_and(|root| prefix.matches(&root)),
                    Want::All => true,
                };
                let entries = shared.iter().filter(matches).cloned().collect();
                self.input(node, Input::Answer { token, entries, more: false });
            }
        }
    }

    fn output(&mut self, node: usize, output: Output) {
        match output {
            Output::Broadcast(datagram) => {
                let payload = datagram.encode();
                self.nodes[node].bytes_sent += payload.len() as u64;
                // A node hears its own broadcasts too.
                let receivers = if self.broadcasts { self.nodes.len() } else { 0 };
                for to in 0..receivers {
                    self.carry(node, to, payload.clone());
                }
            }
            Output::Send { to, datagram } => {
                let payload = datagram.encode();
                self.nodes[node].bytes_sent += payload.len() as u64;
                if let Some(to) = self.nodes.iter().position(|other| other.addr == to) {
                    self.carry(node, to, payload);
                }
            }
            Output::Lookup { token, want } => {
                let delay = Duration::from_micros(self.rng.random_range(10..500));
                self.later(delay, Event::Answer { node, token, want });
            }
            Output::Found { query, addr, offer } => {
                self.nodes[node].found.push(Found { query, addr, offer });
            }
            Output::Refused { query } => panic!("{query:?} was refused"),
            Output::PeerSeen(_) => self.nodes[node].seen += 1,
            Output::PeerGone(_) => self.nodes[node].peers_gone += 1,
            Output::TwoPlaces(two) => self.nodes[node].two_places.push(two),
        }
    }

    fn carry(&mut self, from: usize, to: usize, payload: Vec<u8>) {
        let lost = self.rng.random_range(0..100) < self.loss_percent;
        let delay = Duration::from_micros(self.rng.random_range(50..2000));
        if !lost && !self.cut {
            let from = self.nodes[from].addr;
            self.later(delay, Event::Deliver { from, to, payload });
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now + delay, self.event_count), event);
    }
}
