//! The part file of one fetch: opened and locked, written piece by piece, committed, renamed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PIECE_SIZE, PieceIndex};
use ftx_proto::merkle::piece_hash;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::journal::Journal;
use super::parts::{read_parts_at, write_parts_at};
use super::target::{Folder, Place};
use super::{Part, StoreError, Target, sparse};
use crate::faults;
use crate::hash;

/// The unfinished file of one fetch, with its journal.
///
/// All methods take `&self`: workers write at different places at the same time. All of them may block on the disk;
/// [`PartFile::commit`] and [`PartFile::finish`] wait for it.
#[derive(Debug)]
pub struct PartFile {
    place: Place,
    path: PathBuf,
    geometry: Geometry,
    data: File,
    /// Held while something is synced; so [`PartFile::note`] does without.
    stage: Mutex<Stage>,
    /// None for a temporary file, and at the end. Changed by whoever holds the stage, and only for a moment.
    journal: RwLock<Option<(Journal, Lock)>>,
}

/// The lock on a target: its locked journal.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// The journal.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough if a process was forked meanwhile, which has it as well until its `exec`.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// What became of the part file.
///
/// ```text
/// Writing -> Finished      the file has its final name
/// Writing -> Discarded     nothing is left of it
/// Writing -> Broken        the disk lost data: what is committed stays, nothing more is
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Writing,
    Finished,
    Discarded,
    Broken,
}

impl Stage {
    /// Refuses to sync what is not being written any more, or what the disk has lost a part of.
    pub(super) fn expect_writing(self) -> io::Result<()> {
        match self {
            Stage::Writing => Ok(()),
            Stage::Broken => Err(io::Error::other("the disk lost data before; run the same command again")),
            Stage::Finished | Stage::Discarded => {
                Err(io::Error::other("it is finished or discarded already"))
            }
        }
    }
}

impl PartFile {
    /// Locks the target, reserves the space, and finds out which pieces are there from an earlier run.
    ///
    /// A part of another content is thrown away. Refuses if the target is being fetched by somebody else, exists
    /// already (unless `force`), or does not fit on the disk.
    pub fn open(
        target: Target,
        geometry: Geometry,
        root: Root,
        force: bool,
    ) -> Result<(Self, PieceSet), StoreError> {
        let path = target.path();
        let part = |place, data, journal| {
            let (stage, journal) = (Mutex::new(Stage::Writing), RwLock::new(journal));
            PartFile { place, path, geometry: geometry.clone(), data, stage, journal }
        };
        let folder = match target.into_place() {
            Place::Named(folder) => folder,
            Place::Temporary => {
                let data = tempfile::tempfile()
                    .map_err(|error| StoreError::from_io("create a file in", &std::env::temp_dir(), error))?;
                let part = part(Place::Temporary, data, None);
                part.reserve(&PieceSet::empty(part.geometry.clone()))?;
                return Ok((part, PieceSet::empty(geometry)));
            }
        };
        let lock = lock_unless_finished(&folder, force)?;
        // On a full disk, say, it is the error that counts, not whether its traces could be removed.
        let clean_up = |data| drop(remove_if_empty(&folder, data));
        let data = folder.open_own(&folder.part).inspect_err(|_| clean_up(None))?;
        let (journal, pieces) = resume(&lock.0, &data, &geometry, root)
            .inspect_err(|_| clean_up(Some(&data)))
            .map_err(|error| StoreError::from_io("resume", &folder.path_of(&folder.part), error))?;
        // What the names stand for now must survive a crash, or the first commit would say nothing.
        folder.sync()?;
        let part = part(Place::Named(folder), data, Some((journal, lock)));
        if let Err(error) = part.reserve(&pieces) {
            if pieces.is_empty() {
                // Nothing is lost, and an unreadable leftover on a full disk helps nobody.
                let _ = part.discard();
            }
            return Err(error);
        }
        Ok((part, pieces))
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        // Nothing panics half-way through a change of it.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> RwLockReadGuard<'_, Option<(Journal, Lock)>> {
        self.journal.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes and unlocks the journal.
    fn end_journal(&self) {
        *self.journal.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Puts the data on the disk, as long as that never failed.
    fn sync(&self, stage: &mut Stage, how: fn(&File) -> io::Result<()>) -> Result<(), StoreError> {
        stage.expect_writing().map_err(|error| self.failed("sync", error))?;
        how(&self.data).map_err(|error| {
            *stage = Stage::Broken;
            self.failed("sync", error)
        })
    }

    /// Checks that the rest of the file fits, gives it its full length, and reserves its blocks where that is possible.
    fn reserve(&self, have: &PieceSet) -> Result<(), StoreError> {
        let size = self.geometry.size();
        let (needed, available) = self.space();
        // What is here and takes no room is a hole.
        let needed = needed.min(size - have.bytes());
        if available.is_some_and(|available| needed > available) {
            return Err(self.failed("reserve space for", Errno::NOSPC));
        }
        self.data.set_len(size).map_err(|error| self.failed("set the length of", error))?;
        // The blocks of tmpfs are memory, and reserving them costs a quarter of a second per GiB.
        // What was reserved before still is, but for the holes, which would be filled.
        if size == 0
            || !have.is_empty()
            || rustix::fs::fstatfs(&self.data).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC)
        {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.data, FallocateFlags::empty(), 0, size) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                Err(self.failed("reserve space for", error))
            }
            // A convenience that this file system does not have: running out will be noticed when writing.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// Bytes that the file does not have on the disk yet, and bytes that are free, if the file system tells.
    fn space(&self) -> (u64, Option<u64>) {
        let occupied = rustix::fs::fstat(&self.data).map_or(0, |stat| stat.st_blocks as u64 * 512);
        let available = rustix::fs::fstatvfs(&self.data)
            .ok()
            .filter(|stat| stat.f_blocks > 0)
            .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        (self.geometry.size().saturating_sub(occupied), available)
    }

    /// Sets what a fetch can do without; what is refused is logged.
    fn set_attributes(&self, (seconds, nanoseconds): (i64, u32), executable: bool) {
        let log = |what: &str, error: Errno| {
            tracing::warn!("{}: cannot set its {what}: {error}", self.path.display());
        };
        if executable {
            let set = rustix::fs::fstat(&self.data).and_then(|stat| {
                // Whoever may read it may execute it.
                let mode = stat.st_mode & 0o777;
                rustix::fs::fchmod(&self.data, rustix::fs::Mode::from_raw_mode(mode | (mode & 0o444) >> 2))
            });
            set.unwrap_or_else(|error| log("execute bit", error));
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999).into() },
        };
        rustix::fs::futimens(&self.data, &times).unwrap_or_else(|error| log("time of change", error));
    }

    fn failed(&self, action: &'static str, error: impl Into<io::Error>) -> StoreError {
        let error = match &self.place {
            Place::Named(_) => StoreError::from_io(action, &self.path, error),
            // It has no name, but it lies somewhere.
            Place::Temporary => StoreError::from_io(action, &std::env::temp_dir(), error),
        };
        if matches!(error, StoreError::DiskFull { .. }) {
            let (needed, available) = self.space();
            return error.with_space(needed, available.unwrap_or_default());
        }
        error
    }
}

impl Part for PartFile {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let end = offset.checked_add(bytes.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.geometry.size()),
            "what is written lies within the content"
        );
        sparse::write_at(&self.data, bytes, offset).map_err(|error| self.failed("write", error))
    }

    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        faults::point("writing to a part");
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let end = offset.checked_add(len as u64);
        assert!(
            end.is_some_and(|end| end <= self.geometry.size()),
            "what is written lies within the content"
        );
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        write_parts_at(&self.data, &mut slices, offset).map_err(|error| self.failed("write", error))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.data.read_exact_at(buffer, offset).map_err(|error| self.failed("read", error))
    }

    fn read_parts_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), StoreError> {
        read_parts_at(&self.data, buffers, offset).map_err(|error| self.failed("read", error))
    }

    fn commit(&self, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        let mut stage = self.stage();
        faults::point("committing pieces");
        let journal = self.journal();
        let Some((journal, _)) = journal.as_ref().filter(|_| !pieces.is_empty()) else { return Ok(()) };
        self.sync(&mut stage, File::sync_data)?;
        if rustix::fs::fstat(&self.data).is_ok_and(|stat| stat.st_nlink == 0) {
            // Nobody would ever find what is still to come.
            return Err(StoreError::Removed(self.path.clone()));
        }
        journal.append(&ranges_of(pieces)).map_err(|error| self.failed("write the journal of", error))
    }

    fn note(&self, pieces: &[(PieceIndex, Digest)]) -> Result<(), StoreError> {
        match &*self.journal() {
            Some((journal, _)) if !pieces.is_empty() => {
                journal.hint(pieces).map_err(|error| self.failed("write the journal of", error))
            }
            // Nobody can go on with a file without a name.
            _ => Ok(()),
        }
    }

    fn finish(&self, mtime: (i64, u32), executable: bool, force: bool) -> Result<PathBuf, StoreError> {
        let mut stage = self.stage();
        let Place::Named(folder) = &self.place else {
            *stage = Stage::Finished;
            return Ok(self.path.clone());
        };
        faults::point("finishing a file");
        self.set_attributes(mtime, executable);
        self.sync(&mut stage, File::sync_all)?;
        folder.expect_part(&self.data)?;
        rename(folder, force)?;
        *stage = Stage::Finished;
        folder.sync()?;
        folder.remove(&folder.journal)?;
        // Only now: without the name, the lock has nothing left to protect.
        self.end_journal();
        Ok(folder.path_now())
    }

    fn release(&self, have: &PieceSet) {
        let stage = self.stage();
        if *stage != Stage::Writing {
            return;
        }
        let missing = PieceSet::full(self.geometry.clone()).without(have);
        for pieces in missing.ranges() {
            let place = |number: u32| u64::from(number) * PIECE_SIZE;
            let end = place(pieces.end).min(self.geometry.size());
            sparse::punch(&self.data, place(pieces.start), end - place(pieces.start));
        }
    }

    fn discard(&self) -> Result<(), StoreError> {
        let mut stage = self.stage();
        if let (Place::Named(folder), Stage::Writing | Stage::Broken) = (&self.place, *stage) {
            *stage = Stage::Discarded;
            // The journal first: a part without a journal is worth nothing, a journal must not outlive its data.
            folder.remove(&folder.journal)?;
            if folder.is_same(&folder.part, &self.data)? {
                folder.remove(&folder.part)?;
            }
            self.end_journal();
        }
        Ok(())
    }
}

/// `TMPFS_MAGIC` of Linux.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// How often the lock is tried again when the journal was removed by its last owner in between.
const LOCK_ATTEMPTS_MAX: u32 = 16;

/// The locked journal of a target, unless the target is there already and may not be replaced.
pub(super) fn lock_unless_finished(folder: &Folder, force: bool) -> Result<Lock, StoreError> {
    let may_write = |folder: &Folder| match folder.stat(&folder.name)? {
        Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(StoreError::Name { path: folder.path_of(&folder.name), reason: "it is a folder" })
        }
        Some(_) if !force => Err(StoreError::Exists(folder.path_of(&folder.name))),
        _ => Ok(()),
    };
    // Without leaving a trace if it is there. Whether a journal lies there is looked at by its owner below.
    let finished = may_write(folder);
    if finished.is_err() && !folder.exists(&folder.journal)? {
        finished?;
    }
    let lock = lock(folder)?;
    folder.remove_second_name()?;
    // Again under the lock: its last owner may have finished just now.
    if let Err(error) = may_write(folder) {
        if !folder.exists(&folder.part)? {
            // Left over by a crash between the rename and the end.
            folder.remove(&folder.journal)?;
        }
        return Err(error);
    }
    Ok(lock)
}

/// Opens and locks the journal. The lock goes with the handle, so with the process at the latest.
pub(super) fn lock(folder: &Folder) -> Result<Lock, StoreError> {
    let path = || folder.path_of(&folder.name);
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let file = folder.open_own(&folder.journal)?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let lock = Lock(file);
        match locked {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StoreError::Locked(path())),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => {
                tracing::warn!("{}: this file system has no locks; do not fetch it twice", path().display());
            }
            Err(error) => return Err(StoreError::from_io("lock", &path(), error)),
        }
        if folder.is_same(&folder.journal, &lock.0)? {
            return Ok(lock);
        }
    }
    Err(StoreError::Locked(path()))
}

/// Removes the journal if there is nothing that it could speak of: no part, or this one, without a byte. Only whoever holds
/// the lock may do that.
fn remove_if_empty(folder: &Folder, data: Option<&File>) -> Result<(), StoreError> {
    match data {
        None if folder.exists(&folder.part)? => Ok(()),
        None => folder.remove(&folder.journal),
        Some(data) if data.metadata().is_ok_and(|metadata| metadata.len() == 0) => {
            folder.remove(&folder.journal)?;
            folder.remove(&folder.part)
        }
        Some(_) => Ok(()),
    }
}

/// The journal and the pieces that both it and the part vouch for.
fn resume(lock: &File, data: &File, geometry: &Geometry, root: Root) -> io::Result<(Journal, PieceSet)> {
    let len = data.metadata()?.len();
    let Some((mut journal, claims)) = Journal::read(lock, geometry, root)? else {
        let journal = Journal::create(lock, geometry, root)?;
        data.set_len(0)?;
        return Ok((journal, PieceSet::empty(geometry.clone())));
    };
    let mut pieces = claims.synced.clone();
    for piece in claims.synced.iter().filter(|piece| geometry.bytes_of(geometry.span_of(*piece)).end > len) {
        pieces.remove(piece);
    }
    let is_whole = pieces.count() == claims.synced.count();
    let mut proved = PieceSet::empty(geometry.clone());
    for (piece, hash) in claims.hints {
        if !pieces.contains(piece) && !proved.contains(piece) && is_there(data, geometry, piece, hash) {
            proved.insert(piece);
            pieces.insert(piece);
        }
    }
    if !proved.is_empty() {
        // From here on they are as good as any other. If we are killed before that, the hints are still there.
        data.sync_data()?;
    }
    if !is_whole {
        // The part will have its full length in a moment; claims about what it lost must be gone before that.
        journal = Journal::create(lock, geometry, root)?;
        journal.append(&pieces.ranges())?;
    } else if !proved.is_empty() {
        journal.append(&proved.ranges())?;
    }
    journal.forget_hints()?;
    Ok((journal, pieces))
}

/// Whether the part has a piece with this hash. One that cannot be read is fetched again.
fn is_there(data: &File, geometry: &Geometry, piece: PieceIndex, hash: Digest) -> bool {
    let place = geometry.bytes_of(geometry.span_of(piece));
    let mut bytes = vec![0; (place.end - place.start) as usize];
    let read = data.read_exact_at(&mut bytes, place.start);
    let mut leaves = Vec::new();
    hash::leaves(&bytes, &mut leaves);
    read.is_ok() && piece_hash(geometry, piece, &leaves) == hash
}

/// Gives the part its final name.
pub(super) fn rename(folder: &Folder, force: bool) -> Result<(), StoreError> {
    let (part, name): (&OsStr, &OsStr) = (&folder.part, &folder.name);
    let failed = |error: Errno| match error {
        Errno::EXIST => StoreError::Exists(folder.path_of(name)),
        Errno::ISDIR => StoreError::Name { path: folder.path_of(name), reason: "it is a folder" },
        error => StoreError::from_io("rename the part to", &folder.path_of(name), error),
    };
    let dir = folder.dir();
    if force {
        return rustix::fs::renameat(dir, part, dir, name).map_err(failed);
    }
    match rustix::fs::renameat_with(dir, part, dir, name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return result.map_err(failed),
    }
    // Without that, a second name refuses to replace as well, where a file can have two.
    match rustix::fs::linkat(dir, part, dir, name, AtFlags::empty()) {
        Ok(()) => return folder.remove(part),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
        Err(error) => return Err(failed(error)),
    }
    // And without that a look before the step is the best there is.
    if folder.exists(name)? {
        return Err(failed(Errno::EXIST));
    }
    rustix::fs::renameat(dir, part, dir, name).map_err(failed)
}

/// These pieces as ranges of their numbers, in order and joined.
pub(super) fn ranges_of(pieces: &[PieceIndex]) -> Vec<Range<u32>> {
    let mut numbers: Vec<u32> = pieces.iter().map(|piece| piece.get()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len() as u32).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_note_does_not_wait_for_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::new(&folder.path().join("file"), &"ignored".parse().unwrap()).unwrap();
        let geometry = Geometry::new(10).unwrap();
        let (part, _) = PartFile::open(target, geometry.clone(), Root([1; 32]), false).unwrap();
        let (done, is_done) = mpsc::channel();
        // What a commit holds while it syncs.
        let syncing = (part.stage(), part.journal());
        std::thread::scope(|scope| {
            scope.spawn(|| done.send(part.note(&[(geometry.piece(0).unwrap(), Digest::ZERO)])));
            let noted = is_done.recv_timeout(Duration::from_secs(10));
            drop(syncing);
            assert!(matches!(noted, Ok(Ok(()))), "{noted:?}");
        });
    }

    #[test]
    fn the_room_of_what_is_missing_is_given_back_and_the_rest_stays() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = || {
            let target = Target::new(&path, &"ignored".parse().unwrap()).unwrap();
            PartFile::open(target, Geometry::new(4 * PIECE_SIZE + 1).unwrap(), Root([1; 32]), false).unwrap()
        };
        let (part, mut have) = open();
        let second = part.geometry.piece(1).unwrap();
        part.write_at(PIECE_SIZE, &vec![7; PIECE_SIZE as usize]).unwrap();
        part.commit(&[second]).unwrap();
        assert!(have.is_empty() && have.insert(second));
        part.release(&have);
        let metadata = part.data.metadata().unwrap();
        assert_eq!(metadata.len(), 4 * PIECE_SIZE + 1);
        // And the block that the last byte lies in, which is too little to be given back.
        assert!(metadata.blocks() * 512 <= PIECE_SIZE + 64 * 1024, "{} blocks", metadata.blocks());
        drop(part);
        let (part, again) = open();
        assert_eq!(again, have);
        let mut bytes = vec![0; PIECE_SIZE as usize];
        part.read_at(PIECE_SIZE, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
