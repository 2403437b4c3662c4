//! What each command reads and writes, and that it is confined to that before it makes its first thread.

use std::path::{Path, PathBuf};

use super::args::{Command, CommonOptions, GetOptions, Options, ShareOptions, StepOptions};
use super::put::url_of;
use crate::error::Error;
use crate::interop::Url;
use crate::node::make_folders;
use crate::sandbox::{self, Allowed, Enforced};

/// Confines the process to what its command needs, unless that is not wanted. Folders that the command would make are made.
pub(super) fn confine(options: &Options) -> Result<(), Error> {
    let common = &options.common;
    if common.no_sandbox == Some(true) {
        tracing::info!("not confined: --no-sandbox");
        return Ok(());
    }
    let Some(allowed) = allowed(options)? else { return Ok(()) };
    let done = sandbox::confine(&allowed).map_err(|error| {
        Error::other(format!("cannot confine the process: {error}; --no-sandbox does without"))
    })?;
    let calls = if done.calls { "" } else { "; system calls that are not needed cannot be refused here" };
    let what = match done.folders {
        Enforced::Full if done.calls => {
            tracing::info!("confined: {}", allowed.describe());
            return Ok(());
        }
        Enforced::Full => format!("confined: {}{calls}", allowed.describe()),
        Enforced::Partial => {
            format!("confined as far as this kernel can, which is not all: {}{calls}", allowed.describe())
        }
        Enforced::Missing => format!(
            "not confined to folders: this kernel has no Landlock (Linux 5.19 or newer has it, where it is switched on){calls}"
        ),
    };
    // Whoever asked for it has to know.
    match common.no_sandbox {
        Some(false) => tracing::warn!("{what}"),
        _ => tracing::info!("{what}"),
    }
    Ok(())
}

/// What the command needs; none if it is not to be confined.
fn allowed(options: &Options) -> Result<Option<Allowed>, Error> {
    let common = &options.common;
    let none = Allowed::default();
    let allowed = match &options.command {
        None if options.share.share.is_empty() && options.share.inbox.is_none() => return Ok(None),
        None => node(&options.share, common)?,
        Some(Command::Get(get)) => match url_of(Some(&get.what))? {
            Some(_) => target(password(none, &get.step), get),
            // What is in a folder is fetched into a temporary file first.
            None => target(with_state(none, common)?, get).temporary(std::env::temp_dir()),
        },
        Some(Command::Put(put)) => {
            let allowed = password(none.read(&put.file), &put.step);
            match put.url {
                Url::Step { .. } | Url::Inbox { .. } => with_state(allowed, common)?,
                _ => allowed,
            }
        }
        Some(Command::Ls { pattern, step }) => match url_of(pattern.as_deref())? {
            Some(_) => password(none, step),
            None => with_state(none, common)?,
        },
        Some(Command::Rm { step, .. }) => password(none, step),
        Some(Command::Data(data)) => password(none, &data.step),
        Some(Command::Peers) => with_state(none, common)?,
        // It looks at the whole machine; and these have no network.
        Some(
            Command::Doctor
            | Command::Status
            | Command::Hash { .. }
            | Command::Verify { .. }
            | Command::Id
            | Command::Trust { .. }
            | Command::StepUser { .. },
        ) => return Ok(None),
    };
    Ok(Some(allowed))
}

/// A node that shares.
fn node(share: &ShareOptions, common: &CommonOptions) -> Result<Allowed, Error> {
    let state = common.state_dir()?;
    make_folders(share.inbox.as_deref(), &share.share, &state)?;
    let allowed = share.share.iter().fold(Allowed::default(), Allowed::read);
    let allowed = share.inbox.iter().fold(access(allowed.write(state), common), Allowed::write);
    Ok(match &share.step_auth {
        // The folder, since whoever changes the file puts another in its place.
        Some(file) if file.as_os_str() != "classic" => allowed.read(folder_of(file)),
        _ => allowed,
    })
}

fn with_state(allowed: Allowed, common: &CommonOptions) -> Result<Allowed, Error> {
    let state = common.state_dir()?;
    make_folders(None, &[], &state)?;
    Ok(access(allowed.write(state), common))
}

/// What says whom a node talks to.
fn access(allowed: Allowed, common: &CommonOptions) -> Allowed {
    let allowed = common.access.secret_file.iter().fold(allowed, Allowed::read);
    let Some(file) = &common.access.trust else { return allowed };
    // The folder, since `trust add` puts another file in its place; and where a link leads, for the same reason.
    let there = file.canonicalize().map(|file| folder_of(&file));
    there.into_iter().fold(allowed.read(folder_of(file)), Allowed::read)
}

/// Where a fetched content goes, and its part and journal beside it.
fn target(allowed: Allowed, get: &GetOptions) -> Allowed {
    match &get.output {
        _ if get.to_stdout() => allowed.temporary(std::env::temp_dir()),
        None => allowed.write("."),
        Some(output) if ends_in_slash(output) => allowed.write(output),
        // What it is, is known only once it is known what is fetched: a folder goes to where it is, a file into it.
        Some(output) if output.is_dir() => allowed.write(folder_of(output)).write(output),
        Some(output) => allowed.write(folder_of(output)),
    }
}

fn password(allowed: Allowed, step: &StepOptions) -> Allowed {
    match &step.password_file {
        Some(path) if path.as_os_str() != "-" => allowed.read(path),
        _ => allowed,
    }
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// The folder that something of this path is in.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        // The root, or nothing at all.
        None => path.to_owned(),
    }
}
