//! A folder as a whole: what its root stands for, ready to be served.
//!
//! It is made of what the table knows at one moment ([`Snapshot`]), elsewhere than on the actor's thread, and remembered
//! as long as nothing below it changes, within bounds. Whoever serves from it may go on after it is forgotten: a file that
//! changed is refused when it is read.

use std::collections::VecDeque;
use std::sync::Arc;

use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS, PIECE_SIZE};
use ftx_proto::manifest::{Entry, EntryKind, Manifest, ManifestError, may_lead_out};
use ftx_proto::merkle::{PieceLayer, piece_hash};
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::OfferedManifest;

use super::bundle::{Bundle, BundleFile};
use super::content::{Content, Location, Stamp};
use super::index::Index;
use super::tree::{Id, State, Tree, View};
use crate::hash;

/// Most folders that are remembered.
const FOLDERS_MAX: usize = 64;

/// Most memory that they take together; the last one is remembered whatever it takes.
const BYTES_MAX: usize = 256 << 20;

/// Memory beyond which no folder is remembered that nobody has asked for.
const UNASKED_BYTES_MAX: usize = 32 << 20;

/// What the table knows of a folder of which everything is known.
#[derive(Debug)]
pub(crate) struct Snapshot {
    name: RelativePath,
    location: Location,
    mtime: (i64, u32),
    /// See [`super::tree::Tree::changed`].
    changed: u64,
    entries: Vec<Entry>,
    /// Of each file with bytes, in order: what it was when it was hashed, and the piece hashes of one that is larger
    /// than a piece.
    files: Vec<(Stamp, Option<Arc<PieceLayer>>)>,
}

/// A folder that can be offered as a whole.
#[derive(Debug)]
pub(crate) struct Folder {
    name: RelativePath,
    root: Root,
    size: u64,
    mtime: (i64, u32),
    manifest: Arc<Content>,
    bundle: Arc<Content>,
    memory: usize,
}

/// What became of making one.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) name: RelativePath,
    pub(crate) location: Location,
    changed: u64,
    pub(crate) result: Result<Folder, ManifestError>,
}

/// Folders that are remembered, and those of which it is known that they cannot be offered.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    /// The one that was asked for last is the last.
    known: VecDeque<Known>,
    memory: usize,
}

#[derive(Debug)]
struct Known {
    name: RelativePath,
    changed: u64,
    folder: Option<Folder>,
}

/// A snapshot that is being taken, some entries at a time, so that whoever takes it can do other things meanwhile.
#[derive(Debug)]
pub(crate) struct Gathering {
    snapshot: Snapshot,
    /// The last entry that was looked at.
    at: Option<RelativePath>,
}

/// How far taking a snapshot is.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// There is more of it.
    More(Box<Gathering>),
    /// That is all.
    All(Snapshot),
    /// The folder has changed meanwhile, or is gone.
    Changed,
}

impl Gathering {
    /// Begins with this folder, if the table knows everything of it.
    pub(super) fn begin(index: &Index, id: Id) -> Option<Self> {
        let tree = &index.tree;
        if !tree.is_folder(id) || !tree.sums(id).is_complete() {
            return None;
        }
        let name = tree.path(id)?;
        let location = index.shares.location(tree.share(id), &name);
        let (mtime, changed) = (tree.mtime(id), tree.changed(id));
        let (entries, files) = (Vec::new(), Vec::new());
        let snapshot = Snapshot { name, location, mtime, changed, entries, files };
        Some(Gathering { snapshot, at: None })
    }

    /// What is being gathered.
    pub(crate) fn name(&self) -> &RelativePath {
        &self.snapshot.name
    }

    /// Looks at so many entries more.
    pub(crate) fn go_on(mut self, index: &Index, entries: usize) -> Gathered {
        let (tree, snapshot) = (&index.tree, &mut self.snapshot);
        // Numbers of changes come once: with this one it is the same folder, with the same in it.
        let same = tree.find(&snapshot.name).filter(|id| tree.changed(*id) == snapshot.changed);
        let Some(id) = same else { return Gathered::Changed };
        let rest = match &self.at {
            None => tree.below(id),
            Some(at) => tree.behind(Some(at)),
        };
        // What is below a folder comes in one piece in the order of paths.
        let mut rest = rest.take_while(|inner| tree.is_below(*inner, id));
        for _ in 0..entries {
            let Some(inner) = rest.next() else { return Gathered::All(self.snapshot) };
            snapshot.take(tree, id, inner);
            self.at = tree.path(inner);
        }
        Gathered::More(Box::new(self))
    }
}

impl Snapshot {
    /// Takes an entry that is below `folder`. One that cannot be taken was told of; the folder goes without it.
    fn take(&mut self, tree: &Tree, folder: Id, inner: Id) {
        let Some(path) = tree.path_below(inner, folder) else { return };
        let mtime = tree.mtime(inner);
        let kind = match tree.view(inner) {
            View::Folder { .. } => EntryKind::Folder { mtime },
            View::Link { target } if may_lead_out(&path, target) => return,
            View::Link { target } => EntryKind::Link { target: target.to_owned() },
            View::File { stamp, state: State::Hashed(root) } => {
                if stamp.size > 0 {
                    let layer = if stamp.size > PIECE_SIZE { tree.layer(inner) } else { None };
                    self.files.push((stamp, layer));
                }
                let Stamp { size, executable, .. } = stamp;
                EntryKind::File { size, root, executable, mtime }
            }
            View::File { .. } => return,
        };
        self.entries.push(Entry { path, kind });
    }

    /// Makes the folder of it. Takes a while for a large one.
    pub(crate) fn make(self) -> Made {
        let (name, location, changed) = (self.name.clone(), self.location.clone(), self.changed);
        Made { name, location, changed, result: self.folder() }
    }

    fn folder(self) -> Result<Folder, ManifestError> {
        let manifest = Manifest::new(self.entries)?;
        let encoded: Arc<[u8]> = manifest.encode()?.into();
        let geometry = manifest.geometry().clone();
        let mut files = Vec::with_capacity(self.files.len());
        for (number, (stamp, _)) in self.files.iter().enumerate() {
            // There are as many as the manifest has, since it is made of the same.
            let path = manifest.file(number).map(|entry| entry.path.as_str()).unwrap_or_default();
            files.push(BundleFile::new(path, *stamp));
        }
        let layer_of = |number: usize| self.files.get(number).and_then(|(_, layer)| layer.clone());
        let layer = PieceLayer::of_folder(geometry.clone(), layer_of).ok_or(ManifestError::TooMany)?;
        let memory = encoded.len() + files.iter().map(BundleFile::memory).sum::<usize>() + 64 * files.len();
        let (root, size) = (manifest.root(), geometry.size());
        // Large, and not needed any more.
        drop(manifest);
        let bundle = Bundle::new(self.location, files);
        let named = |content: Content| Arc::new(content);
        Ok(Folder {
            root,
            size,
            mtime: self.mtime,
            manifest: named(Content::memory(
                layer_of_bytes(&encoded),
                self.name.clone(),
                self.mtime,
                encoded,
            )),
            bundle: named(Content::tree(Arc::new(layer), self.name.clone(), self.mtime, Arc::new(bundle))),
            name: self.name,
            memory,
        })
    }
}

impl Folder {
    /// Its root.
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// Bytes of all its files.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Seconds and nanoseconds since 1970 of its last change.
    pub(crate) fn mtime(&self) -> (i64, u32) {
        self.mtime
    }

    /// Its name here.
    pub(crate) fn name(&self) -> &RelativePath {
        &self.name
    }

    /// How its manifest is found.
    pub(crate) fn offered_manifest(&self) -> OfferedManifest {
        OfferedManifest { root: self.manifest.root(), size: self.manifest.geometry().size() }
    }
}

impl Folders {
    /// Remembers a folder, or that it cannot be offered. Others make room, those first that nobody asked for longest.
    pub(crate) fn add(&mut self, made: Made) -> Option<ManifestError> {
        let Made { name, changed, result, .. } = made;
        self.remove(|known| known.name == name);
        let (folder, error) = match result {
            Ok(folder) => (Some(folder), None),
            Err(error) => (None, Some(error)),
        };
        self.memory += folder.as_ref().map_or(0, |folder| folder.memory);
        self.known.push_back(Known { name, changed, folder });
        while self.known.len() > 1 && (self.known.len() > FOLDERS_MAX || self.memory > BYTES_MAX) {
            let first = self.known.front().map(|known| known.name.clone());
            self.remove(|known| Some(&known.name) == first.as_ref());
        }
        error
    }

    /// What is remembered of this folder, if it has not changed since. `Some(None)`: that it cannot be offered.
    pub(crate) fn find(&self, name: &RelativePath, changed: u64) -> Option<Option<&Folder>> {
        let known = self.known.iter().find(|known| known.name == *name && known.changed == changed)?;
        Some(known.folder.as_ref())
    }

    /// How many more can be remembered that nobody has asked for.
    pub(crate) fn room(&self) -> usize {
        if self.memory < UNASKED_BYTES_MAX { FOLDERS_MAX - self.known.len().min(FOLDERS_MAX) } else { 0 }
    }

    /// Somebody asked for this one: it is the last to make room.
    pub(crate) fn touch(&mut self, name: &RelativePath) {
        if let Some(known) =
            self.known.iter().position(|known| known.name == *name).and_then(|place| self.known.remove(place))
        {
            self.known.push_back(known);
        }
    }

    /// Those that have not changed since they were made. `changed` tells of each name how it is now.
    pub(crate) fn current<'a>(
        &'a self,
        changed: impl Fn(&RelativePath) -> Option<u64> + 'a,
    ) -> impl Iterator<Item = &'a Folder> {
        let is_current = move |known: &&Known| changed(&known.name) == Some(known.changed);
        self.known.iter().filter(is_current).filter_map(|known| known.folder.as_ref())
    }

    /// Forgets those that have changed.
    pub(crate) fn forget_changed(&mut self, changed: impl Fn(&RelativePath) -> Option<u64>) {
        self.remove(|known| changed(&known.name) != Some(known.changed));
    }

    fn remove(&mut self, which: impl Fn(&Known) -> bool) {
        self.known.retain(|known| !which(known));
        self.memory =
            self.known.iter().filter_map(|known| known.folder.as_ref()).map(|folder| folder.memory).sum();
    }
}

impl Folder {
    /// The content of this name that belongs to it: its manifest, or the bytes of all its files.
    pub(crate) fn content(&self, root: &Root) -> Option<&Arc<Content>> {
        [&self.manifest, &self.bundle].into_iter().find(|content| content.root() == *root)
    }
}

/// The piece hashes of what is in memory.
pub(crate) fn layer_of_bytes(bytes: &[u8]) -> Arc<PieceLayer> {
    let Ok(geometry) = Geometry::new(bytes.len() as u64) else { unreachable!("memory is not that large") };
    let piece_len = (CHUNK_SIZE * PIECE_CHUNKS) as usize;
    let hash = |(piece, bytes)| {
        let mut leaves: Vec<Digest> = Vec::new();
        hash::leaves(bytes, &mut leaves);
        piece_hash(&geometry, piece, &leaves)
    };
    let hashes = geometry.pieces().zip(bytes.chunks(piece_len)).map(hash).collect();
    let Ok(layer) = PieceLayer::from_hashes(geometry, hashes) else { unreachable!("a hash for each piece") };
    Arc::new(layer)
}
