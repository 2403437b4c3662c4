//! The command line: what is said, what is shown, and the exit status.
//!
//! Results go to stdout, progress and logs to stderr; with `--json`, stdout has one object a line ([`json`]). Each
//! command is a function from its arguments to `Result<(), Error>`; only [`main`] ends the process.

mod args;
mod classic;
mod confine;
mod doctor;
mod get;
mod hash;
pub mod json;
mod log;
mod look;
mod progress;
mod put;
mod share;
mod status;
mod step;
mod step_user;
mod target;
pub mod text;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

use crate::error::{Code, Error};
use crate::limits::{SESSION_CONTENTS_MAX, SESSIONS_MAX};
use crate::runtimes::Runtimes;
use args::{Command, Options};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Help and version are no errors; clap knows where each belongs.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage.exit_status() } else { 0 });
        }
    };
    let output = json::Output::new(options.common.json);
    let output = if options.content_on_stdout() { output.aside() } else { output };
    match run(options, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.code.exit_status())
        }
    }
}

fn run(options: Options, output: &json::Output) -> Result<(), Error> {
    let options = options.with_file()?;
    log::start(&options.common);
    // Before the first thread: threads that are there already stay as they are.
    confine::confine(&options)?;
    match options.command {
        Some(Command::Hash { paths }) => hash::hash(&paths, &options.common, output),
        Some(Command::Verify { path, root }) => hash::verify(&path, &root, &options.common, output),
        Some(Command::StepUser { action }) => step_user::step_user(action, output),
        command => {
            raise_descriptor_limit();
            let runtimes = Runtimes::start()?;
            let data = runtimes.data();
            let common = options.common;
            let done = runtimes.block_on(async {
                match command {
                    Some(Command::Get(get)) => get::get(get, common, data, output).await,
                    Some(Command::Put(put)) => put::put(put, common, data, output).await,
                    Some(Command::Rm { url, step }) => step::rm(url, step, common, data, output).await,
                    Some(Command::Data(options)) => step::data(options, common, data, output).await,
                    Some(Command::Ls { pattern, step }) => match put::url_of(pattern.as_deref())? {
                        Some(url) => step::ls(url, step, common, data, output).await,
                        None => look::ls(pattern, common, data, output).await,
                    },
                    Some(Command::Peers) => look::peers(common, data, output).await,
                    Some(Command::Status) => status::status(&common, output).await,
                    Some(Command::Doctor) => doctor::doctor(common, data, output).await,
                    _ => share::share(options.share, common, data, output).await,
                }
            });
            runtimes.stop();
            done
        }
    }
}

/// Every session takes a descriptor, and one more for each file it is sent. The usual limit of 1024 is for programs that
/// use `select`; whoever wants a lower one for this one sets the hard limit.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map_or(DESCRIPTORS_WANTED, |maximum| maximum.min(DESCRIPTORS_WANTED));
    if limit.current.is_some_and(|current| current < enough) {
        limit.current = Some(enough);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "cannot raise the limit of open files");
        }
    }
}

/// For all sessions with all their contents, twice.
const DESCRIPTORS_WANTED: u64 = (SESSIONS_MAX * (SESSION_CONTENTS_MAX + 1) * 2) as u64;
