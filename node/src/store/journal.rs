//! The journal of a part file: which pieces are verified and on the disk.
//!
//! A header (magic and version, root, size, checksum) and records of 16 bytes: the first piece, the one after the last,
//! and a checksum over those, the record's place and the header. Numbers are little-endian. It is only appended to, and
//! read up to the first record that is not whole; [the module above](super) says why that is enough.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::Geometry;

const MAGIC: [u8; 8] = *b"FTXJRNL\x01";
const HEADER_LEN: usize = 64;
const RECORD_LEN: usize = 16;

/// An open, locked journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    header: [u8; HEADER_LEN],
    /// Where the next record goes.
    end: u64,
}

impl Journal {
    /// The journal in `file` for this content, and the pieces it lists; `None` if it is for another content, or for
    /// none. What stands behind the last good record is cut off.
    pub(super) fn read(file: &File, geometry: Geometry, root: Root) -> io::Result<Option<(Self, PieceSet)>> {
        let file = file.try_clone()?;
        let header = header_of(geometry, root);
        let mut reader = BufReader::new(&file);
        reader.seek(SeekFrom::Start(0))?;
        let mut found = [0; HEADER_LEN];
        if !read_whole(&mut reader, &mut found)? || found != header {
            return Ok(None);
        }
        let mut pieces = PieceSet::empty(geometry);
        let mut end = HEADER_LEN as u64;
        let mut record = [0; RECORD_LEN];
        while read_whole(&mut reader, &mut record)? {
            let (numbers, _) = record.split_at(8);
            let range = number(&numbers[..4])..number(&numbers[4..]);
            if record != record_of(&header, end, &range) || range.end > geometry.piece_count() {
                break;
            }
            pieces.insert_range(range);
            end += RECORD_LEN as u64;
        }
        drop(reader);
        file.set_len(end)?;
        Ok(Some((Journal { file, header, end }, pieces)))
    }

    /// An empty journal for this content, in place of whatever `file` held; it is on the disk when this returns.
    pub(super) fn create(file: &File, geometry: Geometry, root: Root) -> io::Result<Self> {
        let file = file.try_clone()?;
        let header = header_of(geometry, root);
        // The old claims must be gone before the new header stands over them.
        file.set_len(0)?;
        file.sync_all()?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        Ok(Journal { file, header, end: HEADER_LEN as u64 })
    }

    /// Adds these ranges of pieces, whose data must be on the disk, and waits until the journal is there as well.
    pub(super) fn append(&mut self, ranges: &[Range<u32>]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(ranges.len() * RECORD_LEN);
        for range in ranges {
            bytes.extend(record_of(&self.header, self.end + bytes.len() as u64, range));
        }
        // If this fails half-way, `end` stays, and the next records overwrite what was written.
        self.file.write_all_at(&bytes, self.end)?;
        rustix::fs::fdatasync(&self.file)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn header_of(geometry: Geometry, root: Root) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(&root.0);
    header[40..48].copy_from_slice(&geometry.size().to_le_bytes());
    let checksum = Digest::of(&header[..48]);
    header[48..].copy_from_slice(&checksum.0[..16]);
    header
}

fn record_of(header: &[u8; HEADER_LEN], place: u64, range: &Range<u32>) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..4].copy_from_slice(&range.start.to_le_bytes());
    record[4..8].copy_from_slice(&range.end.to_le_bytes());
    let mut checked = header.to_vec();
    checked.extend(place.to_le_bytes());
    checked.extend(&record[..8]);
    record[8..].copy_from_slice(&Digest::of(&checked).0[..8]);
    record
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

    /// The bytes of a journal with three records of two pieces each.
    fn bytes() -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::create(&file, geometry(), ROOT).unwrap();
        journal.append(&[0..2, 4..6]).unwrap();
        journal.append(std::slice::from_ref(&(8..10))).unwrap();
        let mut bytes = Vec::new();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        (&file).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn pieces_in(bytes: &[u8]) -> Option<Vec<Range<u32>>> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let (mut journal, pieces) = Journal::read(&file, geometry(), ROOT).unwrap()?;
        // Whatever was cut off, what is appended now is found again.
        journal.append(std::slice::from_ref(&(6..7))).unwrap();
        let (_, again) = Journal::read(&file, geometry(), ROOT).unwrap().unwrap();
        assert_eq!(again.count(), pieces.count() + 1);
        Some(pieces.ranges())
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
        assert!(Journal::read(&file, geometry(), Root([8; 32])).unwrap().is_none());
        let larger = Geometry::new(11 * PIECE_SIZE).unwrap();
        assert!(Journal::read(&file, larger, ROOT).unwrap().is_none());
    }
}
