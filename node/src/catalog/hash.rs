//! The root of a file, computed by several threads at once.
//!
//! A file is cut into runs of pieces, which whoever has time claims; so one large file keeps all cores busy. A file that
//! changes meanwhile is noticed after each piece.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftx_proto::digest::Digest;
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS};
use ftx_proto::limits::RUN_CHUNKS_MAX;
use ftx_proto::merkle::{PieceLayer, piece_hash};

use super::content::{Stamp, stamp_of};
use crate::faults;

/// Pieces that a thread claims at once.
const RUN_PIECES: u32 = 16;

/// Chunks that are read at once: what stays in the core's cache until it is hashed.
const READ_CHUNKS: u32 = RUN_CHUNKS_MAX;

/// A change younger than this may be followed by one that the file's time does not tell from it.
const SETTLING: Duration = Duration::from_millis(20);

/// Why a file has no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    #[error("the file was changed while it was being hashed")]
    Changed,
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is not wanted any more")]
    Cancelled,
}

/// The piece layer of the file at `path`, computed by `threads` threads. `progress` hears the bytes hashed so far.
///
/// Links are followed. Fails if the file is changed meanwhile.
pub fn hash_file(
    path: &Path,
    threads: NonZeroUsize,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Arc<PieceLayer>> {
    let as_io = |error| match error {
        HashError::Unreadable(error) => error,
        other => io::Error::other(other),
    };
    let hash = FileHash::new(File::open(path)?).map_err(as_io)?;
    let work = || -> Result<(), HashError> {
        let mut buffer = Vec::new();
        while let Some(run) = hash.claim() {
            hash.hash_run(run, &mut buffer).inspect_err(|_| hash.cancel())?;
            progress(hash.bytes_done());
        }
        Ok(())
    };
    let threads = threads.get().min(hash.run_count().max(1) as usize);
    let results: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others.into_iter().map(|thread| thread.join().unwrap_or(Err(HashError::Cancelled)));
        std::iter::once(own).chain(others).collect()
    });
    // The first real failure; the other threads were only stopped by it.
    let failure = results.into_iter().filter_map(Result::err).reduce(|first, second| match first {
        HashError::Cancelled => second,
        first => first,
    });
    match failure {
        Some(error) => Err(as_io(error)),
        None => hash.finish().map(Arc::new).map_err(as_io),
    }
}

/// A file being hashed; shared by the threads that do it.
#[derive(Debug)]
pub(crate) struct FileHash {
    file: File,
    stamp: Stamp,
    geometry: Geometry,
    next_run: AtomicU32,
    runs_left: AtomicU32,
    bytes_done: AtomicU64,
    cancelled: AtomicBool,
    hashes: Mutex<Vec<Digest>>,
}

impl FileHash {
    /// Gets ready to hash an open file as it is now. May wait for a moment if it was changed just now.
    pub(crate) fn new(file: File) -> Result<Self, HashError> {
        settle(&stamp_of(&file)?);
        let stamp = stamp_of(&file)?;
        let geometry = Geometry::new(stamp.size).map_err(io::Error::other)?;
        let runs = geometry.piece_count().div_ceil(RUN_PIECES);
        Ok(FileHash {
            file,
            stamp,
            next_run: AtomicU32::new(0),
            runs_left: AtomicU32::new(runs),
            bytes_done: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            hashes: Mutex::new(vec![Digest::ZERO; geometry.piece_count() as usize]),
            geometry,
        })
    }

    /// What the file was when hashing began.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Bytes hashed so far.
    pub(crate) fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Into how many runs the file is cut.
    pub(crate) fn run_count(&self) -> u32 {
        self.geometry.piece_count().div_ceil(RUN_PIECES)
    }

    /// A run of pieces that nobody has claimed yet. Whoever claims one hashes it.
    pub(crate) fn claim(&self) -> Option<Range<u32>> {
        let run_count = self.run_count();
        let step = |run: u32| (run < run_count).then_some(run + 1);
        let run = self.next_run.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()?;
        let first = run * RUN_PIECES;
        Some(first..self.geometry.piece_count().min(first + RUN_PIECES))
    }

    /// Stops those who hash it at their next piece.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Hashes a claimed run. `true` if it was the last one: whoever gets that calls [`FileHash::finish`].
    pub(crate) fn hash_run(&self, run: Range<u32>, buffer: &mut Vec<u8>) -> Result<bool, HashError> {
        buffer.resize((READ_CHUNKS * CHUNK_SIZE) as usize, 0);
        let mut hashes = Vec::with_capacity(RUN_PIECES as usize);
        let first = run.start as usize;
        for piece in run.filter_map(|number| self.geometry.piece(number)) {
            if self.is_cancelled() {
                return Err(HashError::Cancelled);
            }
            faults::point("hashing");
            let mut leaves = Vec::with_capacity(PIECE_CHUNKS as usize);
            for span in self.geometry.span_of(piece).runs(READ_CHUNKS) {
                let place = self.geometry.bytes_of(span);
                let bytes = &mut buffer[..(place.end - place.start) as usize];
                self.file.read_exact_at(bytes, place.start).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => HashError::Changed,
                    _ => HashError::Unreadable(error),
                })?;
                crate::hash::leaves(bytes, &mut leaves);
                self.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            self.check()?;
            hashes.push(piece_hash(&self.geometry, piece, &leaves));
        }
        let mut all = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        all[first..first + hashes.len()].copy_from_slice(&hashes);
        // Ordered by the lock: who takes the count to 0 sees the hashes of all the others.
        Ok(self.runs_left.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    /// The layer, once every run is hashed.
    pub(crate) fn finish(&self) -> Result<PieceLayer, HashError> {
        assert_eq!(self.runs_left.load(Ordering::Relaxed), 0, "every run is hashed");
        self.check()?;
        let hashes = std::mem::take(&mut *self.hashes.lock().unwrap_or_else(PoisonError::into_inner));
        PieceLayer::from_hashes(self.geometry.clone(), hashes).map_err(|error| io::Error::other(error).into())
    }

    fn check(&self) -> Result<(), HashError> {
        if stamp_of(&self.file)?.is_same_content(&self.stamp) { Ok(()) } else { Err(HashError::Changed) }
    }
}

/// Waits until a further change of the file would show in its time. At most [`SETTLING`].
pub(crate) fn settle(stamp: &Stamp) {
    let (Ok(seconds), nanoseconds) = (u64::try_from(stamp.mtime.0), stamp.mtime.1) else { return };
    let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds.min(999_999_999)));
    let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
    if let Some(rest) = age.and_then(|age| SETTLING.checked_sub(age)) {
        std::thread::sleep(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::geometry::PIECE_SIZE;
    use ftx_proto::merkle::{empty_root, leaf_hash};
    use std::io::Write;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn any_number_of_threads_finds_the_same_root() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(hash_file(file.path(), threads(3), &|_| ()).unwrap().root(), empty_root());
        let bytes: Vec<u8> =
            (0..37 * PIECE_SIZE as usize + 100_000).map(|i| (i / 1000 % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let leaves: Vec<Digest> = bytes.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
        let pieces = leaves
            .chunks(PIECE_CHUNKS as usize)
            .zip(geometry.pieces())
            .map(|(leaves, piece)| piece_hash(&geometry, piece, leaves))
            .collect();
        let expected = PieceLayer::from_hashes(geometry, pieces).unwrap();
        for count in [1, 2, 7] {
            let most = AtomicU64::new(0);
            let progress = |done| {
                most.fetch_max(done, Ordering::Relaxed);
            };
            let layer = hash_file(file.path(), threads(count), &progress).unwrap();
            assert_eq!(*layer, expected);
            assert_eq!(most.into_inner(), bytes.len() as u64);
        }
    }

    #[test]
    fn a_file_that_changes_meanwhile_has_no_root() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1; 20 * PIECE_SIZE as usize]).unwrap();
        let hash = FileHash::new(file.reopen().unwrap()).unwrap();
        let mut buffer = Vec::new();
        assert!(!hash.hash_run(hash.claim().unwrap(), &mut buffer).unwrap());
        file.write_all(b"more").unwrap();
        assert!(matches!(hash.hash_run(hash.claim().unwrap(), &mut buffer), Err(HashError::Changed)));
        assert!(hash.claim().is_none());

        let hash = FileHash::new(file.reopen().unwrap()).unwrap();
        file.as_file().set_len(100).unwrap();
        assert!(matches!(hash.hash_run(hash.claim().unwrap(), &mut buffer), Err(HashError::Changed)));
    }

    #[test]
    fn folders_and_gone_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(hash_file(folder.path(), threads(1), &|_| ()).is_err());
        let gone = hash_file(&folder.path().join("gone"), threads(1), &|_| ()).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
