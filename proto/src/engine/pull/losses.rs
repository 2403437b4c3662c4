//! Whether it helps against losses to have less in flight.
//!
//! Losses alone do not tell whether a queue runs over or the path loses by itself. So when they grow, a smaller window is
//! tried, by halves, a few times: if that brings fewer losses they were ours and the smaller one is kept, growing again
//! slowly; if it does not they are the path's own, and the window is as before.

use crate::time::Time;
use std::time::Duration;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(super) struct Losses {
    /// Share of fragments that are lost, smoothed a little.
    share: f64,
    /// The same, smoothed so much that one burst does not show.
    lasting: f64,
    /// Share that the path loses whatever we do.
    own: f64,
    /// Most bytes in flight since more only meant more lost.
    cap: f64,
    /// How many intervals in a row had more losses than the path's own.
    lossy_intervals: u32,
    trial: Option<Trial>,
    /// No trial before this: one that did not help is not repeated at once.
    quiet_until: Time,
    taken_at: Time,
}

/// A smaller window is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    share_before: f64,
    cap_before: f64,
    window_before: f64,
    halvings: u32,
    intervals: u32,
    lost: u32,
    settled: u32,
}

impl Default for Losses {
    fn default() -> Self {
        Losses {
            share: 0.0,
            lasting: 0.0,
            own: 0.0,
            cap: f64::INFINITY,
            lossy_intervals: 0,
            trial: None,
            quiet_until: Time::ZERO,
            taken_at: Time::ZERO,
        }
    }
}

impl Losses {
    /// Share of fragments that are lost.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// Most bytes that should be in flight.
    pub(super) fn cap(&self) -> f64 {
        self.cap
    }

    /// So many fragments of so many were lost in an interval, with so many bytes in flight; it is never to be less than
    /// `least`. The answer is the window from before a trial that did not help.
    pub(super) fn take(
        &mut self,
        now: Time,
        lost: u32,
        settled: u32,
        window: f64,
        least: f64,
    ) -> Option<f64> {
        let share = f64::from(lost) / f64::from(settled.max(1));
        self.share += (share - self.share) / 4.0;
        self.lasting += (share - self.lasting) / 16.0;
        if self.lasting < self.own {
            self.own += (self.lasting - self.own) / 16.0;
        }
        let elapsed = now.since(std::mem::replace(&mut self.taken_at, now)).as_secs_f64();
        let Some(trial) = &mut self.trial else {
            let grown = self.share.min(self.lasting) > self.own + SHARE_NOISE;
            let persists = share > self.own + SHARE_NOISE;
            self.lossy_intervals = if persists { self.lossy_intervals + 1 } else { 0 };
            if grown && self.lossy_intervals >= PERSISTS && now >= self.quiet_until && window > least {
                self.begin(window, least);
            } else {
                self.cap *= (elapsed / CAP_DOUBLES_SECONDS).exp2();
            }
            return None;
        };
        trial.intervals += 1;
        if trial.intervals > SETTLING {
            trial.lost += lost;
            trial.settled += settled;
        }
        if trial.intervals < SETTLING + MEASURED {
            return None;
        }
        let share = f64::from(trial.lost) / f64::from(trial.settled.max(1));
        if share <= trial.share_before * HELPS && share + SHARE_NOISE <= trial.share_before {
            (self.share, self.lasting) = (share, share);
            self.trial = None;
            None
        } else if trial.halvings < HALVINGS_MAX && self.cap > least {
            self.cap = (self.cap / 2.0).max(least);
            *trial = Trial { halvings: trial.halvings + 1, intervals: 0, lost: 0, settled: 0, ..*trial };
            None
        } else {
            self.own = share.max(trial.share_before);
            self.cap = trial.cap_before;
            self.quiet_until = now + QUIET;
            let window_before = trial.window_before;
            self.trial = None;
            Some(window_before)
        }
    }

    fn begin(&mut self, window: f64, least: f64) {
        self.trial = Some(Trial {
            share_before: self.share,
            cap_before: self.cap,
            window_before: window,
            halvings: 1,
            intervals: 0,
            lost: 0,
            settled: 0,
        });
        self.cap = (self.cap.min(window) / 2.0).max(least);
    }
}

/// Losses beyond the path's own by this share are looked into.
const SHARE_NOISE: f64 = 0.05;

/// So many intervals in a row: a burst on the air is over by then, a queue runs over as long as it is fed.
const PERSISTS: u32 = 4;

/// Intervals until a smaller window shows, and in which it is then measured.
const SETTLING: u32 = 2;
const MEASURED: u32 = 2;

/// A window that has losses fall to this part of what they were has helped.
const HELPS: f64 = 0.7;

/// How often the window is halved in one trial.
const HALVINGS_MAX: u32 = 3;

/// Seconds in which a window that was made smaller may double again.
const CAP_DOUBLES_SECONDS: f64 = 1.0;

/// Time from a trial that did not help to the next one.
const QUIET: Duration = Duration::from_secs(1);
