//! What is at the target already: which entries are right, and where else their bytes are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use ftx_proto::digest::Root;
use ftx_proto::manifest::{EntryKind, Manifest, may_lead_out};
use rustix::io::Errno;

use super::hashing::{Hashing, roots};
use super::near::Near;
use super::record::Record;
use super::select::{Selection, Standing};
use super::tree::{Seen, Tree};
use crate::store::{StoreError, is_own_file};

/// Most things that may be removed because they are not in the folder.
const EXTRAS_MAX: usize = 1 << 20;

/// What is to happen with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing: it is not asked for.
    LeftOut,
    /// Nothing: it is a link that may lead out of the folder.
    Refused,
    /// It is there already; its times and permissions may differ.
    Same,
    /// It has to be made.
    Wanted,
}

/// The target, compared with what it is to be.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// One for each entry.
    pub(super) fates: Vec<Fate>,
    /// What the files and folders are that are there, right or wrong, by their entries.
    pub(super) files: BTreeMap<usize, Seen>,
    /// Entries whose place is taken by what cannot be replaced by a file: a folder, or what should be one.
    pub(super) in_the_way: Vec<usize>,
    /// What is in the target and not in the folder, and goes if that is wanted; what is in a folder behind it.
    pub(super) extras: Vec<PathBuf>,
    /// What may be older versions of files that have none at their places.
    pub(super) near: Near,
    /// Where in the target contents are.
    pub(super) places: HashMap<Root, (PathBuf, Seen)>,
    /// Whether files were hashed, which is worth remembering.
    pub(super) has_hashed: bool,
}

/// What is asked of a comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) selection: &'a Selection,
    /// Which entries are selected.
    pub(super) selected: &'a [bool],
    pub(super) links: bool,
    pub(super) delete: bool,
}

impl Comparison {
    /// Where nothing is there.
    pub(super) fn with_nothing(asked: Asked<'_>) -> Self {
        Comparison { fates: asked.fates(), ..Comparison::default() }
    }

    /// With what is in `tree`.
    pub(super) fn with(asked: Asked<'_>, tree: &Tree, record: &Record) -> Result<Self, StoreError> {
        let mut comparison = Self::with_nothing(asked);
        let unknown = comparison.look(asked, tree, record)?;
        comparison.hash(asked, tree, unknown);
        let missing: HashSet<u64> = comparison.missing(asked.manifest).map(|(_, size, _)| size).collect();
        if asked.delete || !missing.is_empty() {
            comparison.search(asked, tree, record, &missing)?;
        }
        Ok(comparison)
    }

    /// The files with bytes that are to be made: their entries, sizes and roots.
    pub(super) fn missing<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> impl Iterator<Item = (usize, u64, Root)> + 'a {
        manifest.entries().iter().enumerate().filter_map(|(number, entry)| match entry.kind {
            EntryKind::File { size, root, .. } if size > 0 && self.fates[number] == Fate::Wanted => {
                Some((number, size, root))
            }
            _ => None,
        })
    }

    /// The files of the target whose roots are known.
    pub(super) fn known<'a>(
        &'a self,
        manifest: &'a Manifest,
    ) -> impl Iterator<Item = (&'a Path, Seen, Root)> + 'a {
        let same = self.files.iter().filter(|(number, _)| self.fates[**number] == Fate::Same);
        let same = same.filter_map(|(number, seen)| {
            let entry = manifest.entries().get(*number)?;
            let EntryKind::File { root, .. } = entry.kind else { return None };
            Some((Path::new(entry.path.as_str()), *seen, root))
        });
        same.chain(self.places.iter().map(|(root, (path, seen))| (path.as_path(), *seen, *root)))
    }

    /// Looks at what has the names of the entries. Returns the files that have the right size, and no known root.
    fn look(&mut self, asked: Asked<'_>, tree: &Tree, record: &Record) -> Result<Vec<usize>, StoreError> {
        let mut unknown = Vec::new();
        for (number, entry) in asked.manifest.entries().iter().enumerate() {
            if self.fates[number] != Fate::Wanted {
                continue;
            }
            let path = Path::new(entry.path.as_str());
            let seen = tree.stat(path).map_err(|error| tree.failed("look at", path, error))?;
            let Some(seen) = seen else { continue };
            match &entry.kind {
                EntryKind::Folder { .. } if seen.is_folder() => {
                    self.fates[number] = Fate::Same;
                    self.files.insert(number, seen);
                }
                EntryKind::Folder { .. } => self.in_the_way.push(number),
                _ if seen.is_folder() => self.in_the_way.push(number),
                EntryKind::Link { target } => {
                    let is_link = seen.kind.is_symlink();
                    if is_link && tree.read_link(path).is_ok_and(|found| found == target.as_bytes()) {
                        self.fates[number] = Fate::Same;
                    }
                }
                EntryKind::File { size, .. } if seen.is_file() => {
                    self.files.insert(number, seen);
                    match record.find(path, &seen) {
                        _ if *size == 0 && seen.size == 0 => self.fates[number] = Fate::Same,
                        Some(root) => self.found(asked.manifest, number, root),
                        None if seen.size == *size => unknown.push(number),
                        None => {}
                    }
                }
                EntryKind::File { .. } => {}
            }
        }
        Ok(unknown)
    }

    /// Takes in that the file of an entry has this root.
    fn found(&mut self, manifest: &Manifest, number: usize, found: Root) {
        let (Some(entry), Some(seen)) = (manifest.entries().get(number), self.files.get(&number)) else {
            return;
        };
        if matches!(entry.kind, EntryKind::File { root, .. } if root == found) {
            self.fates[number] = Fate::Same;
        }
        self.places.entry(found).or_insert_with(|| (PathBuf::from(entry.path.as_str()), *seen));
    }

    fn hash(&mut self, asked: Asked<'_>, tree: &Tree, unknown: Vec<usize>) {
        let entries = asked.manifest.entries();
        let hashing = |number: &usize| {
            let path = PathBuf::from(entries.get(*number)?.path.as_str());
            Some(Hashing { tree, path, seen: *self.files.get(number)? })
        };
        let files: Vec<_> = unknown.iter().filter_map(hashing).collect();
        for (number, root) in unknown.iter().zip(roots(&files)) {
            if let Some(root) = root {
                self.found(asked.manifest, *number, root);
                self.has_hashed = true;
            }
        }
    }

    /// Looks through the whole target: for what is not in the folder, and for files that may be those that are missing.
    fn search(
        &mut self,
        asked: Asked<'_>,
        tree: &Tree,
        record: &Record,
        sizes: &HashSet<u64>,
    ) -> Result<(), StoreError> {
        let entries = asked.manifest.entries();
        let is_entry = |path: &Path| {
            path.to_str()
                .is_some_and(|path| entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).is_ok())
        };
        // On a file system that is blind to case, the name in a listing may be another one than was asked for.
        let known: HashSet<(u64, u64)> = self.files.values().map(|seen| seen.inode).collect();
        let path_of = |number: usize| Path::new(entries[number].path.as_str());
        let missing = self.missing(asked.manifest).filter(|(number, ..)| !self.files.contains_key(number));
        let mut near = Near::sought(missing.map(|(number, size, _)| (number, path_of(number), size)));
        self.files.iter().for_each(|(number, seen)| near.look(path_of(*number), seen));
        let mut candidates = Vec::new();
        let mut folders = vec![(PathBuf::new(), asked.selection.top())];
        while let Some((folder, above)) = folders.pop() {
            let listed = match tree.list(&folder) {
                // Deeper than can be named, or not to be looked into: nothing of ours is there.
                Err(Errno::NAMETOOLONG | Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => continue,
                listed => listed.map_err(|error| tree.failed("list", &folder, error))?,
            };
            for (name, kind) in listed {
                let path = folder.join(&name);
                if is_own_file(&name) {
                    continue;
                }
                let standing = asked.selection.standing(above, &path);
                if kind.is_dir() {
                    folders.push((path.clone(), standing));
                }
                if is_entry(&path) {
                    continue;
                }
                let seen = tree.stat(&path).ok().flatten();
                if seen.is_some_and(|seen| known.contains(&seen.inode) && seen.links == 1) {
                    continue;
                }
                if let Some(seen) = &seen {
                    near.look(&path, seen);
                }
                if let Some(seen) = seen.filter(|seen| seen.is_file() && sizes.contains(&seen.size)) {
                    candidates.push(Hashing { tree, path: path.clone(), seen });
                }
                self.extra(asked, tree, standing, path)?;
            }
        }
        self.near = near;
        // A folder before what is in it.
        self.extras.sort();
        let (remembered, unknown): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|file| record.find(&file.path, &file.seen).is_some());
        let of_unknown = roots(&unknown);
        let of_remembered = remembered.iter().map(|file| record.find(&file.path, &file.seen));
        let roots: Vec<_> = of_remembered.chain(of_unknown).collect();
        for (file, root) in remembered.into_iter().chain(unknown).zip(roots) {
            if let Some(root) = root {
                self.places.entry(root).or_insert((file.path, file.seen));
            }
        }
        Ok(())
    }

    fn extra(
        &mut self,
        asked: Asked<'_>,
        tree: &Tree,
        standing: Standing,
        path: PathBuf,
    ) -> Result<(), StoreError> {
        if asked.delete && standing.is_wanted() {
            if self.extras.len() >= EXTRAS_MAX {
                let error = std::io::Error::other("too much of what is there is not in the folder");
                return Err(StoreError::from_io("clean up", &tree.path_of(Path::new("")), error));
            }
            self.extras.push(path);
        }
        Ok(())
    }
}

impl Asked<'_> {
    /// What is to happen with each entry if nothing is there.
    fn fates(self) -> Vec<Fate> {
        let entries = self.manifest.entries().iter().zip(self.selected);
        entries
            .map(|(entry, selected)| match &entry.kind {
                _ if !selected => Fate::LeftOut,
                EntryKind::Link { .. } if !self.links => Fate::LeftOut,
                EntryKind::Link { target } if may_lead_out(&entry.path, target) => Fate::Refused,
                _ => Fate::Wanted,
            })
            .collect()
    }
}
