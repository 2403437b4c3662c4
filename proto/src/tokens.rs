//! A token bucket in virtual time.

use std::time::Duration;

use crate::time::Time;

/// So many events in a burst, and so many a second when it goes on.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// In thousandths of a millionth of an event, so that no part of one gets lost between two moments.
    nano_tokens: u64,
    filled: Time,
}

const NANO: u64 = 1_000_000_000;

impl TokenBucket {
    /// A full bucket.
    pub fn new(now: Time, per_second: u32, burst: u32) -> Self {
        TokenBucket { per_second, burst, nano_tokens: u64::from(burst) * NANO, filled: now }
    }

    /// Takes one token, if there is one.
    pub fn take(&mut self, now: Time) -> bool {
        self.fill(now);
        match self.nano_tokens.checked_sub(NANO) {
            Some(rest) => {
                self.nano_tokens = rest;
                true
            }
            None => false,
        }
    }

    /// Puts one token back that was taken for nothing.
    pub fn put_back(&mut self) {
        self.nano_tokens = (self.nano_tokens + NANO).min(u64::from(self.burst) * NANO);
    }

    /// When there is one to take.
    pub fn ready_at(&self) -> Time {
        let missing = NANO.saturating_sub(self.nano_tokens);
        self.filled + Duration::from_nanos(missing.div_ceil(u64::from(self.per_second.max(1))))
    }

    fn fill(&mut self, now: Time) {
        let elapsed = u64::try_from(now.since(self.filled).as_nanos()).unwrap_or(u64::MAX);
        let more = elapsed.saturating_mul(u64::from(self.per_second));
        self.nano_tokens = self.nano_tokens.saturating_add(more).min(u64::from(self.burst) * NANO);
        self.filled = self.filled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(Time::ZERO, 10, 5);
        let mut taken = 0;
        for ms in 0..=2000 {
            taken += u32::from(bucket.take(Time::from_origin(Duration::from_millis(ms))));
        }
        assert_eq!(taken, 5 + 20);
    }

    #[test]
    fn it_says_when_it_is_worth_to_come_again() {
        let mut bucket = TokenBucket::new(Time::ZERO, 3, 1);
        assert_eq!(bucket.ready_at(), Time::ZERO);
        assert!(bucket.take(Time::ZERO));
        for _ in 0..10 {
            let at = bucket.ready_at();
            assert!(!bucket.take(Time::from_origin(at.since_origin() - Duration::from_nanos(1))));
            assert!(bucket.take(at));
        }
    }

    #[test]
    fn time_that_stands_still_or_goes_back_gives_nothing() {
        let mut bucket = TokenBucket::new(Time::from_origin(Duration::from_secs(1)), 1000, 1);
        assert!(bucket.take(Time::from_origin(Duration::from_secs(1))));
        assert!(!bucket.take(Time::ZERO));
        assert!(!bucket.take(Time::from_origin(Duration::from_secs(1))));
        bucket.put_back();
        assert!(bucket.take(Time::from_origin(Duration::from_secs(1))));
    }
}
