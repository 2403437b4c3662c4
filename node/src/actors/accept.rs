//! Taking connections: the loop that all listening actors have in common.
//!
//! Owns the places for connections. What comes when all are taken asks the actor to make room, if it can; if it does not,
//! the connection is closed and counted. It refuses to look at a connection. When the loop ends nobody is turned away:
//! connections wait in the system's queue for the next one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What an actor takes connections with. `M` is what it is told.
pub(super) struct Accepting<M> {
    /// Of which system, for logs.
    pub(super) system: &'static str,
    /// Where connections come in.
    pub(super) listener: Arc<TcpListener>,
    /// Most connections at once.
    pub(super) connections_max: usize,
    /// Says that a connection came in, and has this place.
    pub(super) accepted: fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> M,
    /// Asks whether another connection has to go for one from this address; none: those that are here stay.
    pub(super) make_room: Option<fn(IpAddr, RpcReplyPort<bool>) -> M>,
    /// Counts the connections that were closed at once.
    pub(super) turned_away: Arc<AtomicU64>,
}

impl<M: Message> Accepting<M> {
    /// Takes connections as they come, as many as the limit allows, and turns away the rest, until the actor ends.
    pub(super) async fn run(self, actor: ActorRef<M>) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        loop {
            match self.listener.accept().await {
                Ok((tcp, addr)) => match self.place(&places, addr.ip(), &actor).await {
                    Some(place) => {
                        if actor.cast((self.accepted)(tcp, addr, place)).is_err() {
                            return;
                        }
                    }
                    None => self.turn_away(addr),
                },
                Err(error) => {
                    // Out of descriptors, mostly: that passes, and must not become a busy loop.
                    tracing::warn!(system = self.system, %error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place for one more connection; if need be, that of another.
    async fn place(
        &self,
        places: &Arc<Semaphore>,
        from: IpAddr,
        actor: &ActorRef<M>,
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        let make_room = self.make_room?;
        let asked = actor.call(|reply| make_room(from, reply), Some(ROOM_TIMEOUT)).await;
        if !matches!(asked, Ok(CallResult::Success(true))) {
            return None;
        }
        timeout(ROOM_TIMEOUT, Arc::clone(places).acquire_owned()).await.ok()?.ok()
    }

    fn turn_away(&self, addr: SocketAddr) {
        let count = self.turned_away.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let (system, connections_max) = (self.system, self.connections_max);
            tracing::warn!(system, %addr, count, "connections turned away: there are {connections_max} already");
        }
    }
}

/// How long a connection may take to go where another one waits for its place.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
