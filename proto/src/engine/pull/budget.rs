//! How much may be in flight to all sources together.
//!
//! Each source's window keeps its own path busy. But all paths end at this node: with many sources the last switch port
//! is the narrowest place, and windows that are right one by one would drown it together. So their sum is bounded by what
//! arrives here in all, and by what a queue shorter than that can take; each source gets its part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::losses::Losses;
use super::window::Window;
use crate::time::Time;

/// A source's number in a [`Budget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub u32);

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Budget {
    members: BTreeMap<Member, Claim>,
    /// Sums over the members.
    windows: f64,
    needs: f64,
    losses: Losses,
    /// When losses were looked at last, and what has come and was lost since then.
    looked_at: Time,
    arrived: u32,
    lost: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Claim {
    window: f64,
    need: f64,
    arrived: u64,
    lost: u64,
}

impl Budget {
    /// Nobody has anything in flight.
    pub fn new() -> Self {
        Budget::default()
    }

    /// How much this source may have in flight now.
    pub fn allow(&mut self, now: Time, member: Member, window: &Window) -> u64 {
        let (arrived, lost) = window.settled();
        let claim = Claim { window: window.bytes() as f64, need: window.need(), arrived, lost };
        let before = self.members.insert(member, claim).unwrap_or_default();
        self.count(before, claim);
        self.arrived += arrived.saturating_sub(before.arrived) as u32;
        self.lost += lost.saturating_sub(before.lost) as u32;
        let least = ALLOWED_MIN * self.members.len() as f64;
        let total = self.needs.max(TOTAL_MIN).min(self.losses.cap()).max(least);
        let settled = self.arrived + self.lost;
        if now.since(self.looked_at) >= INTERVAL && settled >= INTERVAL_FRAGMENTS {
            // One source alone looks after itself.
            if self.members.len() > 1 {
                self.losses.take(now, self.lost, settled, total.min(self.windows), least);
            }
            (self.looked_at, self.arrived, self.lost) = (now, 0, 0);
        }
        let scale = (total / self.windows.max(1.0)).min(1.0);
        (claim.window * scale).max(ALLOWED_MIN) as u64
    }

    /// A source is gone.
    pub fn leave(&mut self, member: Member) {
        let before = self.members.remove(&member).unwrap_or_default();
        self.count(before, Claim::default());
        if self.members.is_empty() {
            *self = Budget::default();
        }
    }

    fn count(&mut self, before: Claim, now: Claim) {
        self.windows += now.window - before.window;
        self.needs += now.need - before.need;
    }
}

/// All together may always have so much in flight, unless less means fewer losses.
const TOTAL_MIN: f64 = 128.0 * 1024.0;

/// Each source may always have so much in flight, so that it is known what it could deliver.
const ALLOWED_MIN: f64 = 4.0 * 1024.0;

/// Losses are looked at after so long and so many fragments.
const INTERVAL: Duration = Duration::from_millis(5);
const INTERVAL_FRAGMENTS: u32 = 64;
