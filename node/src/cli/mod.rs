//! The command line: what is said, what is shown, and the exit status.
//!
//! Results go to stdout, progress and logs to stderr; with `--json`, stdout has one object a line ([`json`]). Each
//! command is a function from its arguments to `Result<(), Error>`; only [`main`] ends the process.

mod args;
mod get;
mod hash;
pub mod json;
mod log;
mod look;
mod progress;
mod share;
pub mod text;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::error::{Code, Error};
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
    match options.command {
        Some(Command::Hash { paths }) => hash::hash(&paths, &options.common, output),
        Some(Command::Verify { path, root }) => hash::verify(&path, &root, &options.common, output),
        command => {
            let runtimes = Runtimes::start()?;
            let data = runtimes.data.handle().clone();
            let common = options.common;
            let done = runtimes.control.block_on(async {
                match command {
                    Some(Command::Get(get)) => get::get(get, common, data, output).await,
                    Some(Command::Ls { pattern }) => look::ls(pattern, common, data, output).await,
                    Some(Command::Peers) => look::peers(common, data, output).await,
                    _ => share::share(options.share, common, data, output).await,
                }
            });
            runtimes.stop();
            done
        }
    }
}

/// The two runtimes of a node; see the crate's documentation.
struct Runtimes {
    control: Runtime,
    data: Runtime,
}

impl Runtimes {
    fn start() -> Result<Self, Error> {
        let start = |name: &str, threads: usize| {
            Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(name)
                .enable_all()
                .build()
                .map_err(|error| Error::other(format!("cannot start threads: {error}")))
        };
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Ok(Runtimes { control: start("control", 2)?, data: start("data", cores.clamp(2, 16))? })
    }

    /// Ends the process's work now: what matters is on disk, and nobody waits for a peer or a broken disk.
    fn stop(self) {
        self.data.shutdown_background();
        self.control.shutdown_background();
    }
}
