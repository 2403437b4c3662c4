//! Finding the files of the shares: names, sizes and times, no bytes.
//!
//! Whatever cannot be offered (links, devices, names that the wire cannot carry, folders that cannot be read) is told by
//! name, and the rest is shared.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_proto::name::{NameError, RelativePath, printable};
use walkdir::{DirEntry, WalkDir};

use super::content::{Location, Stamp};
use crate::interop::step_store::OWN_FOLDER;
use crate::store::is_own_file;

/// Most files that are offered; what is found beyond is left out, and that is told.
pub const FILES_MAX: usize = 4 << 20;

/// Entries in one batch of a scan.
const BATCH_LEN: usize = 256;

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

/// A file that can be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which share it is in.
    pub(crate) share: usize,
    pub(crate) name: RelativePath,
    pub(crate) stamp: Stamp,
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
    /// A symbolic link.
    #[error("it is a symbolic link")]
    Link,
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
    /// A file of the same name in an earlier share counts.
    #[error("another share has a file of this name")]
    Shadowed,
    /// There are more files than a node offers.
    #[error("there are more than {FILES_MAX} files")]
    TooMany,
}

/// Some of what a scan came across.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) found: Vec<Found>,
    pub(crate) skipped: Vec<Skipped>,
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

    /// Where a file of a share is.
    pub(crate) fn location(&self, share: usize, name: &RelativePath) -> Location {
        Location::new(self.shares[share].folder.clone(), name.as_str())
    }

    /// The file that this name stands for now, by the same rules as a scan, but without one. Blocks on the disk.
    pub(crate) fn probe(&self, name: &RelativePath) -> Option<Found> {
        self.shares.iter().enumerate().find_map(|(index, share)| {
            if share.only.as_ref().is_some_and(|only| only != name.as_str())
                || is_own_file(name.file_name().as_ref())
            {
                return None;
            }
            let mut path = share.folder.to_path_buf();
            let mut parts = name.parts().peekable();
            while let Some(part) = parts.next() {
                path.push(part);
                let is_folder = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
                if self.is_private(&path) || parts.peek().is_some() && !is_folder() {
                    return None;
                }
            }
            let stamp = Stamp::of(&path.symlink_metadata().ok()?)?;
            Some(Found { share: index, name: name.clone(), stamp })
        })
    }

    /// Walks the shares in order and hands over what it comes across, until told to stop, by `stop` or in answer to a
    /// batch. Blocks on the disk.
    pub(crate) fn scan(
        &self,
        stop: &AtomicBool,
        emit: &mut dyn FnMut(Batch) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut scan = Scan { batch: Batch::default(), found: 0, stop, emit };
        for (index, share) in self.shares.iter().enumerate() {
            match &share.only {
                Some(only) => {
                    let path = share.folder.join(only);
                    match path.symlink_metadata() {
                        Ok(metadata) => scan.file(index, Path::new(only), &path, &metadata)?,
                        Err(error) => scan.skip(&path, unreadable(&error))?,
                    }
                }
                None => self.scan_folder(index, share, &mut scan)?,
            }
        }
        scan.flush()
    }

    fn scan_folder(&self, index: usize, share: &Share, scan: &mut Scan<'_>) -> ControlFlow<()> {
        let walk = WalkDir::new(&share.folder).min_depth(1).max_open(16).into_iter();
        for entry in walk.filter_entry(|entry| !self.is_private(entry.path())) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(&share.folder).to_owned();
                    let text = error.io_error().map_or_else(|| error.to_string(), io::Error::to_string);
                    scan.skip(&path, SkipReason::Unreadable(text))?;
                    continue;
                }
            };
            scan.entry(index, &share.folder, &entry)?;
        }
        ControlFlow::Continue(())
    }

    /// The state folder; and what an inbox holds besides finished files, wherever the inbox lies.
    fn is_private(&self, path: &Path) -> bool {
        self.state_dir.as_deref() == Some(path) || path.file_name() == Some(OsStr::new(OWN_FOLDER))
    }
}

/// A scan under way.
struct Scan<'a> {
    batch: Batch,
    found: usize,
    stop: &'a AtomicBool,
    emit: &'a mut dyn FnMut(Batch) -> ControlFlow<()>,
}

impl Scan<'_> {
    fn entry(&mut self, share: usize, folder: &Path, entry: &DirEntry) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let kind = entry.file_type();
        if kind.is_dir() {
            return ControlFlow::Continue(());
        }
        let path = entry.path();
        if kind.is_symlink() {
            return self.skip(path, SkipReason::Link);
        }
        if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            return self.skip(path, SkipReason::Special);
        }
        match entry.metadata() {
            Ok(metadata) => self.file(share, path.strip_prefix(folder).unwrap_or(path), path, &metadata),
            // It went away since the folder was listed.
            Err(error) if error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {
                ControlFlow::Continue(())
            }
            Err(error) => self.skip(path, SkipReason::Unreadable(error.to_string())),
        }
    }

    fn file(
        &mut self,
        share: usize,
        name: &Path,
        path: &Path,
        metadata: &std::fs::Metadata,
    ) -> ControlFlow<()> {
        if path.file_name().is_some_and(is_own_file) {
            return ControlFlow::Continue(());
        }
        let Some(stamp) = Stamp::of(metadata) else { return self.skip(path, SkipReason::Special) };
        let Some(name) = name.to_str() else { return self.skip(path, SkipReason::NotUtf8) };
        match name.parse() {
            Ok(_) if self.found >= FILES_MAX => self.skip(path, SkipReason::TooMany),
            Ok(name) => {
                self.found += 1;
                self.batch.found.push(Found { share, name, stamp });
                self.flush_if_full()
            }
            Err(error) => self.skip(path, SkipReason::Name(error)),
        }
    }

    fn skip(&mut self, path: &Path, reason: SkipReason) -> ControlFlow<()> {
        self.batch.skipped.push(Skipped::new(path, reason));
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> ControlFlow<()> {
        if self.batch.found.len() + self.batch.skipped.len() < BATCH_LEN {
            return ControlFlow::Continue(());
        }
        self.flush()
    }

    fn flush(&mut self) -> ControlFlow<()> {
        (self.emit)(std::mem::take(&mut self.batch))
    }
}

fn unreadable(error: &io::Error) -> SkipReason {
    SkipReason::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn scan(shares: &Shares) -> (Vec<String>, BTreeMap<String, SkipReason>) {
        let (mut names, mut skipped) = (Vec::new(), BTreeMap::new());
        let flow = shares.scan(&AtomicBool::new(false), &mut |batch| {
            names.extend(batch.found.iter().map(|found| format!("{}:{}", found.share, found.name.as_str())));
            skipped.extend(batch.skipped.into_iter().map(|skipped| (skipped.path, skipped.reason)));
            ControlFlow::Continue(())
        });
        assert_eq!(flow, ControlFlow::Continue(()));
        names.sort();
        (names, skipped)
    }

    #[test]
    fn odd_entries_are_told_and_the_rest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("sub/.hidden")).unwrap();
        fs::create_dir(path("state")).unwrap();
        for name in [
            "a",
            "sub/b.txt",
            "sub/.hidden/c",
            ".dot",
            ".x.ftx-part",
            ".x.ftx-journal",
            "state/key",
            "back\\slash",
        ] {
            fs::write(path(name), name).unwrap();
        }
        fs::write(folder.path().join(OsStr::from_bytes(b"latin\xe9")), "x").unwrap();
        symlink("/etc/passwd", path("link")).unwrap();
        symlink("sub", path("folder-link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let shares = Shares::new(&[folder.path().to_owned()], Some(&path("state")));
        let (names, skipped) = scan(&shares);
        assert_eq!(names, ["0:.dot", "0:a", "0:sub/.hidden/c", "0:sub/b.txt"]);
        let root = folder.path().canonicalize().unwrap();
        let reason = |name: &str| skipped.get(&root.join(name).display().to_string()).cloned();
        assert_eq!(reason("link"), Some(SkipReason::Link));
        assert_eq!(reason("folder-link"), Some(SkipReason::Link));
        assert_eq!(reason("socket"), Some(SkipReason::Special));
        assert_eq!(reason("back\\slash"), Some(SkipReason::Name(NameError::Character)));
        assert_eq!(reason("latin\u{fffd}"), Some(SkipReason::NotUtf8));
        assert_eq!(skipped.len(), 5, "{skipped:?}");

        // A probe finds what a scan finds, and nothing else.
        for name in ["a", "sub/b.txt", "sub/.hidden/c", ".dot"] {
            let found = shares.probe(&name.parse().unwrap()).unwrap();
            assert_eq!((found.share, found.name.as_str(), found.stamp.size), (0, name, name.len() as u64));
        }
        for name in ["link", "folder-link/b.txt", "socket", "state/key", ".x.ftx-part", "sub", "no"] {
            assert_eq!(shares.probe(&name.parse().unwrap()), None, "{name}");
        }
    }

    #[test]
    fn what_an_inbox_keeps_for_itself_is_never_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("inbox/.ftx-step/data/alice")).unwrap();
        fs::create_dir_all(path("inbox/alice")).unwrap();
        for name in ["inbox/.ftx-step/lock", "inbox/.ftx-step/data/alice/secret", "inbox/alice/file"] {
            fs::write(path(name), name).unwrap();
        }
        for (share, files) in
            [(path("inbox"), ["alice/file"]), (folder.path().to_owned(), ["inbox/alice/file"])]
        {
            let shares = Shares::new(&[share], None);
            let (names, skipped) = scan(&shares);
            assert_eq!(names, files.map(|name| format!("0:{name}")));
            assert!(skipped.is_empty(), "{skipped:?}");
            for hidden in [".ftx-step/lock", ".ftx-step/data/alice/secret", "inbox/.ftx-step/lock"] {
                assert_eq!(shares.probe(&hidden.parse().unwrap()), None, "{hidden}");
            }
        }
    }

    #[test]
    fn a_share_may_be_one_file_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), "1").unwrap();
        fs::write(folder.path().join("two"), "2").unwrap();
        let paths = [folder.path().join("one"), folder.path().join("gone"), folder.path().to_owned()];
        let shares = Shares::new(&paths, None);
        let (names, skipped) = scan(&shares);
        assert_eq!(names, ["0:one", "2:one", "2:two"]);
        assert!(skipped.values().all(|reason| matches!(reason, SkipReason::Unreadable(_))), "{skipped:?}");
        assert_eq!(skipped.len(), 1);
        assert_eq!(shares.probe(&"one".parse().unwrap()).unwrap().share, 0);
        assert_eq!(shares.probe(&"two".parse().unwrap()).unwrap().share, 2);
    }

    #[test]
    fn a_scan_stops_when_told() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..BATCH_LEN * 2 {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let mut batches = 0;
        let shares = Shares::new(&[folder.path().to_owned()], None);
        let flow = shares.scan(&AtomicBool::new(false), &mut |_| {
            batches += 1;
            ControlFlow::Break(())
        });
        assert_eq!((flow, batches), (ControlFlow::Break(()), 1));
        let flow = shares.scan(&AtomicBool::new(true), &mut |batch| panic!("{batch:?}"));
        assert_eq!(flow, ControlFlow::Break(()));
    }
}
