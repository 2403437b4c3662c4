//! When the catalog looks through its shares, and what it makes of what it comes across.
//!
//! ```text
//! Idle(due)  -> Walking     its time has come, or the table of the last run is there
//! Walking    -> Idle(due)   the walk has ended, or failed
//! ```
//!
//! What is not there any more is taken out folder by folder, when the walk leaves one. What a walk that failed had not
//! come to by then stays. Where the system tells of changes, what has changed is looked at then; scans go on all the same,
//! since such news can be missed. Looks at single names are short walks of their own; a number tells which one saw what.

use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ftx_proto::name::RelativePath;
use tokio::task::JoinHandle;

use super::{CatalogMessage, CatalogState, Event, Internal, Looked, tell};
use crate::catalog::cache::Cache;
use crate::catalog::index::Index;
use crate::catalog::load::load;
use crate::catalog::scan::{Found, What};
use crate::catalog::walk::{Batch, Step};
use crate::catalog::watch::{Heard, Watch};

/// Least time between two scans, whoever asks.
const GAP_MIN: Duration = Duration::from_secs(1);

/// Scanning takes at most one part in so many of the time, and one in [`WANTED_SHARE`] if somebody asks.
const REGULAR_SHARE: u32 = 10;
const WANTED_SHARE: u32 = 2;

/// How much looking through the shares gives way to others on the machine.
const NICENESS: i32 = 10;

/// Where the catalog is with its scans.
pub(super) struct Scanning {
    interval: Duration,
    phase: Phase,
    /// Number of the scan that is under way, or was the last one.
    number: u64,
    /// Number of the walk that began last, and of that which is or was the last scan.
    walks: Arc<AtomicU64>,
    walk: u64,
    completed: u64,
    /// Somebody asked for a scan while one was under way.
    wanted: bool,
    ended: Instant,
    took: Duration,
    /// Files that the scan found in each share.
    found: Vec<u64>,
    /// It was tried to watch the shares.
    watching: bool,
}

enum Phase {
    Idle(Option<Timer>),
    Walking,
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
            walks: Arc::default(),
            walk: 0,
            completed: 0,
            wanted: false,
            ended: Instant::now(),
            took: Duration::ZERO,
            found: vec![0; shares],
            watching: false,
        }
    }

    /// The scan that is under way, or was the last one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The number of a walk that begins.
    pub(super) fn next_walk(&self) -> u64 {
        next_walk(&self.walks)
    }

    /// Whether the scan has found any file in this share.
    pub(super) fn has_found(&self, share: usize) -> bool {
        self.found.get(share).is_some_and(|found| *found > 0)
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
    /// Opens the cache and reads what is remembered, on a thread of its own.
    pub(super) fn load(&mut self, state_dir: Option<PathBuf>) {
        self.questions.wait();
        self.scanning.phase = Phase::Walking;
        let (myself, shares, cache) = (self.myself.clone(), self.shares.clone(), self.cache.clone());
        let stop = self.background.stop.clone();
        self.background.scan = Some(tokio::task::spawn_blocking(move || {
            let index = panic::catch_unwind(AssertUnwindSafe(|| {
                let state_dir = state_dir.as_deref().filter(|_| !stop.load(Ordering::Relaxed));
                let cache = cache.get_or_init(|| state_dir.and_then(Cache::open));
                load(cache.as_ref(), &shares, &stop)
            }));
            let index = index.unwrap_or_else(|_| {
                tracing::error!("reading what is remembered of the shares failed; all is looked at anew");
                // Those who hash wait for it.
                cache.get_or_init(|| None);
                Index::new(shares)
            });
            tell(&myself, Event::Loaded(Box::new(index)));
        }));
    }

    /// What is remembered is there.
    pub(super) fn loaded(&mut self, mut index: Index) {
        index.take_partials(&mut self.index);
        self.index = index;
        for question in self.questions.go_on() {
            self.question(question);
        }
        self.begin_scan();
    }

    /// What begins to watch the shares. It blocks on the disk.
    fn watching(&self) -> impl FnOnce() + Send + use<> {
        let (myself, shares) = (self.myself.clone(), self.shares.clone());
        let (stop, permits) = (self.background.stop.clone(), self.background.batch_permits.clone());
        let (walks, runtime) = (self.scanning.walks.clone(), tokio::runtime::Handle::current());
        move || {
            let (listener, shares_too) = (myself.clone(), shares.clone());
            let hear = move |heard| {
                // Closed when the actor is gone, and then nobody wants to hear it.
                let Ok(permit) = runtime.block_on(permits.clone().acquire_owned()) else { return false };
                let looks = match heard {
                    Heard::Something => None,
                    Heard::Names(names) => {
                        let look = |name: RelativePath| {
                            let walk = next_walk(&walks);
                            let look = shares_too.look_into(&name, &stop);
                            Looked { name, look, walk }
                        };
                        Some(names.into_iter().map(look).collect())
                    }
                };
                tell(&listener, Event::Noticed { looks, _permit: permit });
                true
            };
            if let Some(watch) = Watch::start(shares, hear) {
                tell(&myself, Event::Watching(watch));
            }
        }
    }

    /// Something in the shares has changed; without looks, nobody knows what.
    pub(super) fn noticed(&mut self, looks: Option<Vec<Looked>>) {
        let is_all = looks.as_ref().is_some_and(|looks| looks.iter().all(|looked| looked.look.is_whole));
        for looked in looks.into_iter().flatten() {
            self.apply(looked);
        }
        if !is_all {
            self.want_scan();
        }
        self.save_soon();
        self.find_roots_soon();
    }

    /// Walks the shares on a thread of its own.
    pub(super) fn begin_scan(&mut self) {
        self.scanning.phase = Phase::Walking;
        self.scanning.number += 1;
        self.scanning.walk = self.scanning.next_walk();
        self.scanning.wanted = false;
        self.scanning.found.fill(0);
        let (myself, shares) = (self.myself.clone(), self.shares.clone());
        let (stop, permits) = (self.background.stop.clone(), self.background.batch_permits.clone());
        let runtime = tokio::runtime::Handle::current();
        let watching = (!std::mem::replace(&mut self.scanning.watching, true)).then(|| self.watching());
        self.background.scan = Some(politely("scan", move || {
            // Before the first scan, so that no change is missed between the two.
            if let Some(watching) = watching {
                watching();
            }
            let mut emit = |batch| match runtime.block_on(permits.clone().acquire_owned()) {
                Ok(permit) => {
                    tell(&myself, Event::Scanned { batch, _permit: permit });
                    ControlFlow::Continue(())
                }
                Err(_) => ControlFlow::Break(()),
            };
            if let Some(ended) = end_of(|| shares.scan(&stop, &mut emit)) {
                tell(&myself, ended);
            }
        }));
    }

    pub(super) fn scanned(&mut self, batch: Batch) {
        for step in &batch.steps {
            if let Step::Found(Found { share, what: What::File(_), .. }) = step {
                self.scanning.found[*share] += 1;
            }
        }
        self.walked(batch, self.scanning.walk);
    }

    pub(super) fn scan_ended(&mut self, took: Duration) {
        self.scanning.took = took;
        self.index.forget_changed_folders();
        self.save_soon();
        self.skipped.scan_ended(self.scanning.number);
        self.scanning.completed += 1;
        self.find_roots_soon();
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
            self.begin_scan();
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

fn next_walk(walks: &AtomicU64) -> u64 {
    walks.fetch_add(1, Ordering::Relaxed) + 1
}

/// Does something that nobody waits for on a thread of its own, which gives way to those who answer questions.
fn politely(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let work = move || {
        // On Linux this is a property of the thread. Where it is refused, it is just not as polite.
        let _ = rustix::process::nice(NICENESS);
        work();
        drop(ended);
    };
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::error!(%error, "cannot start a thread to look through the shares");
    }
    tokio::spawn(async move {
        // It ends when the thread does, or when there is none.
        let _ = end.await;
    })
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
