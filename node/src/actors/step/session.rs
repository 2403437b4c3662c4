//! The StepSession actor: one connection of a STEP client.
//!
//! A task of its own carries the bytes: it reads, has the protocol's state machine look at them, does what that asks of
//! the store, and sends each reply with one write. Quick blocks are written where they were received; what may take long
//! goes to a blocking thread. The actor holds the facts and tells the catalog of files that came or went. It ends with
//! its connection, and loses nothing: what was confirmed is in the store.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ftx_proto::interop::step::server::{CloseReason, Input, Output, ServerSession};
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer, StoreRequest};
use ftx_proto::interop::step::value::{LocalTime, WallTime};
use jiff::Zoned;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::replies::Replies;
use super::{Activity, StepService};
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::clock::Clock;
use crate::limits::{
    FRAME_WRITE_MAX, STEP_ACTIVE_BYTES_MIN, STEP_IDLE_MAX, STEP_KEEPALIVE, STEP_STALLED_MAX,
};

/// The StepSession actor.
#[derive(Debug)]
pub(super) struct StepSession;

/// What a session is started with.
#[derive(Debug)]
pub(super) struct StepSessionArguments {
    pub(super) tcp: TcpStream,
    pub(super) addr: SocketAddr,
    /// Its place among the sessions that are allowed.
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) active: Activity,
    pub(super) service: Arc<StepService>,
    pub(super) catalog: Link<CatalogMessage>,
    /// Where the connection does its work.
    pub(super) data: Handle,
    pub(super) clock: Clock,
}

/// What a session is told, by its connection.
#[derive(Debug)]
pub(super) enum StepSessionMessage {
    /// A file was completed or deleted.
    FilesChanged,
    /// The connection has ended.
    Ended(Ended),
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client closed the connection")]
    ByClient,
    #[error("nothing came for too long")]
    Idle,
    #[error("replies were not taken")]
    NotRead,
    #[error("the client broke the protocol: {0}")]
    Violation(CloseReason),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the store failed")]
    Store,
}

/// What a session owns.
#[derive(Debug)]
pub(super) struct StepSessionState {
    addr: SocketAddr,
    catalog: Link<CatalogMessage>,
    connection: AbortHandle,
    /// Gives its place back when the session is gone.
    _permit: OwnedSemaphorePermit,
}

impl Actor for StepSession {
    type Msg = StepSessionMessage;
    type State = StepSessionState;
    type Arguments = StepSessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<StepSessionMessage>,
        arguments: StepSessionArguments,
    ) -> Result<StepSessionState, ActorProcessingErr> {
        let StepSessionArguments { tcp, addr, permit, active, service, catalog, data, clock } = arguments;
        let connection = data.spawn(async move {
            let replies = Replies::new(Arc::clone(&service.replies));
            let actor = myself.clone();
            let mut connection = Connection { addr, active, unnoted: 0, replies, service, clock, actor };
            let ended = match moved_here(tcp) {
                Ok(tcp) => connection.serve(tcp).await,
                Err(error) => error.into(),
            };
            let _ = myself.cast(StepSessionMessage::Ended(ended));
        });
        Ok(StepSessionState { addr, catalog, connection: connection.abort_handle(), _permit: permit })
    }

    async fn handle(
        &self,
        myself: ActorRef<StepSessionMessage>,
        message: StepSessionMessage,
        state: &mut StepSessionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StepSessionMessage::FilesChanged => state.catalog.cast(CatalogMessage::Rescan),
            StepSessionMessage::Ended(ended) => {
                if let Ended::Violation(reason) = &ended {
                    tracing::warn!(addr = %state.addr, %reason, "a STEP client broke the protocol");
                }
                myself.stop(Some(format!("{}: {ended}", state.addr)));
            }
        }
        Ok(())
    }
}

impl Drop for StepSessionState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The connection as the runtime of the calling task drives it, rather than that which accepted it.
fn moved_here(tcp: TcpStream) -> io::Result<TcpStream> {
    let tcp = TcpStream::from_std(tcp.into_std()?)?;
    tcp.set_nodelay(true)?;
    SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(STEP_KEEPALIVE))?;
    Ok(tcp)
}

/// What carries the bytes of a session.
struct Connection {
    addr: SocketAddr,
    active: Activity,
    /// Bytes that were received since it was active.
    unnoted: usize,
    replies: Replies,
    service: Arc<StepService>,
    clock: Clock,
    actor: ActorRef<StepSessionMessage>,
}

impl Connection {
    /// Answers requests until the connection ends.
    async fn serve(&mut self, tcp: TcpStream) -> Ended {
        let authenticator = self.service.access.authenticator();
        let mut session = ServerSession::new(authenticator, rand::random(), wall_time());
        let mut buffer = vec![0; READ_LEN];
        loop {
            let received = match self.receive(&tcp, session.is_idle(), &mut buffer).await {
                // It may have closed only its half.
                Ok(0) => return self.replies.finish(&tcp).await.err().unwrap_or(Ended::ByClient),
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(ended) => return ended,
            };
            self.unnoted += received.len();
            if self.unnoted >= STEP_ACTIVE_BYTES_MIN {
                self.is_active();
            }
            session.set_authenticator(self.service.access.authenticator());
            session.handle(wall_time(), Input::Received(received));
            if let Err(ended) = self.answer(&mut session, &tcp).await {
                return ended;
            }
        }
    }

    /// Receives something, and sends what waits meanwhile; 0 at the end of the stream.
    async fn receive(&mut self, tcp: &TcpStream, is_idle: bool, buffer: &mut [u8]) -> Result<usize, Ended> {
        loop {
            let is_waiting = self.replies.is_waiting();
            let (patience, too_long) = match (is_waiting, is_idle) {
                (true, _) => (FRAME_WRITE_MAX, Ended::NotRead),
                (false, true) => (STEP_IDLE_MAX, Ended::Idle),
                (false, false) => (STEP_STALLED_MAX, Ended::Idle),
            };
            tokio::select! {
                readable = tcp.readable() => {
                    readable?;
                    match tcp.try_read(buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        received => return Ok(received?),
                    }
                }
                writable = tcp.writable(), if is_waiting => {
                    writable?;
                    self.replies.flush(tcp)?;
                }
                () = tokio::time::sleep(patience) => return Err(too_long),
            }
        }
    }

    fn is_active(&mut self) {
        self.unnoted = 0;
        self.active.note(self.clock.now());
    }

    /// Does what the session wants, until it wants more bytes.
    async fn answer(&mut self, session: &mut ServerSession, tcp: &TcpStream) -> Result<(), Ended> {
        while let Some(output) = session.poll() {
            match output {
                Output::Send(reply) => {
                    self.is_active();
                    self.replies.send(tcp, reply).await?;
                }
                Output::Store(request) => {
                    let answer = self.execute(request).await?;
                    self.is_active();
                    session.handle(wall_time(), Input::StoreDone(answer));
                }
                Output::VerifyPassword { user, password } => {
                    let verifying = self.service.access.verify(self.addr.ip(), user, password);
                    let (good, authenticator) = verifying.await;
                    session.set_authenticator(authenticator);
                    session.handle(wall_time(), Input::PasswordVerified(good));
                }
                Output::Close(reason) => {
                    // What was in order before is answered.
                    self.replies.finish(tcp).await?;
                    return Err(Ended::Violation(reason));
                }
            }
        }
        Ok(())
    }

    async fn execute(&self, request: StoreRequest) -> Result<StoreAnswer, Ended> {
        let request = match self.service.store.quick(request) {
            Ok(answer) => return Ok(answer),
            Err(request) => request,
        };
        let store = Arc::clone(&self.service.store);
        let executed = tokio::task::spawn_blocking(move || store.execute(request)).await;
        let answer = executed.map_err(|_| Ended::Store)?;
        match &answer {
            StoreAnswer::UploadBegun { md5: Some(_) }
            | StoreAnswer::BlockStored { md5: Some(_) }
            | StoreAnswer::FileDeleted(FileState::Complete { .. }) => {
                let _ = self.actor.cast(StepSessionMessage::FilesChanged);
            }
            StoreAnswer::Denied(denial @ (Denial::OverQuota | Denial::DiskFull | Denial::Failed)) => {
                tracing::warn!(addr = %self.addr, %denial, "a STEP client was refused");
            }
            _ => {}
        }
        Ok(answer)
    }
}

/// What clocks on the wall show.
fn wall_time() -> WallTime {
    let now = Zoned::now();
    let unsigned = |field: i8| u8::try_from(field).unwrap_or_default();
    let local = LocalTime {
        year: u16::try_from(now.year()).unwrap_or_default(),
        month: unsigned(now.month()),
        day: unsigned(now.day()),
        hour: unsigned(now.hour()),
        minute: unsigned(now.minute()),
        second: unsigned(now.second()),
    };
    WallTime { unix_seconds: u64::try_from(now.timestamp().as_second()).unwrap_or_default(), local }
}

/// Bytes that are received at once: three blocks.
const READ_LEN: usize = 64 * 1024;
