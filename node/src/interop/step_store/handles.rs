//! The files of uploads under way, of which only so many are open at once: those that were used last.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use cap_std::fs::Dir;

use super::folder;
use super::upload::Upload;

/// Uploads whose two files are open.
const OPEN_MAX: usize = 256;

const PART_SUFFIX: &str = ".ftx-part";
const JOURNAL_SUFFIX: &str = ".ftx-journal";

/// The open files of an upload.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) part: File,
    pub(super) journal: File,
}

/// The folder of the uploads, and who of them has files open.
#[derive(Debug)]
pub(super) struct Handles {
    dir: Dir,
    open: Mutex<Vec<Weak<Upload>>>,
    uses: AtomicU64,
}

impl Handles {
    pub(super) fn new(dir: Dir) -> Self {
        Handles { dir, open: Mutex::default(), uses: AtomicU64::new(0) }
    }

    /// The folder with the files of all uploads.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The stems of the journals that there are.
    pub(super) fn stems(&self) -> io::Result<Vec<String>> {
        let mut stems = Vec::new();
        for entry in self.dir.entries()? {
            let name = entry?.file_name();
            stems.extend(name.to_str().and_then(|name| name.strip_suffix(JOURNAL_SUFFIX)).map(str::to_owned));
        }
        Ok(stems)
    }

    /// Removes the parts that have no journal: what was cut off while beginning or ending.
    pub(super) fn remove_strays(&self, stems: &[String]) -> io::Result<()> {
        for entry in self.dir.entries()? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let known = [PART_SUFFIX, JOURNAL_SUFFIX].iter().filter_map(|suffix| name.strip_suffix(suffix));
            if !known.into_iter().any(|stem| stems.iter().any(|other| other == stem)) {
                folder::remove(&self.dir, name)?;
            }
        }
        Ok(())
    }

    /// New files.
    pub(super) fn create(&self, stem: &str) -> io::Result<Files> {
        let part = folder::open_own(&self.dir, &part_name(stem), true)?;
        let journal = folder::open_own(&self.dir, &journal_name(stem), true);
        let journal = journal.inspect_err(|_| self.remove(stem))?;
        Ok(Files { part, journal })
    }

    /// The journal alone, of an upload of an earlier run, whose part must be there too.
    pub(super) fn journal(&self, stem: &str) -> io::Result<Option<File>> {
        if !folder::exists(&self.dir, &part_name(stem))? {
            return Ok(None);
        }
        folder::open_own(&self.dir, &journal_name(stem), false).map(Some)
    }

    /// When something of an upload was last written down: its beginning, or a block.
    pub(super) fn last_written(&self, stem: &str) -> io::Result<SystemTime> {
        Ok(self.dir.symlink_metadata(journal_name(stem))?.modified()?.into_std())
    }

    /// The files of an upload, which are opened if they are not.
    pub(super) fn files(&self, upload: &Arc<Upload>) -> io::Result<Arc<Files>> {
        upload.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut files = upload.lock_files();
        if let Some(files) = &*files {
            return Ok(Arc::clone(files));
        }
        let opened = Arc::new(Files {
            part: folder::open_own(&self.dir, &part_name(&upload.stem), false)?,
            journal: folder::open_own(&self.dir, &journal_name(&upload.stem), false)?,
        });
        *files = Some(Arc::clone(&opened));
        drop(files);
        self.opened(upload);
        Ok(opened)
    }

    /// Remembers that an upload has its files open, and closes those of another if there are too many.
    pub(super) fn opened(&self, upload: &Arc<Upload>) {
        let closed = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|other| other.upgrade().is_some_and(|other| !Arc::ptr_eq(&other, upload)));
            let oldest = || {
                let used =
                    open.iter().map(|other| other.upgrade().map(|other| other.used.load(Ordering::Relaxed)));
                used.enumerate().min_by_key(|(_, used)| *used).map(|(place, _)| place)
            };
            let closed =
                if open.len() >= OPEN_MAX { oldest().map(|place| open.swap_remove(place)) } else { None };
            open.push(Arc::downgrade(upload));
            closed
        };
        if let Some(closed) = closed.and_then(|closed| closed.upgrade()) {
            // Whoever is using them at this moment has a share in them.
            *closed.lock_files() = None;
        }
    }

    /// Removes the files of an upload. The journal first: a part without one is worth nothing.
    pub(super) fn remove(&self, stem: &str) {
        for name in [journal_name(stem), part_name(stem)] {
            if let Err(error) = folder::remove(&self.dir, &name) {
                tracing::warn!(%name, %error, "cannot remove what is left of an upload");
            }
        }
    }
}

pub(super) fn part_name(stem: &str) -> String {
    format!("{stem}{PART_SUFFIX}")
}

pub(super) fn journal_name(stem: &str) -> String {
    format!("{stem}{JOURNAL_SUFFIX}")
}
