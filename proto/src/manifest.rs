//! What a folder holds: the manifest that its root stands for.
//!
//! Entries in the order of their paths, every folder on the way among them. The folder's root is a SHA-256 over all of it
//! but the times: copies that were made without keeping times are the same folder, as they are for files. So times are
//! what whoever sent the manifest says, and nothing but that.
//!
//! The bytes of all files together are one content with a name of its own ([`Manifest::data_root`]) that follows from the
//! root; [`Geometry::of_folder`] says how it is cut. The encoded manifest is an ordinary content, with a Merkle root.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use crate::digest::Root;
use crate::geometry::{FolderTooLarge, Geometry};
use crate::limits::{LINK_TARGET_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_ENTRIES_MAX, PATH_PARTS_MAX};
use crate::merkle::empty_root;
use crate::name::{RelativePath, has_drive};
use crate::wire::codec::{self, Decode, DecodeError, Encode};

/// What every encoded manifest of version 1 begins with.
const MAGIC: [u8; 8] = *b"FTXTREE\x01";

/// A folder's contents: checked, and in the one right order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    root: Root,
    geometry: Geometry,
    /// For each file with bytes, in order, the number of its entry.
    with_bytes: Vec<u32>,
}

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Where it is, seen from the folder.
    pub path: RelativePath,
    /// What it is.
    pub kind: EntryKind,
}

/// Seconds and nanoseconds since 1970 of the last change.
pub type Mtime = (i64, u32);

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// A folder; what is in it are entries of their own.
    Folder {
        /// Its last change.
        mtime: Mtime,
    },
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Its root.
        root: Root,
        /// Whether it may be executed.
        executable: bool,
        /// Its last change.
        mtime: Mtime,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
    },
}

/// Why entries are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// An entry is not behind the one before it.
    #[error("'{0}' is not in its order, or there twice")]
    Order(RelativePath),
    /// The folder that an entry is in is no entry, or no folder.
    #[error("'{0}' is in no folder")]
    Parent(RelativePath),
    /// An empty file with another root than all of them have.
    #[error("'{0}' is empty and has the root of something else")]
    Empty(RelativePath),
    /// A time has more nanoseconds than a second.
    #[error("'{0}' has a time that is none")]
    Time(RelativePath),
    /// The target of a link is empty, too long, or has a NUL.
    #[error("'{0}' links to nothing that can be")]
    Link(RelativePath),
    /// More than the protocol names.
    #[error("the folder has more than the {MANIFEST_ENTRIES_MAX} entries that are fetched at once")]
    TooMany,
    /// More bytes than the protocol names.
    #[error(transparent)]
    TooLarge(#[from] FolderTooLarge),
    /// Its encoding would be longer than is allowed.
    #[error(
        "the names in the folder are longer than the {MANIFEST_BYTES_MAX} bytes that are fetched at once"
    )]
    TooLong,
    /// Not an encoded manifest.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Manifest {
    /// The manifest of a folder with these entries, which must be in the order of their paths.
    pub fn new(entries: Vec<Entry>) -> Result<Self, ManifestError> {
        if entries.len() > MANIFEST_ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        check(&entries)?;
        let root = root_of(&entries);
        let mut with_bytes = Vec::new();
        let mut files = Vec::new();
        for (number, entry) in (0u32..).zip(&entries) {
            if let EntryKind::File { size, root, .. } = entry.kind
                && size > 0
            {
                with_bytes.push(number);
                files.push((size, root));
            }
        }
        let geometry = Geometry::of_folder(data_root(root), files)?;
        Ok(Manifest { entries, root, geometry, with_bytes })
    }

    /// The manifest that `bytes` are.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let body = bytes.strip_prefix(&MAGIC).ok_or(DecodeError::Magic)?;
        Manifest::new(codec::decode_list(body, MANIFEST_ENTRIES_MAX)?)
    }

    /// The bytes that [`Manifest::decode`] takes.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(codec::encode(&self.entries));
        if bytes.len() <= MANIFEST_BYTES_MAX { Ok(bytes) } else { Err(ManifestError::TooLong) }
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The root of the folder.
    pub fn root(&self) -> Root {
        self.root
    }

    /// The name of the bytes of all files together.
    pub fn data_root(&self) -> Root {
        data_root(self.root)
    }

    /// How the bytes of all files together are cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// For each file of [`Geometry::folder`], by its number there, the number of its entry.
    pub fn with_bytes(&self) -> &[u32] {
        &self.with_bytes
    }

    /// The entry of a file of [`Geometry::folder`], by its number there.
    pub fn file(&self, number: usize) -> Option<&Entry> {
        self.entries.get(*self.with_bytes.get(number)? as usize)
    }
}

/// The name of the bytes of all files of the folder with this root.
pub fn data_root(root: Root) -> Root {
    let mut hasher = Sha256::new();
    hasher.update(b"ftx folder data 1\0");
    hasher.update(root.0);
    Root(hasher.finalize().into())
}

/// Whether a link at `path` in a folder may lead out of it, whatever other links are there.
///
/// `..` are good at the beginning only, where they go through real folders: behind a name that is a link itself, nobody
/// knows where they lead.
pub fn may_lead_out(path: &RelativePath, target: &str) -> bool {
    let mut room = path.parts().count() - 1;
    let mut has_name = false;
    if target.starts_with('/')
        || has_drive(target)
        || target.contains('\\')
        || target.split('/').count() > PATH_PARTS_MAX
    {
        return true;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if has_name || room == 0 => return true,
            ".." => room -= 1,
            _ => has_name = true,
        }
    }
    false
}

fn check(entries: &[Entry]) -> Result<(), ManifestError> {
    // Folders that are open: a folder's entries need not follow it directly ("a", "a-b", "a/c").
    let mut folders: HashSet<&str> = HashSet::new();
    let mut last: Option<&RelativePath> = None;
    for Entry { path, kind } in entries {
        if last.is_some_and(|last| last >= path) {
            return Err(ManifestError::Order(path.clone()));
        }
        last = Some(path);
        if let Some((parent, _)) = path.as_str().rsplit_once('/')
            && !folders.contains(parent)
        {
            return Err(ManifestError::Parent(path.clone()));
        }
        if let EntryKind::Folder { mtime: (_, nanos) } | EntryKind::File { mtime: (_, nanos), .. } = kind
            && *nanos >= 1_000_000_000
        {
            return Err(ManifestError::Time(path.clone()));
        }
        match kind {
            EntryKind::Folder { .. } => {
                folders.insert(path.as_str());
            }
            EntryKind::File { size: 0, root, .. } if *root != empty_root() => {
                return Err(ManifestError::Empty(path.clone()));
            }
            EntryKind::File { .. } => {}
            EntryKind::Link { target } => {
                if target.is_empty() || target.len() > LINK_TARGET_BYTES_MAX || target.contains('\0') {
                    return Err(ManifestError::Link(path.clone()));
                }
            }
        }
    }
    Ok(())
}

/// Every field at a fixed width or with its length before it, so that no two folders have the same bytes.
fn root_of(entries: &[Entry]) -> Root {
    let mut hasher = Sha256::new();
    hasher.update(b"ftx folder 1\0");
    let text = |hasher: &mut Sha256, text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    for Entry { path, kind } in entries {
        text(&mut hasher, path.as_str());
        match kind {
            EntryKind::Folder { mtime: _ } => hasher.update([0]),
            EntryKind::File { size, root, executable, mtime: _ } => {
                hasher.update([1, u8::from(*executable)]);
                hasher.update(size.to_le_bytes());
                hasher.update(root.0);
            }
            EntryKind::Link { target } => {
                hasher.update([2]);
                text(&mut hasher, target);
            }
        }
    }
    Root(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;
    use crate::geometry::CHUNK_SIZE;

    fn path(text: &str) -> RelativePath {
        text.parse().unwrap()
    }

    fn folder(text: &str) -> Entry {
        Entry { path: path(text), kind: EntryKind::Folder { mtime: (1, 2) } }
    }

    fn file(text: &str, size: u64) -> Entry {
        let root = if size == 0 { empty_root() } else { Root([3; 32]) };
        Entry { path: path(text), kind: EntryKind::File { size, root, executable: false, mtime: (-5, 6) } }
    }

    fn link(text: &str, target: &str) -> Entry {
        Entry { path: path(text), kind: EntryKind::Link { target: target.to_owned() } }
    }

    fn example() -> Vec<Entry> {
        vec![
            folder("a"),
            file("a-b", 7),
            file("a/0", 0),
            link("a/l", "../a-b"),
            folder("e"),
            file("z", 100_000),
        ]
    }

    #[test]
    fn what_is_encoded_comes_back() {
        let manifest = Manifest::new(example()).unwrap();
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()), Ok(manifest.clone()));
        assert_eq!(manifest.geometry().size(), 100_007);
        assert_eq!(manifest.geometry().folder().unwrap().root(), manifest.data_root());
        assert_eq!(manifest.file(1).unwrap().path, path("z"));
        assert_eq!(manifest.with_bytes(), [1, 5]);
        let empty = Manifest::new(Vec::new()).unwrap();
        assert_eq!(Manifest::decode(&empty.encode().unwrap()), Ok(empty));
    }

    /// The bytes of version 1: other nodes have them.
    #[test]
    fn version_1_stays_as_it_is() {
        let manifest = Manifest::new(example()).unwrap();
        assert_eq!(
            manifest.root().to_string(),
            "254a18989b8e7f906b9baaa78a79767eb10409ac1c936b7549e8cde2a9f7b684"
        );
        assert_eq!(
            manifest.data_root().to_string(),
            "149ca69fe56b3abd04b0be2adfdf7d6cf6d2b712529896cb216f68c98de3fd4a"
        );
        assert_eq!(
            Digest::of(&manifest.encode().unwrap()).to_string(),
            "27a9f823d619bbba291e596c6183b5d1acb63e05ad9766c24e31156c346b8cd5"
        );
    }

    #[test]
    fn times_do_not_tell_folders_apart_and_all_else_does() {
        let root = |entries| Manifest::new(entries).unwrap().root();
        let mut later = example();
        for entry in &mut later {
            match &mut entry.kind {
                EntryKind::Folder { mtime } | EntryKind::File { mtime, .. } => *mtime = (99, 99),
                EntryKind::Link { .. } => {}
            }
        }
        assert_eq!(root(later), root(example()));
        let mut roots = HashSet::from([root(example()), root(Vec::new())]);
        let mut executable = example();
        if let EntryKind::File { executable, .. } = &mut executable[1].kind {
            *executable = true;
        }
        let mut linked = example();
        linked[3] = link("a/l", "../a-c");
        let mut longer = example();
        longer[5] = file("z", 100_001);
        let mut renamed = example();
        renamed[5] = file("y", 100_000);
        for changed in [executable, linked, longer, renamed, example()[..5].to_vec()] {
            assert!(roots.insert(root(changed)));
        }
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let new = |entries: &[Entry]| Manifest::new(entries.to_vec()).unwrap_err();
        assert_eq!(new(&[file("b", 1), file("a", 1)]), ManifestError::Order(path("a")));
        assert_eq!(new(&[file("a", 1), file("a", 1)]), ManifestError::Order(path("a")));
        assert_eq!(new(&[file("a/b", 1)]), ManifestError::Parent(path("a/b")));
        assert_eq!(new(&[file("a", 1), file("a/b", 1)]), ManifestError::Parent(path("a/b")));
        assert_eq!(new(&[link("a", "b"), file("a/b", 1)]), ManifestError::Parent(path("a/b")));
        for target in ["", "a\0b", &"x".repeat(LINK_TARGET_BYTES_MAX + 1)] {
            assert_eq!(new(&[link("a", target)]), ManifestError::Link(path("a")));
        }
        let mut wrong = file("a", 0);
        wrong.kind = EntryKind::File { size: 0, root: Root([1; 32]), executable: false, mtime: (0, 0) };
        assert_eq!(new(&[wrong]), ManifestError::Empty(path("a")));
        let late = Entry { path: path("a"), kind: EntryKind::Folder { mtime: (0, 1_000_000_000) } };
        assert_eq!(new(&[late]), ManifestError::Time(path("a")));
        assert_eq!(new(&[file("a", u64::MAX)]), ManifestError::TooLarge(FolderTooLarge));
    }

    #[test]
    fn bytes_that_claim_too_much_are_refused() {
        let decode = |bytes: &[u8]| Manifest::decode(&[&MAGIC, bytes].concat()).unwrap_err();
        // Lengths of 2, 2^32 - 1 and 2^64 - 1 entries.
        for bytes in [&[2, 0][..], &[252, 255, 255, 255, 255], &[253, 255, 255, 255, 255, 255, 255, 255, 255]]
        {
            assert!(matches!(decode(bytes), ManifestError::Decode(DecodeError::Limit(_))));
        }
        // An entry whose path has 2^32 - 1 bytes.
        let path = [1, 252, 255, 255, 255, 255, b'a'];
        assert!(matches!(decode(&path), ManifestError::Decode(DecodeError::Malformed(_))));
        assert!(matches!(decode(&[0, 0]), ManifestError::Decode(DecodeError::Trailing(1))));
        assert!(matches!(Manifest::decode(b"FTXTREE"), Err(ManifestError::Decode(DecodeError::Magic))));
    }

    #[test]
    fn links_that_may_lead_out() {
        for (at, target) in [
            ("l", "a"),
            ("l", "./a/b"),
            ("a/l", "../b"),
            ("a/b/l", "../../c"),
            ("l", "."),
            ("a/l", ".."),
            ("l", "ab:c"),
        ] {
            assert!(!may_lead_out(&path(at), target), "{at} {target}");
        }
        for (at, target) in [
            ("l", "/etc"),
            ("l", ".."),
            ("l", "../x"),
            ("a/l", "../../x"),
            ("a/l", "b/.."),
            ("a/b/l", "../x/../../.."),
            ("l", "a\\b"),
            ("l", "C:x"),
            ("a/l", "c:"),
            ("l", "C:/x"),
        ] {
            assert!(may_lead_out(&path(at), target), "{at} {target}");
        }
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(files in prop::collection::btree_map("[ab]{1,2}(/[ab-]{1,2}){0,3}", 0u64..(3 * CHUNK_SIZE as u64), 0..30)) {
            // Folders first; files that would be folders are left out.
            let mut entries = std::collections::BTreeMap::new();
            for name in files.keys() {
                let parts: Vec<&str> = name.split('/').collect();
                for depth in 1..parts.len() {
                    entries.insert(parts[..depth].join("/"), None);
                }
            }
            for (name, size) in &files {
                entries.entry(name.clone()).or_insert(Some(*size));
            }
            let entries: Vec<Entry> =
                entries.iter().map(|(name, size)| size.map_or_else(|| folder(name), |size| file(name, size))).collect();
            let manifest = Manifest::new(entries.clone()).unwrap();
            prop_assert_eq!(manifest.entries(), &entries[..]);
            prop_assert_eq!(Manifest::decode(&manifest.encode().unwrap()), Ok(manifest));
        }
    }
}
