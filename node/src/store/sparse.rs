//! Writing that leaves holes: chunks of zeros take no room on the disk.
//!
//! A hole is punched even where nothing was written yet: that costs no more than finding out, and is right also where
//! something else was written before, or where the room was reserved.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ftx_proto::geometry::CHUNK_SIZE;

/// What is looked at as a whole: a hole that is smaller saves nothing worth a call to the system.
const BLOCK: usize = CHUNK_SIZE as usize;

/// Writes bytes at their place in a file that is long enough for them. Whole chunks of zeros become holes.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let zeros = count_while(rest, is_zero);
        let len = if zeros > 0 { zeros } else { count_while(rest, |block| !is_zero(block)) };
        let place = offset + at as u64;
        if zeros == 0 || !punch(file, place, len as u64) {
            file.write_all_at(&rest[..len], place)?;
        }
        at += len;
    }
    Ok(())
}

/// Whether all of it is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared with itself one byte on, which the system's `memcmp` does fast in any build.
    bytes.first().is_none_or(|first| *first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

/// Bytes of the blocks at the beginning of which this is true.
fn count_while(bytes: &[u8], is: impl Fn(&[u8]) -> bool) -> usize {
    bytes.chunks(BLOCK).take_while(|block| is(block)).map(<[u8]>::len).sum()
}

/// Makes a hole, if that can be done here and is worth it.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn punch(file: &File, offset: u64, len: u64) -> bool {
    use rustix::fs::FallocateFlags;
    // A few zeros at the end of a small file are written faster.
    len >= BLOCK as u64
        && rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
            .is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn punch(_file: &File, _offset: u64, _len: u64) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_are_told_from_all_else() {
        assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 100]));
        for place in [0, 1, 50, 99] {
            let mut bytes = [0; 100];
            bytes[place] = 1;
            assert!(!is_zero(&bytes), "{place}");
            assert!(!is_zero(&[1; 100]));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in prop::collection::vec(0u8..3, 1..12), tail in 0usize..100, offset in 0u64..40_000) {
            let file = tempfile::tempfile().unwrap();
            let mut bytes: Vec<u8> = blocks.iter().flat_map(|fill| vec![*fill; BLOCK]).collect();
            bytes.truncate(bytes.len() - tail);
            let end = offset as usize + bytes.len();
            file.write_all_at(&vec![7; end + 10], 0).unwrap();
            write_at(&file, &bytes, offset).unwrap();
            let mut all = vec![0; end + 10];
            file.read_exact_at(&mut all, 0).unwrap();
            prop_assert!(all[..offset as usize].iter().all(|byte| *byte == 7));
            prop_assert!(all[offset as usize..end] == bytes);
            prop_assert!(all[end..].iter().all(|byte| *byte == 7));
            prop_assert_eq!(file.metadata().unwrap().len() as usize, end + 10);
        }
    }
}
