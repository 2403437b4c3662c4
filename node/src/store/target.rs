//! Where a fetched file goes: one folder, opened once, and one checked name in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use ftx_proto::digest::Digest;
use ftx_proto::name::RelativePath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::StoreError;
use super::part::lock_unless_finished;

/// Longest name of a file that file systems take, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

const PART_SUFFIX: &str = ".ftx-part";
const JOURNAL_SUFFIX: &str = ".ftx-journal";

/// Where a fetched file goes.
#[derive(Debug)]
pub struct Target {
    place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    /// A named file in an open folder.
    Named(Folder),
    /// A file without a name, which nobody but this process ever sees.
    Temporary,
}

/// The folder of a target and the names used in it. Everything on disk happens through this handle.
#[derive(Debug)]
pub(super) struct Folder {
    dir: Dir,
    /// The same again, to sync it: [`Folder::dir`] is for paths only. None where that is not allowed, since a folder may be
    /// one that is written but not listed.
    listed: Option<File>,
    path: PathBuf,
    pub(super) name: OsString,
    pub(super) part: OsString,
    pub(super) journal: OsString,
}

/// Whether a file of this name is a part or a journal, of this or another node.
pub fn is_own_file(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".")
        && (name.ends_with(PART_SUFFIX.as_bytes()) || name.ends_with(JOURNAL_SUFFIX.as_bytes()))
}

/// The name of the part whose journal has this name, if it is one's.
pub(super) fn part_of_journal(name: &OsStr) -> Option<OsString> {
    let stem =
        name.as_bytes().strip_suffix(JOURNAL_SUFFIX.as_bytes()).filter(|stem| stem.starts_with(b"."))?;
    Some(OsString::from_vec([stem, PART_SUFFIX.as_bytes()].concat()))
}

impl Target {
    /// The file `output`, or the file `name` in the folder `output` if that ends in `/` or is one.
    ///
    /// Of a `name` with several parts the last one counts. The folder must be there already.
    pub fn new(output: &Path, name: &RelativePath) -> Result<Self, StoreError> {
        Self::at(output, name, is_place(output) || output.is_dir())
    }

    /// Where a folder goes: `output` itself, even where that is a folder already, or `name` in it if it ends in `/`.
    pub fn of_folder(output: &Path, name: &RelativePath) -> Result<Self, StoreError> {
        Self::at(output, name, is_place(output))
    }

    fn at(output: &Path, name: &RelativePath, is_inside: bool) -> Result<Self, StoreError> {
        let (folder, name) = if is_inside {
            (output, OsStr::new(name.file_name()))
        } else {
            (output.parent().unwrap_or(Path::new("")), output.file_name().unwrap_or_default())
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let path = if folder == Path::new(".") { PathBuf::from(name) } else { folder.join(name) };
        if name.len() > FILE_NAME_BYTES_MAX {
            return Err(StoreError::Name { path, reason: "it is longer than 255 bytes" });
        }
        if is_own_file(name) {
            return Err(StoreError::Name { path, reason: "names like this are used for unfinished files" });
        }
        let dir = Dir::open_ambient_dir(folder, ambient_authority()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StoreError::NoFolder { path: folder.to_owned(), error }
            }
            _ => StoreError::from_io("open the folder", folder, error),
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Opened now: that there are too many open files must not be found out after the rename.
        let listed = match rustix::fs::openat(&dir, ".", flags, Mode::empty()) {
            Ok(listed) => Some(File::from(listed)),
            Err(Errno::ACCESS) => None,
            Err(error) => return Err(StoreError::from_io("open the folder", folder, error)),
        };
        let place = Place::Named(Folder {
            dir,
            listed,
            path: folder.to_owned(),
            name: name.to_owned(),
            part: hidden_name(name, PART_SUFFIX),
            journal: hidden_name(name, JOURNAL_SUFFIX),
        });
        Ok(Target { place })
    }

    /// A file without a name and without a journal, for what goes to standard output; it is gone with its handle.
    pub fn temporary() -> Self {
        Target { place: Place::Temporary }
    }

    /// Where the finished file will be; `-` for a temporary one.
    pub fn path(&self) -> PathBuf {
        match &self.place {
            Place::Named(folder) => folder.path_of(&folder.name),
            Place::Temporary => PathBuf::from("-"),
        }
    }

    /// Fails if the target is there already. Of one that is, what a crash right after its last step has left is removed.
    pub fn expect_free(&self) -> Result<(), StoreError> {
        match &self.place {
            // The name alone is looked at first: a target that is not there yet leaves no trace.
            Place::Named(folder) if folder.exists(&folder.name)? => {
                lock_unless_finished(folder, false).map(drop)
            }
            Place::Named(_) | Place::Temporary => Ok(()),
        }
    }

    /// Whether neither the target is there nor anything of an earlier fetch: what is begun here can be taken back without
    /// a trace.
    pub fn is_untouched(&self) -> Result<bool, StoreError> {
        let Place::Named(folder) = &self.place else { return Ok(true) };
        for name in [&folder.name, &folder.part, &folder.journal] {
            if folder.exists(name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn into_place(self) -> Place {
        self.place
    }
}

impl Folder {
    /// A name in the folder as a path, for messages.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        if self.path == Path::new(".") { PathBuf::from(name) } else { self.path.join(name) }
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Opens a file of ours for reading and writing, and creates it if it is not there. Links are not followed, and
    /// anything but a plain file with this one name is refused.
    pub(super) fn open_own(&self, name: &OsStr) -> Result<File, StoreError> {
        // NONBLOCK: opening a pipe that somebody put there must not wait for its other end.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return Err(StoreError::InTheWay(self.path_of(name)));
            }
            Err(error) => return Err(StoreError::from_io("open", &self.path_of(name), error)),
        };
        let stat = self.check(name, rustix::fs::fstat(&file))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
            return Err(StoreError::InTheWay(self.path_of(name)));
        }
        Ok(file)
    }

    /// Whether `name` is there, as whatever it may be.
    pub(super) fn exists(&self, name: &OsStr) -> Result<bool, StoreError> {
        Ok(self.stat(name)?.is_some())
    }

    /// Whether `name` still is the file behind `file`.
    pub(super) fn is_same(&self, name: &OsStr, file: &File) -> Result<bool, StoreError> {
        let there = self.check(name, rustix::fs::fstat(file))?;
        Ok(self.stat(name)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (there.st_dev, there.st_ino)))
    }

    /// What `name` is, without following a link.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<rustix::fs::Stat>, StoreError> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            result => self.check(name, result).map(Some),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &OsStr) -> Result<(), StoreError> {
        match self.dir.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::from_io("remove", &self.path_of(name), error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the part if it is but a second name of the finished file: a crash in the middle of giving it its name.
    pub(super) fn remove_second_name(&self) -> Result<(), StoreError> {
        match (self.stat(&self.part)?, self.stat(&self.name)?) {
            (Some(part), Some(name)) if (part.st_dev, part.st_ino) == (name.st_dev, name.st_ino) => {
                self.remove(&self.part)
            }
            _ => Ok(()),
        }
    }

    /// Makes what was renamed and removed in the folder last.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        match self.listed.as_ref().map_or(Ok(()), rustix::fs::fsync) {
            // Some file systems cannot sync a folder.
            Err(Errno::INVAL) | Ok(()) => Ok(()),
            Err(error) => Err(StoreError::from_io("sync the folder", &self.path, error)),
        }
    }

    /// Fails unless the part still is the file behind `data`.
    pub(super) fn expect_part(&self, data: &File) -> Result<(), StoreError> {
        match self.is_same(&self.part, data)? {
            true => Ok(()),
            false if self.exists(&self.part)? => Err(StoreError::InTheWay(self.path_of(&self.part))),
            false => Err(StoreError::Removed(self.path_of(&self.name))),
        }
    }

    /// Where the file is: the path that was given, unless that does not lead to this folder any more.
    pub(super) fn path_now(&self) -> PathBuf {
        match path_of_open(&self.dir, &self.path) {
            Some(moved) => moved.join(&self.name),
            None => self.path_of(&self.name),
        }
    }

    fn check<T>(&self, name: &OsStr, result: rustix::io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::from_io("look at", &self.path_of(name), error))
    }
}

/// Where an open folder is, if that can be told and is not where `given` leads.
pub(super) fn path_of_open(folder: impl AsFd, given: &Path) -> Option<PathBuf> {
    let here = rustix::fs::fstat(&folder).ok()?;
    let leads_here = |path: &Path| {
        rustix::fs::stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (here.st_dev, here.st_ino))
    };
    if leads_here(given) {
        return None;
    }
    let moved = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).ok()?;
    leads_here(&moved).then_some(moved)
}

/// Whether a path can only be something to put things into.
fn is_place(output: &Path) -> bool {
    output.as_os_str().as_bytes().ends_with(b"/")
        || output.as_os_str().is_empty()
        || output.file_name().is_none()
}

/// `.NAME` and `suffix`; a name too long for that is cut, and told apart by its hash.
fn hidden_name(name: &OsStr, suffix: &str) -> OsString {
    let bytes = name.as_bytes();
    // One bound for both suffixes, so that part and journal are cut alike.
    let room = FILE_NAME_BYTES_MAX - 1 - JOURNAL_SUFFIX.len();
    let mut hidden = b".".to_vec();
    if bytes.len() <= room {
        hidden.extend(bytes);
    } else {
        let digest = Digest::of(bytes).to_string();
        let (digits, _) = digest.split_at(16);
        let mut end = room - 1 - digits.len();
        // Not within a character: some file systems take valid UTF-8 only.
        while end > 0 && bytes[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        hidden.extend(&bytes[..end]);
        hidden.push(b'~');
        hidden.extend(digits.as_bytes());
    }
    hidden.extend(suffix.as_bytes());
    OsString::from_vec(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_always_fit_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for len in 1..=FILE_NAME_BYTES_MAX {
            for character in ["x", "é"] {
                let name = OsString::from(character.repeat(len / character.len()));
                if name.is_empty() || !seen.insert(name.clone()) {
                    continue;
                }
                for suffix in [PART_SUFFIX, JOURNAL_SUFFIX] {
                    let hidden = hidden_name(&name, suffix);
                    assert!(hidden.len() <= FILE_NAME_BYTES_MAX && is_own_file(&hidden), "{hidden:?}");
                    assert!(hidden.to_str().is_some(), "{hidden:?}");
                    assert!(seen.insert(hidden));
                }
            }
        }
    }

    #[test]
    fn outputs_name_a_file_or_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let name: RelativePath = "a/b.txt".parse().unwrap();
        let path = |output: PathBuf| Target::new(&output, &name).map(|target| target.path());
        let of_folder = |output: PathBuf| Target::of_folder(&output, &name).map(|target| target.path());
        let there = folder.path().join("there");
        std::fs::create_dir(&there).unwrap();
        assert_eq!(path(there.clone()).unwrap(), there.join("b.txt"));
        assert_eq!(of_folder(there.clone()).unwrap(), there);
        assert_eq!(of_folder(there.join("")).unwrap(), there.join("b.txt"));
        assert_eq!(path(folder.path().join("x")).unwrap(), folder.path().join("x"));
        assert_eq!(path(folder.path().to_owned()).unwrap(), folder.path().join("b.txt"));
        assert_eq!(path(folder.path().join("")).unwrap(), folder.path().join("b.txt"));
        assert!(matches!(path(folder.path().join("no/")), Err(StoreError::NoFolder { .. })));
        assert!(matches!(path(folder.path().join("no/x")), Err(StoreError::NoFolder { .. })));
        assert!(matches!(path(folder.path().join(".x.ftx-part")), Err(StoreError::Name { .. })));
        assert!(matches!(path(folder.path().join("x".repeat(256))), Err(StoreError::Name { .. })));
    }
}
