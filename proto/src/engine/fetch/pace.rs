//! How fast a source is, measured: how much to keep requested from it, in how large requests, and when it is late.

use std::time::Duration;

use crate::geometry::{CHUNK_SIZE, PIECE_CHUNKS};
use crate::time::Time;

use super::FetchConfig;

/// What is measured of one source. Amounts are in chunks; the last chunk of a content counts as a full one.
#[derive(Debug)]
pub(super) struct Pace {
    window: u32,
    window_max: u32,
    /// Chunks a second; `None` until it has been measured.
    rate: Option<f64>,
    rate_assumed: f64,
    bucket_since: Time,
    bucket_chunks: u32,
    delivered: u64,
    delivered_at_growth: u64,
    response_min: Option<f64>,
    response: Estimate,
    gap: Estimate,
    waiting_since: Time,
    misses: u32,
}

impl Pace {
    pub(super) fn new(config: &FetchConfig, now: Time) -> Self {
        let chunks =
            |bytes: u64| (bytes / u64::from(CHUNK_SIZE)).clamp(u64::from(WINDOW_MIN), 1 << 20) as u32;
        let window_max = chunks(config.window_bytes_max.min(crate::limits::SOURCE_WINDOW_BYTES_MAX));
        let window = chunks(config.window_bytes_start).min(window_max);
        Pace {
            window,
            window_max,
            rate: None,
            rate_assumed: f64::from(window) / WINDOW_SECONDS,
            bucket_since: now,
            bucket_chunks: 0,
            delivered: 0,
            delivered_at_growth: 0,
            response_min: None,
            response: Estimate::default(),
            gap: Estimate::default(),
            waiting_since: now,
            misses: 0,
        }
    }

    /// Most chunks to keep requested.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// How many chunks to put into one request.
    pub(super) fn grain(&self) -> u32 {
        let by_rate = self.rate.map_or(PIECE_CHUNKS, |rate| (rate * GRAIN_SECONDS) as u32);
        by_rate.min(self.window / 2).clamp(1, PIECE_CHUNKS)
    }

    /// Chunks a second, as measured or else as assumed.
    pub(super) fn rate(&self) -> f64 {
        self.rate.unwrap_or(self.rate_assumed).max(RATE_MIN)
    }

    /// Seconds until the first answer when nothing else is queued; 0 if not known.
    pub(super) fn latency(&self) -> f64 {
        self.response_min.unwrap_or(0.0)
    }

    /// Chunks that have come from the source.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How often in a row it was late with everything.
    pub(super) fn misses(&self) -> u32 {
        self.misses
    }

    /// When the source is late with everything, if nothing comes before. It is given `least` in any case.
    pub(super) fn silent_at(&self, least: Duration) -> Time {
        self.waiting_since + self.gap.timeout(self.misses).max(least)
    }

    /// Nobody looked for so long.
    pub(super) fn overslept(&mut self, now: Time, lasted: Duration) {
        self.waiting_since = now.min(self.waiting_since + lasted);
    }

    /// How long one request may take, if others are answered meanwhile.
    pub(super) fn response_timeout(&self) -> Duration {
        self.response.timeout(0)
    }

    /// Something is requested from it; `idle` if nothing else was under way.
    pub(super) fn asked(&mut self, now: Time, idle: bool) {
        if idle {
            self.waiting_since = now;
            self.bucket_since = now;
            self.bucket_chunks = 0;
        }
    }

    /// This many chunks came. `asked_at` is when they were requested, if that is known; `idle` if no more are to come.
    pub(super) fn arrived(&mut self, now: Time, chunks: u32, asked_at: Option<Time>, idle: bool) {
        self.delivered += u64::from(chunks);
        self.bucket_chunks += chunks;
        self.misses = 0;
        if let Some(asked_at) = asked_at {
            self.gap.add(now.since(self.waiting_since));
            let response = now.since(asked_at).as_secs_f64();
            self.response_min = Some(self.response_min.map_or(response, |least| least.min(response)));
        }
        self.waiting_since = now;
        let elapsed = now.since(self.bucket_since);
        if elapsed >= BUCKET || (idle && elapsed >= BUCKET_MIN) {
            self.measure(elapsed.as_secs_f64());
            self.bucket_since = now;
            self.bucket_chunks = 0;
        }
    }

    /// A request was answered to its end.
    pub(super) fn answered(&mut self, now: Time, asked_at: Time) {
        self.response.add(now.since(asked_at));
    }

    /// It was late with everything: what was requested goes to others, and it is probed with little.
    pub(super) fn missed(&mut self, now: Time) {
        self.misses += 1;
        self.window = WINDOW_MIN;
        self.waiting_since = now;
        self.bucket_since = now;
        self.bucket_chunks = 0;
    }

    fn measure(&mut self, seconds: f64) {
        let sample = f64::from(self.bucket_chunks) / seconds;
        let weight = seconds / (seconds + RATE_MEMORY_SECONDS);
        let rate = self.rate.map_or(sample, |rate| rate + weight * (sample - rate));
        self.rate = Some(rate);
        // A window holds what comes in half a second, or in twice the time to an answer if that is longer: otherwise a
        // far source would be slow because little is requested from it.
        let target = rate * WINDOW_SECONDS.max(2.0 * self.latency());
        let target = (target.min(f64::from(self.window_max)) as u32).max(WINDOW_MIN);
        if target < self.window {
            self.window = target.max(self.window - self.window / 4);
        } else if self.delivered - self.delivered_at_growth >= u64::from(self.window) {
            self.window = target.min(self.window * 2);
            self.delivered_at_growth = self.delivered;
        }
    }
}

/// Mean and deviation of a time that is measured again and again, as RFC 6298 does for TCP.
#[derive(Debug, Default)]
struct Estimate {
    known: Option<(f64, f64)>,
}

impl Estimate {
    fn add(&mut self, sample: Duration) {
        let sample = sample.as_secs_f64();
        self.known = Some(match self.known {
            None => (sample, sample / 2.0),
            Some((mean, deviation)) => {
                (mean + (sample - mean) / 8.0, deviation + ((sample - mean).abs() - deviation) / 4.0)
            }
        });
    }

    /// Doubled for every time that it was not enough.
    fn timeout(&self, misses: u32) -> Duration {
        let base = self.known.map_or(TIMEOUT_UNKNOWN, |(mean, deviation)| {
            Duration::from_secs_f64((mean + 4.0 * deviation).min(TIMEOUT_MEASURED_MAX.as_secs_f64()))
        });
        let base = base.max(TIMEOUT_MIN);
        base.saturating_mul(1 << misses.min(8)).min(base.max(TIMEOUT_DOUBLED_MAX))
    }
}

/// Fewest chunks in a window: enough to notice that a slow source has become fast.
pub(super) const WINDOW_MIN: u32 = 4;
const WINDOW_SECONDS: f64 = 0.5;
const GRAIN_SECONDS: f64 = 0.25;
const RATE_MEMORY_SECONDS: f64 = 0.25;
/// Chunks a second below which a source counts as that slow; keeps estimates finite.
const RATE_MIN: f64 = 0.01;
const BUCKET: Duration = Duration::from_millis(20);
const BUCKET_MIN: Duration = Duration::from_millis(5);
const TIMEOUT_UNKNOWN: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(500);
const TIMEOUT_DOUBLED_MAX: Duration = Duration::from_secs(8);
const TIMEOUT_MEASURED_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that delivers `rate` chunks a second, always asked for its whole window.
    fn run(pace: &mut Pace, now: &mut Time, rate: u32, seconds: u32) {
        for _ in 0..rate * seconds / 8 {
            *now += Duration::from_secs_f64(8.0 / f64::from(rate));
            let queued = Duration::from_secs_f64(f64::from(pace.window()) / f64::from(rate));
            let asked_at = Time::ZERO + now.since_origin().saturating_sub(queued);
            pace.arrived(*now, 8, Some(asked_at), false);
        }
    }

    #[test]
    fn the_window_follows_what_is_delivered() {
        let mut now = Time::ZERO;
        let mut pace = Pace::new(&FetchConfig::default(), now);
        assert_eq!((pace.window(), pace.grain()), (128, 64));
        run(&mut pace, &mut now, 6400, 2);
        assert_eq!((pace.window(), pace.grain()), (1024, 64));
        run(&mut pace, &mut now, 80, 10);
        assert!((30..=170).contains(&pace.window()), "{}", pace.window());
        pace.missed(now);
        assert_eq!(pace.window(), WINDOW_MIN);
        run(&mut pace, &mut now, 6400, 2);
        assert_eq!(pace.window(), 1024);
    }

    #[test]
    fn time_outs_are_generous_and_double() {
        let mut now = Time::ZERO;
        let mut pace = Pace::new(&FetchConfig::default(), now);
        pace.asked(now, true);
        assert_eq!(pace.silent_at(Duration::ZERO), now + TIMEOUT_UNKNOWN);
        run(&mut pace, &mut now, 6400, 1);
        assert_eq!(pace.silent_at(Duration::ZERO), now + TIMEOUT_MIN);
        for expected_ms in [1000, 2000, 4000, 8000, 8000] {
            pace.missed(now);
            assert_eq!(pace.silent_at(Duration::ZERO), now + Duration::from_millis(expected_ms));
        }
        // One that needs 3 s for every run is not late after 8 s only since it was late before.
        for _ in 0..20 {
            now += Duration::from_secs(3);
            pace.arrived(now, 1, Some(now), false);
        }
        let patience = pace.silent_at(Duration::ZERO) - now;
        assert!((3..8).contains(&patience.as_secs()), "{patience:?}");
    }
}
