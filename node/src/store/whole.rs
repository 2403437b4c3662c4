//! A file that comes from one of the older systems: written anywhere, verified as a whole, then renamed.
//!
//! These systems prove nothing before the last byte is there, so nothing of such a file is kept: it is gone when it is
//! dropped unfinished, and a crash leaves a part that the next one throws away, or [`remove_abandoned`]. It uses the same part and lock as
//! [`PartFile`](super::PartFile), so that never two write to one target.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::part::{Lock, lock_unless_finished, rename};
use super::target::{Folder, Place, part_of_journal};
use super::{StoreError, Target};

/// It has no journal: what a crash leaves of it is thrown away by the next fetch to the same target.
#[derive(Debug)]
pub struct WholeFile {
    /// None for a temporary file, and once it has its name.
    part: Option<(Folder, Lock)>,
    data: WholeData,
    force: bool,
}

/// Removes what crashes have left of whole files in a folder, for whom nobody may ever come again.
///
/// That is what has an empty journal which nobody has locked. Parts of a [`PartFile`](super::PartFile), with which somebody
/// can go on, have something in theirs, and stay.
///
/// # Errors
/// If the folder cannot be listed, or something in it cannot be removed.
pub fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Some(part) = part_of_journal(&entry.file_name()) else { continue };
        let metadata = entry.metadata()?;
        if !metadata.is_file() || metadata.len() > 0 {
            continue;
        }
        let journal = File::open(entry.path())?;
        // Locked by whoever is at it; and it may have begun to write, or have ended, since it was looked at.
        if rustix::fs::flock(&journal, FlockOperation::NonBlockingLockExclusive).is_err()
            || journal.metadata().is_ok_and(|now| now.len() > 0 || now.nlink() == 0)
        {
            continue;
        }
        let part = folder.join(part);
        if std::fs::symlink_metadata(&part).is_ok_and(|part| part.is_file()) {
            std::fs::remove_file(&part)?;
            tracing::info!("{}: removed; a crash had left it", part.display());
        }
        std::fs::remove_file(entry.path())?;
    }
    Ok(())
}

/// The bytes of an unfinished file, for those who write and read them. They do not keep the part from being removed.
#[derive(Debug, Clone)]
pub struct WholeData {
    file: Arc<File>,
    path: Arc<Path>,
}

impl WholeFile {
    /// Locks the target and makes an empty part. What was there of an earlier one is thrown away.
    ///
    /// # Errors
    /// If the target is there already (unless `force`), or being written by somebody else.
    pub fn create(target: Target, force: bool) -> Result<Self, StoreError> {
        let path = target.path();
        let folder = match target.into_place() {
            Place::Named(folder) => folder,
            Place::Temporary => {
                let data = tempfile::tempfile()
                    .map_err(|error| StoreError::from_io("create a file in", &std::env::temp_dir(), error))?;
                return Ok(WholeFile { part: None, data: WholeData::new(data, path), force });
            }
        };
        let lock = lock_unless_finished(&folder, force)?;
        let emptied = |file: &File| {
            file.set_len(0)
                .map_err(|error| StoreError::from_io("empty", &folder.path_of(&folder.part), error))
        };
        let data = folder.open_own(&folder.part)?;
        // The journal first: it must not outlive the data that it speaks of.
        emptied(lock.file())?;
        emptied(&data)?;
        Ok(WholeFile { part: Some((folder, lock)), data: WholeData::new(data, path), force })
    }

    /// Where the finished file will be; `-` for a temporary one.
    pub fn path(&self) -> &Path {
        &self.data.path
    }

    /// Its bytes.
    pub fn data(&self) -> &WholeData {
        &self.data
    }

    /// Fails if so many bytes have no room. Reserves nothing: whoever announces them may never send them.
    pub fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let stat = rustix::fs::fstatvfs(&self.data.file).ok().filter(|stat| stat.f_blocks > 0);
        match stat.map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)) {
            Some(available) if available < bytes => {
                let full = StoreError::from_io("write", self.path(), Errno::NOSPC);
                Err(full.with_space(bytes, available))
            }
            _ => Ok(()),
        }
    }

    /// Gives the file, which has `size` bytes, its final name. A temporary one stays without. Waits for the disk.
    pub fn finish(&mut self, size: u64) -> Result<PathBuf, StoreError> {
        self.data.file.set_len(size).map_err(|error| self.data.failed("set the length of", error))?;
        let Some((folder, _)) = &self.part else { return Ok(self.path().to_owned()) };
        self.data.file.sync_all().map_err(|error| self.data.failed("sync", error))?;
        folder.expect_part(&self.data.file)?;
        rename(folder, self.force)?;
        folder.sync()?;
        folder.remove(&folder.journal)?;
        let path = folder.path_now();
        self.part = None;
        Ok(path)
    }
}

impl WholeData {
    fn new(file: File, path: PathBuf) -> Self {
        WholeData { file: Arc::new(file), path: path.into() }
    }

    /// Writes bytes at their place. Blocks on the disk.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed("write", error))
    }

    /// Reads bytes that were written; fills the buffer. Blocks on the disk.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact_at(buffer, offset).map_err(|error| self.failed("read", error))
    }

    /// Hands over the first `size` bytes, in order. Blocks on the disk.
    ///
    /// # Errors
    /// What `take` says, or the disk.
    pub fn read_all(&self, size: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; READ_LEN];
        let mut offset = 0;
        while offset < size {
            let len = usize::try_from(size - offset).unwrap_or(READ_LEN).min(READ_LEN);
            let bytes = &mut buffer[..len];
            self.file.read_exact_at(bytes, offset)?;
            take(bytes)?;
            offset += len as u64;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::from_io(action, &self.path, error)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        let Some((folder, _)) = &self.part else { return };
        let removed = folder.remove(&folder.part).and_then(|()| folder.remove(&folder.journal));
        if let Err(error) = removed {
            tracing::warn!("an unfinished file stays: {error}");
        }
    }
}

const READ_LEN: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn target(folder: &Path) -> Target {
        Target::new(&folder.join("file"), &"ignored".parse().unwrap()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_left_of_an_unfinished_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = WholeFile::create(target(folder.path()), false).unwrap();
        file.data().write_at(5, b"world").unwrap();
        assert_eq!(names(folder.path()), [".file.ftx-journal", ".file.ftx-part"]);
        let second = WholeFile::create(target(folder.path()), false);
        assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
        drop(file);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_finished_file_has_its_name_and_its_length() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".file.ftx-part"), "what a crash left, and longer").unwrap();
        let mut file = WholeFile::create(target(folder.path()), false).unwrap();
        file.data().write_at(5, b"world").unwrap();
        file.data().write_at(0, b"hello, and beyond").unwrap();
        file.finish(5).unwrap();
        drop(file);
        assert_eq!(names(folder.path()), ["file"]);
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"hello");

        let refused = WholeFile::create(target(folder.path()), false);
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
        let mut forced = WholeFile::create(target(folder.path()), true).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"hello", "until the end");
        forced.finish(0).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = WholeFile::create(target(folder.path()), false).unwrap();
        file.data().write_at(0, b"new").unwrap();
        std::fs::write(folder.path().join("file"), "other").unwrap();
        assert!(matches!(file.finish(3), Err(StoreError::Exists(_))));
        drop(file);
        assert_eq!(names(folder.path()), ["file"]);
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"other");
    }

    #[test]
    fn what_has_no_room_is_told_before_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = WholeFile::create(target(folder.path()), false).unwrap();
        file.check_room(1).unwrap();
        assert!(matches!(file.check_room(u64::MAX), Err(StoreError::DiskFull { .. })));
    }

    #[test]
    fn what_is_abandoned_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        file("file", "finished, and killed right then");
        file(".file.ftx-journal", "");
        file(".killed.ftx-part", "killed in the middle");
        file(".killed.ftx-journal", "");
        file(".goes-on.ftx-part", "somebody may go on with this");
        file(".goes-on.ftx-journal", "and knows how");
        file(".hidden", "");
        let under_way = Target::new(&folder.path().join("under-way"), &"ignored".parse().unwrap()).unwrap();
        let under_way = WholeFile::create(under_way, false).unwrap();
        remove_abandoned(folder.path()).unwrap();
        let left = [
            ".goes-on.ftx-journal",
            ".goes-on.ftx-part",
            ".hidden",
            ".under-way.ftx-journal",
            ".under-way.ftx-part",
            "file",
        ];
        assert_eq!(names(folder.path()), left);
        drop(under_way);
    }

    #[test]
    fn a_temporary_file_is_only_copied() {
        let mut file = WholeFile::create(Target::temporary(), false).unwrap();
        file.data().write_at(0, b"hello").unwrap();
        assert_eq!(file.finish(5).unwrap(), Path::new("-"));
        let mut copy = Vec::new();
        file.data().read_all(5, |bytes| copy.write_all(bytes)).unwrap();
        assert_eq!(copy, b"hello");
    }
}
