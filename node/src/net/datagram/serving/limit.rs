//! The upload limit as the datagram lane keeps it: bytes that may be sent now, filled at its share of the allowed rate.
//!
//! The serve engine has the same limit for the sessions, and is told of what goes here; so both together keep it. That
//! neither takes it all is decided here: of the rate, the lane has the share that its connections have of all that wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ftx_proto::geometry::CHUNK_SIZE;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: f64,
    burst: f64,
    /// Connections with something to send.
    ours: AtomicUsize,
    /// Peers that wait in their sessions.
    others: AtomicUsize,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Below 0 after what could not wait.
    bytes: f64,
    filled_at: Option<Instant>,
}

impl Limit {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1) as f64;
        let burst = (bytes_per_second * BURST.as_secs_f64()).max(f64::from(CHUNK_SIZE));
        let level = Level { bytes: burst, filled_at: None };
        let (ours, others) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Limit { bytes_per_second, burst, ours, others, level: Mutex::new(level) }
    }

    pub(super) fn set_others(&self, peers: usize) {
        self.others.store(peers, Ordering::Relaxed);
    }

    /// One connection more has something to send.
    pub(super) fn begin(&self) {
        self.ours.fetch_add(1, Ordering::Relaxed);
    }

    /// One connection has nothing to send any more.
    pub(super) fn end(&self) {
        self.ours.fetch_sub(1, Ordering::Relaxed);
    }

    /// When there will be enough for a chunk; `None` if there is now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let ours = self.ours.load(Ordering::Relaxed).max(1) as f64;
        let others = self.others.load(Ordering::Relaxed) as f64;
        let rate = self.bytes_per_second * ours / (ours + others);
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(level.filled_at.unwrap_or(now));
        level.bytes = (level.bytes + elapsed.as_secs_f64() * rate).min(self.burst);
        level.filled_at = Some(now);
        let lacking = f64::from(CHUNK_SIZE) - level.bytes;
        // A timer has milliseconds; what it is late by is not lost, since the burst holds more than that.
        (lacking > 0.0).then(|| now + Duration::from_secs_f64(lacking / rate).min(WAIT_MAX))
    }

    /// So much is sent.
    pub(super) fn take(&self, bytes: usize) {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).bytes -= bytes as f64;
    }
}

/// What may be sent at once: as much as the limit allows in this time, and a chunk at least.
const BURST: Duration = Duration::from_millis(50);

/// After this the shares are looked at again: those who wait may have changed.
const WAIT_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that leave within so many seconds where there is always something to send.
    fn sent_within(limit: &Limit, seconds: u64) -> f64 {
        let begun = Instant::now();
        let (mut now, mut sent) = (begun, 0);
        while now < begun + Duration::from_secs(seconds) {
            match limit.wait(now) {
                // As late as a timer is.
                Some(at) => now = at + Duration::from_millis(1),
                None => {
                    limit.take(CHUNK_SIZE as usize);
                    sent += CHUNK_SIZE;
                }
            }
        }
        f64::from(sent)
    }

    #[test]
    fn no_more_than_the_rate_and_not_much_less() {
        for rate in [20_000, 1_000_000, 100_000_000] {
            let sent = sent_within(&Limit::new(rate), 10) / 10.0;
            let burst = f64::from(CHUNK_SIZE).max(rate as f64 / 20.0) / 10.0;
            assert!(sent <= rate as f64 + burst && sent >= 0.9 * rate as f64, "{rate}: {sent}");
        }
    }

    #[test]
    fn those_who_wait_in_sessions_have_their_share() {
        let limit = Limit::new(1_000_000);
        limit.begin();
        limit.set_others(3);
        let sent = sent_within(&limit, 10) / 10.0;
        assert!((230_000.0..=260_000.0).contains(&sent), "{sent}");
        limit.set_others(0);
        assert!(sent_within(&limit, 10) / 10.0 > 900_000.0);
        limit.end();
    }

    #[test]
    fn what_could_not_wait_is_made_up_for() {
        let limit = Limit::new(1_000_000);
        limit.take(1_000_000);
        let sent = sent_within(&limit, 2);
        assert!(sent <= 1_080_000.0, "{sent}");
    }
}
