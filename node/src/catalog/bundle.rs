//! The bytes of all files of a folder, as one content: which file is where, and reading them.
//!
//! It owns the names and stamps of the files, in the order in which their bytes follow each other. A reader of it owns
//! the opened folder, below which everything is opened, so that no link leads out; and the last large file, so that it is
//! not opened for each of its spans. It refuses bytes of any other state of a file than the one that was hashed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use ftx_proto::geometry::{ChunkIndex, Geometry, PIECE_SIZE, Segment, Span};
use rustix::fs::OFlags;

use super::ReadError;
use super::content::{Location, Stamp, check};

/// The files of a folder that have bytes.
#[derive(Debug)]
pub(crate) struct Bundle {
    folder: Location,
    files: Vec<BundleFile>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct BundleFile {
    path: Box<str>,
    stamp: Stamp,
}

/// An open bundle.
#[derive(Debug)]
pub(crate) struct BundleReader {
    bundle: Arc<Bundle>,
    dir: Dir,
    /// The large file that was read last.
    open: Mutex<Option<(usize, Arc<File>)>>,
}

impl BundleFile {
    /// The file with this path in the folder, which was hashed when it had this stamp.
    pub(crate) fn new(path: &str, stamp: Stamp) -> Self {
        BundleFile { path: path.into(), stamp }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.path.len() + 16
    }
}

impl Bundle {
    /// These files, in the order of the manifest, of the folder that is there.
    pub(crate) fn new(folder: Location, files: Vec<BundleFile>) -> Self {
        Bundle { folder, files }
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Opens the folder. Blocks on the disk.
    pub(crate) fn reader(self: &Arc<Self>) -> io::Result<BundleReader> {
        Ok(BundleReader { bundle: self.clone(), dir: self.folder.open_folder()?, open: Mutex::default() })
    }
}

impl BundleReader {
    /// Fills `buffer`, which is as long as the span, with its bytes.
    pub(crate) fn read(&self, geometry: &Geometry, span: Span, buffer: &mut [u8]) -> Result<(), ReadError> {
        let mut rest = buffer;
        for Segment { file, bytes, .. } in geometry.segments(span) {
            let (part, behind) = std::mem::take(&mut rest)
                .split_at_mut_checked((bytes.end - bytes.start) as usize)
                .ok_or(ReadError::Changed)?;
            self.read_file(file, bytes.start, part)?;
            rest = behind;
        }
        Ok(())
    }

    /// Fills `buffer` with bytes of one chunk, from this one of them on.
    pub(crate) fn read_chunk(
        &self,
        geometry: &Geometry,
        chunk: ChunkIndex,
        from: usize,
        buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        let span = geometry.span(chunk.get(), 1).ok_or(ReadError::Missing)?;
        let Some(Segment { file, bytes, .. }) = geometry.segments(span).next() else {
            return Err(ReadError::Missing);
        };
        self.read_file(file, bytes.start + from as u64, buffer)
    }

    fn read_file(&self, number: usize, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.try_read_file(number, offset, buffer).map_err(|error| ReadError::OneFile(Box::new(error)))
    }

    fn try_read_file(&self, number: usize, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let wanted = self.bundle.files.get(number).ok_or(ReadError::Changed)?;
        let file = self.open(number, wanted)?;
        match file.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Changed),
            result => result?,
        }
        // After the read: whatever was written before or while we read shows here.
        check(&file, &wanted.stamp)
    }

    fn open(&self, number: usize, wanted: &BundleFile) -> Result<Arc<File>, ReadError> {
        let is_large = wanted.stamp.size > PIECE_SIZE;
        // Others read other files meanwhile: it is held only to look.
        let slot = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if is_large && let Some((_, file)) = slot().as_ref().filter(|(open, _)| *open == number) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        // NONBLOCK: a pipe that took the place of the file must not hold us up.
        options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        let file = Arc::new(self.dir.open_with(&*wanted.path, &options)?.into_std());
        if is_large {
            // One that took the place of what was hashed shows before anybody waits for its bytes.
            check(&file, &wanted.stamp)?;
            *slot() = Some((number, file.clone()));
        }
        Ok(file)
    }
}
