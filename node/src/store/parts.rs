//! Bytes of a file that lie in several places of the memory: read and written with one call where they are neighbours.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};

use rustix::io::Errno;

/// Fills buffers with what stands from `offset` on, one behind the other.
///
/// # Errors
/// What the system says, and [`io::ErrorKind::UnexpectedEof`] where the file ends before.
pub(crate) fn read_parts_at(
    file: &File,
    mut buffers: &mut [IoSliceMut<'_>],
    mut offset: u64,
) -> io::Result<()> {
    // What is empty is not waited for.
    IoSliceMut::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let now = buffers.len().min(PARTS_A_CALL_MAX);
        match rustix::io::preadv(file, &mut buffers[..now], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                IoSliceMut::advance_slices(&mut buffers, read);
                offset += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes parts from `offset` on, one behind the other.
///
/// # Errors
/// What the system says, and [`io::ErrorKind::WriteZero`] where it takes nothing.
pub(super) fn write_parts_at(file: &File, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let now = parts.len().min(PARTS_A_CALL_MAX);
        match rustix::io::pwritev(file, &parts[..now], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut parts, written);
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Parts of one call; systems take 16 at least, and Linux 1,024.
const PARTS_A_CALL_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// More parts than one call takes, of all lengths, some of them empty.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..3 * PARTS_A_CALL_MAX + 7).map(|part| part * 31 % 97)
    }

    #[test]
    fn what_was_written_in_parts_is_read_in_other_parts() {
        let file = tempfile::tempfile().unwrap();
        let total: usize = lengths().sum();
        let bytes: Vec<u8> = (0..total).map(|place| (place % 251) as u8).collect();
        let mut rest = bytes.as_slice();
        let mut parts: Vec<IoSlice<'_>> =
            lengths().map(|len| IoSlice::new(rest.split_off(..len).unwrap())).collect();
        write_parts_at(&file, &mut parts, 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), total as u64 + 5);

        let mut buffers: Vec<Vec<u8>> =
            lengths().collect::<Vec<_>>().into_iter().rev().map(|len| vec![0; len]).collect();
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        read_parts_at(&file, &mut slices, 5).unwrap();
        assert_eq!(buffers.concat(), bytes);

        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let error = read_parts_at(&file, &mut slices, 6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
