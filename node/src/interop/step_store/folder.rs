//! Folders and files below the inbox, reached step by step through open handles, and never through a link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use cap_std::fs::{Dir, DirEntry};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// The folder that these names lead to, one below the other. Those that are missing are made if `create`.
pub(super) fn open_folder(base: &Dir, parts: &[impl AsRef<str>], create: bool) -> io::Result<Dir> {
    let mut dir = base.try_clone()?;
    for part in parts {
        dir = match open_one(&dir, part.as_ref()) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&dir, part.as_ref(), Mode::from_raw_mode(0o777)) {
                    Ok(()) => sync_folder(&dir)?,
                    // Somebody else was first.
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_one(&dir, part.as_ref())?
            }
            result => result?,
        };
    }
    Ok(dir)
}

fn open_one(dir: &Dir, name: &str) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    Ok(Dir::from_std_file(File::from(opened)))
}

/// Opens a plain file for reading. Anything else is as good as absent, and nothing waits for the other end of a pipe.
pub(super) fn open_file(dir: &Dir, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => {
            let is_plain =
                FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile;
            Ok(is_plain.then(|| File::from(file)))
        }
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a file of ours for reading and writing; a new one if `create`, and then there must be none.
pub(super) fn open_own(dir: &Dir, name: &str, create: bool) -> io::Result<File> {
    let new = if create { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | new;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666)).map(File::from)?)
}

/// Whether there is anything under this name.
pub(super) fn exists(dir: &Dir, name: &str) -> io::Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(dir: &Dir, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Renames a file, unless there is something under the new name.
pub(super) fn rename_new(from: &Dir, old: &str, to: &Dir, new: &str) -> io::Result<()> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    // A file system without that: a look before the step is the best there is.
    if exists(to, new)? {
        return Err(Errno::EXIST.into());
    }
    Ok(rustix::fs::renameat(from, old, to, new)?)
}

/// Makes what was renamed and removed in the folder last.
pub(super) fn sync_folder(dir: &Dir) -> io::Result<()> {
    match rustix::fs::fsync(dir) {
        // Some file systems cannot sync a folder.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        // The handle is for paths only.
        Err(Errno::BADF) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::fsync(rustix::fs::openat(dir, ".", flags, Mode::empty())?)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// All of a small file of ours; `None` if there is none, or one that is larger than any of ours.
pub(super) fn read_small(dir: &Dir, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_file(dir, name)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}

/// Writes a small file: all of it or none, and on the disk if `last`. Replaces what is there if `replace`.
pub(super) fn write_small(dir: &Dir, name: &str, bytes: &[u8], replace: bool, last: bool) -> io::Result<()> {
    let draft = format!("{name}.{:016x}", rand::random::<u64>());
    let written = open_own(dir, &draft, true).and_then(|mut file| {
        file.write_all(bytes)?;
        if last { file.sync_all() } else { Ok(()) }
    });
    let renamed = written.and_then(|()| match replace {
        true => Ok(rustix::fs::renameat(dir, &draft, dir, name)?),
        false => rename_new(dir, &draft, dir, name),
    });
    match renamed {
        Ok(()) if last => sync_folder(dir),
        Ok(()) => Ok(()),
        Err(error) => {
            // The first error is the one that counts.
            let _ = remove(dir, &draft);
            Err(error)
        }
    }
}

/// Tells of every plain file below a folder, with the parts of its path, until told to stop. Links are passed over.
pub(super) fn walk(
    base: &Dir,
    top: &[String],
    tell: &mut dyn FnMut(&[String], &DirEntry) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut waiting = vec![top.to_vec()];
    while let Some(parts) = waiting.pop() {
        let dir = match open_folder(base, &parts, false) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            result => result?,
        };
        for entry in dir.entries()? {
            let entry = entry?;
            // What no key leads to is somebody else's.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            let path = || parts.iter().cloned().chain([name.clone()]).collect::<Vec<String>>();
            if kind.is_dir() && parts.len() < FOLDERS_DEEP_MAX {
                waiting.push(path());
            } else if kind.is_file() && tell(&path(), &entry).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Folders below each other that are looked through: more than any key has.
const FOLDERS_DEEP_MAX: usize = 128;
