//! Threads that hash files in the background, in the order in which people wait for them.
//!
//! What was asked for comes first, newest question first; then small files; then the rest in order. A question also
//! overtakes a large file that is being hashed already. A file that is in the cache is not read.
//!
//! ```text
//! Waiting -> Active      a thread takes it
//! Active  -> reported    hashed, changed, or unreadable; told once, unless it was withdrawn
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use ftx_proto::merkle::PieceLayer;

use super::cache::Cache;
use super::content::{Location, Stamp};
use super::hash::{FileHash, HashError};
use super::tree::Id;

/// Bytes up to which a file is small: read in one go by one thread.
pub(super) const SMALL_BYTES_MAX: u64 = 4 << 20;

/// Most files that are open for hashing at a time.
const ACTIVE_MAX: usize = 64;

/// Most questions that are remembered; older ones wait like everything else.
const ASKED_MAX: usize = 64;

/// How much the threads give way to others on the machine.
const NICENESS: i32 = 5;

/// Names one request to hash a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// A file to be hashed.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) ticket: Ticket,
    pub(crate) id: Id,
    pub(crate) location: Location,
    pub(crate) stamp: Stamp,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ticket: Ticket,
    pub(crate) id: Id,
    pub(crate) result: Result<Hashed, HashError>,
}

/// A file with its root.
#[derive(Debug)]
pub(crate) struct Hashed {
    /// What the file was when it was hashed.
    pub(crate) stamp: Stamp,
    pub(crate) layer: Arc<PieceLayer>,
    /// It did not have to be read.
    pub(crate) from_cache: bool,
}

/// Hears what became of each job; may block.
pub(crate) type Report = Arc<dyn Fn(Outcome) + Send + Sync>;

/// The cache, once the one who opens it has tried.
pub(crate) type CacheSlot = Arc<OnceLock<Option<Cache>>>;

/// The threads. They end soon after this is dropped; [`HashPool::stop`] waits for that.
pub(crate) struct HashPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    cache: CacheSlot,
    report: Report,
}

#[derive(Default)]
struct Queue {
    stopped: bool,
    waiting: HashMap<Ticket, Job>,
    active: Vec<Arc<Active>>,
    /// Newest question last. May name jobs that are done.
    asked: VecDeque<Ticket>,
    /// In order. May name jobs that do not wait any more.
    small: VecDeque<Ticket>,
    large: VecDeque<Ticket>,
}

struct Active {
    job: Job,
    /// Not set until the file is open.
    hash: OnceLock<FileHash>,
}

enum Work {
    Begin(Arc<Active>),
    Run(Arc<Active>, Range<u32>),
}

impl HashPool {
    /// Starts `threads` threads.
    pub(crate) fn start(threads: NonZeroUsize, cache: CacheSlot, report: Report) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), cache, report });
        let start = |number| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("hash-{number}"));
            let started = thread.spawn(move || shared.work());
            started.inspect_err(|error| tracing::warn!("cannot start a thread for hashing: {error}")).ok()
        };
        let threads = (0..threads.get()).filter_map(start).collect();
        HashPool { shared, threads }
    }

    /// Ends the threads, and waits until they have let go of everything. That takes as long as reading one piece.
    pub(crate) fn stop(mut self) {
        let threads = std::mem::take(&mut self.threads);
        drop(self);
        // One that failed has ended as well.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Adds files to be hashed, behind the others that wait.
    pub(crate) fn submit(&self, jobs: Vec<Job>) {
        let mut queue = self.shared.lock();
        for job in jobs {
            queue.line_of(&job).push_back(job.ticket);
            queue.waiting.insert(job.ticket, job);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Adds files to be hashed, before the others that wait.
    pub(crate) fn submit_first(&self, jobs: Vec<Job>) {
        let mut queue = self.shared.lock();
        for job in jobs.into_iter().rev() {
            queue.line_of(&job).push_front(job.ticket);
            queue.waiting.insert(job.ticket, job);
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Takes a file out again. If it is being hashed, that ends and nothing is reported, unless it is too late for that.
    pub(crate) fn withdraw(&self, ticket: Ticket) {
        let mut queue = self.shared.lock();
        queue.waiting.remove(&ticket);
        let place = queue.active.iter().position(|active| active.job.ticket == ticket);
        if let Some(hash) =
            place.map(|place| queue.active.swap_remove(place)).as_ref().and_then(|a| a.hash.get())
        {
            hash.cancel();
        }
    }

    /// Moves a file to the front, and tells how many bytes of it are hashed.
    pub(crate) fn ask(&self, ticket: Ticket) -> u64 {
        let mut queue = self.shared.lock();
        queue.asked.retain(|asked| *asked != ticket);
        if queue.asked.len() >= ASKED_MAX {
            queue.asked.pop_front();
        }
        queue.asked.push_back(ticket);
        queue.bytes_done(ticket)
    }

    /// How many bytes of a file are hashed.
    pub(crate) fn bytes_done(&self, ticket: Ticket) -> u64 {
        self.shared.lock().bytes_done(ticket)
    }

    /// What is being hashed now: the bytes that are done, of all files together, and some of the files, the largest first:
    /// where each is, its size, and how much of it is done.
    pub(crate) fn under_way(&self, most: usize) -> (u64, Vec<(PathBuf, u64, u64)>) {
        let active = self.shared.lock().active.clone();
        let done = |active: &Active| active.hash.get().map_or(0, FileHash::bytes_done);
        let mut files: Vec<_> = active
            .iter()
            .map(|active| (active.job.location.path(), active.job.stamp.size, done(active)))
            .collect();
        let bytes = files.iter().map(|(_, _, done)| done).sum();
        files.sort_by_key(|(_, size, _)| std::cmp::Reverse(*size));
        files.truncate(most);
        (bytes, files)
    }

    /// How many files wait or are being hashed.
    pub(crate) fn len(&self) -> usize {
        let queue = self.shared.lock();
        queue.waiting.len() + queue.active.len()
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.stopped = true;
        queue.active.iter().filter_map(|active| active.hash.get()).for_each(FileHash::cancel);
        drop(queue);
        self.shared.changed.notify_all();
    }
}

impl Queue {
    fn line_of(&mut self, job: &Job) -> &mut VecDeque<Ticket> {
        if job.stamp.size <= SMALL_BYTES_MAX { &mut self.small } else { &mut self.large }
    }

    /// What a thread does next.
    fn next(&mut self) -> Option<Work> {
        let may_begin = self.active.len() < ACTIVE_MAX;
        for place in (0..self.asked.len()).rev() {
            let ticket = self.asked[place];
            if may_begin && self.waiting.contains_key(&ticket) {
                return self.begin(ticket);
            }
            let claimed =
                self.active.iter().filter(|active| active.job.ticket == ticket).find_map(Active::claim);
            if claimed.is_some() {
                return claimed;
            }
        }
        if may_begin && let Some(ticket) = next_waiting(&mut self.small, &self.waiting) {
            return self.begin(ticket);
        }
        if let Some(work) = self.active.iter().find_map(Active::claim) {
            return Some(work);
        }
        let large = if may_begin { next_waiting(&mut self.large, &self.waiting) } else { None };
        large.and_then(|ticket| self.begin(ticket))
    }

    fn begin(&mut self, ticket: Ticket) -> Option<Work> {
        let job = self.waiting.remove(&ticket)?;
        let active = Arc::new(Active { job, hash: OnceLock::new() });
        self.active.push(active.clone());
        Some(Work::Begin(active))
    }

    fn bytes_done(&self, ticket: Ticket) -> u64 {
        let active = self.active.iter().find(|active| active.job.ticket == ticket);
        active.and_then(|active| active.hash.get()).map_or(0, FileHash::bytes_done)
    }
}

/// Takes the first that still waits out of a line.
fn next_waiting(line: &mut VecDeque<Ticket>, waiting: &HashMap<Ticket, Job>) -> Option<Ticket> {
    std::iter::from_fn(|| line.pop_front()).find(|ticket| waiting.contains_key(ticket))
}

impl Active {
    fn claim(self: &Arc<Self>) -> Option<Work> {
        let hash = self.hash.get().filter(|hash| !hash.is_cancelled())?;
        hash.claim().map(|run| Work::Run(self.clone(), run))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics half-way through a change of it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(&self) {
        // On Linux this is a property of the thread. Where it is refused, hashing is just not as polite.
        let _ = rustix::process::nice(NICENESS);
        let mut buffer = Vec::new();
        while let Some(work) = self.wait() {
            let (Work::Begin(active) | Work::Run(active, _)) = &work;
            let active = Arc::clone(active);
            // What is shared with the other threads is whole at any moment.
            let worked = panic::catch_unwind(AssertUnwindSafe(|| match work {
                Work::Begin(active) => self.begin(&active, &mut buffer),
                Work::Run(active, run) => self.run(&active, run, &mut buffer),
            }));
            if worked.is_err() {
                // Its run will never be done; the next scan has it hashed again.
                self.end(&active, Err(HashError::Unreadable(io::Error::other("hashing it failed"))));
                active.hash.get().inspect(|hash| hash.cancel());
            }
        }
    }

    /// Waits for something to do; `None` at the end.
    fn wait(&self) -> Option<Work> {
        let mut queue = self.lock();
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(work) = queue.next() {
                return Some(work);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Looks a file up in the cache; if it is not there, opens it and hashes its first run.
    fn begin(&self, active: &Arc<Active>, buffer: &mut Vec<u8>) {
        let job = &active.job;
        // At the start somebody may ask before the cache is open; that is quicker than reading the file.
        let cache = self.cache.wait().as_ref();
        if let Some(layer) = cache.and_then(|cache| cache.find(&job.location.path(), &job.stamp)) {
            return self.end(active, Ok(Hashed { stamp: job.stamp, layer, from_cache: true }));
        }
        let hash = match job.location.open().map_err(HashError::from).and_then(FileHash::new) {
            Ok(hash) => active.hash.get_or_init(|| hash),
            Err(error) => return self.end(active, Err(error)),
        };
        match hash.claim() {
            Some(run) => {
                // The others can help now.
                if hash.run_count() > 1 {
                    self.changed.notify_all();
                }
                self.run(active, run, buffer);
            }
            // Nothing to read: the file is empty, or others were quicker.
            None if hash.run_count() == 0 => self.finish(active, hash),
            None => {}
        }
    }

    fn run(&self, active: &Arc<Active>, run: Range<u32>, buffer: &mut Vec<u8>) {
        let Some(hash) = active.hash.get() else { return };
        match hash.hash_run(run, buffer) {
            Ok(true) => self.finish(active, hash),
            Ok(false) => {}
            // First the news, or another thread could end it as cancelled, which is none.
            Err(error) => {
                self.end(active, Err(error));
                hash.cancel();
            }
        }
    }

    fn finish(&self, active: &Arc<Active>, hash: &FileHash) {
        let hashed = |layer| Hashed { stamp: hash.stamp(), layer: Arc::new(layer), from_cache: false };
        self.end(active, hash.finish().map(hashed));
    }

    /// Reports a job, if nobody did so before and it was not withdrawn.
    fn end(&self, active: &Arc<Active>, result: Result<Hashed, HashError>) {
        let mut queue = self.lock();
        let place = queue.active.iter().position(|other| Arc::ptr_eq(other, active));
        let Some(place) = place.filter(|_| !queue.stopped) else { return };
        queue.active.swap_remove(place);
        queue.asked.retain(|asked| *asked != active.job.ticket);
        drop(queue);
        // There is room for another active file now.
        self.changed.notify_one();
        (self.report)(Outcome { ticket: active.job.ticket, id: active.job.id, result });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::geometry::PIECE_SIZE;
    use std::path::Path;
    use std::sync::mpsc::{Receiver, sync_channel};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn job(number: u64, folder: &Path, size: u64) -> Job {
        let name = number.to_string();
        let path = folder.join(&name);
        std::fs::write(&path, vec![number as u8; size as usize]).unwrap();
        let stamp = Stamp::of(&path.symlink_metadata().unwrap()).unwrap();
        let location = Location::new(folder.into(), name);
        Job { ticket: Ticket(number), id: Id::ROOT, location, stamp }
    }

    fn start(threads: usize) -> (HashPool, Receiver<Outcome>) {
        let (sender, receiver) = sync_channel(0);
        let report = Arc::new(move |outcome| drop(sender.send(outcome)));
        (
            HashPool::start(NonZeroUsize::new(threads).unwrap(), Arc::new(OnceLock::from(None)), report),
            receiver,
        )
    }

    #[test]
    fn a_panic_in_the_work_for_one_file_leaves_the_threads_to_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, outcomes) = sync_channel(2);
        let report = Arc::new(move |outcome: Outcome| {
            assert_ne!(outcome.ticket, Ticket(0), "injected");
            drop(sender.send(outcome));
        });
        let cache = Arc::new(OnceLock::from(None));
        let pool = HashPool::start(NonZeroUsize::MIN, cache, report);
        pool.submit((0..3).map(|number| job(number, folder.path(), 10)).collect());
        for expected in [1, 2] {
            let outcome = outcomes.recv_timeout(PATIENCE).expect("the thread is still there");
            assert_eq!(outcome.ticket, Ticket(expected));
            assert!(outcome.result.is_ok());
        }
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn the_order_is_questions_then_small_then_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, outcomes) = start(1);
        // The only thread is held up in its report of the first file until all the others are there.
        pool.submit(vec![job(0, folder.path(), 1)]);
        while pool.len() > 0 {
            std::thread::yield_now();
        }
        let large = SMALL_BYTES_MAX + 1;
        let sizes = [(1, large), (2, 10), (3, large), (4, 20), (5, 30), (6, large), (7, 40)];
        pool.submit(sizes.map(|(number, size)| job(number, folder.path(), size)).to_vec());
        for asked in [5, 6, 3, 6] {
            assert_eq!(pool.ask(Ticket(asked)), 0);
        }
        pool.withdraw(Ticket(4));
        let order: Vec<u64> = (0..7).map(|_| outcomes.recv_timeout(PATIENCE).unwrap().ticket.0).collect();
        assert_eq!(order, [0, 6, 3, 5, 2, 7, 1]);
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn several_threads_share_one_large_file_and_report_once() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, outcomes) = start(3);
        pool.submit(vec![job(1, folder.path(), 100 * PIECE_SIZE + 5)]);
        let outcome = outcomes.recv_timeout(PATIENCE).unwrap();
        let hashed = outcome.result.unwrap();
        let expected =
            crate::catalog::hash_file(&folder.path().join("1"), NonZeroUsize::MIN, &|_| ()).unwrap();
        assert_eq!(hashed.layer, expected);
        drop(pool);
        // All threads end, and with them the sender: no further report.
        assert!(
            outcomes
                .recv_timeout(PATIENCE)
                .is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
        );
    }

    #[test]
    fn gone_and_empty_files_are_reported_too() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, outcomes) = start(2);
        let gone = job(1, folder.path(), 9);
        std::fs::remove_file(folder.path().join("1")).unwrap();
        pool.submit(vec![gone, job(2, folder.path(), 0)]);
        let mut results: Vec<Outcome> = (0..2).map(|_| outcomes.recv_timeout(PATIENCE).unwrap()).collect();
        results.sort_by_key(|outcome| outcome.ticket.0);
        assert!(matches!(results[0].result, Err(HashError::Unreadable(_))));
        assert_eq!(results[1].result.as_ref().unwrap().layer.root(), ftx_proto::merkle::empty_root());
    }

    #[test]
    fn a_stopped_pool_reports_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let (pool, outcomes) = start(1);
        pool.submit((0..3).map(|number| job(number, folder.path(), 5)).collect());
        let _first = outcomes.recv_timeout(PATIENCE).unwrap();
        drop(pool);
        // At most one report was under way already.
        let rest: Vec<Outcome> = outcomes.iter().collect();
        assert!(rest.len() <= 1, "{rest:?}");
    }
}
