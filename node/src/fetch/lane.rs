//! A lane: one connection to a source, and the tasks that carry its bytes.
//!
//! The task that receives a run of chunks also hashes and writes it ([`Landing::land`]) before it reads on; the fetcher
//! hears of it in one message a run. What a lane accepts is only what was asked on it: anything else breaks the
//! protocol and ends the lane. How much can be under way is bounded by the source's window, which the engine keeps.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ftx_proto::digest::{NodeId, Root};
use ftx_proto::engine::fetch::{Input, SourceId};
use ftx_proto::engine::pull::choice::Carried;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::limits::SESSION_REQUESTS_MAX;
use ftx_proto::name::printable;
use ftx_proto::wire::datagram::ConnectionId;
use ftx_proto::wire::session::{Message, Refusal, RequestId, WhichHashes};
use ractor::ActorRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::arrived::ArrivedRun;
use super::asked::{Asked, HashesHere, LAYER_REQUEST, leaves_request, piece_of_leaves};
use super::landing::Landing;
use super::meter::LaneMeter;
use super::pull::{self, PullArguments};
use crate::actors::fetcher::FetcherMessage;
use crate::actors::link::LastWord;
use crate::actors::source::SourceMessage;
use crate::limits::{FRAME_WRITE_MAX, PING_INTERVAL, SESSION_IDLE_MAX};
use crate::net::connection::{self, Dialling, HANDSHAKE_TIMEOUT, Peer};
use crate::net::datagram::seal::DatagramSecret;
use crate::net::frame::{FrameError, FrameReader, FrameWriter};
use crate::runtimes::{self, Apart};

/// What a lane needs to know.
#[derive(Debug, Clone)]
pub struct LaneArguments {
    /// Which of the source's lanes it is.
    pub lane: usize,
    /// The source it leads to.
    pub source: SourceId,
    /// How to get there.
    pub dialling: Dialling,
    /// The content.
    pub root: Root,
    /// Ask for a way to get datagrams at once.
    pub datagrams: bool,
    /// Where its chunks go.
    pub landing: Arc<Landing>,
    /// Who hears of the lane.
    pub source_actor: ActorRef<SourceMessage>,
    /// Who hears of chunks.
    pub fetcher: ActorRef<FetcherMessage>,
}

/// What a lane is asked to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneCommand {
    /// Ask for chunks.
    Request(RequestId, Span),
    /// Do not want them any more.
    Cancel(RequestId),
    /// Ask for the hash of every piece.
    Layer,
    /// Ask for the hash of every chunk of a piece.
    Leaves(PieceIndex),
    /// Ask for a way to get chunks in datagrams.
    OpenDatagrams,
}

/// How a source gives chunks in datagrams, if it does.
#[derive(Debug, Clone)]
pub struct DatagramsHere {
    /// Where it takes Wants.
    pub peer: SocketAddr,
    /// Stands for the content there.
    pub connection: ConnectionId,
    /// From what the keys are made.
    pub secret: DatagramSecret,
}

/// What a source says of the content when a lane comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Who it is.
    pub peer: Peer,
    /// Bytes of the content, as the source has it.
    pub size: u64,
    /// Seconds and nanoseconds since 1970 of its last change.
    pub mtime: (i64, u32),
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether every piece is there.
    pub whole: bool,
}

/// Why a lane has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneEnd {
    /// The connection is gone, or there never was one.
    #[error("{0}")]
    Broke(String),
    /// The source does not give the content.
    #[error("{0}")]
    Refused(Refusal),
    /// One of the two nodes does not talk to the other.
    #[error("{why}")]
    NotAdmitted {
        /// Who is at the other end, by its certificate.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// The source broke the protocol, after it had proved who it is.
    #[error("{0}")]
    Violation(String),
}

impl From<FrameError> for LaneEnd {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(_) => LaneEnd::Broke(error.to_string()),
            FrameError::Malformed(_) => LaneEnd::Violation(error.to_string()),
        }
    }
}

fn broke(why: impl std::fmt::Display) -> LaneEnd {
    LaneEnd::Broke(why.to_string())
}

pub(super) fn violation(what: &str) -> LaneEnd {
    LaneEnd::Violation(what.to_owned())
}

/// The near end of a lane.
#[derive(Debug, Clone)]
pub struct Lane {
    commands: mpsc::Sender<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
    meter: Arc<LaneMeter>,
    geometry: Geometry,
}

/// A lane that has ended or cannot take any more; it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneBroken;

impl Lane {
    /// Starts a lane. Its task ends with the connection, or when the lane is dropped.
    pub fn start(
        arguments: LaneArguments,
        data: &tokio::runtime::Handle,
    ) -> (Self, tokio::task::AbortHandle) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let geometry = arguments.landing.geometry().clone();
        let lane = Lane { commands, asked: Arc::default(), meter: Arc::default(), geometry };
        let task = run(arguments, queue, Arc::clone(&lane.asked), Arc::clone(&lane.meter));
        (lane, runtimes::carry(task, data))
    }

    /// Starts a datagram lane, on a thread of its own. Its task ends when nothing comes any more, or when the lane is dropped.
    pub fn start_pull(
        arguments: PullArguments,
        data: &tokio::runtime::Handle,
    ) -> (Self, tokio::task::AbortHandle) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let geometry = arguments.landing.geometry().clone();
        let lane = Lane { commands, asked: Arc::default(), meter: Arc::default(), geometry };
        let task = pull::run(arguments, queue, Arc::clone(&lane.asked), Arc::clone(&lane.meter));
        (lane, Apart::start("datagrams-in", data).run(task))
    }

    /// Asks for something.
    pub fn send(&self, command: LaneCommand) -> Result<(), LaneBroken> {
        match command {
            LaneCommand::Request(request, span) => self.lock().open(request, span),
            LaneCommand::Layer => self.lock().open_hashes(LAYER_REQUEST),
            LaneCommand::Leaves(piece) => self.lock().open_hashes(leaves_request(piece)),
            LaneCommand::Cancel(_) | LaneCommand::OpenDatagrams => {}
        }
        self.commands.try_send(command).map_err(|_| LaneBroken)
    }

    /// Whether this request was asked on this lane and is not answered yet.
    pub fn has(&self, request: RequestId) -> bool {
        self.lock().is_open(request)
    }

    /// Chunks that were asked on this lane and are not here yet.
    pub fn outstanding(&self) -> u32 {
        self.lock().outstanding()
    }

    /// The requests that will not be answered if the lane is gone.
    pub fn unanswered(&self) -> Vec<RequestId> {
        self.lock().all_open()
    }

    /// Where it counts what it carries.
    pub fn meter(&self) -> Arc<LaneMeter> {
        Arc::clone(&self.meter)
    }

    /// Asks the system how its connection does. Says whether some of what was sent is known not to have arrived.
    pub fn look(&self) -> bool {
        self.meter.look()
    }

    /// What it has carried so far, as far as it was looked at.
    pub fn carried(&self) -> Carried {
        self.meter.carried()
    }

    /// Takes back what has not come of all requests, to ask for it elsewhere. What is on its way still counts.
    pub fn take_back(&self) -> Vec<(RequestId, Span)> {
        let taken = self.lock().close_all(&self.geometry);
        for request in taken.iter().map(|(request, _)| *request).collect::<BTreeSet<_>>() {
            let _ = self.commands.try_send(LaneCommand::Cancel(request));
        }
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Asked> {
        locked(&self.asked)
    }
}

pub(super) fn locked(asked: &Mutex<Asked>) -> std::sync::MutexGuard<'_, Asked> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Commands that may wait in a lane.
const COMMANDS_MAX: usize = SESSION_REQUESTS_MAX + 64;

/// `Have` messages of one lane that the fetcher has not looked at; further ones wait in the source's socket.
const HAVES_WAITING_MAX: usize = 4;

async fn run(
    arguments: LaneArguments,
    commands: mpsc::Receiver<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
    meter: Arc<LaneMeter>,
) {
    let lane = arguments.lane;
    let last = last_word(&arguments.source_actor, lane);
    let end = carry(arguments, commands, asked, &meter).await.err().unwrap_or_else(|| broke("closed"));
    last.say(SourceMessage::LaneDown(lane, end));
}

/// What the source hears of the end of a lane, whatever ends it.
pub(super) fn last_word(source: &ActorRef<SourceMessage>, lane: usize) -> LastWord<SourceMessage> {
    LastWord::new(source.clone(), SourceMessage::LaneDown(lane, broke("it failed inside this program")))
}

async fn carry(
    arguments: LaneArguments,
    commands: mpsc::Receiver<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
    meter: &LaneMeter,
) -> Result<(), LaneEnd> {
    let root = arguments.root;
    let dialled = connection::dial(arguments.dialling.clone()).await;
    let connection = dialled.map_err(|error| match error.refused_with() {
        Some(node) => LaneEnd::NotAdmitted { node, why: error.to_string() },
        None => broke(error),
    })?;
    let (mut reader, mut writer) = (connection.reader, connection.writer);
    let secret = connection.datagram_secret;
    // Whoever reads the meter asks the connection; it is there as long as this is.
    let _watch = connection.watch.inspect(|watch| meter.watch(watch));
    writer.write(&Message::Subscribe { root }, b"").await.map_err(broke)?;
    if arguments.datagrams {
        // At once, so that it costs no way there and back.
        writer.write(&Message::OpenDatagrams { root }, b"").await.map_err(broke)?;
    }
    let described = timeout(HANDSHAKE_TIMEOUT, describe(&mut reader, root, connection.peer))
        .await
        .map_err(|_| broke("it does not say what it has"))??;
    let _ = arguments.source_actor.cast(SourceMessage::LaneUp(arguments.lane, described));
    let (pongs, answers) = mpsc::channel(1);
    tokio::select! {
        ended = read(&mut reader, &arguments, &asked, meter, secret, pongs) => ended,
        ended = write(&mut writer, commands, root, asked.clone(), answers) => ended,
    }
}

async fn describe<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    wanted: Root,
    peer: Peer,
) -> Result<Described, LaneEnd> {
    match reader.read().await? {
        Some(Message::Describe { root, size, mtime, executable, whole }) if root == wanted => {
            Ok(Described { peer, size, mtime, executable, whole })
        }
        Some(Message::Refused { reason, .. }) => Err(LaneEnd::Refused(reason)),
        Some(Message::Goodbye(reason)) => Err(broke(printable(&reason))),
        Some(_) => Err(violation("it answered something else than it was asked")),
        None => Err(broke("it closed the connection")),
    }
}

async fn write<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    mut commands: mpsc::Receiver<LaneCommand>,
    root: Root,
    asked: Arc<Mutex<Asked>>,
    mut answers: mpsc::Receiver<u64>,
) -> Result<(), LaneEnd> {
    let mut pings = 0;
    loop {
        let message = tokio::select! {
            command = commands.recv() => match command {
                None => return Ok(()),
                Some(LaneCommand::Request(request, span)) => {
                    Message::Request { request, root, first: span.first().get(), count: span.count() }
                }
                Some(LaneCommand::Cancel(request)) => {
                    locked(&asked).close(request);
                    Message::Cancel { request }
                }
                Some(LaneCommand::OpenDatagrams) => Message::OpenDatagrams { root },
                Some(LaneCommand::Layer) => {
                    Message::WantHashes { request: LAYER_REQUEST, root, which: WhichHashes::PieceLayer }
                }
                Some(LaneCommand::Leaves(piece)) => {
                    let request = leaves_request(piece);
                    Message::WantHashes { request, root, which: WhichHashes::Leaves { piece: piece.get() } }
                }
            },
            Some(number) = answers.recv() => Message::Pong(number),
            () = tokio::time::sleep(PING_INTERVAL) => {
                pings += 1;
                Message::Ping(pings)
            }
        };
        match timeout(FRAME_WRITE_MAX, writer.write(&message, b"")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(LaneEnd::Broke(format!("the connection broke: {error}"))),
            Err(_) => return Err(broke("it takes nothing any more")),
        }
    }
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    arguments: &LaneArguments,
    asked: &Mutex<Asked>,
    meter: &LaneMeter,
    secret: DatagramSecret,
    pongs: mpsc::Sender<u64>,
) -> Result<(), LaneEnd> {
    let haves = Arc::new(Semaphore::new(HAVES_WAITING_MAX));
    let mut arrivals = Arrivals { arguments, run: None, due: tokio::time::Instant::now() };
    loop {
        let read = tokio::select! {
            biased;
            read = timeout(SESSION_IDLE_MAX, reader.read()) => read,
            () = tokio::time::sleep_until(arrivals.due), if arrivals.run.is_some() => {
                if arrivals.tell().is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let message = match read {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Err(broke("it closed the connection")),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(LaneEnd::Broke(format!("silent for {} s", SESSION_IDLE_MAX.as_secs()))),
        };
        let told = match message {
            Message::Have { root, pieces } => {
                let pieces = pieces_of(arguments.landing.geometry(), &pieces)
                    .filter(|_| root == arguments.root)
                    .ok_or_else(|| violation("it said to have what does not exist"))?;
                // Nobody closes the semaphore.
                let Ok(permit) = Arc::clone(&haves).acquire_owned().await else { return Ok(()) };
                Some(FetcherMessage::SourceHas { source: arguments.source, pieces, permit })
            }
            Message::Ping(number) => {
                // If one answer is still waiting to be written, it stands for this one too.
                let _ = pongs.try_send(number);
                None
            }
            Message::Datagrams { root, at } if root == arguments.root => {
                let here = at.map(|at| {
                    // With its scope, without which a link-local address leads nowhere.
                    let mut peer = arguments.dialling.addr;
                    peer.set_port(at.port);
                    DatagramsHere { peer, connection: ConnectionId(at.connection), secret: secret.clone() }
                });
                let _ = arguments.source_actor.cast(SourceMessage::Datagrams(arguments.lane, here));
                None
            }
            message => {
                meter.came(reader.payload_len() as u64);
                take(message, reader, arguments, asked)?
            }
        };
        if let Some(told) = told
            && arrivals.add(told, asked).is_err()
        {
            return Ok(());
        }
        // What is to be asked goes out in between, however much has come.
        tokio::task::yield_now().await;
    }
}

/// Chunks that landed and of which the fetch has not heard: what follows each other in a request is told together, as soon
/// as the request is answered or nothing more has come for a moment. Telling somebody wakes a thread, which costs as much as
/// a chunk does.
struct Arrivals<'a> {
    arguments: &'a LaneArguments,
    run: Option<ArrivedRun>,
    due: tokio::time::Instant,
}

impl Drop for Arrivals<'_> {
    /// However the lane ends: what is claimed and not told would never be complete.
    fn drop(&mut self) {
        // It is over for the fetch as well, if that does not listen any more.
        let _ = self.tell();
    }
}

impl Arrivals<'_> {
    /// Tells the fetch of this, now or, if that can wait, a little later. Fails if the fetch is over.
    fn add(&mut self, told: FetcherMessage, asked: &Mutex<Asked>) -> Result<(), LaneBroken> {
        let FetcherMessage::Fact(Input::Arrived { request, first, leaves, .. }) = told else {
            self.tell()?;
            return self.arguments.fetcher.cast(told).map_err(|_| LaneBroken);
        };
        let run = ArrivedRun { request, first, leaves };
        let rest = match &mut self.run {
            Some(last) => last.join(run),
            None => Some(run),
        };
        if let Some(rest) = rest {
            self.tell()?;
            self.run = Some(rest);
            self.due = tokio::time::Instant::now() + TOLD_WITHIN;
        }
        if locked(asked).is_open(request) { Ok(()) } else { self.tell() }
    }

    fn tell(&mut self) -> Result<(), LaneBroken> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let fact = run.fact(self.arguments.source);
        self.arguments.fetcher.cast(FetcherMessage::Fact(fact)).map_err(|_| LaneBroken)
    }
}

/// How long what has landed may wait to be told with what follows it.
const TOLD_WITHIN: Duration = Duration::from_millis(2);

/// What the fetcher has to know of a message, if anything. Chunks are hashed and written here.
fn take<R: AsyncRead + Unpin>(
    message: Message,
    reader: &mut FrameReader<R>,
    arguments: &LaneArguments,
    asked: &Mutex<Asked>,
) -> Result<Option<FetcherMessage>, LaneEnd> {
    let LaneArguments { source, landing, .. } = arguments;
    let (source, geometry) = (*source, landing.geometry());
    let landed = |request, span: Span, landed| match landed {
        Ok(leaves) => FetcherMessage::Fact(Input::Arrived { source, request, first: span.first(), leaves }),
        Err(error) => FetcherMessage::StoreFailed(error),
    };
    let arrived = |request, first, len| {
        locked(asked).arrived(geometry, request, first, len).map_err(LaneEnd::Violation)
    };
    Ok(match message {
        Message::Chunks { request, first } => arrived(request, first, reader.payload_len())?.map(|span| {
            let lengths = span.chunks().map(|chunk| geometry.chunk_len(chunk) as usize).collect::<Vec<_>>();
            landed(request, span, landing.land_chunks(span, &reader.parts(&lengths)))
        }),
        Message::Zeros { request, first, count } => {
            let none = || violation("it sent zeros for chunks that do not exist");
            let span = geometry.span(first, count).ok_or_else(none)?;
            let bytes = vec![0; geometry.len_of(span) as usize];
            arrived(request, first, bytes.len())?
                .map(|span| landed(request, span, landing.land(span, &bytes)))
        }
        Message::Hashes { request, first, last } => {
            let arrived = locked(asked).hashes_arrived(geometry, request, first, last, reader.payload());
            arrived.map_err(LaneEnd::Violation)?.map(|here| match here {
                HashesHere::Layer(hashes) => FetcherMessage::Fact(Input::Layer { source, hashes }),
                HashesHere::Leaves(piece, leaves) => {
                    FetcherMessage::Fact(Input::Leaves { source, piece, leaves })
                }
            })
        }
        Message::Refused { request: Some(request), reason, .. } => {
            let mut asked = locked(asked);
            // What was answered or cancelled meanwhile may be refused as well; that is nothing new.
            if asked.close(request) {
                Some(FetcherMessage::Fact(Input::Refused { source, request, refusal: reason }))
            } else if asked.close_hashes(request) {
                Some(FetcherMessage::Fact(match piece_of_leaves(geometry, request) {
                    Some(piece) => Input::LeavesFailed { source, piece },
                    None => Input::LayerFailed { source },
                }))
            } else {
                None
            }
        }
        // It cannot read the content any more: that was said of a datagram, which has no number here.
        Message::Refused { request: None, reason, .. } => return Err(LaneEnd::Refused(reason)),
        Message::Pong(_) => None,
        Message::Goodbye(reason) => return Err(broke(printable(&reason))),
        _ => return Err(violation("it sent what only the asking side may send")),
    })
}

/// The pieces in a `Have`: in order, apart from each other, and of this content.
fn pieces_of(geometry: &Geometry, ranges: &[(u32, u32)]) -> Option<Vec<Range<u32>>> {
    let mut end = 0;
    let checked = ranges.iter().map(|&(from, to)| {
        let fits = end <= from && from < to && to <= geometry.piece_count();
        end = to;
        fits.then_some(from..to)
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_do_not_exist_and_ranges_that_overlap_are_refused() {
        let geometry = Geometry::new(10 << 20).unwrap();
        assert_eq!(pieces_of(&geometry, &[(0, 3), (3, 4), (9, 10)]), Some(vec![0..3, 3..4, 9..10]));
        for ranges in [&[(0, 11)][..], &[(3, 3)], &[(4, 2)], &[(0, 5), (4, 6)], &[(5, 6), (0, 1)]] {
            assert_eq!(pieces_of(&geometry, ranges), None, "{ranges:?}");
        }
    }
}
