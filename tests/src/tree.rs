//! Folders of files made from a seed, and the comparison of two of them: what is in them, and what is set on it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::Content;
use crate::data::{MIB, sha256_hex};

/// What is below a folder, by path; the folder itself is not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder, and when it was last changed.
    Folder {
        /// In nanoseconds since 1970.
        mtime: i128,
    },
    /// A file.
    File {
        /// In bytes.
        size: u64,
        /// Of all its bytes, as 64 hex digits.
        sha256: String,
        /// Whether its owner may execute it.
        executable: bool,
        /// In nanoseconds since 1970.
        mtime: i128,
    },
    /// A link, whose time nobody keeps.
    Link {
        /// Where it leads, as it is written down.
        target: PathBuf,
    },
}

/// What a made-up tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Entries besides those that every tree has.
    pub entries: usize,
    /// Bytes of the largest files; there is at least one of them.
    pub large: usize,
    /// Most bytes of all files together.
    pub bytes_max: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { entries: 60, large: 3 * MIB + 17, bytes_max: 16 * MIB }
    }
}

impl Tree {
    /// Fills an empty folder with a tree from `seed`: nested folders and empty ones, files without a byte, small and large
    /// ones, some to be executed, links that lead somewhere and nowhere, and names with odd characters.
    pub fn make(folder: &Path, seed: u64, shape: Shape) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut folders = vec![PathBuf::new()];
        let mut left = shape.bytes_max.saturating_sub(shape.large + TOOL_LEN);
        let make = |path: &Path, kind: Kind| {
            let at = folder.join(path);
            match kind {
                Kind::Folder => fs::create_dir(&at).expect("a folder is made"),
                Kind::Link(target) => symlink(target, &at).expect("a link is made"),
                Kind::File { seed, size, executable } => {
                    fs::write(&at, Content::new(seed, size).bytes).expect("a file is written");
                    let mode = if executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&at, Permissions::from_mode(mode)).expect("its mode is set");
                }
            }
        };
        // What a tree must have to be worth a test.
        make(Path::new("empty folder"), Kind::Folder);
        make(Path::new("empty file"), Kind::File { seed, size: 0, executable: false });
        make(Path::new("large"), Kind::File { seed, size: shape.large, executable: false });
        make(Path::new("tool"), Kind::File { seed: seed ^ 1, size: TOOL_LEN, executable: true });
        make(Path::new("to large"), Kind::Link("large".into()));
        make(Path::new("to nowhere"), Kind::Link("no/such/file".into()));
        for number in 0..shape.entries {
            let within = &folders[dice.random_range(0..folders.len())];
            let odd = ODD_NAMES[dice.random_range(0..ODD_NAMES.len())];
            // The number keeps names apart that a file system may take for the same.
            let path = within.join(format!("{odd}{number}"));
            let kind = match dice.random_range(0..20) {
                0..=4 => Kind::Folder,
                5 | 6 => Kind::Link(ODD_TARGETS[dice.random_range(0..ODD_TARGETS.len())].into()),
                _ => {
                    let size = size_of_file(&mut dice, shape.large).min(left);
                    left -= size;
                    Kind::File { seed: dice.random(), size, executable: dice.random_ratio(1, 5) }
                }
            };
            let is_folder = matches!(kind, Kind::Folder);
            make(&path, kind);
            if is_folder && path.components().count() < DEPTH_MAX {
                folders.push(path);
            }
        }
        set_times(folder, &mut dice).expect("times are set");
        Self::read(folder)
    }

    /// What is below this folder.
    pub fn read(folder: &Path) -> Self {
        let mut entries = BTreeMap::new();
        read_into(&mut entries, folder, Path::new(""))
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Tree { entries }
    }

    /// All entries, in order of their paths.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// The bytes of all files.
    pub fn size(&self) -> u64 {
        let size = |entry: &Entry| if let Entry::File { size, .. } = entry { *size } else { 0 };
        self.entries.values().map(size).sum()
    }

    /// How `folder` differs from this, a line for each difference: what is missing, what is not the same, what is there
    /// besides.
    pub fn differences(&self, folder: &Path) -> Vec<String> {
        let found = Self::read(folder);
        let mut differences = Vec::new();
        for (path, right) in &self.entries {
            match found.entries.get(path) {
                None => differences.push(format!("{path:?} is missing")),
                Some(entry) if entry != right => {
                    differences.push(format!("{path:?} is {entry:?} instead of {right:?}"));
                }
                Some(_) => {}
            }
        }
        let besides = found.entries.keys().filter(|path| !self.entries.contains_key(*path));
        differences.extend(besides.map(|path| format!("{path:?} does not belong there")));
        differences
    }

    /// Fails the test unless `folder` holds exactly this.
    #[track_caller]
    pub fn expect_in(&self, folder: &Path) {
        let differences = self.differences(folder);
        assert!(differences.is_empty(), "{} differs:\n{}", folder.display(), differences.join("\n"));
    }
}

enum Kind {
    Folder,
    File { seed: u64, size: usize, executable: bool },
    Link(PathBuf),
}

/// Around the sizes at which files are cut, mostly small.
fn size_of_file(dice: &mut ChaCha8Rng, large: usize) -> usize {
    let chunk = 16 * 1024;
    match dice.random_range(0..12) {
        0 => 0,
        1..=5 => dice.random_range(1..2_000),
        6 => chunk - 1,
        7 => chunk,
        8 => chunk + 1,
        9 => MIB + dice.random_range(0..3) - 1,
        10 => dice.random_range(chunk..MIB),
        _ => large,
    }
}

/// Sets times of files and folders to moments of the past, the innermost first: a change within changes the folder.
fn set_times(folder: &Path, dice: &mut ChaCha8Rng) -> io::Result<()> {
    let mut entries: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    // In the order of the system the seed would not say which has which.
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            continue;
        }
        if metadata.is_dir() {
            set_times(&path, dice)?;
        }
        let since_1970 =
            Duration::new(dice.random_range(0..1_700_000_000), dice.random_range(0..1_000_000_000));
        File::open(&path)?.set_modified(SystemTime::UNIX_EPOCH + since_1970)?;
    }
    Ok(())
}

fn read_into(entries: &mut BTreeMap<PathBuf, Entry>, root: &Path, within: &Path) -> io::Result<()> {
    for found in fs::read_dir(root.join(within))? {
        let path = within.join(found?.file_name());
        let metadata = fs::symlink_metadata(root.join(&path))?;
        let mtime = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let entry = if metadata.is_dir() {
            read_into(entries, root, &path)?;
            Entry::Folder { mtime }
        } else if metadata.is_symlink() {
            Entry::Link { target: fs::read_link(root.join(&path))? }
        } else {
            let sha256 = sha256_hex(&fs::read(root.join(&path))?);
            Entry::File { size: metadata.len(), sha256, executable: metadata.mode() & 0o100 != 0, mtime }
        };
        entries.insert(path, entry);
    }
    Ok(())
}

/// Bytes of the file that every tree has to be executed.
const TOOL_LEN: usize = 16 * 1024;

/// How deep folders lie in each other at most.
const DEPTH_MAX: usize = 6;

/// Beginnings of names that programs get wrong.
const ODD_NAMES: [&str; 14] = [
    "plain",
    ".hidden",
    " leading space",
    "-rf",
    "quote'\"",
    "new\nline",
    "dollar$HOME",
    "star*?[a]",
    "percent%20%s",
    "ümlaut",
    "u\u{308}mlaut",
    "漢字🎈",
    "colon:semi;",
    "~tilde#",
];

/// Targets of links: within the tree and out of it, absolute ones, and what is none at all.
const ODD_TARGETS: [&str; 5] = ["../..", "/etc/hostname", "empty file", ".", "a name that is\nnowhere"];

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn made(seed: u64) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape { entries: 40, large: 100_000, bytes_max: MIB };
        let tree = Tree::make(folder.path(), seed, shape);
        (folder, tree)
    }

    #[test]
    fn a_seed_always_makes_the_same_tree_of_every_kind_of_entry() {
        let ((first, tree), (second, other)) = (made(1), made(2));
        assert_eq!(made(1).1, tree);
        tree.expect_in(first.path());
        assert!(!tree.differences(second.path()).is_empty() && tree != other);
        let count = |wanted: fn(&Entry) -> bool| tree.entries().filter(|(_, entry)| wanted(entry)).count();
        assert!(count(|entry| matches!(entry, Entry::Folder { .. })) > 3);
        assert!(count(|entry| matches!(entry, Entry::Link { .. })) > 2);
        assert!(count(|entry| matches!(entry, Entry::File { executable: true, .. })) > 1);
        assert!(tree.entries().any(|(path, _)| path.components().count() > 2));
        assert!(tree.size() <= MIB as u64 && tree.size() > 100_000);
    }

    #[test]
    fn every_difference_is_noticed() {
        type Damage = fn(&Path) -> io::Result<()>;
        let damages: [(&str, Damage); 9] = [
            ("large", |root| fs::write(root.join("large"), vec![0; 100_000])),
            ("large", |root| File::options().write(true).open(root.join("large"))?.set_len(99_999)),
            ("empty file", |root| fs::remove_file(root.join("empty file"))),
            ("empty folder", |root| fs::remove_dir(root.join("empty folder"))),
            ("more", |root| fs::write(root.join(".more.ftx-part"), "")),
            ("tool", |root| fs::set_permissions(root.join("tool"), Permissions::from_mode(0o644))),
            ("tool", |root| File::open(root.join("tool"))?.set_modified(SystemTime::now())),
            ("empty folder", |root| File::open(root.join("empty folder"))?.set_modified(SystemTime::now())),
            ("to large", |root| {
                fs::remove_file(root.join("to large"))?;
                symlink("tool", root.join("to large"))
            }),
        ];
        for (what, damage) in damages {
            let (folder, tree) = made(3);
            damage(folder.path()).unwrap();
            let differences = tree.differences(folder.path());
            assert!(differences.len() == 1 && differences[0].contains(what), "{what}: {differences:?}");
        }
    }

    #[test]
    fn names_are_as_odd_as_they_are_listed() {
        let (_folder, tree) = made(4);
        let has = |part: &str| {
            let within = |name: &OsStr| name.to_string_lossy().contains(part);
            tree.entries().any(|(path, _)| path.file_name().is_some_and(within))
        };
        assert!(ODD_NAMES.iter().filter(|name| has(name)).count() > ODD_NAMES.len() / 2);
    }
}
