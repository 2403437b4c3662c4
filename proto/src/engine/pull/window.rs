//! How much may be in flight to one source.
//!
//! A fragment that is lost says nothing: on Wi-Fi some are lost whatever one does. What tells that there is too much on
//! the way is that it takes longer, since it waits in queues. So the window is what the path delivers, times the time
//! it needs without waiting and a little more (the slack): enough to keep the narrowest link busy, and a queue
//! before it short.
//!
//! Three things bound that rule. Where others fill the queue (a TCP download does), delay says nothing about us any
//! more, and giving way for ever would mean to starve: the window stays above what the path carried in 3 ms at its best, up to
//! 96 KiB. Where a queue is shorter than that, more in flight only means more lost: when losses grow, a smaller
//! window is tried, and kept if that helps; if it does not they are the path's own. And never more is in flight than
//! the receiving socket can hold.

use std::time::Duration;

use super::losses::Losses;
use crate::time::Time;

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Window {
    bytes: f64,
    /// What the receiving socket holds.
    bytes_max: f64,
    /// Still growing until delay shows that it is enough.
    starting: bool,
    delay: Option<Delay>,
    /// The least delay seen, in this period and in the last one.
    least: [Option<Duration>; 2],
    period_at: Time,
    rates: Rates,
    losses: Losses,
    interval: Interval,
    /// Fragments since the beginning.
    arrived: u64,
    lost: u64,
}

/// Smoothed delay and its mean deviation, in seconds.
#[derive(Debug, Clone, Copy)]
struct Delay {
    mean: f64,
    deviation: f64,
}

/// What has happened since the last adjustment.
#[derive(Debug, Clone)]
struct Interval {
    at: Time,
    bytes: u64,
    arrived: u32,
    lost: u32,
    /// More could have been asked for at some time, and the window did not hold it back.
    idle: bool,
}

/// Bytes a second that were delivered.
#[derive(Debug, Clone, Default)]
struct Rates {
    /// Of the last intervals.
    recent: [f64; RECENT_RATES],
    next: usize,
    /// The best of this period and of the last one.
    best: [f64; 2],
}

impl Window {
    /// A window for a path of which nothing is known. The receiving socket holds `bytes_max`.
    pub fn new(bytes_max: u64, now: Time) -> Self {
        let bytes_max = (bytes_max as f64).max(WINDOW_MIN);
        Window {
            bytes: WINDOW_START.min(bytes_max),
            bytes_max,
            starting: true,
            delay: None,
            least: [None; 2],
            period_at: now,
            rates: Rates::default(),
            losses: Losses::default(),
            arrived: 0,
            lost: 0,
            interval: Interval { at: now, bytes: 0, arrived: 0, lost: 0, idle: false },
        }
    }

    /// Bytes that may be in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Bytes a second that the path delivered of late.
    pub fn rate(&self) -> f64 {
        self.rates.recent()
    }

    /// Share of the fragments that are lost.
    pub fn loss(&self) -> f64 {
        self.losses.share()
    }

    /// Fragments that have come and that were lost since the beginning.
    pub fn settled(&self) -> (u64, u64) {
        (self.arrived, self.lost)
    }

    /// Bytes that keep the path busy without filling its queues: what it delivers in the time it needs, and the slack.
    pub fn need(&self) -> f64 {
        self.rates.recent() * (self.least().as_secs_f64() + self.slack())
    }

    /// How long to wait for anything to arrive.
    pub fn patience(&self) -> Duration {
        let Some(Delay { mean, deviation }) = self.delay else { return PATIENCE_UNKNOWN };
        Duration::from_secs_f64(2.0 * mean + 4.0 * deviation).max(PATIENCE_MIN)
    }

    /// A fragment has come; `delay` is the time from its Want to it, where that tells the delay of the path.
    pub fn arrived(&mut self, bytes: u64, delay: Option<Duration>) {
        self.interval.bytes += bytes;
        self.interval.arrived += 1;
        self.arrived += 1;
        if self.starting {
            self.bytes = (self.bytes + bytes as f64).min(self.bytes_max);
        }
        if let Some(delay) = delay {
            self.took(delay);
            // A short path doubles the window many times before the next adjustment.
            self.starting &= delay.as_secs_f64() <= self.least().as_secs_f64() + self.slack();
        }
    }

    /// Fragments are lost.
    pub fn lost(&mut self, fragments: u32) {
        self.interval.lost += fragments;
        self.lost += u64::from(fragments);
    }

    /// Nothing came for so long that everything in flight is given up.
    pub fn collapsed(&mut self) {
        self.starting = false;
        self.bytes = (self.bytes / 2.0).max(WINDOW_MIN);
    }

    /// Adjusts the window once in a while. `busy` says that there was always something to ask for.
    pub fn adjust(&mut self, now: Time, busy: bool) {
        self.interval.idle |= !busy;
        let elapsed = now.since(self.interval.at);
        let length = self.least().max(INTERVAL_MIN);
        let settled = self.interval.arrived + self.interval.lost;
        if elapsed < length || (settled < INTERVAL_FRAGMENTS && elapsed < INTERVAL_MAX) {
            return;
        }
        let rate = self.interval.bytes as f64 / elapsed.as_secs_f64();
        let share = f64::from(self.interval.lost) / f64::from(settled.max(1));
        let (lost, idle) = (self.interval.lost, self.interval.idle);
        self.interval = Interval { at: now, bytes: 0, arrived: 0, lost: 0, idle: false };
        if now.since(self.period_at) >= PERIOD {
            self.period_at = now;
            self.least = [None, self.least[0]];
            self.rates.best = [0.0, self.rates.best[0]];
        }
        if settled == 0 {
            return;
        }
        self.rates.take(rate, idle);
        if self.starting {
            self.starting = !self.is_filled() && share < SHARE_COLLAPSE && self.bytes < self.bytes_max;
            if self.starting {
                return;
            }
        }
        if !idle {
            let before = self.losses.take(now, lost, settled, self.bytes, TRIAL_MIN);
            self.bytes = before.unwrap_or(self.bytes);
        }
        let wanted = self.need().max(self.floor()).min(self.losses.cap()).clamp(WINDOW_MIN, self.bytes_max);
        // What nobody made use of says nothing about what could be.
        let least = if idle { self.bytes } else { self.bytes * SHRINK };
        self.bytes = wanted.clamp(least.min(self.bytes_max), (self.bytes * GROW).min(self.bytes_max));
        self.bytes = self.bytes.min(self.losses.cap()).max(WINDOW_MIN);
    }

    fn took(&mut self, delay: Duration) {
        let least = &mut self.least[0];
        *least = Some(least.map_or(delay, |least| least.min(delay)));
        let sample = delay.as_secs_f64();
        self.delay = Some(match self.delay {
            None => Delay { mean: sample, deviation: sample / 2.0 },
            Some(Delay { mean, deviation }) => Delay {
                mean: mean + (sample - mean) / 8.0,
                deviation: deviation + ((sample - mean).abs() - deviation) / 8.0,
            },
        });
    }

    /// The time that the path needs without waiting.
    fn least(&self) -> Duration {
        self.least.iter().flatten().min().copied().unwrap_or_default()
    }

    /// Seconds of waiting that are wanted: against every hiccup of the machines at both ends, and more where delay varies
    /// by itself.
    fn slack(&self) -> f64 {
        let deviation = self.delay.map_or(0.0, |delay| delay.deviation);
        (4.0 * deviation).clamp(SLACK_MIN, SLACK_MAX)
    }

    /// Whether there is as much waiting on the path as is wanted.
    fn is_filled(&self) -> bool {
        let mean = self.delay.map_or(0.0, |delay| delay.mean);
        mean > self.least().as_secs_f64() + self.slack()
    }

    /// What is kept however long the queues of others make it take.
    fn floor(&self) -> f64 {
        let best = self.rates.best[0].max(self.rates.best[1]);
        (best * FLOOR_SECONDS).clamp(FLOOR_MIN, FLOOR_MAX)
    }
}

impl Rates {
    fn recent(&self) -> f64 {
        self.recent.iter().copied().fold(0.0, f64::max)
    }

    fn take(&mut self, rate: f64, idle: bool) {
        if idle && rate < self.recent() {
            return;
        }
        if let Some(place) = self.recent.get_mut(self.next % RECENT_RATES) {
            *place = rate;
        }
        self.next = (self.next + 1) % RECENT_RATES;
        self.best[0] = self.best[0].max(rate);
    }
}

/// Bytes in flight of a path of which nothing is known, and least bytes of any.
const WINDOW_START: f64 = 32.0 * 1024.0;
const WINDOW_MIN: f64 = 8.0 * 1024.0;

/// Least bytes with which it is tried whether fewer mean fewer losses.
const TRIAL_MIN: f64 = 16.0 * 1024.0;

/// Waiting that is wanted, in seconds: at least and at most.
const SLACK_MIN: f64 = 0.00125;
const SLACK_MAX: f64 = 0.02;

/// What is kept whatever the delay: the best rate for so many seconds, at least and at most so many bytes.
const FLOOR_SECONDS: f64 = 0.003;
const FLOOR_MIN: f64 = 16.0 * 1024.0;
const FLOOR_MAX: f64 = 96.0 * 1024.0;

/// An adjustment is made after so long and so many fragments, or at least after the longest time.
const INTERVAL_MIN: Duration = Duration::from_millis(4);
const INTERVAL_FRAGMENTS: u32 = 64;
const INTERVAL_MAX: Duration = Duration::from_millis(50);

/// How far one adjustment goes.
const GROW: f64 = 1.25;
const SHRINK: f64 = 0.85;

/// After this, at most twice this, the least delay and the best rate are forgotten: paths change.
const PERIOD: Duration = Duration::from_secs(5);

/// Intervals whose best rate counts as what the path delivers.
const RECENT_RATES: usize = 8;

/// A share of losses that ends the start.
const SHARE_COLLAPSE: f64 = 0.35;

/// How long to wait for something when nothing is known, and at least.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(60);
const PATIENCE_MIN: Duration = Duration::from_millis(6);
