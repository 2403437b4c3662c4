//! Files: found, hashed, offered, read, changed, remembered.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_node::actors::catalog::{CatalogMessage, CatalogStatus};
use ftx_node::catalog::{ChunkPart, Content, Have, ReadError, hash_file};
use ftx_node::store::{Part, PartFile, Target};
use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Root;
use ftx_proto::geometry::PIECE_SIZE;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{OfferEntry, OfferedRoot, Want};
use ftx_proto::wire::session::{ListingEntry, Refusal};

use crate::harness::{PATIENCE, Running, read_all, root, want};

#[tokio::test]
async fn every_plain_file_of_a_share_is_offered_by_its_relative_name() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    let bytes: Vec<u8> = (0..3 * PIECE_SIZE as usize + 5).map(|i| (i / 1000) as u8).collect();
    fs::write(share.path().join("a/b/big"), &bytes).unwrap();
    fs::set_permissions(share.path().join("a/b/big"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(share.path().join("empty"), "").unwrap();
    fs::write(share.path().join(".half.ftx-part"), "ours").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", share.path().join("link")).unwrap();
    let catalog = Running::start(&[share.path()], None).await;

    let big = catalog.root_of("a/b/big").await;
    assert_eq!(big, root(&share.path().join("a/b/big")));
    let content = catalog.open(big).await.unwrap();
    assert!(content.executable() && matches!(content.have(), Have::Whole));
    assert!(read_all(&content).unwrap() == bytes);

    let status = catalog.until("all is hashed", |status| status.hashed_files == 2).await;
    assert_eq!((status.files, status.bytes, status.queue), (2, bytes.len() as u64, 0));
    let status = catalog.until("it is scanned", |status| status.scans > 0).await;
    assert_eq!(status.skipped, 1);
    assert!(status.skipped_examples[0].0.ends_with("link"), "{status:?}");
    let names: Vec<_> = catalog.list().await.into_iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["a", "a/b", "a/b/big", "empty"]);
    assert_eq!(catalog.lookup(Want::All).await.len(), 4);
    let prefix = big.to_string()[..8].parse().unwrap();
    assert_eq!(catalog.lookup(Want::Root(prefix)).await[0].name.as_str(), "a/b/big");
    assert_eq!(catalog.lookup(want("nothing")).await, []);
    assert!(catalog.open(Root([0; 32])).await.is_none());
    catalog.stop().await;
}

#[tokio::test]
async fn a_question_sees_a_file_as_it_is_now() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("x");
    let catalog = Running::start(&[share.path()], None).await;
    catalog.until("it is scanned", |status| status.scans > 0).await;
    fs::write(&path, "one").unwrap();
    let one = catalog.root_of("x").await;
    assert_eq!(one, root(&path));
    fs::write(&path, "two, and longer").unwrap();
    let two = catalog.root_of("x").await;
    assert_eq!(two, root(&path));
    assert!(catalog.open(one).await.is_none());
    fs::remove_file(&path).unwrap();
    assert_eq!(catalog.lookup(want("x")).await, []);
    assert!(catalog.open(two).await.is_none());
    assert_eq!(catalog.status().await.files, 0);
    catalog.stop().await;
}

#[tokio::test]
async fn scans_notice_what_was_added_changed_and_removed() {
    let share = tempfile::tempdir().unwrap();
    for name in ["stays", "changes", "goes"] {
        fs::write(share.path().join(name), name).unwrap();
    }
    let catalog = Running::start(&[share.path()], None).await;
    let before = catalog.until("all is hashed", |status| status.hashed_files == 3).await;
    assert_eq!(before.hashed_by_reading, 3);
    fs::write(share.path().join("changes"), "something else").unwrap();
    fs::write(share.path().join("new"), "new").unwrap();
    fs::remove_file(share.path().join("goes")).unwrap();
    let status = catalog.rescan().await;
    assert_eq!((status.files, status.hashed_by_reading), (3, 5));
    for entry in catalog.list().await {
        assert_eq!(entry.root, Some(root(&share.path().join(entry.name.as_str()))), "{}", entry.name);
    }
    catalog.stop().await;
}

#[tokio::test]
async fn a_file_that_is_changed_or_gone_while_it_is_served_is_told_as_that() {
    let share = tempfile::tempdir().unwrap();
    let path = share.path().join("x");
    fs::write(&path, vec![1; 2 * PIECE_SIZE as usize]).unwrap();
    let catalog = Running::start(&[share.path()], None).await;
    let content = catalog.open(catalog.root_of("x").await).await.unwrap();
    let reader = content.reader().unwrap();
    let span = content.geometry().span(0, 16).unwrap();
    let mut buffer = vec![0; content.geometry().len_of(span) as usize];
    reader.read(span, &mut buffer).unwrap();

    // A change in place behind an open reader.
    use std::os::unix::fs::FileExt;
    fs::File::options().write(true).open(&path).unwrap().write_at(b"2", PIECE_SIZE).unwrap();
    assert!(matches!(reader.read(span, &mut buffer), Err(ReadError::Changed)));
    assert!(matches!(content.reader(), Err(ReadError::Changed)));
    // Cut off in the middle.
    fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(matches!(reader.read(span, &mut buffer), Err(ReadError::Changed)));
    // Replaced by another one: who reads the old one may go on, nobody else begins.
    let elsewhere = tempfile::tempdir().unwrap();
    // Other bytes than those of "x": the catalog may believe that one to have them still.
    fs::write(elsewhere.path().join("y"), vec![3; 2 * PIECE_SIZE as usize]).unwrap();
    // At once whole: a look in the middle of writing would find another file.
    fs::rename(elsewhere.path().join("y"), share.path().join("y")).unwrap();
    let content = catalog.open(catalog.root_of("y").await).await.unwrap();
    let reader = content.reader().unwrap();
    fs::rename(&path, share.path().join("y")).unwrap();
    reader.read(span, &mut buffer).unwrap();
    assert!(matches!(content.reader(), Err(ReadError::Changed)));
    fs::remove_file(share.path().join("y")).unwrap();
    let gone = content.reader().unwrap_err();
    assert_eq!(Refusal::from(&gone), Refusal::Unreadable);
    catalog.stop().await;
}

#[tokio::test]
async fn a_content_that_several_files_have_is_read_from_one_that_still_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = vec![7; 3 << 20];
    let path = |name: &str| folder.path().join(name);
    for name in ["a", "b", "c"] {
        fs::write(path(name), &bytes).unwrap();
    }
    let catalog = Running::start(&[folder.path()], None).await;
    let root = catalog.root_of("a").await;
    for name in ["b", "c"] {
        assert_eq!(catalog.root_of(name).await, root);
    }
    // As it is known until the next look.
    let content = catalog.open(root).await.unwrap();
    let reader = content.reader().unwrap();
    let read = || {
        let mut buffer = vec![0; 1 << 20];
        reader.read(content.geometry().span_of(content.geometry().piece(1).unwrap()), &mut buffer)?;
        assert!(buffer.iter().all(|byte| *byte == 7));
        let chunk = content.geometry().chunk(70).unwrap();
        let mut buffer = [0; 100];
        reader.read_parts(&mut [ChunkPart { chunk, from: 5, buffer: &mut buffer }])?;
        assert_eq!(buffer, [7; 100]);
        Ok::<_, ReadError>(())
    };
    read().unwrap();
    fs::write(path("a"), "changed").unwrap();
    read().unwrap();
    assert_eq!(read_all(&content).unwrap(), bytes, "also for whoever comes now");
    fs::remove_file(path("b")).unwrap();
    assert_eq!(read_all(&content).unwrap(), bytes);
    fs::write(path("c"), "changed as well").unwrap();
    assert!(matches!(read_all(&content), Err(ReadError::Changed)));
    catalog.stop().await;
}

#[tokio::test]
async fn no_link_leads_out_of_a_share() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "secret").unwrap();
    let share = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("folder")).unwrap();
    fs::write(share.path().join("folder/x"), "public").unwrap();
    let catalog = Running::start(&[share.path()], None).await;
    let content = catalog.open(catalog.root_of("folder/x").await).await.unwrap();
    fs::rename(share.path().join("folder"), share.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(outside.path(), share.path().join("folder")).unwrap();
    assert!(matches!(content.reader(), Err(ReadError::Unreadable(_))));
    assert_eq!(catalog.lookup(want("folder/x")).await, []);
    catalog.stop().await;
}

#[tokio::test]
async fn a_question_overtakes_a_huge_file_and_stopping_does_not_wait_for_it() {
    let share = tempfile::tempdir().unwrap();
    // Some minutes of work, and no space on the disk.
    fs::File::create(share.path().join("huge")).unwrap().set_len(500 << 30).unwrap();
    let catalog = Running::start(&[share.path()], None).await;
    let begun = Instant::now();
    loop {
        match catalog.lookup(want("huge")).await.as_slice() {
            [OfferEntry { root: OfferedRoot::Hashing(bytes), size, .. }] if *bytes > 0 => {
                assert!(bytes < size);
                break;
            }
            other => assert!(begun.elapsed() < PATIENCE, "waiting for progress: {other:?}"),
        }
    }
    for number in 0..10 {
        let name = number.to_string();
        fs::write(share.path().join(&name), &name).unwrap();
        assert_eq!(catalog.root_of(&name).await, root(&share.path().join(&name)));
    }
    let status = catalog.status().await;
    assert_eq!((status.queue, status.hashed_files), (1, 10));
    assert!(matches!(catalog.lookup(want("huge")).await[0].root, OfferedRoot::Hashing(_)));
    let begun = Instant::now();
    catalog.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "stopping took {:?}", begun.elapsed());
}

#[tokio::test]
async fn hashes_are_remembered_across_restarts() {
    let (share, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..20 {
        fs::write(share.path().join(number.to_string()), vec![number; 1 << number]).unwrap();
    }
    let first = Running::start(&[share.path()], Some(state.path())).await;
    let status = first.until("all is hashed", |status| status.hashed_files == 20).await;
    assert_eq!((status.hashed_by_reading, status.taken_from_cache), (20, 0));
    let roots: Vec<_> = first.list().await.into_iter().map(|entry| entry.root.unwrap()).collect();
    first.stop().await;

    fs::write(share.path().join("3"), "changed").unwrap();
    let second = Running::start(&[share.path()], Some(state.path())).await;
    // What is remembered is there at once; this is about what was true of it.
    let all_is_seen = |status: &CatalogStatus| status.scans > 0 && status.hashed_files == 20;
    let status = second.until("all is seen and hashed", all_is_seen).await;
    assert_eq!((status.hashed_by_reading, status.taken_from_cache), (1, 19));
    let again: Vec<_> = second.list().await.into_iter().map(|entry| entry.root.unwrap()).collect();
    assert_eq!(again.iter().zip(&roots).filter(|(a, b)| a != b).count(), 1);

    // Another node with the same state folder works as well, without the memory.
    let third = Running::start(&[share.path()], Some(state.path())).await;
    let status = third.until("all is hashed", |status| status.hashed_files == 20).await;
    assert_eq!((status.hashed_by_reading, status.taken_from_cache), (20, 0));
    third.stop().await;
    second.stop().await;

    // A damaged memory costs hashing again, nothing else.
    let database = state.path().join("hashes.redb");
    let len = fs::metadata(&database).unwrap().len();
    fs::write(&database, vec![0x5a; len as usize]).unwrap();
    let fourth = Running::start(&[share.path()], Some(state.path())).await;
    let status = fourth.until("all is hashed", |status| status.hashed_files == 20).await;
    assert_eq!((status.hashed_by_reading, status.taken_from_cache), (20, 0));
    fourth.stop().await;
    let fifth = Running::start(&[share.path()], Some(state.path())).await;
    let status = fifth.until("all is seen and hashed", all_is_seen).await;
    assert_eq!((status.hashed_by_reading, status.taken_from_cache), (0, 20));
    fifth.stop().await;
}

#[tokio::test]
async fn the_state_folder_is_never_offered() {
    let share = tempfile::tempdir().unwrap();
    let state = share.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("identity"), "secret").unwrap();
    fs::write(share.path().join("x"), "public").unwrap();
    let catalog = Running::start(&[share.path()], Some(&state)).await;
    catalog.until("it is scanned", |status| status.scans > 0).await;
    assert_eq!(catalog.list().await.len(), 1);
    assert_eq!(catalog.lookup(want("state/identity")).await, []);
    catalog.stop().await;
}

#[tokio::test]
async fn of_two_shares_the_first_one_wins_a_name() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(one.path().join("x"), "first").unwrap();
    fs::write(two.path().join("x"), "second").unwrap();
    fs::write(two.path().join("only"), "second").unwrap();
    let single = two.path().join("only");
    let catalog = Running::start(&[one.path(), two.path(), &single], None).await;
    assert_eq!(catalog.root_of("x").await, root(&one.path().join("x")));
    let status = catalog.rescan().await;
    assert_eq!((status.files, status.skipped), (2, 2), "{status:?}");
    fs::remove_file(one.path().join("x")).unwrap();
    assert_eq!(catalog.root_of("x").await, root(&two.path().join("x")));
    catalog.stop().await;
}

#[tokio::test]
async fn what_is_being_fetched_is_offered_as_far_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..2 * PIECE_SIZE as usize + 9).map(|i| (i % 251) as u8).collect();
    let source = folder.path().join("source");
    fs::write(&source, &bytes).unwrap();
    let layer = hash_file(&source, NonZeroUsize::MIN, &|_| ()).unwrap();
    let (geometry, root) = (layer.geometry().clone(), layer.root());
    let name: RelativePath = "copy".parse().unwrap();
    let target = Target::new(folder.path(), &name).unwrap();
    let (part, _) = PartFile::open(target, geometry.clone(), root, false).unwrap();
    let part = Arc::new(part);
    let (sender, have) = tokio::sync::watch::channel(Arc::new(PieceSet::empty(geometry.clone())));
    let content = Content::partial(layer, name, (5, 0), false, part.clone(), have);

    let catalog = Running::start(&[], None).await;
    catalog.actor.cast(CatalogMessage::AddPartial(Arc::new(content))).unwrap();
    let content = catalog.open(root).await.unwrap();
    let reader = content.reader().unwrap();
    let mut buffer = vec![0; bytes.len()];
    let (first, both) = (geometry.span(0, 64).unwrap(), geometry.span(60, 8).unwrap());
    assert!(matches!(reader.read(first, &mut buffer[..PIECE_SIZE as usize]), Err(ReadError::Missing)));

    part.write_at(0, &bytes[..PIECE_SIZE as usize]).unwrap();
    let mut set = PieceSet::empty(geometry.clone());
    set.insert(geometry.piece(0).unwrap());
    sender.send(Arc::new(set)).unwrap();
    reader.read(first, &mut buffer[..PIECE_SIZE as usize]).unwrap();
    assert!(buffer[..PIECE_SIZE as usize] == bytes[..PIECE_SIZE as usize]);
    assert!(matches!(reader.read(both, &mut buffer[..8 * 16384]), Err(ReadError::Missing)));
    assert_eq!(reader.leaves(geometry.piece(0).unwrap()).unwrap().len(), 64);

    let expected = OfferedRoot::Partial { root, pieces: 1 };
    for wanted in [want("copy"), Want::Root(root.into()), Want::All] {
        assert_eq!(catalog.lookup(wanted).await[0].root, expected);
    }
    // It is no file of a share, and a node without shares looks at none.
    assert_eq!(catalog.list().await, []);
    assert_eq!(catalog.status().await.scans, 0);
    catalog.actor.cast(CatalogMessage::RemovePartial(root)).unwrap();
    assert!(catalog.open(root).await.is_none());
    assert_eq!(catalog.lookup(Want::All).await, []);
    catalog.stop().await;

    // Whole in a share counts more than in part.
    let catalog = Running::start(&[folder.path()], None).await;
    catalog.actor.cast(CatalogMessage::AddPartial(content)).unwrap();
    catalog.until("all is hashed", |status| status.hashed_files == 1).await;
    assert!(matches!(catalog.open(root).await.unwrap().have(), Have::Whole));
    assert_eq!(catalog.lookup(Want::Root(root.into())).await.len(), 1);
    catalog.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_told_and_the_rest_is_offered() {
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("good"), "good").unwrap();
    // Even root cannot open this one for reading.
    let unreadable = Path::new("/proc/sys/vm/drop_caches");
    assert!(unreadable.is_file() && fs::File::open(unreadable).is_err());
    let catalog = Running::start(&[share.path(), unreadable], None).await;
    let status = catalog.until("both are looked at", |status| status.queue == 0 && status.skipped == 1).await;
    assert!(status.skipped_examples[0].0.ends_with("drop_caches"), "{status:?}");
    catalog.root_of("good").await;
    // The kernel says that it is changed whenever it is looked at, so it may just be tried again.
    let offered = catalog.lookup(Want::All).await;
    assert_eq!(offered.iter().filter(|entry| entry.root.root().is_some()).count(), 1, "{offered:?}");
    catalog.stop().await;
}

#[tokio::test]
async fn changes_are_heard_of_without_a_scan() {
    let share = tempfile::tempdir().unwrap();
    fs::create_dir(share.path().join("sub")).unwrap();
    for name in ["sub/changes", "goes"] {
        fs::write(share.path().join(name), name).unwrap();
    }
    let catalog = Running::start_scanning(&[share.path()], None, Duration::from_secs(3600)).await;
    let is_known = |status: &CatalogStatus| status.scans == 1 && status.hashed_files == 2;
    catalog.until("all is hashed", is_known).await;
    fs::write(share.path().join("sub/changes"), "something else").unwrap();
    fs::write(share.path().join("new"), "new").unwrap();
    fs::remove_file(share.path().join("goes")).unwrap();
    fs::create_dir_all(share.path().join("folder/deep")).unwrap();
    fs::write(share.path().join("folder/deep/file"), "deep").unwrap();
    let expected = ["folder/deep/file", "new", "sub/changes"];
    let is_so = |entry: &ListingEntry| {
        entry.is_folder || entry.root == Some(root(&share.path().join(entry.name.as_str())))
    };
    let begun = Instant::now();
    loop {
        let listed = catalog.list().await;
        let files: Vec<_> = listed.iter().filter(|entry| !entry.is_folder).map(|e| e.name.as_str()).collect();
        if files == expected && listed.iter().all(is_so) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "waiting for {expected:?}: {listed:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(catalog.status().await.scans, 1);
    catalog.stop().await;
}

#[tokio::test]
async fn what_is_remembered_of_many_files_is_offered_before_anything_is_looked_at() {
    let (share, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..3000 {
        let folder = share.path().join(format!("{}", number % 30));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
    }
    let first = Running::start(&[share.path()], Some(state.path())).await;
    first.until("all is hashed", |status| status.hashed_files == 3000).await;
    let wanted = first.root_of("7/37").await;
    first.stop().await;
    // Gone meanwhile, and changed: the table does not know that yet, and nobody gets anything wrong.
    fs::remove_file(share.path().join("8/38")).unwrap();
    fs::write(share.path().join("9/39"), "other").unwrap();
    let (gone, changed) = (hash_of("38"), hash_of("39"));

    let second = Running::start(&[share.path()], Some(state.path())).await;
    // Asked in one go with the start: the answer comes from what is remembered.
    let (content, gone, changed) =
        (second.open(wanted).await.unwrap(), second.open(gone).await, second.open(changed).await);
    assert_eq!(read_all(&content).unwrap(), b"37");
    for outdated in [gone, changed].into_iter().flatten() {
        assert!(matches!(outdated.reader(), Err(ReadError::Changed | ReadError::Unreadable(_))));
    }
    let status = second.until("all is seen", |s| s.scans > 0 && s.hashed_files == 2999).await;
    assert_eq!((status.files, status.hashed_by_reading, status.taken_from_cache), (2999, 1, 2998));
    second.stop().await;
}

/// The root of a small file with these bytes.
fn hash_of(bytes: &str) -> Root {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), bytes).unwrap();
    root(&folder.path().join("x"))
}
