//! A file that is to be sent to one of the older systems, as it is before the first byte.

use std::fs::File;
use std::path::Path;

use ftx_proto::name::printable;

use crate::catalog::content::{Stamp, stamp_of};
use crate::error::{Code, Error};

/// Opens a file to be sent; its stamp shows later whether it was changed meanwhile.
///
/// # Errors
/// [`Code::Usage`] for what is not there or no plain file.
pub(super) fn open(path: &Path) -> Result<(File, Stamp), Error> {
    let shown = || printable(&path.display().to_string()).to_string();
    let unusable = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::Usage } else { Code::Other };
        Error::new(code, format!("cannot read {}: {error}", shown()))
    };
    // Opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(unusable)?.is_file() {
        return Err(Error::new(Code::Usage, format!("cannot send {}: it is not a plain file", shown())));
    }
    let file = File::open(path).map_err(unusable)?;
    let stamp = stamp_of(&file).map_err(unusable)?;
    Ok((file, stamp))
}
