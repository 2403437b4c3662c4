//! The clock that the engines' time comes from.

use std::time::Instant;

use ftx_proto::time::Time;

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

    /// The moment as the timers of tokio take it.
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + time.since_origin())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::start()
    }
}
