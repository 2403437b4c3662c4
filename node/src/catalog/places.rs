//! The files of the shares that have one content, and reading it from whichever of them still has it.
//!
//! It owns where they are and what they were when they were hashed, the first one before the others. It refuses bytes of any
//! other state of a file; what one file does not give any more is read from the next. A crash loses nothing.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::ReadError;
use super::content::{Location, Stamp, check};

/// Most files of one content that are tried.
pub(crate) const PLACES_MAX: usize = 8;

/// Files with the same content; at least one.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<[(Location, Stamp)]>);

/// The one of them that is read.
#[derive(Debug)]
pub(crate) struct PlacesReader {
    places: Places,
    open: Mutex<Arc<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    stamp: Stamp,
}

impl Places {
    /// These files, in the order in which they are tried; none but those that are as long as the first one.
    pub(crate) fn new(mut files: Vec<(Location, Stamp)>) -> Option<Self> {
        let size = files.first()?.1.size;
        files.retain(|(_, stamp)| stamp.size == size);
        files.truncate(PLACES_MAX);
        Some(Places(files.into()))
    }

    /// What the first of them was when it was hashed.
    pub(crate) fn stamp(&self) -> Stamp {
        self.0[0].1
    }

    /// Opens the first one that is what was hashed. Blocks on the disk.
    ///
    /// # Errors
    /// Why the first one cannot be read, if none can.
    pub(crate) fn reader(&self) -> Result<PlacesReader, ReadError> {
        let open = self.first(|_| Ok(()))?;
        Ok(PlacesReader { places: self.clone(), open: Mutex::new(Arc::new(open)) })
    }

    /// The first one of which something can be read.
    fn first(&self, mut read: impl FnMut(&File) -> io::Result<()>) -> Result<Open, ReadError> {
        let mut why = None;
        for (location, stamp) in &*self.0 {
            match Open::new(location, *stamp).and_then(|open| open.read(&mut read).map(|()| open)) {
                Ok(open) => return Ok(open),
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or(ReadError::Missing))
    }
}

impl PlacesReader {
    /// Reads from one of the files. `read` is called again for another one if what it has read is not what was hashed.
    ///
    /// # Errors
    /// Why the file that was read last cannot be read any more, if none can.
    pub(crate) fn read(&self, mut read: impl FnMut(&File) -> io::Result<()>) -> Result<(), ReadError> {
        // Others read meanwhile: it is held only to look.
        let slot = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = slot().clone();
        open.read(&mut read).or_else(|error| {
            let other = if self.places.0.len() > 1 { self.places.first(read).ok() } else { None };
            *slot() = Arc::new(other.ok_or(error)?);
            Ok(())
        })
    }
}

impl Open {
    fn new(location: &Location, stamp: Stamp) -> Result<Self, ReadError> {
        let file = location.open()?;
        check(&file, &stamp)?;
        Ok(Open { file, stamp })
    }

    fn read(&self, read: &mut impl FnMut(&File) -> io::Result<()>) -> Result<(), ReadError> {
        match read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ReadError::Changed),
            result => result?,
        }
        // After the read: whatever was written before or while we read shows here.
        check(&self.file, &self.stamp)
    }
}
