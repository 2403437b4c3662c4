//! Which connection's handshake is next.
//!
//! A handshake costs a good part of a millisecond, and anybody may ask for one. So there are only so many a second, that what
//! is being served goes on, and where connections wait for theirs, addresses take turns: whoever makes thousands of them waits
//! behind itself.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};

use ftx_proto::time::Time;
use ftx_proto::tokens::TokenBucket;

use crate::net::connection::HANDSHAKE_TIMEOUT;

/// Connections that wait for their handshakes.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// Since when each of them waits; no queue is empty.
    waiting: BTreeMap<IpAddr, VecDeque<(Time, T)>>,
    /// Who had the last turn.
    last: Option<IpAddr>,
    tokens: TokenBucket,
}

impl<T> Turns<T> {
    /// Nobody waits. So many handshakes a second, and as many in a burst.
    pub(super) fn new(now: Time, per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Turns { waiting: BTreeMap::new(), last: None, tokens: TokenBucket::new(now, per_second, per_second) }
    }

    /// One more waits.
    pub(super) fn push(&mut self, now: Time, from: IpAddr, connection: T) {
        self.waiting.entry(from).or_default().push_back((now, connection));
    }

    /// Whose turn it is, if there may be one now.
    pub(super) fn next(&mut self, now: Time) -> Option<T> {
        self.forget_old(now);
        let next = self.next_address().filter(|_| self.tokens.take(now))?;
        self.last = Some(next);
        self.remove(next, VecDeque::pop_front)
    }

    /// When to ask again.
    pub(super) fn deadline(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then(|| self.tokens.ready_at())
    }

    /// Gives up the place of one that waits for one that comes from `newcomer`: the last of the address that has most, if
    /// that has more than the newcomer's.
    pub(super) fn give_up_for(&mut self, newcomer: IpAddr) -> Option<T> {
        let (&most, queue) = self.waiting.iter().max_by_key(|(_, queue)| queue.len())?;
        let own = self.waiting.get(&newcomer).map_or(0, VecDeque::len);
        if most == newcomer || queue.len() <= own + 1 {
            return None;
        }
        self.remove(most, VecDeque::pop_back)
    }

    /// How many wait there.
    pub(super) fn waiting_at(&self, from: IpAddr) -> usize {
        self.waiting.get(&from).map_or(0, VecDeque::len)
    }

    /// The address after the one that had the last turn.
    fn next_address(&self) -> Option<IpAddr> {
        let behind = |last| self.waiting.range((Excluded(last), Unbounded)).next();
        let next = self.last.and_then(behind).or_else(|| self.waiting.first_key_value());
        next.map(|(address, _)| *address)
    }

    fn remove(
        &mut self,
        from: IpAddr,
        which: impl Fn(&mut VecDeque<(Time, T)>) -> Option<(Time, T)>,
    ) -> Option<T> {
        let queue = self.waiting.get_mut(&from)?;
        let removed = which(queue);
        if queue.is_empty() {
            self.waiting.remove(&from);
        }
        removed.map(|(_, connection)| connection)
    }

    /// Closes those that have waited for as long as anybody has patience.
    fn forget_old(&mut self, now: Time) {
        self.waiting.retain(|_, queue| {
            while queue.front().is_some_and(|(since, _)| now.since(*since) >= HANDSHAKE_TIMEOUT) {
                queue.pop_front();
            }
            !queue.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Time {
        Time::from_origin(Duration::from_millis(milliseconds))
    }

    fn addr(number: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, number])
    }

    #[test]
    fn a_machine_that_wants_one_waits_for_nobody_that_wants_thousands() {
        let mut turns = Turns::new(at(0), 10);
        (0..1000).for_each(|number| turns.push(at(0), addr(1), (1, number)));
        turns.push(at(0), addr(2), (2, 0));
        turns.push(at(0), addr(3), (3, 0));
        let begun: Vec<_> = std::iter::from_fn(|| turns.next(at(0))).collect();
        assert_eq!(begun[..4], [(1, 0), (2, 0), (3, 0), (1, 1)]);
        assert_eq!(begun.len(), 10, "so many in a burst");
        // And so many a second, each when it was said.
        for number in 8..28 {
            let due = turns.deadline().unwrap();
            assert_eq!(turns.next(due), Some((1, number)));
            assert_eq!(turns.next(due), None);
            assert_eq!(due, at((number - 7) * 100));
        }
    }

    #[test]
    fn whoever_waits_too_long_is_gone_and_costs_no_turn() {
        let mut turns = Turns::new(at(0), 1);
        turns.push(at(0), addr(1), 1);
        turns.push(at(9_000), addr(1), 2);
        assert_eq!(turns.next(at(10_000)), Some(2));
        assert_eq!(turns.deadline(), None);
        assert_eq!(turns.next(at(20_000)), None);
    }

    #[test]
    fn the_address_that_has_most_gives_up_the_last_and_only_for_another_one() {
        let mut turns = Turns::new(at(0), 1);
        (0..3).for_each(|number| turns.push(at(0), addr(1), number));
        assert_eq!(turns.give_up_for(addr(1)), None);
        assert_eq!(turns.give_up_for(addr(2)), Some(2));
        turns.push(at(0), addr(2), 7);
        assert_eq!(turns.give_up_for(addr(2)), None, "it would have more than the other");
        assert_eq!(turns.next(at(0)), Some(0));
        assert_eq!(turns.give_up_for(addr(3)), None, "nobody has more than one");
    }
}
