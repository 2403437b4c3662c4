//! The queries under way: when each is asked again, and which offers it has seen.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::QueryHandle;
use super::recent::Recent;
use crate::digest::Instance;
use crate::limits::{QUERIES_MAX, QUERY_OFFERS_MAX, QUERY_PEERS_MAX};
use crate::time::Time;
use crate::wire::discovery::{Offer, Want};

/// How many milliseconds lie between the first askings: 0, 250, 750, 1750 ms and so on, and each of these a second time
/// a little later. Who heard the first of such a pair ignores the second, so it costs one datagram; at 30 % loss it
/// finds in two seconds who would otherwise take ten.
const GAPS_MS: [u64; 9] = [60, 190, 60, 440, 60, 940, 60, 1940, 4000];

/// The gap between all further askings.
const GAP_LAST: Duration = Duration::from_secs(5);

/// No address is less than this one.
const LEAST_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[derive(Debug)]
pub(super) struct Queries {
    live: BTreeMap<QueryHandle, LiveQuery>,
    /// The query that a hello was answered with last, so that each gets its turn.
    last_asked: Option<QueryHandle>,
}

#[derive(Debug)]
struct LiveQuery {
    nonce: u64,
    want: Want,
    peers: Vec<SocketAddr>,
    due: Time,
    /// How many gaps have passed.
    gaps: usize,
    /// What was offered by whom at which session address, as a hash of it.
    offers: Recent<(Instance, SocketAddr), u64>,
}

/// One asking of a query.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) nonce: u64,
    pub(super) want: Want,
    /// Whom to ask directly.
    pub(super) peers: Vec<SocketAddr>,
}

impl Queries {
    pub(super) fn new() -> Self {
        Queries { live: BTreeMap::new(), last_asked: None }
    }

    /// Begins a query, to be asked at once. Whether there is room for it.
    pub(super) fn begin(
        &mut self,
        now: Time,
        query: QueryHandle,
        nonce: u64,
        want: Want,
        mut peers: Vec<SocketAddr>,
    ) -> bool {
        self.end(query);
        if self.live.len() >= QUERIES_MAX {
            return false;
        }
        peers.truncate(QUERY_PEERS_MAX);
        let offers = Recent::new(QUERY_OFFERS_MAX);
        self.live.insert(query, LiveQuery { nonce, want, peers, due: now, gaps: 0, offers });
        true
    }

    pub(super) fn end(&mut self, query: QueryHandle) {
        self.live.remove(&query);
    }

    pub(super) fn end_all(&mut self) {
        self.live.clear();
    }

    /// All queries begin anew with their askings: there is somebody who was not there before.
    pub(super) fn ask_again(&mut self, now: Time) {
        for query in self.live.values_mut() {
            query.due = now;
            query.gaps = 0;
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.live.values().map(|query| query.due).min()
    }

    /// The next asking that is due.
    pub(super) fn ask(&mut self, now: Time) -> Option<Asking> {
        let query = self.live.values_mut().filter(|query| query.due <= now).min_by_key(|query| query.due)?;
        // Counted from now: a shell that slept does not ask several times in a row.
        query.due = now + GAPS_MS.get(query.gaps).copied().map_or(GAP_LAST, Duration::from_millis);
        query.gaps = query.gaps.saturating_add(1);
        Some(query.asking())
    }

    /// What to ask a node that has said hello: one of the queries, each in its turn.
    pub(super) fn ask_newcomer(&mut self) -> Option<Asking> {
        let after = self.last_asked.map_or(0, |last| last.0.saturating_add(1));
        let (handle, query) =
            self.live.range(QueryHandle(after)..).next().or_else(|| self.live.first_key_value())?;
        let asking = query.asking();
        self.last_asked = Some(*handle);
        Some(asking)
    }

    /// Whether we asked `addr` directly, for whatever its network.
    pub(super) fn asked(&self, addr: SocketAddr) -> bool {
        self.live.values().any(|query| query.peers.contains(&addr))
    }

    /// The query that an offer answers, if it says something new.
    pub(super) fn offered(&mut self, now: Time, addr: SocketAddr, offer: &Offer) -> Offered {
        let Some((handle, query)) = self.live.iter_mut().find(|(_, query)| query.nonce == offer.nonce) else {
            return Offered::Stray;
        };
        let key = (offer.from.instance, addr);
        let content = content_hash(offer);
        let known = query.offers.peek(&key).copied();
        if known.is_none() && query.offers.len() >= QUERY_OFFERS_MAX {
            return Offered::Stray;
        }
        query.offers.insert(now, key, content);
        if known == Some(content) { Offered::Known } else { Offered::New(*handle) }
    }

    /// An offer counts as not yet made.
    pub(super) fn forget(&mut self, query: QueryHandle, instance: Instance, addr: SocketAddr) {
        if let Some(query) = self.live.get_mut(&query) {
            query.offers.remove(&(instance, addr));
        }
    }

    /// A node went away: should it come back, its offers are new.
    pub(super) fn forget_node(&mut self, instance: Instance) {
        for query in self.live.values_mut() {
            let keys = query.offers.keys_from((instance, LEAST_ADDR)).copied();
            let gone: Vec<_> = keys.take_while(|(node, _)| *node == instance).collect();
            for key in gone {
                query.offers.remove(&key);
            }
        }
    }
}

/// What an offer is to our queries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It answers this one, with something new.
    New(QueryHandle),
    /// It says what was said before.
    Known,
    /// It answers none of them, or one that has heard enough.
    Stray,
}

impl LiveQuery {
    fn asking(&self) -> Asking {
        Asking { nonce: self.nonce, want: self.want.clone(), peers: self.peers.clone() }
    }
}

/// Tells apart what one node offers at different times. Not keyed: who makes two of its own offers collide only hides
/// its own news.
fn content_hash(offer: &Offer) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&offer.from, &offer.entries, offer.more).hash(&mut hasher);
    hasher.finish()
}
