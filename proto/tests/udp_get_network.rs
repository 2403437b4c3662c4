//! UDP broadcast get on a small network in virtual time: our servers and clients, and stand-ins for the originals.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::interop::udp_get::client::{self, ClientConfig, ClientEngine, Failure};
use ftx_proto::interop::udp_get::server::{self, ContentKey, ServedFile, ServerConfig, ServerEngine};
use ftx_proto::interop::udp_get::wire::{
    Chunk, DATAGRAM_SIZE_MAX, Except, chunk_data_mut, decode_get, seal_chunk,
};
use ftx_proto::time::Time;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

const LATENCY: Duration = Duration::from_micros(150);

/// Datagrams that a socket of a classic client holds.
const SOCKET_BUFFER: usize = 150;

struct Network {
    seed: u64,
    loss_percent: u32,
    now: Time,
    rng: ChaCha8Rng,
    events: BTreeMap<(Time, u64), Event>,
    event_count: u64,
    servers: Vec<Server>,
    client: Client,
    datagrams: u64,
    asks: Vec<Time>,
}

enum Event {
    ToServer {
        server: usize,
        bytes: Vec<u8>,
    },
    ToClient {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A classic client has done with one datagram, or its time is up.
    Classic,
}

struct Server {
    kind: Kind,
    file: Vec<u8>,
    sha256: Digest,
    /// Added to all bytes that are sent, and to nothing that is hashed before.
    lie: u8,
}

enum Kind {
    Ours(Box<ServerEngine>),
    /// Sends all at once, and answers each request, however many there are.
    Classic {
        busy_until: Time,
    },
}

enum Client {
    Ours { engine: Box<ClientEngine>, part: Vec<u8>, end: Option<client::Output> },
    Classic(Classic),
}

/// Reads one datagram after another, slowly, from a socket with a bounded buffer.
struct Classic {
    per_datagram: Duration,
    socket: VecDeque<Vec<u8>>,
    overflown: u64,
    /// In its first phase, so often may it ask again.
    tries: Option<u32>,
    chunks: BTreeMap<u32, Vec<u8>>,
    expected: u32,
    /// When it is done with what it reads, or tired of waiting.
    due: Time,
    is_reading: bool,
    over: Option<bool>,
}

fn pattern(len: usize, salt: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(salt);
    (0..len).map(|_| rng.random()).collect()
}

fn server_address(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + server as u8], 10_526))
}

fn client_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 200], 40_000))
}

impl Network {
    fn new(seed: u64, config: ClientConfig) -> Self {
        let name = "a.bin".parse().expect("a name");
        let engine = ClientEngine::new(Time::ZERO, &name, config).expect("no space");
        Self::with_client(seed, Client::Ours { engine: Box::new(engine), part: Vec::new(), end: None })
    }

    fn with_client(seed: u64, client: Client) -> Self {
        Network {
            seed,
            loss_percent: 0,
            now: Time::ZERO,
            rng: ChaCha8Rng::seed_from_u64(seed),
            events: BTreeMap::new(),
            event_count: 0,
            servers: Vec::new(),
            client,
            datagrams: 0,
            asks: Vec::new(),
        }
    }

    fn serve(&mut self, file: &[u8]) -> usize {
        let number = self.servers.len();
        let engine = ServerEngine::new(ServerConfig::default(), self.seed * 100 + number as u64);
        self.servers.push(Server {
            kind: Kind::Ours(Box::new(engine)),
            file: file.to_vec(),
            sha256: Digest::of(file),
            lie: 0,
        });
        number
    }

    fn serve_classic(&mut self, file: &[u8]) -> usize {
        self.servers.push(Server {
            kind: Kind::Classic { busy_until: Time::ZERO },
            file: file.to_vec(),
            sha256: Digest::of(file),
            lie: 0,
        });
        self.servers.len() - 1
    }

    fn event(&mut self, at: Time, event: Event) {
        self.event_count += 1;
        self.events.insert((at, self.event_count), event);
    }

    fn is_lost(&mut self) -> bool {
        self.datagrams += 1;
        self.rng.random_range(0..100) < self.loss_percent
    }

    fn broadcast(&mut self, bytes: &[u8]) {
        self.asks.push(self.now);
        for server in 0..self.servers.len() {
            if !self.is_lost() {
                self.event(self.now + LATENCY, Event::ToServer { server, bytes: bytes.to_vec() });
            }
        }
    }

    fn reply(&mut self, server: usize, at: Time, bytes: Vec<u8>) {
        if !self.is_lost() {
            self.event(at + LATENCY, Event::ToClient { from: server_address(server), bytes });
        }
    }

    fn chunk(&self, server: usize, number: u32) -> Vec<u8> {
        let Server { file, lie, .. } = &self.servers[server];
        let data = file.chunks(1024).nth(number as usize).expect("a chunk that there is");
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        let place = chunk_data_mut(&mut buffer, data.len() as u32).expect("a chunk's length");
        place.copy_from_slice(data);
        let mut datagram = seal_chunk(&mut buffer, number, data.len() as u32).to_vec();
        datagram[8] = datagram[8].wrapping_add(*lie);
        datagram
    }

    fn drain_server(&mut self, server: usize) {
        loop {
            let Server { file, sha256, .. } = &self.servers[server];
            let served = ServedFile { content: ContentKey(0), size: file.len() as u64, sha256: *sha256 };
            let now = self.now;
            let Kind::Ours(engine) = &mut self.servers[server].kind else { return };
            let Some(output) = engine.poll() else { break };
            match output {
                server::Output::Lookup { token, .. } => {
                    engine.handle(now, server::Input::Found { token, file: Some(served) });
                }
                server::Output::Send { to, datagram } => {
                    assert_eq!(to, client_address());
                    self.reply(server, now, datagram);
                }
                server::Output::SendChunk { number, .. } => {
                    let datagram = self.chunk(server, number);
                    self.reply(server, now, datagram);
                }
            }
        }
    }

    fn server_hears(&mut self, server: usize, bytes: &[u8]) {
        let now = self.now;
        match &mut self.servers[server].kind {
            Kind::Ours(engine) => {
                let from = client_address();
                engine.handle(now, server::Input::Received { from, on_link: true, bytes });
                self.drain_server(server);
            }
            Kind::Classic { busy_until } => {
                let mut at = now.max(*busy_until);
                decode_get(bytes).expect("a request");
                let Server { file, sha256, .. } = &self.servers[server];
                let except = Except::of_file(file.len() as u64, *sha256).expect("not too large");
                let mut order: Vec<u32> = (0..except.chunks).collect();
                for i in (1..order.len()).rev() {
                    order.swap(i, self.rng.random_range(0..=i));
                }
                self.reply(server, at, except.encode());
                for number in order {
                    at += Duration::from_micros(15);
                    let datagram = self.chunk(server, number);
                    self.reply(server, at, datagram);
                }
                self.servers[server].kind = Kind::Classic { busy_until: at };
            }
        }
    }

    /// Lets our client handle something, and carries out what it wants. Only a datagram has bytes to write.
    fn our_client_hears(&mut self, received: Option<(SocketAddr, &[u8])>) {
        let now = self.now;
        let Client::Ours { engine, part, end } = &mut self.client else { return };
        let mut asks = Vec::new();
        if end.is_some() {
            return;
        }
        engine.handle(
            now,
            match received {
                Some((from, bytes)) => client::Input::Received { from, bytes },
                None => client::Input::Tick,
            },
        );
        while let Some(output) = engine.poll() {
            match output {
                client::Output::Ask { datagram } => asks.push(datagram),
                client::Output::Joined { .. } => {}
                client::Output::Write { offset, data, .. } => {
                    let data = &received.expect("written is what was received").1[data];
                    let len = part.len().max(offset as usize + data.len());
                    part.resize(len, 0);
                    part[offset as usize..][..data.len()].copy_from_slice(data);
                }
                over => *end = Some(over),
            }
        }
        let deadline = engine.deadline();
        assert!(end.is_some() == deadline.is_none() && deadline.is_none_or(|deadline| deadline > now));
        for datagram in asks {
            self.broadcast(&datagram);
        }
    }

    fn classic_client_hears(&mut self, datagram: Option<Vec<u8>>) {
        let now = self.now;
        let Client::Classic(classic) = &mut self.client else { return };
        let asks = match datagram {
            Some(datagram) => {
                if classic.socket.len() < SOCKET_BUFFER {
                    classic.socket.push_back(datagram);
                } else {
                    classic.overflown += 1;
                }
                if classic.is_reading {
                    return;
                }
                false
            }
            None if classic.due > now => return,
            None => classic.time_is_up(),
        };
        if let Some(datagram) = classic.socket.pop_front() {
            classic.is_reading = true;
            classic.due = now + classic.per_datagram;
            let asks = asks | classic.read(&datagram);
            let due = classic.due;
            self.event(due, Event::Classic);
            if asks {
                self.broadcast(b"get a.bin");
            }
            return;
        }
        classic.is_reading = false;
        classic.due = now + Duration::from_secs(1);
        let due = classic.due;
        self.event(due, Event::Classic);
        if asks {
            self.broadcast(b"get a.bin");
        }
    }

    fn is_over(&self) -> bool {
        match &self.client {
            Client::Ours { end, .. } => end.is_some(),
            Client::Classic(classic) => classic.over.is_some(),
        }
    }

    /// Until the client is done; how long that took.
    fn run(&mut self) -> Duration {
        match &mut self.client {
            Client::Ours { .. } => self.our_client_hears(None),
            Client::Classic(_) => {
                self.broadcast(b"get a.bin");
                self.event(self.now + Duration::from_secs(1), Event::Classic);
            }
        }
        while !self.is_over() {
            assert!(self.now < Time::from_origin(Duration::from_secs(300)), "seed {}: no end", self.seed);
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let client = match &self.client {
                Client::Ours { engine, .. } => engine.deadline(),
                Client::Classic(_) => None,
            };
            let server = (0..self.servers.len())
                .filter_map(|number| match &self.servers[number].kind {
                    Kind::Ours(engine) => Some((engine.deadline()?, number)),
                    Kind::Classic { .. } => None,
                })
                .min();
            let next = event.into_iter().chain(client).chain(server.map(|(at, _)| at)).min();
            let next = next.unwrap_or_else(|| panic!("seed {}: nothing happens any more", self.seed));
            assert!(next >= self.now, "seed {}: a deadline in the past", self.seed);
            self.now = next;
            if event == Some(next) {
                match self.events.pop_first().map(|(_, event)| event) {
                    Some(Event::ToServer { server, bytes }) => self.server_hears(server, &bytes),
                    Some(Event::ToClient { from, bytes }) => match &self.client {
                        Client::Ours { .. } => self.our_client_hears(Some((from, &bytes))),
                        Client::Classic(_) => self.classic_client_hears(Some(bytes)),
                    },
                    Some(Event::Classic) => self.classic_client_hears(None),
                    None => {}
                }
            } else if client == Some(next) {
                self.our_client_hears(None);
            } else if let Some((_, number)) = server {
                if let Kind::Ours(engine) = &mut self.servers[number].kind {
                    engine.handle(next, server::Input::Tick);
                }
                self.drain_server(number);
            }
        }
        self.now.since_origin()
    }

    fn end(&self) -> &client::Output {
        let Client::Ours { end: Some(end), .. } = &self.client else { panic!("not over") };
        end
    }

    fn assert_has(&self, file: &[u8]) {
        let Client::Ours { part, .. } = &self.client else { panic!("not ours") };
        let complete = client::Output::Complete { size: file.len() as u64, sha256: Digest::of(file) };
        assert_eq!(self.end(), &complete, "seed {}", self.seed);
        assert!(part == file, "seed {}: other bytes", self.seed);
    }

    fn reports(&self) -> Vec<client::ServerReport> {
        let Client::Ours { engine, .. } = &self.client else { panic!("not ours") };
        engine.servers().map(|(_, report)| report).collect()
    }
}

impl Classic {
    fn client(per_datagram: Duration) -> Client {
        Client::Classic(Classic {
            per_datagram,
            socket: VecDeque::new(),
            overflown: 0,
            tries: Some(11),
            chunks: BTreeMap::new(),
            expected: 0,
            due: Time::from_origin(Duration::from_secs(1)),
            is_reading: false,
            over: None,
        })
    }

    /// A receive has timed out, or it has done with a datagram; whether it asks again.
    fn time_is_up(&mut self) -> bool {
        if self.is_reading {
            return false;
        }
        match &mut self.tries {
            Some(0) => {
                self.over = Some(false);
                false
            }
            Some(tries) => {
                *tries -= 1;
                true
            }
            None => {
                self.tries = Some(11);
                true
            }
        }
    }

    /// Whether it asks again.
    fn read(&mut self, datagram: &[u8]) -> bool {
        if let Some(tries) = &mut self.tries {
            if let Ok(except) = Except::decode(datagram) {
                self.expected = except.chunks;
                self.tries = None;
            } else if *tries == 0 {
                self.over = Some(false);
            } else {
                *tries -= 1;
                return true;
            }
        } else if let Ok(chunk) = Chunk::decode(datagram) {
            self.chunks.insert(chunk.number, chunk.data.to_vec());
            if self.chunks.len() == self.expected as usize {
                self.over = Some(true);
            }
        }
        false
    }
}

#[test]
fn sizes_around_a_chunk_arrive_at_once() {
    for size in [0, 1, 1023, 1024, 1025, 2048, 100_000] {
        let file = pattern(size, 1);
        let mut network = Network::new(1, ClientConfig::default());
        network.serve(&file);
        let took = network.run();
        network.assert_has(&file);
        assert!(took < Duration::from_millis(160), "{size} bytes took {took:?}");
        assert_eq!(network.asks.len(), 1);
    }
}

#[test]
fn without_loss_a_server_is_as_fast_as_it_says() {
    let file = pattern(30_000_000, 2);
    let mut network = Network::new(2, ClientConfig::default());
    network.serve(&file);
    let took = network.run();
    network.assert_has(&file);
    assert!(took < Duration::from_millis(500), "{took:?} is less than 60 MB/s");
    assert_eq!(network.asks.len(), 1);
}

#[test]
fn a_fifth_lost_and_all_arrives() {
    for seed in 0..12 {
        let file = pattern(3_000_000 + seed as usize, seed);
        let mut network = Network::new(seed, ClientConfig::default());
        network.loss_percent = 20;
        network.serve(&file);
        let took = network.run();
        network.assert_has(&file);
        assert!(took < Duration::from_secs(8), "seed {seed}: {took:?}, asked {} times", network.asks.len());
    }
}

#[test]
fn several_servers_together_need_fewer_requests() {
    let file = pattern(2_000_000, 4);
    let asks = |servers| {
        let mut total = 0;
        for seed in 0..8 {
            let mut network = Network::new(seed, ClientConfig::default());
            network.loss_percent = 20;
            for _ in 0..servers {
                network.serve(&file);
            }
            network.run();
            network.assert_has(&file);
            let reports = network.reports();
            assert!(reports.iter().filter(|report| report.chunks > 0).count() >= servers.min(2));
            total += network.asks.len();
        }
        total
    };
    let (one, three) = (asks(1), asks(3));
    assert!(three * 3 < one * 2, "{three} requests to three servers, {one} to one");
}

#[test]
fn servers_that_send_all_at_once_are_not_asked_before_they_are_done() {
    for seed in 0..6 {
        let file = pattern(1_500_000, seed);
        let mut network = Network::new(seed, ClientConfig::default());
        network.loss_percent = if seed < 2 { 0 } else { 10 };
        network.serve_classic(&file);
        network.run();
        network.assert_has(&file);
        // Each burst takes 22 ms; a request in the middle of one would bring one more that nobody needs.
        for pair in network.asks.windows(2) {
            assert!(pair[1].since(pair[0]) >= Duration::from_millis(120), "seed {seed}: {:?}", network.asks);
        }
        assert!(network.asks.len() <= if seed < 2 { 1 } else { 12 }, "seed {seed}: {:?}", network.asks);
    }
}

#[test]
fn a_different_file_of_that_name_is_told_unless_one_is_chosen() {
    let (file, other) = (pattern(50_000, 5), pattern(50_000, 6));
    let mut network = Network::new(5, ClientConfig::default());
    network.serve(&file);
    network.serve(&file);
    network.serve_classic(&other);
    network.run();
    let client::Output::Failed(Failure::Ambiguous { answers }) = network.end() else {
        panic!("{:?}", network.end())
    };
    let hashes: Vec<Digest> = answers.iter().map(|(_, except)| except.sha256).collect();
    assert_eq!(hashes, [Digest::of(&file), Digest::of(&file), Digest::of(&other)]);

    let wanted = Some(Digest::of(&file));
    let mut network = Network::new(5, ClientConfig { wanted, ..ClientConfig::default() });
    network.serve_classic(&other);
    network.serve(&file);
    network.run();
    network.assert_has(&file);
}

#[test]
fn damaged_chunks_are_never_written() {
    let file = pattern(400_000, 7);
    for seed in 0..5 {
        let mut network = Network::new(seed, ClientConfig::default());
        let liar = network.serve(&file);
        network.servers[liar].lie = 1;
        network.serve(&file);
        network.run();
        network.assert_has(&file);
        let reports = network.reports();
        assert!(reports[0].bad > 0 && reports[0].chunks == 0, "seed {seed}: {reports:?}");
        assert_eq!(reports[1].bytes, 400_000);
    }
}

#[test]
fn only_damaged_chunks_end_in_silence() {
    let config = ClientConfig { silence_max: Duration::from_secs(5), ..ClientConfig::default() };
    let mut network = Network::new(8, config);
    let liar = network.serve(&pattern(20_000, 8));
    network.servers[liar].lie = 1;
    network.run();
    let expected = Failure::Silence { missing: 20, chunks: 20 };
    assert_eq!(network.end(), &client::Output::Failed(expected));
}

#[test]
fn a_slow_classic_client_gets_all_of_a_large_file() {
    // From one that keeps up to one that needs 50 microseconds for a datagram of which 14 would do.
    for micros in [5, 12, 25, 50] {
        let file = pattern(12_000_000, 9);
        let mut network = Network::with_client(9, Classic::client(Duration::from_micros(micros)));
        network.serve(&file);
        let took = network.run();
        let Client::Classic(classic) = &network.client else { panic!("it is classic") };
        assert_eq!(classic.over, Some(true), "{micros} µs a datagram");
        let got: Vec<u8> = classic.chunks.values().flatten().copied().collect();
        assert!(got == file);
        let asks = network.asks.len();
        assert!(took < Duration::from_secs(8) && asks <= 5, "{micros} µs: {took:?}, {asks} requests");
        assert!(micros > 12 || classic.overflown == 0, "{micros} µs: {} lost", classic.overflown);
    }
}

#[test]
fn a_classic_client_survives_loss() {
    for seed in 0..6 {
        let file = pattern(500_000, seed);
        let mut network = Network::with_client(seed, Classic::client(Duration::from_micros(10)));
        network.loss_percent = 5;
        network.serve(&file);
        network.run();
        let Client::Classic(classic) = &network.client else { panic!("it is classic") };
        // A lost announcement makes it burn its tries on the first chunks, which leave it the time for that.
        assert_eq!(classic.over, Some(true), "seed {seed}");
    }
}
