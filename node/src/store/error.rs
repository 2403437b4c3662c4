//! What goes wrong when writing: what happened, to what, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use ftx_proto::name::RelativePath;
use rustix::io::Errno;

/// Why a fetched file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The target is there already.
    #[error("{} exists already; use --force to replace it, or -o to write to another place", .0.display())]
    Exists(PathBuf),
    /// Somebody else fetches to the same target.
    #[error("{} is being fetched by another process; wait for it, or use -o to write to another place", .0.display())]
    Locked(PathBuf),
    /// There is less space than the file needs.
    #[error(
        "the disk of {} is full{}; make room and run the same command again, or use -o to write to another disk",
        path.display(), in_need(*needed, *available)
    )]
    DiskFull {
        /// Bytes that are still to be written; 0 where that is not known.
        needed: u64,
        /// Bytes that are free.
        available: u64,
        /// What was to be written.
        path: PathBuf,
    },
    /// The folder is on a file system that is mounted read-only.
    #[error("{} is on a read-only file system; use -o to write to another place ({error})", path.display())]
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The user may not write there.
    #[error("no permission to write {}; change its permissions, or use -o to write to another place ({error})", path.display())]
    Permission {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The folder to write into is not there, or not a folder.
    #[error("there is no folder {}; create it first ({error})", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The target cannot be a file's name: it is a folder, not a single name, or a name that the node itself uses.
    #[error("{} cannot be the name of a fetched file: {reason}; use -o FILE", path.display())]
    Name {
        /// The target.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A link, folder, device or somebody else's file lies where the part or the journal belongs.
    #[error("{} is in the way and not a file of ours; remove it, or use -o to write to another place", .0.display())]
    InTheWay(PathBuf),
    /// The part, or the whole folder, was removed meanwhile.
    #[error("{} was removed while it was being fetched; run the same command again to fetch it anew", .0.display())]
    Removed(PathBuf),
    /// The disk itself fails.
    #[error(
        "cannot {action} {}: the disk fails ({error}); check the disk, then run the same command again, or use -o to \
         write to another disk",
        path.display()
    )]
    BrokenDisk {
        /// What was tried.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// An entry of a folder cannot be here: a name that the node itself uses, or one that the file system does not take.
    #[error("{} cannot be here: {reason}; leave it out with --exclude", path.display())]
    Entry {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two entries of a folder would be one and the same here.
    #[error(
        "'{first}' and '{second}' are the same name on the file system of {}; leave one out with --exclude, or use -o \
         to write to another disk",
        path.display()
    )]
    SameName {
        /// Where.
        path: PathBuf,
        /// One of them.
        first: RelativePath,
        /// The other one.
        second: RelativePath,
    },
    /// Files are in the way of folders, or folders in the way of files.
    #[error("{} {}; use --force to replace it with all that is in it", listed(paths), if paths.len() == 1 {
        "is a file here and a folder there, or the other way round"
    } else {
        "are files here and folders there, or the other way round"
    })]
    OtherKind {
        /// All of them; at least one.
        paths: Vec<PathBuf>,
    },
    /// An unfinished file is not there any more, or is not what it was.
    #[error("{} was changed by somebody else; run the same command again", .0.display())]
    Lost(PathBuf),
    /// Anything else.
    #[error("cannot {action} {}: {error}", path.display())]
    Other {
        /// What was tried.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl StoreError {
    /// The error for what the system said when `action` was tried on `path`.
    pub(crate) fn from_io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let path = path.to_owned();
        if error.raw_os_error() == Some(Errno::IO.raw_os_error()) {
            return StoreError::BrokenDisk { action, path, error };
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { needed: 0, available: 0, path }
            }
            io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path, error },
            io::ErrorKind::PermissionDenied => StoreError::Permission { path, error },
            _ => StoreError::Other { action, path, error },
        }
    }

    /// The same, with what is needed and what is free filled in if it says that the disk is full.
    pub(crate) fn with_space(self, needed: u64, available: u64) -> Self {
        match self {
            StoreError::DiskFull { path, .. } => StoreError::DiskFull { needed, available, path },
            other => other,
        }
    }
}

/// A few paths, and how many more there are.
fn listed(paths: &[PathBuf]) -> String {
    const SHOWN_MAX: usize = 3;
    let shown: Vec<_> = paths.iter().take(SHOWN_MAX).map(|path| path.display().to_string()).collect();
    match paths.len().saturating_sub(SHOWN_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// How much there should be, for people, if that is known.
fn in_need(needed: u64, available: u64) -> String {
    if needed == 0 {
        return String::new();
    }
    let missing = needed.saturating_sub(available);
    format!(": {} more needed, {} free, {} missing", in_bytes(needed), in_bytes(available), in_bytes(missing))
}

/// A number of bytes for people, in the binary unit that fits.
fn in_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_how_much_is_missing() {
        let error =
            StoreError::from_io("write", Path::new("/x/y"), io::Error::from(io::ErrorKind::StorageFull));
        assert!(error.to_string().contains("is full; make room"), "{error}");
        let text = error.with_space(5 << 30, 1 << 30).to_string();
        assert!(text.contains("5.0 GiB more needed, 1.0 GiB free, 4.0 GiB missing"), "{text}");
        assert!(text.contains("/x/y") && text.contains("-o"), "{text}");
    }

    #[test]
    fn a_broken_disk_is_told_from_other_troubles() {
        let text = StoreError::from_io("sync", Path::new("/x/y"), Errno::IO).to_string();
        assert!(text.contains("check the disk") && text.contains("/x/y"), "{text}");
        let error = StoreError::from_io("sync", Path::new("/x/y"), Errno::MFILE);
        assert!(matches!(error, StoreError::Other { .. }), "{error}");
    }

    #[test]
    fn bytes_for_people() {
        let cases = [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            (1 << 50, "1024.0 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(in_bytes(bytes), text);
        }
    }
}
