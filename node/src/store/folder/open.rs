//! Getting ready: what the target has, what an earlier run left, what is elsewhere; and so what is to be fetched.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::manifest::{Entry, EntryKind, Manifest};
use rustix::io::Errno;

use super::compare::{Asked, Comparison, Fate};
use super::copy::copy;
use super::found::OldFile;
use super::hashing::{Hashing, roots};
use super::record::Record;
use super::resume::{self, Plan, Resumed, State};
use super::staging::{Staging, Survey};
use super::tree::Tree;
use super::twins::{Twin, Twins};
use super::{FolderOptions, FolderPart, Found, Opened, Summary, available, names};
use crate::store::part::{Lock, Stage, lock};
use crate::store::target::{Folder, Place};
use crate::store::{StoreError, Target};

/// Least room that a file takes on most file systems.
const BLOCK: u64 = 4096;

pub(super) fn open(
    target: Target,
    manifest: Arc<Manifest>,
    options: FolderOptions,
) -> Result<Opened, StoreError> {
    let path = target.path();
    let Place::Named(folder) = target.into_place() else {
        return Err(StoreError::Name { path, reason: "a folder needs one" });
    };
    let selected = options.selection.of(&manifest);
    names::check_own(&manifest, &selected, &path)?;
    // Without leaving a trace, if it cannot be. Looked at again under the lock.
    find_target(&folder, &path, &options)?;
    let is_first = !folder.exists(&folder.journal)? && !folder.exists(&folder.part)?;
    // Also kept here, so that what is left behind by a failure is removed under it.
    let lock = Arc::new(lock(&folder)?);
    let look = || {
        let place = open_tree(&folder, OsStr::new("."), &folder.path_of(OsStr::new("")))?;
        Ok((Arc::new(place), find_target(&folder, &path, &options)?))
    };
    let (place, found) = match look() {
        Err(error) => {
            if is_first {
                let _ = folder.remove(&folder.journal);
            }
            return Err(error);
        }
        Ok(found) => found,
    };
    let home = match &found.tree {
        // What is on another file system cannot be renamed into it.
        Some(tree) if is_elsewhere(tree, &place) => Arc::clone(tree),
        _ => Arc::clone(&place),
    };
    let (part, journal) = (folder.part.clone(), folder.journal.clone());
    let opening = Opening {
        folder,
        path,
        manifest,
        options,
        selected,
        home: Arc::clone(&home),
        lock: Arc::clone(&lock),
        found,
    };
    opening.prepare().inspect_err(|_| {
        if is_first {
            // Nothing is lost, and leftovers of what did not begin help nobody.
            let _ = home.remove_all(Path::new(&part));
            let _ = place.remove_file(Path::new(&journal));
        }
    })
}

/// The target as it is.
struct FoundTarget {
    tree: Option<Arc<Tree>>,
    /// Whether there is something that is no folder.
    replaces: bool,
}

fn open_tree(folder: &Folder, name: &OsStr, path: &Path) -> Result<Tree, StoreError> {
    let shown = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Tree::open(folder.dir(), name, path.to_owned())
        .map_err(|error| StoreError::from_io("open the folder", shown, error))
}

fn find_target(folder: &Folder, path: &Path, options: &FolderOptions) -> Result<FoundTarget, StoreError> {
    let kind = folder.stat(&folder.name)?.map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
    match kind {
        None => Ok(FoundTarget { tree: None, replaces: false }),
        Some(kind) if kind.is_dir() => {
            let tree = open_tree(folder, &folder.name, path)?;
            Ok(FoundTarget { tree: Some(Arc::new(tree)), replaces: false })
        }
        // What it leads to is not ours to change.
        Some(kind) if kind.is_symlink() && !options.force => Err(StoreError::InTheWay(path.to_owned())),
        Some(_) if options.force => Ok(FoundTarget { tree: None, replaces: true }),
        Some(_) => Err(StoreError::OtherKind { paths: vec![path.to_owned()] }),
    }
}

/// Whether nothing can be renamed from one to the other.
fn is_elsewhere(tree: &Tree, place: &Tree) -> bool {
    let device = |tree: &Tree| rustix::fs::fstat(tree.root()).map(|stat| stat.st_dev).ok();
    device(tree) != device(place) || mount_of(tree) != mount_of(place)
}

/// The mount that a folder is in: one file system may be mounted several times.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn mount_of(tree: &Tree) -> Option<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    let stat = rustix::fs::statx(tree.root(), "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    // Old systems do not tell.
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn mount_of(_tree: &Tree) -> Option<u64> {
    None
}

/// Everything that is known before the staging folder is looked at.
struct Opening {
    folder: Folder,
    path: PathBuf,
    manifest: Arc<Manifest>,
    options: FolderOptions,
    selected: Vec<bool>,
    home: Arc<Tree>,
    lock: Arc<Lock>,
    found: FoundTarget,
}

impl Opening {
    fn prepare(self) -> Result<Opened, StoreError> {
        let comparison = self.compare()?;
        let wanted: Vec<bool> = self
            .manifest
            .with_bytes()
            .iter()
            .map(|entry| comparison.fates[*entry as usize] == Fate::Wanted)
            .collect();
        let geometry = self.manifest.geometry();
        let mut twins = Twins::find(geometry.folder().map_or(&[][..], |folder| folder.files()), &wanted);
        let mut fetched = wanted.clone();
        twins.iter().for_each(|twin| fetched[twin.number] = false);
        let root = resume::binding(self.manifest.data_root(), &fetched);
        let failed = |error| StoreError::from_io("resume", &self.path, error);
        let journal = resume::read(&self.lock, geometry, root).map_err(failed)?;
        let staging = self.open_staging()?;
        let survey = staging.survey(&comparison.fates)?;
        names::check(&self.manifest, &comparison.fates, staging.tree())?;
        let resumed = resume::check(journal, &self.lock, root, &staging, &survey, &fetched, geometry);
        let Resumed { journal, mut pieces, is_ours } = resumed.map_err(failed)?;
        let mut states = self.settle(&staging, &survey, (&wanted, &fetched), &pieces, is_ours);
        let missing = self.check_room(&states, &pieces, &survey, staging.tree())?;
        staging.make_folders(self.folders(&comparison.fates))?;
        self.settle_twins(&staging, &pieces, &mut twins, &mut states)?;
        let mut summary = self.summarize(&comparison);
        self.copy(&staging, &comparison, &pieces, &mut states, &mut summary)?;
        twins.iter().filter(|twin| !twin.is_there).for_each(|twin| {
            summary.copied.add(geometry.folder().map_or(0, |folder| folder.files()[twin.number].size()));
        });
        let have_before = pieces.clone();
        let Plan { added, skipped, spared } = resume::plan(geometry, &states, &mut pieces);
        let old = self.old_files(&staging, &survey, &comparison, &states, (is_ours, &twins));
        for (number, file) in geometry.folder().into_iter().flat_map(|folder| folder.files()).enumerate() {
            let is_here = || file.span().pieces().all(|piece| have_before.contains(piece));
            if states[number] == State::Open && !is_here() {
                summary.missing.add(file.size());
            }
        }
        // What the names stand for now must survive a crash, or the first commit would say nothing.
        staging.sync().map_err(failed)?;
        self.home.sync_folder(Path::new("")).map_err(|error| failed(error.into()))?;
        self.folder.sync()?;
        if !added.is_empty() {
            journal.append(&added.ranges()).map_err(failed)?;
        }
        let found = Found::new(geometry.clone(), pieces.clone(), old);
        let part = FolderPart {
            folder: self.folder,
            path: self.path,
            manifest: self.manifest,
            options: self.options,
            home: self.home,
            staging,
            target: self.found.tree,
            replaces: self.found.replaces,
            comparison,
            wanted,
            twins,
            missing: AtomicU64::new(missing),
            has_warned: AtomicBool::new(false),
            is_open: RwLock::new(true),
            stage: Mutex::new(Stage::Writing),
            journal: RwLock::new(Some((journal, self.lock))),
        };
        Ok(Opened { part, have: pieces, skipped, spared, found, summary })
    }

    /// Compares the target with the folder, and remembers what had to be hashed for that.
    fn compare(&self) -> Result<Comparison, StoreError> {
        let asked = Asked {
            manifest: &self.manifest,
            selection: &self.options.selection,
            selected: &self.selected,
            links: self.options.links,
            delete: self.options.delete,
        };
        let Some(tree) = &self.found.tree else { return Ok(Comparison::with_nothing(asked)) };
        let records = self.options.records.as_deref();
        let record = records.map(|records| Record::load(records, &self.path)).unwrap_or_default();
        let comparison = Comparison::with(asked, tree, &record)?;
        if !self.options.force && !comparison.in_the_way.is_empty() {
            let paths = comparison.in_the_way.iter().map(|number| self.path_of(*number)).collect();
            return Err(StoreError::OtherKind { paths });
        }
        if let Some(records) = records.filter(|_| comparison.has_hashed) {
            let saved = Record::save(records, &self.path, comparison.known(&self.manifest));
            saved.unwrap_or_else(|error| tracing::info!(%error, "hashes of the target are not remembered"));
        }
        Ok(comparison)
    }

    fn open_staging(&self) -> Result<Staging, StoreError> {
        let part = Path::new(&self.folder.part);
        let path = self.home.path_of(part);
        match self.home.make_folder(part) {
            Err(Errno::EXIST) => return Err(StoreError::InTheWay(path)),
            made => made.map_err(|error| self.home.failed("make the folder", part, error))?,
        };
        // Messages say where things will be.
        let tree = Tree::open(self.home.root(), &self.folder.part, self.path.clone())
            .map_err(|error| StoreError::from_io("open the folder", &path, error))?;
        Ok(Staging::new(Arc::new(tree), self.found.tree.clone(), Arc::clone(&self.manifest)))
    }

    /// Bytes that are still to be written, if there is room for them.
    fn check_room(
        &self,
        states: &[State],
        pieces: &PieceSet,
        survey: &Survey,
        tree: &Tree,
    ) -> Result<u64, StoreError> {
        let geometry = self.manifest.geometry();
        let (mut missing, mut room, mut all) = (0, 0u64, 0u64);
        let in_blocks = |bytes: &Range<u64>| (bytes.end - bytes.start).next_multiple_of(BLOCK);
        for piece in geometry.pieces() {
            for segment in geometry.segments(geometry.span_of(piece)) {
                if states[segment.file] != State::NotWanted {
                    all = all.saturating_add(in_blocks(&segment.bytes));
                }
                let is_missing = match states[segment.file] {
                    State::Open => !pieces.contains(piece),
                    State::Twin => true,
                    State::NotWanted | State::Settled => false,
                };
                if is_missing {
                    missing += segment.bytes.end - segment.bytes.start;
                    room = room.saturating_add(in_blocks(&segment.bytes));
                }
            }
        }
        // What is here and takes no room is a hole; what is not verified may take room already.
        let needed = room.min(all.saturating_sub(survey.occupied));
        match available(tree) {
            Some(available) if needed > available => {
                let full = StoreError::from_io("write", &self.path, Errno::NOSPC);
                Err(full.with_space(needed, available))
            }
            _ => Ok(missing),
        }
    }

    /// What is known of each file; what may lie in the staging folder and is not in the journal is hashed.
    fn settle(
        &self,
        staging: &Staging,
        survey: &Survey,
        (wanted, fetched): (&[bool], &[bool]),
        pieces: &PieceSet,
        is_ours: bool,
    ) -> Vec<State> {
        let files = self.manifest.geometry().folder().map_or(&[][..], |folder| folder.files());
        let state = |(wanted, fetched): (&bool, &bool)| match (*wanted, *fetched) {
            (_, true) => State::Open,
            (true, false) => State::Twin,
            (false, false) => State::NotWanted,
        };
        let mut states: Vec<State> = wanted.iter().zip(fetched).map(state).collect();
        let mut candidates = Vec::new();
        for (number, file) in files.iter().enumerate().filter(|(number, _)| survey.is_there[*number]) {
            let is_claimed = || file.span().pieces().all(|piece| pieces.contains(piece));
            let is_candidate = match states[number] {
                // Of a large file that is being fetched, the journal knows better.
                State::Open => !(is_ours && file.is_large() || is_claimed()),
                State::Twin => true,
                State::NotWanted | State::Settled => false,
            };
            if is_candidate {
                candidates.push(number);
            }
        }
        let hashing = |number: &usize| {
            let path = staging.file(*number).0.to_owned();
            let seen = staging.tree().stat(&path).ok().flatten()?;
            Some(Hashing { tree: staging.tree(), path, seen })
        };
        let (candidates, hashings): (Vec<usize>, Vec<_>) =
            candidates.iter().filter_map(|number| Some((*number, hashing(number)?))).unzip();
        for (number, root) in candidates.into_iter().zip(roots(&hashings)) {
            if root == Some(files[number].root()) {
                states[number] = State::Settled;
                staging.touched(number);
                staging.new_name(staging.file(number).0);
            }
        }
        states
    }

    /// What is known of files that are the same as another one. Where only such a one is there, that other one is copied
    /// from it.
    fn settle_twins(
        &self,
        staging: &Staging,
        pieces: &PieceSet,
        twins: &mut Twins,
        states: &mut [State],
    ) -> Result<(), StoreError> {
        let files = self.manifest.geometry().folder().map_or(&[][..], |folder| folder.files());
        let settled: Vec<Twin> = twins.iter().filter(|twin| states[twin.number] == State::Settled).collect();
        for Twin { number, first, .. } in settled {
            let is_claimed = || files[first].span().pieces().any(|piece| pieces.contains(piece));
            // What is claimed already must not be written again.
            if states[first] == State::Open && !is_claimed() {
                let (path, tree) = (staging.file(number).0, staging.tree());
                let seen = tree.stat(path).map_err(|error| tree.failed("look at", path, error))?;
                if seen.is_some_and(|seen| copy(staging, first, tree, path, &seen).is_ok_and(|copied| copied))
                {
                    states[first] = State::Settled;
                }
            }
            states[number] = State::Twin;
            twins.is_there(number);
        }
        Ok(())
    }

    /// The folders that the staging folder needs, in order: all, or those of files that are moved into the target.
    fn folders(&self, fates: &[Fate]) -> BTreeSet<&Path> {
        let mut folders = BTreeSet::new();
        // Files follow each other folder by folder: most are in that of the one before.
        let mut last = Path::new("");
        for (entry, _) in self.manifest.entries().iter().zip(fates).filter(|(_, fate)| **fate == Fate::Wanted)
        {
            let path = Path::new(entry.path.as_str());
            match entry.kind {
                EntryKind::Folder { .. } if self.found.tree.is_none() => {
                    folders.insert(path);
                }
                EntryKind::File { .. } if path.parent().map(Path::as_os_str) == Some(last.as_os_str()) => {}
                EntryKind::File { .. } => {
                    let above = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
                    folders.extend(above);
                    last = path.parent().unwrap_or(last);
                }
                EntryKind::Folder { .. } | EntryKind::Link { .. } => {}
            }
        }
        folders
    }

    /// Copies what the target has elsewhere.
    fn copy(
        &self,
        staging: &Staging,
        comparison: &Comparison,
        pieces: &PieceSet,
        states: &mut [State],
        summary: &mut Summary,
    ) -> Result<(), StoreError> {
        let Some(tree) = &self.found.tree else { return Ok(()) };
        let files = self.manifest.geometry().folder().map_or(&[][..], |folder| folder.files());
        for (number, file) in files.iter().enumerate() {
            // What is claimed already must not be written again.
            if states[number] != State::Open || file.span().pieces().any(|piece| pieces.contains(piece)) {
                continue;
            }
            if let Some((path, seen)) = comparison.places.get(&file.root())
                && copy(staging, number, tree, path, seen)?
            {
                states[number] = State::Settled;
                summary.copied.add(file.size());
            }
        }
        Ok(())
    }

    /// Older versions of what is missing.
    fn old_files(
        &self,
        staging: &Staging,
        survey: &Survey,
        comparison: &Comparison,
        states: &[State],
        (is_ours, twins): (bool, &Twins),
    ) -> Vec<OldFile> {
        let files = self.manifest.geometry().folder().map_or(&[][..], |folder| folder.files());
        let entry_of = |number: usize| self.manifest.with_bytes()[number] as usize;
        // What was at the place of a copy is as good.
        let of_twins: HashMap<usize, usize> = twins
            .iter()
            .filter(|twin| comparison.files.contains_key(&entry_of(twin.number)))
            .map(|twin| (twin.first, twin.number))
            .collect();
        let mut old = Vec::new();
        // A single chunk that is not right as a whole is not right at all.
        for (number, file) in files.iter().enumerate().filter(|(_, file)| file.span().count() > 1) {
            if states[number] != State::Open {
                continue;
            }
            if survey.is_there[number] && !is_ours {
                let (tree, path) = (Arc::clone(staging.tree()), staging.file(number).0.to_owned());
                old.push(OldFile { number, size: file.size(), tree, path, is_part: true, is_guess: false });
                continue;
            }
            let Some(tree) = &self.found.tree else { continue };
            let at = |number: usize| Some((staging.file(number).0, comparison.files.get(&entry_of(number))?));
            let known = at(number).or_else(|| at(*of_twins.get(&number)?));
            let guesses = if known.is_none() { comparison.near.guesses(entry_of(number)) } else { &[] };
            let guesses = guesses.iter().map(|(path, seen)| (path.as_path(), seen, true));
            for (path, seen, is_guess) in
                known.map(|(path, seen)| (path, seen, false)).into_iter().chain(guesses)
            {
                let (tree, path) = (Arc::clone(tree), path.to_owned());
                old.push(OldFile { number, size: seen.size, tree, path, is_part: false, is_guess });
            }
        }
        old
    }

    fn summarize(&self, comparison: &Comparison) -> Summary {
        let mut summary = Summary::default();
        for (entry, fate) in self.manifest.entries().iter().zip(&comparison.fates) {
            match (&entry.kind, fate) {
                (EntryKind::Link { .. }, Fate::Refused) => summary.refused_links.push(entry.path.clone()),
                (EntryKind::Folder { .. }, Fate::Wanted | Fate::Same) => summary.folders += 1,
                (EntryKind::Link { .. }, Fate::Wanted | Fate::Same) => summary.links += 1,
                (EntryKind::File { size, .. }, Fate::Wanted) => summary.selected.add(*size),
                (EntryKind::File { size, .. }, Fate::Same) => {
                    summary.selected.add(*size);
                    summary.same.add(*size);
                }
                _ => {}
            }
        }
        summary.extras = comparison.extras.iter().map(|path| self.path.join(path)).collect();
        summary.replaced = comparison.in_the_way.iter().map(|number| self.path_of(*number)).collect();
        if self.found.replaces {
            summary.replaced.push(self.path.clone());
        }
        summary
    }

    /// The path at the target of an entry.
    fn path_of(&self, number: usize) -> PathBuf {
        let Entry { path, .. } = &self.manifest.entries()[number];
        self.path.join(path.as_str())
    }
}
