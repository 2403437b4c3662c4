//! The MD5 of a file that is being moved, computed by a thread of its own while the bytes go by.
//!
//! MD5 takes longer than all the rest of a transfer, and must be computed in order, while blocks come in any. So it
//! follows behind: it is told how far everything is there, and reads what lies before that from the page cache, where it
//! still is. It refuses to run ahead: what it would read from the disk then would be read again by the transfer.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ftx_proto::interop::step::value::Md5Sum;
use md5::{Digest as _, Md5};
use tokio::sync::oneshot;

/// The MD5 of a content that becomes readable from its beginning on. Dropped, it ends its thread.
#[derive(Debug)]
pub struct FollowingSum {
    shared: Arc<Shared>,
    size: u64,
    result: oneshot::Receiver<io::Result<Md5Sum>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Everything before this offset can be read.
    reached: AtomicU64,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl FollowingSum {
    /// Of `size` bytes, which `read` fills into a buffer from an offset on.
    pub fn start(
        size: u64,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, result) = oneshot::channel();
        let follower = Arc::clone(&shared);
        std::thread::Builder::new().name("md5".to_owned()).spawn(move || {
            if let Some(sum) = follower.follow(size, read).transpose() {
                // Nobody waits for it any more if this fails.
                let _ = sender.send(sum);
            }
        })?;
        Ok(FollowingSum { shared, size, result })
    }

    /// Everything before this offset can be read, now and later.
    pub fn reach(&self, offset: u64) {
        let before = self.shared.reached.fetch_max(offset, Ordering::Release);
        // Waking for less than a step would find it asleep again at once.
        if offset > before && (offset / STEP != before / STEP || offset >= self.size) {
            drop(self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner));
            self.shared.changed.notify_one();
        }
    }

    /// Everything can be read: the sum, as soon as it is there.
    pub async fn finish(mut self) -> io::Result<Md5Sum> {
        self.reach(self.size);
        (&mut self.result)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that sums up has ended")))
    }
}

impl Drop for FollowingSum {
    fn drop(&mut self) {
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// None if it was dropped before the end.
    fn follow(
        &self,
        size: u64,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<Md5Sum>> {
        let mut hasher = Md5::new();
        let mut buffer = vec![0; READ_LEN];
        let mut at = 0;
        while at < size {
            let end = size.min(at + STEP);
            if !self.wait_for(end) {
                return Ok(None);
            }
            while at < end {
                let len = (end - at).min(READ_LEN as u64) as usize;
                read(at, &mut buffer[..len])?;
                hasher.update(&buffer[..len]);
                at += len as u64;
            }
        }
        Ok(Some(Md5Sum(hasher.finalize().into())))
    }

    /// Waits until everything before `offset` can be read; `false` if nobody wants the sum any more.
    fn wait_for(&self, offset: u64) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if *ended {
                return false;
            }
            if self.reached.load(Ordering::Acquire) >= offset {
                return true;
            }
            ended = self.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
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
        let sum = FollowingSum::start(len as u64, move |offset, buffer| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        })
        .unwrap();
        stops.iter().for_each(|&stop| sum.reach(stop));
        sum.finish().await.unwrap()
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
        let sum = FollowingSum::start(3 * STEP, move |offset, buffer| {
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
        let sum = FollowingSum::start(5, broken).unwrap();
        assert_eq!(sum.finish().await.unwrap_err().to_string(), "gone");
    }
}
