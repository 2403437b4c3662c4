//! What a part file and its journal say to the next one that goes on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ftx_node::store::Part;
use ftx_proto::digest::Root;
use ftx_proto::geometry::{CHUNK_SIZE, PIECE_SIZE};

use crate::harness::{Fetch, MTIME};

#[test]
fn an_interrupted_fetch_goes_on_with_what_was_committed() {
    let fetch = Fetch::new(5 * PIECE_SIZE as usize + 77);
    let (part, pieces) = fetch.open();
    assert!(pieces.is_empty());
    fetch.write(&part, [0, 1, 4, 5]);
    part.commit(&fetch.pieces([5, 0, 1])).unwrap();
    // Piece 4 was written and never committed.
    drop(part);
    assert!(!fetch.path().exists());

    let (part, pieces) = fetch.open();
    assert_eq!(pieces.ranges(), [0..2, 5..6]);
    let mut buffer = vec![0; 77];
    part.read_at(5 * PIECE_SIZE, &mut buffer).unwrap();
    assert_eq!(buffer, fetch.bytes[5 * PIECE_SIZE as usize..]);
    fetch.write(&part, [2, 3, 4]);
    part.commit(&fetch.pieces([2, 3])).unwrap();
    fetch.finish(&part);

    let metadata = fs::metadata(fetch.path()).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (MTIME.0, MTIME.1.into()));
    assert_eq!(metadata.permissions().mode() & 0o111, 0);
    // What is finished can be read on through the same handle, but not be committed to.
    part.read_at(0, &mut buffer).unwrap();
    assert_eq!(buffer, fetch.bytes[..77]);
    part.discard().unwrap();
    assert!(fetch.path().exists());
}

#[test]
fn what_was_noted_and_is_there_needs_no_commit() {
    let fetch = Fetch::new(5 * PIECE_SIZE as usize + 77);
    let (part, _) = fetch.open();
    fetch.write(&part, [1, 2, 3, 5]);
    part.note(&fetch.hashed([1, 5])).unwrap();
    part.note(&fetch.hashed([3])).unwrap();
    part.note(&[]).unwrap();
    drop(part);
    // Taken over for good: nothing has to be noted or committed again.
    assert_eq!(fetch.found(), [1, 3, 5]);
    assert_eq!(fetch.found(), [1, 3, 5]);
    let (part, _) = fetch.open();
    fetch.write(&part, [0, 2, 4]);
    part.note(&fetch.hashed([0, 2, 4])).unwrap();
    fetch.finish(&part);
}

#[test]
fn a_content_of_one_piece_is_noted_as_well() {
    for len in [1, CHUNK_SIZE as usize + 1, PIECE_SIZE as usize] {
        let fetch = Fetch::new(len);
        let (part, _) = fetch.open();
        fetch.write(&part, [0]);
        part.note(&fetch.hashed([0])).unwrap();
        drop(part);
        assert_eq!(fetch.found(), [0]);
    }
}

#[test]
fn what_was_noted_and_is_not_there_is_not_taken() {
    let fetch = Fetch::new(4 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    // A power cut kept the notes, but of the data of 1 nothing and of 2 not all.
    fetch.write(&part, [0, 2]);
    part.write_at(3 * PIECE_SIZE - 1, &[fetch.bytes[3 * PIECE_SIZE as usize - 1] ^ 1]).unwrap();
    part.note(&fetch.hashed([0, 1, 2])).unwrap();
    drop(part);
    assert_eq!(fetch.found(), [0]);
    // And never will be: the next process writes these pieces anew, and may be killed half-way.
    let (part, _) = fetch.open();
    fetch.write(&part, [1]);
    drop(part);
    assert_eq!(fetch.found(), [0]);
}

#[test]
fn a_part_that_lost_its_end_lost_what_was_noted_there() {
    let fetch = Fetch::new(4 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    fetch.write(&part, 0..4);
    part.commit(&fetch.pieces([0, 3])).unwrap();
    part.note(&fetch.hashed([1, 2])).unwrap();
    drop(part);
    let file = fs::File::options().write(true).open(fetch.hidden("part")).unwrap();
    file.set_len(2 * PIECE_SIZE + 5).unwrap();
    assert_eq!(fetch.found(), [0, 1]);
    assert_eq!(fetch.found(), [0, 1]);
}

#[test]
fn commits_and_notes_in_any_order_lose_nothing() {
    let fetch = Fetch::new(8 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    fetch.write(&part, 0..8);
    part.note(&fetch.hashed([6, 1])).unwrap();
    // What another process would find now, without waiting for the end of this one.
    let found = || {
        let copy = Fetch {
            folder: tempfile::tempdir().unwrap(),
            name: fetch.name.clone(),
            bytes: vec![0; fetch.bytes.len()],
        };
        for suffix in ["part", "journal"] {
            fs::copy(fetch.hidden(suffix), copy.hidden(suffix)).unwrap();
        }
        copy.found()
    };
    assert_eq!(found(), [1, 6]);
    part.commit(&fetch.pieces([1])).unwrap();
    assert_eq!(found(), [1, 6]);
    part.note(&fetch.hashed([3])).unwrap();
    assert_eq!(found(), [1, 3, 6]);
    part.commit(&fetch.pieces([3, 6])).unwrap();
    assert_eq!(found(), [1, 3, 6]);
    part.commit(&fetch.pieces([0])).unwrap();
    part.note(&fetch.hashed([7])).unwrap();
    assert_eq!(found(), [0, 1, 3, 6, 7]);
    drop(part);
    assert_eq!(fetch.found(), [0, 1, 3, 6, 7]);
}

#[test]
fn a_journal_torn_anywhere_behind_its_records_keeps_the_whole_notes() {
    let fetch = Fetch::new(4 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    fetch.write(&part, 0..4);
    part.commit(&fetch.pieces([2])).unwrap();
    let committed = fs::metadata(fetch.hidden("journal")).unwrap().len();
    part.note(&fetch.hashed([0, 3])).unwrap();
    let journal = fs::read(fetch.hidden("journal")).unwrap();
    drop(part);
    for (len, expected) in
        [(1, vec![2]), (47, vec![2]), (48, vec![0, 2]), (95, vec![0, 2]), (96, vec![0, 2, 3])]
    {
        fs::write(fetch.hidden("journal"), &journal[..committed as usize + len]).unwrap();
        assert_eq!(fetch.found(), expected, "{len} bytes");
    }
}

#[test]
fn another_content_starts_anew() {
    let mut fetch = Fetch::new(3 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    fetch.write(&part, [0, 1, 2]);
    part.commit(&fetch.pieces([0, 1, 2])).unwrap();
    drop(part);
    let (part, pieces) = fetch.open_with(Root([2; 32]), false).unwrap();
    assert!(pieces.is_empty());
    drop(part);
    // And the first one is really gone.
    let (part, pieces) = fetch.open();
    assert!(pieces.is_empty());
    fetch.write(&part, [0]);
    part.commit(&fetch.pieces([0])).unwrap();
    drop(part);
    fetch.bytes.truncate(2 * PIECE_SIZE as usize);
    let (part, pieces) = fetch.open();
    assert!(pieces.is_empty());
    fetch.write(&part, [0, 1]);
    fetch.finish(&part);
}

#[test]
fn a_part_that_lost_its_end_is_not_trusted_there_ever_again() {
    let fetch = Fetch::new(4 * PIECE_SIZE as usize);
    let (part, _) = fetch.open();
    fetch.write(&part, 0..4);
    part.commit(&fetch.pieces(0..4)).unwrap();
    drop(part);
    let file = fs::File::options().write(true).open(fetch.hidden("part")).unwrap();
    file.set_len(2 * PIECE_SIZE + 5).unwrap();
    // The part has its full length again after the first run; the journal must not speak of its old end.
    for _ in 0..2 {
        let (_part, pieces) = fetch.open();
        assert_eq!(pieces.ranges().as_slice(), std::slice::from_ref(&(0..2)));
    }
    fs::remove_file(fetch.hidden("part")).unwrap();
    for _ in 0..2 {
        let (_part, pieces) = fetch.open();
        assert!(pieces.is_empty());
    }
}

#[test]
fn a_part_without_a_journal_starts_anew() {
    let fetch = Fetch::new(PIECE_SIZE as usize);
    fs::write(fetch.hidden("part"), vec![7; 3 * PIECE_SIZE as usize]).unwrap();
    let (part, pieces) = fetch.open();
    assert!(pieces.is_empty());
    fetch.write(&part, [0]);
    fetch.finish(&part);
}
