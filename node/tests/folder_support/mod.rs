//! Folders to test with: as a map, as a manifest, and on the disk.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "several tests have it, and not every one needs all of it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use ftx_proto::digest::Digest;
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS, Span};
use ftx_proto::manifest::{Entry, EntryKind, Manifest, Mtime};
use ftx_proto::merkle::{PieceLayer, leaf_hash, piece_hash};
use proptest::prelude::*;

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Folder,
    File(Vec<u8>, bool),
    Link(String),
}

/// What a folder holds, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<String, Node>);

impl Model {
    /// Adds a node, and the folders that it is in.
    pub fn with(mut self, path: &str, node: Node) -> Self {
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert(Node::Folder);
        }
        self.0.insert(path.to_owned(), node);
        self
    }

    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(path, Node::File(bytes.into(), false))
    }

    pub fn folder(self, path: &str) -> Self {
        self.with(path, Node::Folder)
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.with(path, Node::Link(target.to_owned()))
    }

    pub fn without(mut self, path: &str) -> Self {
        self.0.retain(|known, _| known != path && !known.starts_with(&format!("{path}/")));
        self
    }

    pub fn manifest(&self) -> Arc<Manifest> {
        let entry = |(path, node): (&String, &Node)| {
            let mtime = mtime_of(path);
            let kind = match node {
                Node::Folder => EntryKind::Folder { mtime },
                Node::File(bytes, executable) => EntryKind::File {
                    size: bytes.len() as u64,
                    root: layer_of(bytes).root(),
                    executable: *executable,
                    mtime,
                },
                Node::Link(target) => EntryKind::Link { target: target.clone() },
            };
            Entry { path: path.parse().unwrap(), kind }
        };
        Arc::new(Manifest::new(self.0.iter().map(entry).collect()).unwrap())
    }

    /// The bytes of all files, one after the other.
    pub fn bytes(&self) -> Vec<u8> {
        let files = self.0.values().filter_map(|node| match node {
            Node::File(bytes, _) => Some(&bytes[..]),
            _ => None,
        });
        files.collect::<Vec<_>>().concat()
    }

    /// Makes all of it in a folder, which is made as well. Times are those of now.
    pub fn write(&self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        for (path, node) in &self.0 {
            let path = at.join(path);
            match node {
                Node::Folder => fs::create_dir_all(path).unwrap(),
                Node::File(bytes, executable) => {
                    fs::write(&path, bytes).unwrap();
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                }
                Node::Link(target) => symlink(target, path).unwrap(),
            }
        }
    }

    /// What a folder on the disk holds.
    pub fn read(at: &Path) -> Self {
        let mut model = Model::default();
        let mut folders = vec![at.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let node = if metadata.is_dir() {
                    folders.push(path.clone());
                    Node::Folder
                } else if metadata.is_symlink() {
                    Node::Link(fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
                } else {
                    Node::File(fs::read(&path).unwrap(), metadata.mode() & 0o111 != 0)
                };
                model.0.insert(path.strip_prefix(at).unwrap().to_str().unwrap().to_owned(), node);
            }
        }
        model
    }

    /// Compares with what is on the disk, times included.
    #[track_caller]
    pub fn assert_at(&self, at: &Path) {
        let found = Model::read(at);
        for (path, node) in &self.0 {
            assert!(found.0.get(path) == Some(node), "{path} differs or is missing");
            if !matches!(node, Node::Link(_)) {
                let metadata = fs::metadata(at.join(path)).unwrap();
                let mtime = (metadata.mtime(), metadata.mtime_nsec() as u32);
                assert_eq!(mtime, mtime_of(path), "time of {path}");
            }
        }
        let more: Vec<_> = found.0.keys().filter(|path| !self.0.contains_key(*path)).collect();
        assert!(more.is_empty(), "{more:?} should not be there");
    }
}

/// A time for each path: long ago, and not the same for all.
pub fn mtime_of(path: &str) -> Mtime {
    let number = path.bytes().fold(7u32, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
    (1_000_000_000 + i64::from(number % 100_000), number % 1_000_000_000)
}

/// Bytes that look like nothing else, and not like those of another seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The piece layer of a file.
pub fn layer_of(bytes: &[u8]) -> PieceLayer {
    let geometry = Geometry::new(bytes.len() as u64).unwrap();
    let leaves: Vec<Digest> = bytes.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
    let pieces = geometry.pieces().zip(leaves.chunks(PIECE_CHUNKS as usize));
    let hashes = pieces.map(|(piece, leaves)| piece_hash(&geometry, piece, leaves)).collect();
    PieceLayer::from_hashes(geometry, hashes).unwrap()
}

/// The piece layer of a folder with these bytes.
pub fn layer_of_folder(manifest: &Manifest, bytes: &[u8]) -> Arc<PieceLayer> {
    let geometry = manifest.geometry();
    let files = geometry.folder().unwrap().files();
    let layer = PieceLayer::of_folder(geometry.clone(), |number| {
        let file = &files[number];
        Some(Arc::new(layer_of(&bytes[file.offset() as usize..(file.offset() + file.size()) as usize])))
    });
    Arc::new(layer.unwrap())
}

/// The leaf hashes of a span.
pub fn leaves_of(geometry: &Geometry, bytes: &[u8], span: Span) -> Vec<Digest> {
    let leaf = |chunk| {
        let offset = geometry.offset_of(chunk) as usize;
        leaf_hash(&bytes[offset..offset + geometry.chunk_len(chunk) as usize])
    };
    span.chunks().map(leaf).collect()
}

/// Folders of all shapes, in which names come again.
pub fn any_model() -> impl Strategy<Value = Model> {
    const CHUNK: usize = CHUNK_SIZE as usize;
    const PIECE: usize = CHUNK * PIECE_CHUNKS as usize;
    let size =
        prop_oneof![Just(0), 1usize..200, 1..3 * CHUNK, (CHUNK - 2)..(CHUNK + 2), PIECE..PIECE + 3 * CHUNK];
    let node = prop_oneof![
        6 => (any::<u64>(), size, any::<bool>(), any::<bool>()).prop_map(|(seed, len, executable, zeros)| {
            let mut bytes = noise(seed % 8, len);
            if zeros && len > CHUNK {
                bytes[..CHUNK].fill(0);
            }
            Node::File(bytes, executable)
        }),
        1 => Just(Node::Folder),
        1 => "[ab]".prop_map(Node::Link),
    ];
    prop::collection::vec(("[abAB]{1,2}(/[ab-]{1,2}){0,2}", node), 0..14).prop_map(|nodes| {
        nodes.into_iter().fold(Model::default(), |model, (path, node)| {
            // A path through a file, or over a folder, is none.
            let mut above = path.match_indices('/').map(|(end, _)| &path[..end]);
            let is_free = above.all(|above| model.0.get(above).is_none_or(|node| *node == Node::Folder));
            if is_free && !model.0.contains_key(&path) { model.with(&path, node) } else { model }
        })
    })
}
