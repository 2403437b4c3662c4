//! What an upload leaves behind so that the next one of the same file to the same place can go on: which blocks the
//! server is not known to have, and under which key it has the others, where the server made that up.
//!
//! One small file an upload, in the node's state folder, replaced as a whole. It is a hint and nothing more: the server is
//! asked whether it remembers the upload, and the MD5 of the whole is compared at the end. One that does not fit the file
//! as it is now, or that does not parse, counts for nothing.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ftx_proto::digest::Digest;
use ftx_proto::interop::step::block::BlockPlan;
use ftx_proto::interop::step::value::{FileSize, Key};
use serde::{Deserialize, Serialize};

use crate::catalog::content::Stamp;

/// The journal of one upload. Of several at once of the same file to the same place, the first has it; the others go
/// without.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Locked for as long as this is the first.
    lock: Option<fs::File>,
    state: FileState,
}

/// The state of the file whose blocks were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    size: u64,
    mtime: (i64, u32),
    inode: u64,
    device: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    file: FileState,
    /// What the server calls it.
    key: String,
    block_size: u32,
    missing: Vec<Range<u64>>,
}

/// What an earlier upload left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    /// The key that the server granted, or made up where it was given none.
    pub(super) key: Key,
    /// The plan that it announced.
    pub(super) plan: BlockPlan,
    /// The blocks that it is not known to have.
    pub(super) missing: Vec<Range<u64>>,
}

impl Journal {
    /// For a file of this stamp to this place, in this folder. Nothing is read or written yet but a lock.
    pub(super) fn new(folder: &Path, source: &Path, destination: &str, stamp: &Stamp) -> Self {
        let source = source.as_os_str().as_encoded_bytes();
        let upload = [destination.as_bytes(), b"\0", source].concat();
        let path = folder.join(format!("{}.json", Digest::of(&upload)));
        let state =
            FileState { size: stamp.size, mtime: stamp.mtime, inode: stamp.inode, device: stamp.device };
        let lock = lock(&path.with_extension("lock"));
        match &lock {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::debug!("the same upload is under way; this one is not written down");
            }
            Err(error) => tracing::warn!("cannot write down how far the upload is: {error}"),
            Ok(_) => {}
        }
        Journal { path, lock: lock.ok(), state }
    }

    /// Removes what was left of uploads that nobody has gone on with for long, this one or others.
    pub(super) fn remove_old(&self, now: SystemTime) {
        let Some(Ok(entries)) = self.path.parent().map(fs::read_dir) else { return };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > AGE_MAX) {
                // It only takes room, so another time is good enough.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What an earlier upload left.
    pub(super) fn read(&self) -> Option<Left> {
        self.lock.as_ref()?;
        let mut bytes = Vec::new();
        fs::File::open(&self.path).ok()?.take(JOURNAL_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        left_in(&bytes, Some(self.state))
    }

    /// Replaces what it says. An error costs what it says, and nothing else.
    pub(super) fn write(&self, left: Left) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let Left { key, plan, missing } = left;
        let (file, block_size) = (self.state, plan.block_size());
        let record = Record { version: VERSION, file, key: key.to_string(), block_size, missing };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &record)?;
        file.persist(&self.path)?;
        Ok(())
    }

    /// The upload is over.
    pub(super) fn remove(&self) {
        if self.lock.is_none() {
            return;
        }
        for path in [self.path.clone(), self.path.with_extension("lock")] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("{}: cannot remove it: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

/// What these bytes say of the upload of a file of this state; of any, if none is given.
pub(super) fn left_in(bytes: &[u8], state: Option<FileState>) -> Option<Left> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    if record.version != VERSION || state.is_some_and(|state| state != record.file) {
        return None;
    }
    let plan = BlockPlan::announced(FileSize::new(record.file.size)?, record.block_size.into())?;
    Some(Left { key: record.key.parse().ok()?, plan, missing: record.missing })
}

impl Drop for Journal {
    /// An upload that left nothing behind leaves no lock either.
    fn drop(&mut self) {
        if self.lock.is_some() && !self.path.exists() {
            // It only takes room, so another time is good enough.
            let _ = fs::remove_file(self.path.with_extension("lock"));
        }
    }
}

/// The lock file at this path, if nobody else has locked it. Its end unlocks it.
fn lock(path: &Path) -> io::Result<fs::File> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let file = fs::File::options().create(true).truncate(false).write(true).open(path)?;
    file.try_lock()?;
    Ok(file)
}

/// The form of the record.
const VERSION: u32 = 2;

/// How long an upload is remembered.
const AGE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Longest journal that is read. Real ones have a few ranges.
const JOURNAL_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::content::stamp_of;

    #[test]
    fn it_counts_only_for_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("file");
        fs::write(&source, [7; 50_000]).unwrap();
        let stamp = stamp_of(&fs::File::open(&source).unwrap()).unwrap();
        let state = folder.path().join("uploads");
        let journal = Journal::new(&state, &source, "step://a@h/k", &stamp);
        assert_eq!(journal.read(), None);
        let plan = BlockPlan::announced(FileSize::new(50_000).unwrap(), 12_800).unwrap();
        let left = |missing| Left { key: "made up".parse().unwrap(), plan, missing };
        journal.write(left(vec![1..2, 3..4])).unwrap();
        journal.write(left(vec![0..1, 3..4])).unwrap();
        assert_eq!(journal.read(), Some(left(vec![0..1, 3..4])));
        // The same at the same time.
        let second = Journal::new(&state, &source, "step://a@h/k", &stamp);
        second.write(left(Vec::new())).unwrap();
        second.remove();
        assert_eq!((second.read(), journal.read()), (None, Some(left(vec![0..1, 3..4]))));
        // The same file to another place, another state of it, and damage.
        let other = Journal::new(&state, &source, "step://a@h/l", &stamp);
        assert_eq!(other.read(), None);
        other.remove();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2);
        drop(journal);
        let changed = Stamp { mtime: (stamp.mtime.0 + 1, 0), ..stamp };
        assert_eq!(Journal::new(&state, &source, "step://a@h/k", &changed).read(), None);
        let journal = Journal::new(&state, &source, "step://a@h/k", &stamp);
        assert_eq!(journal.read(), Some(left(vec![0..1, 3..4])));
        journal.remove_old(SystemTime::now());
        assert!(journal.read().is_some());
        journal.remove_old(SystemTime::now() + AGE_MAX + Duration::from_secs(1));
        assert_eq!(journal.read(), None);
        fs::write(&journal.path, "{\"version\": 2").unwrap();
        assert_eq!(journal.read(), None);
        journal.remove();
        journal.remove();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    }
}
