//! A shared file as the older systems serve it: by its name, whether or not its root is known yet.
//!
//! It owns the open file and what the file was when it was opened. It refuses to give bytes of any other state of it, so
//! that nobody gets half of the old file and half of the new one. A crash loses nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ReadError;
use super::content::{Location, Stamp, check, stamp_of};
use super::hash::settle;

/// A file of a share, not opened yet.
#[derive(Debug, Clone)]
pub struct SharedFile {
    location: Location,
}

/// An open file of a share, as it was when it was opened.
#[derive(Debug)]
pub struct SharedReader {
    file: File,
    stamp: Stamp,
}

impl SharedFile {
    pub(crate) fn new(location: Location) -> Self {
        SharedFile { location }
    }

    /// Opens it. Blocks on the disk, and for a moment if it was changed just now.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::PermissionDenied`] if it may not be read.
    pub fn open(&self) -> io::Result<SharedReader> {
        let file = self.location.open()?;
        settle(&stamp_of(&file)?);
        let stamp = stamp_of(&file)?;
        Ok(SharedReader { file, stamp })
    }
}

impl SharedReader {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// What a sum of the whole file is taken of. Whoever keeps the sum asks [`SharedReader::check`] after it was taken.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fails if the file is not any more what it was when it was opened.
    pub fn check(&self) -> Result<(), ReadError> {
        check(&self.file, &self.stamp)
    }

    /// Fills `buffer` with the bytes from `offset` on, which must be within the file. Blocks on the disk.
    ///
    /// On an error the buffer holds nothing that may be given away.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self.file.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Changed),
            result => result?,
        }
        // After the read: whatever was written before or while we read shows here.
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shared(folder: &Path, name: &str) -> SharedFile {
        SharedFile::new(Location::new(folder.into(), name))
    }

    #[test]
    fn only_the_bytes_of_when_it_was_opened_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        let reader = shared(folder.path(), "file").open().unwrap();
        let mut buffer = [0; 4];
        reader.read(3, &mut buffer).unwrap();
        assert_eq!((&buffer, reader.size()), (b"3456", 10));
        std::fs::write(&path, "9876543210").unwrap();
        assert!(matches!(reader.read(3, &mut buffer), Err(ReadError::Changed)));
        let reader = shared(folder.path(), "file").open().unwrap();
        std::fs::write(&path, "98").unwrap();
        assert!(matches!(reader.read(0, &mut buffer), Err(ReadError::Changed)));
    }

    #[test]
    fn what_is_no_plain_file_cannot_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        assert!(shared(folder.path(), "sub").open().is_err());
        assert_eq!(shared(folder.path(), "no").open().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
