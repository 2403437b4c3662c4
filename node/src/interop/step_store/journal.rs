//! The journal of an upload: whose it is, and which blocks have been written.
//!
//! A header (magic, length and checksum of a JSON object), then records of 16 bytes, each with a checksum over itself,
//! its place and the upload's seal, a number drawn when it began. Numbers are little-endian. A record says one of three:
//!
//! * block `i` was written, with this CRC-32;
//! * of all blocks in records before number `n`, the bytes are on the disk;
//! * from here on blocks that were here are overwritten, so nothing that was said about the disk counts.
//!
//! Nothing is synced for a block: what a killed process has written outlives it. After a power cut records may be
//! missing or torn anywhere, which costs their blocks, and blocks may be missing of which there is a record: so whoever
//! reads the journal compares the bytes of every block with its CRC, unless they are known to be on the disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"FTXSTEP\x01";

const RECORD_LEN: usize = 16;

/// Magic, length and checksum.
const HEADER_START_LEN: usize = 16;

/// Longest header: user and key, with every character escaped.
const HEADER_LEN_MAX: usize = 16 * 1024;

const SYNCED: u64 = 1 << 63;
const OVERWRITING: u64 = 1 << 62;

/// What the upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) user: String,
    pub(super) key: String,
    pub(super) size: u64,
    /// Tells the uploads of one key apart.
    pub(super) seal: u64,
}

/// Where the next record goes, and how it is sealed. The file is opened and closed by others.
#[derive(Debug)]
pub(super) struct Journal {
    seal: u64,
    start: u64,
    records: AtomicU64,
}

/// A block that a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) index: u64,
    pub(super) crc: u32,
    /// Its bytes are on the disk for sure.
    pub(super) synced: bool,
}

impl Journal {
    /// Begins a journal in an empty file.
    pub(super) fn create(file: &File, header: &Header) -> io::Result<Self> {
        let json = serde_json::to_vec(header)?;
        let mut bytes = MAGIC.to_vec();
        let len = u32::try_from(json.len()).map_err(io::Error::other)?;
        bytes.extend(len.to_le_bytes());
        bytes.extend(crc32fast::hash(&json).to_le_bytes());
        bytes.extend(json);
        bytes.resize(bytes.len().next_multiple_of(RECORD_LEN), 0);
        file.write_all_at(&bytes, 0)?;
        Ok(Journal { seal: header.seal, start: bytes.len() as u64, records: AtomicU64::new(0) })
    }

    /// The journal in this file and what it is of; `None` if there is none in it.
    pub(super) fn read(file: &File) -> io::Result<Option<(Self, Header)>> {
        let mut start = [0; HEADER_START_LEN];
        if !read_whole(&mut At(file, 0), &mut start)? || start[..8] != MAGIC {
            return Ok(None);
        }
        let (len, crc) = (number(&start[8..12]) as usize, number(&start[12..]));
        if len > HEADER_LEN_MAX {
            return Ok(None);
        }
        let mut json = vec![0; len];
        if !read_whole(&mut At(file, HEADER_START_LEN as u64), &mut json)? || crc32fast::hash(&json) != crc {
            return Ok(None);
        }
        let Ok(header) = serde_json::from_slice::<Header>(&json) else { return Ok(None) };
        let start = (HEADER_START_LEN + len).next_multiple_of(RECORD_LEN) as u64;
        let records = file.metadata()?.len().saturating_sub(start).div_ceil(RECORD_LEN as u64);
        Ok(Some((Journal { seal: header.seal, start, records: AtomicU64::new(records) }, header)))
    }

    /// How many records there are, or places for them.
    pub(super) fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    /// A block was written.
    pub(super) fn written(&self, file: &File, index: u64, crc: u32) -> io::Result<()> {
        self.append(file, index, crc)
    }

    /// The bytes of all blocks in the first `records` records are on the disk.
    pub(super) fn synced(&self, file: &File, records: u64) -> io::Result<()> {
        self.append(file, SYNCED | records, 0)
    }

    /// A block that was here will be overwritten. On the disk when this returns.
    pub(super) fn overwriting(&self, file: &File) -> io::Result<()> {
        self.append(file, OVERWRITING, 0)?;
        file.sync_data()
    }

    fn append(&self, file: &File, first: u64, second: u32) -> io::Result<()> {
        let place = self.records.fetch_add(1, Ordering::AcqRel);
        file.write_all_at(&self.record(place, first, second), self.start + place * RECORD_LEN as u64)
    }

    fn record(&self, place: u64, first: u64, second: u32) -> [u8; RECORD_LEN] {
        let mut record = [0; RECORD_LEN];
        record[..8].copy_from_slice(&first.to_le_bytes());
        record[8..12].copy_from_slice(&second.to_le_bytes());
        let mut checked = [0; 28];
        checked[..8].copy_from_slice(&self.seal.to_le_bytes());
        checked[8..16].copy_from_slice(&place.to_le_bytes());
        checked[16..].copy_from_slice(&record[..12]);
        record[12..].copy_from_slice(&crc32fast::hash(&checked).to_le_bytes());
        record
    }

    /// Tells of every block that a record is about, in the order of the records. Of several about one block, one tells
    /// what is there.
    pub(super) fn blocks(
        &self,
        file: &File,
        mut tell: impl FnMut(Written) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut synced, mut overwritten) = (0, false);
        self.each(file, |_, first, _| {
            if first & SYNCED != 0 {
                synced = synced.max(first & !SYNCED);
            } else if first & OVERWRITING != 0 {
                overwritten = true;
            }
            Ok(())
        })?;
        self.each(file, |place, first, crc| {
            if first & (SYNCED | OVERWRITING) != 0 {
                return Ok(());
            }
            tell(Written { index: first, crc, synced: !overwritten && place < synced })
        })
    }

    fn each(&self, file: &File, mut tell: impl FnMut(u64, u64, u32) -> io::Result<()>) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, At(file, self.start));
        let mut record = [0; RECORD_LEN];
        let mut place = 0;
        while read_whole(&mut reader, &mut record)? {
            let mut first = [0; 8];
            first.copy_from_slice(&record[..8]);
            let (first, second) = (u64::from_le_bytes(first), number(&record[8..12]));
            // A place without a record: it was never written, or lost.
            if record == self.record(place, first, second) {
                tell(place, first, second)?;
            }
            place += 1;
        }
        Ok(())
    }
}

/// Reads a file from an offset on, without its cursor.
struct At<'a>(&'a File, u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read_at(buffer, self.1)?;
        self.1 += count as u64;
        Ok(count)
    }
}

/// Fills the buffer; `false` if the file ends before.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { user: "ü".to_owned(), key: "a/\"b\"".to_owned(), size: 50_000, seal: 7 }
    }

    fn told(file: &File) -> Vec<(u64, u32, bool)> {
        let (journal, _) = Journal::read(file).unwrap().unwrap();
        let mut told = Vec::new();
        journal
            .blocks(file, |written| {
                told.push((written.index, written.crc, written.synced));
                Ok(())
            })
            .unwrap();
        told
    }

    #[test]
    fn what_was_written_is_read_back_and_gone_on_with() {
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &header()).unwrap();
        journal.written(&file, 2, 22).unwrap();
        journal.synced(&file, 1).unwrap();
        journal.written(&file, 0, 11).unwrap();
        assert_eq!(told(&file), [(2, 22, true), (0, 11, false)]);
        let (again, found) = Journal::read(&file).unwrap().unwrap();
        assert_eq!((found, again.records()), (header(), 3));
        again.overwriting(&file).unwrap();
        again.written(&file, 2, 33).unwrap();
        assert_eq!(told(&file), [(2, 22, false), (0, 11, false), (2, 33, false)]);
    }

    #[test]
    fn what_is_torn_costs_only_itself() {
        let file = tempfile::tempfile().unwrap();
        let journal = Journal::create(&file, &header()).unwrap();
        for index in 0..5 {
            journal.written(&file, index, 1).unwrap();
        }
        // One record lost, one copied to another place, one half written.
        let at = |place: u64| journal.start + place * RECORD_LEN as u64;
        let mut record = [0; RECORD_LEN];
        file.read_exact_at(&mut record, at(0)).unwrap();
        file.write_all_at(&[0; RECORD_LEN], at(1)).unwrap();
        file.write_all_at(&record, at(3)).unwrap();
        file.set_len(at(4) + 7).unwrap();
        assert_eq!(told(&file), [(0, 1, false), (2, 1, false)]);
        let (again, _) = Journal::read(&file).unwrap().unwrap();
        again.written(&file, 4, 9).unwrap();
        assert_eq!(told(&file).last(), Some(&(4, 9, false)));
    }

    #[test]
    fn what_is_no_journal_is_none() {
        let file = tempfile::tempfile().unwrap();
        assert!(Journal::read(&file).unwrap().is_none());
        Journal::create(&file, &header()).unwrap();
        file.write_all_at(b"x", 20).unwrap();
        assert!(Journal::read(&file).unwrap().is_none());
        file.write_all_at(&[0xff; 64], 8).unwrap();
        assert!(Journal::read(&file).unwrap().is_none());
    }
}
