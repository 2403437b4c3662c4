//! The folder in which a fetched one is put together, under the paths that its files will have.
//!
//! Whole small files are written with three calls to the system; of the others a few stay open. What was written since the
//! last sync is remembered, and so are the folders that got new names.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ftx_proto::manifest::{Entry, EntryKind, Manifest};
use rustix::io::Errno;

use super::compare::Fate;
use super::tree::{Seen, Tree};
use crate::store::{StoreError, open_max, sparse};

/// Most files that stay open.
const FILES_OPEN_MAX: usize = 12;

/// Files and folders that are synced one by one; where there are more, everything is.
const SYNC_EACH_MAX: usize = 48;

/// The files of a folder that are not finished.
#[derive(Debug)]
pub(super) struct Staging {
    tree: Arc<Tree>,
    /// Where the files are once they have their final places.
    target: Option<Arc<Tree>>,
    manifest: Arc<Manifest>,
    open: Mutex<Vec<(usize, Arc<File>)>>,
    dirty: Mutex<Dirty>,
}

/// What is not on the disk yet.
#[derive(Debug, Default)]
struct Dirty {
    /// Files, by their numbers.
    files: BTreeSet<usize>,
    /// Folders that got new names.
    folders: BTreeSet<PathBuf>,
}

/// What is there of an earlier run.
#[derive(Debug)]
pub(super) struct Survey {
    /// For each file with bytes, whether there is one with its length.
    pub(super) is_there: Vec<bool>,
    /// Bytes that they take on the disk.
    pub(super) occupied: u64,
}

impl Staging {
    pub(super) fn new(tree: Arc<Tree>, target: Option<Arc<Tree>>, manifest: Arc<Manifest>) -> Self {
        let (open, dirty) = (Mutex::default(), Mutex::default());
        Staging { tree, target, manifest, open, dirty }
    }

    pub(super) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Looks at what is there, and removes what does not belong there.
    pub(super) fn survey(&self, fates: &[Fate]) -> Result<Survey, StoreError> {
        let with_bytes = self.manifest.with_bytes();
        let mut survey = Survey { is_there: vec![false; with_bytes.len()], occupied: 0 };
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let failed = |error| self.tree.failed("look through", &folder, error);
            for (name, kind) in self.tree.list(&folder).map_err(failed)? {
                let path = folder.join(name);
                let entry = self.entry_at(&path).filter(|number| fates[*number] != Fate::LeftOut);
                if kind.is_dir() && entry.is_some_and(|number| self.is_folder(number)) {
                    folders.push(path);
                } else if !self.keep(
                    &path,
                    entry.filter(|number| fates[*number] == Fate::Wanted),
                    &mut survey,
                )? {
                    self.tree.remove_all(&path).map_err(|error| self.tree.failed("remove", &path, error))?;
                }
            }
        }
        Ok(survey)
    }

    /// Whether a file belongs there, and is what it should be but for its bytes.
    fn keep(&self, path: &Path, entry: Option<usize>, survey: &mut Survey) -> Result<bool, StoreError> {
        let failed = |error| self.tree.failed("look at", path, error);
        let Some(number) = entry else { return Ok(false) };
        let Some(Entry { kind: EntryKind::File { size, executable, .. }, .. }) =
            self.manifest.entries().get(number)
        else {
            return Ok(false);
        };
        let seen = self.tree.stat(path).map_err(failed)?;
        let Some(seen) = seen.filter(|seen| seen.is_file() && seen.links == 1 && seen.size == *size) else {
            return Ok(false);
        };
        if seen.is_executable() != *executable {
            let set = self.tree.open_file(path).and_then(|file| set_executable(&file, *executable));
            // Some file systems have no such bit.
            set.unwrap_or_else(|error| tracing::debug!(%error, "{}: no execute bit", path.display()));
        }
        survey.occupied += seen.occupied.min(*size);
        if let Ok(file) = self.manifest.with_bytes().binary_search(&(number as u32)) {
            survey.is_there[file] = true;
        }
        Ok(true)
    }

    /// Makes folders, which must be in order. What is there stays.
    pub(super) fn make_folders<'path>(
        &self,
        paths: impl IntoIterator<Item = &'path Path>,
    ) -> Result<(), StoreError> {
        for path in paths {
            let made = self.tree.make_folder(path);
            if made.map_err(|error| self.tree.failed("make the folder", path, error))? {
                self.new_name(path);
                self.dirty().folders.insert(path.to_owned());
            }
        }
        Ok(())
    }

    /// Makes an empty file, where none is.
    pub(super) fn make_empty(&self, path: &Path, executable: bool) -> Result<(), StoreError> {
        self.tree.create_file(path, executable).map_err(|error| self.tree.failed("create", path, error))?;
        self.new_name(path);
        Ok(())
    }

    /// Writes bytes of a file at their place in it.
    pub(super) fn write_at(&self, number: usize, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, size, executable) = self.file(number);
        let written = if offset == 0 && bytes.len() as u64 == size {
            self.create(path, executable).and_then(|file| {
                self.new_name(path);
                write_whole(&file, bytes)
            })
        } else {
            self.opened(number).and_then(|file| sparse::write_at(&file, bytes, offset))
        };
        // Only behind the write: a sync that comes between must not take it for done.
        self.dirty().files.insert(number);
        written.map_err(|error| self.failed("write", path, error))
    }

    /// Reads bytes of a file, wherever it is by now.
    pub(super) fn read_at(&self, number: usize, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (path, ..) = self.file(number);
        let read = self.open_to_read(number, path).and_then(|file| file.read_exact_at(buffer, offset));
        read.map_err(|error| self.failed("read", path, error))
    }

    /// Fills a file by `fill`, which is given it empty and with its full length.
    pub(super) fn fill(
        &self,
        number: usize,
        fill: impl FnOnce(&File, u64) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let (path, size, executable) = self.file(number);
        self.open().retain(|(known, _)| *known != number);
        let filled = self.create(path, executable).and_then(|file| {
            self.new_name(path);
            file.set_len(0)?;
            file.set_len(size)?;
            fill(&file, size)
        });
        self.dirty().files.insert(number);
        filled.map_err(|error| self.failed("write", path, error))
    }

    /// Puts everything on the disk that was written until now. After an error nothing that was written can be relied on.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.sync_by(File::sync_data)
    }

    /// The same, with the times.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.sync_by(File::sync_all)
    }

    fn sync_by(&self, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        let Dirty { files, folders } = std::mem::take(&mut *self.dirty());
        if files.len() + folders.len() > SYNC_EACH_MAX && self.sync_everything()? {
            return Ok(());
        }
        for number in files {
            let (path, ..) = self.file(number);
            let cached = self.cached(number);
            match cached.map_or_else(|| self.tree.open_file(path).map(Arc::new), Ok) {
                Ok(file) => sync(&file)?,
                // Removed meanwhile: nothing is claimed of it any more.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for folder in folders {
            match self.tree.sync_folder(&folder) {
                Err(Errno::NOENT) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Syncs the file system; `false` where there is no such call.
    fn sync_everything(&self) -> io::Result<bool> {
        sync_file_system(&self.tree)
    }

    /// Makes a change of attributes part of the next sync.
    pub(super) fn touched(&self, number: usize) {
        self.dirty().files.insert(number);
    }

    /// Makes new names in a path's folder part of the next sync.
    pub(super) fn new_name(&self, path: &Path) {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut dirty = self.dirty();
        if !dirty.folders.contains(folder) {
            dirty.folders.insert(folder.to_owned());
        }
    }

    /// Path, size and execute bit of a file with bytes.
    pub(super) fn file(&self, number: usize) -> (&Path, u64, bool) {
        match self.manifest.file(number) {
            Some(Entry { path, kind: EntryKind::File { size, executable, .. } }) => {
                (Path::new(path.as_str()), *size, *executable)
            }
            _ => unreachable!("the cut of a folder has its files only"),
        }
    }

    /// The number of the entry at a path.
    fn entry_at(&self, path: &Path) -> Option<usize> {
        let path = path.to_str()?;
        self.manifest.entries().binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()
    }

    fn is_folder(&self, number: usize) -> bool {
        matches!(self.manifest.entries()[number].kind, EntryKind::Folder { .. })
    }

    /// An open file with its full length.
    fn opened(&self, number: usize) -> io::Result<Arc<File>> {
        if let Some(file) = self.cached(number) {
            return Ok(file);
        }
        let (path, size, executable) = self.file(number);
        let file = self.create(path, executable)?;
        self.new_name(path);
        // Before anything else: where nothing is written, there is a hole.
        file.set_len(size)?;
        Ok(self.remember(number, file))
    }

    fn open_to_read(&self, number: usize, path: &Path) -> io::Result<Arc<File>> {
        if let Some(file) = self.cached(number) {
            return Ok(file);
        }
        let opened = self.with_room(|| match (self.tree.open_file(path), &self.target) {
            (Err(Errno::NOENT), Some(target)) => target.open_file(path),
            (opened, _) => opened,
        });
        // Not remembered: it can be read only. Whoever serves from it asks for a piece at a time.
        Ok(Arc::new(opened?))
    }

    fn create(&self, path: &Path, executable: bool) -> io::Result<File> {
        Ok(self.with_room(|| self.tree.create_file(path, executable))?)
    }

    /// Tries again without the files that are kept open, if there are too many.
    fn with_room<T>(&self, open: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.forget_files();
                open()
            }
            result => result,
        }
    }

    fn cached(&self, number: usize) -> Option<Arc<File>> {
        let mut open = self.open();
        let place = open.iter().rposition(|(known, _)| *known == number)?;
        let found = open.remove(place);
        let file = Arc::clone(&found.1);
        open.push(found);
        Some(file)
    }

    fn remember(&self, number: usize, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut open = self.open();
        if open.len() >= open_max(FILES_OPEN_MAX) {
            open.remove(0);
        }
        open.push((number, Arc::clone(&file)));
        file
    }

    /// Closes all files that nobody is at.
    pub(super) fn forget_files(&self) {
        self.open().clear();
        self.tree.forget_folders();
    }

    fn open(&self) -> MutexGuard<'_, Vec<(usize, Arc<File>)>> {
        // Nothing panics half-way through a change of it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str, path: &Path, error: io::Error) -> StoreError {
        match Errno::from_io_error(&error) {
            Some(error) => self.tree.failed(action, path, error),
            None => StoreError::from_io(action, &self.tree.path_of(path), error),
        }
    }
}

/// Writes all bytes of a file.
fn write_whole(file: &File, bytes: &[u8]) -> io::Result<()> {
    let has_holes = bytes.chunks(ftx_proto::geometry::CHUNK_SIZE as usize).any(sparse::is_zero);
    if !has_holes {
        return file.write_all_at(bytes, 0);
    }
    file.set_len(bytes.len() as u64)?;
    sparse::write_at(file, bytes, 0)
}

/// Lets whoever may read a file execute it, or nobody.
pub(super) fn set_executable(file: &File, executable: bool) -> rustix::io::Result<()> {
    set_mode(file, Seen::of(file)?.mode, executable)
}

/// Sets permissions, with the right to execute for all who may read or for nobody.
pub(super) fn set_mode(file: &File, mode: u32, executable: bool) -> rustix::io::Result<()> {
    let mode = mode & 0o777;
    let mode = if executable { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(mode as _))
}

/// Makes new names in these folders last, one by one or, where they are many, with everything else.
pub(super) fn sync_folders(tree: &Tree, folders: &BTreeSet<PathBuf>) -> io::Result<()> {
    if folders.len() > SYNC_EACH_MAX && sync_file_system(tree)? {
        return Ok(());
    }
    for folder in folders {
        match tree.sync_folder(folder) {
            // Removed, or replaced by something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Syncs the file system of a folder; `false` where there is no such call.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn sync_file_system(tree: &Tree) -> io::Result<bool> {
    match rustix::fs::syncfs(tree.root()) {
        Err(Errno::NOSYS) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn sync_file_system(_tree: &Tree) -> io::Result<bool> {
    Ok(false)
}
