//! The MD5 of a file that is being moved, computed by a thread of its own while the bytes go by.
//!
//! MD5 takes longer than all the rest of a transfer, and must be computed in order, while blocks come in any. So it
//! follows behind: it is told how far everything is there, and reads what lies before that from the page cache, where it
//! still is. It refuses to run ahead: what it would read from the disk then would be read again by the transfer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ftx_proto::interop::step::value::Md5Sum;
use md5::{Digest as _, Md5};
use tokio::sync::oneshot;

/// The MD5 of a content that becomes readable from its beginning on. Dropped, it ends its thread.
#[derive(Debug)]
pub struct FollowingSum {
    shared: Arc<Shared>,
    result: oneshot::Receiver<io::Result<Md5Sum>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Everything before this offset can be read.
    reached: AtomicU64,
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
enum Wanted {
    /// What can be read so far.
    #[default]
    Reached,
    /// All, so many bytes.
    All(u64),
    /// Nothing any more.
    Nothing,
}

impl FollowingSum {
    /// Of what `read` fills into a buffer from an offset on. It is asked in order, for what follows what was summed up.
    pub fn start(read: impl Fn(u64, &mut [u8]) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, result) = oneshot::channel();
        let follower = Arc::clone(&shared);
        std::thread::Builder::new().name("md5".to_owned()).spawn(move || {
            if let Some(sum) = follower.follow(read).transpose() {
                // Nobody waits for it any more if this fails.
                let _ = sender.send(sum);
            }
        })?;
        Ok(FollowingSum { shared, result })
    }

    /// Everything before this offset can be read, now and later.
    pub fn reach(&self, offset: u64) {
        let before = self.shared.reached.fetch_max(offset, Ordering::Release);
        // Waking for less than a step would find it asleep again at once.
        if offset > before && offset / STEP != before / STEP {
            drop(self.shared.wanted());
            self.shared.changed.notify_one();
        }
    }

    /// Everything can be read, and is so long: the sum, as soon as it is there.
    pub async fn finish(mut self, size: u64) -> io::Result<Md5Sum> {
        self.shared.want(Wanted::All(size));
        (&mut self.result)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that sums up has ended")))
    }
}

impl Drop for FollowingSum {
    fn drop(&mut self) {
        self.shared.want(Wanted::Nothing);
    }
}

impl Shared {
    /// None if it was dropped before the end.
    fn follow(&self, read: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Option<Md5Sum>> {
        let mut hasher = Md5::new();
        let mut buffer = vec![0; READ_LEN];
        let mut at = 0;
        while let Some(end) = self.wait_beyond(at) {
            if end == at {
                return Ok(Some(Md5Sum(hasher.finalize().into())));
            }
            while at < end {
                let len = (end - at).min(READ_LEN as u64) as usize;
                read(at, &mut buffer[..len])?;
                hasher.update(&buffer[..len]);
                at += len as u64;
            }
        }
        Ok(None)
    }

    /// Waits until there is something to sum up: up to where, which is `at` if that is the end. None if nobody wants the
    /// sum any more.
    fn wait_beyond(&self, at: u64) -> Option<u64> {
        let mut wanted = self.wanted();
        loop {
            match *wanted {
                Wanted::Nothing => return None,
                Wanted::All(size) => return Some(size.min(at + STEP)),
                Wanted::Reached if self.reached.load(Ordering::Acquire) >= at + STEP => {
                    return Some(at + STEP);
                }
                Wanted::Reached => {}
            }
            wanted = self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn want(&self, what: Wanted) {
        *self.wanted() = what;
        self.changed.notify_one();
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // Nothing panics half-way through a change of it.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much is read at once: what stays in the core's cache.
const READ_LEN: usize = 256 * 1024;

/// How much must be there before it goes on.
const STEP: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place * 7 / 3) as u8).collect()
    }

    async fn sum_of(len: usize, stops: &[u64]) -> Md5Sum {
        let bytes = content(len);
        let sum = FollowingSum::start(move |offset, buffer| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        })
        .unwrap();
        stops.iter().for_each(|&stop| sum.reach(stop));
        sum.finish(len as u64).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_the_sum_however_the_bytes_come() {
        for len in [0, 1, STEP as usize - 1, STEP as usize, 3 * STEP as usize + 5] {
            let expected = Md5Sum::of(&content(len));
            let all = len as u64;
            for stops in [vec![], vec![all], vec![all / 2, all / 3, all], (0..all).step_by(20_480).collect()]
            {
                assert_eq!(sum_of(len, &stops).await, expected, "{len} bytes");
            }
        }
    }

    #[tokio::test]
    async fn it_reads_nothing_that_is_not_there() {
        let (told, read) = std::sync::mpsc::channel();
        let sum = FollowingSum::start(move |offset, buffer| {
            // Nobody listens any more at the end.
            let _ = told.send(offset + buffer.len() as u64);
            Ok(())
        })
        .unwrap();
        sum.reach(2 * STEP - 1);
        let mut furthest = 0;
        while furthest < STEP {
            furthest = read.recv().unwrap();
        }
        drop(sum);
        // The thread ends, and with it what it tells.
        assert_eq!(read.iter().max().unwrap_or(furthest), STEP);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_told() {
        let broken = |_: u64, _: &mut [u8]| Err(io::Error::other("gone"));
        let sum = FollowingSum::start(broken).unwrap();
        assert_eq!(sum.finish(5).await.unwrap_err().to_string(), "gone");
    }
}
