//! The table of peers: who was heard, where, and when.

use std::net::SocketAddr;

use super::PEER_EXPIRY;
use super::recent::Recent;
use crate::digest::Instance;
use crate::limits::{PEER_ADDRESSES_MAX, PEERS_MAX};
use crate::time::Time;
use crate::wire::discovery::Announce;

/// A node that was heard. All of it is a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it says of itself.
    pub announce: Announce,
    /// Where its sessions are, the address heard last first: it may be on several networks that we are on too.
    pub addresses: Vec<SocketAddr>,
    /// When it was heard last.
    pub seen: Time,
}

#[derive(Debug)]
pub(super) struct Peers {
    table: Recent<Instance, Peer>,
}

/// What hearing a peer changed.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// It is new, or at a further address, or calls itself differently.
    pub(super) seen: Option<Peer>,
    /// This one had to make room for it.
    pub(super) gone: Option<Instance>,
}

impl Peers {
    pub(super) fn new() -> Self {
        Peers { table: Recent::new(PEERS_MAX) }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.table.iter().map(|(_, peer)| peer)
    }

    /// A peer says of itself what `announce` says, and its sessions are at `addr`.
    pub(super) fn heard(&mut self, now: Time, addr: SocketAddr, announce: &Announce) -> Heard {
        let known = self.table.remove(&announce.instance);
        let mut addresses = known.as_ref().map(|peer| peer.addresses.clone()).unwrap_or_default();
        let further = !addresses.contains(&addr);
        addresses.retain(|known| *known != addr);
        addresses.insert(0, addr);
        addresses.truncate(PEER_ADDRESSES_MAX);
        let changed = further || known.is_none_or(|peer| peer.announce != *announce);
        let peer = Peer { announce: announce.clone(), addresses, seen: now };
        let evicted = self.table.insert(now, announce.instance, peer.clone());
        Heard { seen: changed.then_some(peer), gone: evicted.map(|(instance, _)| instance) }
    }

    /// The peer at `addr` says good-bye. Whether it is believed: only if it was heard from there before.
    pub(super) fn bye(&mut self, addr: SocketAddr, instance: Instance) -> bool {
        let believed = self.table.peek(&instance).is_some_and(|peer| peer.addresses.contains(&addr));
        believed && self.table.remove(&instance).is_some()
    }

    /// When the next peer will have been silent for too long.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.table.oldest().map(|seen| seen + PEER_EXPIRY)
    }

    /// Takes out one peer that was silent for too long.
    pub(super) fn expire(&mut self, now: Time) -> Option<Instance> {
        if self.deadline()? > now {
            return None;
        }
        self.table.pop_until(now).map(|(instance, _)| instance)
    }
}
