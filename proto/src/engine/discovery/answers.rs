//! The answers to others: their rates, their moments, and what was answered just now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::LookupToken;
use super::recent::Recent;
use super::tokens::TokenBucket;
use crate::limits::{
    ANSWERS_BURST, ANSWERS_PENDING_MAX, ANSWERS_PER_SECOND, ANSWERS_RECENT_MAX, DATAGRAM_SIZE_MAX,
    SOURCE_ANSWERS_BURST, SOURCE_ANSWERS_PER_SECOND, SOURCES_MAX,
};
use crate::time::Time;
use crate::wire::discovery::Datagram;

/// The longest an answer waits, so that those of a hundred nodes do not drown the asker. Less than what lies between
/// the first two askings of a query, minus [`REPEAT_MIN`]: so each asking gets its answer.
const DELAY_MAX: Duration = Duration::from_millis(40);

/// How much longer the longest wait is with each peer that may be answering too.
const DELAY_PER_PEER: Duration = Duration::from_micros(400);

/// A query is not answered again sooner than this; later it is, since the answer may have been lost.
const REPEAT_MIN: Duration = Duration::from_millis(200);

/// How long after an answer its copy follows, since one of the two may get lost. Both together, with the longest wait,
/// take less than what lies between two pairs of askings.
const COPY_GAP: Duration = Duration::from_millis(50);

/// How often an answer is sent, if so many are no larger than the query.
const COPIES: usize = 2;

/// How long the catalog may take: reading what it knew in its last run takes seconds where that is a lot. Until then, a
/// question that is repeated is answered by the same look, as soon as there is an answer.
pub const LOOKUP_MAX: Duration = Duration::from_secs(8);

/// A query as it was heard: who asked, and the nonce.
type Asked = (SocketAddr, u64);

#[derive(Debug)]
pub(super) struct Answers {
    next_token: u64,
    pending: BTreeMap<LookupToken, Pending>,
    /// What is pending, by asker; as many as `pending`.
    asked: BTreeSet<Asked>,
    /// When each pending answer is to be looked at; as many as `pending`.
    agenda: BTreeSet<(Time, LookupToken)>,
    recent: Recent<Asked, ()>,
    rate: TokenBucket,
    sources: Recent<SourceKey, TokenBucket>,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    /// Not answered before.
    moment: Time,
    /// In the agenda: the moment once there is an answer, the end of patience before.
    due: Time,
    offer: Option<Datagram>,
    /// How often it is still to be sent.
    copies: usize,
}

/// What counts as one asker: an address. On loopback all nodes have the same one, so there it is a socket.
type SourceKey = (IpAddr, u16);

/// Why a query gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declined {
    /// It has just got one, or is about to.
    Repeated,
    /// There are too many, from this asker or from all.
    RateLimited,
}

/// What has come due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// This is to be sent.
    Offer { to: SocketAddr, datagram: Datagram },
    /// The catalog was too slow.
    Unanswered,
}

impl Answers {
    pub(super) fn new() -> Self {
        Answers {
            next_token: 0,
            pending: BTreeMap::new(),
            asked: BTreeSet::new(),
            agenda: BTreeSet::new(),
            recent: Recent::new(ANSWERS_RECENT_MAX),
            rate: TokenBucket::new(Time::ZERO, ANSWERS_PER_SECOND, ANSWERS_BURST),
            sources: Recent::new(SOURCES_MAX),
        }
    }

    /// A query was heard; `peers` others may be answering it too. What to ask the catalog with, if it is answered.
    pub(super) fn asked(
        &mut self,
        now: Time,
        asked: Asked,
        peers: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<LookupToken, Declined> {
        while self.recent.oldest().is_some_and(|answered| answered + REPEAT_MIN <= now) {
            self.recent.pop_until(now);
        }
        if self.asked.contains(&asked) || self.recent.peek(&asked).is_some() {
            return Err(Declined::Repeated);
        }
        if self.pending.len() >= ANSWERS_PENDING_MAX || !self.permit(now, asked.0) {
            return Err(Declined::RateLimited);
        }
        let token = LookupToken(self.next_token);
        self.next_token += 1;
        let spread = DELAY_PER_PEER.saturating_mul(u32::try_from(peers).unwrap_or(u32::MAX)).min(DELAY_MAX);
        let delay = Duration::from_micros(rng.random_range(0..=spread.as_micros() as u64));
        let pending = Pending { asked, moment: now + delay, due: now + LOOKUP_MAX, offer: None, copies: 0 };
        self.agenda.insert((pending.due, token));
        self.asked.insert(asked);
        self.pending.insert(token, pending);
        Ok(token)
    }

    /// Whether something may be sent to `to` because of what came from there; counts it.
    pub(super) fn permit(&mut self, now: Time, to: SocketAddr) -> bool {
        let key = source_key(to);
        let mut source = self
            .sources
            .remove(&key)
            .unwrap_or_else(|| TokenBucket::new(now, SOURCE_ANSWERS_PER_SECOND, SOURCE_ANSWERS_BURST));
        let permitted = source.take(now) && {
            let all = self.rate.take(now);
            if !all {
                source.put_back();
            }
            all
        };
        self.sources.insert(now, key, source);
        permitted
    }

    /// The nonce of the query that a lookup is for, if it still waits for an answer.
    pub(super) fn nonce(&self, token: LookupToken) -> Option<u64> {
        self.pending.get(&token).filter(|pending| pending.offer.is_none()).map(|pending| pending.asked.1)
    }

    /// The catalog has answered, and this is the offer.
    pub(super) fn found(&mut self, token: LookupToken, offer: Datagram) {
        let Some(pending) = self.pending.get_mut(&token) else { return };
        self.agenda.remove(&(pending.due, token));
        // All copies together are no larger than what was asked with.
        pending.copies = (DATAGRAM_SIZE_MAX / offer.encode().len()).clamp(1, COPIES);
        pending.offer = Some(offer);
        pending.due = pending.moment;
        self.agenda.insert((pending.due, token));
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.agenda.first().map(|(due, _)| *due)
    }

    /// The next pending answer that has come due.
    pub(super) fn due(&mut self, now: Time) -> Option<Due> {
        if self.deadline()? > now {
            return None;
        }
        let (_, token) = self.agenda.pop_first()?;
        let mut pending = self.pending.remove(&token)?;
        let asked = pending.asked;
        let Some(datagram) = pending.offer.clone() else {
            self.asked.remove(&asked);
            return Some(Due::Unanswered);
        };
        if self.recent.peek(&asked).is_none() {
            self.recent.insert(now, asked, ());
        }
        pending.copies = pending.copies.saturating_sub(1);
        if pending.copies > 0 {
            pending.due = now + COPY_GAP;
            self.agenda.insert((pending.due, token));
            self.pending.insert(token, pending);
        } else {
            self.asked.remove(&asked);
        }
        Some(Due::Offer { to: asked.0, datagram })
    }
}

fn source_key(addr: SocketAddr) -> SourceKey {
    (addr.ip(), if addr.ip().is_loopback() { addr.port() } else { 0 })
}
