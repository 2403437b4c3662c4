//! A lane: one connection to a source, and the tasks that carry its bytes.
//!
//! The task that receives a run of chunks also hashes and writes it ([`Landing::land`]) before it reads on; the fetcher
//! hears of it in one message a run. What a lane accepts is only what was asked on it: anything else breaks the
//! protocol and ends the lane. How much can be under way is bounded by the source's window, which the engine keeps.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ftx_proto::digest::{Digest, Root};
use ftx_proto::engine::fetch::SourceId;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::limits::SESSION_REQUESTS_MAX;
use ftx_proto::name::printable;
use ftx_proto::wire::session::{Message, RequestId, WhichHashes};
use ractor::ActorRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::landing::Landing;
use crate::actors::fetcher::FetcherMessage;
use crate::actors::source::SourceMessage;
use crate::limits::{FRAME_WRITE_MAX, LANE_CLOSED_REQUESTS_MAX, PING_INTERVAL, SESSION_IDLE_MAX};
use crate::net::connection::{self, Dialling, HANDSHAKE_TIMEOUT, Peer};
use crate::net::frame::{FrameReader, FrameWriter};

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

/// The near end of a lane.
#[derive(Debug, Clone)]
pub struct Lane {
    commands: mpsc::Sender<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
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
        let asked = Arc::new(Mutex::new(Asked::default()));
        let task = data.spawn(run(arguments, queue, Arc::clone(&asked)));
        (Lane { commands, asked }, task.abort_handle())
    }

    /// Asks for something.
    pub fn send(&self, command: LaneCommand) -> Result<(), LaneBroken> {
        if let LaneCommand::Request(request, span) = command {
            self.lock().open(request, span);
        }
        self.commands.try_send(command).map_err(|_| LaneBroken)
    }

    /// Whether this request was asked on this lane and is not answered yet.
    pub fn has(&self, request: RequestId) -> bool {
        self.lock().open.contains_key(&request)
    }

    /// Chunks that were asked on this lane and are not here yet.
    pub fn outstanding(&self) -> u32 {
        self.lock().outstanding
    }

    /// The requests that will not be answered if the lane is gone.
    pub fn unanswered(&self) -> Vec<RequestId> {
        self.lock().open.keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was asked on a lane: it takes nothing else.
#[derive(Debug, Default)]
struct Asked {
    open: HashMap<RequestId, (Span, u32)>,
    outstanding: u32,
    /// Answered or cancelled, but something may still be on its way.
    closed: VecDeque<(RequestId, Span)>,
    forgotten: bool,
}

impl Asked {
    fn open(&mut self, request: RequestId, span: Span) {
        self.outstanding += span.count();
        self.open.insert(request, (span, span.count()));
    }

    fn close(&mut self, request: RequestId) {
        if let Some((span, missing)) = self.open.remove(&request) {
            self.outstanding -= missing;
            self.closed.push_back((request, span));
            if self.closed.len() > LANE_CLOSED_REQUESTS_MAX {
                self.closed.pop_front();
                self.forgotten = true;
            }
        }
    }

    /// Which chunks these are, if they were asked for. `Ok(None)`: it was so long ago that nobody remembers.
    fn arrived(
        &mut self,
        geometry: Geometry,
        request: RequestId,
        first: u32,
        bytes: usize,
    ) -> Result<Option<Span>, String> {
        let asked = match self.open.get(&request) {
            Some((span, _)) => *span,
            None => match self.closed.iter().rev().find(|(closed, _)| *closed == request) {
                Some((_, span)) => *span,
                None if self.forgotten => return Ok(None),
                None => return Err("sends chunks that nobody asked for".to_owned()),
            },
        };
        let count = (bytes as u64).div_ceil(u64::from(ftx_proto::geometry::CHUNK_SIZE)) as u32;
        let span = geometry
            .span(first, count)
            .filter(|span| asked.contains(*span) && geometry.len_of(*span) == bytes as u64)
            .ok_or("sends other chunks than it was asked for")?;
        if let Some((_, missing)) = self.open.get_mut(&request) {
            let taken = count.min(*missing);
            *missing -= taken;
            self.outstanding -= taken;
            if *missing == 0 {
                self.close(request);
            }
        }
        Ok(Some(span))
    }
}

/// Commands that may wait in a lane.
const COMMANDS_MAX: usize = SESSION_REQUESTS_MAX + 64;

/// The request numbers of hashes, apart from those of chunks, which the engine gives.
const LAYER_REQUEST: RequestId = RequestId(u64::MAX);
const LEAVES_REQUESTS: u64 = 1 << 63;

async fn run(arguments: LaneArguments, commands: mpsc::Receiver<LaneCommand>, asked: Arc<Mutex<Asked>>) {
    let lane = arguments.lane;
    let source_actor = arguments.source_actor.clone();
    let ended = match carry(arguments, commands, asked).await {
        Ok(()) => "closed".to_owned(),
        Err(reason) => reason,
    };
    let _ = source_actor.cast(SourceMessage::LaneDown(lane, ended));
}

async fn carry(
    arguments: LaneArguments,
    commands: mpsc::Receiver<LaneCommand>,
    asked: Arc<Mutex<Asked>>,
) -> Result<(), String> {
    let root = arguments.root;
    let dialled = connection::dial(arguments.dialling.clone()).await;
    let connection = dialled.map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = (connection.reader, connection.writer);
    writer.write(&Message::Subscribe { root }, b"").await.map_err(|error| error.to_string())?;
    let described = timeout(HANDSHAKE_TIMEOUT, describe(&mut reader, root, connection.peer))
        .await
        .map_err(|_| "it does not say what it has".to_owned())??;
    let _ = arguments.source_actor.cast(SourceMessage::LaneUp(arguments.lane, described));
    let (pongs, answers) = mpsc::channel(1);
    tokio::select! {
        ended = read(&mut reader, &arguments, &asked, pongs) => ended,
        ended = write(&mut writer, commands, root, asked.clone(), answers) => ended,
    }
}

async fn describe<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    wanted: Root,
    peer: Peer,
) -> Result<Described, String> {
    match reader.read().await.map_err(|error| error.to_string())? {
        Some(Message::Describe { root, size, mtime, executable, whole }) if root == wanted => {
            Ok(Described { peer, size, mtime, executable, whole })
        }
        Some(Message::Refused { reason, .. }) => Err(reason.to_string()),
        Some(_) => Err("it answers something else than it was asked".to_owned()),
        None => Err("it closed the connection".to_owned()),
    }
}

async fn write<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    mut commands: mpsc::Receiver<LaneCommand>,
    root: Root,
    asked: Arc<Mutex<Asked>>,
    mut answers: mpsc::Receiver<u64>,
) -> Result<(), String> {
    let mut pings = 0;
    loop {
        let message = tokio::select! {
            command = commands.recv() => match command {
                None => return Ok(()),
                Some(LaneCommand::Request(request, span)) => {
                    Message::Request { request, root, first: span.first().get(), count: span.count() }
                }
                Some(LaneCommand::Cancel(request)) => {
                    asked.lock().unwrap_or_else(PoisonError::into_inner).close(request);
                    Message::Cancel { request }
                }
                Some(LaneCommand::Layer) => {
                    Message::WantHashes { request: LAYER_REQUEST, root, which: WhichHashes::PieceLayer }
                }
                Some(LaneCommand::Leaves(piece)) => {
                    let request = RequestId(LEAVES_REQUESTS | u64::from(piece.get()));
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
            Ok(Err(error)) => return Err(format!("the connection broke: {error}")),
            Err(_) => return Err("it takes nothing any more".to_owned()),
        }
    }
}

async fn read<R: AsyncRead + Unpin>(
    reader: &mut FrameReader<R>,
    arguments: &LaneArguments,
    asked: &Mutex<Asked>,
    pongs: mpsc::Sender<u64>,
) -> Result<(), String> {
    let LaneArguments { source, landing, fetcher, .. } = arguments;
    let source = *source;
    let geometry = landing.geometry();
    let mut hashes = Hashes::default();
    let patience: Duration = SESSION_IDLE_MAX;
    loop {
        let message = match timeout(patience, reader.read()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Err("it closed the connection".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("silent for {} s", patience.as_secs())),
        };
        let told = match message {
            Message::Chunks { request, first } => {
                let bytes = reader.payload();
                let arrived = asked.lock().unwrap_or_else(PoisonError::into_inner).arrived(
                    geometry,
                    request,
                    first,
                    bytes.len(),
                )?;
                let Some(span) = arrived else { continue };
                match landing.land(span, bytes) {
                    Ok(leaves) => FetcherMessage::Arrived { source, request, first: span.first(), leaves },
                    Err(error) => FetcherMessage::StoreFailed(error),
                }
            }
            Message::Have { pieces, .. } => {
                let pieces = pieces.into_iter().map(|(start, end)| start..end).collect();
                FetcherMessage::SourceHas { source, pieces }
            }
            Message::Hashes { request, first, last } => {
                match hashes.take(geometry, request, first, last, reader.payload())? {
                    Some(told) => told.for_source(source),
                    None => continue,
                }
            }
            Message::Refused { request: Some(LAYER_REQUEST), .. } => FetcherMessage::LayerFailed { source },
            Message::Refused { request: Some(RequestId(number)), reason, .. } => {
                match number.checked_sub(LEAVES_REQUESTS).and_then(|piece| geometry.piece(piece as u32)) {
                    Some(piece) => FetcherMessage::LeavesFailed { source, piece },
                    None => {
                        let request = RequestId(number);
                        asked.lock().unwrap_or_else(PoisonError::into_inner).close(request);
                        FetcherMessage::Refused { source, request, refusal: reason }
                    }
                }
            }
            Message::Ping(number) => {
                // If one answer is still waiting to be written, it stands for this one too.
                let _ = pongs.try_send(number);
                continue;
            }
            Message::Pong(_) => continue,
            Message::Goodbye(reason) => return Err(printable(&reason).to_string()),
            _ => return Err("it sends what only the asking side may send".to_owned()),
        };
        if fetcher.cast(told).is_err() {
            return Ok(());
        }
    }
}

/// Hashes that are arriving, frame by frame.
#[derive(Debug, Default)]
struct Hashes {
    arriving: HashMap<RequestId, Vec<Digest>>,
}

/// Hashes that are all here.
enum HashesHere {
    Layer(Vec<Digest>),
    Leaves(PieceIndex, Vec<Digest>),
}

impl HashesHere {
    fn for_source(self, source: SourceId) -> FetcherMessage {
        match self {
            HashesHere::Layer(hashes) => FetcherMessage::Layer { source, hashes },
            HashesHere::Leaves(piece, leaves) => FetcherMessage::Leaves { source, piece, leaves },
        }
    }
}

impl Hashes {
    fn take(
        &mut self,
        geometry: Geometry,
        request: RequestId,
        first: u32,
        last: bool,
        payload: &[u8],
    ) -> Result<Option<HashesHere>, String> {
        let piece = match request {
            LAYER_REQUEST => None,
            RequestId(number) => {
                let piece =
                    number.checked_sub(LEAVES_REQUESTS).and_then(|p| geometry.piece(u32::try_from(p).ok()?));
                Some(piece.ok_or("sends hashes that nobody asked for")?)
            }
        };
        let expected = match piece {
            None => geometry.piece_count(),
            Some(piece) => geometry.span_of(piece).count(),
        };
        let arriving = self.arriving.entry(request).or_default();
        if arriving.len() != first as usize || arriving.len() + payload.len() / 32 > expected as usize {
            return Err("sends hashes out of order, or too many".to_owned());
        }
        arriving.extend(payload.chunks_exact(32).filter_map(|hash| Some(Digest(hash.try_into().ok()?))));
        if !last {
            return Ok(None);
        }
        let hashes = self.arriving.remove(&request).unwrap_or_default();
        Ok(Some(match piece {
            None => HashesHere::Layer(hashes),
            Some(piece) => HashesHere::Leaves(piece, hashes),
        }))
    }
}
