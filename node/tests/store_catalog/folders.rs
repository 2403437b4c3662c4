//! Folders: offered as a whole, read as one content, changed, shadowed, fetched.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_node::actors::catalog::CatalogMessage;
use ftx_node::catalog::{Content, Have, PartOfFolder, ReadError, hash_file};
use ftx_node::store::{Part, StoreError};
use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PIECE_SIZE, PieceIndex};
use ftx_proto::manifest::{EntryKind, Manifest, data_root};
use ftx_proto::wire::discovery::{OfferEntry, OfferedKind, OfferedManifest, OfferedRoot, Want};

use crate::harness::{PATIENCE, Running, read_all, want};

/// A folder as it is offered.
#[derive(Debug, Clone, PartialEq)]
struct Offered {
    root: Root,
    size: u64,
    manifest: OfferedManifest,
}

async fn folder(catalog: &Running, name: &str) -> Offered {
    let begun = Instant::now();
    loop {
        match catalog.lookup(want(name)).await.as_slice() {
            [
                OfferEntry {
                    kind: OfferedKind::Folder(Some(manifest)),
                    root: OfferedRoot::Whole(root),
                    size,
                    ..
                },
            ] => return Offered { root: *root, size: *size, manifest: *manifest },
            other => assert!(begun.elapsed() < PATIENCE, "waiting for the root of {name}: {other:?}"),
        }
    }
}

/// The manifest that is served for what is offered.
async fn manifest(catalog: &Running, offered: &Offered) -> Manifest {
    let content = catalog.open(offered.manifest.root).await.unwrap();
    assert_eq!(content.geometry().size(), offered.manifest.size);
    let manifest = Manifest::decode(&read_all(&content).unwrap()).unwrap();
    assert_eq!(manifest.root(), offered.root);
    manifest
}

async fn bundle(catalog: &Running, offered: &Offered) -> Arc<Content> {
    catalog.open(data_root(offered.root)).await.unwrap()
}

/// All files with bytes below a folder, in the order of their paths.
fn bytes_of(folder: &Path) -> Vec<u8> {
    fn collect(folder: &Path, below: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                collect(&path, below, all);
            } else if !path.is_symlink() {
                let name = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    collect(folder, folder, &mut all);
    all.into_values().flatten().collect()
}

/// Small files, a large one between, empty ones, an empty folder, links.
fn fill(folder: &Path) {
    fs::create_dir_all(folder.join("sub/empty")).unwrap();
    fs::create_dir_all(folder.join("sub-with-more")).unwrap();
    for number in 0..100 {
        fs::write(folder.join(format!("sub/{number:03}")), vec![number; 500 * usize::from(number)]).unwrap();
    }
    let large: Vec<u8> = (0..3 * PIECE_SIZE as usize + 70_000).map(|i| (i / 999) as u8).collect();
    fs::write(folder.join("sub-with-more/large"), large).unwrap();
    fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("z"), "the last one").unwrap();
    symlink("../run", folder.join("sub/link")).unwrap();
}

#[tokio::test]
async fn a_folder_is_offered_with_all_that_is_in_it() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("f");
    fill(&path);
    let catalog = Running::start(&[share.path()], None).await;
    let offered = folder(&catalog, "f").await;
    let bytes = bytes_of(&path);
    assert_eq!(offered.size, bytes.len() as u64);

    let manifest = manifest(&catalog, &offered).await;
    let kind = |path: &str| {
        let entry = manifest.entries().iter().find(|entry| entry.path.as_str() == path);
        entry.unwrap_or_else(|| panic!("no {path} in {manifest:?}")).kind.clone()
    };
    assert_eq!(manifest.entries().len(), 107);
    assert!(matches!(kind("sub/empty"), EntryKind::Folder { .. }));
    assert_eq!(kind("sub/link"), EntryKind::Link { target: "../run".to_owned() });
    assert!(matches!(kind("run"), EntryKind::File { size: 10, executable: true, .. }));
    assert!(matches!(kind("sub/000"), EntryKind::File { size: 0, executable: false, .. }));
    let EntryKind::File { root, .. } = kind("sub-with-more/large") else { panic!("it is a file") };
    let layer = hash_file(&path.join("sub-with-more/large"), NonZeroUsize::MIN, &|_| ()).unwrap();
    assert_eq!(root, layer.root());

    // The bytes are those of the files, one after the other, and each piece is proved by its leaves.
    let content = bundle(&catalog, &offered).await;
    assert_eq!(content.root(), manifest.data_root());
    assert!(matches!(content.have(), Have::Whole));
    assert!(read_all(&content).unwrap() == bytes);
    // By any span within a piece.
    let (geometry, reader) = (content.geometry(), content.reader().unwrap());
    let small = geometry.span_of(geometry.piece(5).unwrap());
    let span = small.runs(20).nth(1).unwrap();
    let place = geometry.bytes_of(span);
    let mut buffer = vec![0; (place.end - place.start) as usize];
    reader.read(span, &mut buffer).unwrap();
    assert!(buffer == bytes[place.start as usize..place.end as usize]);

    // Its own folders are offered as well; and it is found by its root.
    assert_eq!(folder(&catalog, "f/sub/empty").await.size, 0);
    let by_root = catalog.lookup(Want::Root(offered.root.into())).await;
    assert_eq!(by_root.len(), 1);
    assert_eq!(by_root[0].name.as_str(), "f");
    let names: Vec<_> = catalog.list().await.into_iter().filter(|entry| entry.is_folder).collect();
    assert_eq!(names[0].name.as_str(), "f");
    assert_eq!((names[0].root, names[0].size), (Some(offered.root), offered.size));
    // No older system is told that a folder is a file.
    let found = catalog.call(|reply| CatalogMessage::FindFile("f".parse().unwrap(), reply)).await;
    assert!(found.is_none());
    catalog.stop().await;
}

#[tokio::test]
async fn the_same_folder_elsewhere_has_the_same_root_whatever_its_times() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(&one.path().join("f"));
    fill(&two.path().join("g"));
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1000);
    fs::File::open(two.path().join("g/z")).unwrap().set_modified(time).unwrap();
    let catalog = Running::start(&[one.path(), two.path()], None).await;
    let (f, g) = (folder(&catalog, "f").await, folder(&catalog, "g").await);
    assert_eq!(f.root, g.root);
    assert_ne!(f.manifest.root, g.manifest.root);
    assert_eq!(manifest(&catalog, &f).await.data_root(), manifest(&catalog, &g).await.data_root());
    catalog.stop().await;
}

#[tokio::test]
async fn a_folder_is_answered_for_as_it_is_now() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("f");
    let catalog = Running::start(&[share.path()], None).await;
    catalog.until("it is scanned", |status| status.scans > 0).await;
    // No scan knows of it yet.
    fill(&path);
    let mut roots = vec![folder(&catalog, "f").await.root];
    let changes: [&dyn Fn(); 7] = [
        &|| fs::write(path.join("new"), "new").unwrap(),
        &|| fs::write(path.join("new"), "changed").unwrap(),
        &|| fs::remove_file(path.join("sub/050")).unwrap(),
        &|| fs::rename(path.join("sub/051"), path.join("sub/moved")).unwrap(),
        &|| fs::create_dir(path.join("sub/empty/more")).unwrap(),
        &|| symlink("z", path.join("another-link")).unwrap(),
        &|| fs::set_permissions(path.join("z"), fs::Permissions::from_mode(0o755)).unwrap(),
    ];
    for change in changes {
        change();
        let offered = folder(&catalog, "f").await;
        let content = bundle(&catalog, &offered).await;
        assert!(read_all(&content).unwrap() == bytes_of(&path));
        roots.push(offered.root);
    }
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 8);
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(catalog.lookup(want("f")).await, []);
    catalog.stop().await;
}

#[tokio::test]
async fn a_file_that_is_changed_under_a_served_folder_is_told_as_that() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("f");
    fill(&path);
    let catalog = Running::start(&[share.path()], None).await;
    let offered = folder(&catalog, "f").await;
    let content = bundle(&catalog, &offered).await;
    let (geometry, reader) = (content.geometry(), content.reader().unwrap());
    let last = geometry.pieces().next_back().unwrap();
    // It is one file of many, so the error says that, and of what kind it is.
    let read = |piece| {
        let span = geometry.span_of(piece);
        let mut buffer = vec![0; geometry.len_of(span) as usize];
        reader.read(span, &mut buffer).map_err(|error| match error {
            ReadError::OneFile(why) => *why,
            other => panic!("{other}"),
        })
    };
    read(last).unwrap();
    fs::write(path.join("z"), "THE LAST ONE").unwrap();
    assert!(matches!(read(last), Err(ReadError::Changed)));
    fs::remove_file(path.join("z")).unwrap();
    assert!(matches!(read(last), Err(ReadError::Unreadable(_))));
    // A link in its place does not lead anywhere.
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("z"), "the last one").unwrap();
    symlink(outside.path().join("z"), path.join("z")).unwrap();
    assert!(matches!(read(last), Err(ReadError::Unreadable(_))));
    // A large file that was cut off.
    let first = geometry.piece(2).unwrap();
    read(first).unwrap();
    fs::File::options().write(true).open(path.join("sub-with-more/large")).unwrap().set_len(5).unwrap();
    assert!(geometry.pieces().any(|piece| matches!(read(piece), Err(ReadError::Changed))));
    // The rest of it can still be read, and the table knows better when it is asked again.
    read(geometry.piece(0).unwrap()).unwrap();
    assert_ne!(folder(&catalog, "f").await.root, offered.root);
    assert!(catalog.open(data_root(offered.root)).await.is_none());
    read(geometry.piece(0).unwrap()).unwrap();
    catalog.stop().await;
}

#[tokio::test]
async fn of_two_shares_the_first_one_wins_a_folder_whole() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (share, name) in [(&one, "first"), (&two, "second")] {
        fs::create_dir(share.path().join("f")).unwrap();
        fs::write(share.path().join("f").join(name), name).unwrap();
    }
    let catalog = Running::start(&[one.path(), two.path()], None).await;
    let offered = folder(&catalog, "f").await;
    let names = |manifest: &Manifest| {
        manifest.entries().iter().map(|entry| entry.path.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&manifest(&catalog, &offered).await), ["first"]);
    assert_eq!(catalog.lookup(want("f/second")).await, []);
    let status = catalog.rescan().await;
    assert_eq!((status.files, status.skipped), (1, 1), "{status:?}");
    assert!(status.skipped_examples[0].0.ends_with("/f"), "{status:?}");
    fs::remove_dir_all(one.path().join("f")).unwrap();
    let offered = folder(&catalog, "f").await;
    assert_eq!(names(&manifest(&catalog, &offered).await), ["second"]);
    catalog.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_of_a_folder() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("f");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("good"), "good").unwrap();
    symlink("/etc/passwd", path.join("bad-link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
    let catalog = Running::start(&[share.path()], None).await;
    let offered = folder(&catalog, "f").await;
    assert_eq!(manifest(&catalog, &offered).await.entries().len(), 1);
    let status = catalog.until("it is scanned", |status| status.scans > 0).await;
    assert_eq!(status.skipped, 2, "{status:?}");
    catalog.stop().await;
}

#[tokio::test]
async fn a_folder_is_offered_again_after_a_restart() {
    let (share, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(&share.path().join("f"));
    let first = Running::start(&[share.path()], Some(state.path())).await;
    let before = folder(&first, "f").await;
    first.until("all is hashed", |status| status.queue == 0 && status.scans > 0).await;
    first.stop().await;
    let second = Running::start(&[share.path()], Some(state.path())).await;
    // By its root, though nobody has asked for it by its name.
    let begun = Instant::now();
    while second.lookup(Want::Root(before.root.into())).await.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "waiting for the root of a folder");
    }
    assert!(second.open(data_root(before.root)).await.is_some());
    assert_eq!(folder(&second, "f").await, before);
    assert_eq!(second.status().await.hashed_by_reading, 0);
    second.stop().await;
}

#[tokio::test]
async fn roots_of_folders_are_known_before_anybody_asks() {
    let share = tempfile::tempdir().unwrap();
    fill(&share.path().join("f"));
    fs::create_dir(share.path().join("other")).unwrap();
    let catalog = Running::start(&[share.path()], None).await;

    let until_known = async |catalog: &Running, but: Option<Root>| {
        let begun = Instant::now();
        loop {
            let (listed, _) =
                catalog.call(|reply| CatalogMessage::List { after: None, limit: 200, reply }).await;
            let roots: BTreeMap<String, Option<Root>> = listed
                .into_iter()
                .filter(|entry| entry.is_folder)
                .map(|entry| (entry.name.to_string(), entry.root))
                .collect();
            if roots.len() == 5 && roots.values().all(Option::is_some) && roots["f"] != but {
                return roots["f"].unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "waiting for the roots of folders: {roots:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let root = until_known(&catalog, None).await;
    let found = catalog.lookup(Want::Root(root.into())).await;
    assert_eq!(found[0].name.as_str(), "f", "{found:?}");

    // And again after a change.
    fs::write(share.path().join("f/sub/empty/new"), "new").unwrap();
    catalog.actor.cast(CatalogMessage::Rescan).unwrap();
    let changed = until_known(&catalog, Some(root)).await;
    assert_eq!(folder(&catalog, "f").await.root, changed);
    catalog.stop().await;
}

/// What is being fetched, in memory; these tests only read it.
#[derive(Debug)]
struct Staging {
    geometry: Geometry,
    bytes: Vec<u8>,
}

impl Part for Staging {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn path(&self) -> &Path {
        Path::new("-")
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<(), StoreError> {
        unreachable!("it is only read")
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        buffer.copy_from_slice(&self.bytes[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }

    fn commit(&self, _pieces: &[PieceIndex]) -> Result<(), StoreError> {
        unreachable!("it is only read")
    }

    fn note(&self, _pieces: &[(PieceIndex, Digest)]) -> Result<(), StoreError> {
        unreachable!("it is only read")
    }

    fn finish(&self, _mtime: (i64, u32), _executable: bool, _force: bool) -> Result<PathBuf, StoreError> {
        unreachable!("it is only read")
    }

    fn discard(&self) -> Result<(), StoreError> {
        unreachable!("it is only read")
    }
}

#[tokio::test]
async fn a_folder_that_is_being_fetched_is_offered_as_far_as_it_is_there() {
    let share = tempfile::tempdir().unwrap();
    fill(&share.path().join("f"));
    let source = Running::start(&[share.path()], None).await;
    let offered = folder(&source, "f").await;
    let whole = bundle(&source, &offered).await;
    let its_manifest = source.open(offered.manifest.root).await.unwrap();
    source.stop().await;

    let catalog = Running::start(&[], None).await;
    let bytes = bytes_of(&share.path().join("f"));
    let part = Arc::new(Staging { geometry: whole.geometry().clone(), bytes: bytes.clone() });
    let mut have = PieceSet::empty(whole.geometry().clone());
    have.insert(whole.geometry().piece(1).unwrap());
    let (_sender, have) = tokio::sync::watch::channel(Arc::new(have));
    let of = PartOfFolder { root: offered.root, manifest: Some(its_manifest) };
    let partial =
        Content::partial_folder(whole.layer().clone(), "copy".parse().unwrap(), (5, 0), of, part, have);
    catalog.actor.cast(CatalogMessage::AddPartial(Arc::new(partial))).unwrap();
    for wanted in [want("copy"), Want::Root(offered.root.into()), Want::All] {
        let entries = catalog.lookup(wanted).await;
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].root, OfferedRoot::Partial { root: offered.root, pieces: 1 });
        assert_eq!(entries[0].kind, OfferedKind::Folder(Some(offered.manifest)));
    }
    manifest(&catalog, &offered).await;
    let reader = bundle(&catalog, &offered).await.reader().unwrap();
    let geometry = whole.geometry();
    let read = |piece| {
        let span = geometry.span_of(geometry.piece(piece).unwrap());
        let mut buffer = vec![0; geometry.len_of(span) as usize];
        reader.read(span, &mut buffer).map(|()| buffer)
    };
    let place = geometry.bytes_of(geometry.span_of(geometry.piece(1).unwrap()));
    assert!(read(1).unwrap() == bytes[place.start as usize..place.end as usize]);
    assert!(matches!(read(0), Err(ReadError::Missing)));
    catalog.actor.cast(CatalogMessage::RemovePartial(data_root(offered.root))).unwrap();
    assert!(catalog.open(offered.manifest.root).await.is_none());
    catalog.stop().await;
}
