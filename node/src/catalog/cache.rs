//! What was hashed, remembered across restarts: a database of piece layers by path and stamp.
//!
//! It is a convenience. If another node has it open, or it is damaged, or the disk is full, hashing goes on without it,
//! and that is logged. A damaged one is set aside for whoever wants to look at it. A crash loses what was not saved yet.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::Geometry;
use ftx_proto::merkle::{PieceLayer, empty_root};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError,
    TableDefinition,
};

use super::content::Stamp;
use super::scan::FILES_MAX;
use super::tree::Hashes;

/// The name of the database in the state folder.
const FILE_NAME: &str = "hashes.redb";

/// Path to stamp and hashes; see [`encode`].
const HASHES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("hashes-2");

/// As earlier versions kept it, without what the table of files needs. It is dropped.
const HASHES_BEFORE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("hashes-1");

/// Memory that the database may use for its pages.
const MEMORY_BYTES_MAX: usize = 8 << 20;

/// Most files that are remembered; beyond that everything is forgotten.
const ENTRIES_MAX: u64 = 2 * FILES_MAX as u64;

/// A database of hashes that are known already.
pub(crate) struct Cache {
    database: Database,
    path: PathBuf,
    /// Set when it was found damaged; or could not be written; it is not used any more then.
    broken: AtomicBool,
}

/// A file whose hashes are to be remembered.
pub(crate) type Entry = (PathBuf, Stamp, Arc<PieceLayer>);

impl Cache {
    /// The cache in this folder, if it can be used. Blocks on the disk.
    pub(crate) fn open(state_dir: &Path) -> Option<Self> {
        // Only the folder itself: if what it is in was removed, that is to stay removed.
        if let Err(error) = std::fs::create_dir(state_dir)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::warn!("hashes are not remembered: cannot create {}: {error}", state_dir.display());
            return None;
        }
        let path = state_dir.join(FILE_NAME);
        let first = match open(&path) {
            Ok(database) => return Some(Cache { database, path, broken: AtomicBool::new(false) }),
            Err(error) => error,
        };
        match first {
            OpenError::InUse => {
                tracing::info!("hashes are not remembered: another node is using {}", path.display());
                None
            }
            OpenError::Other(text) => {
                tracing::warn!("hashes are not remembered: cannot open {}: {text}", path.display());
                None
            }
            OpenError::Damaged(text) => {
                set_aside(&path, &text);
                let database = open(&path).ok()?;
                Some(Cache { database, path, broken: AtomicBool::new(false) })
            }
        }
    }

    /// The layer of the file at `path`, if it was hashed when it had this stamp. Blocks on the disk.
    pub(crate) fn find(&self, path: &Path, stamp: &Stamp) -> Option<Arc<PieceLayer>> {
        let found = self.guarded(|| {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(HASHES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let value = table.get(path.as_os_str().as_bytes())?;
            Ok(value.and_then(|value| decode(value.value())))
        });
        let (_, hashes) = found.flatten().filter(|(known, _)| known.is_same_content(stamp))?;
        match hashes {
            Hashes::Large(layer) => Some(layer),
            Hashes::Small(root) => PieceLayer::of_small(Geometry::new(stamp.size).ok()?, root).map(Arc::new),
        }
    }

    /// Hands over all files that are remembered, in order of their paths, as long as `take` wants more. Blocks on the
    /// disk.
    pub(crate) fn each(&self, take: &mut dyn FnMut(&[u8], Stamp, Hashes) -> bool) {
        self.guarded(|| {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(HASHES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for entry in table.iter()? {
                let (path, value) = entry?;
                if let Some((stamp, hashes)) = decode(value.value())
                    && !take(path.value(), stamp, hashes)
                {
                    break;
                }
            }
            Ok(())
        });
    }

    /// Remembers and forgets files. Blocks on the disk.
    pub(crate) fn save(&self, entries: &[Entry], gone: &[PathBuf]) {
        self.guarded(|| {
            let mut transaction = self.database.begin_write()?;
            // After a crash the database is there at once, however large it is.
            transaction.set_quick_repair(true);
            transaction.delete_table(HASHES_BEFORE)?;
            {
                let mut table = transaction.open_table(HASHES)?;
                if table.len()? > ENTRIES_MAX {
                    tracing::info!("{} grew too large and is emptied", self.path.display());
                    table.retain(|_, _| false)?;
                }
                for path in gone {
                    table.remove(path.as_os_str().as_bytes())?;
                }
                for (path, stamp, layer) in entries {
                    table.insert(path.as_os_str().as_bytes(), encode(stamp, layer).as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        });
    }

    /// Runs something on the database. After a failure it is not used any more, and if it is damaged, set aside.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T, redb::Error>) -> Option<T> {
        if self.broken.load(Ordering::Relaxed) {
            return None;
        }
        // A panic within the database must not take the node down.
        let problem = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error,
            Err(_) => redb::Error::Corrupted("it made the database fail".to_owned()),
        };
        if !self.broken.swap(true, Ordering::Relaxed) {
            match problem {
                // The disk is full, or gone; that says nothing about what is in it.
                redb::Error::Io(error) => {
                    tracing::warn!("hashes are not remembered from now on: {}: {error}", self.path.display());
                }
                problem => set_aside(&self.path, &problem.to_string()),
            }
        }
        None
    }
}

enum OpenError {
    InUse,
    Damaged(String),
    Other(String),
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let create = || Builder::new().set_cache_size(MEMORY_BYTES_MAX).create(path);
    match catch_unwind(AssertUnwindSafe(create)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(OpenError::InUse)
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Err(OpenError::Other(error.to_string()))
        }
        Ok(Err(error)) => Err(OpenError::Damaged(error.to_string())),
        Err(_) => Err(OpenError::Damaged("it made the database fail".to_owned())),
    }
}

/// Renames a damaged database, so that a new one can take its place.
fn set_aside(path: &Path, problem: &str) {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = path.with_file_name(format!("{FILE_NAME}.damaged-{seconds}"));
    match std::fs::rename(path, &aside) {
        Ok(()) => tracing::warn!(
            "the memory of hashes is damaged ({problem}); it is kept as {}, and files are hashed again",
            aside.display()
        ),
        Err(error) => tracing::warn!(
            "the memory of hashes, {}, is damaged ({problem}) and cannot be set aside: {error}",
            path.display()
        ),
    }
}

/// Size, seconds, nanoseconds, inode, device, whether executable, root; then, of more than one piece, the piece hashes;
/// then 8 bytes of the SHA-256 of all that. Numbers are little-endian.
pub(super) fn encode(stamp: &Stamp, layer: &PieceLayer) -> Vec<u8> {
    let mut value = stamp.size.to_le_bytes().to_vec();
    value.extend(stamp.mtime.0.to_le_bytes());
    value.extend(stamp.mtime.1.to_le_bytes());
    value.extend(stamp.inode.to_le_bytes());
    value.extend(stamp.device.to_le_bytes());
    value.push(u8::from(stamp.executable));
    value.extend(layer.root().0);
    if layer.hashes().len() > 1 {
        value.extend(layer.hashes().iter().flat_map(|hash| hash.0));
    }
    let checksum = Digest::of(&value);
    value.extend(&checksum.0[..CHECKSUM_LEN]);
    value
}

/// What a value says, if it is whole.
pub(super) fn decode(value: &[u8]) -> Option<(Stamp, Hashes)> {
    let (checked, checksum) = value.split_at_checked(value.len().checked_sub(CHECKSUM_LEN)?)?;
    if Digest::of(checked).0[..CHECKSUM_LEN] != *checksum {
        return None;
    }
    let (size, rest) = checked.split_first_chunk()?;
    let (seconds, rest) = rest.split_first_chunk()?;
    let (nanoseconds, rest) = rest.split_first_chunk()?;
    let (inode, rest) = rest.split_first_chunk()?;
    let (device, rest) = rest.split_first_chunk()?;
    let ([executable], rest) = rest.split_first_chunk()?;
    let (root, hashes) = rest.split_first_chunk()?;
    let stamp = Stamp {
        size: u64::from_le_bytes(*size),
        mtime: (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanoseconds)),
        inode: u64::from_le_bytes(*inode),
        device: u64::from_le_bytes(*device),
        executable: *executable != 0,
    };
    let geometry = Geometry::new(stamp.size).ok()?;
    if geometry.piece_count() < 2 {
        let is_good = hashes.is_empty() && (stamp.size > 0 || Root(*root) == empty_root());
        return is_good.then_some((stamp, Hashes::Small(Root(*root))));
    }
    let (hashes, []) = hashes.as_chunks() else { return None };
    let hashes = hashes.iter().map(|hash| Digest(*hash)).collect();
    let layer = PieceLayer::verify(geometry, Root(*root), hashes).ok()?;
    Some((stamp, Hashes::Large(Arc::new(layer))))
}

pub(super) const CHECKSUM_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::geometry::PIECE_SIZE;

    fn entry(size: u64) -> Entry {
        let geometry = Geometry::new(size).unwrap();
        let hashes = geometry.pieces().map(|piece| Digest::of(&piece.get().to_le_bytes())).collect();
        let stamp = Stamp { size, mtime: (-5, 7), inode: 3, device: 4, executable: false };
        let layer = PieceLayer::from_hashes(geometry, hashes).unwrap();
        (PathBuf::from(format!("/x/{size}")), stamp, Arc::new(layer))
    }

    #[test]
    fn hashes_are_remembered_for_the_same_stamp_only() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [0, 1, PIECE_SIZE, 5 * PIECE_SIZE + 1].map(entry);
        let cache = Cache::open(folder.path()).unwrap();
        assert!(cache.find(&entries[0].0, &entries[0].1).is_none());
        cache.save(&entries, &[]);
        drop(cache);
        let cache = Cache::open(folder.path()).unwrap();
        let mut all = Vec::new();
        cache.each(&mut |path, stamp, hashes| {
            all.push((PathBuf::from(std::ffi::OsStr::from_bytes(path)), stamp, hashes));
            all.len() < 4
        });
        all.sort_by_key(|(_, stamp, _)| stamp.size);
        let expected =
            entries.each_ref().map(|(path, stamp, layer)| (path.clone(), *stamp, Hashes::from(layer)));
        assert_eq!(all, expected);
        for (path, stamp, layer) in &entries {
            assert_eq!(cache.find(path, stamp).as_ref(), Some(layer));
            assert_eq!(cache.find(path, &Stamp { executable: true, ..*stamp }).as_ref(), Some(layer));
            let others = [
                Stamp { size: stamp.size + 1, ..*stamp },
                Stamp { mtime: (-5, 8), ..*stamp },
                Stamp { inode: 9, ..*stamp },
                Stamp { device: 9, ..*stamp },
            ];
            assert!(others.iter().all(|other| cache.find(path, other).is_none()));
        }
        cache.save(&[], std::slice::from_ref(&entries[1].0));
        assert!(cache.find(&entries[1].0, &entries[1].1).is_none());
        assert!(cache.find(&entries[2].0, &entries[2].1).is_some());
    }

    #[test]
    fn a_value_with_any_changed_byte_is_not_believed() {
        for size in [1, 3 * PIECE_SIZE] {
            let (_, stamp, layer) = entry(size);
            let value = encode(&stamp, &layer);
            assert_eq!(decode(&value), Some((stamp, Hashes::from(&layer))));
            for place in 0..value.len() {
                let mut changed = value.clone();
                changed[place] ^= 1;
                assert_eq!(decode(&changed), None, "byte {place}");
                assert_eq!(decode(&value[..place]), None, "{place} bytes");
            }
        }
    }

    #[test]
    fn a_damaged_database_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stamp, layer) = entry(PIECE_SIZE);
        std::fs::write(
            folder.path().join(FILE_NAME),
            "this is no database, but it is long enough for one".repeat(99),
        )
        .unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.save(&[(path.clone(), stamp, layer.clone())], &[]);
        assert_eq!(cache.find(&path, &stamp), Some(layer));
        let aside = std::fs::read_dir(folder.path()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("hashes.redb.damaged-")
        });
        assert_eq!(aside.count(), 1);
    }

    /// What a process that is killed leaves behind is what is on the disk at that moment.
    #[test]
    fn what_was_saved_survives_a_kill() {
        let (folder, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = Cache::open(folder.path()).unwrap();
        let mut saved = Vec::new();
        for round in 0..4u64 {
            let entries: Vec<Entry> = (1..200).map(|size| entry(round * 1000 + size)).collect();
            cache.save(&entries, &[]);
            saved.extend(entries);
            std::fs::copy(folder.path().join(FILE_NAME), killed.path().join(FILE_NAME)).unwrap();
            let after = Cache::open(killed.path()).unwrap();
            assert!(saved.iter().all(|(path, stamp, layer)| after.find(path, stamp).as_ref() == Some(layer)));
            let mut count = 0;
            after.each(&mut |_, _, _| {
                count += 1;
                true
            });
            assert_eq!(count, saved.len());
            drop(after);
            assert_eq!(std::fs::read_dir(killed.path()).unwrap().count(), 1, "nothing is set aside");
        }
    }

    #[test]
    fn a_second_node_goes_on_without() {
        let folder = tempfile::tempdir().unwrap();
        let first = Cache::open(folder.path());
        assert!(first.is_some());
        assert!(Cache::open(folder.path()).is_none());
        drop(first);
        assert!(Cache::open(folder.path()).is_some());
    }
}
