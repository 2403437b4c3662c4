//! Any sequence of operations keeps the engine's promises: it never wakes itself for ever, and sends nobody more than
//! came from there.
//!
//! The input is read as operations: a byte that says which, and its arguments.
#![no_main]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::engine::discovery::{
    DiscoveryConfig, DiscoveryEngine, Input, LookupToken, Output, QueryHandle,
};
use ftx_proto::time::Time;
use ftx_proto::wire::discovery::{Announce, Datagram, Want};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((seed, operations)) = data.split_first() else { return };
    Run::new(*seed).operate(operations);
});

struct Run {
    engine: DiscoveryEngine,
    now: Time,
    lookups: Vec<LookupToken>,
    nonce: Option<u64>,
    bytes_in: BTreeMap<SocketAddr, usize>,
    bytes_out: BTreeMap<SocketAddr, usize>,
}

impl Run {
    fn new(seed: u8) -> Self {
        let me = Announce { node: NodeId([0; 32]), instance: Instance(0), port: 1, name: "fuzz".into() };
        Run {
            engine: DiscoveryEngine::new(DiscoveryConfig { visible: seed % 4 != 3 }, me, seed.into()),
            now: Time::ZERO,
            lookups: Vec::new(),
            nonce: None,
            bytes_in: BTreeMap::new(),
            bytes_out: BTreeMap::new(),
        }
    }

    fn operate(&mut self, mut rest: &[u8]) {
        while let Some((operation, after)) = rest.split_first() {
            rest = after;
            let mut byte = || {
                let (first, after) = rest.split_first().unwrap_or((&0, &[]));
                rest = after;
                *first
            };
            match operation % 10 {
                0 => self.pass(Duration::from_millis(byte().into())),
                1 => self.pass(Duration::from_secs(byte().into())),
                2 | 3 => {
                    let (from, len) = (byte(), usize::from(byte()));
                    let (payload, after) = rest.split_at(len.min(rest.len()));
                    rest = after;
                    self.receive(from, payload);
                }
                4 => {
                    let query = QueryHandle(u64::from(byte()));
                    self.input(Input::Find { query, want: Want::All, peers: Vec::new() });
                }
                5 => self.input(Input::StopFind { query: QueryHandle(u64::from(byte())) }),
                6 => {
                    let more = byte() % 2 == 0;
                    if let Some(token) = self.lookups.pop() {
                        self.input(Input::Answer { token, entries: Vec::new(), more });
                    }
                }
                7 => self.input(Input::Announce),
                8 => self.input(Input::LinkUp),
                _ => {
                    let (query, addr) = (QueryHandle(u64::from(byte())), address(byte()));
                    self.input(Input::Undelivered { query, instance: Instance(u64::from(byte())), addr });
                }
            }
        }
        self.input(Input::Shutdown);
        self.pass(Duration::from_secs(1000));
        assert_eq!(self.engine.deadline(), None, "nothing is left to do");
    }

    /// A payload with the padding that it needs, from a neighbour or, for high numbers, from elsewhere.
    fn receive(&mut self, from: u8, payload: &[u8]) {
        let mut payload = payload.to_vec();
        if matches!(payload.get(4), Some(0 | 2)) {
            payload.resize(1200, 0);
        }
        let (from, on_link) = (address(from), from < 200);
        *self.bytes_in.entry(from).or_default() += payload.len();
        match Datagram::decode(&payload) {
            Ok(mut datagram) => {
                if let (Datagram::Offer(offer), Some(nonce)) = (&mut datagram, self.nonce) {
                    // Guessing 64 bits is beyond a fuzzer.
                    offer.nonce = if offer.nonce % 2 == 0 { nonce } else { offer.nonce };
                }
                self.input(Input::Received { from, on_link, datagram });
            }
            Err(_) => self.input(Input::Malformed { from }),
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.engine.deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send { to, datagram } => {
                    let out = self.bytes_out.entry(to).or_default();
                    *out += datagram.encode().len();
                    let bytes_in = self.bytes_in.get(&to).copied().unwrap_or_default();
                    assert!(*out <= bytes_in, "{out} bytes to {to}, from which {bytes_in} came");
                }
                Output::Broadcast(Datagram::Query(query)) => self.nonce = Some(query.nonce),
                Output::Lookup { token, .. } => self.lookups.push(token),
                _ => {}
            }
        }
        let now = self.now;
        assert!(self.engine.deadline().is_none_or(|deadline| deadline > now), "it would wake for ever");
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 77, 0, number], 4000))
}
