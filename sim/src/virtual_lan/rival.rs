//! Senders that are not ours: what the datagram lane shares a link with, or is to be compared with.
//!
//! Segments have numbers of their own, each is acknowledged, and what four later ones have overtaken is lost and sent
//! again under a new number; so whatever arrives is new. The way back loses nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ftx_proto::time::Time;

use super::link::LinkSpec;

/// A sender on a link of its own to the switch; its receiver is behind the last link.
#[derive(Debug, Clone, PartialEq)]
pub struct RivalSpec {
    /// The link.
    pub link: LinkSpec,
    /// How much it has in flight.
    pub control: Control,
    /// When it begins; it never ends.
    pub begins: Time,
}

/// How much a rival has in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Control {
    /// Always so many bytes, whatever happens.
    Fixed(u64),
    /// As much as TCP would with CUBIC (RFC 9438): doubled every round trip until the first loss, then multiplied by 0.7
    /// with each, and growing again by the cube of the time since.
    Cubic,
}

/// A rival at work. Counts in segments.
#[derive(Debug)]
pub(super) struct Rival {
    control: Control,
    window: f64,
    /// Of CUBIC: `None` before the first loss.
    epoch: Option<Epoch>,
    /// In flight, with the times at which they were sent.
    in_flight: BTreeMap<u64, Time>,
    next: u64,
    /// Losses of what was sent before this belong to the last reduction.
    reduced_at: u64,
    round_trip: Duration,
    pub(super) delivered: u64,
}

#[derive(Debug, Clone, Copy)]
struct Epoch {
    at: Time,
    window_max: f64,
}

impl Rival {
    pub(super) fn new(control: Control) -> Self {
        let window = match control {
            Control::Fixed(bytes) => bytes as f64 / SEGMENT_BYTES as f64,
            Control::Cubic => WINDOW_START,
        };
        Rival {
            control,
            window,
            epoch: None,
            in_flight: BTreeMap::new(),
            next: 0,
            reduced_at: 0,
            round_trip: Duration::ZERO,
            delivered: 0,
        }
    }

    /// The number of the next segment to be sent now, if one may be.
    pub(super) fn next(&mut self, now: Time) -> Option<u64> {
        if self.in_flight.len() as f64 >= self.window {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.in_flight.insert(number, now);
        Some(number)
    }

    /// A segment is acknowledged.
    pub(super) fn acknowledged(&mut self, now: Time, number: u64) {
        self.delivered += SEGMENT_BYTES;
        let Some(sent_at) = self.in_flight.remove(&number) else { return };
        let sample = now.since(sent_at);
        self.round_trip = if self.round_trip.is_zero() { sample } else { (self.round_trip * 7 + sample) / 8 };
        let behind: Vec<u64> =
            self.in_flight.range(..number.saturating_sub(REORDER)).map(|(n, _)| *n).collect();
        for lost in behind {
            self.in_flight.remove(&lost);
            self.lost(now, lost);
        }
        self.grow(now);
    }

    /// When everything in flight counts as lost.
    pub(super) fn time_out_at(&self) -> Option<Time> {
        let oldest = self.in_flight.values().next()?;
        Some(*oldest + (self.round_trip * 2).max(TIME_OUT_MIN))
    }

    pub(super) fn time_out(&mut self, now: Time) {
        self.in_flight.clear();
        self.lost(now, self.next);
        if self.control == Control::Cubic {
            self.window = WINDOW_START;
        }
    }

    fn lost(&mut self, now: Time, number: u64) {
        if self.control != Control::Cubic || number < self.reduced_at {
            return;
        }
        self.reduced_at = self.next;
        self.epoch = Some(Epoch { at: now, window_max: self.window });
        self.window = (self.window * BETA).max(2.0);
    }

    fn grow(&mut self, now: Time) {
        if self.control != Control::Cubic {
            return;
        }
        let Some(Epoch { at, window_max }) = self.epoch else {
            self.window = (self.window + 1.0).min(WINDOW_MAX);
            return;
        };
        let seconds = now.since(at).as_secs_f64();
        let until_max = (window_max * (1.0 - BETA) / CUBE).cbrt();
        let cubic = CUBE * (seconds - until_max).powi(3) + window_max;
        // What a sender of the older kind would have by now, with the same losses.
        let rounds = seconds / self.round_trip.as_secs_f64().max(1e-6);
        let friendly = window_max * BETA + 3.0 * (1.0 - BETA) / (1.0 + BETA) * rounds;
        let target = cubic.max(friendly).min(self.window * 1.5);
        self.window = (self.window + ((target - self.window) / self.window).max(0.0)).min(WINDOW_MAX);
    }
}

/// Payload of a segment, and with its headers and those of the frame.
pub(super) const SEGMENT_BYTES: u64 = 1448;
pub(super) const FRAME_BYTES: u64 = SEGMENT_BYTES + 14 + 20 + 32;

/// Later segments that overtake one before it counts as lost.
const REORDER: u64 = 3;

/// Segments in flight at first and at most: 4 MiB.
const WINDOW_START: f64 = 10.0;
const WINDOW_MAX: f64 = (4 << 20) as f64 / SEGMENT_BYTES as f64;

const TIME_OUT_MIN: Duration = Duration::from_millis(200);

/// The two constants of CUBIC.
const BETA: f64 = 0.7;
const CUBE: f64 = 0.4;
