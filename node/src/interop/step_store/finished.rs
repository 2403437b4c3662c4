//! Finished files: where they are, and their sums, which outlive the node.
//!
//! A sum stands in a small file of its own, with the size and the time of change that the file had. If those are others
//! by now, the file was changed, and is read again. Losing such a record costs the same.

use std::fs::File;
use std::io;

use cap_std::fs::Dir;
use ftx_proto::digest::Digest;
use ftx_proto::interop::step::store::FileState;
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum};
use serde::{Deserialize, Serialize};

use super::names::{Place, places};
use super::{FileName, OWN_FOLDER, SUMS_FOLDER, folder};
use crate::catalog::ReadError;
use crate::catalog::content::{Stamp, stamp_of};
use crate::interop::digests::Digests;

/// Largest record: a key, with every character escaped.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// A finished file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) file: File,
    pub(super) stamp: Stamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: String,
    size: u64,
    mtime: (i64, u32),
    md5: String,
}

/// The finished file of this name, if there is one.
pub(super) fn find(root: &Dir, name: &FileName) -> io::Result<Option<Found>> {
    for place in places(&name.user, &name.key) {
        let dir = match folder::open_folder(root, &place.folders, false) {
            Ok(dir) => dir,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        if let Some(file) = folder::open_file(&dir, &place.name)? {
            let stamp = stamp_of(&file)?;
            return Ok(Some(Found { place, file, stamp }));
        }
    }
    Ok(None)
}

/// Whether a folder is not there: nothing is, or something that is none, such as a link.
pub(super) fn is_absent(error: &io::Error) -> bool {
    let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_link || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Found {
    /// How the file stands: its sum is remembered, or computed and remembered.
    pub(super) fn state(&self, root: &Dir, key: &Key, digests: &Digests) -> Result<FileState, ReadError> {
        let md5 = match self.recorded(root) {
            Some(md5) => md5,
            None => {
                let md5 = digests.md5(&self.file)?;
                remember(root, &self.place, key, &self.stamp, md5);
                md5
            }
        };
        Ok(FileState::Complete { size: size_of(&self.stamp), md5 })
    }

    /// The remembered sum, if it is that of the present content.
    pub(super) fn recorded(&self, root: &Dir) -> Option<Md5Sum> {
        let record = record_at(root, &self.place.path())?;
        let is_same = record.size == self.stamp.size && record.mtime == self.stamp.mtime;
        record.md5.parse().ok().filter(|_| is_same)
    }
}

pub(super) fn size_of(stamp: &Stamp) -> FileSize {
    // No file system has larger files.
    FileSize::new(stamp.size).unwrap_or(match FileSize::new(0) {
        Some(size) => size,
        None => unreachable!("nothing is within the bound"),
    })
}

/// The key of the file at a path below the inbox that does not say it by itself.
pub(super) fn recorded_key(root: &Dir, path: &str) -> Option<Key> {
    record_at(root, path)?.key.parse().ok()
}

/// Remembers the sum of a file. Failing costs reading it again.
pub(super) fn remember(root: &Dir, place: &Place, key: &Key, stamp: &Stamp, md5: Md5Sum) {
    let record = Record { key: key.to_string(), size: stamp.size, mtime: stamp.mtime, md5: md5.to_string() };
    let written = folder::open_folder(root, &[OWN_FOLDER, SUMS_FOLDER], true).and_then(|dir| {
        let json = serde_json::to_vec(&record)?;
        folder::write_small(&dir, &record_name(&place.path()), &json, true, false)
    });
    if let Err(error) = written {
        tracing::warn!(%error, "cannot remember the sum of a file");
    }
}

/// Forgets the sum of a file that is gone.
pub(super) fn forget(root: &Dir, place: &Place) {
    let removed = folder::open_folder(root, &[OWN_FOLDER, SUMS_FOLDER], false)
        .and_then(|dir| folder::remove(&dir, &record_name(&place.path())));
    if let Err(error) = removed {
        tracing::debug!(%error, "cannot forget the sum of a file");
    }
}

fn record_at(root: &Dir, path: &str) -> Option<Record> {
    let dir = folder::open_folder(root, &[OWN_FOLDER, SUMS_FOLDER], false).ok()?;
    let bytes = folder::read_small(&dir, &record_name(path), RECORD_BYTES_MAX).ok()??;
    serde_json::from_slice(&bytes).ok()
}

fn record_name(path: &str) -> String {
    format!("{}.json", Digest::of(path.as_bytes()))
}
