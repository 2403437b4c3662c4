//! What of a file is here whose stripes arrive side by side, and its MD5, taken while they do.
//!
//! It owns what is known of the bytes that are in their places, and the sum that follows behind them. What has to be
//! hashed when the last stripe is there is only what that is behind. A crash loses it.
//!
//! Where the network is faster than MD5, reading far ahead only takes the processor from it, and lets it wait at the end
//! for what it could have done meanwhile. So stripes wait for their turn ([`Arrived::turn`]); where MD5 keeps up, nobody
//! does.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::sum::FollowingSum;
use crate::store::WholeData;

/// What is in its place.
#[derive(Debug)]
pub(super) struct Arrived {
    file: WholeData,
    state: Mutex<State>,
    /// For stripes that wait for their turn.
    moved: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    stripes: Vec<Stripe>,
    /// Bytes that are in their places.
    bytes: u64,
    /// Taken when all is there.
    sum: Option<FollowingSum>,
    /// Bytes that the sum is of so far; more than there can be once it has ended, so that nobody waits for it.
    hashed: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stripe {
    at: u64,
    len: u64,
    done: bool,
}

/// What the sum reads, and so tells how far it is.
struct Followed {
    file: WholeData,
    hashed: Arc<AtomicU64>,
    moved: Arc<Notify>,
}

impl Followed {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.tell(offset);
        self.file.read_at(offset, buffer).map_err(io::Error::other)
    }

    fn tell(&self, hashed: u64) {
        self.hashed.store(hashed, Ordering::Release);
        self.moved.notify_waiters();
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.tell(u64::MAX);
    }
}

impl Arrived {
    /// Nothing of the file is there, which has so many stripes.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new(stripes: usize, file: WholeData) -> io::Result<Arc<Self>> {
        let moved = Arc::new(Notify::new());
        let (sum, hashed) = follow(&file, &moved)?;
        let state = State { stripes: vec![Stripe::default(); stripes], bytes: 0, sum: Some(sum), hashed };
        Ok(Arc::new(Arrived { file, state: Mutex::new(state), moved }))
    }

    /// A stripe that begins there is about to be read, and has so many bytes that count. Fewer than before: what there
    /// was of the file was given up.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn begin(&self, stripe: u8, at: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let Some(before) = state.stripes.get(usize::from(stripe)).copied() else { return Ok(()) };
        if len < before.len {
            let (sum, hashed) = follow(&self.file, &self.moved)?;
            (state.sum, state.hashed, state.bytes) = (Some(sum), hashed, 0);
            state.stripes.fill(Stripe::default());
        }
        let before =
            std::mem::replace(&mut state.stripes[usize::from(stripe)], Stripe { at, len, done: false });
        state.bytes += len.saturating_sub(before.len);
        self.told(&state);
        Ok(())
    }

    /// A stripe has so many bytes now.
    pub(super) fn reached(&self, stripe: u8, len: u64) {
        let mut state = self.state();
        let Some(stripe) = state.stripes.get_mut(usize::from(stripe)) else { return };
        let more = len.saturating_sub(stripe.len);
        stripe.len += more;
        state.bytes += more;
        state.tell_sum();
    }

    /// A stripe was closed by the server.
    pub(super) fn done(&self, stripe: u8) {
        let mut state = self.state();
        if let Some(stripe) = state.stripes.get_mut(usize::from(stripe)) {
            stripe.done = true;
        }
        self.told(&state);
    }

    /// All is there, so many bytes: their sum, if nobody had it before.
    pub(super) fn sum(&self) -> Option<FollowingSum> {
        self.state().sum.take()
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Waits until a stripe may go on: the first that is not done, if MD5 is not too far behind it; another one, if MD5 is
    /// not too far behind all of them together.
    pub(super) async fn turn(&self, stripe: u8) {
        loop {
            // Before the look, so that no news is missed.
            let moved = self.moved.notified();
            if self.state().may_go_on(usize::from(stripe)) {
                return;
            }
            moved.await;
        }
    }

    /// Which stripe is the first may be another one now.
    fn told(&self, state: &State) {
        state.tell_sum();
        self.moved.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sum of a file from its beginning, and how far it is.
fn follow(file: &WholeData, moved: &Arc<Notify>) -> io::Result<(FollowingSum, Arc<AtomicU64>)> {
    let hashed = Arc::new(AtomicU64::new(0));
    let followed = Followed { file: file.clone(), hashed: Arc::clone(&hashed), moved: Arc::clone(moved) };
    let sum = FollowingSum::start(move |offset, buffer| followed.read(offset, buffer))?;
    Ok((sum, hashed))
}

impl State {
    fn may_go_on(&self, stripe: usize) -> bool {
        let Some(first) = self.stripes.iter().position(|stripe| !stripe.done) else { return true };
        let hashed = self.hashed.load(Ordering::Acquire);
        let ahead = match self.stripes.get(stripe) {
            // All before it is there, so the sum comes up to its end without anybody else.
            Some(own) if stripe <= first => (own.at + own.len).saturating_sub(hashed),
            _ => self.bytes.saturating_sub(hashed),
        };
        ahead < AHEAD_MAX
    }

    /// Tells the sum up to where everything is there.
    fn tell_sum(&self) {
        let Some(sum) = &self.sum else { return };
        let mut end = 0;
        for stripe in &self.stripes {
            if stripe.at != end {
                break;
            }
            end += stripe.len;
            if !stripe.done {
                break;
            }
        }
        sum.reach(end);
    }
}

/// Bytes that may wait to be hashed before stripes wait for their turn.
const AHEAD_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use ftx_proto::interop::step::value::Md5Sum;

    use super::*;
    use crate::store::{Target, WholeFile};

    fn file() -> WholeData {
        WholeFile::create(Target::temporary(), false).unwrap().data().clone()
    }

    #[tokio::test]
    async fn stripes_in_any_order_have_the_sum_of_the_whole() {
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i / 1000 % 251) as u8).collect();
        let file = file();
        let arrived = Arrived::new(3, file.clone()).unwrap();
        for stripe in [0u8, 2, 1] {
            let at = u64::from(stripe) * 1_000_000;
            arrived.begin(stripe, at, 0).unwrap();
            for part in 0..10u64 {
                let from = at + part * 100_000;
                file.write_at(from, &content[from as usize..][..100_000]).unwrap();
                arrived.reached(stripe, (part + 1) * 100_000);
            }
            arrived.done(stripe);
        }
        assert_eq!(arrived.bytes(), 3_000_000);
        let sum = arrived.sum().unwrap();
        assert_eq!(sum.finish(3_000_000).await.unwrap(), Md5Sum::of(&content));
    }

    #[tokio::test]
    async fn what_was_given_up_does_not_count() {
        let file = file();
        let arrived = Arrived::new(2, file.clone()).unwrap();
        for content in [b"wrong!", b"right!"] {
            for stripe in [0, 1] {
                let at = stripe as usize * 3;
                arrived.begin(stripe, at as u64, 0).unwrap();
                file.write_at(at as u64, &content[at..at + 3]).unwrap();
                arrived.reached(stripe, 3);
                arrived.done(stripe);
            }
        }
        let sum = arrived.sum().unwrap();
        assert_eq!(sum.finish(6).await.unwrap(), Md5Sum::of(b"right!"));
    }

    #[tokio::test]
    async fn stripes_that_are_far_ahead_wait_for_those_before() {
        let arrived = Arrived::new(3, file()).unwrap();
        arrived.begin(0, 0, 0).unwrap();
        arrived.begin(1, AHEAD_MAX, 0).unwrap();
        arrived.turn(1).await;
        arrived.reached(1, AHEAD_MAX);
        let (first, second) = (arrived.turn(0), arrived.turn(1));
        first.await;
        tokio::pin!(second);
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "it has to wait");
        arrived.done(0);
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "nothing of it is hashed");
        // Without a sum there is nothing to wait for.
        drop(arrived.sum());
        second.await;
    }
}
