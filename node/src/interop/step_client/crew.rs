//! Several connections that work on one transfer, each with one request outstanding at a time.
//!
//! It owns the connections: it makes them, makes them again when they break, later each time, and gives up when that does
//! not help. It refuses to know what is transferred. Each connection is served by one task, which also reads and writes
//! its blocks itself.
//!
//! A connection that never got a reply is given up at its first time-out as long as others work: some servers serve one
//! connection after the other. When no connection got anything for the time of two replies, the server is gone; one
//! alone may be hanging in a race of the server's at the last block.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ftx_proto::interop::step::client::{Outcome, Request};
use ftx_proto::interop::step::upload::ConnectionId;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::connection::{Account, Connection, Lost};
use crate::error::Error;

/// The work that connections share.
pub(super) trait Transfer: Send + Sync + 'static {
    /// What this connection should do. Asked twice without a word in between, it says the same.
    fn next(&self, connection: ConnectionId) -> Result<Step, Error>;

    /// What came of it. An error ends the transfer.
    fn replied(&self, connection: ConnectionId, outcome: Outcome) -> Result<(), Error>;

    /// Nothing came of it, and this connection is no more.
    fn lost(&self, connection: ConnectionId);
}

/// What a connection should do next.
pub(super) enum Step {
    /// Ask this, and tell what came of it.
    Ask(Request),
    /// Ask again when another connection has told something.
    Wait,
    /// Nothing: the transfer has ended, well or not.
    End,
}

/// Why the crew could not bring a transfer to its end.
pub(super) enum Stopped {
    /// The transfer itself failed here.
    Failed(Error),
    /// No connection works any more.
    Lost(Lost),
}

struct Crew<T> {
    account: Arc<Account>,
    transfer: Arc<T>,
    told: Notify,
    /// Places that were not given up for the sake of the others.
    places: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    next_id: u64,
    last_reply: Instant,
    last_loss: Option<Lost>,
}

/// Works on the transfer until it ends, well or not, over `first` and as many other connections as make `count`.
/// Returns why the last connection that failed did.
pub(super) async fn work<T: Transfer>(
    account: Arc<Account>,
    transfer: Arc<T>,
    first: Connection,
    count: NonZeroUsize,
) -> Result<Option<Lost>, Stopped> {
    let state = State { next_id: 0, last_reply: Instant::now(), last_loss: None };
    let crew = Arc::new(Crew {
        account,
        transfer,
        told: Notify::new(),
        places: AtomicUsize::new(count.get()),
        state: Mutex::new(state),
    });
    let mut workers = JoinSet::new();
    workers.spawn(Arc::clone(&crew).member(Some(first)));
    for _ in 1..count.get() {
        workers.spawn(Arc::clone(&crew).member(None));
    }
    let mut lost = None;
    while let Some(member) = workers.join_next().await {
        match member {
            // The others hear of it by themselves, but one may be waiting for a reply that will never come.
            Ok(Ok(())) => return Ok(crew.state().last_loss.take()),
            Ok(Err(Stopped::Lost(why))) => lost = Some(why),
            Ok(Err(failed)) => return Err(failed),
            Err(error) => {
                return Err(Stopped::Failed(Error::other(format!("a connection's task failed: {error}"))));
            }
        }
    }
    Err(Stopped::Lost(lost.unwrap_or(Lost::Silent)))
}

impl<T: Transfer> Crew<T> {
    /// One place in the crew: one connection after the other, until the transfer ends or connections do not help.
    async fn member(self: Arc<Self>, mut connection: Option<Connection>) -> Result<(), Stopped> {
        let mut failures = 0;
        loop {
            let connected = match connection.take() {
                Some(connection) => Ok(connection),
                None => self.account.connect().await,
            };
            let mut has_replied = false;
            let served = match connected {
                Ok(connection) => self.serve(connection, &mut has_replied).await,
                Err(lost) => Err(Stopped::Lost(lost)),
            };
            let lost = match served {
                Err(Stopped::Lost(lost)) => lost,
                ended => return ended,
            };
            tracing::debug!(?lost, "a connection was lost");
            failures = if has_replied { 1 } else { failures + 1 };
            if self.is_hopeless(&lost, failures, has_replied) {
                return Err(Stopped::Lost(lost));
            }
            self.state().last_loss = Some(lost);
            tokio::time::sleep(BACKOFF * (1 << failures.min(BACKOFF_DOUBLINGS))).await;
        }
    }

    /// Serves one connection until it is lost or the transfer ends.
    async fn serve(&self, mut connection: Connection, has_replied: &mut bool) -> Result<(), Stopped> {
        let id = self.state().new_id();
        let mut has_logged_in = false;
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // From now on, so that nothing is missed between the answer and the wait.
            told.as_mut().enable();
            let request = match self.transfer.next(id).map_err(Stopped::Failed)? {
                Step::Ask(request) => request,
                Step::Wait => {
                    told.await;
                    continue;
                }
                Step::End => {
                    connection.farewell().await;
                    return Ok(());
                }
            };
            match connection.ask(request).await {
                Ok(Err(refused)) if matches!(refused.status, 401 | 403) && !has_logged_in => {
                    // A token may expire. The transfer is not told, and says the same again.
                    has_logged_in = true;
                    if let Err(lost) = self.account.log_in(&mut connection).await {
                        return Err(self.give_back(id, lost));
                    }
                }
                Ok(outcome) => {
                    *has_replied = true;
                    has_logged_in &= outcome.is_err();
                    self.state().last_reply = Instant::now();
                    let told = self.transfer.replied(id, outcome);
                    self.told.notify_waiters();
                    told.map_err(Stopped::Failed)?;
                }
                Err(lost) => return Err(self.give_back(id, lost)),
            }
        }
    }

    fn give_back(&self, id: ConnectionId, lost: Lost) -> Stopped {
        self.state().last_loss = Some(lost.clone());
        self.transfer.lost(id);
        self.told.notify_waiters();
        Stopped::Lost(lost)
    }

    /// Whether this place in the crew is better given up.
    fn is_hopeless(&self, lost: &Lost, failures: u32, has_replied: bool) -> bool {
        match lost {
            Lost::LoginRefused(_) => true,
            Lost::Silent if !has_replied && self.is_one_of_several() => true,
            Lost::Silent if self.state().last_reply.elapsed() >= 2 * self.account.reply_time() => true,
            _ => failures >= ATTEMPTS_MAX,
        }
    }

    /// Whether others remain if one place is given up. Whoever is told so has to do that.
    fn is_one_of_several(&self) -> bool {
        let one_less = |places: usize| (places > 1).then(|| places - 1);
        self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new_id(&mut self) -> ConnectionId {
        self.next_id += 1;
        ConnectionId(self.next_id)
    }
}

/// How often one place in the crew is lost in a row, without any reply, until it is given up.
const ATTEMPTS_MAX: u32 = 8;

/// The pause before a connection is made again. It doubles each time.
const BACKOFF: Duration = Duration::from_millis(25);

/// How often it doubles: up to 1.6 s.
const BACKOFF_DOUBLINGS: u32 = 6;
