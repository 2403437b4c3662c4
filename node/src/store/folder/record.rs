//! What the files of a finished folder were, remembered: so that finding nothing changed costs a look at each.
//!
//! One file for each target in the state folder: for every file there a digest of its path and stamp, and its root. It is
//! a convenience: one that is missing, damaged or of another version is as none, and what is not in it is hashed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ftx_proto::digest::{Digest, Root};
use ftx_proto::limits::MANIFEST_ENTRIES_MAX;
use sha2::{Digest as _, Sha256};

use super::tree::Seen;

const MAGIC: [u8; 8] = *b"FTXSEEN\x01";
const KEY_LEN: usize = 16;
const ENTRY_LEN: usize = KEY_LEN + 32;
const CHECKSUM_LEN: usize = 32;
const SUFFIX: &str = ".seen";

/// Most targets that are remembered; the one that was finished first goes.
const TARGETS_MAX: usize = 256;

/// The roots of files, by what they were when they were known.
#[derive(Debug, Default)]
pub(super) struct Record {
    known: HashMap<[u8; KEY_LEN], Root>,
}

impl Record {
    /// What is remembered of a target.
    pub(super) fn load(folder: &Path, target: &Path) -> Self {
        let path = folder.join(name_of(target));
        match read(&path) {
            Ok(Some(known)) => Record { known },
            Ok(None) => {
                tracing::info!("{} is damaged, or of another version: it is not used", path.display());
                Record::default()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                tracing::info!("{} cannot be read: {error}", path.display());
                Record::default()
            }
        }
    }

    /// The root of the file at a path beneath the target, if this is what it was.
    pub(super) fn find(&self, path: &Path, seen: &Seen) -> Option<Root> {
        self.known.get(&key(path, seen)).copied()
    }

    /// Remembers these files of a target, and no others.
    pub(super) fn save<'file>(
        folder: &Path,
        target: &Path,
        files: impl Iterator<Item = (&'file Path, Seen, Root)>,
    ) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for (path, seen, root) in files.take(MANIFEST_ENTRIES_MAX) {
            bytes.extend(key(path, &seen));
            bytes.extend(root.0);
        }
        let checksum = Digest::of(&bytes);
        bytes.extend(checksum.0);
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&bytes)?;
        file.persist(folder.join(name_of(target))).map_err(|error| error.error)?;
        forget_oldest(folder)
    }
}

/// The name of what is remembered of a target, which may not be there yet.
fn name_of(target: &Path) -> String {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).unwrap_or_default();
    let path = folder.join(target.file_name().unwrap_or(OsStr::new("")));
    let digest = Digest::of(path.as_os_str().as_bytes()).to_string();
    format!("{}{SUFFIX}", &digest[..32])
}

fn key(path: &Path, seen: &Seen) -> [u8; KEY_LEN] {
    let mut hasher = Sha256::new();
    let path = path.as_os_str().as_bytes();
    hasher.update((path.len() as u64).to_le_bytes());
    hasher.update(path);
    for number in [seen.size, seen.inode.0, seen.inode.1] {
        hasher.update(number.to_le_bytes());
    }
    for (seconds, nanoseconds) in [seen.mtime, seen.ctime] {
        hasher.update(seconds.to_le_bytes());
        hasher.update(nanoseconds.to_le_bytes());
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// What a file holds; nothing if it is damaged.
fn read(path: &Path) -> io::Result<Option<HashMap<[u8; KEY_LEN], Root>>> {
    const LEN_MAX: usize = MAGIC.len() + MANIFEST_ENTRIES_MAX * ENTRY_LEN + CHECKSUM_LEN;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else { return Ok(None) };
    if bytes.len() > LEN_MAX || Digest::of(content).0 != *checksum {
        return Ok(None);
    }
    let Some(entries) = content.strip_prefix(&MAGIC) else { return Ok(None) };
    let entries = entries.as_chunks::<ENTRY_LEN>().0.iter().filter_map(|entry| {
        let (key, root) = entry.split_first_chunk::<KEY_LEN>()?;
        Some((*key, Root(root.try_into().ok()?)))
    });
    Ok(Some(entries.collect()))
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut files: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_bytes().ends_with(SUFFIX.as_bytes())
            && let Ok(changed) = entry.metadata().and_then(|metadata| metadata.modified())
        {
            files.push((changed, entry.path()));
        }
    }
    files.sort();
    let excess = files.len().saturating_sub(TARGETS_MAX);
    files[..excess].iter().try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    fn seen(size: u64) -> Seen {
        Seen {
            kind: FileType::RegularFile,
            size,
            mtime: (1, 2),
            ctime: (3, 4),
            inode: (5, 6),
            links: 1,
            mode: 0o644,
            occupied: 0,
        }
    }

    #[test]
    fn what_was_saved_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (state, target) = (folder.path().join("state"), folder.path().join("target"));
        let path = Path::new("a/b");
        assert_eq!(Record::load(&state, &target).find(path, &seen(7)), None);
        Record::save(&state, &target, [(path, seen(7), Root([9; 32]))].into_iter()).unwrap();
        let record = Record::load(&state, &target);
        assert_eq!(record.find(path, &seen(7)), Some(Root([9; 32])));
        assert_eq!(record.find(Path::new("a/c"), &seen(7)), None);
        let mut later = seen(7);
        later.ctime.1 += 1;
        for other in [seen(8), later] {
            assert_eq!(record.find(path, &other), None);
        }
        assert!(Record::load(&state, &folder.path().join("other")).known.is_empty());
    }

    #[test]
    fn a_damaged_record_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        Record::save(folder.path(), &target, [(Path::new("a"), seen(7), Root([9; 32]))].into_iter()).unwrap();
        let file = folder.path().join(name_of(&target));
        let bytes = fs::read(&file).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            fs::write(&file, &changed).unwrap();
            assert!(Record::load(folder.path(), &target).known.is_empty(), "byte {place}");
            fs::write(&file, &bytes[..place]).unwrap();
            assert!(Record::load(folder.path(), &target).known.is_empty(), "{place} bytes");
        }
    }

    #[test]
    fn only_so_many_targets_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..TARGETS_MAX + 3 {
            Record::save(folder.path(), Path::new(&number.to_string()), std::iter::empty()).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), TARGETS_MAX);
    }
}
