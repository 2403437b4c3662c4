//! Where a fetched folder is put together: a staging folder, the journal of a file, and the step to the final names.
//!
//! # Owns
//!
//! `.NAME.ftx-part`, a folder in which the files lie under the paths that they will have, and `.NAME.ftx-journal`, both
//! beside the target (the staging folder within it, if the target is another file system), under the lock of the journal.
//! In the state folder, what the files of finished folders were.
//!
//! # Refuses
//!
//! To leave these folders: everything happens beneath handles, through no link. To make links that may lead out of the
//! target, which are told instead. To put a file where a folder is, or a folder where something else is, without being
//! told to. To judge pieces: the caller verifies before it writes.
//!
//! # What a crash loses
//!
//! As much as with a file, and for the same reasons ([`crate::store`]); in addition:
//!
//! 1. The journal is bound to the files that are wanted of the folder. A record claims of a piece what it has of those. Of
//!    a piece that is only hinted, small files are proved by their roots in the manifest, and a piece of a large file by
//!    the hash in the hint.
//! 2. With a journal for something else, what lies in the staging folder is hashed before it counts.
//! 3. A target that is new appears by one rename, behind a sync of everything in it.
//! 4. Files that are the same as another one of the folder are copied from that at the end, before anything has its final
//!    name. A record claims nothing of them; what a killed run made of them is hashed.
//! 5. Into a target that is there, files are moved one by one, each complete and synced, then links are made, then
//!    what is not in the folder is removed, if that was asked for. A run that is killed in the middle of it leaves a target
//!    that is partly new, and the rest in the staging folder: the next one finds the former right, the latter staged, and
//!    goes on. The journal goes last.

mod compare;
mod copy;
mod finish;
mod found;
mod hashing;
mod names;
mod near;
mod open;
mod record;
mod resume;
#[cfg(test)]
mod reuse_tests;
mod select;
mod staging;
#[cfg(test)]
mod tests;
mod tree;
mod twins;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};
use ftx_proto::manifest::Manifest;
use ftx_proto::name::RelativePath;

use self::compare::Comparison;
use self::staging::Staging;
use self::tree::{Seen, Tree};
use self::twins::Twins;
use super::journal::Journal;
use super::part::{Lock, Stage, ranges_of};
use super::target::{Folder, path_of_open};
use super::{Part, StoreError, Target};

pub use found::{Found, FoundRun};
pub use select::Selection;

/// What is wanted of a folder, and how it goes into its target.
#[derive(Debug, Clone, Default)]
pub struct FolderOptions {
    /// Which entries.
    pub selection: Selection,
    /// Whether links are made.
    pub links: bool,
    /// Whether what is in the target and not in the folder is removed; what is not selected stays.
    pub delete: bool,
    /// Whether a file is replaced by a folder, and a folder with all that is in it by a file.
    pub force: bool,
    /// Where to remember what the files of finished folders were, so that they need not be hashed the next time.
    pub records: Option<PathBuf>,
}

/// A folder that is ready to be fetched.
#[derive(Debug)]
pub struct Opened {
    /// Where it goes.
    pub part: FolderPart,
    /// Pieces of which everything wanted is here and verified.
    pub have: PieceSet,
    /// Chunks that need not be fetched; those of a piece that is in `have` as well.
    pub skipped: BTreeMap<PieceIndex, ChunkMask>,
    /// Pieces of which nothing is skipped but what can be read all the same: copies of other files of the folder, and files
    /// that are here.
    pub spared: PieceSet,
    /// Chunks that are on this machine and may be right.
    pub found: Found,
    /// For people.
    pub summary: Summary,
}

/// What there is to do, and what is done already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that are selected.
    pub selected: Tally,
    /// Folders that are selected.
    pub folders: u64,
    /// Links that are selected, and not refused.
    pub links: u64,
    /// Files that the target has as they should be.
    pub same: Tally,
    /// Files that are copied from elsewhere in the target, or from another one of the folder.
    pub copied: Tally,
    /// Files that are not whole on this machine.
    pub missing: Tally,
    /// Links that are not made because they may lead out of the folder.
    pub refused_links: Vec<RelativePath>,
    /// What will be removed from the target because it is not in the folder.
    pub extras: Vec<PathBuf>,
    /// What will be replaced by something of another kind, with all that is in it.
    pub replaced: Vec<PathBuf>,
}

/// A number of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub files: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, size: u64) {
        self.files += 1;
        self.bytes += size;
    }
}

/// The unfinished files of one fetch of a folder, with their journal.
///
/// All methods take `&self`: workers write at different places at the same time. All of them may block on the disk.
#[derive(Debug)]
pub struct FolderPart {
    /// The folder that the target is in, and the names used there.
    folder: Folder,
    path: PathBuf,
    manifest: Arc<Manifest>,
    options: FolderOptions,
    /// What the staging folder is in.
    home: Arc<Tree>,
    staging: Staging,
    /// The target, if it was there.
    target: Option<Arc<Tree>>,
    /// Whether something that is no folder has the name of the target, and goes.
    replaces: bool,
    comparison: Comparison,
    /// Which files with bytes go into the staging folder.
    wanted: Vec<bool>,
    twins: Twins,
    /// Bytes that are still to be written.
    missing: AtomicU64,
    /// Whether it was said that an attribute cannot be set.
    has_warned: AtomicBool,
    /// Whether anything may still be written. Changed by whoever holds the stage; held by whoever writes.
    is_open: RwLock<bool>,
    /// Held while something is synced; so [`Part::note`] does without.
    stage: Mutex<Stage>,
    /// None at the end. Changed by whoever holds the stage, and only for a moment.
    journal: RwLock<Option<(Journal, Arc<Lock>)>>,
}

impl FolderPart {
    /// Locks the target, compares it with the folder, and finds out what is there already, from an earlier run or under
    /// another name. Blocks, for as long as hashing what was never hashed before takes.
    ///
    /// Refuses if the target is being fetched by somebody else, if there is not enough room, or if the file system cannot
    /// hold the names. Nothing at the target is changed before [`Part::finish`].
    pub fn open(
        target: Target,
        manifest: Arc<Manifest>,
        options: FolderOptions,
    ) -> Result<Opened, StoreError> {
        open::open(target, manifest, options)
    }

    /// The folder.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        // Nothing panics half-way through a change of it.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> RwLockReadGuard<'_, Option<(Journal, Arc<Lock>)>> {
        self.journal.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes and unlocks the journal.
    fn end_journal(&self) {
        *self.journal.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Puts what was written on the disk, as long as that never failed.
    fn sync(&self, stage: &mut Stage) -> Result<(), StoreError> {
        stage.expect_writing().map_err(|error| self.failed("sync", error))?;
        self.staging.sync().map_err(|error| {
            *stage = Stage::Broken;
            self.failed("sync", error)
        })
    }

    /// Adds what a single call to the system does not know: how much is missing where the disk is full, and that all of the
    /// staging folder is gone where something in it is not found.
    fn explained(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::DiskFull { .. } => {
                let available = available(self.staging.tree()).unwrap_or_default();
                error.with_space(self.missing.load(Ordering::Relaxed), available)
            }
            StoreError::Lost(_) => self.expect_staging().err().unwrap_or(error),
            StoreError::Other { error: ref cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                self.expect_staging().err().unwrap_or(error)
            }
            error => error,
        }
    }

    fn failed(&self, action: &'static str, error: impl Into<io::Error>) -> StoreError {
        self.explained(StoreError::from_io(action, &self.path, error))
    }

    /// Fails unless the staging folder still has its name: without it nobody would ever find what is still to come.
    fn expect_staging(&self) -> Result<(), StoreError> {
        let part = Path::new(&self.folder.part);
        let failed = |error| StoreError::from_io("look at", &self.path, error);
        let ours =
            rustix::fs::fstat(self.staging.tree().root()).map(|stat| Seen::new(&stat)).map_err(failed)?;
        match self.home.stat(part).map_err(failed)? {
            Some(there) if there.inode == ours.inode => Ok(()),
            Some(_) => Err(StoreError::InTheWay(self.home.path_of(part))),
            None => Err(StoreError::Removed(self.path.clone())),
        }
    }

    /// Where the finished folder is, which may have been moved with what it is in, or by itself if it was there before.
    fn path_now(&self) -> PathBuf {
        let path = self.folder.path_now();
        let moved = self.target.as_ref().and_then(|target| path_of_open(target.root(), &path));
        moved.unwrap_or(path)
    }

    /// Does something with each file that has bytes in this range: its number, and the range in it and in the whole.
    fn for_files(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(usize, u64, std::ops::Range<usize>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let end = offset.checked_add(len as u64);
        let end = end.filter(|end| *end <= self.geometry().size());
        let end = end.expect("the range lies within the content");
        let files = self.geometry().folder().map_or(&[][..], |folder| folder.files());
        let first = files.partition_point(|file| file.offset() + file.size() <= offset);
        for (number, file) in files.iter().enumerate().skip(first) {
            if file.offset() >= end {
                break;
            }
            let from = offset.max(file.offset());
            let to = end.min(file.offset() + file.size());
            each(number, from - file.offset(), (from - offset) as usize..(to - offset) as usize)?;
        }
        Ok(())
    }
}

impl Part for FolderPart {
    fn geometry(&self) -> &Geometry {
        self.manifest.geometry()
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// What is not wanted is not written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let is_open = self.is_open.read().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            let error = io::Error::other("it was given up");
            return Err(StoreError::from_io("write", &self.path, error));
        }
        self.for_files(offset, bytes.len(), |number, at, range| {
            if self.wanted[number] {
                let len = range.len() as u64;
                self.staging.write_at(number, at, &bytes[range]).map_err(|error| self.explained(error))?;
                let less = |missing: u64| Some(missing.saturating_sub(len));
                let _ = self.missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.for_files(offset, buffer.len(), |number, at, range| {
            let number = self.twins.first_of(number).unwrap_or(number);
            self.staging.read_at(number, at, &mut buffer[range])
        })
    }

    fn borrows_from(&self, span: Span) -> Vec<PieceIndex> {
        let geometry = self.geometry();
        let files = geometry.folder().map_or(&[][..], |folder| folder.files());
        let firsts = geometry.segments(span).filter_map(|segment| self.twins.first_of(segment.file));
        firsts.filter_map(|first| files.get(first)).flat_map(|file| file.span().pieces()).collect()
    }

    fn commit(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        let mut stage = self.stage();
        let journal = self.journal();
        let Some((journal, _)) = journal.as_ref().filter(|_| !pieces.is_empty()) else { return Ok(()) };
        self.sync(&mut stage)?;
        self.expect_staging()?;
        journal.append(&ranges_of(pieces)).map_err(|error| self.failed("write the journal of", error))
    }

    fn note(&self, pieces: &[(PieceIndex, Digest)]) -> Result<(), StoreError> {
        match &*self.journal() {
            Some((journal, _)) if !pieces.is_empty() => {
                journal.hint(pieces).map_err(|error| self.failed("write the journal of", error))
            }
            _ => Ok(()),
        }
    }

    /// The time is that of the folder itself; its entries have those of the manifest.
    fn finish(&self, mtime: (i64, u32), _executable: bool, force: bool) -> Result<PathBuf, StoreError> {
        let mut stage = self.stage();
        self.sync(&mut stage)?;
        self.expect_staging()?;
        self.put_in_place(mtime, force).map_err(|error| self.explained(error))?;
        *stage = Stage::Finished;
        self.folder.remove(&self.folder.journal)?;
        // Only now: without the name, the lock has nothing left to protect.
        self.end_journal();
        self.remember();
        Ok(self.path_now())
    }

    fn discard(&self) -> Result<(), StoreError> {
        let mut stage = self.stage();
        if let Stage::Writing | Stage::Broken = *stage {
            *stage = Stage::Discarded;
            // Nobody must make anew what is removed here.
            *self.is_open.write().unwrap_or_else(PoisonError::into_inner) = false;
            // The journal first: a part without a journal is worth little, a journal must not outlive its data.
            self.folder.remove(&self.folder.journal)?;
            self.remove_staging()?;
            self.end_journal();
        }
        Ok(())
    }
}

/// Bytes that are free on the file system of a folder, if it tells.
fn available(tree: &Tree) -> Option<u64> {
    let stat = rustix::fs::fstatvfs(tree.root()).ok().filter(|stat| stat.f_blocks > 0)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
