//! Folders of files made from a seed, and the comparison of two of them: what is in them, and what is set on it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
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

    /// Changes what is below a folder as time does, differently for each `seed`: files are removed, cut, written to,
    /// renamed, there are more of them, and some got another time or mode. Of the large file always one byte is another one.
    pub fn age(folder: &Path, seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        for (number, (path, entry)) in Self::read(folder).entries().enumerate() {
            let at = folder.join(path);
            let changed = match entry {
                Entry::Link { .. } if dice.random_ratio(1, 3) => {
                    fs::remove_file(&at).and_then(|()| symlink("tool", &at))
                }
                Entry::Link { .. } => Ok(()),
                Entry::Folder { .. } if dice.random_ratio(1, 4) => {
                    let more = at.join("more");
                    fs::create_dir_all(&more)
                        .and_then(|()| fs::write(more.join("of it"), [number as u8; 100]))
                }
                Entry::Folder { .. } => Ok(()),
                Entry::File { .. } if path == Path::new("large") => flip(&at, dice.random()),
                Entry::File { executable, .. } => match dice.random_range(0..16) {
                    0 => fs::remove_file(&at),
                    1 => fs::write(&at, "new and short"),
                    2 => File::options().append(true).open(&at).and_then(|mut file| file.write_all(b"more")),
                    3 | 4 => flip(&at, dice.random()),
                    5 | 6 => fs::rename(&at, at.with_file_name(format!("renamed {number}"))),
                    7 => File::open(&at).and_then(|file| file.set_modified(SystemTime::now())),
                    8 => {
                        let mode = if *executable { 0o644 } else { 0o755 };
                        fs::set_permissions(&at, Permissions::from_mode(mode))
                    }
                    9 => fs::write(at.with_file_name(format!("one more {number}")), "another one"),
                    _ => Ok(()),
                },
            };
            changed.unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
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

    /// What is at this path.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// These entries, and those of another tree that have no other path.
    pub fn and(&self, other: &Tree) -> Tree {
        let entries = other.entries.iter().chain(&self.entries);
        Tree { entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect() }
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

    /// What of it a `get` makes: all but the links that lead out of it.
    pub fn as_fetched(&self) -> Tree {
        self.only(|path, entry| match entry {
            Entry::Link { target } => !leads_out(path, target),
            _ => true,
        })
    }

    /// Those entries of it that are `wanted`.
    pub fn only(&self, wanted: impl Fn(&Path, &Entry) -> bool) -> Tree {
        let entries = self.entries.iter().filter(|(path, entry)| wanted(path, entry));
        Tree { entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect() }
    }

    /// Fails the test unless `folder` holds exactly this.
    #[track_caller]
    pub fn expect_in(&self, folder: &Path) {
        let differences = self.differences(folder);
        assert!(differences.is_empty(), "{} differs:\n{}", folder.display(), differences.join("\n"));
    }
}

/// Whether a link at `path` names something that is not in the tree, read as it is written.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() as i32 - 1;
    target.components().any(|part| {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
        depth < 0
    })
}

/// Makes one byte of a file another one; of an empty file its only one.
fn flip(path: &Path, place: u64) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    let len = bytes.len().max(1);
    bytes.resize(len, 0);
    bytes[place as usize % len] ^= 0x55;
    fs::write(path, bytes)
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
    fn a_tree_that_ages_changes_in_all_ways() {
        let (folder, tree) = made(6);
        let aged = Tree::age(folder.path(), 7);
        let differences = tree.differences(folder.path());
        for what in ["missing", "does not belong", "instead of"] {
            assert!(differences.iter().any(|line| line.contains(what)), "no '{what}': {differences:?}");
        }
        let Some(Entry::File { size: 100_000, sha256, .. }) = aged.entry(Path::new("large")) else {
            panic!()
        };
        assert_ne!(*sha256, sha256_hex(&Content::new(6, 100_000).bytes));
        let (again, _) = made(6);
        assert_eq!(Tree::age(again.path(), 7).entries.len(), aged.entries.len());
        assert!(tree.and(&aged).entries.len() > tree.entries.len());
    }

    #[test]
    fn links_that_lead_out_are_not_fetched() {
        let (folder, tree) = made(5);
        let lead_out = ["/etc/hostname", "..", "empty folder/../../x"];
        for (number, target) in lead_out.iter().enumerate() {
            symlink(target, folder.path().join(format!("out {number}"))).unwrap();
        }
        symlink("../large", folder.path().join("empty folder/in")).unwrap();
        let all = Tree::read(folder.path());
        let fetched = all.as_fetched();
        assert_eq!(
            all.only(|path, _| !path.starts_with("empty folder/in")).as_fetched().entries.len() + 1,
            { fetched.entries.len() }
        );
        assert!(fetched.entries.contains_key(Path::new("empty folder/in")));
        assert!(!fetched.entries.keys().any(|path| path.to_string_lossy().starts_with("out ")));
        assert!(tree.as_fetched().entries.len() <= tree.entries.len());
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
