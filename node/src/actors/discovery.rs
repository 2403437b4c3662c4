//! The discovery actor: the sockets, the clock and the catalog around the discovery engine.
//!
//! It owns the sockets of discovery on every interface, the engine, and for each query under way the channel of whoever
//! looks. It refuses to queue: datagrams wait in its mailbox only with a permit, and offers only in the channel of their
//! query. A crash loses the table of peers and the queries under way; a restart knows its neighbours within seconds.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ftx_proto::digest::Instance;
use ftx_proto::engine::discovery::{
    Counters, DiscoveryConfig, DiscoveryEngine, Input, LOOKUP_MAX, LookupToken, Output, Peer, QueryHandle,
    TwoPlaces,
};
use ftx_proto::interop::udp_get::wire::is_get;
use ftx_proto::time::Time;
use ftx_proto::wire::codec::DecodeError;
use ftx_proto::wire::discovery::{Announce, Datagram, Offer, OfferEntry, Want};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::actors::link::CALL_TIMEOUT;
use crate::clock::Clock;
use crate::net::interfaces::Interface;
use crate::net::udp::{Heard, Sockets};

/// Most datagrams that wait in the mailbox; what comes in beyond is dropped, and asked or said again.
const DATAGRAMS_WAITING_MAX: usize = 256;

/// How long the catalog is waited for: as long as the engine waits, or an answer that comes between the two would be lost,
/// and the asker's repeated question is not put to the catalog again before the engine gives up.
const LOOKUP_TIMEOUT: Duration = LOOKUP_MAX;

// Whoever is not answered at all may ask again; a call that fails is answered for with nothing.
const _: () = assert!(LOOKUP_MAX.as_secs() < CALL_TIMEOUT.as_secs());

/// How often the interfaces are looked at.
const INTERFACES_INTERVAL: Duration = Duration::from_secs(5);

/// How often they are looked at while one of them cannot be used.
const INTERFACES_INTERVAL_INCOMPLETE: Duration = Duration::from_secs(1);

/// What the catalog has of what is wanted, and whether there is more than it lists.
pub type LookupAnswer = (Vec<OfferEntry>, bool);

/// Asks the catalog. Must not block; an answer that takes longer than [`LOOKUP_MAX`] is not waited for.
pub type Lookup = Arc<dyn Fn(Want) -> Pin<Box<dyn Future<Output = LookupAnswer> + Send>> + Send + Sync>;

/// With what the actor starts.
#[derive(Clone)]
pub struct DiscoveryArguments {
    /// Who we are.
    pub me: Announce,
    /// Confines discovery to the interfaces that own this address.
    pub bind: Option<IpAddr>,
    /// UDP port of discovery, the same for all nodes of a network.
    pub port: u16,
    /// Number of our sessions' TCP port, at which queries to this very node are heard on UDP; 0 for a process that only
    /// looks around: it is not announced and answers nobody.
    pub session_port: u16,
    /// Asks the catalog.
    pub lookup: Lookup,
    /// Takes the datagrams of udp-get, which shares the port; `None` where it is not served.
    pub gets: Option<Heard>,
    /// Where time comes from.
    pub clock: Clock,
}

/// An offer that answers a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where the sessions of the node are, with the scope of a link-local address.
    pub addr: SocketAddr,
    /// What it says. A node on several of our networks offers the same from several addresses.
    pub offer: Offer,
}

/// How it is with discovery on one address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The address, and its network.
    pub interface: Interface,
    /// Where all neighbours hear, if there is such an address.
    pub everybody: Option<SocketAddr>,
    /// Why it cannot be used, if so.
    pub failing: Option<String>,
    /// What was sent to everybody from there was heard by ourselves.
    pub hears_itself: bool,
}

/// What discovery counted since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiscoveryStatistics {
    /// Of the engine.
    pub engine: Counters,
    /// Datagrams that came in faster than they could be looked at.
    pub dropped: u64,
    /// Datagrams that could not be sent, counted for each socket.
    pub send_failed: u64,
    /// Offers that found the channel of their query full; they are reported when they are made again.
    pub undelivered: u64,
    /// Interfaces in use now, each address counted once.
    pub interfaces: u64,
    /// Instances of others that were heard of lately.
    pub peers: u64,
}

/// Messages of the actor.
pub enum DiscoveryMessage {
    /// Begins a query, which lives as long as the receiver of `found` does.
    Find {
        /// What is looked for.
        want: Want,
        /// Nodes to ask directly too.
        peers: Vec<SocketAddr>,
        /// Gets each offer that is new or has changed. Closed at once if there are too many queries.
        found: mpsc::Sender<Found>,
    },
    /// We have something new.
    Announce,
    /// What was counted?
    Statistics(RpcReplyPort<DiscoveryStatistics>),
    /// How it is with each network?
    Links(RpcReplyPort<Vec<LinkReport>>),
    /// Who is there?
    Peers(RpcReplyPort<Vec<Peer>>),
    /// What only the actor's own tasks say.
    Internal(Internal),
}

/// What the tasks of the actor tell it.
pub struct Internal(Event);

enum Event {
    Heard {
        from: SocketAddr,
        datagram: Result<Datagram, DecodeError>,
        /// Given back when the datagram has been dealt with.
        _permit: OwnedSemaphorePermit,
    },
    Answer {
        token: LookupToken,
        answer: LookupAnswer,
    },
    Unwanted(QueryHandle),
    Tick,
    LookAtInterfaces,
}

/// The actor; see the [module](self).
pub struct Discovery;

/// What the actor owns.
pub struct DiscoveryState {
    engine: DiscoveryEngine,
    me: Instance,
    sockets: Sockets,
    /// Our addresses in use from which we have heard ourselves.
    heard_itself: BTreeSet<IpAddr>,
    lookup: Lookup,
    clock: Clock,
    queries: HashMap<QueryHandle, Seeker>,
    next_query: u64,
    /// When the engine wants to be woken; the timer's task watches it.
    wake: watch::Sender<Option<Time>>,
    /// The timers and the lookups; they end with the actor.
    tasks: JoinSet<()>,
    dropped: Arc<AtomicU64>,
    undelivered: u64,
}

/// Who waits for the offers of a query.
struct Seeker {
    found: mpsc::Sender<Found>,
    /// Tells the actor when nobody wants the offers any more; ends with the query.
    _watch: JoinSet<()>,
}

impl Actor for Discovery {
    type Msg = DiscoveryMessage;
    type State = DiscoveryState;
    type Arguments = DiscoveryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<DiscoveryMessage>,
        arguments: DiscoveryArguments,
    ) -> Result<DiscoveryState, ActorProcessingErr> {
        let DiscoveryArguments { me, bind, port, session_port, lookup, gets, clock } = arguments;
        let dropped = Arc::new(AtomicU64::new(0));
        let heard = heard(myself.clone(), dropped.clone(), gets);
        let sockets = Sockets::open(bind, port, session_port, heard).map_err(|error| {
            let place = bind.map_or("any interface".into(), |addr| format!("the interface of {addr}"));
            format!("cannot open the UDP sockets of discovery (port {port}) on {place}: {error}")
        })?;
        if sockets.link_count() == 0 {
            tracing::warn!("no network interface to discover others on; waiting for one");
        }
        // Nonces and delays need to differ from node to node, not to be secret.
        let seed = RandomState::new().hash_one(me.instance);
        let config = DiscoveryConfig { visible: session_port != 0 };
        let (wake, deadline) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(tick(myself.clone(), deadline, clock));
        let mut state = DiscoveryState {
            me: me.instance,
            engine: DiscoveryEngine::new(config, me, seed),
            sockets,
            heard_itself: BTreeSet::new(),
            lookup,
            clock,
            queries: HashMap::new(),
            next_query: 0,
            wake,
            tasks,
            dropped,
            undelivered: 0,
        };
        state.look_again_later(&myself);
        state.input(&myself, Input::Announce);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<DiscoveryMessage>,
        message: DiscoveryMessage,
        state: &mut DiscoveryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DiscoveryMessage::Find { want, peers, found } => state.find(&myself, want, peers, found),
            DiscoveryMessage::Announce => state.input(&myself, Input::Announce),
            // Whoever asked and does not wait any more needs no answer.
            DiscoveryMessage::Statistics(reply) => drop(reply.send(state.statistics())),
            DiscoveryMessage::Links(reply) => drop(reply.send(state.links())),
            DiscoveryMessage::Peers(reply) => drop(reply.send(state.engine.peers().cloned().collect())),
            DiscoveryMessage::Internal(Internal(event)) => state.event(&myself, event),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<DiscoveryMessage>,
        state: &mut DiscoveryState,
    ) -> Result<(), ActorProcessingErr> {
        state.input(&myself, Input::Shutdown);
        Ok(())
    }
}

impl DiscoveryState {
    fn find(
        &mut self,
        myself: &ActorRef<DiscoveryMessage>,
        want: Want,
        peers: Vec<SocketAddr>,
        found: mpsc::Sender<Found>,
    ) {
        let query = QueryHandle(self.next_query);
        self.next_query += 1;
        let (seeker, actor) = (found.clone(), myself.clone());
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            seeker.closed().await;
            tell(&actor, Event::Unwanted(query));
        });
        self.queries.insert(query, Seeker { found, _watch: watch });
        self.input(myself, Input::Find { query, want, peers });
    }

    fn event(&mut self, myself: &ActorRef<DiscoveryMessage>, event: Event) {
        match event {
            Event::Heard { from, datagram: Ok(datagram), _permit } => {
                let on_link = self.sockets.on_link(from);
                if datagram.instance() == self.me && self.sockets.has_link(from.ip()) {
                    self.heard_itself.insert(from.ip());
                }
                self.input(myself, Input::Received { from, on_link, datagram });
            }
            Event::Heard { from, datagram: Err(_), _permit } => self.input(myself, Input::Malformed { from }),
            Event::Answer { token, answer: (entries, more) } => {
                self.input(myself, Input::Answer { token, entries, more });
            }
            Event::Unwanted(query) => {
                self.queries.remove(&query);
                self.input(myself, Input::StopFind { query });
            }
            Event::Tick => self.input(myself, Input::Tick),
            Event::LookAtInterfaces => {
                let refreshed = self.sockets.refresh();
                self.heard_itself.retain(|addr| self.sockets.has_link(*addr));
                match refreshed {
                    Ok(true) => self.input(myself, Input::LinkUp),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "cannot list the network interfaces"),
                }
                self.look_again_later(myself);
            }
        }
    }

    /// One mutation of the engine, and everything that follows from it.
    fn input(&mut self, myself: &ActorRef<DiscoveryMessage>, input: Input) {
        self.engine.handle(self.clock.now(), input);
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Broadcast(datagram) => self.sockets.broadcast(&datagram.encode()),
                Output::Send { to, datagram } => self.sockets.send(&datagram.encode(), to),
                Output::Lookup { token, want } => self.look_up(myself, token, want),
                Output::Found { query, addr, offer } => self.found(myself, query, Found { addr, offer }),
                Output::Refused { query } => drop(self.queries.remove(&query)),
                Output::PeerSeen(peer) => {
                    tracing::debug!(node = %peer.announce.node.short(), addr = ?peer.addresses.first(), "peer seen");
                }
                Output::TwoPlaces(TwoPlaces { node, one, other }) => tracing::warn!(
                    "node {} is at {} and at {} at once: two machines use one identity, as with a copied state folder; \
                     remove the state folder of one of them",
                    node.short(),
                    one.ip(),
                    other.ip()
                ),
                Output::PeerGone(instance) => tracing::debug!(instance = instance.0, "peer gone"),
            }
        }
        let deadline = self.engine.deadline();
        self.wake.send_if_modified(|armed| std::mem::replace(armed, deadline) != deadline);
    }

    fn look_up(&mut self, myself: &ActorRef<DiscoveryMessage>, token: LookupToken, want: Want) {
        let (answer, actor) = ((self.lookup)(want), myself.clone());
        self.spawn(async move {
            if let Ok(answer) = tokio::time::timeout(LOOKUP_TIMEOUT, answer).await {
                tell(&actor, Event::Answer { token, answer });
            }
        });
    }

    fn found(&mut self, myself: &ActorRef<DiscoveryMessage>, query: QueryHandle, found: Found) {
        let Some(seeker) = self.queries.get(&query) else { return };
        let (instance, addr) = (found.offer.from.instance, found.addr);
        match seeker.found.try_send(found) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.undelivered += 1;
                self.engine.handle(self.clock.now(), Input::Undelivered { query, instance, addr });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => tell(myself, Event::Unwanted(query)),
        }
    }

    fn look_again_later(&mut self, myself: &ActorRef<DiscoveryMessage>) {
        let incomplete = self.sockets.incomplete();
        let pause = if incomplete { INTERFACES_INTERVAL_INCOMPLETE } else { INTERFACES_INTERVAL };
        let actor = myself.clone();
        self.spawn(async move {
            tokio::time::sleep(pause).await;
            tell(&actor, Event::LookAtInterfaces);
        });
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // Those that are done are taken out here, so that the set holds no more than are under way: the two timers, and
        // a lookup for each answer that the engine waits for.
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    fn links(&self) -> Vec<LinkReport> {
        let report = |(interface, everybody, failing): (Interface, _, _)| LinkReport {
            hears_itself: self.heard_itself.contains(&interface.addr),
            interface,
            everybody,
            failing,
        };
        self.sockets.links().into_iter().map(report).collect()
    }

    fn statistics(&self) -> DiscoveryStatistics {
        DiscoveryStatistics {
            engine: self.engine.counters(),
            dropped: self.dropped.load(Ordering::Relaxed),
            send_failed: self.sockets.send_failed(),
            undelivered: self.undelivered,
            interfaces: self.sockets.link_count() as u64,
            peers: self.engine.peers().count() as u64,
        }
    }
}

/// Brings datagrams into the mailbox, as many as there are permits.
fn heard(actor: ActorRef<DiscoveryMessage>, dropped: Arc<AtomicU64>, gets: Option<Heard>) -> Heard {
    let permits = Arc::new(Semaphore::new(DATAGRAMS_WAITING_MAX));
    Arc::new(move |from, bytes| {
        if let (Some(gets), true) = (&gets, is_get(bytes)) {
            return gets(from, bytes);
        }
        match permits.clone().try_acquire_owned() {
            Ok(_permit) => tell(&actor, Event::Heard { from, datagram: Datagram::decode(bytes), _permit }),
            Err(_) => drop(dropped.fetch_add(1, Ordering::Relaxed)),
        }
    })
}

/// Wakes the actor at each deadline once.
async fn tick(actor: ActorRef<DiscoveryMessage>, mut deadline: watch::Receiver<Option<Time>>, clock: Clock) {
    loop {
        let due = *deadline.borrow_and_update();
        let changed = match due {
            Some(due) => {
                tokio::select! {
                    () = tokio::time::sleep_until(clock.instant(due)) => {
                        tell(&actor, Event::Tick);
                        // The tick moves the deadline, so there is nothing to do before that.
                        deadline.changed().await
                    }
                    changed = deadline.changed() => changed,
                }
            }
            None => deadline.changed().await,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn tell(actor: &ActorRef<DiscoveryMessage>, event: Event) {
    // An actor that has stopped needs to know nothing more.
    let _ = actor.cast(DiscoveryMessage::Internal(Internal(event)));
}
