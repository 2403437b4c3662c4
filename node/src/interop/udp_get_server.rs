//! Serving files by udp-get: the sockets, files and time around [`ServerEngine`].
//!
//! It owns the sockets that bursts leave from, the files they are of, and the engine, all on a thread of its own: a burst
//! wants to be woken more often than the timers of tokio can, and a read that waits for a disk must not hold up anybody
//! else. It refuses to hear: requests are brought to it. A crash loses the bursts, and whoever waits for one asks again.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use ftx_proto::digest::Digest;
use ftx_proto::interop::udp_get::server::{
    ContentKey, Input, LookupToken, Output, ServedFile, ServerConfig, ServerCounters, ServerEngine,
};
use ftx_proto::interop::udp_get::wire::{DATAGRAM_SIZE_MAX, chunk_data_mut, is_get, seal_chunk};
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::time::Time;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::digests::Digests;
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::catalog::{ReadError, SharedReader};
use crate::clock::Clock;
use crate::net::interfaces::Interfaces;
use crate::net::udp::answering_socket;

/// What a server of udp-get is started with.
#[derive(Debug, Clone)]
pub struct UdpGetServing {
    /// Confines it to the interfaces that own this address.
    pub bind: Option<IpAddr>,
    /// The port that requests come to.
    pub port: u16,
    /// Bytes a second that it sends at most.
    pub max_upload: Option<u64>,
    /// What there is to serve.
    pub catalog: Link<CatalogMessage>,
    /// The SHA-256 of files.
    pub digests: Arc<Digests>,
    /// Where files are looked up and hashed.
    pub data: Handle,
    /// What time it is.
    pub clock: Clock,
}

/// Brings things to the thread, which ends when it is told to: it has one of these itself, for those who look up.
#[derive(Debug, Clone)]
pub struct UdpGetSender(Sender<Event>);

#[derive(Debug)]
enum Event {
    Heard {
        from: SocketAddr,
        bytes: Vec<u8>,
        /// Given back when the datagram has been dealt with.
        _permit: OwnedSemaphorePermit,
    },
    Found {
        token: LookupToken,
        name: RelativePath,
        file: Option<(SharedReader, Digest)>,
    },
    Counters(tokio::sync::oneshot::Sender<ServerCounters>),
    /// Nobody is to be served any more.
    Stop,
}

impl UdpGetSender {
    /// Brings a request.
    pub fn heard(&self, from: SocketAddr, bytes: Vec<u8>, permit: OwnedSemaphorePermit) {
        // The thread has ended: nobody is served any more.
        let _ = self.0.send(Event::Heard { from, bytes, _permit: permit });
    }

    /// What has happened so far.
    pub async fn counters(&self) -> Option<ServerCounters> {
        let (reply, counters) = tokio::sync::oneshot::channel();
        self.0.send(Event::Counters(reply)).ok()?;
        counters.await.ok()
    }

    /// Ends the thread.
    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }
}

/// Starts the thread. `ended` hears when it ends, with `true` if that was by a mistake of ours.
///
/// # Errors
/// If no thread can be started, or the interfaces cannot be listed.
pub fn start(serving: UdpGetServing, ended: impl FnOnce(bool) + Send + 'static) -> io::Result<UdpGetSender> {
    let (sender, events) = mpsc::channel();
    let interfaces = Interfaces::list(serving.bind)?;
    let config = ServerConfig { total_rate: serving.max_upload, ..ServerConfig::default() };
    let now = serving.clock.now();
    let server = Server {
        engine: ServerEngine::new(config, rand::random()),
        interfaces,
        listed: now,
        found: HashMap::new(),
        next_content: 0,
        bursts: HashMap::new(),
        looked: now,
        hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE_MAX)),
        events: sender.clone(),
        serving,
    };
    std::thread::Builder::new().name("udp-get".to_owned()).spawn(move || {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.run(&events)));
        ended(ran.is_err());
    })?;
    Ok(UdpGetSender(sender))
}

struct Server {
    serving: UdpGetServing,
    engine: ServerEngine,
    interfaces: Interfaces,
    /// When the interfaces were listed.
    listed: Time,
    /// Files that were found, until their bursts are over.
    found: HashMap<ContentKey, Found>,
    next_content: u64,
    bursts: HashMap<SocketAddr, Burst>,
    /// When the sockets and files were last looked through.
    looked: Time,
    hashing: Arc<Semaphore>,
    events: Sender<Event>,
}

struct Found {
    reader: Arc<SharedReader>,
    used: Time,
}

/// What is kept for one client.
struct Burst {
    socket: UdpSocket,
    /// The bytes around the chunk that was sent last: chunks come block by block, so each block is read once.
    block: Vec<u8>,
    /// Of which file, and where in it.
    place: Option<(ContentKey, u64)>,
    used: Time,
}

impl Server {
    fn run(mut self, events: &Receiver<Event>) {
        loop {
            let now = self.serving.clock.now();
            let wait = self.engine.deadline().map_or(IDLE, |due| due.since(now)).min(IDLE);
            match events.recv_timeout(wait) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => self.engine.handle(self.serving.clock.now(), Input::Tick),
            }
            self.carry_out();
            self.look_through();
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.serving.clock.now();
        match event {
            Event::Heard { from, bytes, _permit } => self.received(from, &bytes),
            Event::Found { token, name, file } => {
                let file = file.map(|(reader, sha256)| {
                    let content = ContentKey(self.next_content);
                    self.next_content += 1;
                    let size = reader.size();
                    self.found.insert(content, Found { reader: Arc::new(reader), used: now });
                    tracing::debug!(name = %printable(name.as_str()), size, "asked for by udp-get");
                    ServedFile { content, size, sha256 }
                });
                self.engine.handle(now, Input::Found { token, file });
            }
            Event::Counters(reply) => drop(reply.send(self.engine.counters())),
            Event::Stop => {}
        }
    }

    fn received(&mut self, from: SocketAddr, bytes: &[u8]) {
        let now = self.serving.clock.now();
        if now.since(self.listed) >= INTERFACES_INTERVAL {
            self.listed = now;
            match Interfaces::list(self.serving.bind) {
                Ok(interfaces) => self.interfaces = interfaces,
                Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
            }
        }
        let on_link = self.interfaces.on_link(from);
        self.engine.handle(now, Input::Received { from, on_link, bytes });
    }

    /// Does what the engine decided.
    fn carry_out(&mut self) {
        while let Some(output) = self.engine.poll() {
            let now = self.serving.clock.now();
            match output {
                Output::Lookup { token, name } => self.look_up(token, name),
                Output::Send { to, datagram } => {
                    let sent = self.burst(to, now).and_then(|burst| burst.send(&datagram));
                    self.sent(to, sent);
                }
                Output::SendChunk { to, content, number, offset, len } => {
                    let sent = self.send_chunk(now, to, content, number, offset, len);
                    self.sent(to, sent);
                }
            }
        }
    }

    /// Looks a name up and takes the sum of its file, elsewhere.
    fn look_up(&self, token: LookupToken, name: RelativePath) {
        let (catalog, digests) = (self.serving.catalog.clone(), Arc::clone(&self.serving.digests));
        let (events, hashing) = (self.events.clone(), Arc::clone(&self.hashing));
        self.serving.data.spawn(async move {
            let looked_up = name.clone();
            let found = catalog.call(|reply| CatalogMessage::FindFile(looked_up, reply)).await.ok().flatten();
            let file = match found {
                Some(file) => {
                    let _permit = hashing.acquire_owned().await;
                    let reading = tokio::task::spawn_blocking(move || -> Result<_, ReadError> {
                        let reader = file.open()?;
                        let sha256 = digests.sha256(reader.file())?;
                        reader.check()?;
                        Ok((reader, sha256))
                    });
                    let read = reading.await.ok();
                    read.and_then(|read| {
                        read.inspect_err(|error| {
                            tracing::warn!(name = %printable(name.as_str()), %error, "udp-get");
                        })
                        .ok()
                    })
                }
                None => None,
            };
            // The thread has ended: nobody is served any more.
            let _ = events.send(Event::Found { token, name, file });
        });
    }

    fn send_chunk(
        &mut self,
        now: Time,
        to: SocketAddr,
        content: ContentKey,
        number: u32,
        offset: u64,
        len: u32,
    ) -> io::Result<()> {
        let found = self.found.get_mut(&content).ok_or(io::ErrorKind::NotFound)?;
        found.used = now;
        let reader = Arc::clone(&found.reader);
        let burst = self.burst(to, now)?;
        let start = offset - offset % BLOCK_LEN;
        if burst.place != Some((content, start)) {
            burst.place = None;
            let block_len = (reader.size().saturating_sub(start)).min(BLOCK_LEN);
            burst.block.resize(block_len as usize, 0);
            reader.read(start, &mut burst.block).map_err(io::Error::other)?;
            burst.place = Some((content, start));
        }
        let mut datagram = [0; DATAGRAM_SIZE_MAX];
        let from = (offset - start) as usize;
        let data = burst.block.get(from..from + len as usize);
        let (Some(data), Some(place)) = (data, chunk_data_mut(&mut datagram, len)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        place.copy_from_slice(data);
        burst.send(seal_chunk(&mut datagram, number, len))
    }

    /// What came of a datagram. One that the system did not take is lost, as others are; the next may not be.
    fn sent(&mut self, to: SocketAddr, sent: io::Result<()>) {
        let Err(error) = sent else { return };
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return;
        }
        // Nobody listens there any more, or the file has changed.
        tracing::debug!(%to, %error, "a burst of udp-get ends");
        self.engine.handle(self.serving.clock.now(), Input::Stopped { to });
    }

    fn burst(&mut self, to: SocketAddr, now: Time) -> io::Result<&mut Burst> {
        if !self.bursts.contains_key(&to) {
            if self.bursts.len() >= SOCKETS_MAX
                && let Some(oldest) = self.bursts.iter().min_by_key(|(_, b)| b.used).map(|(&to, _)| to)
            {
                self.bursts.remove(&oldest);
            }
            let socket = answering_socket(&self.interfaces, self.serving.port, to)?;
            socket.set_write_timeout(Some(SEND_MAX))?;
            self.bursts.insert(to, Burst { socket, block: Vec::new(), place: None, used: now });
        }
        let burst = self.bursts.get_mut(&to).ok_or(io::ErrorKind::NotFound)?;
        burst.used = now;
        Ok(burst)
    }

    /// Hears what clients have sent to the sockets that are theirs alone, and lets go of what is not used any more.
    fn look_through(&mut self) {
        let now = self.serving.clock.now();
        if now.since(self.looked) < LOOK_INTERVAL {
            return;
        }
        self.looked = now;
        let mut requests = Vec::new();
        for (&from, burst) in &self.bursts {
            // A socket that stays as it is sends or hears a little differently, no more.
            let _ = burst.socket.set_nonblocking(true);
            let mut bytes = [0; DATAGRAM_SIZE_MAX];
            while let Ok(len) = burst.socket.recv(&mut bytes) {
                if is_get(&bytes[..len]) && requests.len() < SOCKETS_MAX {
                    requests.push((from, bytes[..len].to_vec()));
                }
            }
            let _ = burst.socket.set_nonblocking(false);
        }
        for (from, bytes) in requests {
            self.received(from, &bytes);
        }
        self.carry_out();
        self.bursts.retain(|_, burst| now.since(burst.used) < SOCKET_IDLE_MAX);
        if self.engine.burst_count() == 0 {
            self.found.retain(|_, found| now.since(found.used) < SOCKET_IDLE_MAX);
        } else {
            self.found.retain(|_, found| now.since(found.used) < FILE_IDLE_MAX);
        }
    }
}

impl Burst {
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).map(drop)
    }
}

/// Bytes that are read at once: a block within which chunks are shuffled.
const BLOCK_LEN: u64 = 1 << 20;

/// Most clients for which a socket and a block are kept: more than there can be bursts.
const SOCKETS_MAX: usize = 64;

/// Most files whose sums are taken at once.
const HASHED_AT_ONCE_MAX: usize = 4;

/// How long the thread sleeps if nothing happens.
const IDLE: Duration = Duration::from_millis(500);

/// How long the system's queue may be full before a datagram is lost.
const SEND_MAX: Duration = Duration::from_millis(20);

/// How often the sockets are heard on.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a socket is kept after it was used last.
const SOCKET_IDLE_MAX: Duration = Duration::from_secs(5);

/// How long a file is kept open after it was used last, where bursts are under way that may be slow.
const FILE_IDLE_MAX: Duration = Duration::from_secs(300);

/// How often the interfaces are listed again, if there are requests.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(5);
