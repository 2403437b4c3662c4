use std::path::PathBuf;

use ftx_proto::digest::{Digest, RootPrefix};
use ftx_proto::geometry::Geometry;
use ftx_proto::limits::LISTING_ENTRIES_MAX;
use ftx_proto::merkle::PieceLayer;
use ftx_proto::wire::discovery::{OfferedKind, OfferedRoot, Want};

use super::*;
use crate::catalog::folder::{Folder, Gathered, Made, Snapshot};

/// As many as an answer has room for.
const LOOKUP_ENTRIES: usize = 16;

fn index(shares: usize) -> Index {
    let paths: Vec<PathBuf> =
        (0..shares).map(|share| PathBuf::from(format!("/no/such/share/{share}"))).collect();
    Index::new(Arc::new(Shares::new(&paths, None)))
}

fn name(text: &str) -> RelativePath {
    text.parse().unwrap()
}

fn stamp(inode: u64) -> Stamp {
    Stamp { size: 100, mtime: (1, 0), inode, device: 1, executable: false }
}

fn found(share: usize, text: &str, inode: u64) -> Found {
    Found { share, name: name(text), what: What::File(stamp(inode)) }
}

fn folder(share: usize, text: &str) -> Found {
    Found { share, name: name(text), what: What::Folder { mtime: (7, 0) } }
}

/// A file was found, and its turn comes at once.
fn job(index: &mut Index, found: Found, walk: u64) -> Job {
    assert_eq!(index.found(found, walk).skipped, None);
    let mut jobs = index.next_jobs();
    assert_eq!(jobs.len(), 1);
    jobs.pop().unwrap()
}

/// The root of a one-piece file, as these tests make it up.
fn hashed(job: &Job, content: &str) -> Hashed {
    let geometry = Geometry::new(job.stamp.size).unwrap();
    let layer = PieceLayer::from_hashes(geometry, vec![Digest::of(content.as_bytes())]).unwrap();
    Hashed { stamp: job.stamp, layer: Arc::new(layer), from_cache: false }
}

fn add(index: &mut Index, found: Found, content: &str) -> Root {
    let name = found.name.clone();
    let job = job(index, found, 1);
    let hashed = hashed(&job, content);
    assert_eq!(index.hashed(job.id, job.ticket, &hashed), Some(name));
    hashed.layer.root()
}

fn names(index: &Index, want: &Want) -> (Vec<String>, bool) {
    let answer = index.lookup(want, &|_| 0);
    (answer.entries.into_iter().map(|entry| entry.name.as_str().to_owned()).collect(), answer.more)
}

fn want(text: &str) -> Want {
    Want::Name(name(text))
}

/// Makes what can be made of a folder, and what is offered of it then.
fn make(index: &mut Index, text: &str) -> Option<Root> {
    let Made { result: Ok(_), .. } = index.made_for_test(text)? else { panic!("it cannot be made") };
    let answer = index.lookup(&want(text), &|_| 0);
    assert!(matches!(answer.entries[0].kind, OfferedKind::Folder(Some(_))));
    answer.entries[0].root.root()
}

impl Index {
    /// Makes a folder and remembers it.
    fn made_for_test(&mut self, text: &str) -> Option<Made> {
        let made = self.gathered(text, 1000)?.make();
        // In however many steps.
        let again = self.gathered(text, 1)?.make();
        let root = |made: &Made| made.result.as_ref().map(Folder::root).ok();
        assert_eq!(root(&made), root(&again));
        assert_eq!(self.made(made), None);
        Some(again)
    }

    /// What a folder is made of, copied in steps of so many entries.
    fn gathered(&self, text: &str, entries: usize) -> Option<Snapshot> {
        let mut gathering = self.to_be_made(&name(text))?;
        loop {
            match gathering.go_on(self, entries) {
                Gathered::More(more) => gathering = *more,
                Gathered::All(snapshot) => return Some(snapshot),
                Gathered::Changed => panic!("nothing has changed"),
            }
        }
    }
}

#[test]
fn the_first_share_wins_a_name_whatever_the_order_of_events() {
    let mut index = index(2);
    job(&mut index, found(1, "a", 7), 1);
    // It appears in the first share.
    let change = index.found(found(0, "a", 8), 2);
    assert_eq!((change.withdrawn.len(), change.skipped), (1, None));
    assert_eq!(index.next_jobs().len(), 1);
    let change = index.found(found(1, "a", 7), 2);
    assert_eq!(change.skipped, Some((name("a"), SkipReason::Shadowed)));
    assert!(index.next_jobs().is_empty());
    // And goes away from there: walk 3 sees the second one only.
    assert_eq!(job(&mut index, found(1, "a", 7), 3).stamp, stamp(7));
    assert_eq!(index.share_of(&name("a")), Some(1));
    assert_eq!(index.totals().files, 1);
}

#[test]
fn a_folder_of_the_first_share_counts_whole() {
    let mut index = index(2);
    index.found(folder(0, "docs"), 1);
    add(&mut index, found(0, "docs/one", 1), "one");
    index.listed(0, Some(&name("docs")), 1);
    index.listed(0, None, 1);
    for found in [folder(1, "docs"), found(1, "docs/two", 2), found(1, "docs/deep/three", 3)] {
        assert_eq!(index.found(found, 1).skipped, Some((name("docs"), SkipReason::Shadowed)));
    }
    index.listed(1, Some(&name("docs")), 1);
    index.listed(1, None, 1);
    assert_eq!(names(&index, &Want::All).0, ["docs", "docs/one"]);
    // It goes: the other one counts, whole as well.
    let gone = index.listed(0, None, 2);
    assert_eq!(gone.files, [(name("docs/one"), 0)]);
    index.found(folder(1, "docs"), 2);
    add(&mut index, found(1, "docs/two", 2), "two");
    assert_eq!(names(&index, &Want::All).0, ["docs", "docs/two"]);
}

#[test]
fn only_another_stamp_means_hashing_again() {
    let mut index = index(1);
    let root = add(&mut index, found(0, "a", 1), "one");
    index.found(found(0, "a", 1), 2);
    assert!(index.next_jobs().is_empty());
    assert!(index.open(&root).is_some());
    let first = job(&mut index, found(0, "a", 2), 3);
    assert!(index.open(&root).is_none());
    assert_eq!(index.totals(), Sums { files: 1, bytes: 100, ..Sums::default() }.with_top());
    // Another change overtakes the job: what it brings is not looked at.
    let change = index.found(found(0, "a", 3), 4);
    assert_eq!(change.withdrawn, [first.ticket]);
    assert_eq!(index.hashed(first.id, first.ticket, &hashed(&first, "two")), None);
    let newer = index.next_jobs().pop().unwrap();
    assert!(index.hashed(newer.id, newer.ticket, &hashed(&newer, "three")).is_some());
    assert_eq!(index.totals().hashed_files, 1);
}

#[test]
fn what_failed_is_hidden_and_what_is_unsettled_is_not_and_both_are_tried_again() {
    let mut index = index(1);
    let failed = job(&mut index, found(0, "failed", 1), 1);
    let unsettled = job(&mut index, found(0, "unsettled", 2), 1);
    assert_eq!(index.failed(failed.id, failed.ticket), Some(name("failed")));
    assert_eq!(index.unsettled(unsettled.id, unsettled.ticket), Some(name("unsettled")));
    assert_eq!(index.failed(failed.id, failed.ticket), None);
    assert_eq!(names(&index, &Want::All), (vec!["unsettled".to_owned()], false));
    assert_eq!(index.list(None, 10).0.len(), 1);
    assert_eq!(index.totals().failed_files, 1);
    let again = job(&mut index, found(0, "failed", 1), 2);
    job(&mut index, found(0, "unsettled", 2), 2);
    assert_eq!(index.totals().failed_files, 1);
    assert!(index.hashed(again.id, again.ticket, &hashed(&again, "now it can be read")).is_some());
    assert_eq!((index.totals().failed_files, index.totals().hashed_files), (0, 1));
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
fn what_is_asked_for_is_hashed_first() {
    let mut index = index(1);
    index.found(folder(0, "f"), 1);
    for number in 0..2000u64 {
        index.found(found(0, &format!("f/{number:04}"), number), 1);
    }
    // There are jobs for some, and the rest waits.
    let jobs = index.next_jobs();
    assert!(jobs.len() < 1500 && index.waiting() == 2000 - jobs.len());
    let answer = index.lookup(&want("f/1999"), &|_| 55);
    assert_eq!(answer.entries[0].root, OfferedRoot::Hashing(0));
    let first = index.hastened(answer.waits[0]);
    assert_eq!(first.len(), 1);
    assert_eq!(index.ticket(answer.waits[0]), Some(first[0].ticket));
    assert_eq!(index.lookup(&want("f/1999"), &|_| 55).entries[0].root, OfferedRoot::Hashing(55));
    assert!(index.hastened(answer.waits[0]).is_empty());
    let folder = index.lookup(&want("f"), &|_| 0);
    let some = index.hastened(folder.waits[0]);
    assert!(some.len() == HASTENED_MAX && some.iter().all(|job| job.ticket.0 > first[0].ticket.0));
    // Whoever comes back makes room for the next, until all is done.
    let mut jobs: Vec<Job> = jobs.into_iter().chain(first).chain(some).collect();
    let mut count = 0;
    while let Some(job) = jobs.pop() {
        assert!(index.hashed(job.id, job.ticket, &hashed(&job, "x")).is_some());
        jobs.extend(index.next_jobs());
        count += 1;
    }
    assert_eq!((count, index.totals().hashed_files, index.waiting()), (2000, 2000, 0));
}

#[test]
fn a_folder_is_offered_once_all_of_it_is_known() {
    let mut index = index(1);
    index.found(folder(0, "f"), 1);
    let job = job(&mut index, found(0, "f/a", 1), 1);
    let failed = self::job(&mut index, found(0, "f/failed", 2), 1);
    index.found(folder(0, "f/empty"), 1);
    let link = What::Link { target: "a".into(), mtime: (3, 3) };
    index.found(Found { share: 0, name: name("f/link"), what: link }, 1);
    let out = What::Link { target: "../b".into(), mtime: (3, 3) };
    index.found(Found { share: 0, name: name("f/out"), what: out }, 1);
    assert!(index.hashed(job.id, job.ticket, &hashed(&job, "a")).is_some());
    assert!(index.to_be_made(&name("f")).is_none());
    assert!(index.failed(failed.id, failed.ticket).is_some());
    let entry = index.lookup(&want("f"), &|_| 0).entries.pop().unwrap();
    assert_eq!((entry.kind, entry.size, entry.mtime), (OfferedKind::Folder(None), 100, 7));
    assert_eq!(entry.root, OfferedRoot::Hashing(100));
    assert!(index.to_be_made(&name("f")).is_none(), "it was not listed to its end");
    index.listed(0, Some(&name("f/empty")), 1);
    index.listed(0, Some(&name("f")), 1);
    let root = make(&mut index, "f").unwrap();
    assert!(index.to_be_made(&name("f")).is_none(), "it is remembered");
    // Somebody asks, so it is looked at again; what cannot be read still cannot.
    let failed = self::job(&mut index, found(0, "f/failed", 2), 2);
    assert_eq!(index.lookup(&want("f"), &|_| 0).entries[0].root, OfferedRoot::Whole(root));
    assert!(index.failed(failed.id, failed.ticket).is_some());
    assert_eq!(index.lookup(&want("f"), &|_| 0).entries[0].root, OfferedRoot::Whole(root));

    // It is found by its root as well, its manifest and its bytes by theirs.
    let prefix: RootPrefix = root.to_string()[..8].parse().unwrap();
    let entry = index.lookup(&Want::Root(prefix.clone()), &|_| 0).entries.pop().unwrap();
    let OfferedKind::Folder(Some(offered)) = entry.kind else { panic!("{entry:?}") };
    assert_eq!((entry.name.as_str(), entry.size), ("f", 100));
    let manifest = index.open(&offered.root).unwrap();
    assert_eq!(manifest.geometry().size(), offered.size);
    let bundle = index.open(&ftx_proto::manifest::data_root(root)).unwrap();
    assert_eq!(bundle.geometry().size(), 100);
    let listed = index.list(None, 10).0;
    let listed: Vec<_> =
        listed.iter().map(|entry| (entry.name.as_str(), entry.is_folder, entry.root)).collect();
    let file = hashed(&job, "a").layer.root();
    assert_eq!(listed, [("f", true, Some(root)), ("f/a", false, Some(file)), ("f/empty", true, None)]);

    // Whatever changes below it: it is another one.
    let mut roots = vec![root];
    index.found(folder(0, "f/empty/more"), 2);
    assert!(index.folders_to_be_made().is_empty(), "it was not listed to its end");
    assert!(index.lookup(&Want::Root(prefix), &|_| 0).entries.is_empty());
    assert!(index.open(&offered.root).is_none());
    index.listed(0, Some(&name("f/empty/more")), 2);
    assert_eq!(index.folders_to_be_made(), ["f", "f/empty", "f/empty/more"].map(name));

    // What changes while it is copied is not what was there at any time.
    let step = index.to_be_made(&name("f")).unwrap().go_on(&index, 1);
    let Gathered::More(begun) = step else { panic!("there is more in it") };
    index.found(folder(0, "f/empty/later"), 2);
    assert!(matches!(begun.go_on(&index, 1000), Gathered::Changed));
    index.remove(&name("f/empty/later"));
    roots.extend(make(&mut index, "f"));
    index.remove(&name("f/link"));
    roots.extend(make(&mut index, "f"));
    let executable = Stamp { executable: true, ..stamp(1) };
    index.found(Found { share: 0, name: name("f/a"), what: What::File(executable) }, 2);
    roots.extend(make(&mut index, "f"));
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 4);
    index.remove(&name("f/empty/more"));
    index.found(found(0, "f/a", 9), 3);
    assert_eq!(index.lookup(&want("f"), &|_| 0).entries[0].root, OfferedRoot::Hashing(0));
    index.remove(&name("f"));
    assert!(index.lookup(&want("f"), &|_| 0).entries.is_empty());
}

#[test]
fn long_answers_are_cut_and_say_so() {
    let mut index = index(1);
    for number in 0..1000 {
        index.found(found(0, &format!("{number:04}"), number), 1);
    }
    let (entries, more) = names(&index, &Want::All);
    assert_eq!((entries.len(), more), (LOOKUP_ENTRIES, true));
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
fn what_a_walk_did_not_see_is_gone_when_it_leaves_the_folder() {
    let mut index = index(1);
    for walk in 1..3 {
        index.found(folder(0, "f"), walk);
        for number in 0..100u64 {
            if number % 2 < walk {
                index.found(found(0, &format!("f/{number:03}"), number), walk);
            }
        }
        // A walk of the folder alone that began later saw one that this one did not.
        index.found(found(0, "f/new", 1000), 9);
    }
    let jobs = index.next_jobs();
    let gone = index.listed(0, Some(&name("f")), 2);
    assert_eq!((gone.withdrawn.len(), index.totals().files), (0, 101));
    assert_eq!(jobs.len(), 101);
    let gone = index.listed(0, Some(&name("f")), 3);
    assert_eq!((gone.withdrawn.len(), index.totals().files), (100, 1));
    // A folder that is gone takes with it what is in it.
    let gone = index.listed(0, None, 10);
    assert_eq!((gone.withdrawn.len(), index.totals()), (1, Sums::default().with_top()));
    assert_eq!(names(&index, &Want::All).0, Vec::<String>::new());
}

impl Sums {
    /// What the folder of everything counts itself for.
    fn with_top(self) -> Self {
        Sums { folders: 1, unlisted_folders: 1, ..self }
    }
}

#[test]
fn what_changes_its_kind_is_something_else() {
    let mut index = index(1);
    add(&mut index, found(0, "x", 1), "x");
    index.found(folder(0, "x"), 2);
    add(&mut index, found(0, "x/y", 2), "y");
    assert_eq!(names(&index, &Want::All).0, ["x", "x/y"]);
    index.found(found(0, "x", 3), 3);
    assert_eq!(names(&index, &Want::All).0, ["x"]);
    let link = What::Link { target: "y".into(), mtime: (0, 0) };
    index.found(Found { share: 0, name: name("x"), what: link }, 4);
    assert_eq!(names(&index, &Want::All).0, Vec::<String>::new());
    assert_eq!(index.totals().files, 0);
}
