//! The room that a part file takes, a process that is killed, and a disk that is full.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ftx_node::store::{Part, PartFile, StoreError, Target};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS, PIECE_SIZE, PieceIndex};
use ftx_proto::merkle::{leaf_hash, piece_hash};

use crate::harness::{Fetch, MTIME, ROOT};
use crate::small_disk::on_a_small_disk;

#[test]
fn space_for_the_whole_file_is_reserved_at_once() {
    let fetch = Fetch::new(64 << 20);
    let (part, _) = fetch.open();
    let metadata = fs::metadata(fetch.hidden("part")).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    if rustix::fs::statfs(fetch.folder.path()).unwrap().f_type == 0x0102_1994 {
        eprintln!("SKIPPED: tmpfs is not reserved");
    } else {
        assert!(metadata.blocks() * 512 >= 64 << 20, "{} blocks", metadata.blocks());
    }
    drop(part);
    // What is reserved counts as there when the fetch goes on.
    let (_part, _) = fetch.open();
}

#[test]
fn chunks_of_zeros_take_no_room() {
    let mut fetch = Fetch::new(4 * PIECE_SIZE as usize);
    fetch.bytes[..3 * PIECE_SIZE as usize].fill(0);
    let (part, _) = fetch.open();
    fetch.write(&part, [0, 1]);
    part.commit(&fetch.pieces([0, 1])).unwrap();
    drop(part);
    // Going on does not fill them.
    let (part, pieces) = fetch.open();
    assert_eq!(pieces.count(), 2);
    fetch.write(&part, [2, 3]);
    fetch.finish(&part);
    let occupied = fs::metadata(fetch.path()).unwrap().blocks() * 512;
    assert!(occupied <= PIECE_SIZE + 8192, "{occupied} bytes");
}

#[test]
fn a_killed_process_leaves_its_pieces_and_no_lock() {
    let fetch = Fetch::new(3 * PIECE_SIZE as usize);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "--nocapture", "disk::inner_killed_process"])
        .env("STORE_PART_TARGET", fetch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.ends_with("committed")));
    assert!(matches!(fetch.open_with(ROOT, false), Err(StoreError::Locked(_))));
    child.kill().unwrap();
    child.wait().unwrap();
    let (part, pieces) = fetch.open();
    assert_eq!(pieces.iter().map(PieceIndex::get).collect::<Vec<_>>(), [1, 2]);
    fetch.write(&part, [0]);
    part.finish(MTIME, false, false).unwrap();
    let expected = [&fetch.bytes[..PIECE_SIZE as usize], &[7; 2 * PIECE_SIZE as usize]].concat();
    assert!(fs::read(fetch.path()).unwrap() == expected);
}

#[test]
#[ignore = "is the process that another test kills"]
fn inner_killed_process() {
    let Some(path) = std::env::var_os("STORE_PART_TARGET") else { return };
    let target = Target::new(Path::new(&path), &"ignored".parse().unwrap()).unwrap();
    let geometry = Geometry::new(3 * PIECE_SIZE).unwrap();
    let (part, _) = PartFile::open(target, geometry.clone(), ROOT, false).unwrap();
    part.write_at(PIECE_SIZE, &vec![7; 2 * PIECE_SIZE as usize]).unwrap();
    part.commit(&[geometry.piece(1).unwrap()]).unwrap();
    let leaves = [leaf_hash(&[7; CHUNK_SIZE as usize]); PIECE_CHUNKS as usize];
    part.note(&[(geometry.piece(2).unwrap(), piece_hash(&geometry, geometry.piece(2).unwrap(), &leaves))])
        .unwrap();
    println!("committed");
    // Until the end: nobody writes to it.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    panic!("the other process went away");
}

#[test]
fn a_full_disk_is_told_before_and_while_writing() {
    on_a_small_disk(3, "disk::inner_full_disk");
}

#[test]
#[ignore = "runs on the small disk that another test makes"]
fn inner_full_disk() {
    let mib = PIECE_SIZE;
    let target = |name: &str| Target::new(Path::new("/mnt/"), &name.parse().unwrap()).unwrap();
    let count = || fs::read_dir("/mnt").unwrap().count();

    // Too large from the beginning: nothing is left behind.
    let geometry = Geometry::new(5 * mib).unwrap();
    match PartFile::open(target("large"), geometry.clone(), ROOT, false) {
        Err(StoreError::DiskFull { needed, available, .. }) => {
            assert_eq!(needed, 5 * mib);
            assert!(available > 2 * mib && available <= 3 * mib, "{available}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(count(), 0);

    // Another file takes the space meanwhile.
    let geometry = Geometry::new(2 * mib).unwrap();
    let (part, _) = PartFile::open(target("file"), geometry.clone(), ROOT, false).unwrap();
    part.write_at(0, &vec![1; mib as usize]).unwrap();
    part.commit(&[geometry.piece(0).unwrap()]).unwrap();
    assert!(fs::write("/mnt/greedy", vec![0; 3 * mib as usize]).is_err());
    let error = part.write_at(mib, &vec![2; mib as usize]).unwrap_err();
    assert!(
        matches!(&error, StoreError::DiskFull { needed, available, .. } if needed > available),
        "{error:?}"
    );
    drop(part);
    // Still full: what is there stays.
    let error = PartFile::open(target("file"), geometry.clone(), ROOT, false).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }));
    assert!(error.to_string().contains("/mnt/file"), "{error}");

    fs::remove_file("/mnt/greedy").unwrap();
    let (part, pieces) = PartFile::open(target("file"), geometry.clone(), ROOT, false).unwrap();
    assert_eq!(pieces.count(), 1);
    part.write_at(mib, &vec![2; mib as usize]).unwrap();
    part.finish(MTIME, false, false).unwrap();
    assert_eq!(count(), 1);
}
