//! How large datagrams may be: begins with what fits every path, and tries what is larger.
//!
//! A probe asks the source for a datagram of a certain size; if it comes, that size passes. Losing one proves nothing,
//! so each size is tried several times. When nothing comes any more the path may have changed, and everything begins
//! with the smallest size again.

use std::time::Duration;

use crate::time::Time;
use crate::wire::datagram::Layout;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct PathProbe {
    /// Place in [`Layout::ALL`].
    current: usize,
    /// The size that `taken` was told about.
    told: usize,
    round: u32,
    /// When the next round of probes begins.
    round_at: Time,
    /// Sizes of this round that are still to be sent, by their places in [`Layout::ALL`].
    to_send: Vec<usize>,
    /// Number and size of the probes on their way.
    sent: Vec<(u32, usize)>,
    next_number: u32,
}

impl PathProbe {
    /// Nothing is known of the path.
    pub(super) fn new(now: Time) -> Self {
        PathProbe {
            current: 0,
            told: 0,
            round: 0,
            round_at: now,
            to_send: Vec::new(),
            sent: Vec::new(),
            next_number: 0,
        }
    }

    /// The largest that is known to pass.
    pub(super) fn layout(&self) -> Layout {
        Layout::ALL.get(self.current).copied().unwrap_or(Layout::SMALLEST)
    }

    /// Whether it has changed since this was asked last.
    pub(super) fn changed(&mut self) -> bool {
        std::mem::replace(&mut self.told, self.current) != self.current
    }

    /// When there is something to send.
    pub(super) fn due(&self) -> Option<Time> {
        (self.current + 1 < Layout::ALL.len()).then_some(self.round_at)
    }

    /// The next probe to be sent now, with the size that is asked for.
    pub(super) fn probe(&mut self, now: Time) -> Option<(u32, u16)> {
        if self.to_send.is_empty() && self.due().is_some_and(|at| at <= now) {
            self.round += 1;
            self.round_at = now + pause(self.round);
            self.to_send = (self.current + 1..Layout::ALL.len()).collect();
            self.sent.drain(..self.sent.len().saturating_sub(REMEMBERED));
        }
        let size = self.to_send.pop()?;
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.sent.push((number, size));
        Some((number, u16::try_from(Layout::ALL.get(size)?.datagram_len()).ok()?))
    }

    /// A probe came back.
    pub(super) fn answered(&mut self, number: u32) {
        if let Some((_, size)) = self.sent.iter().find(|(sent, _)| *sent == number) {
            self.current = self.current.max(*size);
        }
    }

    /// Nothing comes any more.
    pub(super) fn fall_back(&mut self, now: Time) {
        if self.current > 0 {
            self.current = 0;
            self.sent.clear();
            self.to_send.clear();
            // Soon: perhaps it was something else.
            self.round = ROUNDS_SOON - 1;
            self.round_at = now + pause(self.round);
        }
    }
}

/// Time from one round to the next: short at first, against loss; later just in case the path has changed.
fn pause(round: u32) -> Duration {
    match round {
        0..ROUNDS_SOON => Duration::from_millis(10 << round),
        ROUNDS_SOON..ROUNDS_LATER => Duration::from_secs(1),
        _ => Duration::from_secs(30),
    }
}

/// Rounds that follow each other quickly, and those that still do not wait for long: where a third of everything is lost, six
/// rounds in vain are no wonder.
const ROUNDS_SOON: u32 = 6;
const ROUNDS_LATER: u32 = 12;

/// Probes of earlier rounds whose answers still count.
const REMEMBERED: usize = 12;
