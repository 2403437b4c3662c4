//! The step to the final names: all at once for a new target, file by file into one that is there.
//!
//! Every step may be the last before a kill: what was done is found right by the next run, and the rest is done then.

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftx_proto::geometry::PIECE_SIZE;
use ftx_proto::manifest::{Entry, EntryKind};
use rustix::io::Errno;

use super::FolderPart;
use super::compare::Fate;
use super::copy::{copy, move_by_copy};
use super::record::Record;
use super::staging::{set_executable, set_mode, sync_folders};
use super::tree::{Tree, mutation, rename_new, times};
use crate::store::StoreError;

/// A name in the staging folder that no entry has.
const LINK: &str = ".link.ftx-part";

/// A change younger than this may be followed by one that the file's time does not tell from it.
const SETTLING: Duration = Duration::from_millis(20);

impl FolderPart {
    /// Gives everything its final name. All files that are fetched are written and synced.
    pub(super) fn put_in_place(&self, mtime: (i64, u32), force: bool) -> Result<(), StoreError> {
        self.make_twins()?;
        self.finish_files()?;
        match &self.target {
            None => self.put_new(mtime, force),
            Some(target) => self.put_into(target, mtime),
        }?;
        mutation().map_err(|error| self.failed("finish", error))
    }

    /// Entries that are to be made, in order.
    fn wanted(&self) -> impl DoubleEndedIterator<Item = (&Entry, &Path)> {
        let entries = self.manifest.entries().iter().zip(&self.comparison.fates);
        let wanted = entries.filter(|(_, fate)| **fate == Fate::Wanted);
        wanted.map(|(entry, _)| (entry, Path::new(entry.path.as_str())))
    }

    /// Makes the files that are the same as others.
    fn make_twins(&self) -> Result<(), StoreError> {
        let tree = self.staging.tree();
        for twin in self.twins.iter().filter(|twin| !twin.is_there) {
            let (path, ..) = self.staging.file(twin.first);
            let seen = tree.stat(path).map_err(|error| tree.failed("look at", path, error))?;
            let copied = seen.map(|seen| copy(&self.staging, twin.number, tree, path, &seen)).transpose()?;
            if copied != Some(true) {
                return Err(StoreError::Lost(tree.path_of(path)));
            }
        }
        Ok(())
    }

    /// Makes the empty files, and gives all their times.
    fn finish_files(&self) -> Result<(), StoreError> {
        let wanted: Vec<_> = self.wanted().collect();
        let results = in_shares(&wanted, |share| {
            share.iter().try_for_each(|(entry, path)| self.finish_file(entry, path))
        });
        results.into_iter().collect::<Result<(), _>>()?;
        let wanted = (0..self.wanted.len()).filter(|number| self.wanted[*number]);
        wanted.for_each(|number| self.staging.touched(number));
        self.staging.sync_all().map_err(|error| self.failed("sync", error))
    }

    fn finish_file(&self, entry: &Entry, path: &Path) -> Result<(), StoreError> {
        let tree = self.staging.tree();
        let EntryKind::File { size, executable, mtime, .. } = entry.kind else { return Ok(()) };
        if size == 0 {
            self.staging.make_empty(path, executable)?;
        }
        if size > PIECE_SIZE {
            let seen = tree.stat(path).map_err(|error| tree.failed("look at", path, error))?;
            if !seen.is_some_and(|seen| seen.is_file() && seen.size == size) {
                return Err(StoreError::Lost(tree.path_of(path)));
            }
        }
        match tree.set_mtime(path, mtime) {
            Err(Errno::NOENT) => return Err(StoreError::Lost(tree.path_of(path))),
            set => self.warn(tree, "time of change", path, set),
        }
        Ok(())
    }

    /// The staging folder becomes the target.
    fn put_new(&self, mtime: (i64, u32), force: bool) -> Result<(), StoreError> {
        let tree = self.staging.tree();
        for (entry, path) in self.wanted() {
            if let EntryKind::Link { target } = &entry.kind {
                let failed = |error| tree.failed("make the link", path, error);
                // One of an earlier attempt.
                tree.remove_file(path).map_err(failed)?;
                tree.make_link(target, path).map_err(failed)?;
                self.staging.new_name(path);
            }
        }
        // What is in a folder stands behind it, and changes its time.
        for (entry, path) in self.wanted().rev() {
            if let EntryKind::Folder { mtime } = entry.kind {
                self.warn(tree, "time of change", path, tree.set_mtime(path, mtime));
            }
        }
        self.set_top_mtime(tree, mtime);
        self.staging.sync_all().map_err(|error| self.failed("sync", error))?;
        let name = Path::new(&self.folder.name);
        if self.replaces && (force || self.options.force) {
            // Nothing but a file or a link: a folder would be the target.
            let removed = self.home.remove_file(name);
            removed.map_err(|error| self.home.failed("replace", name, error))?;
        }
        match rename_new(self.home.root(), &self.folder.part, &self.folder.name) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(StoreError::Exists(self.path.clone())),
            renamed => renamed.map_err(|error| self.failed("rename the staging folder to", error))?,
        }
        self.sync_home()
    }

    /// What was staged goes into the target that is there.
    fn put_into(&self, target: &Arc<Tree>, mtime: (i64, u32)) -> Result<(), StoreError> {
        let mut changed = BTreeSet::new();
        self.clear_the_way(target, &mut changed)?;
        self.keep_permissions();
        for (entry, path) in self.wanted() {
            match entry.kind {
                EntryKind::Folder { .. } => {
                    let made = target.make_folder(path);
                    made.map_err(|error| target.failed("make the folder", path, error))?;
                }
                EntryKind::File { .. } => {
                    let moved = match self.staging.tree().rename_to(path, target, path) {
                        // Another file system is mounted within the target.
                        Err(Errno::XDEV) => self.move_by_copy(target, path),
                        moved => moved,
                    };
                    moved.map_err(|error| target.failed("replace", path, error))?;
                }
                EntryKind::Link { .. } => continue,
            }
            changed.insert(folder_of(path));
        }
        self.set_attributes(target);
        self.make_links(target, &mut changed)?;
        self.remove_extras(target, &mut changed)?;
        self.set_folder_times(target, !changed.is_empty());
        sync_folders(target, &changed).map_err(|error| self.failed("sync", error))?;
        self.remove_staging()?;
        // Behind that: the staging folder may be in the target.
        self.set_top_mtime(target, mtime);
        self.sync_home()
    }

    fn move_by_copy(&self, target: &Tree, path: &Path) -> rustix::io::Result<()> {
        let tree = self.staging.tree();
        let seen = tree.stat(path)?.ok_or(Errno::NOENT)?;
        move_by_copy(tree, target, path, &seen)
    }

    /// A file that replaces another one may be read and written by those who could the other one.
    fn keep_permissions(&self) {
        let tree = self.staging.tree();
        for (number, seen) in &self.comparison.files {
            let entry = &self.manifest.entries()[*number];
            let EntryKind::File { executable, .. } = entry.kind else { continue };
            if self.comparison.fates[*number] == Fate::Wanted {
                let path = Path::new(entry.path.as_str());
                let set = tree.open_file(path).and_then(|file| set_mode(&file, seen.mode, executable));
                self.warn(tree, "permissions", path, set);
            }
        }
    }

    /// Removes what is of another kind than the entries whose places it has.
    fn clear_the_way(&self, target: &Tree, changed: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        for number in &self.comparison.in_the_way {
            let path = Path::new(self.manifest.entries()[*number].path.as_str());
            target.remove_all(path).map_err(|error| target.failed("remove", path, error))?;
            target.forget_folders();
            changed.insert(folder_of(path));
        }
        Ok(())
    }

    /// Times and execute bits of files that were there already.
    fn set_attributes(&self, target: &Tree) {
        for (number, seen) in &self.comparison.files {
            let Entry { path, kind: EntryKind::File { mtime, executable, .. } } =
                &self.manifest.entries()[*number]
            else {
                continue;
            };
            if self.comparison.fates[*number] != Fate::Same {
                continue;
            }
            if seen.is_executable() == *executable && seen.mtime == *mtime {
                continue;
            }
            let path = Path::new(path.as_str());
            if !target.stat(path).ok().flatten().is_some_and(|now| now.is_same_content(seen)) {
                // With the right time, the next run would take it for what it was.
                tracing::warn!(
                    "{} was changed meanwhile, and stays as it is",
                    target.path_of(path).display()
                );
                continue;
            }
            if seen.is_executable() != *executable {
                let set = target.open_file(path).and_then(|file: File| set_executable(&file, *executable));
                self.warn(target, "execute bit", path, set);
            }
            if seen.mtime != *mtime {
                self.warn(target, "time of change", path, target.set_mtime(path, *mtime));
            }
        }
    }

    /// Each is made elsewhere and then moved: so what has its name is replaced, never missing.
    fn make_links(&self, target: &Tree, changed: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        let (tree, made) = (self.staging.tree(), Path::new(LINK));
        for (entry, path) in self.wanted() {
            let EntryKind::Link { target: text } = &entry.kind else { continue };
            let link = tree.remove_file(made).and_then(|()| tree.make_link(text, made));
            let link = link.and_then(|()| match tree.rename_to(made, target, path) {
                Err(Errno::XDEV) => target.remove_file(path).and_then(|()| target.make_link(text, path)),
                moved => moved,
            });
            link.map_err(|error| target.failed("make the link", path, error))?;
            changed.insert(folder_of(path));
        }
        Ok(())
    }

    fn remove_extras(&self, target: &Tree, changed: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        for path in self.comparison.extras.iter().rev() {
            let is_folder = target.stat(path).ok().flatten().is_some_and(|seen| seen.is_folder());
            let removed = if is_folder { target.remove_folder(path) } else { target.remove_file(path) };
            match removed {
                // Something that is not to be removed is in it.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                removed => removed.map_err(|error| target.failed("remove", path, error))?,
            }
            changed.insert(folder_of(path));
        }
        target.forget_folders();
        Ok(())
    }

    /// The times of the folders: all, if anything in them was changed.
    fn set_folder_times(&self, target: &Tree, all: bool) {
        let entries = self.manifest.entries().iter().enumerate().rev();
        for (number, entry) in entries {
            let is_wanted = matches!(self.comparison.fates[number], Fate::Wanted | Fate::Same);
            if let EntryKind::Folder { mtime } = entry.kind
                && is_wanted
                && (all || self.comparison.files.get(&number).is_none_or(|seen| seen.mtime != mtime))
            {
                let path = Path::new(entry.path.as_str());
                self.warn(target, "time of change", path, target.set_mtime(path, mtime));
            }
        }
    }

    fn set_top_mtime(&self, tree: &Tree, mtime: (i64, u32)) {
        let set = rustix::fs::futimens(tree.root(), &times(mtime));
        self.warn(tree, "time of change", Path::new(""), set);
    }

    /// Removes the staging folder.
    pub(super) fn remove_staging(&self) -> Result<(), StoreError> {
        let part = Path::new(&self.folder.part);
        self.staging.forget_files();
        self.home.remove_all(part).map_err(|error| self.home.failed("remove", part, error))
    }

    /// Makes last what was renamed and removed beside the target.
    fn sync_home(&self) -> Result<(), StoreError> {
        self.home.sync_folder(Path::new("")).map_err(|error| self.failed("sync the folder of", error))
    }

    /// A fetch can do without attributes; what is refused is logged.
    fn warn(&self, tree: &Tree, what: &str, path: &Path, result: rustix::io::Result<()>) {
        let Err(error) = result else { return };
        let path = tree.path_of(path);
        // What is refused once may be refused for each of many files.
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!("{}: cannot set its {what}: {error}", path.display());
        } else {
            tracing::warn!("{}: cannot set its {what}, nor perhaps that of others: {error}", path.display());
        }
    }

    /// Remembers what the files are now, if anything was changed.
    pub(super) fn remember(&self) {
        let Some(records) = &self.options.records else { return };
        if !self.needs_record() {
            return;
        }
        let tree = self.target.as_ref().unwrap_or(self.staging.tree());
        let entries: Vec<_> = self.manifest.entries().iter().zip(&self.comparison.fates).collect();
        let look = |(entry, fate): &(&'_ Entry, &Fate)| {
            let EntryKind::File { size, root, mtime, .. } = entry.kind else { return None };
            if !matches!(fate, Fate::Wanted | Fate::Same) {
                return None;
            }
            let seen = tree.stat(Path::new(entry.path.as_str())).ok().flatten()?;
            // With another time it was changed by somebody else.
            let is_ours = seen.is_file() && seen.size == size && seen.mtime == mtime && is_settled(mtime);
            is_ours.then_some((seen, root))
        };
        let looks = in_shares(&entries, |share| share.iter().map(look).collect::<Vec<_>>());
        let files = entries.iter().zip(looks.into_iter().flatten()).filter_map(|((entry, _), found)| {
            let (seen, root) = found?;
            Some((Path::new(entry.path.as_str()), seen, root))
        });
        let saved = Record::save(records, &self.path, files);
        saved.unwrap_or_else(|error| tracing::info!(%error, "the finished folder is not remembered"));
    }

    /// Whether the record of an earlier run is not that of what is there now.
    fn needs_record(&self) -> bool {
        let entries = self.manifest.entries();
        self.comparison.fates.contains(&Fate::Wanted)
            || self.comparison.files.iter().any(|(number, seen)| match entries[*number].kind {
                EntryKind::File { mtime, executable, .. } => {
                    seen.mtime != mtime || seen.is_executable() != executable
                }
                _ => false,
            })
    }
}

/// Does something with all of these, where they are many with a share of them on each core. The results are in order.
fn in_shares<T: Sync, R: Send>(all: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let share = all.len().div_ceil(cores).max(SHARE_MIN);
    let Some((own, others)) = all.split_at_checked(share).filter(|(_, others)| !others.is_empty()) else {
        return vec![work(all)];
    };
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = others.chunks(share).map(|share| scope.spawn(move || work(share))).collect();
        let own = work(own);
        let others = others.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own).chain(others).collect()
    })
}

/// Fewer files than this are not worth a thread.
const SHARE_MIN: usize = 512;

/// Most threads at once.
const THREADS_MAX: usize = 8;

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

/// Whether a further change of a file with this time would show in its time.
fn is_settled((seconds, nanoseconds): (i64, u32)) -> bool {
    let Ok(seconds) = u64::try_from(seconds) else { return true };
    let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds.min(999_999_999)));
    changed
        .and_then(|changed| SystemTime::now().duration_since(changed).ok())
        .is_some_and(|age| age > SETTLING)
}
