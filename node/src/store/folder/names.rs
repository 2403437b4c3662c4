//! Names that cannot be: our own, those that a file system does not take, and those that it takes for one and the same.
//!
//! Whether two names are one is asked of the file system itself, with empty files, where it is blind to case or to the
//! ways of writing a letter with an accent at all. So nothing here has to know its tables.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ftx_proto::manifest::{EntryKind, Manifest};
use ftx_proto::name::RelativePath;
use rustix::io::Errno;

use super::compare::Fate;
use super::tree::{Seen, Tree};
use crate::store::{StoreError, is_own_file};

/// A folder for trying names. No entry is called like this.
const PROBE: &str = ".names.ftx-part";

/// Refuses entries with names that unfinished files have.
pub(super) fn check_own(manifest: &Manifest, selected: &[bool], target: &Path) -> Result<(), StoreError> {
    let mut paths = manifest.entries().iter().zip(selected).filter(|(_, wanted)| **wanted);
    match paths.find(|(entry, _)| is_own_file(entry.path.file_name().as_ref())) {
        None => Ok(()),
        Some((entry, _)) => Err(StoreError::Entry {
            path: target.join(entry.path.as_str()),
            reason: "names like this are used for unfinished files",
        }),
    }
}

/// Refuses entries that this tree cannot have, or that would be one and the same file in it.
pub(super) fn check(manifest: &Manifest, fates: &[Fate], tree: &Tree) -> Result<(), StoreError> {
    let entries = || {
        let entries = manifest.entries().iter().zip(fates);
        entries.filter(|(_, fate)| matches!(fate, Fate::Wanted | Fate::Same)).map(|(entry, _)| entry)
    };
    let groups = alike(entries().map(|entry| &entry.path));
    let wanted = || {
        let entries = manifest.entries().iter().zip(fates);
        entries.filter(|(_, fate)| **fate == Fate::Wanted).map(|(entry, _)| entry)
    };
    let link = wanted().find(|entry| matches!(entry.kind, EntryKind::Link { .. }));
    let mut doubtful = wanted().filter(|entry| is_doubtful(entry.path.file_name())).peekable();
    if groups.is_empty() && link.is_none() && doubtful.peek().is_none() {
        return Ok(());
    }
    let probe = PathBuf::from(PROBE);
    let failed = |error| tree.failed("try names in", Path::new(""), error);
    let try_all = || {
        tree.make_folder(&probe).map_err(failed)?;
        for entry in doubtful {
            let tried = probe.join(entry.path.file_name());
            let made = tree.create_file(&tried, false).and_then(|_| tree.remove_file(&tried));
            made.map_err(|error| tree.failed("create", Path::new(entry.path.as_str()), error))?;
        }
        if let Some(link) = link {
            match tree.make_link("nowhere", &probe.join("link")) {
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let path = tree.path_of(Path::new(link.path.as_str()));
                    return Err(StoreError::Entry { path, reason: "this file system has no links" });
                }
                made => made.map_err(failed)?,
            }
        }
        if groups.is_empty() || !is_blind(tree, &probe).map_err(failed)? {
            return Ok(());
        }
        for group in groups {
            let found = find_same(&group, |path| {
                let file = tree.create_file(&probe.join(path.file_name()), false)?;
                Seen::of(&file).map(|seen| seen.inode)
            });
            if let Some((first, second)) = found.map_err(failed)? {
                let (first, second) = (first.clone(), second.clone());
                return Err(StoreError::SameName { path: tree.path_of(Path::new("")), first, second });
            }
            tree.remove_all(&probe).map_err(failed)?;
            tree.make_folder(&probe).map_err(failed)?;
        }
        Ok(())
    };
    let result = try_all();
    tree.remove_all(&probe).map_err(failed)?;
    result
}

/// Whether some file systems do not take a name. More than need be: they are asked.
fn is_doubtful(name: &str) -> bool {
    let is_special = |character: char| character.is_control() || "<>:\"|?*".contains(character);
    name.len() > NAME_LEN_SAFE || name.contains(is_special) || name.ends_with(['.', ' '])
}

/// Names of so many bytes are taken everywhere.
const NAME_LEN_SAFE: usize = 140;

/// Whether the file system takes one name for another at all.
fn is_blind(tree: &Tree, probe: &Path) -> rustix::io::Result<bool> {
    tree.create_file(&probe.join("name-\u{e9}"), false)?;
    for other in ["NAME-\u{e9}", "name-\u{c9}", "name-e\u{301}"] {
        if tree.stat(&probe.join(other))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Groups of paths in one folder whose names may be the same to some file system. More than need be: it is asked.
fn alike<'path>(paths: impl Iterator<Item = &'path RelativePath>) -> Vec<Vec<&'path RelativePath>> {
    let mut groups: HashMap<(&str, String), Vec<&RelativePath>> = HashMap::new();
    for path in paths {
        let folder = path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        groups.entry((folder, key(path.file_name()))).or_default().push(path);
    }
    let mut groups: Vec<_> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    groups
}

/// What is left of a name without case, and without everything that can be written in several ways.
fn key(name: &str) -> String {
    let mut key = String::new();
    for character in name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
        match character {
            // An accent: with the letter before it, it may also be one character.
            '\u{300}'..='\u{36f}' => {
                key.pop();
                // Its place is kept from a second accent on the same letter.
                key.push('\u{300}');
            }
            _ if character.is_ascii() => key.push(character),
            _ => key.push('\u{300}'),
        }
    }
    key.retain(|character| character.is_ascii());
    key
}

/// The first two paths of a group that have the same identity.
fn find_same<'path, Identity: std::hash::Hash + Eq, Error>(
    group: &[&'path RelativePath],
    mut identity: impl FnMut(&RelativePath) -> Result<Identity, Error>,
) -> Result<Option<(&'path RelativePath, &'path RelativePath)>, Error> {
    let mut seen = HashMap::new();
    for path in group {
        if let Some(first) = seen.insert(identity(path)?, *path) {
            return Ok(Some((first, path)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<RelativePath> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn names_that_some_file_system_takes_for_one_are_alike() {
        let same = [
            ("Readme", "README"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("CAF\u{c9}", "cafe\u{301}"),
            ("a\u{323}\u{302}x", "\u{1ead}X"),
            ("\u{212a}", "k"),
            ("\u{17f}et", "Set"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{416}.txt", "\u{436}.TXT"),
        ];
        for (one, other) in same {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("a1", "a2"), ("caf\u{e9}", "cafe")] {
            assert_ne!(key(one), key(other), "{one} {other}");
        }
    }

    #[test]
    fn names_that_not_everybody_takes_are_tried() {
        for name in ["a:b", "what?", "end.", "end ", "tab\t", &"x".repeat(141)] {
            assert!(is_doubtful(name), "{name}");
        }
        for name in ["a", "a.b", " a", ".hidden", "\u{e9}", &"x".repeat(140)] {
            assert!(!is_doubtful(name), "{name}");
        }
    }

    #[test]
    fn only_names_in_one_folder_are_alike() {
        let all = paths(&["A", "a", "a/B", "A/b", "a/c", "a/C", "b"]);
        let groups = alike(all.iter());
        let names: Vec<Vec<&str>> =
            groups.iter().map(|group| group.iter().map(|path| path.as_str()).collect()).collect();
        assert_eq!(names, [vec!["A", "a"], vec!["a/c", "a/C"]]);
    }

    #[test]
    fn the_file_system_decides() {
        let all = paths(&["x/one", "x/One", "x/ONE"]);
        let group: Vec<&RelativePath> = all.iter().collect();
        let blind = |path: &RelativePath| Ok::<_, ()>(path.as_str().to_lowercase());
        assert_eq!(find_same(&group, blind), Ok(Some((&all[0], &all[1]))));
        let sees = |path: &RelativePath| Ok::<_, ()>(path.as_str().to_owned());
        assert_eq!(find_same(&group, sees), Ok(None));
        assert_eq!(find_same(&group, |_| Err::<(), _>("disk")), Err("disk"));
    }
}
