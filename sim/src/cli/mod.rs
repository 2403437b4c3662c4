//! The command line of `ftx-sim`: what is said, what is shown, and the exit status.
//!
//! Results go to stdout, the progress bar to stderr; with `--json`, stdout has one object a line, of which the last is
//! `done` or `error`. The exit status is 0 only if every fetch ended with the right bytes.

mod args;
mod json;
mod lan;
mod people;
mod soak;
mod swarm;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use ftx_node::error::{Code, Error};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::lan::LanError;
use crate::lan::process::{NODE_NAME, end_with_parent};
use crate::outcome::Outcome;
use crate::run::{Event, run};
use crate::scenario::{Content, Scenario};
use crate::soak::{Figures, Soak};
use crate::threads;
use args::{Command, Options};
use lan::LanOptions;
use swarm::SwarmOptions;

/// Runs the command that the process was started with.
///
/// Called by the name of the node, it is the node: that is what `lan` runs on its hosts.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == NODE_NAME) {
        end_with_parent();
        return ftx_node::cli::main();
    }
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Help and version are no errors; clap knows where each belongs.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage.exit_status() } else { 0 });
        }
    };
    match &options.command {
        Some(Command::ServeFile { path, addr }) => return serve_file(path, *addr),
        Some(Command::Lan(lan)) => {
            start_log();
            return measure(lan, options.seed, options.json);
        }
        Some(Command::Swarm(swarm)) => {
            start_log();
            return measure_swarm(swarm, options.seed, options.json);
        }
        Some(Command::Loopback(loopback)) => {
            start_log();
            match loopback.soak(options.seed) {
                Ok(None) => {}
                Ok(Some(soak)) => return watch(&soak, options.json),
                Err(error) => return refused(options.json, &error),
            }
        }
        None => start_log(),
    }
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
        Some(Command::Loopback(loopback)) => loopback.scenario(options.seed)?,
        _ => Scenario::demonstration(DEMONSTRATION_BYTES, options.seed),
    };
    checked(&scenario)?;
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

/// `ftx-sim loopback --soak`.
fn watch(soak: &Soak, json: bool) -> ExitCode {
    let display = soak::Display { json };
    let outcome = checked(&soak.scenario).and_then(|()| {
        let runtimes = threads::start()?;
        display.begin(soak);
        let data = runtimes.data();
        let outcome = runtimes.block_on(async {
            let mut observe = |figures: &Figures| display.figures(figures);
            tokio::select! {
                biased;
                error = interrupted() => Err(error),
                outcome = crate::soak::soak(soak, data, &mut observe) => outcome,
            }
        });
        runtimes.stop();
        outcome
    });
    match outcome {
        Ok(outcome) => {
            display.end(&outcome);
            if outcome.problems.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(Code::Other.exit_status())
            }
        }
        Err(error) => refused(json, &error),
    }
}

/// Says why nothing can be run, or why it was not run to its end.
fn refused(json: bool, error: &Error) -> ExitCode {
    soak::Display { json }.failed(error);
    ExitCode::from(match error.code {
        Code::Usage | Code::Interrupted => error.code.exit_status(),
        _ => Code::Other.exit_status(),
    })
}

/// What cannot be run is refused before anything is said.
fn checked(scenario: &Scenario) -> Result<(), Error> {
    scenario.roles()?;
    if let Content::File(path) = &scenario.content
        && !path.is_file()
    {
        return Err(Error::new(Code::Usage, format!("--file {}: there is no such file", path.display())));
    }
    Ok(())
}

/// `ftx-sim lan`.
fn measure(options: &LanOptions, seed: u64, json: bool) -> ExitCode {
    let scenario = match options.scenario(seed) {
        Ok(scenario) => scenario,
        Err(error) => return failed(json, error.code.as_str(), &error.message, error.code.exit_status()),
    };
    let runtimes = match threads::start() {
        Ok(runtimes) => runtimes,
        Err(error) => return failed(json, error.code.as_str(), &error.message, Code::Other.exit_status()),
    };
    let mut display = lan::Display::new(json, &scenario);
    let outcomes = runtimes.block_on(async {
        let mut observe = |event: lan::Event<'_>| display.event(&event);
        tokio::select! {
            biased;
            error = interrupted() => Err(Err(error)),
            // Dropped by the other branch, it takes its network and its processes with it.
            outcomes = crate::lan::run::run(&scenario, options.node.as_deref(), &mut observe) => outcomes.map_err(Ok),
        }
    });
    runtimes.stop();
    match outcomes {
        Ok(outcomes) if display.end(&outcomes) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(Code::Other.exit_status()),
        Err(Err(error)) => failed(json, error.code.as_str(), &error.message, error.code.exit_status()),
        Err(Ok(error @ LanError::Unavailable(_))) => {
            failed(json, "unavailable", &error.to_string(), UNAVAILABLE_STATUS)
        }
        Err(Ok(error)) => failed(json, Code::Other.as_str(), &error.to_string(), Code::Other.exit_status()),
    }
}

/// `ftx-sim swarm`.
fn measure_swarm(options: &SwarmOptions, seed: u64, json: bool) -> ExitCode {
    let measured = options.swarm(seed).and_then(|swarm| {
        let runtimes = threads::start()?;
        let mut display = swarm::Display::new(json, swarm);
        let data = runtimes.data();
        let measured = runtimes.block_on(async {
            let mut observe = |fetchers: usize, event: Event<'_>| display.event(fetchers, &event);
            tokio::select! {
                biased;
                error = interrupted() => Err(error),
                measured = swarm.measure(data, &mut observe) => measured,
            }
        });
        runtimes.stop();
        Ok(display.end(&measured?))
    });
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(Code::Other.exit_status()),
        Err(error) => {
            swarm::Display::failed(json, &error);
            ExitCode::from(match error.code {
                Code::Usage | Code::Interrupted => error.code.exit_status(),
                _ => Code::Other.exit_status(),
            })
        }
    }
}

/// Says why there is nothing to show.
fn failed(json: bool, code: &str, message: &str, status: u8) -> ExitCode {
    lan::failed(json, code, message);
    ExitCode::from(status)
}

/// What `lan` measures TCP with; it lives no longer than that.
fn serve_file(path: &Path, addr: SocketAddr) -> ExitCode {
    end_with_parent();
    let ready = |addr: SocketAddr| {
        let fields = serde_json::json!({ "addr": addr.to_string() });
        write_line(format_args!("{}", ftx_node::cli::json::object("ready", fields)));
    };
    match crate::lan::http::serve(path, addr, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ftx-sim: cannot serve {} at {addr}: {error}", path.display());
            ExitCode::from(Code::Other.exit_status())
        }
    }
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

/// The exit status where there can be no network of namespaces: that of a test that was skipped, with other tools.
const UNAVAILABLE_STATUS: u8 = 77;
