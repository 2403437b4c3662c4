//! Which entries of a folder are wanted.
//!
//! A pattern with a `/` is matched with the whole path, where `*` stays within a name and `**` does not; one without is
//! matched with each name. What is in a folder that matches is as the folder. An exclusion always wins.

use std::collections::HashMap;
use std::path::Path;

use ftx_proto::manifest::{EntryKind, Manifest};
use glob::{MatchOptions, Pattern, PatternError};

/// Patterns of what is wanted, and of what is not. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// How a path stands to a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    included: bool,
    excluded: bool,
}

impl Standing {
    pub(super) fn is_wanted(self) -> bool {
        self.included && !self.excluded
    }
}

impl Selection {
    /// What matches one of `include`, or everything if there is none, and matches none of `exclude`.
    pub fn new(
        include: impl IntoIterator<Item = impl AsRef<str>>,
        exclude: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, PatternError> {
        // "/a" and "a/" are often meant as "a": everything is beneath one folder.
        let pattern = |text: &str| {
            let (from_top, text) = match text.strip_prefix('/') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            let text = text.strip_suffix('/').unwrap_or(text);
            // "./" is dropped by no one, so it marks a pattern for whole paths; see `matches`.
            let is_plain = from_top && !text.contains('/');
            Pattern::new(&if is_plain { format!("./{text}") } else { text.to_owned() })
        };
        Ok(Selection {
            include: include.into_iter().map(|text| pattern(text.as_ref())).collect::<Result<_, _>>()?,
            exclude: exclude.into_iter().map(|text| pattern(text.as_ref())).collect::<Result<_, _>>()?,
        })
    }

    /// How the folder itself stands to it.
    pub(super) fn top(&self) -> Standing {
        Standing { included: self.include.is_empty(), excluded: false }
    }

    /// How a path stands to it, when this is how the folder stands that it is in.
    pub(super) fn standing(&self, above: Standing, path: &Path) -> Standing {
        Standing {
            included: above.included || matches(&self.include, path),
            excluded: above.excluded || matches(&self.exclude, path),
        }
    }

    /// For each entry, whether it is wanted. Folders are as far as something in them is.
    pub(super) fn of(&self, manifest: &Manifest) -> Vec<bool> {
        let entries = manifest.entries();
        let mut folders: HashMap<&str, (usize, Standing)> = HashMap::new();
        let mut wanted = vec![false; entries.len()];
        for (number, entry) in entries.iter().enumerate() {
            let path = entry.path.as_str();
            let above = path.rsplit_once('/').and_then(|(above, _)| folders.get(above));
            let standing =
                self.standing(above.map_or(self.top(), |(_, standing)| *standing), Path::new(path));
            wanted[number] = standing.is_wanted();
            if matches!(entry.kind, EntryKind::Folder { .. }) {
                folders.insert(path, (number, standing));
            }
        }
        // What is in a folder stands behind it.
        for number in (0..entries.len()).rev() {
            if wanted[number]
                && let Some((above, _)) = entries[number].path.as_str().rsplit_once('/')
                && let Some((folder, _)) = folders.get(above)
            {
                wanted[*folder] = true;
            }
        }
        wanted
    }
}

fn matches(patterns: &[Pattern], path: &Path) -> bool {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let whole = path.to_string_lossy();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    patterns.iter().any(|pattern| match pattern.as_str().strip_prefix("./") {
        Some(_) => pattern.matches_with(&format!("./{whole}"), options),
        None if pattern.as_str().contains('/') => pattern.matches_with(&whole, options),
        None => pattern.matches_with(&name, options),
    })
}

#[cfg(test)]
mod tests {
    use ftx_proto::manifest::Entry;
    use ftx_proto::merkle::empty_root;

    use super::*;

    /// What of these is wanted. A path that ends in `/` is a folder.
    fn wanted(include: &[&str], exclude: &[&str], paths: &[&str]) -> Vec<String> {
        let entry = |path: &&str| {
            let kind = if path.ends_with('/') {
                EntryKind::Folder { mtime: (0, 0) }
            } else {
                EntryKind::File { size: 0, root: empty_root(), executable: false, mtime: (0, 0) }
            };
            Entry { path: path.trim_end_matches('/').parse().unwrap(), kind }
        };
        let manifest = Manifest::new(paths.iter().map(entry).collect()).unwrap();
        let wanted = Selection::new(include, exclude).unwrap().of(&manifest);
        let entries = manifest.entries().iter().zip(wanted).filter(|(_, wanted)| *wanted);
        entries.map(|(entry, _)| entry.path.to_string()).collect()
    }

    const TREE: [&str; 9] =
        ["a/", "a-b.log", "a/b/", "a/b/c.txt", "a/b/d.log", "a/empty/", "docs/", "docs/x.txt", "e.txt"];

    #[test]
    fn everything_unless_told_otherwise() {
        assert_eq!(wanted(&[], &[], &TREE).len(), TREE.len());
    }

    #[test]
    fn names_match_anywhere_and_paths_as_a_whole() {
        assert_eq!(wanted(&["*.log"], &[], &TREE), ["a", "a-b.log", "a/b", "a/b/d.log"]);
        assert_eq!(wanted(&["a/*/*.txt"], &[], &TREE), ["a", "a/b", "a/b/c.txt"]);
        assert_eq!(wanted(&["a/*.txt"], &[], &TREE), [""; 0]);
        assert_eq!(wanted(&["**/*.txt"], &[], &TREE).len(), 6);
        assert_eq!(wanted(&["/*.log"], &[], &TREE), ["a-b.log"]);
    }

    #[test]
    fn what_is_in_a_folder_is_as_the_folder() {
        assert_eq!(wanted(&["docs"], &[], &TREE), ["docs", "docs/x.txt"]);
        assert_eq!(wanted(&["docs/"], &[], &TREE), ["docs", "docs/x.txt"]);
        assert_eq!(wanted(&["empty"], &[], &TREE), ["a", "a/empty"]);
        assert_eq!(wanted(&[], &["a"], &TREE), ["a-b.log", "docs", "docs/x.txt", "e.txt"]);
        assert_eq!(wanted(&[], &["/b"], &TREE).len(), TREE.len());
    }

    #[test]
    fn an_exclusion_wins() {
        assert_eq!(wanted(&["*.txt"], &["a/b"], &TREE), ["docs", "docs/x.txt", "e.txt"]);
        assert_eq!(wanted(&["a/b/c.txt"], &["a"], &TREE), [""; 0]);
        assert!(Selection::new(["["], [""; 0]).is_err());
    }
}
