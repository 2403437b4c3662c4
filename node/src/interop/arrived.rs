//! The MD5 of a file whose stripes arrive side by side, taken while they do.
//!
//! It owns what is known of the bytes that are in their places, and the thread that hashes them in order. What has to be
//! hashed when the last stripe is there is only what the thread is behind. A crash loses the sum.
//!
//! Where the network is faster than MD5, reading far ahead only takes the processor from it, and lets it wait at the end
//! for what it could have done meanwhile. So stripes wait for their turn ([`Arrived::turn`]); where MD5 keeps up, nobody
//! does.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ftx_proto::interop::striped::Md5Hash;
use md5::{Digest, Md5};
use tokio::sync::{Notify, oneshot};

use crate::store::WholeData;

/// What is in its place.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    state: Mutex<State>,
    changed: Condvar,
    /// For stripes that wait for their turn.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    stripes: Vec<Stripe>,
    /// Counts how often everything began anew.
    beginnings: u64,
    /// Bytes that are in their places.
    bytes: u64,
    /// Bytes that are hashed.
    hashed: u64,
    end: Option<End>,
    /// The thread has ended, so nobody waits for it.
    is_over: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stripe {
    at: u64,
    len: u64,
    done: bool,
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// All is there, so many bytes.
    Size(u64),
    /// Nobody wants the sum.
    Stopped,
}

/// Says that the thread has ended, also when it panics.
struct Over<'a>(&'a Arrived);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.moved.notify_waiters();
    }
}

/// What the thread does next.
enum Next {
    Hash { from: u64, to: u64 },
    Anew,
    Finish,
    Stop,
}

/// Where the thread is.
#[derive(Default)]
struct Place {
    at: u64,
    stripe: usize,
    beginnings: u64,
}

impl Arrived {
    /// Nothing is there, of so many stripes.
    pub(super) fn new(stripes: usize) -> Arc<Self> {
        let state = State { stripes: vec![Stripe::default(); stripes], ..State::default() };
        Arc::new(Arrived { state: Mutex::new(state), changed: Condvar::new(), moved: Notify::new() })
    }

    /// A stripe that begins there is about to be read, and has so many bytes that count. Fewer than before: what there
    /// was of the file was given up.
    pub(super) fn begin(&self, stripe: u8, at: u64, len: u64) {
        let mut state = self.state();
        let Some(before) = state.stripes.get(usize::from(stripe)).copied() else { return };
        if len < before.len {
            state.stripes.fill(Stripe::default());
            state.beginnings += 1;
            (state.bytes, state.hashed) = (0, 0);
        }
        let before =
            std::mem::replace(&mut state.stripes[usize::from(stripe)], Stripe { at, len, done: false });
        state.bytes += len.saturating_sub(before.len);
        drop(state);
        self.changed.notify_all();
        self.moved.notify_waiters();
    }

    /// A stripe has so many bytes now.
    pub(super) fn reached(&self, stripe: u8, len: u64) {
        let mut state = self.state();
        let Some(stripe) = state.stripes.get_mut(usize::from(stripe)) else { return };
        let more = len.saturating_sub(stripe.len);
        stripe.len += more;
        state.bytes += more;
        drop(state);
        self.changed.notify_all();
    }

    /// A stripe was closed by the server.
    pub(super) fn done(&self, stripe: u8) {
        if let Some(stripe) = self.state().stripes.get_mut(usize::from(stripe)) {
            stripe.done = true;
        }
        self.changed.notify_all();
        self.moved.notify_waiters();
    }

    /// All is there.
    pub(super) fn complete(&self, size: u64) {
        self.state().end = Some(End::Size(size));
        self.changed.notify_all();
    }

    /// Nobody wants the sum any more.
    pub(super) fn stop(&self) {
        self.state().end.get_or_insert(End::Stopped);
        self.changed.notify_all();
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

    /// Starts to hash `file` as it arrives. The receiver gets nothing if that was stopped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn hash(
        self: &Arc<Self>,
        file: WholeData,
    ) -> io::Result<oneshot::Receiver<io::Result<Md5Hash>>> {
        let (sender, sum) = oneshot::channel();
        let arrived = Arc::clone(self);
        std::thread::Builder::new().name("md5".to_owned()).spawn(move || {
            let over = Over(&arrived);
            let result = arrived.run(&file).transpose();
            drop(over);
            if let Some(result) = result {
                // Whoever wanted it may have given up.
                let _ = sender.send(result);
            }
        })?;
        Ok(sum)
    }

    fn run(&self, file: &WholeData) -> io::Result<Option<Md5Hash>> {
        let mut hasher = Md5::new();
        let mut buffer = vec![0; HASH_LEN];
        let mut place = Place::default();
        loop {
            match self.next(&mut place) {
                Next::Hash { from, to } => {
                    let bytes = &mut buffer[..(to - from) as usize];
                    file.read_at(from, bytes).map_err(io::Error::other)?;
                    hasher.update(&*bytes);
                    place.at = to;
                    self.hashed(&place);
                }
                Next::Anew => hasher = Md5::new(),
                Next::Finish => return Ok(Some(Md5Hash(hasher.finalize().into()))),
                Next::Stop => return Ok(None),
            }
        }
    }

    /// Waits until there is something to do.
    fn next(&self, place: &mut Place) -> Next {
        let mut state = self.state();
        loop {
            if place.beginnings != state.beginnings {
                *place = Place { beginnings: state.beginnings, ..Place::default() };
                return Next::Anew;
            }
            let end = match state.end {
                Some(End::Stopped) => return Next::Stop,
                Some(End::Size(size)) if place.at == size => return Next::Finish,
                Some(End::Size(size)) => size,
                None => state.end_of_run(place),
            };
            if end > place.at {
                let to = end.min(place.at + HASH_LEN as u64);
                return Next::Hash { from: place.at, to };
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hashed(&self, place: &Place) {
        let mut state = self.state();
        if state.beginnings == place.beginnings {
            state.hashed = place.at;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_go_on(&self, stripe: usize) -> bool {
        let Some(first) = self.stripes.iter().position(|stripe| !stripe.done) else { return true };
        let ahead = match self.stripes.get(stripe) {
            // All before it is there, so the thread comes up to its end without anybody else.
            Some(own) if stripe <= first => (own.at + own.len).saturating_sub(self.hashed),
            _ => self.bytes.saturating_sub(self.hashed),
        };
        self.is_over || ahead < AHEAD_MAX
    }

    /// Up to where the bytes from the place on are there, as far as the stripe that it is in tells.
    fn end_of_run(&self, place: &mut Place) -> u64 {
        while let Some(stripe) = self.stripes.get(place.stripe) {
            let end = stripe.at + stripe.len;
            let next = self.stripes.get(place.stripe + 1);
            let goes_on = stripe.done && end == place.at && next.is_some_and(|next| next.at == end);
            if !goes_on {
                return if stripe.at <= place.at { end } else { place.at };
            }
            place.stripe += 1;
        }
        place.at
    }
}

/// Bytes that are read and hashed at once.
const HASH_LEN: usize = 256 * 1024;

/// Bytes that may wait to be hashed before stripes wait for their turn.
const AHEAD_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Target, WholeFile};

    fn file() -> WholeData {
        WholeFile::create(Target::temporary(), false).unwrap().data().clone()
    }

    fn md5(bytes: &[u8]) -> Md5Hash {
        Md5Hash(Md5::digest(bytes).into())
    }

    #[tokio::test]
    async fn stripes_in_any_order_have_the_sum_of_the_whole() {
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i / 1000 % 251) as u8).collect();
        let (file, arrived) = (file(), Arrived::new(3));
        let sum = arrived.hash(file.clone()).unwrap();
        for stripe in [0u8, 2, 1] {
            let at = u64::from(stripe) * 1_000_000;
            arrived.begin(stripe, at, 0);
            for part in 0..10u64 {
                let from = at + part * 100_000;
                file.write_at(from, &content[from as usize..][..100_000]).unwrap();
                arrived.reached(stripe, (part + 1) * 100_000);
            }
            arrived.done(stripe);
        }
        assert_eq!(arrived.bytes(), 3_000_000);
        arrived.complete(3_000_000);
        assert_eq!(sum.await.unwrap().unwrap(), md5(&content));
    }

    #[tokio::test]
    async fn what_was_given_up_does_not_count() {
        let (file, arrived) = (file(), Arrived::new(2));
        let sum = arrived.hash(file.clone()).unwrap();
        for content in [b"wrong!", b"right!"] {
            for stripe in [0, 1] {
                let at = stripe as usize * 3;
                arrived.begin(stripe, at as u64, 0);
                file.write_at(at as u64, &content[at..at + 3]).unwrap();
                arrived.reached(stripe, 3);
                arrived.done(stripe);
            }
        }
        arrived.complete(6);
        assert_eq!(sum.await.unwrap().unwrap(), md5(b"right!"));
    }

    #[tokio::test]
    async fn stripes_that_are_far_ahead_wait_for_those_before() {
        let arrived = Arrived::new(3);
        arrived.begin(0, 0, 0);
        arrived.begin(1, AHEAD_MAX, 0);
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
        drop(Over(&arrived));
        second.await;
    }

    #[tokio::test]
    async fn a_thread_that_is_not_wanted_any_more_ends() {
        let arrived = Arrived::new(1);
        let sum = arrived.hash(file()).unwrap();
        arrived.stop();
        assert!(sum.await.is_err());
        let empty = Arrived::new(1);
        let sum = empty.hash(file()).unwrap();
        empty.complete(0);
        assert_eq!(sum.await.unwrap().unwrap(), md5(b""));
    }
}
