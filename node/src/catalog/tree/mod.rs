//! Everything that was found in the shares, as one tree of folders: what the table of the catalog is made of.
//!
//! It owns names, stamps, states and roots, some 130 bytes for a file, and the sums over what is below each folder. It
//! knows nothing of shares beyond their numbers, of scans, or of hashing. It is in memory only.

mod children;
mod names;
mod order;
mod sums;

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ftx_proto::digest::Root;
use ftx_proto::geometry::Geometry;
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::RelativePath;

use self::children::Children;
use self::names::{NameAt, Names};
pub(crate) use self::order::InOrder;
pub(crate) use self::sums::Sums;
use super::content::Stamp;

/// Names an entry, as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(u32);

impl Id {
    /// The folder that everything is in.
    pub(crate) const ROOT: Id = Id(0);
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// Places of entries that are gone.
    free: Vec<Id>,
    names: Names,
    /// Device numbers; files have the place in this list.
    devices: Vec<u64>,
    /// Piece hashes of files that are larger than a piece; the root alone says all about the others.
    layers: HashMap<Id, Arc<PieceLayer>>,
    /// The first four bytes of the root of each hashed file, with the file.
    by_root: BTreeSet<([u8; 4], Id)>,
    /// Sums over what is in each share.
    shares: Vec<Sums>,
    /// Those that came since [`Tree::begin_filling`].
    filling: Option<Vec<([u8; 4], Id)>>,
    /// Counts changes; see [`Tree::changed`].
    clock: u64,
}

#[derive(Debug)]
struct Node {
    parent: Id,
    name: NameAt,
    share: u32,
    mtime_nanos: u32,
    mtime: i64,
    seen: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(File),
    Folder(Box<Folder>),
    /// With what it says.
    Link(Box<str>),
    Gone,
}

#[derive(Debug)]
struct File {
    size: u64,
    inode: u64,
    device: u16,
    executable: bool,
    state: State,
}

/// What is known about the content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for its root.
    Unhashed,
    /// Has it.
    Hashed(Root),
    /// Was changed while it was hashed.
    Unsettled,
    /// Cannot be read.
    Failed,
}

#[derive(Debug)]
struct Folder {
    children: Children,
    sums: Sums,
    changed: u64,
    /// All that is in it was seen at once some time.
    listed: bool,
}

impl Folder {
    fn new() -> Box<Self> {
        let (children, sums) = (Children::default(), Sums::of_new_folder());
        Box::new(Folder { children, sums, changed: 0, listed: false })
    }
}

/// What an entry is, for those who look.
#[derive(Debug, Clone, Copy)]
pub(crate) enum View<'a> {
    File { stamp: Stamp, state: State },
    Folder { sums: &'a Sums },
    Link { target: &'a str },
}

/// The hashes of a file: of one that is no larger than a piece, the root says all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hashes {
    Small(Root),
    Large(Arc<PieceLayer>),
}

impl Hashes {
    pub(crate) fn root(&self) -> Root {
        match self {
            Hashes::Small(root) => *root,
            Hashes::Large(layer) => layer.root(),
        }
    }
}

impl From<&Arc<PieceLayer>> for Hashes {
    fn from(layer: &Arc<PieceLayer>) -> Self {
        if layer.hashes().len() > 1 { Hashes::Large(layer.clone()) } else { Hashes::Small(layer.root()) }
    }
}

/// What is to be put into the tree.
#[derive(Debug)]
pub(crate) enum New {
    /// An unhashed file, or one whose root is known already.
    File(Stamp, Option<Hashes>),
    Folder,
    Link(String),
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut names = Names::default();
        let Some(name) = names.add("") else { unreachable!("there is room for nothing") };
        let kind = Kind::Folder(Folder::new());
        let root = Node { parent: Id::ROOT, name, share: 0, mtime_nanos: 0, mtime: 0, seen: 0, kind };
        Tree {
            nodes: vec![root],
            free: Vec::new(),
            names,
            devices: Vec::new(),
            layers: HashMap::new(),
            by_root: BTreeSet::new(),
            shares: Vec::new(),
            filling: None,
            clock: 0,
        }
    }

    /// Very many files are going to be put in: they are not found by their roots before [`Tree::end_filling`].
    pub(crate) fn begin_filling(&mut self) {
        self.filling = Some(Vec::new());
    }

    /// From now on files are found by their roots again.
    pub(crate) fn end_filling(&mut self) {
        let before = std::mem::take(&mut self.by_root);
        let filled = self.filling.take().unwrap_or_default();
        let is_there = |(beginning, id): &([u8; 4], Id)| matches!(self.state(*id), Some(State::Hashed(root)) if beginning_of(&root) == *beginning);
        // All at once: that is many times quicker than one after the other, and takes less memory.
        let all = before.into_iter().chain(filled).filter(is_there).collect();
        self.by_root = all;
    }

    /// How many entries there are, folders and links included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len() - 1
    }

    /// The entry of this name in a folder.
    pub(crate) fn child(&self, folder: Id, name: &str) -> Option<Id> {
        self.children(folder)?.find(&|id| self.name_bytes(id).cmp(name.as_bytes()))
    }

    /// The entry of this path.
    pub(crate) fn find(&self, path: &RelativePath) -> Option<Id> {
        path.parts().try_fold(Id::ROOT, |folder, part| self.child(folder, part))
    }

    /// The path of an entry. None for the root only, which has none.
    pub(crate) fn path(&self, id: Id) -> Option<RelativePath> {
        self.path_below(id, Id::ROOT)
    }

    /// The path of an entry from a folder that it is in.
    pub(crate) fn path_below(&self, id: Id, folder: Id) -> Option<RelativePath> {
        let above = |id: &Id| Some(self.node(*id).parent).filter(|parent| *parent != folder);
        let mut chain: Vec<Id> = std::iter::successors(Some(id).filter(|id| *id != folder), above).collect();
        chain.reverse();
        let parts: Vec<&[u8]> = chain.into_iter().map(|id| self.name_bytes(id)).collect();
        String::from_utf8(parts.join(&b'/')).ok()?.parse().ok()
    }

    pub(crate) fn view(&self, id: Id) -> View<'_> {
        let node = self.node(id);
        match &node.kind {
            Kind::File(file) => View::File { stamp: self.stamp(node, file), state: file.state },
            Kind::Folder(folder) => View::Folder { sums: &folder.sums },
            Kind::Link(target) => View::Link { target },
            Kind::Gone => unreachable!("an entry that is gone has no name"),
        }
    }

    /// The state of a file; none if it is none, or gone.
    pub(crate) fn state(&self, id: Id) -> Option<State> {
        match &self.node(id).kind {
            Kind::File(file) => Some(file.state),
            _ => None,
        }
    }

    pub(crate) fn is_folder(&self, id: Id) -> bool {
        matches!(self.node(id).kind, Kind::Folder(_))
    }

    /// Whether an entry is in a folder, at whatever depth.
    pub(crate) fn is_below(&self, id: Id, folder: Id) -> bool {
        let above = |id: &Id| Some(self.node(*id).parent).filter(|_| *id != Id::ROOT);
        std::iter::successors(Some(id), above).skip(1).any(|above| above == folder)
    }

    /// The share that an entry is in.
    pub(crate) fn share(&self, id: Id) -> usize {
        self.node(id).share as usize
    }

    /// When an entry was seen last.
    pub(crate) fn seen(&self, id: Id) -> u64 {
        self.node(id).seen
    }

    /// An entry was seen again.
    pub(crate) fn see(&mut self, id: Id, now: u64) {
        let node = self.node_mut(id);
        node.seen = node.seen.max(now);
    }

    /// Seconds and nanoseconds since 1970 of its last change.
    pub(crate) fn mtime(&self, id: Id) -> (i64, u32) {
        let node = self.node(id);
        (node.mtime, node.mtime_nanos)
    }

    /// A number that is another one whenever something about or below a folder is another.
    pub(crate) fn changed(&self, folder: Id) -> u64 {
        self.folder(folder).map_or(0, |folder| folder.changed)
    }

    /// Sums over what is below a folder.
    pub(crate) fn sums(&self, folder: Id) -> Sums {
        self.folder(folder).map_or(Sums::default(), |folder| folder.sums)
    }

    /// Sums over what is in a share.
    pub(crate) fn share_sums(&self, share: usize) -> Sums {
        self.shares.get(share).copied().unwrap_or_default()
    }

    /// The piece hashes of a hashed file.
    pub(crate) fn layer(&self, id: Id) -> Option<Arc<PieceLayer>> {
        let Kind::File(File { size, state: State::Hashed(root), .. }) = &self.node(id).kind else {
            return None;
        };
        self.layers
            .get(&id)
            .cloned()
            .or_else(|| PieceLayer::of_small(Geometry::new(*size).ok()?, *root).map(Arc::new))
    }

    /// Hashed files whose roots begin with these four bytes.
    pub(crate) fn hashed_as(&self, beginning: [u8; 4]) -> impl Iterator<Item = (Id, Root)> {
        let all = (beginning, Id(0))..=(beginning, Id(u32::MAX));
        self.by_root.range(all).filter_map(|(_, id)| match &self.node(*id).kind {
            Kind::File(File { state: State::Hashed(root), .. }) => Some((*id, *root)),
            _ => None,
        })
    }

    /// What is directly in a folder, in no order.
    pub(crate) fn entries(&self, folder: Id) -> impl Iterator<Item = Id> {
        self.children(folder).into_iter().flat_map(Children::iter)
    }

    /// All that is below a folder, in order of the paths.
    pub(crate) fn below(&self, folder: Id) -> InOrder<'_> {
        InOrder::below(self, folder)
    }

    /// All that comes behind a path.
    pub(crate) fn behind(&self, path: Option<&RelativePath>) -> InOrder<'_> {
        path.map_or_else(|| InOrder::below(self, Id::ROOT), |path| InOrder::behind(self, path))
    }

    /// Puts an entry into a folder that has none of this name. None if there is no more room.
    pub(crate) fn insert(
        &mut self,
        folder: Id,
        name: &str,
        share: usize,
        mtime: (i64, u32),
        new: New,
    ) -> Option<Id> {
        let (kind, hashes) = match new {
            New::File(stamp, hashes) => {
                let device = self.device(stamp.device)?;
                let state = hashes.as_ref().map_or(State::Unhashed, |hashes| State::Hashed(hashes.root()));
                let Stamp { size, inode, executable, .. } = stamp;
                (Kind::File(File { size, inode, device, executable, state }), hashes)
            }
            New::Folder => (Kind::Folder(Folder::new()), None),
            New::Link(target) => (Kind::Link(target.into_boxed_str()), None),
        };
        let at = self.names.add(name)?;
        let (seconds, mtime_nanos) = mtime;
        let share = u32::try_from(share).ok()?;
        let node = Node { parent: folder, name: at, share, mtime_nanos, mtime: seconds, seen: 0, kind };
        let id = self.place(node)?;
        self.with_children(folder, |tree, children| {
            let compare = |other: Id| tree.name_bytes(other).cmp(name.as_bytes());
            children.insert(id, &compare, &|a, b| tree.name_order(a, b));
        });
        self.count_hashed(id, hashes);
        let sums = self.sums_of(id);
        self.account(share, folder, Sums::default(), sums);
        Some(id)
    }

    /// Takes out an entry and all that is below it; tells of each before it is gone.
    pub(crate) fn remove(&mut self, id: Id, each: &mut dyn FnMut(&Tree, Id)) {
        let Node { parent, share, .. } = *self.node(id);
        let before = self.take_out(id, each);
        self.account(share, parent, before, Sums::default());
        self.with_children(parent, |tree, children| {
            children.remove(&|other| tree.name_order(other, id));
        });
        self.release(id);
        self.tidy();
    }

    /// Takes out those entries of a folder that are not to be kept, with all that is below them.
    pub(crate) fn retain(
        &mut self,
        folder: Id,
        keep: &dyn Fn(&Tree, Id) -> bool,
        each: &mut dyn FnMut(&Tree, Id),
    ) {
        let mut gone: Vec<Id> = self.entries(folder).filter(|id| !keep(self, *id)).collect();
        if gone.is_empty() {
            return;
        }
        for id in &gone {
            let share = self.node(*id).share;
            let before = self.take_out(*id, each);
            self.account(share, folder, before, Sums::default());
        }
        gone.sort_unstable();
        self.with_children(folder, |_, children| {
            children.retain(&mut |id| gone.binary_search(&id).is_err());
        });
        gone.into_iter().for_each(|id| self.release(id));
        self.tidy();
    }

    /// The stamp and state of a file are others now.
    pub(crate) fn set_file(&mut self, id: Id, stamp: Stamp, state: State, hashes: Option<Hashes>) {
        let Some(device) = self.device(stamp.device) else { return };
        let before = self.sums_of(id);
        self.forget_hashed(id);
        let node = self.node_mut(id);
        (node.mtime, node.mtime_nanos) = stamp.mtime;
        let Stamp { size, inode, executable, .. } = stamp;
        node.kind = Kind::File(File { size, inode, device, executable, state });
        self.count_hashed(id, hashes);
        let after = self.sums_of(id);
        let Node { parent, share, .. } = *self.node(id);
        self.account(share, parent, before, after);
    }

    /// A folder was changed then. No change of what is in it.
    pub(crate) fn set_mtime(&mut self, id: Id, mtime: (i64, u32)) {
        if self.mtime(id) != mtime {
            let node = self.node_mut(id);
            (node.mtime, node.mtime_nanos) = mtime;
            self.account(self.node(id).share, id, Sums::default(), Sums::default());
        }
    }

    /// All that is in the folder was seen.
    pub(crate) fn set_listed(&mut self, id: Id) {
        match &mut self.node_mut(id).kind {
            Kind::Folder(folder) if !folder.listed => folder.listed = true,
            _ => return,
        }
        self.account(self.node(id).share, id, Sums::of_unlisted(), Sums::default());
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn folder(&self, id: Id) -> Option<&Folder> {
        match &self.node(id).kind {
            Kind::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    fn children(&self, id: Id) -> Option<&Children> {
        self.folder(id).map(|folder| &folder.children)
    }

    fn name_bytes(&self, id: Id) -> &[u8] {
        self.names.bytes(self.node(id).name)
    }

    fn name_order(&self, a: Id, b: Id) -> Ordering {
        self.name_bytes(a).cmp(self.name_bytes(b))
    }

    fn stamp(&self, node: &Node, file: &File) -> Stamp {
        let device = self.devices.get(usize::from(file.device)).copied().unwrap_or(0);
        let File { size, inode, executable, .. } = *file;
        Stamp { size, mtime: (node.mtime, node.mtime_nanos), inode, device, executable }
    }

    /// The place of a device in the list of devices.
    fn device(&mut self, number: u64) -> Option<u16> {
        let known = self.devices.iter().position(|device| *device == number);
        let place = known.unwrap_or_else(|| {
            self.devices.push(number);
            self.devices.len() - 1
        });
        u16::try_from(place).ok()
    }

    /// Lets `change` change the entries of a folder while it sees the tree.
    fn with_children(&mut self, folder: Id, change: impl FnOnce(&Tree, &mut Children)) {
        let mut children = match &mut self.node_mut(folder).kind {
            Kind::Folder(folder) => std::mem::take(&mut folder.children),
            _ => return,
        };
        change(self, &mut children);
        if let Kind::Folder(folder) = &mut self.node_mut(folder).kind {
            folder.children = children;
        }
    }

    fn place(&mut self, node: Node) -> Option<Id> {
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return Some(id);
        }
        let id = Id(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push(node);
        Some(id)
    }

    /// Takes out what is below an entry, and all that is remembered of it, but not its name. What it counted for.
    fn take_out(&mut self, id: Id, each: &mut dyn FnMut(&Tree, Id)) -> Sums {
        each(self, id);
        let sums = self.sums_of(id);
        let inner: Vec<Id> = self.entries(id).collect();
        for inner in inner {
            self.take_out(inner, each);
            self.release(inner);
        }
        self.forget_hashed(id);
        sums
    }

    /// The place of an entry that is gone can be another's.
    fn release(&mut self, id: Id) {
        self.names.release(self.node(id).name);
        self.node_mut(id).kind = Kind::Gone;
        self.free.push(id);
    }

    fn tidy(&mut self) {
        if self.names.is_wasteful() {
            let used = self.nodes.iter_mut().filter(|node| !matches!(node.kind, Kind::Gone));
            self.names.compact(used.map(|node| &mut node.name));
        }
    }

    fn count_hashed(&mut self, id: Id, hashes: Option<Hashes>) {
        let Some(hashes) = hashes else { return };
        let entry = (beginning_of(&hashes.root()), id);
        match &mut self.filling {
            Some(filling) => filling.push(entry),
            None => drop(self.by_root.insert(entry)),
        }
        if let Hashes::Large(layer) = hashes {
            self.layers.insert(id, layer);
        }
    }

    fn forget_hashed(&mut self, id: Id) {
        if let Kind::File(File { state: State::Hashed(root), .. }) = &self.node(id).kind {
            let beginning = beginning_of(root);
            self.by_root.remove(&(beginning, id));
            self.layers.remove(&id);
        }
    }

    /// What an entry counts for in the folder that it is in.
    fn sums_of(&self, id: Id) -> Sums {
        match &self.node(id).kind {
            Kind::File(file) => Sums::of_file(file.size, &file.state),
            Kind::Folder(folder) => folder.sums,
            Kind::Link(_) | Kind::Gone => Sums::default(),
        }
    }

    /// Something in `folder`, of this share, counts for something else now.
    fn account(&mut self, share: u32, folder: Id, before: Sums, after: Sums) {
        let share = share as usize;
        if self.shares.len() <= share {
            self.shares.resize(share + 1, Sums::default());
        }
        self.shares[share] = self.shares[share].replaced(before, after);
        self.clock += 1;
        let now = self.clock;
        let mut next = Some(folder);
        while let Some(id) = next {
            let node = self.node_mut(id);
            next = Some(node.parent).filter(|_| id != Id::ROOT);
            if let Kind::Folder(folder) = &mut node.kind {
                folder.sums = folder.sums.replaced(before, after);
                folder.changed = now;
            }
        }
    }
}

/// The first bytes of a root, by which hashed files are found.
pub(crate) fn beginning_of(root: &Root) -> [u8; 4] {
    let [a, b, c, d, ..] = root.0;
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
