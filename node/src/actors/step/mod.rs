//! The StepListener actor: where STEP clients connect.
//!
//! Owns the accepting task and the sessions, whose supervisor it is: one that fails is a session less. It never touches
//! a byte of theirs. When it is restarted its sessions end, which their clients answer with new connections, on which
//! their tokens are good as before.

mod replies;
mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use ftx_proto::time::Time;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use self::session::{StepSession, StepSessionArguments, StepSessionMessage};
use super::accept::Accepting;
use super::catalog::CatalogMessage;
use super::link::Link;
use crate::clock::Clock;
use crate::interop::step_store::StepStore;
use crate::interop::step_users::StepAccess;
use crate::limits::{SESSION_QUIET_MIN, STEP_REPLIES_MAX, STEP_UPLOAD_CHECK_INTERVAL};
use crate::throttle::tell_of_failed;

/// The StepListener actor.
#[derive(Debug)]
pub struct StepListener;

/// What the listener is started with.
#[derive(Debug, Clone)]
pub struct StepListenerArguments {
    /// Where clients connect; outlives restarts of the actor.
    pub listener: Arc<TcpListener>,
    /// What all sessions have in common.
    pub service: Arc<StepService>,
    /// Hears of files that came or went.
    pub catalog: Link<CatalogMessage>,
    /// Connections at once.
    pub connections_max: usize,
    /// Where connections do their work.
    pub data: Handle,
    /// What time it is.
    pub clock: Clock,
}

/// What all sessions have in common.
#[derive(Debug)]
pub struct StepService {
    /// Files and data.
    pub store: Arc<StepStore>,
    /// Passwords and tokens.
    pub access: StepAccess,
    /// Room for replies that clients do not take, a permit for each byte.
    pub replies: Arc<Semaphore>,
}

impl StepService {
    /// Nobody is served yet.
    pub fn new(store: StepStore, access: StepAccess) -> Self {
        StepService { store: Arc::new(store), access, replies: Arc::new(Semaphore::new(STEP_REPLIES_MAX)) }
    }
}

/// What the listener is told.
#[derive(Debug)]
pub enum StepListenerMessage {
    /// A connection came in.
    Accepted(TcpStream, SocketAddr, OwnedSemaphorePermit),
    /// All places are taken and somebody waits for one: whether somebody else has to go.
    MakeRoom(RpcReplyPort<bool>),
    /// How many sessions there are.
    Sessions(RpcReplyPort<usize>),
}

/// What the listener owns.
#[derive(Debug)]
pub struct StepListenerState {
    arguments: StepListenerArguments,
    sessions: HashMap<ActorId, Open>,
    accepting: AbortHandle,
    /// Looks for uploads that nobody goes on with.
    tidying: AbortHandle,
}

#[derive(Debug)]
struct Open {
    actor: ActorRef<StepSessionMessage>,
    active: Activity,
    /// It has been told to go.
    leaving: bool,
}

/// When a session last did something: took a request, or a good piece of one, in nanoseconds of the node's clock.
#[derive(Debug, Clone)]
struct Activity(Arc<AtomicU64>);

impl Activity {
    fn at(now: Time) -> Self {
        let activity = Activity(Arc::default());
        activity.note(now);
        activity
    }

    fn note(&self, now: Time) {
        let nanoseconds = u64::try_from(now.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanoseconds, Ordering::Relaxed);
    }

    fn last(&self) -> Time {
        Time::from_origin(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }
}

impl Actor for StepListener {
    type Msg = StepListenerMessage;
    type State = StepListenerState;
    type Arguments = StepListenerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<StepListenerMessage>,
        arguments: StepListenerArguments,
    ) -> Result<StepListenerState, ActorProcessingErr> {
        let accepting = Accepting {
            system: "STEP",
            listener: Arc::clone(&arguments.listener),
            connections_max: arguments.connections_max,
            accepted: StepListenerMessage::Accepted,
            make_room: Some(|_, reply| StepListenerMessage::MakeRoom(reply)),
            turned_away: Arc::default(),
        };
        let accepting = tokio::spawn(accepting.run(myself)).abort_handle();
        let tidying = tokio::spawn(keep_tidy(Arc::clone(&arguments.service.store))).abort_handle();
        Ok(StepListenerState { arguments, sessions: HashMap::new(), accepting, tidying })
    }

    async fn handle(
        &self,
        myself: ActorRef<StepListenerMessage>,
        message: StepListenerMessage,
        state: &mut StepListenerState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StepListenerMessage::Accepted(tcp, addr, permit) => {
                state.open_session(&myself, tcp, addr, permit).await;
            }
            // Whoever asked may have given up.
            StepListenerMessage::MakeRoom(reply) => {
                let _ = reply.send(state.make_room());
            }
            StepListenerMessage::Sessions(reply) => {
                let _ = reply.send(state.sessions.len());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<StepListenerMessage>,
        event: SupervisionEvent,
        state: &mut StepListenerState,
    ) -> Result<(), ActorProcessingErr> {
        match &event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                tracing::debug!(reason = reason.as_deref().unwrap_or("stopped"), "STEP session ended");
                state.sessions.remove(&actor.get_id());
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                tell_of_failed("a STEP session", error);
                state.sessions.remove(&actor.get_id());
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for StepListenerState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.accepting.abort();
        self.tidying.abort();
    }
}

impl StepListenerState {
    async fn open_session(
        &mut self,
        myself: &ActorRef<StepListenerMessage>,
        tcp: TcpStream,
        addr: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let active = Activity::at(self.arguments.clock.now());
        let arguments = StepSessionArguments {
            tcp,
            addr,
            permit,
            active: active.clone(),
            service: Arc::clone(&self.arguments.service),
            catalog: self.arguments.catalog.clone(),
            data: self.arguments.data.clone(),
            clock: self.arguments.clock,
        };
        match StepSession::spawn_linked(None, StepSession, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.sessions.insert(actor.get_id(), Open { actor, active, leaving: false });
            }
            Err(error) => tracing::warn!(%addr, %error, "cannot start a STEP session"),
        }
    }

    /// Ends the session that has been quiet longest, if one has been for some time: a place cannot be held by doing
    /// nothing, and a token is good on the next connection too.
    fn make_room(&mut self) -> bool {
        let now = self.arguments.clock.now();
        let quiet = |open: &&mut Open| !open.leaving && now.since(open.active.last()) >= SESSION_QUIET_MIN;
        let Some(open) = self.sessions.values_mut().filter(quiet).min_by_key(|open| open.active.last())
        else {
            return false;
        };
        open.leaving = true;
        open.actor.stop(Some("made room for another session".to_owned()));
        true
    }
}

/// Gives up abandoned uploads, now and then. Opening the store did so too.
async fn keep_tidy(store: Arc<StepStore>) {
    loop {
        tokio::time::sleep(STEP_UPLOAD_CHECK_INTERVAL).await;
        let store = Arc::clone(&store);
        if tokio::task::spawn_blocking(move || store.remove_abandoned(SystemTime::now())).await.is_err() {
            tracing::error!("looking for abandoned uploads failed");
        }
    }
}
