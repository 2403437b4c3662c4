//! The actor that knows what the node offers.
//!
//! It owns the table of files and folders and of what is being fetched, and the questions about it. It never touches the
//! disk itself: reading what is remembered, a scan, a look at one name, hashing, making a folder's manifest and saving
//! hashes run on threads of their own and tell it what they found. They hold a permit for everything they tell, so its
//! mailbox stays short. It answers at once, while it is scanning and hashing; and without shares it starts nothing at all.
//!
//! A question for a name looks at that very file or folder first, so what was put there, changed or removed a moment ago
//! is answered for as it is; a folder of thousands of entries is looked at as far as that is quick, and the rest of it is
//! answered for as it was when it was seen last. A question for a root that is not known leads to a scan, at most one a
//! second.
//!
//! ```text
//! Loading -> Ready   the table of the last run is there; questions that came meanwhile are answered
//! ```
//!
//! A crash of the actor loses what is being fetched ([`CatalogMessage::AddPartial`]), which its fetchers add again.

mod overview;
mod questions;
mod scanning;
mod skipped;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ftx_proto::digest::Root;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{OfferEntry, Want};
use ftx_proto::wire::session::ListingEntry;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

pub use self::overview::{CatalogOverview, HashingOverview, ShareOverview};
use self::questions::{Asker, Questions};
use self::scanning::Scanning;
use self::skipped::SkippedLog;
use crate::catalog::cache::Entry;
use crate::catalog::folder::{Gathering, Made};
use crate::catalog::hash::HashError;
use crate::catalog::index::Index;
use crate::catalog::pool::{CacheSlot, HashPool, Outcome, Ticket};
use crate::catalog::scan::{Shares, Skipped, unreadable};
use crate::catalog::walk::{Batch, Look, Step};
use crate::catalog::watch::Watch;
use crate::catalog::{Content, SharedFile};

/// The actor; what it owns is made when it starts.
#[derive(Debug)]
pub struct Catalog;

/// What a catalog needs to start.
#[derive(Debug, Clone)]
pub struct CatalogArguments {
    /// The folders and single files to offer, in the order in which their names count.
    pub shares: Vec<PathBuf>,
    /// Where hashes are remembered; nothing in it is ever offered. `None`: not remembered.
    pub state_dir: Option<PathBuf>,
    /// How many threads hash.
    pub hash_threads: NonZeroUsize,
    /// Time from the end of a scan to the beginning of the next. Longer if scans take long.
    pub rescan_interval: Duration,
}

/// What a catalog can be asked and told.
#[derive(Debug)]
pub enum CatalogMessage {
    /// What is there of this? The entries, and whether there are more.
    Lookup(Want, RpcReplyPort<(Vec<OfferEntry>, bool)>),
    /// The files and folders in order of their names.
    List {
        /// Where to go on; `None` for the beginning.
        after: Option<RelativePath>,
        /// Most entries in the answer; it may have less.
        limit: usize,
        /// The entries, and whether there are more.
        reply: RpcReplyPort<(Vec<ListingEntry>, bool)>,
    },
    /// The content of this root, if it is known: a file, the manifest of a folder that was asked for, the bytes of all its
    /// files, or what is being fetched.
    Open(Root, RpcReplyPort<Option<Arc<Content>>>),
    /// The file of this name in a share, whether or not its root is known.
    FindFile(RelativePath, RpcReplyPort<Option<SharedFile>>),
    /// Offers a content that is being fetched.
    AddPartial(Arc<Content>),
    /// Does not offer it any more as being fetched. It is offered whole if it is in a share.
    RemovePartial(Root),
    /// Looks through the shares again, soon.
    Rescan,
    /// How it is going.
    Status(RpcReplyPort<CatalogStatus>),
    /// The same, share by share, with what is being hashed.
    Overview(RpcReplyPort<CatalogOverview>),
    /// From its own threads.
    Internal(Internal),
}

/// How it is going with a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogStatus {
    /// Files found in the shares.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose root is known.
    pub hashed_files: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Files that wait for their root or are being hashed.
    pub queue: usize,
    /// Files that were hashed since the start by reading them.
    pub hashed_by_reading: u64,
    /// Files whose hashes were remembered from an earlier run.
    pub taken_from_cache: u64,
    /// Scans that were completed.
    pub scans: u64,
    /// Whether a scan is under way.
    pub scanning: bool,
    /// Entries that are not offered.
    pub skipped: u64,
    /// Some of those, with the reason.
    pub skipped_examples: Vec<(String, String)>,
}

/// A message of a catalog's own threads; nobody else can make one.
#[derive(Debug)]
pub struct Internal(Event);

#[derive(Debug)]
enum Event {
    Loaded(Box<Index>),
    Scanned { batch: Batch, _permit: OwnedSemaphorePermit },
    ScanEnded { took: Duration },
    ScanFailed { took: Duration },
    ScanDue,
    Looked { looked: Looked, asker: Asker },
    Watching(Watch),
    Noticed { looks: Option<Vec<Looked>>, _permit: OwnedSemaphorePermit },
    Gathering(Box<Gathering>),
    Made(Box<Made>),
    MakingFailed(RelativePath),
    Hashed { outcome: Outcome, _permit: OwnedSemaphorePermit },
    RootsDue,
    RetryDue,
    SaveDue,
    Saved,
}

/// What a name stood for when it was looked at, by walk number `walk`.
#[derive(Debug)]
struct Looked {
    name: RelativePath,
    look: Look,
    walk: u64,
}

/// What the actor owns.
pub struct CatalogState {
    myself: ActorRef<CatalogMessage>,
    shares: Arc<Shares>,
    index: Index,
    /// None without shares.
    pool: Option<HashPool>,
    cache: CacheSlot,
    scanning: Scanning,
    questions: Questions,
    /// Files that were changed while being hashed, to be looked at again.
    unsettled: Vec<RelativePath>,
    unsaved: Vec<Entry>,
    forgotten: Vec<PathBuf>,
    /// A save is under way or will be in a moment.
    saving: bool,
    skipped: SkippedLog,
    hashed_by_reading: u64,
    /// Bytes of those files.
    bytes_read: u64,
    taken_from_cache: u64,
    background: Background,
}

/// What the threads share with the actor; they end when it is dropped.
struct Background {
    /// The last scan, or what reads what is remembered before the first one; and the last save.
    scan: Option<JoinHandle<()>>,
    save: Option<JoinHandle<()>>,
    watch: Option<Watch>,
    stop: Arc<AtomicBool>,
    outcome_permits: Arc<Semaphore>,
    batch_permits: Arc<Semaphore>,
}

impl Background {
    /// Tells the threads to end.
    fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.outcome_permits.close();
        self.batch_permits.close();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

/// Most outcomes of hashing that wait in the mailbox.
const OUTCOMES_MAX: usize = 256;

/// Most batches of a scan that wait in the mailbox.
const BATCHES_MAX: usize = 4;

/// Most files that were changed while being hashed and are looked at again before the next scan.
const UNSETTLED_MAX: usize = 256;

/// Most files whose hashes wait to be saved, and most whose hashes wait to be forgotten. Beyond that the disk is too slow
/// for us: the one costs hashing again after a restart, the other some space.
const UNSAVED_MAX: usize = 1 << 16;

/// Until a file that was changed while being hashed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long stopping waits for reads and saves that are under way.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// From new hashes until they are saved.
const SAVE_DELAY: Duration = Duration::from_millis(500);

impl Actor for Catalog {
    type Msg = CatalogMessage;
    type State = CatalogState;
    type Arguments = CatalogArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<CatalogMessage>,
        arguments: CatalogArguments,
    ) -> Result<CatalogState, ActorProcessingErr> {
        let mut state = CatalogState::new(myself, &arguments);
        if !state.shares.is_empty() {
            state.start_pool(arguments.hash_threads);
            state.load(arguments.state_dir);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<CatalogMessage>,
        message: CatalogMessage,
        state: &mut CatalogState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CatalogMessage::Lookup(..)
            | CatalogMessage::List { .. }
            | CatalogMessage::Open(..)
            | CatalogMessage::FindFile(..) => state.question(message),
            CatalogMessage::AddPartial(content) => {
                if !state.index.add_partial(content) {
                    tracing::warn!(
                        "too many fetches at once; a further one is not offered to others meanwhile"
                    );
                }
            }
            CatalogMessage::RemovePartial(root) => state.index.remove_partial(&root),
            CatalogMessage::Rescan => state.want_scan(),
            CatalogMessage::Status(reply) => {
                let _ = reply.send(state.status());
            }
            CatalogMessage::Overview(reply) => {
                let _ = reply.send(state.overview());
            }
            CatalogMessage::Internal(Internal(event)) => state.event(event),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<CatalogMessage>,
        state: &mut CatalogState,
    ) -> Result<(), ActorProcessingErr> {
        if tokio::time::timeout(STOP_PATIENCE, state.stop()).await.is_err() {
            tracing::warn!("a disk does not answer; some hashes may not have been saved");
        }
        Ok(())
    }
}

impl CatalogState {
    fn new(myself: ActorRef<CatalogMessage>, arguments: &CatalogArguments) -> Self {
        let shares = Arc::new(Shares::new(&arguments.shares, arguments.state_dir.as_deref()));
        CatalogState {
            myself,
            index: Index::new(shares.clone()),
            scanning: Scanning::new(shares.len(), arguments.rescan_interval),
            shares,
            pool: None,
            cache: CacheSlot::default(),
            questions: Questions::default(),
            unsettled: Vec::new(),
            unsaved: Vec::new(),
            forgotten: Vec::new(),
            saving: false,
            skipped: SkippedLog::default(),
            hashed_by_reading: 0,
            bytes_read: 0,
            taken_from_cache: 0,
            background: Background {
                scan: None,
                save: None,
                watch: None,
                stop: Arc::new(AtomicBool::new(false)),
                outcome_permits: Arc::new(Semaphore::new(OUTCOMES_MAX)),
                batch_permits: Arc::new(Semaphore::new(BATCHES_MAX)),
            },
        }
    }

    fn start_pool(&mut self, threads: NonZeroUsize) {
        let (myself, permits) = (self.myself.clone(), self.background.outcome_permits.clone());
        let runtime = tokio::runtime::Handle::current();
        let report = move |outcome| {
            // Closed when the actor is gone, and then nobody wants to hear it.
            if let Ok(permit) = runtime.block_on(permits.clone().acquire_owned()) {
                tell(&myself, Event::Hashed { outcome, _permit: permit });
            }
        };
        self.pool = Some(HashPool::start(threads, self.cache.clone(), Arc::new(report)));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Loaded(index) => self.loaded(*index),
            Event::Scanned { batch, _permit } => self.scanned(batch),
            Event::ScanEnded { took } => self.scan_ended(took),
            Event::ScanFailed { took } => self.scan_failed(took),
            Event::ScanDue => self.scan_due(),
            Event::Looked { looked, asker } => self.looked(looked, asker),
            Event::Watching(watch) => self.background.watch = Some(watch),
            Event::Noticed { looks, _permit } => self.noticed(looks),
            Event::Made(made) => self.made(*made),
            Event::Gathering(gathering) => self.gather(*gathering),
            Event::MakingFailed(name) => self.making_failed(&name),
            Event::RootsDue => self.roots_due(),
            Event::Hashed { outcome, _permit } => self.hashed(outcome),
            Event::RetryDue => self.retry(),
            Event::SaveDue => self.save(),
            Event::Saved => {
                self.saving = false;
                self.save_soon();
            }
        }
    }

    /// Something was come across by walk number `walk`.
    fn walked(&mut self, batch: Batch, walk: u64) {
        for skipped in batch.skipped {
            self.skipped.note(skipped, self.scanning.number());
        }
        for step in batch.steps {
            match step {
                Step::Found(found) => {
                    let share = found.share;
                    let change = self.index.found(found, walk);
                    if let Some((name, reason)) = change.skipped {
                        let path = self.shares.location(share, &name).path();
                        self.skipped.note(Skipped::new(&path, reason), self.scanning.number());
                    }
                    self.taken_from_cache += u64::from(change.confirmed);
                    self.withdraw(change.withdrawn);
                }
                Step::Listed { share, folder } => {
                    let gone = self.index.listed(share, folder.as_ref(), walk);
                    self.withdraw(gone.withdrawn);
                    self.forget(gone.files);
                }
            }
        }
        self.hash_on();
    }

    /// A name was looked at.
    fn apply(&mut self, Looked { name, look, walk }: Looked) {
        if look.share.is_none() {
            let gone = self.index.remove(&name);
            self.withdraw(gone.withdrawn);
            self.forget(gone.files);
        }
        self.walked(look.batch, walk);
    }

    fn withdraw(&self, tickets: Vec<Ticket>) {
        if let Some(pool) = &self.pool {
            tickets.into_iter().for_each(|ticket| pool.withdraw(ticket));
        }
    }

    /// Has files hashed whose turn it is.
    fn hash_on(&mut self) {
        if let Some(pool) = &self.pool {
            let jobs = self.index.next_jobs();
            if !jobs.is_empty() {
                pool.submit(jobs);
            }
        }
    }

    fn hashed(&mut self, outcome: Outcome) {
        self.job_ended(outcome);
        self.hash_on();
        if self.is_hashed() {
            self.find_roots_soon();
        }
    }

    /// Whether no file waits for its hash.
    fn is_hashed(&self) -> bool {
        self.index.waiting() == 0 && self.pool.as_ref().is_none_or(|pool| pool.len() == 0)
    }

    fn job_ended(&mut self, outcome: Outcome) {
        let Outcome { ticket, id, result } = outcome;
        match result {
            Ok(hashed) => {
                let Some(name) = self.index.hashed(id, ticket, &hashed) else { return };
                if hashed.from_cache {
                    self.taken_from_cache += 1;
                    return;
                }
                self.hashed_by_reading += 1;
                self.bytes_read += hashed.stamp.size;
                if let Some(path) = self.path_of(&name)
                    && self.unsaved.len() < UNSAVED_MAX
                {
                    self.unsaved.push((path, hashed.stamp, hashed.layer));
                    self.save_soon();
                }
            }
            Err(HashError::Changed) => {
                let Some(name) = self.index.unsettled(id, ticket) else { return };
                if self.unsettled.len() < UNSETTLED_MAX {
                    if self.unsettled.is_empty() {
                        self.tell_later(RETRY_DELAY, Event::RetryDue);
                    }
                    self.unsettled.push(name);
                }
            }
            Err(HashError::Unreadable(error)) => {
                let Some(name) = self.index.failed(id, ticket) else { return };
                if let Some(path) = self.path_of(&name) {
                    self.skipped.note(Skipped::new(&path, unreadable(&path, &error)), self.scanning.number());
                }
            }
            // By whoever withdrew it.
            Err(HashError::Cancelled) => {}
        }
    }

    fn path_of(&self, name: &RelativePath) -> Option<PathBuf> {
        let share = self.index.share_of(name)?;
        Some(self.shares.location(share, name).path())
    }

    /// Looks again at the files that were changed while they were hashed.
    fn retry(&mut self) {
        for name in std::mem::take(&mut self.unsettled) {
            self.look(name, Asker::Nobody);
        }
    }

    /// The hashes of files that are gone need not be remembered.
    fn forget(&mut self, files: Vec<(RelativePath, usize)>) {
        for (name, share) in files {
            // A share where nothing at all is found is more likely a disk that is not there now.
            if self.scanning.has_found(share) && self.forgotten.len() < UNSAVED_MAX {
                self.forgotten.push(self.shares.location(share, &name).path());
            }
        }
    }

    fn save_soon(&mut self) {
        let is_something = !self.unsaved.is_empty() || !self.forgotten.is_empty();
        if is_something && !self.saving {
            self.saving = true;
            self.tell_later(SAVE_DELAY, Event::SaveDue);
        }
    }

    fn save(&mut self) {
        let (unsaved, forgotten) = (std::mem::take(&mut self.unsaved), std::mem::take(&mut self.forgotten));
        let (myself, cache) = (self.myself.clone(), self.cache.clone());
        self.background.save = Some(tokio::task::spawn_blocking(move || {
            save(&cache, &unsaved, &forgotten);
            tell(&myself, Event::Saved);
        }));
    }

    /// Ends everything in the background and saves what there is to save. The cache is closed then, so that whoever
    /// comes next can open it.
    async fn stop(&mut self) {
        self.background.end();
        self.background.watch = None;
        let tasks = [self.background.scan.take(), self.background.save.take()];
        for task in tasks.into_iter().flatten() {
            // One that failed has ended as well.
            let _ = task.await;
        }
        let (pool, cache) = (self.pool.take(), std::mem::take(&mut self.cache));
        let (unsaved, forgotten) = (std::mem::take(&mut self.unsaved), std::mem::take(&mut self.forgotten));
        let rest = tokio::task::spawn_blocking(move || {
            if let Some(pool) = pool {
                pool.stop();
            }
            if !unsaved.is_empty() || !forgotten.is_empty() {
                save(&cache, &unsaved, &forgotten);
            }
        });
        let _ = rest.await;
    }

    fn status(&self) -> CatalogStatus {
        let totals = self.index.totals();
        CatalogStatus {
            files: totals.files,
            bytes: totals.bytes,
            hashed_files: totals.hashed_files,
            hashed_bytes: totals.hashed_bytes,
            queue: self.index.waiting() + self.pool.as_ref().map_or(0, HashPool::len),
            hashed_by_reading: self.hashed_by_reading,
            taken_from_cache: self.taken_from_cache,
            scans: self.scanning.completed(),
            scanning: self.scanning.is_under_way(),
            skipped: self.skipped.count(),
            skipped_examples: self.skipped.examples(),
        }
    }

    fn tell_later(&self, delay: Duration, event: Event) {
        // Ends by itself when the actor is gone.
        self.myself.send_after(delay, move || CatalogMessage::Internal(Internal(event)));
    }
}

/// Tells the actor; if it is gone, nobody wants to hear it.
fn tell(myself: &ActorRef<CatalogMessage>, event: Event) {
    let _ = myself.cast(CatalogMessage::Internal(Internal(event)));
}

fn save(cache: &CacheSlot, unsaved: &[Entry], forgotten: &[PathBuf]) {
    if let Some(cache) = cache.get().and_then(Option::as_ref) {
        cache.save(unsaved, forgotten);
    }
}
