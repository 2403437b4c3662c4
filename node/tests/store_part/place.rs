//! The name that a finished file gets, and what may be in its place or in that of the part.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ftx_node::store::{Part, PartFile, StoreError, Target};
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{Geometry, PIECE_SIZE};

use crate::harness::{Fetch, MTIME, ROOT};

#[test]
fn an_execute_bit_goes_to_whoever_may_read() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    part.finish(MTIME, true, false).unwrap();
    let mode = fs::metadata(fetch.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, (mode & 0o444) >> 2, "{mode:o}");
}

#[test]
fn an_empty_file_needs_no_piece() {
    let fetch = Fetch::new(0);
    let (part, pieces) = fetch.open();
    assert!(pieces.is_full());
    part.commit(&[]).unwrap();
    fetch.finish(&part);
}

#[test]
fn names_of_any_length_that_a_file_can_have() {
    for name in ["x".repeat(255), "é".repeat(127), "x".repeat(242), "x".repeat(243)] {
        let mut fetch = Fetch::new(10);
        fetch.name = name;
        let (part, _) = fetch.open();
        fetch.write(&part, [0]);
        part.commit(&fetch.pieces([0])).unwrap();
        assert_eq!(fetch.files().len(), 2);
        drop(part);
        let (part, pieces) = fetch.open();
        assert!(pieces.is_full());
        fetch.finish(&part);
    }
}

#[test]
fn a_second_fetch_of_the_same_target_is_locked_out() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    assert!(matches!(fetch.open_with(ROOT, true), Err(StoreError::Locked(path)) if path == fetch.path()));
    drop(part);
    let (part, _) = fetch.open();
    part.discard().unwrap();
    assert!(fetch.files().is_empty());
    // Discarded, so free again, although the first handle is still there.
    let (second, _) = fetch.open();
    assert!(part.commit(&fetch.pieces([0])).is_ok() && part.finish(MTIME, false, false).is_err());
    fetch.write(&second, [0]);
    fetch.finish(&second);
}

#[test]
fn an_existing_file_is_replaced_by_force_only() {
    let fetch = Fetch::new(10);
    fs::write(fetch.path(), "old").unwrap();
    assert!(matches!(fetch.open_with(ROOT, false), Err(StoreError::Exists(path)) if path == fetch.path()));
    assert_eq!(fetch.files(), ["file.bin"]);

    let (part, _) = fetch.open_with(ROOT, true).unwrap();
    fetch.write(&part, [0]);
    assert_eq!(fs::read(fetch.path()).unwrap(), b"old");
    assert!(matches!(part.finish(MTIME, false, false), Err(StoreError::Exists(_))));
    assert_eq!(fs::read(fetch.path()).unwrap(), b"old");
    part.finish(MTIME, false, true).unwrap();
    assert!(fs::read(fetch.path()).unwrap() == fetch.bytes);
    assert_eq!(fetch.files(), ["file.bin"]);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced_and_the_part_stays() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    part.commit(&fetch.pieces([0])).unwrap();
    fs::write(fetch.path(), "theirs").unwrap();
    assert!(matches!(part.finish(MTIME, false, false), Err(StoreError::Exists(_))));
    drop(part);
    assert_eq!(fs::read(fetch.path()).unwrap(), b"theirs");
    fs::remove_file(fetch.path()).unwrap();
    let (part, pieces) = fetch.open();
    assert!(pieces.is_full());
    fetch.finish(&part);
}

#[test]
fn a_folder_in_the_place_of_the_file_is_refused() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    fs::create_dir(fetch.path()).unwrap();
    assert!(matches!(part.finish(MTIME, false, true), Err(StoreError::Name { .. })));
    drop(part);
    let inner = Target::new(fetch.folder.path(), &"file.bin".parse().unwrap()).unwrap();
    assert!(matches!(PartFile::open(inner, fetch.geometry(), ROOT, true), Err(StoreError::Name { .. })));
}

#[test]
fn what_a_crash_after_the_rename_left_is_cleaned_up() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    part.commit(&fetch.pieces([0])).unwrap();
    drop(part);
    fs::rename(fetch.hidden("part"), fetch.path()).unwrap();
    assert!(matches!(fetch.open_with(ROOT, false), Err(StoreError::Exists(_))));
    assert_eq!(fetch.files(), ["file.bin"]);

    // Whoever only asks before it fetches finds nothing left either.
    fs::write(fetch.hidden("journal"), "").unwrap();
    assert!(matches!(fetch.target().expect_free(), Err(StoreError::Exists(_))));
    assert_eq!(fetch.files(), ["file.bin"]);

    // On a file system where the name is given by a second link, a crash can leave both.
    fs::hard_link(fetch.path(), fetch.hidden("part")).unwrap();
    fs::write(fetch.hidden("journal"), "").unwrap();
    assert!(matches!(fetch.open_with(ROOT, false), Err(StoreError::Exists(_))));
    assert_eq!(fetch.files(), ["file.bin"]);
}

#[test]
fn links_and_pipes_in_the_place_of_the_part_are_not_touched() {
    for hidden in ["part", "journal"] {
        let fetch = Fetch::new(10);
        let victim = fetch.folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let make: [fn(&Path, &Path); 4] = [
            |victim, place| symlink(victim, place).unwrap(),
            |victim, place| fs::hard_link(victim, place).unwrap(),
            |_, place| assert!(Command::new("mkfifo").arg(place).status().unwrap().success()),
            |_, place| symlink("nowhere", place).unwrap(),
        ];
        for make in make {
            make(&victim, &fetch.hidden(hidden));
            let result = fetch.open_with(ROOT, true);
            assert!(
                matches!(&result, Err(StoreError::InTheWay(path)) if *path == fetch.hidden(hidden)),
                "{result:?}"
            );
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            fs::remove_file(fetch.hidden(hidden)).unwrap();
        }
    }
}

#[test]
fn a_part_that_was_replaced_is_not_given_the_name() {
    let fetch = Fetch::new(10);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    fs::remove_file(fetch.hidden("part")).unwrap();
    symlink("/etc/passwd", fetch.hidden("part")).unwrap();
    assert!(matches!(part.finish(MTIME, false, true), Err(StoreError::InTheWay(_))));
    assert!(!fetch.path().exists());
}

#[test]
fn a_part_that_was_removed_is_told_at_the_next_commit() {
    let fetch = Fetch::new(20);
    let (part, _) = fetch.open();
    fetch.write(&part, [0]);
    fs::remove_file(fetch.hidden("part")).unwrap();
    assert!(
        matches!(part.commit(&fetch.pieces([0])), Err(StoreError::Removed(path)) if path == fetch.path())
    );
    assert!(matches!(part.finish(MTIME, false, false), Err(StoreError::Removed(_))));
}

#[test]
fn a_temporary_file_leaves_nothing() {
    let geometry = Geometry::new(2 * PIECE_SIZE).unwrap();
    let (part, pieces) = PartFile::open(Target::temporary(), geometry.clone(), ROOT, false).unwrap();
    assert!(pieces.is_empty());
    part.write_at(PIECE_SIZE, b"hello").unwrap();
    part.note(&[(geometry.piece(0).unwrap(), Digest::ZERO)]).unwrap();
    part.commit(&[geometry.piece(0).unwrap()]).unwrap();
    let mut buffer = [0; 5];
    part.read_at(PIECE_SIZE, &mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    assert_eq!(part.finish(MTIME, true, false).unwrap(), PathBuf::from("-"));
}
