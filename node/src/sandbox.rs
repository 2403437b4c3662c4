//! Confinement: from a moment on, the process reads and writes only what it was started for.
//!
//! Owns the rules; whoever calls it says which folders. It is Landlock, a part of Linux that takes rights away from the
//! calling thread and from all that it starts later, for good, and `no_new_privs`, so that nothing can be executed that
//! has more. Whatever hole a stranger finds in the code, the rest of the disk is not behind it. And a filter of system
//! calls (seccomp) refuses what no node ever needs, so that few parts of the kernel are behind it.
//!
//! Rules hold for the folders (not the names) that were there at that moment: what is put in the place of a folder later,
//! or mounted there, is out of reach; what is in it or moved into it is within. Not restricted: looking at names, sizes and
//! times where the path is known, what is open already, the network.
//!
//! The filter is a list of what is refused, not of what is allowed: that would have to follow the C library and the runtime
//! of every version.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls;
#[cfg(target_os = "linux")]
mod landlock;

/// What a process needs to read and write; everything else is out of its reach once it is confined.
///
/// What does not exist when [`confine`] is called is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    temporary: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// Whether it is kept to what is allowed.
    pub folders: Enforced,
    /// Whether system calls that no node needs are refused.
    pub calls: bool,
}

/// How much of the rules for folders holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// All that is known here.
    Full,
    /// The kernel is older, and enforces what it knows.
    Partial,
    /// Nothing is enforced: the kernel has no Landlock, has it switched off, or cannot tell a move between folders from
    /// other things (before Linux 5.19).
    Missing,
}

impl Allowed {
    /// A file that may be read, or a folder with all that is in it.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// A folder in which everything may be done but executing programs.
    pub fn write(mut self, folder: impl Into<PathBuf>) -> Self {
        self.write.push(folder.into());
        self
    }

    /// A folder for temporary files: files in it may be made, read and written, but not listed.
    pub fn temporary(mut self, folder: impl Into<PathBuf>) -> Self {
        self.temporary = Some(folder.into());
        self
    }

    /// In words, for the log.
    pub fn describe(&self) -> String {
        let listed = |paths: &[PathBuf]| match paths {
            [] => "nothing".to_owned(),
            paths => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                paths.join(", ")
            }
        };
        let temporary = self.temporary.as_deref();
        let temporary =
            temporary.map_or(String::new(), |folder| format!(", temporary files in {}", folder.display()));
        format!(
            "reads {} and what the system needs, writes {}{temporary}",
            listed(&self.read),
            listed(&self.write)
        )
    }
}

/// Confines the calling thread and all that it will start. There is no way back.
///
/// # Errors
/// Whatever keeps a kernel that can do it from doing it, such as too many open files. Some of it may hold already.
pub fn confine(allowed: &Allowed) -> io::Result<Confinement> {
    let folders = landlock::confine(allowed)?;
    if folders != Enforced::Missing {
        let _ = CONFINED.set(());
    }
    Ok(Confinement { folders, calls: calls::refuse()? })
}

/// What to add to `error`, which the system gave for reading `path`, if that is the confinement's doing.
pub(crate) fn note(path: &Path, error: &io::Error) -> &'static str {
    // Landlock is not asked when permissions are looked at.
    let is_permitted = || rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok();
    if error.kind() == io::ErrorKind::PermissionDenied && CONFINED.get().is_some() && is_permitted() {
        " (the node is confined to what was there when it started: what was put in its place or mounted since is read after \
         a restart, or with --no-sandbox)"
    } else {
        ""
    }
}

/// Some thread of this process is kept to folders.
static CONFINED: OnceLock<()> = OnceLock::new();

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod calls {
    pub(super) fn refuse() -> std::io::Result<bool> {
        Ok(false)
    }
}

#[cfg(not(target_os = "linux"))]
mod landlock {
    use super::{Allowed, Enforced};

    pub(super) fn confine(_: &Allowed) -> std::io::Result<Enforced> {
        Ok(Enforced::Missing)
    }
}
