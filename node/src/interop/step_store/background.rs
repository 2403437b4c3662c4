//! What goes on behind the connections: summing up the blocks that are here without a gap, and syncing.
//!
//! So that the reply to the last block has little left to wait for. An upload waits here at most once, and it is another
//! one's turn after some megabytes. A crash loses sums, which are computed again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::io_failed;
use super::upload::{Job, Upload};

/// Threads that work; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Background {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<(Arc<Upload>, Job)>,
    ended: bool,
}

/// Most threads; MD5 takes a core for some 600 MB/s.
const THREADS_MAX: usize = 4;

impl Background {
    pub(super) fn start() -> std::io::Result<Self> {
        let background = Background { queue: Arc::default() };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // One more, since some of them only wait for the disk.
        for _ in 0..cores.min(THREADS_MAX) + 1 {
            let queue = Arc::clone(&background.queue);
            std::thread::Builder::new().name("uploads".to_owned()).spawn(move || queue.work())?;
        }
        Ok(background)
    }

    /// Sees to it that what an upload needs is done.
    pub(super) fn look_at(&self, upload: &Arc<Upload>) {
        for job in Job::ALL {
            self.queue.push_if_wanted(upload, job);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.ended = true;
        waiting.jobs.clear();
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn push_if_wanted(&self, upload: &Arc<Upload>, job: Job) {
        let Some(queued) = upload.queued.get(job as usize) else { return };
        if !upload.wants(job) || queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut waiting = self.lock();
        if !waiting.ended {
            waiting.jobs.push_back((Arc::clone(upload), job));
            self.changed.notify_one();
        }
    }

    fn work(&self) {
        while let Some((upload, job)) = self.next() {
            // Another upload must not wait for ever for a thread that is no more.
            let worked = catch_unwind(AssertUnwindSafe(|| upload.work(job)))
                .unwrap_or_else(|_| Err(std::io::Error::other("the work on it failed")));
            if let Some(queued) = upload.queued.get(job as usize) {
                queued.store(false, Ordering::Release);
            }
            match worked {
                // What came meanwhile found the job in the queue.
                Ok(()) => self.push_if_wanted(&upload, job),
                // Finished or deleted meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // What matters is tried again by whoever needs it.
                Err(error) => {
                    io_failed("work on", &upload.name, &error);
                }
            }
        }
    }

    fn next(&self) -> Option<(Arc<Upload>, Job)> {
        let mut waiting = self.lock();
        loop {
            if waiting.ended {
                return None;
            }
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics half-way through a change of it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
