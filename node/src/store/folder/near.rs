//! Files of the target that may be what a missing file was before: it was renamed or copied, and then changed.
//!
//! A large file that has no older version at its place may have one under the same name in another folder, or one of the
//! same size under any name. Whether it is one shows when a few of its pieces are compared ([`super::Found`]); so a guess
//! that is wrong costs a look at those, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use ftx_proto::geometry::PIECE_SIZE;

use super::tree::Seen;

/// Most files for which others are looked for.
const SOUGHT_MAX: usize = 256;

/// Most guesses for one file.
const GUESSES_MAX: usize = 4;

/// What is looked for, and what was found.
#[derive(Debug, Default)]
pub(super) struct Near {
    by_name: HashMap<OsString, Vec<usize>>,
    by_size: HashMap<u64, Vec<usize>>,
    /// By entry; the likelier ones first.
    found: BTreeMap<usize, Vec<(PathBuf, Seen)>>,
}

impl Near {
    /// Looks for these entries, given by path and size, as far as they are large.
    pub(super) fn sought<'a>(entries: impl Iterator<Item = (usize, &'a Path, u64)>) -> Self {
        let mut near = Near::default();
        for (entry, path, size) in entries.filter(|(.., size)| *size > PIECE_SIZE).take(SOUGHT_MAX) {
            near.by_name.entry(path.file_name().unwrap_or_default().to_owned()).or_default().push(entry);
            near.by_size.entry(size).or_default().push(entry);
        }
        near
    }

    /// Something is in the target.
    pub(super) fn look(&mut self, path: &Path, seen: &Seen) {
        if !seen.is_file() || seen.size <= PIECE_SIZE {
            return;
        }
        let of = |entries: Option<&Vec<usize>>| entries.cloned().unwrap_or_default();
        let named = of(self.by_name.get(path.file_name().unwrap_or(OsStr::new(""))));
        let sized = of(self.by_size.get(&seen.size));
        for entry in sized.into_iter().filter(|entry| !named.contains(entry)) {
            let guesses = self.found.entry(entry).or_default();
            if guesses.len() < GUESSES_MAX {
                guesses.push((path.to_owned(), *seen));
            }
        }
        for entry in named {
            let guesses = self.found.entry(entry).or_default();
            guesses.insert(0, (path.to_owned(), *seen));
            guesses.truncate(GUESSES_MAX);
        }
    }

    /// What may be an older version of an entry.
    pub(super) fn guesses(&self, entry: usize) -> &[(PathBuf, Seen)] {
        self.found.get(&entry).map_or(&[], Vec::as_slice)
    }
}
