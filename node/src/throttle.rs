//! What can happen as often as somebody outside likes, told only now and then.

use std::fmt::Display;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets so many through in each interval, and counts the others.
#[derive(Debug)]
pub(crate) struct Throttle {
    most: u64,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the interval began.
    since: Option<Instant>,
    /// How many came through in it.
    passed: u64,
    /// How many did not, since the last that did.
    others: u64,
}

impl Throttle {
    /// At most `most` in each `interval`.
    pub(crate) fn new(most: u64, interval: Duration) -> Self {
        Throttle { most, interval, state: Mutex::default() }
    }

    /// Whether one more comes through; then, how many before it did not.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| since.elapsed() >= self.interval) {
            (state.since, state.passed) = (Some(Instant::now()), 0);
        }
        if state.passed == self.most {
            state.others += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.others))
    }
}

/// Tells that some work has panicked while the rest goes on, unless too much was told of late.
pub(crate) fn tell_of_failed(what: &str, error: &dyn Display) {
    static FAILED: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(FAILED_TOLD_MAX, FAILED_INTERVAL));
    if let Some(others) = FAILED.pass() {
        tracing::error!(%error, others, "{what} failed; the others go on");
    }
}

/// How many of them are told in a time, of all kinds.
const FAILED_TOLD_MAX: u64 = 20;
const FAILED_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_come_through_and_the_others_are_counted() {
        let throttle = Throttle::new(2, Duration::from_secs(3600));
        let passed: Vec<_> = (0..5).map(|_| throttle.pass()).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        throttle.state.lock().unwrap().since = Instant::now().checked_sub(Duration::from_secs(3600));
        assert_eq!((throttle.pass(), throttle.pass(), throttle.pass()), (Some(3), Some(0), None));
    }
}
