//! Fetching a file in stripes: the sockets, the file and the time around [`DownloadEngine`].
//!
//! It owns the connections of one download and the unfinished file. Each stripe goes straight to its place; the MD5 is
//! taken meanwhile (`arrived`). A crash leaves a part that the next fetch to this target throws away.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::interop::striped::Threads;
use ftx_proto::interop::striped::download::{
    DownloadConfig, DownloadEngine, Failure, Input, Output, StripeEnd,
};
use ftx_proto::interop::striped::reply::{Reply, ReplyError, ReplyParser, encode_request};
use ftx_proto::name::printable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until, timeout};

use super::arrived::Arrived;
use super::fetched::{Fetched, finish};
use super::meter::{Meter, Phase};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::net::tcp::{connect, connect_to_host};
use crate::store::{Target, WholeData, WholeFile};

/// What is to be fetched, and how.
#[derive(Debug, Clone)]
pub struct StripedRequest {
    /// Name or address of the server.
    pub host: String,
    /// Of its control connections.
    pub port: u16,
    /// Sent as it stands.
    pub path: String,
    /// In how many stripes.
    pub threads: Threads,
    /// The address to connect from, where the node is confined to one.
    pub local: Option<IpAddr>,
    /// How long anything may take; `None` for what is usual.
    pub patience: Option<Duration>,
}

/// Fetches the file to `target`.
///
/// # Errors
/// [`Code::NotFound`], [`Code::Refused`], [`Code::Timeout`], [`Code::Network`], [`Code::Integrity`], and what the
/// target says.
pub async fn fetch(
    request: StripedRequest,
    target: Target,
    force: bool,
    meter: Arc<Meter>,
) -> Result<Fetched, Error> {
    let begun = Instant::now();
    let creating = tokio::task::spawn_blocking(move || WholeFile::create(target, force));
    let file = creating.await.map_err(|_| Error::other("the target could not be opened"))??;
    let arrived =
        Arrived::new(usize::from(request.threads.count()), file.data().clone()).map_err(no_thread)?;
    let download = Download::new(request, file.data().clone(), Arc::clone(&arrived), Arc::clone(&meter));
    let (size, wanted) = download.run().await?;
    meter.enter(Phase::Verifying);
    let sum = arrived.sum().ok_or_else(|| Error::other("the sum of the file was taken before"))?;
    let found = sum.finish(size).await;
    let found = found.map_err(|error| Error::other(format!("cannot sum up what came: {error}")))?;
    let (wanted, found) = (wanted.to_string(), found.to_string());
    let finishing = tokio::task::spawn_blocking(move || (finish(file, size, &wanted, found.clone()), found));
    let (finished, sum) = finishing.await.map_err(|_| Error::other("the file could not be finished"))?;
    let (path, file) = finished?;
    Ok(Fetched { path, file, size, sum, elapsed: begun.elapsed() })
}

/// What the tasks of a download say.
enum Event {
    Replied(Result<(Reply, SocketAddr), AskError>),
    Connected(u8, io::Result<TcpStream>),
    Ended { stripe: u8, len: u64, end: StripeEnd, silent: bool },
    NotWritten(Error),
}

enum AskError {
    /// There is nobody at the address.
    Connect(io::Error),
    Reply(ReplyError),
}

struct Download {
    request: StripedRequest,
    clock: Clock,
    engine: DownloadEngine,
    file: WholeData,
    arrived: Arc<Arrived>,
    meter: Arc<Meter>,
    /// Known once it has replied.
    server: Option<SocketAddr>,
    /// Open connections of stripes that are not read yet.
    open: HashMap<u8, TcpStream>,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<(u64, Event)>,
    tell: mpsc::Sender<(u64, Event)>,
    /// Counts how often everything under way was abandoned; what older tasks say is not heard.
    era: u64,
    /// Whether the last stripe that broke was silent.
    silent: bool,
    /// About; 0 as long as nothing is known of it.
    size: u64,
    /// The size that was shown.
    shown: u64,
}

impl Download {
    fn new(request: StripedRequest, file: WholeData, arrived: Arc<Arrived>, meter: Arc<Meter>) -> Self {
        let clock = Clock::start();
        let usual = DownloadConfig::default();
        let config = DownloadConfig { reply_max: request.patience.unwrap_or(usual.reply_max), ..usual };
        let engine = DownloadEngine::new(clock.now(), request.threads, config);
        let (tell, events) = mpsc::channel(EVENTS_WAITING_MAX);
        Download {
            request,
            clock,
            engine,
            file,
            arrived,
            meter,
            server: None,
            open: HashMap::new(),
            tasks: JoinSet::new(),
            events,
            tell,
            era: 0,
            silent: false,
            size: 0,
            shown: 0,
        }
    }

    /// The size and the MD5 that the file must have, once all of it is in its place.
    async fn run(mut self) -> Result<(u64, ftx_proto::interop::striped::Md5Hash), Error> {
        let mut looking = interval(PROGRESS_INTERVAL);
        loop {
            while let Some(output) = self.engine.poll() {
                match output {
                    Output::Complete { size, hash } => {
                        self.tasks.shutdown().await;
                        self.show(size, size);
                        return Ok((size, hash));
                    }
                    Output::Failed(failure) => return Err(self.failed(&failure)),
                    output => self.carry_out(output).await?,
                }
            }
            while self.tasks.try_join_next().is_some() {}
            let deadline =
                self.engine.deadline().map_or(Instant::now() + IDLE, |due| self.clock.instant(due));
            tokio::select! {
                Some((era, event)) = self.events.recv() => {
                    if era == self.era {
                        self.event(event)?;
                    }
                }
                () = sleep_until(deadline) => self.engine.handle(self.clock.now(), Input::Tick),
                _ = looking.tick() => {
                    let bytes = self.arrived.bytes();
                    self.show(bytes, self.size.max(bytes));
                }
            }
        }
    }

    fn show(&mut self, bytes: u64, size: u64) {
        if size != self.shown {
            self.shown = size;
            self.meter.begin(size, 0);
        }
        self.meter.reach(bytes);
    }

    fn event(&mut self, event: Event) -> Result<(), Error> {
        let input = match event {
            Event::Replied(Ok((reply, server))) => {
                self.server = Some(server);
                Input::Replied(Ok(reply))
            }
            Event::Replied(Err(AskError::Reply(error))) => Input::Replied(Err(error)),
            Event::Replied(Err(AskError::Connect(error))) => return Err(self.unreachable(&error)),
            Event::Connected(stripe, Ok(tcp)) => {
                self.open.insert(stripe, tcp);
                Input::Connected { stripe }
            }
            Event::Connected(stripe, Err(error)) => {
                self.silent = error.kind() == io::ErrorKind::TimedOut;
                tracing::debug!(stripe, %error, "no connection for a stripe");
                Input::ConnectFailed { stripe }
            }
            Event::Ended { stripe, len, end, silent } => {
                if end == StripeEnd::Closed {
                    self.arrived.done(stripe);
                } else {
                    self.silent = silent;
                    tracing::debug!(stripe, len, ?end, "a stripe broke");
                }
                Input::Ended { stripe, len, end }
            }
            Event::NotWritten(error) => return Err(error),
        };
        self.engine.handle(self.clock.now(), input);
        Ok(())
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), Error> {
        match output {
            Output::Ask => {
                let (request, tell, era) = (self.request.clone(), self.tell.clone(), self.era);
                self.tasks.spawn(async move {
                    let asked = ask(&request).await;
                    let _ = tell.send((era, Event::Replied(asked))).await;
                });
            }
            Output::Connect { stripe, port } => {
                let Some(mut server) = self.server else { return Ok(()) };
                server.set_port(port);
                let (local, tell, era) = (self.request.local, self.tell.clone(), self.era);
                let patience = self.request.patience.unwrap_or(CONNECT_MAX);
                self.tasks.spawn(async move {
                    let connected = connect(server, local, patience).await;
                    let _ = tell.send((era, Event::Connected(stripe, connected))).await;
                });
            }
            Output::SendId { stripe } => {
                if let Some(tcp) = self.open.get_mut(&stripe) {
                    // A single byte always fits; a connection that is broken shows when it is read.
                    let _ = timeout(CONNECT_MAX, tcp.write_all(&[stripe])).await;
                }
            }
            Output::Read { stripe, at, skip, len_max } => {
                let Some(tcp) = self.open.remove(&stripe) else { return Ok(()) };
                self.arrived.begin(stripe, at, skip).map_err(no_thread)?;
                if stripe > 0 {
                    self.size = len_max.saturating_mul(u64::from(self.request.threads.count()));
                }
                let reading = Reading {
                    tcp,
                    file: self.file.clone(),
                    arrived: Arc::clone(&self.arrived),
                    stripe,
                    at,
                    skip,
                    len_max,
                    buffer_len: (BUFFERS_LEN_MAX / usize::from(self.request.threads.count())).min(READ_LEN),
                    silence_max: self.request.patience.unwrap_or(SILENCE_MAX),
                };
                let (tell, era) = (self.tell.clone(), self.era);
                self.tasks.spawn(async move {
                    let event = reading.run().await;
                    let _ = tell.send((era, event)).await;
                });
            }
            Output::Close { stripe } => drop(self.open.remove(&stripe)),
            Output::Abandon => {
                self.era += 1;
                // One that is just writing would write over what comes next.
                self.tasks.shutdown().await;
                self.open.clear();
            }
            // Dealt with where they end the download.
            Output::Complete { .. } | Output::Failed(_) => {}
        }
        Ok(())
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let StripedRequest { host, port, .. } = &self.request;
        let code = if error.kind() == io::ErrorKind::TimedOut { Code::Timeout } else { Code::Network };
        Error::new(code, format!("{host}, port {port}, cannot be reached: {error}"))
    }

    fn failed(&self, failure: &Failure) -> Error {
        let StripedRequest { host, port, path, .. } = &self.request;
        let code = match failure {
            Failure::Control(ReplyError::Refused { status: 404 }) => {
                return Error::new(
                    Code::NotFound,
                    format!("{host}, port {port}, has no {}", printable(path)),
                );
            }
            Failure::Control(ReplyError::Refused { .. }) => Code::Refused,
            Failure::NoReply => Code::Timeout,
            Failure::Stripes if self.silent => Code::Timeout,
            Failure::Control(_) | Failure::Stripes => Code::Network,
            Failure::Inconsistent | Failure::Changed => Code::Integrity,
            Failure::TooLarge => Code::Other,
        };
        let advice = match code {
            Code::Timeout => "; give a slow server more time with --timeout",
            Code::Integrity => "; nothing was kept; run the same command again",
            _ => "",
        };
        Error::new(code, format!("{} from {host}, port {port}: {failure}{advice}", printable(path)))
    }
}

fn no_thread(error: io::Error) -> Error {
    Error::other(format!("cannot start a thread: {error}"))
}

/// Makes the control request; the reply, and who gave it.
///
/// A path in a URL always begins with a slash, but original servers open what they are told: `/name` is at the root of
/// their machine, `name` in their folder. So what they do not have under the one is asked for under the other.
async fn ask(request: &StripedRequest) -> Result<(Reply, SocketAddr), AskError> {
    match (ask_for(&request.path, request).await, request.path.strip_prefix('/')) {
        (Err(refused @ AskError::Reply(ReplyError::Refused { status: 404 })), Some(path))
            if !path.is_empty() =>
        {
            ask_for(path, request).await.map_err(|_| refused)
        }
        (asked, _) => asked,
    }
}

async fn ask_for(path: &str, request: &StripedRequest) -> Result<(Reply, SocketAddr), AskError> {
    let StripedRequest { host, port, path: _, threads, local, patience } = request;
    let patience = patience.unwrap_or(CONNECT_MAX);
    let connected = connect_to_host(host, *port, *local, patience).await;
    let mut tcp = connected.map_err(AskError::Connect)?;
    let server = tcp.peer_addr().map_err(AskError::Connect)?;
    let named = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let message = encode_request(path, &named, *threads);
    let message = message.map_err(|error| AskError::Connect(io::Error::other(error)))?;
    // The connection broke before there was a reply.
    let broken = |_| AskError::Reply(ReplyError::CutShort);
    tcp.write_all(&message).await.map_err(broken)?;
    let (mut parser, mut buffer) = (ReplyParser::new(), [0; 4096]);
    loop {
        let reply = match tcp.read(&mut buffer).await {
            // A server that resets has said what it had to say.
            Ok(0) | Err(_) => Some(parser.end()),
            Ok(len) => parser.push(&buffer[..len]),
        };
        if let Some(reply) = reply {
            return reply.map(|reply| (reply, server)).map_err(AskError::Reply);
        }
    }
}

/// The reading of one stripe.
struct Reading {
    tcp: TcpStream,
    file: WholeData,
    arrived: Arc<Arrived>,
    stripe: u8,
    at: u64,
    skip: u64,
    len_max: u64,
    buffer_len: usize,
    silence_max: Duration,
}

impl Reading {
    async fn run(mut self) -> Event {
        let stripe = self.stripe;
        let mut buffer = vec![0; self.buffer_len];
        let mut len = 0;
        loop {
            self.arrived.turn(stripe).await;
            let (end, silent) = match timeout(self.silence_max, self.tcp.read(&mut buffer)).await {
                Ok(Ok(0)) => (StripeEnd::Closed, false),
                Ok(Ok(count)) if len + count as u64 > self.len_max => (StripeEnd::TooLong, false),
                Ok(Ok(count)) => {
                    if let Err(error) = self.store(len, &buffer[..count]) {
                        return Event::NotWritten(error);
                    }
                    len += count as u64;
                    continue;
                }
                Ok(Err(_)) => (StripeEnd::Broken, false),
                Err(_) => (StripeEnd::Broken, true),
            };
            return Event::Ended { stripe, len, end, silent };
        }
    }

    /// Puts bytes of the stripe in their place, unless they are there already.
    fn store(&self, from: u64, bytes: &[u8]) -> Result<(), Error> {
        let known = self.skip.saturating_sub(from).min(bytes.len() as u64);
        let new = &bytes[known as usize..];
        if !new.is_empty() {
            self.file.write_at(self.at + from + known, new)?;
            self.arrived.reached(self.stripe, from + bytes.len() as u64);
        }
        Ok(())
    }
}

/// What tasks say that was not looked at yet: each stripe says one thing at a time.
const EVENTS_WAITING_MAX: usize = 512;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a stripe may be silent while it is read.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// How long to sleep where the engine waits for nothing but events.
const IDLE: Duration = Duration::from_secs(3600);

/// Bytes that are read at once from one stripe, and by all of them together.
const READ_LEN: usize = 256 * 1024;

/// See [`READ_LEN`].
const BUFFERS_LEN_MAX: usize = 8 << 20;
