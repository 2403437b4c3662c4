//! The command line of `ftx-sim`: what is said, what is shown, and the exit status.
//!
//! Results go to stdout, the progress bar to stderr; with `--json`, stdout has one object a line, of which the last is
//! `done` or `error`. The exit status is 0 only if every fetch ended with the right bytes.

mod args;
mod json;
mod people;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ftx_node::error::{Code, Error};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::outcome::Outcome;
use crate::run::{Event, run};
use crate::scenario::{Content, Scenario};
use crate::threads;
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
    start_log();
    let mut display: Box<dyn Display> =
        if options.json { Box::new(json::Lines) } else { Box::new(people::Text::new()) };
    match simulate(&options, display.as_mut()) {
        Ok(right) => ExitCode::from(if right { 0 } else { Code::Other.exit_status() }),
        Err(error) => {
            display.failed(&error);
            ExitCode::from(match error.code {
                Code::Usage | Code::Interrupted => error.code.exit_status(),
                _ => Code::Other.exit_status(),
            })
        }
    }
}

/// Where a run is shown.
trait Display: Send {
    /// Says what is going to happen.
    fn begin(&mut self, scenario: &Scenario);

    /// Something has happened.
    fn event(&mut self, event: &Event<'_>);

    /// It is over.
    fn end(&mut self, outcome: &Outcome);

    /// It could not be run.
    fn failed(&mut self, error: &Error);
}

/// Whether everything was right in the end.
fn simulate(options: &Options, display: &mut dyn Display) -> Result<bool, Error> {
    let scenario = match &options.command {
        None => Scenario::demonstration(DEMONSTRATION_BYTES, options.seed),
        Some(Command::Loopback(loopback)) => loopback.scenario(options.seed)?,
    };
    // What cannot be run is refused before anything is said.
    scenario.roles()?;
    if let Content::File(path) = &scenario.content
        && !path.is_file()
    {
        return Err(Error::new(Code::Usage, format!("--file {}: there is no such file", path.display())));
    }
    let runtimes = threads::start()?;
    display.begin(&scenario);
    let data = runtimes.data();
    let outcome = runtimes.block_on(async {
        let mut observe = |event: Event<'_>| display.event(&event);
        tokio::select! {
            // Watched for from the first moment on, or a signal might find the folder there and end the process.
            biased;
            error = interrupted() => Err(error),
            // Dropped by the other branch, it takes its nodes and its folder with it.
            outcome = run(&scenario, data, &mut observe) => outcome,
        }
    });
    runtimes.stop();
    let outcome = outcome?;
    display.end(&outcome);
    Ok(outcome.problems().is_empty())
}

/// Returns when the user does not want to wait any more.
async fn interrupted() -> Error {
    let failed = |error| Error::other(format!("cannot watch for signals: {error}"));
    let (mut interrupt, mut terminate) =
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => return failed(error),
        };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Error::new(Code::Interrupted, "interrupted; everything is cleaned up")
}

/// The nodes' own logs, for whoever asks for them with `FTX_LOG` (`info`, `ftx_node::actors=debug`).
fn start_log() {
    if let Ok(filter) = EnvFilter::try_from_env("FTX_LOG") {
        // A second start in one process keeps the first log.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}

/// Writes a line at once. A reader that went away is no reason to panic, and nothing else can be done about it.
fn write_line(line: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// What the demonstration moves: long enough to be seen, short enough to be waited for.
const DEMONSTRATION_BYTES: u64 = 256 << 20;
