//! Confinement: from a moment on, the process reads and writes only what it was started for.
//!
//! Owns the rules; whoever calls it says which folders. It is Landlock, a part of Linux that takes rights away from the
//! calling thread and from all that it starts later, for good, and `no_new_privs`, so that nothing can be executed that
//! has more. Whatever hole a stranger finds in the code, the rest of the disk is not behind it.
//!
//! Rules hold for the folders (not the names) that were there at that moment: what is put in the place of a folder later,
//! or mounted there, is out of reach; what is in it or moved into it is within. Not restricted: looking at names, sizes and
//! times where the path is known, what is open already, the network.
//!
//! No filter of system calls (seccomp) besides: programs cannot be executed without [`Allowed`] saying so, which it never
//! does, and mounting and tracing are taken away by Landlock itself; a list of what is forbidden would add little to that,
//! and a list of what is allowed would have to follow the C library and the runtime of every version.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
pub enum Confinement {
    /// All that is known here is enforced.
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
/// Whatever keeps a kernel that can do it from doing it, such as too many open files. Nothing is confined then.
pub fn confine(allowed: &Allowed) -> io::Result<Confinement> {
    let done = landlock::confine(allowed)?;
    if done != Confinement::Missing {
        let _ = CONFINED.set(());
    }
    Ok(done)
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

/// Some thread of this process is confined.
static CONFINED: OnceLock<()> = OnceLock::new();

/// What every process here may read: what the C library looks at for names of hosts, the time zone, how many processors
/// there are; its own description.
#[cfg(target_os = "linux")]
const SYSTEM: [&str; 19] = [
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    // Ways of looking up hosts are libraries, loaded at the first look.
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/proc/self",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/urandom",
];

#[cfg(target_os = "linux")]
mod landlock {
    use std::io;
    use std::path::Path;

    use landlock::{
        ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
    };

    use super::{Allowed, Confinement, SYSTEM};

    /// The newest version that the rules were written for. Later ones may take away what is needed here.
    const KNOWN: ABI = ABI::V6;

    pub(super) fn confine(allowed: &Allowed) -> io::Result<Confinement> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let write = read | (AccessFs::from_write(KNOWN) & !NEVER);
        let temporary = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | MakeReg | RemoveFile});
        let mut rules = Ruleset::default()
            // Where moves between folders cannot be allowed, folders could not be fetched: then rather nothing at all.
            .set_compatibility(CompatLevel::SoftRequirement)
            .handle_access(AccessFs::Refer)
            .map_err(io::Error::other)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))
            .and_then(|rules| rules.scope(Scope::Signal | Scope::AbstractUnixSocket))
            .and_then(Ruleset::create)
            .map_err(io::Error::other)?;
        for path in SYSTEM {
            rules = allow(rules, Path::new(path), read)?;
        }
        rules = allow(rules, Path::new("/dev/null"), read | AccessFs::WriteFile)?;
        for path in &allowed.read {
            rules = allow(rules, path, read)?;
        }
        for path in &allowed.write {
            rules = allow(rules, path, write)?;
        }
        if let Some(path) = &allowed.temporary {
            rules = allow(rules, path, temporary)?;
        }
        let status = rules.restrict_self().map_err(io::Error::other)?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Confinement::Full,
            RulesetStatus::PartiallyEnforced => Confinement::Partial,
            RulesetStatus::NotEnforced => Confinement::Missing,
        })
    }

    /// What nobody who moves files needs, wherever it may write.
    const NEVER: BitFlags<AccessFs> =
        make_bitflags!(AccessFs::{Execute | MakeChar | MakeBlock | MakeFifo | IoctlDev});

    fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
        // What has no path (a pipe under /proc/self/fd) can have no rule and needs none.
        let Ok(path) = path.canonicalize() else { return Ok(rules) };
        let Ok(metadata) = path.metadata() else { return Ok(rules) };
        let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        let place = PathFd::new(&path).map_err(io::Error::other)?;
        rules.add_rule(PathBeneath::new(place, access)).map_err(io::Error::other)
    }
}

#[cfg(not(target_os = "linux"))]
mod landlock {
    use super::{Allowed, Confinement};

    pub(super) fn confine(_: &Allowed) -> std::io::Result<Confinement> {
        Ok(Confinement::Missing)
    }
}
