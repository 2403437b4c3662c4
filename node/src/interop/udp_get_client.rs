//! Fetching a file by udp-get: the socket, the file and the time around [`ClientEngine`].
//!
//! It owns the socket, the unfinished file and the engine, on the thread that it is called on: whoever receives a chunk
//! verifies it and writes it. It refuses to leave the interfaces that it is confined to. A crash leaves a part that the
//! next fetch to this target throws away.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ftx_proto::digest::Digest;
use ftx_proto::interop::udp_get::client::{ClientConfig, ClientEngine, Failure, Input, Output, ServerReport};
use ftx_proto::interop::udp_get::wire::{CHUNK_DATA_SIZE, DATAGRAM_SIZE_MAX};
use ftx_proto::name::RelativePath;
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::fetched::{Fetched, finish};
use super::meter::{Meter, Phase};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::net::interfaces::Interfaces;
use crate::store::{Target, WholeFile};

/// What is to be fetched, and from whom.
#[derive(Debug, Clone)]
pub struct UdpGetRequest {
    /// What it is called.
    pub name: RelativePath,
    /// The port of servers.
    pub port: u16,
    /// Confines it to the interfaces that own this address.
    pub bind: Option<IpAddr>,
    /// Whom to ask; if nobody, everybody is.
    pub peers: Vec<SocketAddr>,
    /// How long to wait for an answer, and for something new; `None` for what is usual.
    pub patience: Option<Duration>,
    /// How long to wait for an answer, if not as long as for something new.
    pub answer_max: Option<Duration>,
}

/// Fetches the file to `target`; what each server has done goes with it. Blocks until it is done or `stop` is set.
///
/// # Errors
/// [`Code::NoNode`], [`Code::Ambiguous`], [`Code::Timeout`], [`Code::Network`], [`Code::Integrity`],
/// [`Code::Interrupted`], and what the target says.
pub fn fetch(
    request: &UdpGetRequest,
    target: Target,
    force: bool,
    meter: &Meter,
    stop: &AtomicBool,
) -> Result<(Fetched, Vec<(SocketAddr, ServerReport)>), Error> {
    let begun = Instant::now();
    let mut file = WholeFile::create(target, force)?;
    let socket = open_socket(request)?;
    let clock = Clock::start();
    let usual = ClientConfig::default();
    let config = ClientConfig {
        answer_max: request.answer_max.or(request.patience).unwrap_or(usual.answer_max),
        silence_max: request.patience.unwrap_or(usual.silence_max),
        ..usual
    };
    let engine = ClientEngine::new(clock.now(), &request.name, config)
        .map_err(|error| Error::new(Code::Usage, format!("{}: {error}", request.name)))?;
    let mut fetching =
        Fetching { request, socket, clock, engine, file: &mut file, meter, shown: 0, told: begun };
    let (size, wanted) = fetching.run(stop)?;
    meter.enter(Phase::Verifying);
    let servers: Vec<_> = fetching.engine.servers().collect();
    let found = sha256_of(&file, size)?;
    let finished = finish(file, size, &wanted.to_string(), found.to_string());
    let (path, file) = finished.map_err(|error| accuse(error, &servers))?;
    let fetched = Fetched { path, file, size, sum: found.to_string(), elapsed: begun.elapsed() };
    Ok((fetched, servers))
}

struct Fetching<'a> {
    request: &'a UdpGetRequest,
    socket: UdpSocket,
    clock: Clock,
    engine: ClientEngine,
    file: &'a mut WholeFile,
    meter: &'a Meter,
    /// The size that was shown.
    shown: u64,
    /// When progress was told.
    told: Instant,
}

impl Fetching<'_> {
    /// The size and the SHA-256 that the file must have, once all chunks are in their places.
    fn run(&mut self, stop: &AtomicBool) -> Result<(u64, Digest), Error> {
        // One byte more than the largest datagram, so that a larger one shows.
        let mut buffer = [0; DATAGRAM_SIZE_MAX + 1];
        loop {
            while let Some(output) = self.engine.poll() {
                if let Some(done) = self.carry_out(output, &buffer)? {
                    self.tell();
                    return Ok(done);
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(Code::Interrupted, "interrupted; nothing was kept"));
            }
            let received = self.receive(&mut buffer)?;
            let input = match received {
                // Whoever was not asked has nothing to say.
                Some((_, from)) if !self.is_asked(from) => Input::Tick,
                Some((len, from)) => Input::Received { from, bytes: &buffer[..len] },
                None => Input::Tick,
            };
            self.engine.handle(self.clock.now(), input);
            if self.told.elapsed() >= PROGRESS_INTERVAL {
                self.tell();
            }
        }
    }

    /// The next datagram; `None` if it is time for something else.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Error> {
        match self.socket.recv_from(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A server that is asked directly is not there; another one may be.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(network(&error)),
        }
        let now = self.clock.now();
        let wait = self.engine.deadline().map_or(WAIT_MAX, |due| due.since(now)).min(WAIT_MAX);
        if wait.is_zero() {
            return Ok(None);
        }
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut waiting = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
        // Interrupted or not: whether there is something shows when it is read.
        let _ = rustix::event::poll(&mut waiting, Some(&timeout));
        match self.socket.recv_from(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(_) => Ok(None),
        }
    }

    fn carry_out(&mut self, output: Output, datagram: &[u8]) -> Result<Option<(u64, Digest)>, Error> {
        match output {
            Output::Ask { datagram } => self.ask(&datagram)?,
            Output::Joined { server, except } => {
                tracing::debug!(%server, chunks = except.chunks, sha256 = %except.sha256, "has it");
                self.file
                    .check_room(u64::from(except.chunks.saturating_sub(1)) * u64::from(CHUNK_DATA_SIZE))?;
            }
            Output::Write { offset, data, .. } => self.file.data().write_at(offset, &datagram[data])?,
            Output::Complete { size, sha256 } => return Ok(Some((size, sha256))),
            Output::Failed(failure) => return Err(self.failed(failure)),
        }
        Ok(None)
    }

    /// Whether an answer may come from there: from anybody, unless single servers are asked.
    fn is_asked(&self, from: SocketAddr) -> bool {
        let peers = &self.request.peers;
        peers.is_empty() || peers.iter().any(|peer| peer.ip().to_canonical() == from.ip().to_canonical())
    }

    /// Sends the request to whom it concerns.
    fn ask(&self, datagram: &[u8]) -> Result<(), Error> {
        let interfaces = Interfaces::list(self.request.bind).map_err(|error| network(&error))?;
        let to: Vec<SocketAddr> = if self.request.peers.is_empty() {
            let everybody = interfaces.iter().filter_map(|interface| interface.broadcast);
            everybody.map(|addr| SocketAddr::from((addr, self.request.port))).collect()
        } else {
            self.request.peers.clone()
        };
        let mut failed = None;
        let mut sent = false;
        for to in to {
            if self.request.bind.is_some_and(|bind| bind.is_loopback() && !to.ip().is_loopback()) {
                // Confined to this machine: not even a route that somebody has bent leads out.
                continue;
            }
            match self.socket.send_to(datagram, to) {
                Ok(_) => sent = true,
                // The answer to an earlier one, which says that nobody was there then.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sent = true,
                Err(error) => {
                    tracing::debug!(%to, %error, "cannot ask");
                    failed = Some(error);
                }
            }
        }
        match (sent, failed) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err(network(&error)),
            (false, None) => Err(Error::new(
                Code::Network,
                "there is no network to ask on; name a server with --peer, or another interface with --bind",
            )),
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let Some((count, chunks)) = self.engine.progress() else { return };
        let chunk = u64::from(CHUNK_DATA_SIZE);
        let size = u64::from(chunks) * chunk;
        if size != self.shown {
            self.shown = size;
            self.meter.begin(size, 0);
        }
        self.meter.reach(u64::from(count) * chunk);
    }

    fn failed(&self, failure: Failure) -> Error {
        let name = &self.request.name;
        match failure {
            Failure::NoAnswer => {
                let message = format!(
                    "{name}: no server answered; there is none on this network, or none has it (this system does not \
                     tell which), or --peer has to name it"
                );
                Error::new(Code::NoNode, message)
            }
            Failure::Ambiguous { answers } => {
                let lines: Vec<_> = answers
                    .iter()
                    .map(|(server, except)| format!("  {server}: {} ({} KiB)", except.sha256, except.chunks))
                    .collect();
                let message = format!(
                    "servers have different files of the name {name}; choose one with --peer:\n{}",
                    lines.join("\n")
                );
                Error::new(Code::Ambiguous, message)
            }
            Failure::Silence { .. } => {
                let message = format!("{name}: {failure}; give slow servers more time with --timeout");
                Error::new(Code::Timeout, message)
            }
            Failure::Changed => Error::new(Code::Integrity, format!("{name}: {failure}")),
            Failure::TooLarge { .. } => Error::other(format!("{name}: {failure}")),
        }
    }
}

/// Of several servers whose bytes are not what they announced it is not known who lied.
fn accuse(mut error: Error, servers: &[(SocketAddr, ServerReport)]) -> Error {
    let gave: Vec<_> = servers.iter().filter(|(_, report)| report.chunks > 0).collect();
    if error.code == Code::Integrity && gave.len() > 1 {
        let gave: Vec<_> = gave.iter().map(|(addr, _)| addr.to_string()).collect();
        error.message.push_str(&format!(
            "; one of {} has sent wrong bytes: ask one alone with --peer",
            gave.join(", ")
        ));
    }
    error
}

fn network(error: &io::Error) -> Error {
    Error::new(Code::Network, format!("the network refuses: {error}"))
}

fn open_socket(request: &UdpGetRequest) -> Result<UdpSocket, Error> {
    let open = || {
        let anywhere = match request.peers.first() {
            Some(SocketAddr::V6(_)) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let addr = SocketAddr::new(request.bind.unwrap_or(anywhere), 0);
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv4() {
            socket.set_broadcast(true)?;
        }
        socket.set_nonblocking(true)?;
        // What the system does not grant only costs datagrams in a burst.
        let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_LEN);
        socket.bind(&addr.into())?;
        io::Result::Ok(socket.into())
    };
    open().map_err(|error| network(&error))
}

fn sha256_of(file: &WholeFile, size: u64) -> Result<Digest, Error> {
    let mut hasher = Sha256::new();
    let hashed = file.data().read_all(size, |bytes| {
        hasher.update(bytes);
        Ok(())
    });
    hashed.map_err(|error| Error::other(format!("cannot read what came: {error}")))?;
    Ok(Digest(hasher.finalize().into()))
}

/// The longest time without a look at whether to stop.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Room for a burst of chunks, if the system grants it.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
