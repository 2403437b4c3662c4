//! What the table answers: who has what, what there is, and the contents themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use ftx_proto::digest::{Root, RootPrefix};
use ftx_proto::limits::LISTING_ENTRIES_MAX;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Want};
use ftx_proto::wire::session::ListingEntry;

use super::content::{Content, Have};
use super::folder::{Folder, Gathering, Made};
use super::index::Index;
use super::places::{PLACES_MAX, Places};
use super::pool::Ticket;
use super::tree::{Id, State, View, beginning_of};

/// Most entries in the answer to a lookup: what fits a datagram with short names.
const LOOKUP_ENTRIES_MAX: usize = 16;

/// Most bytes of names in one listing, so that it fits a frame.
const LISTING_BYTES_MAX: usize = 40 * 1024;

/// What a question about what is not hashed yet asks of those who hash: how many bytes of a file are done.
pub(crate) type Progress<'a> = &'a dyn Fn(Ticket) -> u64;

/// What there is of what is wanted.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) entries: Vec<OfferEntry>,
    /// There is more of it.
    pub(crate) more: bool,
    /// What in it waits to be hashed.
    pub(crate) waits: Vec<Id>,
}

impl Index {
    /// What is there of what is wanted.
    pub(crate) fn lookup(&self, want: &Want, progress: Progress<'_>) -> Answer {
        let mut answer = Answer::default();
        let most = LOOKUP_ENTRIES_MAX + 1;
        match want {
            Want::Name(name) => {
                if let Some(id) = self.tree.find(name) {
                    self.offer(id, progress, &mut answer);
                }
            }
            Want::Root(prefix) => {
                for id in self.hashed_as(prefix).into_iter().take(most) {
                    self.offer(id, progress, &mut answer);
                }
                let folders = self.current_folders().filter(|folder| prefix.matches(&folder.root()));
                answer.entries.extend(folders.map(offer_folder));
            }
            Want::All => {
                for id in self.tree.behind(None) {
                    if answer.entries.len() >= most {
                        break;
                    }
                    self.offer(id, progress, &mut answer);
                }
                answer.waits.clear();
            }
        }
        let partials = self.partials.values().filter(|content| match want {
            Want::Name(name) => content.is_named() && content.name() == name,
            Want::Root(prefix) => prefix.matches(&root_of(content)),
            Want::All => content.is_named(),
        });
        for content in partials {
            // Whole is better than in part.
            if answer.entries.len() < most && !self.has_whole(content) {
                answer.entries.push(offer_partial(content));
            }
        }
        answer.more = answer.entries.len() > LOOKUP_ENTRIES_MAX;
        answer.entries.truncate(LOOKUP_ENTRIES_MAX);
        answer
    }

    /// The files and folders behind `after` in order of their names, at most `limit`, and whether there are more.
    pub(crate) fn list(&self, after: Option<&RelativePath>, limit: usize) -> (Vec<ListingEntry>, bool) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for id in self.tree.behind(after) {
            let Some(entry) = self.listing_entry(id) else { continue };
            bytes += entry.name.as_str().len() + size_of::<ListingEntry>();
            if entries.len() >= limit.clamp(1, LISTING_ENTRIES_MAX) || bytes > LISTING_BYTES_MAX {
                return (entries, true);
            }
            entries.push(entry);
        }
        (entries, false)
    }

    /// The content that `root` names, whole if possible.
    pub(crate) fn open(&self, root: &Root) -> Option<Arc<Content>> {
        let file = || {
            let same = self.hashed_alike(root);
            let (name, first) = same.first()?;
            let places = same.iter().take(PLACES_MAX).filter_map(|(name, id)| match self.tree.view(*id) {
                View::File { stamp, .. } => Some((self.shares.location(self.tree.share(*id), name), stamp)),
                View::Folder { .. } | View::Link { .. } => None,
            });
            let places = Places::new(places.collect())?;
            Some(Arc::new(Content::files(self.tree.layer(*first)?, name.clone(), places)))
        };
        let of_folder = || self.current_folders().find_map(|folder| folder.content(root)).cloned();
        let partial_manifest = || {
            let mut manifests =
                self.partials.values().filter_map(|content| content.part_of()?.manifest.as_ref());
            manifests.find(|manifest| manifest.root() == *root)
        };
        let partial = || self.partials.get(root).or_else(partial_manifest).cloned();
        file().or_else(of_folder).or_else(partial)
    }

    /// What a folder of this name is to be made of, if it can be offered and is not remembered.
    pub(crate) fn to_be_made(&self, name: &RelativePath) -> Option<Gathering> {
        let id = self.tree.find(name).filter(|id| self.tree.is_folder(*id))?;
        match self.folders.find(name, self.tree.changed(id)) {
            Some(_) => None,
            None => Gathering::begin(self, id),
        }
    }

    /// The names of folders that can be offered and are not remembered, as many as there is room for: those at the top
    /// first, then what is in them, and so on. None of the very large ones: nobody asked for them.
    pub(crate) fn folders_to_be_made(&self) -> VecDeque<RelativePath> {
        let mut names = VecDeque::new();
        let mut folders = VecDeque::from([Id::ROOT]);
        let (mut room, mut looked_at) = (self.folders.room(), 0);
        while let Some(folder) = folders.pop_front() {
            for id in self.tree.entries(folder) {
                looked_at += 1;
                if room == 0 || looked_at > LOOKED_AT_MAX {
                    return names;
                }
                let View::Folder { sums } = self.tree.view(id) else { continue };
                folders.push_back(id);
                if !sums.is_complete() || sums.files + sums.folders > UNASKED_ENTRIES_MAX {
                    continue;
                }
                let Some(name) = self.tree.path(id) else { continue };
                if self.folders.find(&name, self.tree.changed(id)).is_none() {
                    room -= 1;
                    names.push_back(name);
                }
            }
        }
        names
    }

    /// A folder was made: remembers it. Why it cannot be offered, if so.
    pub(crate) fn made(&mut self, made: Made) -> Option<String> {
        self.folders.add(made).map(|error| error.to_string())
    }

    /// Somebody asked for this name.
    pub(crate) fn touch(&mut self, name: &RelativePath) {
        self.folders.touch(name);
    }

    /// Lets go of folders that have changed.
    pub(crate) fn forget_changed_folders(&mut self) {
        let tree = &self.tree;
        self.folders.forget_changed(|name| tree.find(name).map(|id| tree.changed(id)));
    }

    fn offer(&self, id: Id, progress: Progress<'_>, answer: &mut Answer) {
        let Some(name) = self.tree.path(id) else { return };
        let mtime = self.tree.mtime(id).0;
        let (kind, size, root) = match self.tree.view(id) {
            View::Link { .. } | View::File { state: State::Failed, .. } => return,
            View::File { stamp, state: State::Hashed(root) } => {
                (OfferedKind::File, stamp.size, OfferedRoot::Whole(root))
            }
            View::File { stamp, .. } => {
                answer.waits.push(id);
                let done = self.backlog.ticket(id).map_or(0, progress);
                (OfferedKind::File, stamp.size, OfferedRoot::Hashing(done.min(stamp.size)))
            }
            View::Folder { sums } => match self.folders.find(&name, self.tree.changed(id)) {
                Some(Some(folder)) => return answer.entries.push(offer_folder(folder)),
                Some(None) => return,
                None => {
                    answer.waits.push(id);
                    let size = sums.bytes - sums.failed_bytes;
                    let under_way = self.backlog.large().filter(|(file, _)| self.tree.is_below(*file, id));
                    let done = sums.hashed_bytes + under_way.map(|(_, ticket)| progress(ticket)).sum::<u64>();
                    (OfferedKind::Folder(None), size, OfferedRoot::Hashing(done.min(size)))
                }
            },
        };
        answer.entries.push(OfferEntry { name, kind, size, mtime, root });
    }

    fn listing_entry(&self, id: Id) -> Option<ListingEntry> {
        let (is_folder, size, root) = match self.tree.view(id) {
            View::Link { .. } | View::File { state: State::Failed, .. } => return None,
            View::File { stamp, state: State::Hashed(root) } => (false, stamp.size, Some(root)),
            View::File { stamp, .. } => (false, stamp.size, None),
            View::Folder { sums } => (true, sums.bytes - sums.failed_bytes, None),
        };
        let name = self.tree.path(id)?;
        let root = root.or_else(|| {
            let known = if is_folder { self.folders.find(&name, self.tree.changed(id))? } else { None };
            known.map(Folder::root)
        });
        Some(ListingEntry { name, is_folder, size, mtime: self.tree.mtime(id).0, root })
    }

    /// Whether what is being fetched is in a share as well.
    fn has_whole(&self, content: &Content) -> bool {
        match content.part_of() {
            None => !self.hashed_alike(&content.root()).is_empty(),
            Some(folder) => self.current_folders().any(|known| known.root() == folder.root),
        }
    }

    /// Folders that are remembered and as they were.
    fn current_folders(&self) -> impl Iterator<Item = &Folder> {
        self.folders.current(|name| self.tree.find(name).map(|id| self.tree.changed(id)))
    }

    /// The files that have this root, in order of their names.
    fn hashed_alike(&self, root: &Root) -> Vec<(RelativePath, Id)> {
        let same = self.tree.hashed_as(beginning_of(root)).filter(|(_, found)| found == root);
        let named = same.take(SAME_ROOT_MAX).filter_map(|(id, _)| Some((self.tree.path(id)?, id)));
        let mut all: Vec<_> = named.collect();
        all.sort_unstable();
        all
    }

    /// Files whose roots begin so, in order of root and name.
    fn hashed_as(&self, prefix: &RootPrefix) -> Vec<Id> {
        // A prefix has as many digits as are looked up by, or more.
        let Ok(first) = format!("{:0<64}", prefix.as_str()).parse::<Root>() else { return Vec::new() };
        let same = self.tree.hashed_as(beginning_of(&first)).filter(|(_, found)| prefix.matches(found));
        let named = same.take(SAME_ROOT_MAX).filter_map(|(id, root)| Some((root, self.tree.path(id)?, id)));
        let mut all: Vec<_> = named.collect();
        all.sort_unstable();
        all.into_iter().map(|(_, _, id)| id).collect()
    }
}

/// Most entries of a folder whose root is found out without anybody asking for the folder.
const UNASKED_ENTRIES_MAX: u64 = 100_000;

/// Most entries that are looked at to find such folders.
const LOOKED_AT_MAX: usize = 200_000;

/// Most files of one root that are put in order: a million empty files are one content.
const SAME_ROOT_MAX: usize = 64;

fn offer_folder(folder: &Folder) -> OfferEntry {
    OfferEntry {
        name: folder.name().clone(),
        kind: OfferedKind::Folder(Some(folder.offered_manifest())),
        size: folder.size(),
        mtime: folder.mtime().0,
        root: OfferedRoot::Whole(folder.root()),
    }
}

/// The root that a content is asked for by.
fn root_of(content: &Content) -> Root {
    content.part_of().map_or(content.root(), |folder| folder.root)
}

fn offer_partial(content: &Content) -> OfferEntry {
    let root = root_of(content);
    let kind = content.part_of().map_or(OfferedKind::File, |folder| {
        let manifest = folder.manifest.as_ref();
        OfferedKind::Folder(manifest.map(|manifest| {
            let (root, size) = (manifest.root(), manifest.geometry().size());
            OfferedManifest { root, size }
        }))
    });
    let root = match content.have() {
        Have::Whole => OfferedRoot::Whole(root),
        Have::Partial(have) => OfferedRoot::Partial { root, pieces: have.borrow().count() },
    };
    OfferEntry {
        name: content.name().clone(),
        kind,
        size: content.geometry().size(),
        mtime: content.mtime().0,
        root,
    }
}
