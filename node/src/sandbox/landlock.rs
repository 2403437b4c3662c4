//! The folders: Landlock.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::{Allowed, Enforced};

/// The newest version that the rules were written for. Later ones may take away what is needed here.
const KNOWN: ABI = ABI::V6;

pub(super) fn confine(allowed: &Allowed) -> io::Result<Enforced> {
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
        RulesetStatus::FullyEnforced => Enforced::Full,
        RulesetStatus::PartiallyEnforced => Enforced::Partial,
        RulesetStatus::NotEnforced => Enforced::Missing,
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

/// What every process here may read: what the C library looks at for names of hosts, the time zone, how many processors
/// there are; its own description.
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
