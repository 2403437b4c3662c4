//! What is told of a file that came from one of the older systems.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Code, Error};
use crate::store::WholeFile;

/// A file that is here, verified, with its final name.
#[derive(Debug)]
pub struct Fetched {
    /// Where it is; `-` for a temporary file.
    pub path: PathBuf,
    /// Its bytes, for a temporary file.
    pub file: WholeFile,
    /// How many.
    pub size: u64,
    /// The sum by which it was verified, in hex digits.
    pub sum: String,
    /// From the beginning to the final name.
    pub elapsed: Duration,
}

/// Gives a file whose sum was compared its name. Waits for the disk.
pub(super) fn finish(
    mut file: WholeFile,
    size: u64,
    wanted: &str,
    found: String,
) -> Result<(PathBuf, WholeFile), Error> {
    if wanted != found {
        let message = format!(
            "what came is not the file that was announced: its sum is {found}, not {wanted}; nothing was kept"
        );
        return Err(Error::new(Code::Integrity, message));
    }
    let path = file.finish(size)?;
    Ok((path, file))
}
