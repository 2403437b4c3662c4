//! What can be shared, and where it is: names, sizes and times, no bytes.
//!
//! Whatever cannot be offered (devices, links that lead out, names that the wire cannot carry, folders that cannot be
//! read) is told by name, and the rest is shared. A name counts in the first share that has anything of its first part;
//! the same folder of a further share is not merged into it.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ftx_proto::limits::LINK_TARGET_BYTES_MAX;
use ftx_proto::manifest::may_lead_out;
use ftx_proto::name::{NameError, RelativePath, printable};

use super::content::{Location, Stamp};
use crate::interop::step_store::OWN_FOLDER;
use crate::sandbox;
use crate::store::is_own_file;

/// Most entries that are offered; what is found beyond is left out, and that is told.
pub const FILES_MAX: usize = 4 << 20;

/// The folders and files that the node offers, in the order in which their names count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shares {
    shares: Vec<Share>,
    /// Never offered, wherever it lies: the node's secrets are in it.
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct Share {
    folder: Arc<Path>,
    /// Only this file of the folder.
    only: Option<OsString>,
}

/// Something that can be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which share it is in.
    pub(crate) share: usize,
    pub(crate) name: RelativePath,
    pub(crate) what: What,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File(Stamp),
    Folder {
        /// Seconds and nanoseconds since 1970 of its last change.
        mtime: (i64, u32),
    },
    Link {
        /// Where to, within the share.
        target: String,
        mtime: (i64, u32),
    },
}

/// Something in a share that is not offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is, fit for a terminal.
    pub path: String,
    /// Why it is not offered.
    pub reason: SkipReason,
}

/// Why something in a share is not offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// A symbolic link that leads, or may lead, out of the share.
    #[error("it is a symbolic link that leads out of what is shared")]
    Link,
    /// A symbolic link that the protocol cannot carry.
    #[error("it is a symbolic link to something that is not UTF-8")]
    LinkNotUtf8,
    /// A device, pipe or socket.
    #[error("it is not a plain file")]
    Special,
    /// The protocol carries UTF-8 only.
    #[error("its name is not UTF-8")]
    NotUtf8,
    /// The protocol cannot carry the name.
    #[error("{0}")]
    Name(NameError),
    /// The system does not let us look at it.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Something of the same name in an earlier share counts.
    #[error("another share has something of this name")]
    Shadowed,
    /// There are more files than a node offers.
    #[error("there are more than {FILES_MAX} entries")]
    TooMany,
    /// A folder that is not offered as a whole, though its files are.
    #[error("not as a whole: {0}")]
    Folder(String),
}

impl Skipped {
    pub(crate) fn new(path: &Path, reason: SkipReason) -> Self {
        Skipped { path: printable(&path.to_string_lossy()).to_string(), reason }
    }
}

impl Shares {
    /// These folders and single files, without anything in `state_dir`.
    pub(crate) fn new(paths: &[PathBuf], state_dir: Option<&Path>) -> Self {
        let absolute = |path: &Path| {
            path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
        };
        let share = |path: &PathBuf| {
            let path = absolute(path);
            match (path.is_file(), path.parent(), path.file_name()) {
                (true, Some(folder), Some(name)) => {
                    Share { folder: folder.into(), only: Some(name.to_owned()) }
                }
                _ => Share { folder: path.into(), only: None },
            }
        };
        Shares { shares: paths.iter().map(share).collect(), state_dir: state_dir.map(absolute) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.shares.len()
    }

    /// The folder of a share; and the only file of it that is shared, if it is a single file.
    pub(crate) fn folder(&self, share: usize) -> (&Arc<Path>, Option<&OsStr>) {
        let Share { folder, only } = &self.shares[share];
        (folder, only.as_deref())
    }

    /// Where something of a share is.
    pub(crate) fn location(&self, share: usize, name: &RelativePath) -> Location {
        Location::new(self.shares[share].folder.clone(), name.as_str())
    }

    /// The file that this name stands for now, by the same rules as a scan, but without one. Blocks on the disk.
    pub(crate) fn probe(&self, name: &RelativePath) -> Option<Found> {
        self.look(name).filter(|found| matches!(found.what, What::File(_)))
    }

    /// What this name stands for now, by the same rules as a scan, but without one. Blocks on the disk.
    pub(crate) fn look(&self, name: &RelativePath) -> Option<Found> {
        let top: RelativePath = name.parts().next()?.parse().ok()?;
        let share = (0..self.len()).find(|share| self.entry(*share, &top).is_some())?;
        let mut at = String::new();
        // Whatever is on the way must be a folder, and nobody's private one.
        for part in name.parts() {
            at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
            let here: RelativePath = at.parse().ok()?;
            let what = self.entry(share, &here)?;
            if here == *name {
                return Some(Found { share, name: here, what });
            }
            if !matches!(what, What::Folder { .. }) {
                return None;
            }
        }
        None
    }

    /// What there is of this name in a share, if what it is in is an ordinary folder.
    fn entry(&self, share: usize, name: &RelativePath) -> Option<What> {
        let Share { folder, only } = &self.shares[share];
        let path = folder.join(name.as_str());
        if only.as_ref().is_some_and(|only| only != name.as_str()) || self.is_private(&path) {
            return None;
        }
        let what = classify(name, &path, &path.symlink_metadata().ok()?).ok()?;
        (!is_own(&what, name.file_name().as_ref())).then_some(what)
    }

    /// The state folder; and what an inbox holds besides finished files, wherever the inbox lies.
    pub(crate) fn is_private(&self, path: &Path) -> bool {
        self.state_dir.as_deref() == Some(path) || path.file_name() == Some(OsStr::new(OWN_FOLDER))
    }

    /// Whether a folder is, or is in, one that is never offered.
    pub(crate) fn is_in_private(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.is_private(above))
    }
}

/// Whether this is a file that the node itself writes while it fetches.
pub(super) fn is_own(what: &What, file_name: &OsStr) -> bool {
    matches!(what, What::File(_)) && is_own_file(file_name)
}

/// What the thing with these metadata can be offered as. Reads where a link leads to.
pub(super) fn classify(name: &RelativePath, path: &Path, metadata: &Metadata) -> Result<What, SkipReason> {
    let mtime = (metadata.mtime(), metadata.mtime_nsec() as u32);
    if metadata.is_dir() {
        return Ok(What::Folder { mtime });
    }
    if metadata.is_symlink() {
        let target = path.read_link().map_err(|error| unreadable(path, &error))?;
        let target = target.into_os_string().into_string().map_err(|_| SkipReason::LinkNotUtf8)?;
        let is_good = !target.is_empty() && target.len() <= LINK_TARGET_BYTES_MAX;
        return match is_good && !may_lead_out(name, &target) {
            true => Ok(What::Link { target, mtime }),
            false => Err(SkipReason::Link),
        };
    }
    Stamp::of(metadata).map(What::File).ok_or(SkipReason::Special)
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> SkipReason {
    SkipReason::Unreadable(format!("{error}{}", sandbox::note(path, error)))
}
