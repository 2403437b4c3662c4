//! The clock that the engines' time comes from.

use std::time::{Duration, Instant};

use ftx_proto::time::Time;

/// Longer than any node runs.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Monotonic time since an origin. All engines of one node share one, so that their times can be compared.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }

    /// The moment as the timers of tokio take it; one that lies beyond what they can name is as good as never.
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        let instant = self.origin.checked_add(time.since_origin()).unwrap_or(self.origin + NEVER);
        tokio::time::Instant::from_std(instant)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_the_same_for_timers_and_engines() {
        let clock = Clock::start();
        let moment = Time::from_origin(Duration::from_secs(5));
        let distance = clock.instant(moment) - clock.instant(Time::ZERO);
        assert_eq!(distance, Duration::from_secs(5));
        assert!(clock.instant(clock.now()) <= tokio::time::Instant::now());
        assert!(clock.instant(Time::from_origin(Duration::MAX)) > clock.instant(moment));
    }
}
