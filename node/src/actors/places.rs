//! Who goes where all places for sessions are taken and one more comes.
//!
//! Places cannot be held by doing nothing, nor by doing much: in the end it is the address with most of them that gives one
//! up, however many identities it shows, or the peer that has several. A machine that wants one gets one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ftx_proto::engine::serve::PeerKey;
use ftx_proto::time::Time;

use crate::limits::SESSION_QUIET_MIN;

/// A session's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Where it comes from.
    pub(super) from: IpAddr,
    /// Who it is, once the handshake is done.
    pub(super) peer: Option<PeerKey>,
    /// When it last asked for something or took something.
    pub(super) active: Time,
}

/// What a place is held for, from what is missed least on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// A handshake that had its time, of an address that has so many places.
    Stuck(Reverse<usize>),
    /// A handshake.
    Beginning(Reverse<usize>),
    /// Nothing for a while.
    Quiet,
    /// Something, of an address that has so many places.
    OfAddress(Reverse<usize>),
    /// Something, of a peer that has so many places.
    OfPeer(Reverse<usize>),
}

/// Which of these is missed least when somebody at `newcomer` waits for a place. Nobody, if it is not fair.
///
/// What is busy, or has only begun, goes only where its address keeps more than the newcomer gets, or else its peer keeps
/// another one. What waits at an address for its handshake counts as if it had a place: otherwise one that makes thousands of
/// connections which end at once would seem to have none. Nothing goes for an address that has more than its own has.
pub(super) fn who_goes<K: Copy>(
    taken: impl Iterator<Item = (K, Place)> + Clone,
    waiting_at: impl Fn(IpAddr) -> usize,
    newcomer: IpAddr,
    now: Time,
) -> Option<K> {
    let (mut of_address, mut of_peer) = (HashMap::<IpAddr, usize>::new(), HashMap::<PeerKey, usize>::new());
    for (_, place) in taken.clone() {
        *of_address.entry(place.from).or_insert_with(|| waiting_at(place.from)) += 1;
        place.peer.inspect(|peer| *of_peer.entry(*peer).or_default() += 1);
    }
    let of_newcomer = of_address.get(&newcomer).copied().unwrap_or_else(|| waiting_at(newcomer));
    let used_for = |place: Place| {
        let of_address = of_address.get(&place.from).copied().unwrap_or(0);
        let (has_more, idle) = (of_address >= of_newcomer + 2, now.since(place.active));
        let Some(peer) = place.peer else {
            let beginning = has_more.then_some(Use::Beginning(Reverse(of_address)));
            return if idle >= BEGINNING_MAX { Some(Use::Stuck(Reverse(of_address))) } else { beginning };
        };
        let of_peer = of_peer.get(&peer).copied().unwrap_or(0);
        match () {
            () if place.from != newcomer && of_newcomer > of_address => None,
            () if idle >= SESSION_QUIET_MIN => Some(Use::Quiet),
            () if has_more => Some(Use::OfAddress(Reverse(of_address))),
            () if of_peer > 1 => Some(Use::OfPeer(Reverse(of_peer))),
            () => None,
        }
    };
    let may_go = taken.filter_map(|(key, place)| Some((used_for(place)?, place.active, key)));
    may_go.min_by_key(|(used_for, active, _)| (*used_for, *active)).map(|(.., key)| key)
}

/// How long a handshake takes at most where both sides and the network between them do their part.
const BEGINNING_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_origin(Duration::from_secs(100));

    /// Of each place the address, the peer (0 for none yet), and the seconds since it was active.
    fn goes(taken: &[(u8, u64, u64)], newcomer: u8) -> Option<usize> {
        goes_with(taken, 0, newcomer)
    }

    /// The same where so many wait at the newcomer's address.
    fn goes_with(taken: &[(u8, u64, u64)], waiting: usize, newcomer: u8) -> Option<usize> {
        let addr = |number: u8| IpAddr::from([10, 77, 0, number]);
        let place = |&(from, peer, ago): &(u8, u64, u64)| {
            let active = Time::from_origin(Duration::from_secs(100 - ago));
            Place { from: addr(from), peer: Some(PeerKey(peer)).filter(|peer| peer.0 > 0), active }
        };
        let waiting_at = |from| if from == addr(newcomer) { waiting } else { 0 };
        who_goes(taken.iter().map(place).enumerate(), waiting_at, addr(newcomer), NOW)
    }

    #[test]
    fn whoever_has_not_shown_who_it_is_goes_first_and_of_the_address_with_most() {
        assert_eq!(goes(&[(1, 1, 90), (2, 0, 2), (2, 0, 3), (2, 2, 1)], 3), Some(2));
        // An old one of an honest machine, and many of another that come all the time.
        assert_eq!(goes(&[(1, 0, 9), (2, 0, 2), (2, 0, 3)], 3), Some(2));
    }

    #[test]
    fn a_handshake_gets_its_time_unless_its_address_has_more_than_the_newcomer() {
        assert_eq!(goes(&[(2, 0, 1), (2, 0, 0)], 2), None);
        assert_eq!(goes(&[(2, 0, 1), (2, 0, 0)], 3), Some(0));
        assert_eq!(goes(&[(2, 0, 1), (1, 0, 0)], 3), None);
        assert_eq!(goes(&[(2, 0, 1), (2, 0, 2)], 2), Some(1));
    }

    #[test]
    fn whoever_is_quiet_goes_before_whoever_is_busy() {
        assert_eq!(goes(&[(1, 1, 0), (2, 2, 6), (3, 3, 9), (1, 1, 0)], 4), Some(2));
    }

    #[test]
    fn where_all_are_busy_the_address_with_most_gives_one_up() {
        assert_eq!(goes(&[(1, 1, 4), (2, 2, 1), (2, 3, 3), (2, 4, 2)], 3), Some(2));
        assert_eq!(goes(&[(2, 2, 1), (2, 3, 3)], 3), Some(1));
        // Nobody wins by coming again, and two that take turns do not throw each other out.
        assert_eq!(goes(&[(2, 2, 1), (2, 3, 3), (1, 1, 1)], 2), None);
        assert_eq!(goes(&[(1, 1, 1), (2, 2, 3)], 3), None);
        assert_eq!(goes(&[(1, 1, 1), (2, 2, 3), (2, 3, 1)], 1), None);
    }

    #[test]
    fn who_has_many_waiting_throws_nobody_else_out() {
        let taken = [(1, 1, 0), (1, 1, 1), (1, 1, 9), (2, 2, 0)];
        assert_eq!(goes_with(&taken, 0, 3), Some(2));
        assert_eq!(goes_with(&taken, 9, 3), None);
        // Of its own it may.
        assert_eq!(goes_with(&[(1, 1, 0), (3, 3, 9)], 9, 3), Some(1));
    }

    #[test]
    fn of_many_at_one_address_the_peer_with_most_gives_one_up() {
        assert_eq!(goes(&[(1, 1, 0), (1, 2, 1), (1, 3, 0), (1, 2, 3), (1, 2, 0)], 1), Some(3));
        assert_eq!(goes(&[(1, 1, 0), (1, 2, 1), (1, 3, 0)], 1), None);
    }
}
