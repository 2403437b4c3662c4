//! One upload: its part file, which of its blocks are here, and the sum of those that are here without a gap.
//!
//! ```text
//! Receiving -> Finishing    the last block is here
//! Finishing -> Finished     the file has its name
//! Finishing -> Receiving    it could not be given its name; a block that comes again tries again
//! Receiving -> Gone         deleted, or begun anew
//! Receiving -> Broken       the disk lost data; only to be deleted or begun anew
//! ```
//!
//! Blocks are written by as many connections at once as there are, each by one at a time; what is shared is locked for
//! moments only. Summing up and syncing go on behind, see [`super::background`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ftx_proto::interop::step::block::{Block, BlockFault, BlockPlan};
use ftx_proto::interop::step::limits::BLOCK_SIZE;
use ftx_proto::interop::step::store::Denial;
use ftx_proto::interop::step::value::{FileSize, Md5Sum};
use md5::{Digest as _, Md5};

use super::FileName;
use super::blocks::BlockSet;
use super::handles::{Files, Handles};
use super::io_failed;
use super::journal::{Header, Journal};

/// Blocks that are summed up at once.
const HASH_BLOCKS: u64 = 16;

/// Blocks after which summing up is worth it.
const HASH_BLOCKS_MIN: u64 = 32;

/// Blocks that are summed up before it is another upload's turn.
const HASH_BLOCKS_MAX: u64 = 512;

/// Bytes after which what was written is synced, so that the end does not have to wait for all of it.
const SYNC_BYTES: u64 = 64 << 20;

/// With so few blocks missing, whoever brings one may be the last: more than there are connections.
const NEARLY_COMPLETE: u64 = 512;

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) name: FileName,
    pub(super) plan: BlockPlan,
    pub(super) size: FileSize,
    /// What its files are called, without what tells them apart.
    pub(super) stem: String,
    /// When its files were used last, in uses of all uploads.
    pub(super) used: AtomicU64,
    /// Open as long as it is among those used last.
    pub(super) files: Mutex<Option<Arc<Files>>>,
    /// Jobs that wait for their turn in the background, or are being done.
    pub(super) queued: [AtomicBool; 2],
    handles: Arc<Handles>,
    journal: Journal,
    loaded: AtomicBool,
    loading: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    sum: Mutex<Sum>,
    /// Mirrors of what is behind locks, for a quick look.
    hashed: AtomicU64,
    unsynced: AtomicU64,
    overwritten: AtomicBool,
}

#[derive(Debug)]
struct State {
    received: BlockSet,
    /// Blocks that are being written; nobody else may.
    writing: Vec<u64>,
    stage: Stage,
}

/// See [the module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Receiving,
    Finishing,
    Finished(Md5Sum),
    Gone,
    Broken,
}

/// What there is to do in the background. Different threads do it, since syncing waits and summing up computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    SumUp,
    Sync,
}

impl Job {
    pub(super) const ALL: [Job; 2] = [Job::SumUp, Job::Sync];
}

/// The sum of the first blocks.
#[derive(Debug)]
struct Sum {
    md5: Md5,
    blocks: u64,
}

/// A block could not be written.
#[derive(Debug)]
struct NotWritten {
    error: io::Error,
    /// What was there before may be half overwritten.
    torn: bool,
}

/// What became of a block.
#[derive(Debug)]
pub(super) enum Taken {
    Stored,
    /// It was the last: the caller has to finish the upload.
    Completed,
    Refused(BlockFault),
    Finished(Md5Sum),
    Gone,
    /// It may take long, so it was not tried.
    Slow,
}

impl Upload {
    /// A new upload; `handles` has its files open already.
    pub(super) fn begin(name: FileName, size: FileSize, handles: Arc<Handles>) -> io::Result<Arc<Self>> {
        let seal = rand::random();
        let header =
            Header { user: name.user.to_string(), key: name.key.to_string(), size: size.get(), seal };
        let stem = name.stem(seal);
        let files = handles.create(&stem)?;
        let made = files.part.set_len(size.get()).and_then(|()| Journal::create(&files.journal, &header));
        let journal = made.inspect_err(|_| handles.remove(&stem))?;
        let upload = Arc::new(Self::new(name, size, stem, journal, handles, true));
        *upload.lock_files() = Some(Arc::new(files));
        upload.handles.opened(&upload);
        Ok(upload)
    }

    /// An upload of an earlier run of the node. What there is of it is found out when it is used.
    pub(super) fn resume(
        name: FileName,
        size: FileSize,
        stem: String,
        journal: Journal,
        handles: Arc<Handles>,
    ) -> Self {
        Self::new(name, size, stem, journal, handles, false)
    }

    fn new(
        name: FileName,
        size: FileSize,
        stem: String,
        journal: Journal,
        handles: Arc<Handles>,
        loaded: bool,
    ) -> Self {
        let plan = BlockPlan::standard(size);
        let received = BlockSet::new(plan.total_block());
        Upload {
            name,
            plan,
            size,
            stem,
            used: AtomicU64::new(0),
            files: Mutex::new(None),
            queued: Default::default(),
            handles,
            journal,
            loaded: AtomicBool::new(loaded),
            loading: Mutex::new(()),
            state: Mutex::new(State { received, writing: Vec::new(), stage: Stage::Receiving }),
            changed: Condvar::new(),
            sum: Mutex::new(Sum { md5: Md5::new(), blocks: 0 }),
            hashed: AtomicU64::new(0),
            unsynced: AtomicU64::new(0),
            overwritten: AtomicBool::new(false),
        }
    }

    /// Takes a block. Unless `may_wait` it only does what is quick.
    pub(super) fn take(self: &Arc<Self>, index: u64, bytes: &[u8], may_wait: bool) -> Result<Taken, Denial> {
        if !self.loaded.load(Ordering::Acquire) {
            if !may_wait {
                return Ok(Taken::Slow);
            }
            self.load()?;
        }
        let (block, is_new) = {
            let mut state = self.lock();
            loop {
                match state.stage {
                    Stage::Finished(md5) => return Ok(Taken::Finished(md5)),
                    Stage::Gone => return Ok(Taken::Gone),
                    Stage::Broken => return Err(Denial::Failed),
                    Stage::Finishing if !may_wait => return Ok(Taken::Slow),
                    Stage::Finishing => state = self.wait(state),
                    // Another connection is writing this very block, which takes no longer than writing it ourselves.
                    Stage::Receiving if state.writing.contains(&index) => state = self.wait(state),
                    Stage::Receiving => break,
                }
            }
            let block = match self.plan.place(index, bytes.len()) {
                Ok(block) => block,
                Err(fault) => return Ok(Taken::Refused(fault)),
            };
            if !may_wait && state.received.missing() <= NEARLY_COMPLETE {
                return Ok(Taken::Slow);
            }
            state.writing.push(index);
            (block, !state.received.contains(index))
        };
        // Others may wait for what becomes of it, whatever that is.
        let written = catch_unwind(AssertUnwindSafe(|| {
            if is_new { self.write(block, bytes) } else { self.write_again(block, bytes) }
        }));
        let failed = || NotWritten { error: io::Error::other("writing it failed"), torn: true };
        self.has_written(block, is_new, written.unwrap_or_else(|_| Err(failed())))
    }

    /// How it stands, once nothing is being decided any more; and whether its last block is here, in which case the
    /// caller has to finish it.
    pub(super) fn settled(self: &Arc<Self>) -> Result<(Stage, bool), Denial> {
        self.load()?;
        let mut state = self.lock();
        while state.stage == Stage::Finishing {
            state = self.wait(state);
        }
        let complete = state.stage == Stage::Receiving && state.is_complete();
        if complete {
            state.stage = Stage::Finishing;
        }
        Ok((state.stage, complete))
    }

    /// Gives it up, unless it is finished, or is so after having been waited for. `true` if it is given up.
    pub(super) fn abandon(&self) -> bool {
        let mut state = self.lock();
        while state.stage == Stage::Finishing {
            state = self.wait(state);
        }
        match state.stage {
            Stage::Finished(_) | Stage::Gone => false,
            Stage::Receiving | Stage::Broken | Stage::Finishing => {
                state.stage = Stage::Gone;
                self.changed.notify_all();
                drop(state);
                *self.lock_files() = None;
                self.handles.remove(&self.stem);
                true
            }
        }
    }

    /// The bytes that are still to come, at most.
    pub(super) fn missing_bytes(&self) -> u64 {
        let count = if self.loaded.load(Ordering::Acquire) { self.lock().received.count() } else { 0 };
        self.size.get().saturating_sub(count * u64::from(BLOCK_SIZE))
    }

    /// Sums up all of it, which is here, and sees to it that it is on the disk.
    pub(super) fn seal(self: &Arc<Self>) -> io::Result<(Md5Sum, Arc<Files>)> {
        let files = self.handles.files(self)?;
        let md5 = std::thread::scope(|scope| {
            // The disk works while we compute.
            let syncing = scope.spawn(|| files.part.sync_all());
            let mut sum = self.lock_sum();
            let summed = self.sum_up(&mut sum, &files.part, self.plan.total_block());
            let synced = syncing.join().unwrap_or_else(|_| Err(io::Error::other("syncing failed")));
            synced.inspect_err(|_| self.lock().stage = Stage::Broken)?;
            summed.map(|()| Md5Sum(sum.md5.clone().finalize().into()))
        })?;
        Ok((md5, files))
    }

    /// The upload is finished, or could not be: [`Stage::Receiving`].
    pub(super) fn decided(&self, stage: Stage) {
        let mut state = self.lock();
        if state.stage == Stage::Finishing {
            state.stage = stage;
        }
        self.changed.notify_all();
    }

    /// Whether there is something to do in the background.
    pub(super) fn wants(&self, job: Job) -> bool {
        match job {
            Job::Sync => self.unsynced.load(Ordering::Relaxed) >= SYNC_BYTES,
            Job::SumUp => {
                let state = self.lock();
                let hashed = self.hashed.load(Ordering::Relaxed);
                state.stage == Stage::Receiving && state.received.prefix() >= hashed + HASH_BLOCKS_MIN
            }
        }
    }

    /// Does some of what there is to do in the background.
    pub(super) fn work(self: &Arc<Self>, job: Job) -> io::Result<()> {
        if self.lock().stage != Stage::Receiving {
            self.unsynced.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let files = self.handles.files(self)?;
        match job {
            Job::SumUp => {
                let mut sum = self.lock_sum();
                let until = self.lock().received.prefix().min(sum.blocks + HASH_BLOCKS_MAX);
                self.sum_up(&mut sum, &files.part, until)
            }
            Job::Sync => self.sync(&files),
        }
    }

    /// Puts on the disk what was written, and notes that it is there.
    fn sync(&self, files: &Files) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        // A record is made after its block is written: whatever has one by now is synced by what follows.
        let records = self.journal.records();
        if let Err(error) = files.part.sync_data() {
            // The system may have dropped what was not written, and a later sync would say nothing about it.
            self.lock().stage = Stage::Broken;
            self.changed.notify_all();
            return Err(error);
        }
        if self.overwritten.load(Ordering::Acquire) {
            return Ok(());
        }
        self.journal.synced(&files.journal, records)
    }

    /// Finds out what there is of an upload of an earlier run.
    fn load(self: &Arc<Self>) -> Result<(), Denial> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.loaded.load(Ordering::Acquire) {
            return Ok(());
        }
        let loaded = self.handles.files(self).and_then(|files| self.read_back(&files));
        let received = loaded.map_err(|error| self.failed("read back", &error))?;
        self.lock().received = received;
        self.loaded.store(true, Ordering::Release);
        Ok(())
    }

    fn read_back(&self, files: &Files) -> io::Result<BlockSet> {
        let mut received = BlockSet::new(self.plan.total_block());
        if files.part.metadata()?.len() != self.plan.size() {
            files.part.set_len(self.plan.size())?;
            // Whatever cut it off may have done more.
            return Ok(received);
        }
        let mut buffer = vec![0; BLOCK_SIZE as usize];
        self.journal.blocks(&files.journal, |written| {
            let Some(block) = self.plan.block(written.index) else { return Ok(()) };
            let is_here = written.synced || {
                let bytes = &mut buffer[..block.len()];
                files.part.read_exact_at(bytes, block.offset())?;
                crc32fast::hash(bytes) == written.crc
            };
            if is_here {
                received.insert(written.index);
            }
            Ok(())
        })?;
        Ok(received)
    }

    /// Writes a block that was not here.
    fn write(self: &Arc<Self>, block: Block, bytes: &[u8]) -> Result<(), NotWritten> {
        let files = self.handles.files(self)?;
        files.part.write_all_at(bytes, block.offset())?;
        Ok(self.journal.written(&files.journal, block.index(), crc32fast::hash(bytes))?)
    }

    /// Writes a block that was here; only if it is another one, which a client may do until the file is complete.
    fn write_again(self: &Arc<Self>, block: Block, bytes: &[u8]) -> Result<(), NotWritten> {
        let files = self.handles.files(self)?;
        let mut present = vec![0; block.len()];
        files.part.read_exact_at(&mut present, block.offset())?;
        if present == bytes {
            return Ok(());
        }
        if self.journal.records() > 4 * (self.plan.total_block() + 1024) {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded).into());
        }
        self.overwritten.store(true, Ordering::Release);
        self.journal.overwriting(&files.journal)?;
        let written = files.part.write_all_at(bytes, block.offset());
        written.map_err(|error| NotWritten { error, torn: true })?;
        let noted = self.journal.written(&files.journal, block.index(), crc32fast::hash(bytes));
        // Noted or not, it is another block now.
        let mut sum = self.lock_sum();
        if block.index() < sum.blocks {
            *sum = Sum { md5: Md5::new(), blocks: 0 };
            self.hashed.store(0, Ordering::Relaxed);
        }
        Ok(noted?)
    }

    fn has_written(
        &self,
        block: Block,
        is_new: bool,
        written: Result<(), NotWritten>,
    ) -> Result<Taken, Denial> {
        let mut state = self.lock();
        state.writing.retain(|index| *index != block.index());
        self.changed.notify_all();
        if let Err(NotWritten { error, torn }) = &written {
            if *torn && state.stage == Stage::Receiving {
                state.stage = Stage::Broken;
            }
            let gone = state.stage == Stage::Gone;
            drop(state);
            return if gone { Ok(Taken::Gone) } else { Err(self.failed("write", error)) };
        }
        match state.stage {
            Stage::Receiving => {}
            // Only Receiving leads to the others while something is being written, and finishing waits for that.
            Stage::Finishing | Stage::Finished(_) | Stage::Gone => return Ok(Taken::Gone),
            Stage::Broken => return Err(Denial::Failed),
        }
        if is_new {
            state.received.insert(block.index());
        }
        if state.is_complete() {
            state.stage = Stage::Finishing;
            return Ok(Taken::Completed);
        }
        drop(state);
        self.unsynced.fetch_add(block.len() as u64, Ordering::Relaxed);
        Ok(Taken::Stored)
    }

    /// Sums up the blocks before number `until`, all of which are here.
    fn sum_up(&self, sum: &mut Sum, part: &File, until: u64) -> io::Result<()> {
        let mut buffer = Vec::new();
        while sum.blocks < until {
            let end = until.min(sum.blocks + HASH_BLOCKS);
            let start = sum.blocks * u64::from(BLOCK_SIZE);
            let len = (end * u64::from(BLOCK_SIZE)).min(self.plan.size()) - start;
            buffer.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
            part.read_exact_at(&mut buffer, start)?;
            sum.md5.update(&buffer);
            sum.blocks = end;
            self.hashed.store(end, Ordering::Relaxed);
        }
        Ok(())
    }

    fn failed(&self, action: &str, error: &io::Error) -> Denial {
        io_failed(action, &self.name, error)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half-way through a change of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_sum(&self) -> MutexGuard<'_, Sum> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_files(&self) -> MutexGuard<'_, Option<Arc<Files>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before anything that was here has been touched.
impl From<io::Error> for NotWritten {
    fn from(error: io::Error) -> Self {
        NotWritten { error, torn: false }
    }
}

impl State {
    fn is_complete(&self) -> bool {
        self.received.missing() == 0 && self.writing.is_empty()
    }
}
