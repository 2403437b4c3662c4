//! The discovery actor: the sockets, the clock and the catalog around the discovery engine.
//!
//! It owns the sockets of discovery on every interface, the engine, and for each query under way the channel of whoever
//! looks. It refuses to queue: datagrams wait in its mailbox only with a permit, and offers only in the channel of their
//! query. A crash loses the table of peers and the queries under way; a restart knows its neighbours within seconds.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use ftx_proto::engine::discovery::{Counters, Peer};
use ftx_proto::wire::discovery::{Announce, Offer, OfferEntry, Want};
use ractor::RpcReplyPort;
use tokio::sync::mpsc;

use crate::clock::Clock;

/// What the catalog has of what is wanted, and whether there is more than it lists.
pub type LookupAnswer = (Vec<OfferEntry>, bool);

/// Asks the catalog. Must not block; an answer that takes longer than a second is not waited for.
pub type Lookup = Arc<dyn Fn(Want) -> Pin<Box<dyn Future<Output = LookupAnswer> + Send>> + Send + Sync>;

/// With what the actor starts.
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
    /// Who is there?
    Peers(RpcReplyPort<Vec<Peer>>),
}
