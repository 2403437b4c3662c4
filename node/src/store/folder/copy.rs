//! Files that are in the target under other names: copied rather than fetched.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use super::staging::Staging;
use super::tree::{Seen, Tree, times};
use crate::store::{StoreError, sparse};

/// Bytes that are read at once.
const READ_LEN: usize = 256 * 1024;

/// Copies a file of the target, which was hashed when it was `seen`, to its place in the staging folder. `false` if it is
/// not that any more; what was copied is gone then.
pub(super) fn copy(
    staging: &Staging,
    number: usize,
    target: &Tree,
    from: &Path,
    seen: &Seen,
) -> Result<bool, StoreError> {
    // Whoever changes it while it is copied changes its times as well.
    let is_same =
        |file: &File| Seen::of(file).is_ok_and(|now| now.is_same_content(seen) && now.ctime == seen.ctime);
    let Some(source) = target.open_file(from).ok().filter(is_same) else { return Ok(false) };
    staging.fill(number, |to, size| copy_bytes(&source, to, size, seen.occupied < size))?;
    if is_same(&source) {
        return Ok(true);
    }
    let (path, ..) = staging.file(number);
    let removed = staging.tree().remove_file(path);
    removed.map_err(|error| staging.tree().failed("remove", path, error))?;
    Ok(false)
}

/// Moves a finished file from one tree to another one where the system cannot, because something else is mounted there.
pub(super) fn move_by_copy(from: &Tree, to: &Tree, path: &Path, seen: &Seen) -> rustix::io::Result<()> {
    let as_errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    // Beside its place, under a name that no entry has.
    let made = path.with_file_name(COPY);
    to.remove_file(&made)?;
    let (source, copy) = (from.open_file(path)?, to.create_file(&made, seen.is_executable())?);
    copy.set_len(seen.size).map_err(as_errno)?;
    copy_bytes(&source, &copy, seen.size, seen.occupied < seen.size).map_err(as_errno)?;
    // What a copy can do without.
    let _ = rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode((seen.mode & 0o777) as _));
    let _ = rustix::fs::futimens(&copy, &times(seen.mtime));
    copy.sync_all().map_err(as_errno)?;
    to.rename_to(&made, to, path)?;
    from.remove_file(path)
}

/// A copy that is not finished.
const COPY: &str = ".copy.ftx-part";

fn copy_bytes(from: &File, to: &File, size: u64, has_holes: bool) -> io::Result<()> {
    if !has_holes && copy_within_system(from, to, size)? {
        return Ok(());
    }
    let mut buffer = vec![0; READ_LEN];
    let mut offset = 0;
    while offset < size {
        let len = (size - offset).min(READ_LEN as u64) as usize;
        match from.read_exact_at(&mut buffer[..len], offset) {
            // It became shorter, which shows in its times.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        sparse::write_at(to, &buffer[..len], offset)?;
        offset += len as u64;
    }
    Ok(())
}

/// Lets the system copy, which on some file systems costs no room and no time; `false` if it cannot.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn copy_within_system(from: &File, to: &File, size: u64) -> io::Result<bool> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(true);
    }
    let (mut read, mut written) = (0, 0);
    while written < size {
        let len = usize::try_from(size - written).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), len) {
            // It became shorter; or this system copies nothing. Whoever reads it will see.
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn copy_within_system(_from: &File, _to: &File, _size: u64) -> io::Result<bool> {
    Ok(false)
}
