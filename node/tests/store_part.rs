//! A part file from its first byte to its final name, with everything that comes in between.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ftx_node::store::{Part, PartFile, StoreError, Target};
use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS, PIECE_SIZE, PieceIndex};
use ftx_proto::merkle::{leaf_hash, piece_hash};

const ROOT: Root = Root([1; 32]);
const MTIME: (i64, u32) = (1_000_000_000, 123_456_789);

/// A folder, and a content of a few pieces that goes into it as `name`.
struct Fetch {
    folder: tempfile::TempDir,
    name: String,
    bytes: Vec<u8>,
}

impl Fetch {
    fn new(len: usize) -> Self {
        let bytes = (0..len).map(|i| (i / 251 + i % 253) as u8).collect();
        Fetch { folder: tempfile::tempdir().unwrap(), name: "file.bin".to_owned(), bytes }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn hidden(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!(".{}.ftx-{suffix}", self.name))
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(self.bytes.len() as u64).unwrap()
    }

    fn target(&self) -> Target {
        Target::new(&self.path(), &"ignored".parse().unwrap()).unwrap()
    }

    fn open_with(&self, root: Root, force: bool) -> Result<(PartFile, PieceSet), StoreError> {
        PartFile::open(self.target(), self.geometry(), root, force)
    }

    fn open(&self) -> (PartFile, PieceSet) {
        self.open_with(ROOT, false).unwrap()
    }

    fn pieces(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<PieceIndex> {
        numbers.into_iter().map(|number| self.geometry().piece(number).unwrap()).collect()
    }

    fn write(&self, part: &PartFile, numbers: impl IntoIterator<Item = u32>) {
        for piece in self.pieces(numbers) {
            let place = self.geometry().bytes_of(self.geometry().span_of(piece));
            part.write_at(place.start, &self.bytes[place.start as usize..place.end as usize]).unwrap();
        }
    }

    /// Verified pieces as they are noted.
    fn hashed(&self, numbers: impl IntoIterator<Item = u32>) -> Vec<(PieceIndex, Digest)> {
        let hash = |piece| {
            let place = self.geometry().bytes_of(self.geometry().span_of(piece));
            let bytes = &self.bytes[place.start as usize..place.end as usize];
            let leaves: Vec<Digest> = bytes.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
            (piece, piece_hash(&self.geometry(), piece, &leaves))
        };
        self.pieces(numbers).into_iter().map(hash).collect()
    }

    /// The numbers of the pieces that a new process finds.
    fn found(&self) -> Vec<u32> {
        self.open().1.iter().map(PieceIndex::get).collect()
    }

    fn finish(&self, part: &PartFile) {
        assert_eq!(part.finish(MTIME, false, false).unwrap(), self.path());
        assert!(fs::read(self.path()).unwrap() == self.bytes);
        assert_eq!(self.files(), std::slice::from_ref(&self.name));
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

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
        .args(["--exact", "--include-ignored", "--nocapture", "inner_killed_process"])
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

/// Runs a test of this file again as root of a namespace of its own, on a tmpfs of 3 MiB.
fn on_a_small_disk(test: &str) {
    let script =
        "mount -t tmpfs -o size=3m tmpfs /mnt && exec \"$0\" --exact --include-ignored --nocapture \"$1\"";
    let exe = std::env::current_exe().unwrap();
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a small disk needs `unshare -rm` and mount, which are not allowed here");
        return;
    }
    let output =
        Command::new("unshare").args(["-rm", "sh", "-c", script]).arg(exe).arg(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_full_disk_is_told_before_and_while_writing() {
    on_a_small_disk("inner_full_disk");
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
