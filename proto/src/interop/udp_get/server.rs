//! The server's side: who is being sent which file, and how fast.
//!
//! It owns the bursts under way and what it remembers of those who asked. It refuses to look names up, to read files and
//! to send: it says which chunk goes where and when, and the caller reads it and puts its hash behind it. A crash loses
//! the bursts; whoever waits for one asks again.
//!
//! A socket address is in one of three states: nothing, a *lookup* under way, or a *burst* under way. A request that may
//! be answered leads to a lookup and ends its burst, whatever file that was of; an answer to the lookup leads to a burst
//! (or to nothing, if the file is not here); a burst ends with its last chunk.
//!
//! **How fast.** Nobody acknowledges anything here. A burst begins at a rate that a client keeps up with if it has nothing
//! else to do, and only a repeated request shows that something was lost. It does not show why: so the rate is halved on
//! each of the first two repeats, which suits nearly all slow clients, and after that on every fourth only, since on a
//! lossy link a large file needs some seven repeats at any rate. What was missed by a late caller is caught up with for a
//! few milliseconds only: a client's socket buffer holds 100 to 200 datagrams.
//!
//! **Who.** One datagram of 20 bytes makes a server send a whole file, and its sender can be forged. So only on-link
//! addresses are answered, with a bound on bursts at once and on bytes a second, for each address and for all.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::order::ChunkOrder;
use super::pace::Bucket;
use super::wire::{CHUNK_DATA_SIZE, DATAGRAM_SIZE_MAX, Except, GET_SIZE_MAX, decode_get};
use crate::digest::Digest;
pub use crate::engine::serve::ContentKey;
use crate::name::RelativePath;
use crate::time::Time;

/// Most lookups that are under way at once.
pub const LOOKUPS_MAX: usize = 256;

/// Most socket addresses whose repeats are remembered, and most addresses whose rates are.
pub const REMEMBERED_MAX: usize = 1024;

/// A lookup that takes longer is forgotten: whoever waits for it has asked again or given up.
const LOOKUP_MAX: Duration = Duration::from_secs(15);

/// A request that follows sooner on another one does not show loss: it came over a second interface, or in a volley.
const REPEAT_MIN: Duration = Duration::from_millis(100);

/// A request that follows later is a new download.
const REPEAT_MAX: Duration = Duration::from_secs(60);

/// What every datagram counts as, in bytes; only the first and the last one of a burst are smaller.
const DATAGRAM: u64 = DATAGRAM_SIZE_MAX as u64;

/// Bytes that are waited for, so that not every datagram needs a tick of its own.
const QUANTUM: u64 = 16 * DATAGRAM;

/// The first chunks of a burst come one by one. A classic client that missed the announcement asks again for each chunk
/// that it gets instead, a few times only, and is lost if they come faster than it can be answered.
const FIRST_CHUNKS: usize = 3;

/// How far the first chunks are apart.
const FIRST_GAP: Duration = Duration::from_millis(2);

/// How late the caller may be without loss of the rates of an address and of all.
const CATCH_UP_SHARED: Duration = Duration::from_millis(20);

/// What serving may be tuned with. Rates are in bytes a second of whole datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// How fast a burst is that nobody has complained of.
    pub burst_rate: u64,
    /// No repeat makes a burst slower than this.
    pub burst_rate_min: u64,
    /// How much of a burst's rate is caught up with after a late tick.
    pub burst_catch_up: Duration,
    /// How fast all bursts to one address are together.
    pub address_rate: u64,
    /// How fast all bursts are together; `None` for no limit.
    pub total_rate: Option<u64>,
    /// Most bursts at once; requests beyond are not answered.
    pub bursts_max: usize,
    /// Most bursts at once to one address.
    pub address_bursts_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            burst_rate: 72_000_000,
            burst_rate_min: 2_000_000,
            burst_catch_up: Duration::from_millis(2),
            address_rate: 100_000_000,
            total_rate: None,
            bursts_max: 32,
            address_bursts_max: 8,
        }
    }
}

/// One lookup in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupToken(pub u64);

/// A file as the catalog knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedFile {
    /// What the caller reads it by.
    pub content: ContentKey,
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 of all of it.
    pub sha256: Digest,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// A datagram came in.
    Received {
        /// Its sender, as it says.
        from: SocketAddr,
        /// Whether that is an address of a subnet of this machine's interfaces.
        on_link: bool,
        /// What was in it.
        bytes: &'a [u8],
    },
    /// The catalog has answered.
    Found {
        /// Which lookup.
        token: LookupToken,
        /// The file, or `None` if there is none of that name.
        file: Option<ServedFile>,
    },
    /// A burst cannot go on: its file cannot be read, or nobody listens there any more.
    Stopped {
        /// Whose burst.
        to: SocketAddr,
    },
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Look a name up; then [`Input::Found`].
    Lookup {
        /// Which lookup.
        token: LookupToken,
        /// The name that was asked for.
        name: RelativePath,
    },
    /// Send this, from the port that listens.
    Send {
        /// To whom.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// Read a chunk, and send it with [`super::wire::seal_chunk`], from the port that listens.
    SendChunk {
        /// To whom.
        to: SocketAddr,
        /// Of which file.
        content: ContentKey,
        /// The number of the chunk.
        number: u32,
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u32,
    },
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCounters {
    /// Datagrams that were no request.
    pub malformed: u64,
    /// Requests from addresses that are not on-link, or are no address of one host.
    pub off_link: u64,
    /// Requests that were one too many for a bound.
    pub refused: u64,
    /// Requests for files that are not here.
    pub unknown: u64,
    /// Bursts that were begun.
    pub bursts: u64,
    /// Bursts whose rest was dropped for a new request.
    pub restarted: u64,
    /// Chunks that were sent.
    pub chunks: u64,
}

/// The server's side, for one node.
#[derive(Debug)]
pub struct ServerEngine {
    config: ServerConfig,
    seed: u64,
    next_token: u64,
    /// At most one for each socket address.
    lookups: BTreeMap<SocketAddr, Lookup>,
    /// At most one for each socket address; the next one to be served first.
    bursts: VecDeque<Burst>,
    remembered: BTreeMap<SocketAddr, Remembered>,
    addresses: BTreeMap<AddressKey, Bucket>,
    total: Option<Bucket>,
    outputs: VecDeque<Output>,
    wake: Option<Time>,
    counters: ServerCounters,
}

#[derive(Debug)]
struct Lookup {
    token: LookupToken,
    name: RelativePath,
    at: Time,
}

#[derive(Debug)]
struct Burst {
    to: SocketAddr,
    file: ServedFile,
    /// Not sent yet.
    except: Option<Except>,
    order: ChunkOrder,
    bucket: Bucket,
    /// Nothing is sent before.
    not_before: Time,
}

/// Who asked for what, and how often.
#[derive(Debug)]
struct Remembered {
    name: RelativePath,
    at: Time,
    repeats: u32,
}

/// What counts as one address. On loopback all clients have the same one, so there it is a socket.
type AddressKey = (IpAddr, u16);

impl ServerEngine {
    /// Nobody is served yet.
    pub fn new(config: ServerConfig, seed: u64) -> Self {
        let total = config.total_rate.map(|rate| Bucket::new(Time::ZERO, rate, CATCH_UP_SHARED, DATAGRAM));
        ServerEngine {
            config,
            seed,
            next_token: 0,
            lookups: BTreeMap::new(),
            bursts: VecDeque::new(),
            remembered: BTreeMap::new(),
            addresses: BTreeMap::new(),
            total,
            outputs: VecDeque::new(),
            wake: None,
            counters: ServerCounters::default(),
        }
    }

    /// Takes in what happened. Then drain [`ServerEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Received { from, on_link, bytes } => self.received(now, from, on_link, bytes),
            Input::Found { token, file } => self.found(now, token, file),
            Input::Stopped { to } => self.bursts.retain(|burst| burst.to != to),
            Input::Tick => {}
        }
        self.send(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before. The finer the caller's timer, the smoother the bursts.
    pub fn deadline(&self) -> Option<Time> {
        self.wake
    }

    /// How many bursts are under way.
    pub fn burst_count(&self) -> usize {
        self.bursts.len()
    }

    /// What has happened so far.
    pub fn counters(&self) -> ServerCounters {
        self.counters
    }

    fn received(&mut self, now: Time, from: SocketAddr, on_link: bool, bytes: &[u8]) {
        let name = if bytes.len() <= GET_SIZE_MAX { decode_get(bytes).ok() } else { None };
        let Some(name) = name else {
            self.counters.malformed += 1;
            return;
        };
        if !on_link || !is_one_host(from) {
            self.counters.off_link += 1;
            return;
        }
        if self
            .lookups
            .get(&from)
            .is_some_and(|lookup| lookup.name == name && now.since(lookup.at) < LOOKUP_MAX)
        {
            // What is being looked up answers this request too.
            return;
        }
        let bursts_before = self.bursts.len();
        self.bursts.retain(|burst| burst.to != from);
        self.counters.restarted += (bursts_before - self.bursts.len()) as u64;
        self.lookups.remove(&from);
        if !self.has_room(now, from) {
            self.counters.refused += 1;
            return;
        }
        let token = LookupToken(self.next_token);
        self.next_token += 1;
        self.lookups.insert(from, Lookup { token, name: name.clone(), at: now });
        self.outputs.push_back(Output::Lookup { token, name });
    }

    /// Whether one more may be answered, at that address and at all.
    fn has_room(&mut self, now: Time, from: SocketAddr) -> bool {
        self.lookups.retain(|_, lookup| now.since(lookup.at) < LOOKUP_MAX);
        let key = address_key(from);
        let taken = self.lookups.keys().copied().chain(self.bursts.iter().map(|burst| burst.to));
        let of_address = taken.filter(|&other| address_key(other) == key).count();
        self.lookups.len() < LOOKUPS_MAX
            && self.bursts.len() < self.config.bursts_max
            && of_address < self.config.address_bursts_max
    }

    fn found(&mut self, now: Time, token: LookupToken, file: Option<ServedFile>) {
        let Some(to) = self.lookups.iter().find(|(_, lookup)| lookup.token == token).map(|(&to, _)| to)
        else {
            return;
        };
        let Some(lookup) = self.lookups.remove(&to) else { return };
        let announced = file.and_then(|file| Some((file, Except::of_file(file.size, file.sha256)?)));
        let Some((file, except)) = announced else {
            self.counters.unknown += 1;
            return;
        };
        // Others may have taken the room while this was looked up.
        if self.bursts.len() >= self.config.bursts_max {
            self.counters.refused += 1;
            return;
        }
        let rate = self.rate_for(now, to, lookup.name);
        let bucket = Bucket::new(now, rate, self.config.burst_catch_up, DATAGRAM);
        self.counters.bursts += 1;
        let order = ChunkOrder::new(except.chunks, self.seed.wrapping_add(self.counters.bursts << 32));
        self.address_bucket(now, to);
        self.bursts.push_back(Burst { to, file, except: Some(except), order, bucket, not_before: now });
    }

    /// How fast a burst is to be, by how often its client had to ask.
    fn rate_for(&mut self, now: Time, to: SocketAddr, name: RelativePath) -> u64 {
        let repeats = match self.remembered.get(&to) {
            Some(before) if before.name == name && now.since(before.at) < REPEAT_MAX => {
                before.repeats.saturating_add(u32::from(now.since(before.at) >= REPEAT_MIN))
            }
            _ => 0,
        };
        if self.remembered.len() >= REMEMBERED_MAX
            && !self.remembered.contains_key(&to)
            && let Some(oldest) = self.remembered.iter().min_by_key(|(_, one)| one.at).map(|(&addr, _)| addr)
        {
            self.remembered.remove(&oldest);
        }
        self.remembered.insert(to, Remembered { name, at: now, repeats });
        let halvings = if repeats < 2 { repeats } else { 2 + (repeats - 2) / 4 };
        let rate = self.config.burst_rate.checked_shr(halvings).unwrap_or(0);
        rate.max(self.config.burst_rate_min.min(self.config.burst_rate))
    }

    /// Makes sure that the bytes to an address are counted.
    fn address_bucket(&mut self, now: Time, to: SocketAddr) {
        if self.addresses.len() >= REMEMBERED_MAX {
            let bursts = &self.bursts;
            let is_served = |key| bursts.iter().any(|burst| address_key(burst.to) == key);
            self.addresses.retain(|&key, bucket| is_served(key) || !bucket.is_full(now));
            if self.addresses.len() >= REMEMBERED_MAX {
                self.addresses.retain(|&key, _| is_served(key));
            }
        }
        let rate = self.config.address_rate;
        self.addresses
            .entry(address_key(to))
            .or_insert_with(|| Bucket::new(now, rate, CATCH_UP_SHARED, DATAGRAM));
    }

    /// Sends what the rates allow, in turn, and finds out when they allow more.
    fn send(&mut self, now: Time) {
        let mut idle = 0;
        while idle < self.bursts.len() {
            let Some(mut burst) = self.bursts.pop_front() else { break };
            if self.send_some(now, &mut burst) {
                idle = 0
            } else {
                idle += 1
            }
            if !burst.is_over() {
                self.bursts.push_back(burst);
            }
        }
        self.wake = self.bursts.iter().map(|burst| self.when(burst)).min();
    }

    /// Sends a little of one burst; whether anything could be sent.
    fn send_some(&mut self, now: Time, burst: &mut Burst) -> bool {
        let Some(address) = self.addresses.get_mut(&address_key(burst.to)) else { return false };
        let mut sent = 0;
        while sent < QUANTUM && !burst.is_over() {
            let allowed = now >= burst.not_before
                && burst.bucket.allows(now, DATAGRAM)
                && address.allows(now, DATAGRAM)
                && self.total.as_mut().is_none_or(|total| total.allows(now, DATAGRAM));
            if !allowed {
                break;
            }
            let Some(output) = burst.next() else { break };
            if burst.sent_chunks() <= FIRST_CHUNKS {
                burst.not_before = now + FIRST_GAP;
            }
            burst.bucket.take(DATAGRAM);
            address.take(DATAGRAM);
            if let Some(total) = &mut self.total {
                total.take(DATAGRAM);
            }
            self.counters.chunks += u64::from(matches!(output, Output::SendChunk { .. }));
            self.outputs.push_back(output);
            sent += DATAGRAM;
        }
        sent > 0
    }

    /// When a burst may go on.
    fn when(&self, burst: &Burst) -> Time {
        let bytes = burst.datagrams_left().saturating_mul(DATAGRAM).min(QUANTUM);
        let address = self.addresses.get(&address_key(burst.to)).map(|bucket| bucket.when(bytes));
        let total = self.total.as_ref().map(|bucket| bucket.when(bytes));
        address.into_iter().chain(total).fold(burst.bucket.when(bytes).max(burst.not_before), Time::max)
    }
}

impl Burst {
    fn datagrams_left(&self) -> u64 {
        self.order.len() as u64 + u64::from(self.except.is_some())
    }

    fn sent_chunks(&self) -> usize {
        self.order.given()
    }

    fn is_over(&self) -> bool {
        self.datagrams_left() == 0
    }

    fn next(&mut self) -> Option<Output> {
        if let Some(except) = self.except.take() {
            return Some(Output::Send { to: self.to, datagram: except.encode() });
        }
        let number = self.order.next()?;
        let offset = u64::from(number) * u64::from(CHUNK_DATA_SIZE);
        let len = self.file.size.saturating_sub(offset).min(u64::from(CHUNK_DATA_SIZE)) as u32;
        Some(Output::SendChunk { to: self.to, content: self.file.content, number, offset, len })
    }
}

/// Whether this can be the address of one host's socket: what goes to a group would reach many.
fn is_one_host(addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn address_key(addr: SocketAddr) -> AddressKey {
    let ip = addr.ip().to_canonical();
    (ip, if ip.is_loopback() { addr.port() } else { 0 })
}
