//! Who goes where all places for sessions are taken and one more comes.
//!
//! Places cannot be held by doing nothing, nor by doing much: in the end it is the address with most of them that gives one
//! up, however many identities it shows. A machine that wants a few always gets them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use ftx_proto::time::Time;

use crate::limits::SESSION_QUIET_MIN;

/// A session's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Where it comes from.
    pub(super) from: IpAddr,
    /// The handshake is done.
    pub(super) established: bool,
    /// When it last asked for something or took something.
    pub(super) active: Time,
}

/// Which of these is missed least when somebody at `newcomer` waits for a place: the oldest that has not shown who it is, of
/// the address that has most; or else the one that has been quiet longest; or else, of the address that has most, the one
/// that has not been busy for longest, if that address keeps more than the newcomer gets. Nobody, if it is not fair.
pub(super) fn who_goes<K: Copy>(
    taken: impl Iterator<Item = (K, Place)> + Clone,
    newcomer: IpAddr,
    now: Time,
) -> Option<K> {
    let mut counts = HashMap::<IpAddr, usize>::new();
    for (_, place) in taken.clone() {
        *counts.entry(place.from).or_default() += 1;
    }
    let count = |from: IpAddr| counts.get(&from).copied().unwrap_or(0);
    let rank = |place: &Place| match place {
        Place { established: false, .. } => (0, Reverse(count(place.from))),
        // Of those that are quiet it does not matter where they are.
        Place { active, .. } if now.since(*active) >= SESSION_QUIET_MIN => (1, Reverse(0)),
        Place { .. } => (2, Reverse(count(place.from))),
    };
    taken
        .map(|(key, place)| (key, place, rank(&place)))
        .filter(|(_, place, (rank, _))| *rank < 2 || count(place.from) >= count(newcomer) + 2)
        .min_by_key(|(_, place, rank)| (*rank, place.active))
        .map(|(key, ..)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Time = Time::from_origin(Duration::from_secs(100));

    /// Address, whether the handshake is done, seconds since it was active.
    fn goes(taken: &[(u8, bool, u64)], newcomer: u8) -> Option<usize> {
        let addr = |number: u8| IpAddr::from([10, 77, 0, number]);
        let place = |&(from, established, ago): &(u8, bool, u64)| {
            let active = Time::from_origin(Duration::from_secs(100 - ago));
            Place { from: addr(from), established, active }
        };
        who_goes(taken.iter().map(place).enumerate(), addr(newcomer), NOW)
    }

    #[test]
    fn whoever_has_not_shown_who_it_is_goes_first_and_of_the_address_with_most() {
        assert_eq!(goes(&[(1, true, 90), (2, false, 1), (2, false, 3), (2, true, 1)], 3), Some(2));
        // An old one of an honest machine, and many of another that come all the time.
        assert_eq!(goes(&[(1, false, 9), (2, false, 1), (2, false, 2)], 3), Some(2));
    }

    #[test]
    fn whoever_is_quiet_goes_before_whoever_is_busy() {
        assert_eq!(goes(&[(1, true, 0), (2, true, 6), (3, true, 9), (1, true, 0)], 4), Some(2));
    }

    #[test]
    fn where_all_are_busy_the_address_with_most_gives_one_up_and_no_other() {
        assert_eq!(goes(&[(1, true, 4), (2, true, 1), (2, true, 3), (2, true, 2)], 3), Some(2));
        assert_eq!(goes(&[(2, true, 1), (2, true, 3)], 3), Some(1));
        // Nobody wins by coming again, and two that take turns do not throw each other out.
        assert_eq!(goes(&[(2, true, 1), (2, true, 3), (1, true, 1)], 2), None);
        assert_eq!(goes(&[(1, true, 1), (2, true, 3)], 3), None);
        assert_eq!(goes(&[(1, true, 1), (2, true, 3), (2, true, 1)], 1), None);
    }
}
