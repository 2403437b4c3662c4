//! How fast the connections of one of the older systems may send together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A rate that several connections share.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    /// When the next bytes may go.
    next: Mutex<Instant>,
}

impl Pace {
    /// So many bytes a second. Must be called within a tokio runtime.
    pub fn new(per_second: u64) -> Self {
        Pace { per_second: per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// How much to send at once, at most, so that slow is not jerky.
    pub fn len_max(&self) -> usize {
        usize::try_from(self.per_second / 8).unwrap_or(usize::MAX).max(1024)
    }

    /// Waits until so many bytes may go.
    pub async fn wait(&self, bytes: usize) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.per_second as f64);
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(Instant::now());
            *next = begin + takes;
            begin
        };
        sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_share_one_rate() {
        let pace = Pace::new(100_000);
        let begun = Instant::now();
        let work = || async {
            for _ in 0..5 {
                pace.wait(1000).await;
            }
        };
        tokio::join!(work(), work());
        // The first goes at once, so nine of ten are waited for.
        assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
    }
}
