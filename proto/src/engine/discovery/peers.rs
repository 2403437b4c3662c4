//! The table of peers: who was heard, where, and when; and whether one identity is at two places.

use std::net::SocketAddr;
use std::time::Duration;

use super::PEER_EXPIRY;
use super::recent::Recent;
use crate::digest::{Instance, NodeId};
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

/// One identity that is used on two machines at once: somebody has copied a state folder.
///
/// Several instances of one identity are nothing special on one machine, where a `get` runs beside a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwoPlaces {
    /// The identity.
    pub node: NodeId,
    /// Where one instance of it was heard.
    pub one: SocketAddr,
    /// Where another one was heard, while the first was still there.
    pub other: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Peers {
    table: Recent<Instance, Entry>,
    /// When somebody was last found at two places.
    told: Option<Time>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    /// When it was heard first.
    first: Time,
    /// It was told that its identity is at two places.
    told: bool,
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
        Peers { table: Recent::new(PEERS_MAX), told: None }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.table.iter().map(|(_, entry)| &entry.peer)
    }

    /// A peer says of itself what `announce` says, and its sessions are at `addr`.
    pub(super) fn heard(&mut self, now: Time, addr: SocketAddr, announce: &Announce) -> Heard {
        let known = self.table.remove(&announce.instance);
        let (first, told) = known.as_ref().map_or((now, false), |entry| (entry.first, entry.told));
        let known = known.map(|entry| entry.peer);
        let mut addresses = known.as_ref().map(|peer| peer.addresses.clone()).unwrap_or_default();
        let further = !addresses.contains(&addr);
        addresses.retain(|known| *known != addr);
        addresses.insert(0, addr);
        addresses.truncate(PEER_ADDRESSES_MAX);
        let changed = further || known.is_none_or(|peer| peer.announce != *announce);
        let peer = Peer { announce: announce.clone(), addresses, seen: now };
        let entry = Entry { peer: peer.clone(), first, told };
        let evicted = self.table.insert(now, announce.instance, entry);
        Heard { seen: changed.then_some(peer), gone: evicted.map(|(instance, _)| instance) }
    }

    /// Whether the peer that was just heard shares its identity with an instance on another machine, which may be our own
    /// (`me`, whose addresses are `own`). Told once for each instance, and not often for all of them: whoever makes up
    /// instances shall not fill a log.
    pub(super) fn two_places(
        &mut self,
        now: Time,
        instance: Instance,
        me: NodeId,
        own: &[SocketAddr],
    ) -> Option<TwoPlaces> {
        let heard = self.table.peek(&instance)?;
        if heard.told || self.told.is_some_and(|told| now < told + TOLD_GAP) {
            return None;
        }
        let (node, addresses) = (heard.peer.announce.node, &heard.peer.addresses);
        // A machine with several networks needs a while until it was heard in all of them, and a node that starts anew at
        // another address is not at two places, though the first may not have been heard to say good-bye.
        let settled = |later: Time| now >= later + SETTLED;
        let (other, one) = if node == me && settled(heard.first) {
            places_apart(addresses, own)
        } else {
            self.table
                .iter()
                .filter(|(other, entry)| **other != instance && entry.peer.announce.node == node)
                .filter(|(_, entry)| heard.first <= entry.peer.seen && settled(entry.first.max(heard.first)))
                .find_map(|(_, entry)| places_apart(addresses, &entry.peer.addresses))
        }?;
        if let Some(mut entry) = self.table.remove(&instance) {
            entry.told = true;
            self.table.insert(now, instance, entry);
        }
        self.told = Some(now);
        Some(TwoPlaces { node, one, other })
    }

    /// The peer at `addr` says good-bye. Whether it is believed: only if it was heard from there before.
    pub(super) fn bye(&mut self, addr: SocketAddr, instance: Instance) -> bool {
        let believed = self.table.peek(&instance).is_some_and(|entry| entry.peer.addresses.contains(&addr));
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

/// Of the addresses of two instances two that show that they are on different machines: two of one kind, where they have
/// no address in common. All addresses have to have been heard, or a machine with several networks looks like two.
pub fn places_apart(some: &[SocketAddr], others: &[SocketAddr]) -> Option<(SocketAddr, SocketAddr)> {
    let pairs = || some.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
    if pairs().any(|(one, other)| one.ip() == other.ip()) {
        return None;
    }
    pairs().find(|(one, other)| kind(one).is_some() && kind(one) == kind(other))
}

/// Addresses of different kinds say different things about a machine, and are not compared; those that every machine has
/// say nothing.
fn kind(addr: &SocketAddr) -> Option<(bool, u32)> {
    match addr {
        addr if addr.ip().is_loopback() => None,
        // With the network that a link-local address is on.
        SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => Some((true, addr.scope_id())),
        SocketAddr::V6(_) => Some((true, 0)),
        SocketAddr::V4(_) => Some((false, 0)),
    }
}

/// How long two instances of an identity have been there before they are compared: less than an announcement takes.
const SETTLED: Duration = Duration::from_millis(1500);

/// How often it is told at most that somebody is at two places.
const TOLD_GAP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(text: &str) -> Vec<SocketAddr> {
        text.split_whitespace().map(|addr| addr.parse().unwrap()).collect()
    }

    #[test]
    fn machines_are_told_apart_by_addresses_of_one_kind() {
        for (one, other, apart) in [
            ("10.0.0.1:1", "10.0.0.2:1", true),
            ("10.0.0.1:1", "10.0.0.1:2", false),
            ("10.0.0.1:1 [fe80::1%2]:1", "[fe80::1%2]:9 10.0.0.7:9", false),
            ("10.0.0.1:1", "[fe80::1%2]:1", false),
            ("[fe80::1%2]:1", "[fe80::2%3]:1", false),
            ("[fe80::1%2]:1", "[fe80::2%2]:1", true),
            ("[fd00::1]:1", "[fe80::2%2]:1 [fd00::2]:1", true),
            ("127.0.0.1:1", "10.0.0.1:1", false),
            ("127.0.0.1:1 10.0.0.1:1", "10.0.0.2:1", true),
            ("", "10.0.0.1:1", false),
        ] {
            assert_eq!(places_apart(&addrs(one), &addrs(other)).is_some(), apart, "{one} / {other}");
        }
    }
}
