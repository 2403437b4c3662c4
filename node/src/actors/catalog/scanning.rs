//! When the catalog looks through its shares, and what it makes of what it comes across.
//!
//! ```text
//! Idle(due)  -> Walking     its time has come
//! Walking    -> Sweeping    the walk has ended; what it did not see is taken out, in steps
//! Walking    -> Idle(due)   the walk has failed; what it did not see may be there
//! Sweeping   -> Idle(due)   all is swept
//! ```

use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_proto::name::RelativePath;
use tokio::task::JoinHandle;

use super::{CatalogMessage, CatalogState, Event, Internal, UNSAVED_MAX, tell};
use crate::catalog::cache::Cache;
use crate::catalog::scan::Batch;

/// Least time between two scans, whoever asks.
const GAP_MIN: Duration = Duration::from_secs(1);

/// Scanning takes at most one part in so many of the time, and one in [`WANTED_SHARE`] if somebody asks.
const REGULAR_SHARE: u32 = 10;
const WANTED_SHARE: u32 = 2;

/// Files that are looked at in one step of a sweep.
const SWEEP_STEP: usize = 4096;

/// Where the catalog is with its scans.
pub(super) struct Scanning {
    interval: Duration,
    phase: Phase,
    /// Number of the scan that is under way, or was the last one.
    number: u64,
    completed: u64,
    /// Somebody asked for a scan while one was under way.
    wanted: bool,
    ended: Instant,
    took: Duration,
    /// Files that the scan found in each share.
    found: Vec<u64>,
}

enum Phase {
    Idle(Option<Timer>),
    Walking,
    Sweeping,
}

struct Timer {
    due: Instant,
    task: JoinHandle<Result<(), ractor::MessagingErr<CatalogMessage>>>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scanning {
    pub(super) fn new(shares: usize, interval: Duration) -> Self {
        Scanning {
            interval,
            phase: Phase::Idle(None),
            number: 0,
            completed: 0,
            wanted: false,
            ended: Instant::now(),
            took: Duration::ZERO,
            found: vec![0; shares],
        }
    }

    /// The scan that is under way, or was the last one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many were completed.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Idle(_))
    }

    /// When the next scan may begin, if nobody asks and if somebody does.
    fn due(&self, wanted: bool) -> Instant {
        let gap = if wanted {
            GAP_MIN.min(self.interval).max(self.took * WANTED_SHARE)
        } else {
            self.interval.max(self.took * REGULAR_SHARE)
        };
        self.ended + gap
    }
}

impl CatalogState {
    /// Walks the shares on a thread of its own. With a `state_dir`, opens the cache there first.
    pub(super) fn begin_scan(&mut self, state_dir: Option<PathBuf>) {
        self.scanning.phase = Phase::Walking;
        self.scanning.number += 1;
        self.scanning.wanted = false;
        self.scanning.found.fill(0);
        let (myself, shares, cache) = (self.myself.clone(), self.shares.clone(), self.cache.clone());
        let (stop, permits) = (self.background.stop.clone(), self.background.batch_permits.clone());
        let runtime = tokio::runtime::Handle::current();
        self.background.scan = Some(tokio::task::spawn_blocking(move || {
            let mut emit = |batch| match runtime.block_on(permits.clone().acquire_owned()) {
                Ok(permit) => {
                    tell(&myself, Event::Scanned { batch, _permit: permit });
                    ControlFlow::Continue(())
                }
                Err(_) => ControlFlow::Break(()),
            };
            let ended = end_of(|| {
                // Before the first batch, and so before the first file is hashed.
                cache.get_or_init(|| state_dir.as_deref().and_then(Cache::open));
                shares.scan(&stop, &mut emit)
            });
            if let Some(ended) = ended {
                tell(&myself, ended);
            }
        }));
    }

    pub(super) fn scanned(&mut self, batch: Batch) {
        for skipped in batch.skipped {
            self.skipped.note(skipped, self.scanning.number);
        }
        for found in &batch.found {
            self.scanning.found[found.share] += 1;
        }
        self.found(batch.found);
    }

    pub(super) fn scan_ended(&mut self, took: Duration) {
        self.scanning.phase = Phase::Sweeping;
        self.scanning.took = took;
        self.sweep(None);
    }

    /// Takes out some of the files that the scan did not see, and goes on with that in a further message.
    pub(super) fn sweep(&mut self, after: Option<Arc<RelativePath>>) {
        let unseen = self.index.unseen(after.as_deref(), self.scanning.number, SWEEP_STEP);
        for (name, share) in unseen.files {
            self.remove(&name);
            // A share where nothing at all is found is more likely a disk that is not there now.
            if self.scanning.found[share] > 0 && self.forgotten.len() < UNSAVED_MAX {
                self.forgotten.push(self.shares.location(share, &name).path());
            }
        }
        if unseen.next.is_some() {
            return tell(&self.myself, Event::Sweep { after: unseen.next });
        }
        self.save_soon();
        self.skipped.scan_ended(self.scanning.number);
        self.scanning.completed += 1;
        self.rest();
    }

    /// A bug on the scan's thread: the files stay as they were, and the next scan may do better.
    pub(super) fn scan_failed(&mut self, took: Duration) {
        tracing::error!("a scan of the shares failed; it will be tried again");
        self.scanning.took = took;
        self.rest();
    }

    /// Until the next scan.
    fn rest(&mut self) {
        self.scanning.ended = Instant::now();
        self.scanning.phase = Phase::Idle(None);
        let wanted = self.scanning.wanted;
        self.scan_at(self.scanning.due(wanted));
    }

    /// Somebody wants a scan, as soon as that is reasonable.
    pub(super) fn want_scan(&mut self) {
        if self.shares.is_empty() {
            return;
        }
        if self.scanning.is_under_way() {
            // It may have passed already what this is about.
            self.scanning.wanted = true;
        } else {
            self.scan_at(self.scanning.due(true));
        }
    }

    /// The timer went off.
    pub(super) fn scan_due(&mut self) {
        if !self.scanning.is_under_way() {
            self.begin_scan(None);
        }
    }

    /// Begins a scan at this time, if none is to begin earlier.
    fn scan_at(&mut self, due: Instant) {
        let Phase::Idle(timer) = &mut self.scanning.phase else { return };
        if timer.as_ref().is_some_and(|timer| timer.due <= due) {
            return;
        }
        let delay = due.saturating_duration_since(Instant::now());
        let message = || CatalogMessage::Internal(Internal(Event::ScanDue));
        *timer = Some(Timer { due, task: self.myself.send_after(delay, message) });
    }
}

/// Walks, and says what to tell of the end. Nothing if the walk was told to end. Somebody always hears of a panic, or
/// there would never be another scan.
fn end_of(walk: impl FnOnce() -> ControlFlow<()>) -> Option<Event> {
    let begun = Instant::now();
    // What the walk shares with others is whole at any moment.
    match panic::catch_unwind(AssertUnwindSafe(walk)) {
        Ok(ControlFlow::Continue(())) => Some(Event::ScanEnded { took: begun.elapsed() }),
        Ok(ControlFlow::Break(())) => None,
        Err(_) => Some(Event::ScanFailed { took: begun.elapsed() }),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ractor::Actor;

    use super::super::{Catalog, CatalogArguments};
    use super::*;

    #[tokio::test]
    async fn a_scan_that_panics_is_followed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = CatalogArguments {
            shares: Vec::new(),
            state_dir: None,
            hash_threads: NonZeroUsize::MIN,
            rescan_interval: Duration::from_secs(3600),
        };
        let (actor, task) = Actor::spawn(None, Catalog, arguments.clone()).await.unwrap();
        arguments.shares.push(folder.path().to_owned());
        let mut state = CatalogState::new(actor.clone(), &arguments);
        state.scanning.phase = Phase::Walking;

        let Some(Event::ScanFailed { took }) = end_of(|| panic!("on purpose")) else {
            panic!("the panic was not told")
        };
        state.event(Event::ScanFailed { took });

        assert!(matches!(state.scanning.phase, Phase::Idle(Some(_))), "no further scan is to come");
        assert_eq!(state.scanning.completed(), 0);
        assert!(matches!(end_of(|| ControlFlow::Continue(())), Some(Event::ScanEnded { .. })));
        assert!(end_of(|| ControlFlow::Break(())).is_none());
        actor.stop(None);
        task.await.unwrap();
    }
}
