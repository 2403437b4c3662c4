//! The folder that a run lives in: in memory where there is room, and gone when the run is over, however it ended.
//!
//! Only a process that is killed outright leaves it behind.

use std::io;
use std::path::{Path, PathBuf};

use ftx_node::cli::text;
use ftx_node::error::{Code, Error};
use rustix::fs::statvfs;
use tempfile::TempDir;

/// A temporary folder with room for a run.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// A folder in which `bytes` fit.
    ///
    /// # Errors
    /// [`Code::DiskFull`], or that no folder can be made.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        // What is in memory has to leave room for those who work with it.
        let places = [(PathBuf::from(MEMORY), bytes.saturating_mul(2)), (std::env::temp_dir(), bytes)];
        let mut refused = None;
        for (place, needed) in places {
            let made = free_bytes(&place).and_then(|free| {
                if free < needed.saturating_add(RESERVE) {
                    let (free, bytes) = (text::bytes(free), text::bytes(bytes));
                    let place = place.display();
                    return Err(Error::new(
                        Code::DiskFull,
                        format!("needs {bytes}; {place} has {free} left"),
                    ));
                }
                let made = tempfile::Builder::new().prefix("ftx-sim-").tempdir_in(&place);
                made.map_err(|error| failed(&place, &error))
            });
            match made {
                Ok(folder) => return Ok(Scratch { folder }),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| Error::other("there is no place for temporary files")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A node that was killed a moment ago may still be making its last file.
        for _ in 0..REMOVALS_MAX {
            match std::fs::remove_dir_all(self.path()) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                _ => return,
            }
        }
    }
}

fn free_bytes(place: &Path) -> Result<u64, Error> {
    let found = statvfs(place).map_err(|error| failed(place, &error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn failed(place: &Path, error: &io::Error) -> Error {
    Error::other(format!("cannot use {} for temporary files: {error}", place.display()))
}

/// The file system in memory that Linux has for everybody.
const MEMORY: &str = "/dev/shm";

/// Bytes that the nodes' own files may need.
const RESERVE: u64 = 64 << 20;

/// How often to try to remove a folder that is still being filled.
const REMOVALS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_it() {
        let scratch = Scratch::new(1).unwrap();
        let path = scratch.path().to_owned();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_begun() {
        let error = Scratch::new(u64::MAX / 4).unwrap_err();
        assert_eq!(error.code, Code::DiskFull, "{error}");
    }
}
