//! How many bytes may go now: a rate, and how much of it may be caught up with.

use std::time::Duration;

use crate::time::Time;

const NANO: u128 = 1_000_000_000;

/// A token bucket of bytes in virtual time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    per_second: u64,
    depth: u64,
    /// Billionths of a byte, so that none gets lost between two moments.
    filled: u128,
    at: Time,
}

impl Bucket {
    /// A full bucket; it holds what comes in within `catch_up`, but at least `depth_min` bytes.
    pub(super) fn new(now: Time, per_second: u64, catch_up: Duration, depth_min: u64) -> Self {
        let per_second = per_second.max(1);
        let depth = u128::from(per_second) * catch_up.as_nanos() / NANO;
        let depth = u64::try_from(depth).unwrap_or(u64::MAX).max(depth_min);
        Bucket { per_second, depth, filled: u128::from(depth) * NANO, at: now }
    }

    /// Whether so many bytes may go now.
    pub(super) fn allows(&mut self, now: Time, bytes: u64) -> bool {
        self.fill(now);
        self.filled >= u128::from(bytes) * NANO
    }

    /// Counts bytes that go.
    pub(super) fn take(&mut self, bytes: u64) {
        self.filled = self.filled.saturating_sub(u128::from(bytes) * NANO);
    }

    /// When so many bytes, or all that it holds, may go.
    pub(super) fn when(&self, bytes: u64) -> Time {
        let wanted = u128::from(bytes.min(self.depth)) * NANO;
        let missing = wanted.saturating_sub(self.filled);
        let wait = missing.div_ceil(u128::from(self.per_second));
        self.at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Whether nothing was taken lately, so that a new bucket would be the same.
    pub(super) fn is_full(&mut self, now: Time) -> bool {
        self.allows(now, self.depth)
    }

    fn fill(&mut self, now: Time) {
        let more = now.since(self.at).as_nanos().saturating_mul(u128::from(self.per_second));
        self.filled = self.filled.saturating_add(more).min(u128::from(self.depth) * NANO);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_caught_up_with_within_the_depth_only() {
        let at = |ms| Time::from_origin(Duration::from_millis(ms));
        let mut bucket = Bucket::new(at(0), 1_000_000, Duration::from_millis(2), 100);
        assert!(bucket.is_full(at(0)) && bucket.allows(at(0), 2000) && !bucket.allows(at(0), 2001));
        bucket.take(2000);
        assert!(!bucket.allows(at(0), 1));
        assert_eq!(bucket.when(500).since_origin(), Duration::from_micros(500));
        assert_eq!(bucket.when(u64::MAX), at(2));
        assert!(bucket.allows(at(1), 1000) && !bucket.is_full(at(1)));
        assert!(!bucket.allows(at(60_000), 2001) && bucket.is_full(at(60_000)));
        assert!(Bucket::new(at(0), 0, Duration::ZERO, 100).allows(at(0), 100));
    }
}
