//! The discovery engine: who is on the network, who has what is looked for, and what we tell of ourselves.
//!
//! It owns the queries under way, the table of peers, the answers that wait for their moment, and the rates that keep
//! others from using us. It refuses to believe anything: an address, a name or a root that is heard here is a hint,
//! proved in a session. A crash loses nothing that the next few datagrams do not bring back.
//!
//! **A query** lives from [`Input::Find`] to [`Input::StopFind`]. It goes out at once, after 250, 750, 1750 ms and so
//! on, each of these times twice, at last every 5 s, always with the same nonce; a node that says hello is asked at
//! once. An offer is reported when it is new or differs from what that node offered at that address before.
//!
//! **An answer** is given to neighbours only, and passes through these states:
//!
//! ```text
//! query heard ── rate exceeded, repeated too soon ──▶ nothing
//!      │ Lookup
//!      ▼
//!   looking ── Answer ──▶ waiting ── its moment comes ──▶ sent, a copy follows, remembered for 200 ms
//!      └── no answer within 8 s ──▶ nothing
//! ```
//!
//! **Invariants.** No address is sent more bytes than came from it, except our broadcasts and those that our own user
//! named. Every table has a bound. The number of answers has a rate for each asker and one for all together.

mod answers;
mod counters;
mod peers;
mod queries;
mod recent;
mod tokens;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::digest::Instance;
use crate::limits::{NODE_NAME_BYTES_MAX, PEER_ADDRESSES_MAX};
use crate::time::Time;
use crate::wire::discovery::{Announce, Datagram, Offer, OfferEntry, Query, Want};

use answers::Answers;
pub use answers::LOOKUP_MAX;
pub use counters::Counters;
use peers::Peers;
pub use peers::{Peer, TwoPlaces, places_apart};
use queries::Queries;

/// How far apart the hellos of one announcement are.
pub const HELLO_GAP: Duration = Duration::from_secs(1);

/// How many hellos an announcement is, since datagrams get lost.
pub const HELLO_COUNT: u32 = 3;

/// How far apart the hellos of an idle node are, so that others know it is still there.
pub const HELLO_INTERVAL: Duration = Duration::from_secs(60);

/// How long a peer is remembered after it was heard last: two of its hellos may get lost.
pub const PEER_EXPIRY: Duration = Duration::from_secs(150);

/// What differs from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// Whether others are told about us. A process that only looks around says no hello and answers no query.
    pub visible: bool,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        DiscoveryConfig { visible: true }
    }
}

/// Names a query between the engine and its shell; chosen by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryHandle(pub u64);

/// Names a question to the catalog; chosen by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupToken(u64);

/// What happens to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A datagram came in.
    Received {
        /// Its sender, as the socket says.
        from: SocketAddr,
        /// The sender's address belongs to a network that we are attached to.
        on_link: bool,
        /// What it says.
        datagram: Datagram,
    },
    /// A datagram came in that is none of ours.
    Malformed {
        /// Its sender, as the socket says.
        from: SocketAddr,
    },
    /// Begins a query; one with the same handle ends.
    Find {
        /// Its name from now on.
        query: QueryHandle,
        /// What is looked for.
        want: Want,
        /// Nodes to ask directly too, where broadcasts do not reach; at most [`crate::limits::QUERY_PEERS_MAX`].
        peers: Vec<SocketAddr>,
    },
    /// Ends a query.
    StopFind {
        /// Which one.
        query: QueryHandle,
    },
    /// A [`Output::Found`] did not reach who looks for it; it is to be reported again when it is offered again.
    Undelivered {
        /// The query.
        query: QueryHandle,
        /// Whose offer.
        instance: Instance,
        /// At which session address.
        addr: SocketAddr,
    },
    /// What the catalog says to a [`Output::Lookup`].
    Answer {
        /// Of the lookup.
        token: LookupToken,
        /// What we have of what was asked.
        entries: Vec<OfferEntry>,
        /// There is more.
        more: bool,
    },
    /// We came up, or have something new.
    Announce,
    /// There is a network that was not there before.
    LinkUp,
    /// We go away.
    Shutdown,
    /// A deadline has come.
    Tick,
}

/// What the engine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To everybody, on every network we are attached to.
    Broadcast(Datagram),
    /// To one address.
    Send {
        /// The address.
        to: SocketAddr,
        /// What to send.
        datagram: Datagram,
    },
    /// The catalog is to be asked what we have of this; the answer is an [`Input::Answer`].
    Lookup {
        /// To answer with.
        token: LookupToken,
        /// What somebody looks for.
        want: Want,
    },
    /// Somebody answered a query, with something new.
    Found {
        /// The query.
        query: QueryHandle,
        /// Where its sessions are: the sender's address with the announced port.
        addr: SocketAddr,
        /// What it says.
        offer: Offer,
    },
    /// There are too many queries for this one.
    Refused {
        /// The query.
        query: QueryHandle,
    },
    /// A node is there that was not, or is at a further address, or calls itself differently.
    PeerSeen(Peer),
    /// A node said good-bye or was silent for too long.
    PeerGone(Instance),
    /// Somebody's identity, maybe our own, is used on two machines at once.
    TwoPlaces(TwoPlaces),
}

/// See the [module](self).
#[derive(Debug)]
pub struct DiscoveryEngine {
    config: DiscoveryConfig,
    me: Announce,
    /// Where we are, as far as we have heard ourselves, the address heard last first.
    own: Vec<SocketAddr>,
    rng: ChaCha8Rng,
    queries: Queries,
    peers: Peers,
    answers: Answers,
    hellos: Hellos,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// When the next hello is due, and how many of the announcement under way are left.
#[derive(Debug, Default)]
struct Hellos {
    due: Option<Time>,
    left: u32,
    last: Option<Time>,
}

impl DiscoveryEngine {
    /// An engine that knows nobody and says nothing until it is told to. A name that is too long is cut.
    pub fn new(config: DiscoveryConfig, mut me: Announce, seed: u64) -> Self {
        while me.name.len() > NODE_NAME_BYTES_MAX {
            me.name.pop();
        }
        DiscoveryEngine {
            config,
            me,
            own: Vec::new(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            queries: Queries::new(),
            peers: Peers::new(),
            answers: Answers::new(),
            hellos: Hellos::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes one input. Its outputs are to be drained by [`Self::poll`] before the next one.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Received { from, on_link, datagram } => self.received(now, from, on_link, datagram),
            Input::Malformed { .. } => {
                self.counters.received += 1;
                self.counters.malformed += 1;
            }
            Input::Find { query, want, peers } => {
                let nonce = self.rng.random();
                if !self.queries.begin(now, query, nonce, want, peers) {
                    self.outputs.push_back(Output::Refused { query });
                }
            }
            Input::StopFind { query } => self.queries.end(query),
            Input::Undelivered { query, instance, addr } => self.queries.forget(query, instance, addr),
            Input::Answer { token, entries, more } => self.answer(token, entries, more),
            Input::Announce => self.announce(now),
            Input::LinkUp => {
                self.announce(now);
                self.queries.ask_again(now);
            }
            Input::Shutdown => self.shutdown(),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due, unless another input changes that.
    pub fn deadline(&self) -> Option<Time> {
        [self.queries.deadline(), self.answers.deadline(), self.peers.deadline(), self.hellos.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// Who is there, as far as we know.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn received(&mut self, now: Time, from: SocketAddr, on_link: bool, datagram: Datagram) {
        self.counters.received += 1;
        if datagram.instance() == self.me.instance {
            self.counters.own += 1;
            if on_link {
                self.own.retain(|known| known.ip() != from.ip());
                self.own.insert(0, from);
                self.own.truncate(PEER_ADDRESSES_MAX);
            }
            return;
        }
        let asked = matches!(datagram, Datagram::Offer(_)) && self.queries.asked(from);
        if !on_link && !asked {
            self.counters.off_link += 1;
            return;
        }
        match datagram {
            Datagram::Query(query) => self.asked(now, from, query),
            Datagram::Offer(offer) => self.offered(now, from, offer),
            Datagram::Hello(announce) => {
                self.heard(now, from, &announce);
                self.ask_newcomer(now, from);
            }
            Datagram::Bye(announce) => {
                if self.peers.bye(session_addr(from, &announce), announce.instance) {
                    self.gone(announce.instance);
                }
            }
        }
    }

    fn asked(&mut self, now: Time, from: SocketAddr, query: Query) {
        if !self.config.visible {
            return;
        }
        match self.answers.asked(now, (from, query.nonce), self.peers.len(), &mut self.rng) {
            Ok(token) => self.outputs.push_back(Output::Lookup { token, want: query.want }),
            Err(answers::Declined::Repeated) => self.counters.repeated += 1,
            Err(answers::Declined::RateLimited) => self.counters.rate_limited += 1,
        }
    }

    fn answer(&mut self, token: LookupToken, entries: Vec<OfferEntry>, more: bool) {
        if let Some(nonce) = self.answers.nonce(token) {
            let offer = Offer { nonce, from: self.me.clone(), entries, more };
            self.answers.found(token, Datagram::Offer(offer));
        }
    }

    fn offered(&mut self, now: Time, from: SocketAddr, offer: Offer) {
        let addr = session_addr(from, &offer.from);
        match self.queries.offered(now, addr, &offer) {
            queries::Offered::Stray => self.counters.stray_offers += 1,
            queries::Offered::Known => self.heard(now, from, &offer.from),
            queries::Offered::New(query) => {
                self.heard(now, from, &offer.from);
                self.outputs.push_back(Output::Found { query, addr, offer });
            }
        }
    }

    fn heard(&mut self, now: Time, from: SocketAddr, announce: &Announce) {
        let heard = self.peers.heard(now, session_addr(from, announce), announce);
        if let Some(gone) = heard.gone {
            self.gone(gone);
        }
        self.outputs.extend(heard.seen.map(Output::PeerSeen));
        let two = self.peers.two_places(now, announce.instance, self.me.node, &self.own);
        self.outputs.extend(two.map(Output::TwoPlaces));
    }

    fn gone(&mut self, instance: Instance) {
        self.queries.forget_node(instance);
        self.outputs.push_back(Output::PeerGone(instance));
    }

    /// One hello pays for one query, which has its size; the others follow with the further hellos, or by broadcast.
    fn ask_newcomer(&mut self, now: Time, to: SocketAddr) {
        let Some(asking) = self.queries.ask_newcomer() else { return };
        if self.answers.permit(now, to) {
            let datagram = self.query(asking.nonce, asking.want);
            self.send(to, datagram);
        } else {
            self.counters.rate_limited += 1;
        }
    }

    fn announce(&mut self, now: Time) {
        if self.config.visible {
            self.hellos.left = HELLO_COUNT;
            self.hellos.due = Some(self.hellos.last.map_or(now, |last| now.max(last + HELLO_GAP)));
        }
    }

    fn shutdown(&mut self) {
        self.queries.end_all();
        self.answers = Answers::new();
        self.hellos.due = None;
        if self.hellos.last.is_some() {
            self.broadcast(Datagram::Bye(self.me.clone()));
        }
    }

    /// Does what has come due.
    fn advance(&mut self, now: Time) {
        if self.hellos.due.is_some_and(|due| due <= now) {
            self.hello(now);
        }
        while let Some(asking) = self.queries.ask(now) {
            let datagram = self.query(asking.nonce, asking.want);
            for peer in asking.peers {
                self.send(peer, datagram.clone());
            }
            self.broadcast(datagram);
        }
        while let Some(due) = self.answers.due(now) {
            match due {
                answers::Due::Offer { to, datagram } => self.send(to, datagram),
                answers::Due::Unanswered => self.counters.unanswered += 1,
            }
        }
        while let Some(instance) = self.peers.expire(now) {
            self.gone(instance);
        }
    }

    fn hello(&mut self, now: Time) {
        self.broadcast(Datagram::Hello(self.me.clone()));
        self.hellos.last = Some(now);
        self.hellos.left = self.hellos.left.saturating_sub(1);
        // The first hello of a class room full of nodes comes when the power does; the later ones shall not.
        let jitter = Duration::from_millis(self.rng.random_range(0..1000));
        let gap = if self.hellos.left > 0 { HELLO_GAP } else { HELLO_INTERVAL + jitter };
        self.hellos.due = Some(now + gap);
    }

    fn query(&self, nonce: u64, want: Want) -> Datagram {
        Datagram::Query(Query { nonce, instance: self.me.instance, want })
    }

    fn broadcast(&mut self, datagram: Datagram) {
        self.counters.broadcast += 1;
        self.outputs.push_back(Output::Broadcast(datagram));
    }

    fn send(&mut self, to: SocketAddr, datagram: Datagram) {
        self.counters.sent += 1;
        self.outputs.push_back(Output::Send { to, datagram });
    }
}

/// Where the sessions of a node are that sent a datagram from `from`. A link-local address keeps its scope.
fn session_addr(mut from: SocketAddr, announce: &Announce) -> SocketAddr {
    from.set_port(announce.port);
    from
}
