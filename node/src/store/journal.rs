//! The journal of a part file: which pieces are verified and on the disk, and which are verified only.
//!
//! A header (magic and version, root, size, checksum), then records of 16 bytes: the first piece, the one after the last,
//! and a checksum over those, the record's place and the header. Numbers are little-endian. Records are synced, only
//! appended to, and read up to the first that is not whole; [the module above](super) says why that is enough.
//!
//! Behind the records stand hints of 48 bytes, which nobody waits for: a mark that no record begins with, a piece, its
//! hash in the tree, and a checksum as above. A hint claims that a piece with this hash belongs to the content, which is
//! true for ever, and that it was written, which whoever believes it has to check. So hints need no order: the next
//! records overwrite them, those that are still of use are written anew behind, and what is left over of older ones is
//! found, at any multiple of 16, and does no harm.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{Geometry, PieceIndex};

const MAGIC: [u8; 8] = *b"FTXJRNL\x01";
const HEADER_LEN: usize = 64;
const RECORD_LEN: usize = 16;
const HINT_LEN: usize = 48;
const CHECKSUM_LEN: usize = 8;

/// Stands where a record has its first piece; there are never that many pieces.
const HINT_MARK: u32 = u32::MAX;

/// Most hints that count. Beyond that, pieces are verified much faster than the disk takes them, and the rest is fetched
/// again after a crash.
const HINTS_MAX: usize = 8192;

/// Most bytes that are looked through for hints. A commit that failed leaves as many records as hints before them.
const TAIL_LEN_MAX: usize = HINTS_MAX * (RECORD_LEN + HINT_LEN);

const _: () = assert!(HINT_LEN.is_multiple_of(RECORD_LEN) && HEADER_LEN.is_multiple_of(RECORD_LEN));

/// A piece that was verified, and its hash.
pub(super) type Hint = (PieceIndex, Digest);

/// An open, locked journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    header: [u8; HEADER_LEN],
    /// Never held while something is synced.
    tail: Mutex<Tail>,
}

#[derive(Debug)]
struct Tail {
    /// Where the next record goes.
    end: u64,
    /// Where the next hint goes.
    next: u64,
    /// Hints whose pieces no record lists yet.
    hints: Vec<Hint>,
}

/// What a journal says.
#[derive(Debug)]
pub(super) struct Claims {
    /// Pieces that are on the disk.
    pub(super) synced: PieceSet,
    /// Pieces that may be there; in part the same.
    pub(super) hints: Vec<Hint>,
}

impl Journal {
    /// The journal in `file` for this content, and what it says; `None` if it is for another content, or for none.
    ///
    /// What stands behind the last good record or hint is cut off; [`Journal::forget_hints`] cuts off the rest.
    pub(super) fn read(file: &File, geometry: &Geometry, root: Root) -> io::Result<Option<(Self, Claims)>> {
        let file = file.try_clone()?;
        let header = header_of(geometry, root);
        let mut reader = BufReader::new(&file);
        reader.seek(SeekFrom::Start(0))?;
        let mut found = [0; HEADER_LEN];
        if !read_whole(&mut reader, &mut found)? || found != header {
            return Ok(None);
        }
        let mut synced = PieceSet::empty(geometry.clone());
        let mut end = HEADER_LEN as u64;
        let mut record = [0; RECORD_LEN];
        while read_whole(&mut reader, &mut record)? {
            let range = number(&record[..4])..number(&record[4..8]);
            let is_possible = !range.is_empty() && range.end <= geometry.piece_count();
            if !is_possible || record != record_of(&header, end, &range) {
                break;
            }
            synced.insert_range(range);
            end += RECORD_LEN as u64;
        }
        drop(reader);
        let (hints, next) = read_hints(&file, &header, end, geometry)?;
        file.set_len(next)?;
        let journal = Journal { file, header, tail: Mutex::new(Tail { end, next, hints: Vec::new() }) };
        Ok(Some((journal, Claims { synced, hints })))
    }

    /// An empty journal for this content, in place of whatever `file` held; it is on the disk when this returns.
    pub(super) fn create(file: &File, geometry: &Geometry, root: Root) -> io::Result<Self> {
        let file = file.try_clone()?;
        let header = header_of(geometry, root);
        // The old claims must be gone before the new header stands over them.
        file.set_len(0)?;
        file.sync_all()?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        let end = HEADER_LEN as u64;
        Ok(Journal { file, header, tail: Mutex::new(Tail { end, next: end, hints: Vec::new() }) })
    }

    /// Adds these ranges of pieces, in order and apart from each other, and waits until the journal is on the disk.
    ///
    /// The data of the pieces must be there already. Only one task may be at it at a time; others may hint meanwhile.
    pub(super) fn append(&self, ranges: &[Range<u32>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(ranges.len() * RECORD_LEN);
        let end = {
            let mut tail = self.tail();
            for range in ranges {
                bytes.extend(record_of(&self.header, tail.end + bytes.len() as u64, range));
            }
            let end = tail.end + bytes.len() as u64;
            tail.hints.retain(|(piece, _)| !is_in(ranges, piece.get()));
            for hint in &tail.hints {
                bytes.extend(hint_of(&self.header, tail.end + bytes.len() as u64, hint));
            }
            let written = self.file.write_all_at(&bytes, tail.end);
            tail.next = tail.end + bytes.len() as u64;
            written?;
            end
        };
        rustix::fs::fdatasync(&self.file)?;
        // If this was not reached, `end` has stayed, and the next records overwrite what was written.
        self.tail().end = end;
        Ok(())
    }

    /// Adds hints of pieces that were verified and written, and waits for no disk. Those beyond the bound are left out.
    pub(super) fn hint(&self, hints: &[Hint]) -> io::Result<()> {
        let mut tail = self.tail();
        let hints = &hints[..hints.len().min(HINTS_MAX - tail.hints.len())];
        let mut bytes = Vec::with_capacity(hints.len() * HINT_LEN);
        for hint in hints {
            bytes.extend(hint_of(&self.header, tail.next + bytes.len() as u64, hint));
        }
        // If this fails half-way, `next` stays, and the next hints overwrite what was written.
        self.file.write_all_at(&bytes, tail.next)?;
        tail.next += bytes.len() as u64;
        tail.hints.extend(hints);
        Ok(())
    }

    /// Cuts off all hints.
    pub(super) fn forget_hints(&self) -> io::Result<()> {
        let mut tail = self.tail();
        tail.hints.clear();
        tail.next = tail.end;
        self.file.set_len(tail.end)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Nothing panics half-way through a change of it.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hints behind the records, and the place behind the last of them.
fn read_hints(
    file: &File,
    header: &[u8; HEADER_LEN],
    end: u64,
    geometry: &Geometry,
) -> io::Result<(Vec<Hint>, u64)> {
    let mut bytes = Vec::new();
    let mut reader = file;
    reader.seek(SeekFrom::Start(end))?;
    reader.take(TAIL_LEN_MAX as u64).read_to_end(&mut bytes)?;
    let (mut hints, mut next, mut at) = (Vec::new(), end, 0);
    while let Some(found) = bytes.get(at..at + HINT_LEN) {
        let place = end + at as u64;
        let hint = geometry.piece(number(&found[4..8])).and_then(|piece| {
            let hint = (piece, Digest(found[8..40].try_into().ok()?));
            (found == hint_of(header, place, &hint)).then_some(hint)
        });
        at += if hint.is_some() { HINT_LEN } else { RECORD_LEN };
        if hint.is_some() {
            next = end + at as u64;
        }
        hints.extend(hint);
    }
    Ok((hints, next))
}

/// Whether one of the ranges, which are in order, has the number.
fn is_in(ranges: &[Range<u32>], number: u32) -> bool {
    let after = ranges.partition_point(|range| range.start <= number);
    after.checked_sub(1).and_then(|last| ranges.get(last)).is_some_and(|range| number < range.end)
}

fn header_of(geometry: &Geometry, root: Root) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(&root.0);
    header[40..48].copy_from_slice(&geometry.size().to_le_bytes());
    let checksum = Digest::of(&header[..48]);
    header[48..].copy_from_slice(&checksum.0[..16]);
    header
}

fn record_of(header: &[u8; HEADER_LEN], place: u64, range: &Range<u32>) -> [u8; RECORD_LEN] {
    sealed(header, place, range.start, range.end, &[])
}

fn hint_of(header: &[u8; HEADER_LEN], place: u64, (piece, hash): &Hint) -> [u8; HINT_LEN] {
    sealed(header, place, HINT_MARK, piece.get(), &hash.0)
}

/// Two numbers, what follows them, and a checksum over those, their place and the header.
fn sealed<const LEN: usize>(
    header: &[u8; HEADER_LEN],
    place: u64,
    first: u32,
    second: u32,
    rest: &[u8],
) -> [u8; LEN] {
    let mut sealed = [0; LEN];
    let (body, checksum) = sealed.split_at_mut(LEN - CHECKSUM_LEN);
    body[..4].copy_from_slice(&first.to_le_bytes());
    body[4..8].copy_from_slice(&second.to_le_bytes());
    body[8..].copy_from_slice(rest);
    let checked = [&header[..], &place.to_le_bytes(), body].concat();
    checksum.copy_from_slice(&Digest::of(&checked).0[..CHECKSUM_LEN]);
    sealed
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Fills `buffer`; `false` if the input ends before that.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::geometry::PIECE_SIZE;

    const ROOT: Root = Root([9; 32]);

    fn geometry() -> Geometry {
        Geometry::new(10 * PIECE_SIZE).unwrap()
    }

    fn piece(number: u32) -> PieceIndex {
        geometry().piece(number).unwrap()
    }

    fn hint(number: u32) -> Hint {
        (piece(number), Digest([number as u8; 32]))
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn file_of(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    /// What a journal with these bytes says: the numbers of synced pieces, and of hinted ones.
    fn claims_in(bytes: &[u8]) -> (Vec<u32>, Vec<u32>) {
        let (_, claims) = Journal::read(&file_of(bytes), &geometry(), ROOT).unwrap().unwrap();
        assert!(claims.hints.iter().all(|(piece, hash)| hash.0 == [piece.get() as u8; 32]));
        let hinted = claims.hints.iter().map(|(piece, _)| piece.get()).collect();
        (claims.synced.iter().map(PieceIndex::get).collect(), hinted)
    }

    /// The bytes of a journal with three records of two pieces each.
    fn bytes() -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &geometry(), ROOT).unwrap();
        journal.append(&[0..2, 4..6]).unwrap();
        journal.append(std::slice::from_ref(&(8..10))).unwrap();
        contents(&file)
    }

    fn pieces_in(bytes: &[u8]) -> Option<Vec<Range<u32>>> {
        let file = file_of(bytes);
        let (journal, claims) = Journal::read(&file, &geometry(), ROOT).unwrap()?;
        assert!(claims.hints.is_empty());
        // Whatever was cut off, what is appended now is found again.
        journal.append(std::slice::from_ref(&(6..7))).unwrap();
        let (_, again) = Journal::read(&file, &geometry(), ROOT).unwrap().unwrap();
        assert_eq!(again.synced.count(), claims.synced.count() + 1);
        Some(claims.synced.ranges())
    }

    #[test]
    fn a_journal_torn_at_any_byte_keeps_what_stands_before() {
        let bytes = bytes();
        assert_eq!(bytes.len(), HEADER_LEN + 3 * RECORD_LEN);
        let all = [0..2, 4..6, 8..10];
        for len in 0..=bytes.len() {
            let expected = len.checked_sub(HEADER_LEN).map(|rest| all[..rest / RECORD_LEN].to_vec());
            assert_eq!(pieces_in(&bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn a_journal_with_any_changed_byte_keeps_what_stands_before() {
        let bytes = bytes();
        let all = [0..2, 4..6, 8..10];
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            let expected = place.checked_sub(HEADER_LEN).map(|rest| all[..rest / RECORD_LEN].to_vec());
            assert_eq!(pieces_in(&changed), expected, "byte {place}");
        }
    }

    #[test]
    fn records_count_at_their_own_place_only() {
        let mut bytes = bytes();
        let (second, third) = (HEADER_LEN + RECORD_LEN, HEADER_LEN + 2 * RECORD_LEN);
        bytes.copy_within(third.., second);
        let first = 0..2;
        assert_eq!(pieces_in(&bytes), Some(vec![first]));
    }

    #[test]
    fn a_journal_of_another_content_is_none_of_ours() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes(), 0).unwrap();
        assert!(Journal::read(&file, &geometry(), Root([8; 32])).unwrap().is_none());
        let larger = Geometry::new(11 * PIECE_SIZE).unwrap();
        assert!(Journal::read(&file, &larger, ROOT).unwrap().is_none());
    }

    #[test]
    fn hints_torn_or_changed_at_any_byte_are_lost_alone() {
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &geometry(), ROOT).unwrap();
        journal.append(std::slice::from_ref(&(0..2))).unwrap();
        journal.hint(&[hint(3), hint(7)]).unwrap();
        journal.hint(&[hint(5)]).unwrap();
        let (bytes, start) = (contents(&file), HEADER_LEN + RECORD_LEN);
        assert_eq!(bytes.len(), start + 3 * HINT_LEN);
        for place in start..bytes.len() {
            let whole = (place - start) / HINT_LEN;
            assert_eq!(claims_in(&bytes[..place]), (vec![0, 1], vec![3, 7, 5][..whole].to_vec()), "{place}");
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            let mut left = vec![3, 7, 5];
            left.remove(whole);
            assert_eq!(claims_in(&changed), (vec![0, 1], left), "byte {place}");
        }
        // The loss of the record does not matter to them.
        let mut changed = bytes;
        changed[HEADER_LEN] ^= 0x10;
        assert_eq!(claims_in(&changed), (vec![], vec![3, 7, 5]));
    }

    #[test]
    fn records_take_the_place_of_hints_and_those_behind_a_tear_are_found() {
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &geometry(), ROOT).unwrap();
        journal.hint(&[hint(0), hint(2), hint(5), hint(9)]).unwrap();
        let before = contents(&file);
        // 5 was verified while the data of the others was synced.
        journal.append(&[0..1, 2..3, 9..10]).unwrap();
        let after = contents(&file);
        assert_eq!(before.len(), after.len(), "it grew");
        let (synced, hinted) = claims_in(&after);
        assert_eq!(synced, [0, 2, 9]);
        assert!(hinted.contains(&5));

        for torn in (HEADER_LEN..after.len()).step_by(RECORD_LEN) {
            let (synced, hinted) = claims_in(&[&after[..torn], &before[torn..]].concat());
            let records = ((torn - HEADER_LEN) / RECORD_LEN).min(3);
            assert_eq!(synced, [0, 2, 9][..records], "torn at {torn}");
            for number in [0, 2, 5, 9] {
                assert!(synced.contains(&number) || hinted.contains(&number), "{number}, torn at {torn}");
            }
        }

        journal.hint(&[hint(6)]).unwrap();
        let (synced, hinted) = claims_in(&contents(&file));
        assert_eq!(synced, [0, 2, 9]);
        assert!(hinted.contains(&5) && hinted.contains(&6));
        journal.forget_hints().unwrap();
        assert_eq!(claims_in(&contents(&file)), (vec![0, 2, 9], vec![]));
        assert_eq!(contents(&file).len(), HEADER_LEN + 3 * RECORD_LEN);
    }

    #[test]
    fn hints_are_bounded_and_make_room() {
        let geometry = Geometry::new((HINTS_MAX as u64 + 5) * PIECE_SIZE).unwrap();
        let hints: Vec<Hint> = geometry.pieces().map(|piece| (piece, Digest([1; 32]))).collect();
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &geometry, ROOT).unwrap();
        for _ in 0..3 {
            journal.hint(&hints).unwrap();
            journal.hint(&hints).unwrap();
            let len = contents(&file).len();
            assert!(len <= HEADER_LEN + 2 * RECORD_LEN + HINTS_MAX * HINT_LEN, "{len} bytes");
            let (_, claims) = Journal::read(&file, &geometry, ROOT).unwrap().unwrap();
            assert_eq!(claims.hints, hints[..HINTS_MAX]);
            journal.append(std::slice::from_ref(&(0..geometry.piece_count()))).unwrap();
        }
    }
}
