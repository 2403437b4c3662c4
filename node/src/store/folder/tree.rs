//! A folder on the disk, opened once: what is beneath it is reached through that handle, and never through a link.
//!
//! Names are looked up from the folder that they are in, a few of which stay open: so a file costs no more calls to the
//! system than the one that was wanted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::{Errno, Result};

use crate::store::{StoreError, open_max};

/// Most folders that stay open.
const FOLDERS_OPEN_MAX: usize = 8;

/// An open folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    path: PathBuf,
    /// Folders beneath that are open, the one used last at the end.
    open: Mutex<Vec<(PathBuf, Arc<OwnedFd>)>>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: FileType,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
    /// Device, and number of the file there.
    pub(super) inode: (u64, u64),
    pub(super) links: u64,
    /// Permissions.
    pub(super) mode: u32,
    /// Bytes that it takes on the disk.
    pub(super) occupied: u64,
}

impl Seen {
    // The types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn new(stat: &Stat) -> Self {
        Seen {
            kind: FileType::from_raw_mode(stat.st_mode as _),
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            inode: (stat.st_dev as u64, stat.st_ino as u64),
            links: stat.st_nlink as u64,
            mode: u32::from(stat.st_mode as u16) & 0o7777,
            occupied: stat.st_blocks as u64 * 512,
        }
    }

    /// Of an open file.
    pub(super) fn of(file: &File) -> Result<Self> {
        rustix::fs::fstat(file).map(|stat| Seen::new(&stat))
    }

    /// Whether nothing was written to it since the other look at it. Permissions and names may have changed.
    pub(super) fn is_same_content(&self, other: &Seen) -> bool {
        let of = |seen: &Seen| (seen.kind, seen.size, seen.mtime, seen.inode);
        of(self) == of(other)
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind.is_file()
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind.is_dir()
    }

    pub(super) fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

impl Tree {
    /// The folder `name` in `parent`, which must not be a link. `path` is what messages call it.
    pub(super) fn open(parent: impl AsFd, name: &OsStr, path: PathBuf) -> Result<Self> {
        let root = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
        Ok(Tree { root: Arc::new(root), path, open: Mutex::new(Vec::new()) })
    }

    /// The handle of the folder itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// A path beneath it, for messages.
    pub(super) fn path_of(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    /// The error for what the system said about a path beneath it.
    pub(super) fn failed(&self, action: &'static str, path: &Path, error: Errno) -> StoreError {
        let path = self.path_of(path);
        match error {
            Errno::ILSEQ | Errno::INVAL | Errno::NAMETOOLONG => {
                StoreError::Entry { path, reason: "this file system cannot have this name" }
            }
            error => StoreError::from_io(action, &path, error),
        }
    }

    /// What a path stands for, if anything. What is behind a link or a file is not there.
    pub(super) fn stat(&self, path: &Path) -> Result<Option<Seen>> {
        let stat = self
            .at(path)
            .and_then(|(folder, name)| rustix::fs::statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat {
            Ok(stat) => Ok(Some(Seen::new(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file to read it. Links are not followed, and pipes not waited for.
    pub(super) fn open_file(&self, path: &Path) -> Result<File> {
        self.open_with(path, OFlags::RDONLY, 0)
    }

    /// Opens a file to read and write it, and creates it if it is not there.
    pub(super) fn create_file(&self, path: &Path, executable: bool) -> Result<File> {
        mutation()?;
        let mode = if executable { 0o777 } else { 0o666 };
        self.open_with(path, OFlags::RDWR | OFlags::CREATE, mode)
    }

    fn open_with(&self, path: &Path, flags: OFlags, mode: u32) -> Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let (folder, name) = self.at(path)?;
        rustix::fs::openat(&*folder, name, flags, Mode::from_raw_mode(mode as _)).map(File::from)
    }

    /// Makes a folder; `false` if one is there.
    pub(super) fn make_folder(&self, path: &Path) -> Result<bool> {
        mutation()?;
        let (folder, name) = self.at(path)?;
        match rustix::fs::mkdirat(&*folder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if self.stat(path)?.is_some_and(|seen| seen.is_folder()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves what is at a path here to the same path of another tree, where it replaces a file.
    pub(super) fn rename_to(&self, from: &Path, other: &Tree, to: &Path) -> Result<()> {
        mutation()?;
        let (old_folder, old) = self.at(from)?;
        let (new_folder, new) = other.at(to)?;
        rustix::fs::renameat(&*old_folder, old, &*new_folder, new)
    }

    /// Makes a link, where nothing is.
    pub(super) fn make_link(&self, target: &str, path: &Path) -> Result<()> {
        mutation()?;
        let (folder, name) = self.at(path)?;
        rustix::fs::symlinkat(target, &*folder, name)
    }

    /// What a link says.
    pub(super) fn read_link(&self, path: &Path) -> Result<Vec<u8>> {
        let (folder, name) = self.at(path)?;
        Ok(rustix::fs::readlinkat(&*folder, name, Vec::new())?.into_bytes())
    }

    /// Sets the time of change of a path, which may be a folder.
    pub(super) fn set_mtime(&self, path: &Path, mtime: (i64, u32)) -> Result<()> {
        let (folder, name) = self.at(path)?;
        rustix::fs::utimensat(&*folder, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes a file or a link, if it is there.
    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        self.remove(path, AtFlags::empty())
    }

    /// Removes an empty folder, if it is there.
    pub(super) fn remove_folder(&self, path: &Path) -> Result<()> {
        self.remove(path, AtFlags::REMOVEDIR)
    }

    fn remove(&self, path: &Path, flags: AtFlags) -> Result<()> {
        mutation()?;
        let (folder, name) = match self.at(path) {
            // What is behind a link or a file is not there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            found => found?,
        };
        match rustix::fs::unlinkat(&*folder, name, flags) {
            Err(Errno::NOENT) => Ok(()),
            result => result,
        }
    }

    /// Removes whatever is at a path, with all that is in it.
    pub(super) fn remove_all(&self, path: &Path) -> Result<()> {
        if !self.stat(path)?.is_some_and(|seen| seen.is_folder()) {
            return self.remove_file(path);
        }
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.last().cloned() {
            let mut is_empty = true;
            for (name, kind) in self.list(&folder)? {
                let path = folder.join(name);
                if kind.is_dir() {
                    is_empty = false;
                    folders.push(path);
                } else {
                    self.remove_file(&path)?;
                }
            }
            if is_empty {
                self.forget_folders();
                self.remove_folder(&folder)?;
                folders.pop();
            }
        }
        Ok(())
    }

    /// The names in a folder, and what they are.
    pub(super) fn list(&self, path: &Path) -> Result<Vec<(OsString, FileType)>> {
        let folder = self.folder(path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&*folder)? {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(&*folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            names.push((name, kind));
        }
        Ok(names)
    }

    /// Makes the names in a folder last.
    pub(super) fn sync_folder(&self, path: &Path) -> Result<()> {
        match rustix::fs::fsync(&*self.folder(path)?) {
            // Some file systems cannot sync a folder.
            Err(Errno::INVAL) => Ok(()),
            result => result,
        }
    }

    /// Closes the folders that are open: one of them may be another one soon.
    pub(super) fn forget_folders(&self) {
        self.opened().clear();
    }

    /// The folder that a path is in, and its name there.
    fn at<'path>(&self, path: &'path Path) -> Result<(Arc<OwnedFd>, &'path OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn folder(&self, path: &Path) -> Result<Arc<OwnedFd>> {
        if path.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        {
            let mut open = self.opened();
            if let Some(place) = open.iter().rposition(|(known, _)| known == path) {
                let found = open.remove(place);
                let folder = Arc::clone(&found.1);
                open.push(found);
                return Ok(folder);
            }
        }
        let folder = match open_beneath(&self.root, path) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.forget_folders();
                open_beneath(&self.root, path)?
            }
            opened => opened?,
        };
        let folder = Arc::new(folder);
        let mut open = self.opened();
        if open.len() >= open_max(FOLDERS_OPEN_MAX) {
            open.remove(0);
        }
        open.push((path.to_owned(), Arc::clone(&folder)));
        Ok(folder)
    }

    fn opened(&self) -> MutexGuard<'_, Vec<(PathBuf, Arc<OwnedFd>)>> {
        // Nothing panics half-way through a change of it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a folder its final name, at which nothing may be.
pub(super) fn rename_new(parent: impl AsFd + Copy, from: &OsStr, to: &OsStr) -> Result<()> {
    mutation()?;
    match rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return result,
    }
    // A look before the step is the best there is here. A folder replaces nothing but an empty folder.
    match rustix::fs::statat(parent, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(parent, from, parent, to),
        Err(error) => Err(error),
        Ok(_) => Err(Errno::EXIST),
    }
}

/// What sets the time of change and leaves that of access alone.
pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999).into() },
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder beneath another one, through no link.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, FOLDER, Mode::empty(), resolve) {
        // An old system, or one that forbids calls that it does not know.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(root, path),
        result => result,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    open_step_by_step(root, path)
}

fn open_step_by_step(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let mut folder = root.try_clone().map_err(|_| Errno::MFILE)?;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else { return Err(Errno::INVAL) };
        folder = rustix::fs::openat(&folder, name, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

/// Whether the process is killed before the next change to the disk: tests decide that.
#[cfg(not(test))]
pub(super) fn mutation() -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use kill::mutation;

/// Stops all changes to the disk after some of them, as if the process were killed.
#[cfg(test)]
pub(super) mod kill {
    use std::cell::Cell;

    use rustix::io::{Errno, Result};

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// From now on this thread changes the disk so many times only; without a number, as often as it likes.
    pub(in crate::store::folder) fn after(changes: Option<u32>) {
        LEFT.set(changes);
    }

    pub(in crate::store::folder) fn mutation() -> Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(Errno::CANCELED),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(folder: &Path) -> Tree {
        fs::create_dir(folder.join("tree")).unwrap();
        Tree::open(File::open(folder).unwrap(), OsStr::new("tree"), folder.join("tree")).unwrap()
    }

    #[test]
    fn links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let tree = tree(folder.path());
        fs::create_dir(folder.path().join("other")).unwrap();
        fs::write(folder.path().join("other/file"), "theirs").unwrap();
        symlink("../other", folder.path().join("tree/link")).unwrap();
        symlink("../other/file", folder.path().join("tree/file")).unwrap();
        let inside = Path::new("link/file");
        assert_eq!(tree.stat(inside), Ok(None));
        assert!(tree.open_file(inside).is_err() && tree.create_file(inside, false).is_err());
        assert!(tree.create_file(Path::new("file"), false).is_err());
        assert!(tree.make_folder(Path::new("link/new")).is_err());
        assert!(open_step_by_step(tree.root(), Path::new("link")).is_err());
        tree.remove_file(inside).unwrap();
        assert!(folder.path().join("other/file").exists());
        tree.remove_all(Path::new("link")).unwrap();
        assert_eq!(fs::read(folder.path().join("other/file")).unwrap(), b"theirs");
        assert!(Tree::open(tree.root(), OsStr::new("file"), PathBuf::new()).is_err());
    }

    #[test]
    fn more_folders_than_stay_open_are_all_found() {
        let folder = tempfile::tempdir().unwrap();
        let tree = tree(folder.path());
        for round in 0..2 {
            for number in 0..3 * FOLDERS_OPEN_MAX {
                let path = PathBuf::from(format!("{number}"));
                assert_eq!(tree.make_folder(&path), Ok(round == 0));
                tree.create_file(&path.join("file"), number % 2 == 1).unwrap();
                let seen = tree.stat(&path.join("file")).unwrap().unwrap();
                assert!(seen.is_file() && seen.is_executable() == (number % 2 == 1));
            }
        }
        assert!(tree.opened().len() <= FOLDERS_OPEN_MAX);
        assert_eq!(tree.list(Path::new("")).unwrap().len(), 3 * FOLDERS_OPEN_MAX);
        tree.remove_all(Path::new("3")).unwrap();
        assert_eq!(tree.stat(Path::new("3")), Ok(None));
        tree.remove_all(Path::new("3")).unwrap();
        assert!(tree.remove_folder(Path::new("4")).is_err(), "not empty");
    }
}
