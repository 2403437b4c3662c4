//! From a name, as the user types it, to one content and the nodes that have it.
//!
//! Offers are grouped by content. One group: that is it. Several: nothing is fetched, and the user is shown what there
//! is to choose from. A name that could be read in two ways (`cafe0123` is a name and the beginning of a root) is looked
//! for in both.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId, Root, RootPrefix};
use ftx_proto::geometry::Geometry;
use ftx_proto::limits::MANIFEST_BYTES_MAX;
use ftx_proto::merkle::PieceLayer;
use ftx_proto::name::{NameError, RelativePath, printable};
use ftx_proto::wire::discovery::{Announce, OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Want};

use crate::actors::discovery::Found;
use crate::error::{Code, ContentGroup, Error};

/// What the user asks for, in every way in which it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    text: String,
    readings: Vec<Reading>,
}

/// One way to read what the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the nodes are asked.
    pub want: Want,
    /// Only contents whose root begins so.
    pub prefix: Option<RootPrefix>,
}

impl Wanted {
    /// Reads `NAME`, `ROOT` (or the beginning of one) and `NAME@PREFIX-OF-ROOT`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let name = text.parse::<RelativePath>();
        let mut readings = Vec::new();
        if let Ok(prefix) = text.parse::<RootPrefix>() {
            readings.push(Reading { want: Want::Root(prefix), prefix: None });
        }
        if let Some((name, prefix)) = text.rsplit_once('@')
            && let (Ok(name), Ok(prefix)) = (name.parse(), prefix.parse())
        {
            readings.push(Reading { want: Want::Name(name), prefix: Some(prefix) });
        }
        match name {
            // A whole root is nothing else.
            Ok(_) if text.parse::<Root>().is_ok() => {}
            Ok(name) => readings.push(Reading { want: Want::Name(name), prefix: None }),
            Err(error) => return Err(error),
        }
        Ok(Wanted { text: text.to_owned(), readings })
    }

    /// The name that it is, if it cannot be anything else.
    pub fn only_name(&self) -> Option<&RelativePath> {
        match self.readings.as_slice() {
            [Reading { want: Want::Name(name), prefix: None }] => Some(name),
            _ => None,
        }
    }

    /// The ways to read it; at least one.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&printable(&self.text), f)
    }
}

/// Somebody who offers a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who it says it is.
    pub announce: Announce,
    /// Where its sessions are.
    pub addr: SocketAddr,
    /// Of a folder, what says what is in it.
    pub manifest: Option<OfferedManifest>,
}

/// What a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentKind {
    /// A file.
    File,
    /// A folder.
    Folder,
}

/// One content, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its root.
    pub root: Root,
    /// What it is.
    pub kind: ContentKind,
    /// Bytes; of a folder those of all its files.
    pub size: u64,
    /// Seconds since 1970 of its last change, as the first of the holders says.
    pub mtime: i64,
    /// Its name, as the first of the holders says.
    pub name: RelativePath,
    /// Who has it.
    pub holders: Vec<Holder>,
}

/// What the offers so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that could be fetched (yet).
    Nothing,
    /// There is one, but its root is being computed: this many bytes of so many are hashed.
    Hashing {
        /// Bytes hashed, where they are hashed furthest.
        hashed: u64,
        /// Bytes in all.
        size: u64,
    },
    /// This is it.
    One(Resolved),
    /// There are several; the user has to choose.
    Several(Vec<ContentGroup>),
}

/// The offers for one [`Wanted`].
#[derive(Debug, Default)]
pub struct Offers {
    groups: Vec<Group>,
    answered: HashSet<Instance>,
    from: Option<String>,
    refused_by_from: bool,
    /// Somebody who has it, as it says, but is not trusted.
    untrusted: Option<(NodeId, String)>,
}

#[derive(Debug)]
struct Group {
    root: Option<Root>,
    kind: ContentKind,
    size: u64,
    mtime: i64,
    name: RelativePath,
    hashed: u64,
    holders: Vec<Holder>,
}

impl Offers {
    /// No offers yet; only those of the node that `from` names (by the beginning of its id, or its name) will count.
    pub fn new(from: Option<String>) -> Self {
        Offers { from, ..Offers::default() }
    }

    /// Takes what a node says.
    pub fn take(&mut self, found: &Found, reading: &Reading) {
        let from = &found.offer.from;
        self.answered.insert(from.instance);
        if let Some(wanted) = &self.from
            && !is_named(wanted, from.node, &from.name)
        {
            self.refused_by_from |= !found.offer.entries.is_empty();
            return;
        }
        if !found.admitted {
            if !found.offer.entries.is_empty() {
                self.untrusted = Some((from.node, from.name.clone()));
            }
            return;
        }
        for entry in &found.offer.entries {
            self.take_entry(found, reading, entry);
        }
    }

    fn take_entry(&mut self, found: &Found, reading: &Reading, entry: &OfferEntry) {
        let root = entry.root.root();
        let answers = match &reading.want {
            Want::Name(name) => *name == entry.name,
            Want::Root(prefix) => root.is_some_and(|root| prefix.matches(&root)),
            Want::All => false,
        };
        let chosen = match (&reading.prefix, root) {
            (Some(prefix), Some(root)) => prefix.matches(&root),
            _ => true,
        };
        if !answers || !chosen || !is_possible(entry) {
            return;
        }
        let (kind, manifest) = match entry.kind {
            OfferedKind::File => (ContentKind::File, None),
            OfferedKind::Folder(manifest) => (ContentKind::Folder, manifest),
        };
        let holder = Holder { announce: found.offer.from.clone(), addr: found.addr, manifest };
        // What a node says of itself replaces what it said before: hashing goes on.
        for group in &mut self.groups {
            group.holders.retain(|known| {
                known.announce.instance != holder.announce.instance
                    || group.root.is_some()
                    || group.name != entry.name
            });
        }
        self.groups.retain(|group| !group.holders.is_empty());
        let hashed = match entry.root {
            OfferedRoot::Hashing(bytes) => bytes.min(entry.size),
            OfferedRoot::Whole(_) | OfferedRoot::Partial { .. } => entry.size,
        };
        match self
            .groups
            .iter_mut()
            .find(|group| (group.root, group.kind, group.size) == (root, kind, entry.size))
        {
            Some(group) => {
                group.hashed = group.hashed.max(hashed);
                if !group.holders.contains(&holder) {
                    group.holders.push(holder);
                }
            }
            None => self.groups.push(Group {
                root,
                kind,
                size: entry.size,
                mtime: entry.mtime,
                name: entry.name.clone(),
                hashed,
                holders: vec![holder],
            }),
        }
    }

    /// What to make of the offers so far.
    pub fn verdict(&self) -> Verdict {
        let known: Vec<&Group> = self.groups.iter().filter(|group| group.root.is_some()).collect();
        // Who still hashes a content of the same size most likely has the same. A folder's size grows while it is looked
        // through, so it says nothing.
        let (folders, files): (Vec<&Group>, Vec<&Group>) =
            self.groups.iter().filter(|group| group.root.is_none()).partition(|group| group.is_folder());
        let is_known = |group: &&Group| known.iter().any(|it| (it.kind, it.size) == (group.kind, group.size));
        let files = files.into_iter().filter(|group| !is_known(group));
        let folder = folders.into_iter().max_by_key(|group| group.size);
        let folder = folder.filter(|_| !known.iter().any(|known| known.is_folder()));
        let contents: Vec<&Group> = known.iter().copied().chain(files).chain(folder).collect();
        match contents.as_slice() {
            [] => Verdict::Nothing,
            [only] => match only.root {
                Some(root) => Verdict::One(Resolved {
                    root,
                    kind: only.kind,
                    size: only.size,
                    mtime: only.mtime,
                    name: only.name.clone(),
                    holders: only.holders.clone(),
                }),
                None => Verdict::Hashing { hashed: only.hashed, size: only.size },
            },
            several => Verdict::Several(several.iter().map(|group| group.describe()).collect()),
        }
    }

    /// The error for a search that has ended with nothing.
    pub fn nothing(&self, wanted: &Wanted, waited: Duration) -> Error {
        if let Some((node, name)) = &self.untrusted {
            let message = format!(
                "{wanted}: only nodes that are not trusted have it, such as {} ({}); `ftx-node trust add {node}` would \
                 change that",
                printable(name),
                node.short()
            );
            return Error::new(Code::Refused, message);
        }
        let seconds = waited.as_secs_f64();
        let nodes = self.answered.len();
        let message = match (&self.from, nodes) {
            (_, 0) => {
                let message = format!(
                    "no node answered within {seconds:.1} s; is `ftx-node --share` running on the other \
                     machine, on this network? Where broadcasts do not pass, name it with --peer HOST"
                );
                return Error::new(Code::NoNode, message);
            }
            (Some(from), _) if self.refused_by_from => {
                format!(
                    "{wanted}: other nodes have it, but not '{}'; leave --from out to fetch it",
                    printable(from)
                )
            }
            (Some(from), _) => {
                format!("{wanted}: not found on '{}' ({nodes} nodes answered)", printable(from))
            }
            (None, 1) => {
                format!("{wanted}: not found; the one node that answered does not have it; see `ftx-node ls`")
            }
            (None, _) => {
                format!(
                    "{wanted}: not found; none of the {nodes} nodes that answered has it; see `ftx-node ls`"
                )
            }
        };
        Error::new(Code::NotFound, message)
    }
}

impl Group {
    fn is_folder(&self) -> bool {
        self.kind == ContentKind::Folder
    }

    fn describe(&self) -> ContentGroup {
        let nodes = self.holders.iter().map(|holder| (holder.announce.node, holder.announce.name.clone()));
        ContentGroup { root: self.root, size: self.size, mtime: self.mtime, nodes: nodes.collect() }
    }
}

/// Whether there can be such a content at all. One root names nothing, and nothing else has no bytes: who took an offer of
/// an empty file under another root at its word would hold an empty file for what that root names.
pub fn is_possible(entry: &OfferEntry) -> bool {
    if let OfferedKind::Folder(manifest) = entry.kind {
        let sizes = 1..=MANIFEST_BYTES_MAX as u64;
        return entry.root.root().is_none()
            || manifest.is_some_and(|manifest| sizes.contains(&manifest.size));
    }
    let Ok(geometry) = Geometry::new(entry.size) else { return false };
    match entry.root.root() {
        Some(root) if geometry.size() == 0 => PieceLayer::verify(geometry, root, Vec::new()).is_ok(),
        _ => true,
    }
}

/// The error for a name that stands for several contents.
pub fn ambiguous(wanted: &Wanted, contents: Vec<ContentGroup>) -> Error {
    let mut message = format!(
        "{wanted}: {} different contents have this name; choose one with `get NAME@ROOT`, or --from NODE:",
        contents.len()
    );
    for content in &contents {
        let root = content.root.map_or("(being hashed)".to_owned(), |root| root.to_string());
        let nodes: Vec<String> = content
            .nodes
            .iter()
            .map(|(node, name)| format!("{} ({})", printable(name), node.short()))
            .collect();
        message.push_str(&format!(
            "\n  {root}  {} bytes  changed {}  on {}",
            content.size,
            crate::cli::text::date(content.mtime),
            nodes.join(", ")
        ));
    }
    Error { contents, ..Error::new(Code::Ambiguous, message) }
}

/// Whether the user means this node: by its name, or by the beginning of its id.
pub fn is_named(wanted: &str, node: NodeId, name: &str) -> bool {
    wanted == name || (wanted.len() >= 4 && node.to_string().starts_with(&wanted.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "a/file.bin";

    fn found(who: u64, root: OfferedRoot, size: u64) -> Found {
        let from = Announce {
            node: NodeId([who as u8; 32]),
            instance: Instance(who),
            port: 1,
            name: format!("node{who}"),
        };
        let entry = OfferEntry { name: NAME.parse().unwrap(), kind: OfferedKind::File, size, mtime: 0, root };
        let offer = ftx_proto::wire::discovery::Offer { nonce: 0, from, entries: vec![entry], more: false };
        Found { addr: SocketAddr::from(([127, 0, 0, 1], 1)), offer, admitted: true }
    }

    fn whole(byte: u8) -> OfferedRoot {
        OfferedRoot::Whole(Root([byte; 32]))
    }

    fn offers(wanted: &str, from: Option<&str>, founds: &[Found]) -> Offers {
        let wanted = Wanted::parse(wanted).unwrap();
        let mut offers = Offers::new(from.map(str::to_owned));
        for found in founds {
            for reading in wanted.readings() {
                offers.take(found, reading);
            }
        }
        offers
    }

    #[test]
    fn what_users_type_is_read_in_every_way() {
        let wants = |text: &str| {
            let wanted = Wanted::parse(text).unwrap();
            wanted.readings().iter().map(|r| (r.want.clone(), r.prefix.is_some())).collect::<Vec<_>>()
        };
        let name = |text: &str| Want::Name(text.parse().unwrap());
        let root = |text: &str| Want::Root(text.parse().unwrap());
        assert_eq!(wants("ubuntu.iso"), [(name("ubuntu.iso"), false)]);
        assert_eq!(wants("cafe0123"), [(root("cafe0123"), false), (name("cafe0123"), false)]);
        assert_eq!(wants(&"a".repeat(64)), [(root(&"a".repeat(64)), false)]);
        assert_eq!(wants("x@cafe0123"), [(name("x"), true), (name("x@cafe0123"), false)]);
        assert_eq!(wants("x@home"), [(name("x@home"), false)]);
        assert!(Wanted::parse("../x").is_err());
    }

    #[test]
    fn a_folder_that_is_being_looked_through_is_one_content() {
        let folder = |who, root, size, manifest| {
            let mut found = found(who, root, size);
            found.offer.entries[0].kind = OfferedKind::Folder(manifest);
            found
        };
        let hashing = |who, size| folder(who, OfferedRoot::Hashing(size / 2), size, None);
        let growing = offers(NAME, None, &[hashing(1, 10), hashing(2, 70), hashing(1, 20)]);
        assert_eq!(growing.verdict(), Verdict::Hashing { hashed: 35, size: 70 });
        let manifest = OfferedManifest { root: Root([9; 32]), size: 100 };
        let done =
            offers(NAME, None, &[hashing(1, 10), folder(2, whole(7), 80, Some(manifest)), hashing(1, 20)]);
        let Verdict::One(one) = done.verdict() else { panic!("{:?}", done.verdict()) };
        assert_eq!((one.kind, one.holders.len()), (ContentKind::Folder, 1));
        assert_eq!(one.holders[0].manifest, Some(manifest));
        let nothing = offers(NAME, None, &[folder(2, whole(7), 80, None)]);
        assert_eq!(nothing.verdict(), Verdict::Nothing, "nobody could say what is in it");
    }

    #[test]
    fn one_content_on_several_nodes_is_one() {
        let offers = offers(NAME, None, &[found(1, whole(7), 10), found(2, whole(7), 10)]);
        let Verdict::One(one) = offers.verdict() else { panic!("{:?}", offers.verdict()) };
        assert_eq!((one.root, one.holders.len()), (Root([7; 32]), 2));
    }

    #[test]
    fn different_contents_are_shown_and_can_be_chosen() {
        let both = [found(1, whole(7), 10), found(2, whole(8), 10)];
        let Verdict::Several(groups) = offers(NAME, None, &both).verdict() else { panic!() };
        assert_eq!(groups.len(), 2);
        let chosen = format!("{NAME}@08080808");
        let Verdict::One(one) = offers(&chosen, None, &both).verdict() else { panic!() };
        assert_eq!(one.root, Root([8; 32]));
        for from in ["node1", "01010101"] {
            let Verdict::One(one) = offers(NAME, Some(from), &both).verdict() else { panic!("{from}") };
            assert_eq!(one.root, Root([7; 32]));
        }
    }

    #[test]
    fn what_cannot_be_is_not_taken_for_an_offer() {
        for size in [0, u64::MAX] {
            let offers = offers(NAME, None, &[found(1, whole(7), size)]);
            assert_eq!(offers.verdict(), Verdict::Nothing, "{size}");
        }
        let empty = Geometry::new(0).unwrap();
        let empty = PieceLayer::from_hashes(empty, Vec::new()).unwrap().root();
        let offers = offers(NAME, None, &[found(1, OfferedRoot::Whole(empty), 0), found(2, whole(7), 0)]);
        let Verdict::One(one) = offers.verdict() else { panic!("{:?}", offers.verdict()) };
        assert_eq!((one.root, one.size), (empty, 0));
    }

    #[test]
    fn hashing_is_waited_for_only_where_nobody_knows_better() {
        let hashing = |who, bytes| found(who, OfferedRoot::Hashing(bytes), 10);
        assert_eq!(
            offers(NAME, None, &[hashing(1, 3), hashing(1, 6)]).verdict(),
            Verdict::Hashing { hashed: 6, size: 10 }
        );
        let done = offers(NAME, None, &[hashing(1, 3), found(1, whole(7), 10)]);
        assert!(matches!(done.verdict(), Verdict::One(_)));
        let same_size = offers(NAME, None, &[hashing(1, 3), found(2, whole(7), 10)]);
        assert!(matches!(same_size.verdict(), Verdict::One(_)));
        let other_size = offers(NAME, None, &[hashing(1, 3), found(2, whole(7), 11)]);
        assert!(matches!(other_size.verdict(), Verdict::Several(_)));
    }

    #[test]
    fn who_is_not_trusted_has_nothing_and_is_named() {
        let mut untrusted = found(1, whole(7), 10);
        untrusted.admitted = false;
        let wanted = Wanted::parse(NAME).unwrap();
        let alone = offers(NAME, None, std::slice::from_ref(&untrusted));
        assert_eq!(alone.verdict(), Verdict::Nothing);
        let error = alone.nothing(&wanted, Duration::from_secs(3));
        assert_eq!(error.code, Code::Refused);
        assert!(error.message.contains(&NodeId([1; 32]).to_string()), "{error}");
        let both = offers(NAME, None, &[untrusted, found(2, whole(8), 10)]);
        let Verdict::One(one) = both.verdict() else { panic!("{:?}", both.verdict()) };
        assert_eq!(one.root, Root([8; 32]));
    }

    #[test]
    fn nobody_there_is_not_the_same_as_not_found() {
        let wanted = Wanted::parse(NAME).unwrap();
        let nobody = Offers::default().nothing(&wanted, Duration::from_secs(3));
        assert_eq!(nobody.code, Code::NoNode);
        let mut empty = found(1, whole(1), 1);
        empty.offer.entries.clear();
        let not_found = offers(NAME, None, &[empty]).nothing(&wanted, Duration::from_secs(3));
        assert_eq!(not_found.code, Code::NotFound);
    }
}
