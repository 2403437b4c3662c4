//! The table of what is offered, and the answers to questions about it.
//!
//! A file is in exactly one state:
//!
//! ```text
//! found        -> Unhashed   a job for it is under way
//! Unhashed     -> Hashed     its job came back
//! Unhashed     -> Unsettled  it was changed while being hashed; tried again when it is seen next
//! Unhashed     -> Failed     it cannot be read, so it is not offered; tried again when it is seen next
//! any          -> Unhashed   its stamp is another one
//! any          -> gone       a scan that began later did not find it
//! ```
//!
//! A job that comes back late is known by its ticket and not looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use ftx_proto::digest::{Root, RootPrefix};
use ftx_proto::limits::LISTING_ENTRIES_MAX;
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{OfferEntry, OfferedKind, OfferedRoot, Want};
use ftx_proto::wire::session::ListingEntry;

use super::content::{Content, Have, Stamp};
use super::pool::{Hashed, Job, Ticket};
use super::scan::{FILES_MAX, Found, Shares, SkipReason};

/// Most entries in the answer to a lookup: what fits a datagram with short names.
const LOOKUP_ENTRIES_MAX: usize = 16;

/// Most bytes of names in one listing, so that it fits a frame.
const LISTING_BYTES_MAX: usize = 40 * 1024;

/// Most contents that are offered while they are fetched.
const PARTIALS_MAX: usize = 1024;

/// Everything that is offered.
#[derive(Debug)]
pub(crate) struct Index {
    shares: Arc<Shares>,
    files: BTreeMap<Arc<RelativePath>, File>,
    roots: BTreeSet<(Root, Arc<RelativePath>)>,
    partials: HashMap<Root, Arc<Content>>,
    /// The name before all other names.
    least: Arc<RelativePath>,
    next_ticket: u64,
    totals: Totals,
}

#[derive(Debug)]
struct File {
    share: usize,
    stamp: Stamp,
    /// The scan that saw it last.
    seen: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Unhashed(Ticket),
    Hashed(Arc<PieceLayer>),
    Unsettled,
    Failed,
}

/// Sums over the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) hashed_files: u64,
    pub(crate) hashed_bytes: u64,
    pub(crate) failed_files: u64,
}

/// What a found file means for hashing.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// To be hashed.
    pub(crate) job: Option<Job>,
    /// Not to be hashed any more.
    pub(crate) withdrawn: Option<Ticket>,
    /// It is not offered.
    pub(crate) skipped: Option<SkipReason>,
}

/// Some of the files that a scan did not see.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    /// Their names and shares.
    pub(crate) files: Vec<(Arc<RelativePath>, usize)>,
    /// Where to go on, if there are more files.
    pub(crate) next: Option<Arc<RelativePath>>,
}

/// What a question about an unhashed file asks of those who hash: how many bytes are done.
pub(crate) type Progress<'a> = &'a dyn Fn(Ticket) -> u64;

impl Index {
    pub(crate) fn new(shares: Arc<Shares>) -> Self {
        // Names are neither empty nor have a NUL.
        let Ok(least) = "\u{1}".parse().map(Arc::new) else { unreachable!("this is a valid name") };
        Index {
            least,
            shares,
            files: BTreeMap::new(),
            roots: BTreeSet::new(),
            partials: HashMap::new(),
            next_ticket: 0,
            totals: Totals::default(),
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// A file was seen by scan number `scan`.
    pub(crate) fn found(&mut self, found: Found, scan: u64) -> Change {
        let mut change = Change::default();
        let is_full = self.files.len() >= FILES_MAX;
        match self.files.get_mut(&found.name) {
            // Shares are scanned in order, so one that this scan has seen already comes first.
            Some(file) if file.share < found.share && file.seen >= scan => {
                change.skipped = Some(SkipReason::Shadowed);
                return change;
            }
            Some(file) if file.share == found.share && file.stamp.is_same_content(&found.stamp) => {
                file.seen = file.seen.max(scan);
                file.stamp = found.stamp;
                if !matches!(file.state, State::Failed | State::Unsettled) {
                    return change;
                }
            }
            None if is_full => {
                change.skipped = Some(SkipReason::TooMany);
                return change;
            }
            _ => {}
        }
        let (name, seen) = match self.files.get_key_value(&found.name) {
            Some((name, file)) => (name.clone(), file.seen.max(scan)),
            None => (Arc::new(found.name), scan),
        };
        change.withdrawn = self.remove(&name);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.totals.files += 1;
        self.totals.bytes += found.stamp.size;
        let file = File { share: found.share, stamp: found.stamp, seen, state: State::Unhashed(ticket) };
        let location = self.shares.location(found.share, &name);
        self.files.insert(name.clone(), file);
        change.job = Some(Job { ticket, name, location, stamp: found.stamp });
        change
    }

    /// Takes out a file; its ticket, if it was to be hashed.
    pub(crate) fn remove(&mut self, name: &RelativePath) -> Option<Ticket> {
        let (name, file) = self.files.remove_entry(name)?;
        self.totals.files -= 1;
        self.totals.bytes -= file.stamp.size;
        match file.state {
            State::Unhashed(ticket) => Some(ticket),
            State::Hashed(layer) => {
                self.totals.hashed_files -= 1;
                self.totals.hashed_bytes -= file.stamp.size;
                self.roots.remove(&(layer.root(), name));
                None
            }
            State::Failed => {
                self.totals.failed_files -= 1;
                None
            }
            State::Unsettled => None,
        }
    }

    /// Of the next files behind `after`, at most `limit`, those that scan number `scan` did not see.
    pub(crate) fn unseen(&self, after: Option<&RelativePath>, scan: u64, limit: usize) -> Unseen {
        let mut unseen = Unseen::default();
        let mut last = None;
        let mut count = 0;
        for (name, file) in self.behind(after).take(limit) {
            if file.seen < scan {
                unseen.files.push((name.clone(), file.share));
            }
            last = Some(name);
            count += 1;
        }
        unseen.next = last.filter(|_| count == limit).cloned();
        unseen
    }

    /// A job came back with a root. `false` if it is not waited for.
    pub(crate) fn hashed(&mut self, name: &Arc<RelativePath>, ticket: Ticket, hashed: &Hashed) -> bool {
        let Some(file) = self.waiting(name, ticket) else { return false };
        let before = file.stamp.size;
        file.stamp = hashed.stamp;
        file.state = State::Hashed(hashed.layer.clone());
        self.totals.bytes = self.totals.bytes - before + hashed.stamp.size;
        self.totals.hashed_files += 1;
        self.totals.hashed_bytes += hashed.stamp.size;
        self.roots.insert((hashed.layer.root(), name.clone()));
        true
    }

    /// A job came back because the file was changed. `false` if it is not waited for.
    pub(crate) fn unsettled(&mut self, name: &RelativePath, ticket: Ticket) -> bool {
        let file = self.waiting(name, ticket);
        file.map(|file| file.state = State::Unsettled).is_some()
    }

    /// A job came back because the file cannot be read. `false` if it is not waited for.
    pub(crate) fn failed(&mut self, name: &RelativePath, ticket: Ticket) -> bool {
        let Some(file) = self.waiting(name, ticket) else { return false };
        file.state = State::Failed;
        self.totals.failed_files += 1;
        true
    }

    fn waiting(&mut self, name: &RelativePath, ticket: Ticket) -> Option<&mut File> {
        self.files
            .get_mut(name)
            .filter(|file| matches!(file.state, State::Unhashed(other) if other == ticket))
    }

    /// Which share a file is in.
    pub(crate) fn share_of(&self, name: &RelativePath) -> Option<usize> {
        self.files.get(name).map(|file| file.share)
    }

    /// Offers what is being fetched. `false` if there are too many already.
    pub(crate) fn add_partial(&mut self, content: Arc<Content>) -> bool {
        let root = content.root();
        if self.partials.len() >= PARTIALS_MAX && !self.partials.contains_key(&root) {
            return false;
        }
        self.partials.insert(root, content);
        true
    }

    /// Does not offer it any more.
    pub(crate) fn remove_partial(&mut self, root: &Root) {
        self.partials.remove(root);
    }

    /// What is there of what is wanted, and whether there is more. `ask` hears of each unhashed file in the answer.
    pub(crate) fn lookup(&self, want: &Want, ask: Progress<'_>) -> (Vec<OfferEntry>, bool) {
        let offered = |(name, file): (&Arc<RelativePath>, &File)| self.offer(name, file, ask);
        let mut entries: Vec<OfferEntry> = match want {
            Want::Name(name) => self.files.get_key_value(name).and_then(offered).into_iter().collect(),
            Want::Root(prefix) => {
                self.hashed_as(prefix).filter_map(offered).take(LOOKUP_ENTRIES_MAX + 1).collect()
            }
            Want::All => self.files.iter().filter_map(offered).take(LOOKUP_ENTRIES_MAX + 1).collect(),
        };
        let partials = self.partials.values().filter(|content| match want {
            Want::Name(name) => content.name() == name,
            Want::Root(prefix) => prefix.matches(&content.root()),
            Want::All => true,
        });
        for content in partials {
            // Whole is better than in part.
            if entries.len() <= LOOKUP_ENTRIES_MAX && self.hashed_with(&content.root()).next().is_none() {
                entries.push(offer_partial(content));
            }
        }
        let more = entries.len() > LOOKUP_ENTRIES_MAX;
        entries.truncate(LOOKUP_ENTRIES_MAX);
        (entries, more)
    }

    /// The files behind `after` in order of their names, at most `limit`, and whether there are more.
    pub(crate) fn list(&self, after: Option<&RelativePath>, limit: usize) -> (Vec<ListingEntry>, bool) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (name, file) in self.behind(after) {
            let root = match &file.state {
                State::Hashed(layer) => Some(layer.root()),
                State::Unhashed(_) | State::Unsettled => None,
                State::Failed => continue,
            };
            bytes += name.as_str().len() + size_of::<ListingEntry>();
            if entries.len() >= limit.clamp(1, LISTING_ENTRIES_MAX) || bytes > LISTING_BYTES_MAX {
                return (entries, true);
            }
            let name = RelativePath::clone(name);
            entries.push(ListingEntry {
                name,
                is_folder: false,
                size: file.stamp.size,
                mtime: file.stamp.mtime.0,
                root,
            });
        }
        (entries, false)
    }

    /// The content that `root` names, whole if possible.
    pub(crate) fn open(&self, root: &Root) -> Option<Arc<Content>> {
        let whole = self.hashed_with(root).find_map(|(name, file)| match &file.state {
            State::Hashed(layer) => {
                let location = self.shares.location(file.share, name);
                Some(Arc::new(Content::file(layer.clone(), RelativePath::clone(name), location, file.stamp)))
            }
            State::Unhashed(_) | State::Unsettled | State::Failed => None,
        });
        whole.or_else(|| self.partials.get(root).cloned())
    }

    fn offer(&self, name: &RelativePath, file: &File, ask: Progress<'_>) -> Option<OfferEntry> {
        let root = match &file.state {
            State::Hashed(layer) => OfferedRoot::Whole(layer.root()),
            State::Unhashed(ticket) => OfferedRoot::Hashing(ask(*ticket).min(file.stamp.size)),
            State::Unsettled => OfferedRoot::Hashing(0),
            State::Failed => return None,
        };
        Some(OfferEntry {
            name: name.clone(),
            kind: OfferedKind::File,
            size: file.stamp.size,
            mtime: file.stamp.mtime.0,
            root,
        })
    }

    fn behind(&self, after: Option<&RelativePath>) -> impl Iterator<Item = (&Arc<RelativePath>, &File)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.files.range::<RelativePath, _>((from, Bound::Unbounded))
    }

    fn hashed_with(&self, root: &Root) -> impl Iterator<Item = (&Arc<RelativePath>, &File)> {
        self.hashed_from(*root)
            .take_while(move |(found, _, _)| *found == *root)
            .map(|(_, name, file)| (name, file))
    }

    fn hashed_as(&self, prefix: &RootPrefix) -> impl Iterator<Item = (&Arc<RelativePath>, &File)> {
        // The least root that begins so.
        let first = format!("{:0<64}", prefix.as_str()).parse().unwrap_or(Root([0; 32]));
        self.hashed_from(first)
            .take_while(|(root, _, _)| prefix.matches(root))
            .map(|(_, name, file)| (name, file))
    }

    fn hashed_from(&self, first: Root) -> impl Iterator<Item = (Root, &Arc<RelativePath>, &File)> {
        self.roots
            .range((Bound::Included((first, self.least.clone())), Bound::Unbounded))
            .filter_map(|(root, name)| Some((*root, name, self.files.get(name)?)))
    }
}

fn offer_partial(content: &Content) -> OfferEntry {
    let root = match content.have() {
        Have::Whole => OfferedRoot::Whole(content.root()),
        Have::Partial(have) => OfferedRoot::Partial { root: content.root(), pieces: have.borrow().count() },
    };
    OfferEntry {
        name: content.name().clone(),
        kind: OfferedKind::File,
        size: content.geometry().size(),
        mtime: content.mtime().0,
        root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::digest::Digest;
    use ftx_proto::geometry::Geometry;
    use std::path::PathBuf;

    fn index(shares: usize) -> Index {
        let paths: Vec<PathBuf> =
            (0..shares).map(|share| PathBuf::from(format!("/no/such/share/{share}"))).collect();
        Index::new(Arc::new(Shares::new(&paths, None)))
    }

    fn name(text: &str) -> RelativePath {
        text.parse().unwrap()
    }

    fn found(share: usize, text: &str, inode: u64) -> Found {
        let stamp = Stamp { size: 100, mtime: (1, 0), inode, device: 1, executable: false };
        Found { share, name: name(text), stamp }
    }

    /// The root of a one-piece file, as these tests make it up.
    fn hashed(job: &Job, content: &str) -> Hashed {
        let geometry = Geometry::new(job.stamp.size).unwrap();
        let layer = PieceLayer::from_hashes(geometry, vec![Digest::of(content.as_bytes())]).unwrap();
        Hashed { stamp: job.stamp, layer: Arc::new(layer), from_cache: false }
    }

    fn add(index: &mut Index, found: Found, content: &str) -> Root {
        let job = index.found(found, 1).job.unwrap();
        let hashed = hashed(&job, content);
        assert!(index.hashed(&job.name, job.ticket, &hashed));
        hashed.layer.root()
    }

    fn names(index: &Index, want: &Want) -> (Vec<String>, bool) {
        let (entries, more) = index.lookup(want, &|_| 0);
        (entries.into_iter().map(|entry| entry.name.as_str().to_owned()).collect(), more)
    }

    #[test]
    fn the_first_share_wins_a_name_whatever_the_order_of_events() {
        let mut index = index(2);
        assert!(index.found(found(1, "a", 7), 1).job.is_some());
        // It appears in the first share.
        let change = index.found(found(0, "a", 8), 2);
        assert!(change.job.is_some() && change.withdrawn.is_some());
        let change = index.found(found(1, "a", 7), 2);
        assert!(change.skipped == Some(SkipReason::Shadowed) && change.job.is_none());
        // And goes away from there: scan 3 sees the second one only.
        assert!(index.found(found(1, "a", 7), 3).job.is_some());
        assert_eq!(index.share_of(&name("a")), Some(1));
        assert_eq!(index.totals().files, 1);
    }

    #[test]
    fn only_another_stamp_means_hashing_again() {
        let mut index = index(1);
        let root = add(&mut index, found(0, "a", 1), "one");
        assert!(index.found(found(0, "a", 1), 2).job.is_none());
        assert!(index.open(&root).is_some());
        let job = index.found(found(0, "a", 2), 3).job.unwrap();
        assert!(index.open(&root).is_none());
        assert_eq!(index.totals(), Totals { files: 1, bytes: 100, ..Totals::default() });
        // Another change overtakes the job: what it brings is not looked at.
        let newer = index.found(found(0, "a", 3), 4);
        assert_eq!(newer.withdrawn, Some(job.ticket));
        assert!(!index.hashed(&job.name, job.ticket, &hashed(&job, "two")));
        let newer = newer.job.unwrap();
        assert!(index.hashed(&newer.name, newer.ticket, &hashed(&newer, "three")));
        assert_eq!(index.totals().hashed_files, 1);
    }

    #[test]
    fn what_failed_is_hidden_and_what_is_unsettled_is_not_and_both_are_tried_again() {
        let mut index = index(1);
        let failed = index.found(found(0, "failed", 1), 1).job.unwrap();
        let unsettled = index.found(found(0, "unsettled", 2), 1).job.unwrap();
        assert!(index.failed(&failed.name, failed.ticket));
        assert!(index.unsettled(&unsettled.name, unsettled.ticket));
        assert!(!index.failed(&failed.name, failed.ticket));
        assert_eq!(names(&index, &Want::All), (vec!["unsettled".to_owned()], false));
        assert_eq!(index.list(None, 10).0.len(), 1);
        assert_eq!(index.totals().failed_files, 1);
        assert!(index.found(found(0, "failed", 1), 2).job.is_some());
        assert!(index.found(found(0, "unsettled", 2), 2).job.is_some());
        assert_eq!(index.totals().failed_files, 0);
    }

    #[test]
    fn lookups_by_root_find_every_name_and_every_prefix() {
        let mut index = index(1);
        let root = add(&mut index, found(0, "b", 1), "same");
        assert_eq!(add(&mut index, found(0, "a", 2), "same"), root);
        for (number, text) in ["x", "y", "z"].into_iter().enumerate() {
            add(&mut index, found(0, text, 10 + number as u64), text);
        }
        for digits in [8, 9, 63, 64] {
            let prefix: RootPrefix = root.to_string()[..digits].parse().unwrap();
            assert_eq!(names(&index, &Want::Root(prefix)), (vec!["a".to_owned(), "b".to_owned()], false));
        }
        assert_eq!(names(&index, &Want::Root("00000000".parse().unwrap())).0, Vec::<String>::new());
        assert_eq!(index.open(&root).unwrap().name().as_str(), "a");
        index.remove(&name("a"));
        assert_eq!(index.open(&root).unwrap().name().as_str(), "b");
    }

    #[test]
    fn a_lookup_asks_for_what_is_not_hashed_yet() {
        let mut index = index(1);
        let job = index.found(found(0, "a", 1), 1).job.unwrap();
        let asked = std::cell::Cell::new(None);
        let ask = |ticket| {
            asked.set(Some(ticket));
            55
        };
        let (entries, _) = index.lookup(&Want::Name(name("a")), &ask);
        assert_eq!(entries[0].root, OfferedRoot::Hashing(55));
        assert_eq!(asked.get(), Some(job.ticket));
    }

    #[test]
    fn long_answers_are_cut_and_say_so() {
        let mut index = index(1);
        for number in 0..1000 {
            index.found(found(0, &format!("{number:04}"), number), 1);
        }
        let (entries, more) = names(&index, &Want::All);
        assert_eq!((entries.len(), more), (LOOKUP_ENTRIES_MAX, true));
        let (mut after, mut all) = (None, Vec::new());
        loop {
            let (entries, more) = index.list(after.as_ref(), 300);
            assert!(entries.len() <= 300);
            all.extend(entries.into_iter().map(|entry| entry.name));
            after = all.last().cloned();
            if !more {
                break;
            }
        }
        assert_eq!(all.len(), 1000);
        assert!(all.is_sorted());
    }

    #[test]
    fn a_listing_of_the_longest_names_fits_a_frame() {
        use ftx_proto::limits::FRAME_META_MAX;
        use ftx_proto::wire::session::Message;
        let mut index = index(1);
        for number in 0..200 {
            let long = format!("{}/{}/{number:0>250}", "x".repeat(255), "y".repeat(255));
            add(&mut index, found(0, &long, number), &long);
        }
        let (entries, more) = index.list(None, LISTING_ENTRIES_MAX);
        assert!(more && entries.len() > 10);
        assert!(Message::Listing { entries, more }.encode(0).len() <= FRAME_META_MAX);
    }

    #[test]
    fn a_sweep_goes_through_everything_in_steps() {
        let mut index = index(1);
        for number in 0..100u64 {
            index.found(found(0, &format!("{number:03}"), number), 1 + number % 2);
        }
        let (mut after, mut gone) = (None, 0);
        loop {
            let unseen = index.unseen(after.as_deref(), 2, 7);
            for (name, _) in unseen.files {
                index.remove(&name);
                gone += 1;
            }
            after = unseen.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((gone, index.totals().files), (50, 50));
    }
}
