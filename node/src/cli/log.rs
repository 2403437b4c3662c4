//! The log, on stderr. Lines go around a progress bar that is being drawn, never through it.
//!
//! Names, reasons and errors in it may come from anybody. Whatever they hold, an entry is one line, and writes nothing to
//! the terminal but text: what else is in it is shown as escapes, here, so that no place that logs has to think of it.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ftx_proto::name::printable;
use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::args::CommonOptions;
use crate::throttle::Throttle;

/// The bar that is being drawn, if any.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// From now on log lines go around this bar.
pub(super) fn draw_around(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Starts logging, as much as the options want; `FTX_LOG` may say more exactly what (`info,ftx_node::net=trace`).
pub(super) fn start(options: &CommonOptions) {
    let level = match (options.quiet, options.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        (_, _) => "trace",
    };
    // Other crates' debug output is only for those who ask for everything.
    let default = if options.verbose > 2 { level.to_owned() } else { format!("warn,ftx_node={level}") };
    let filter = EnvFilter::try_from_env("FTX_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // A second start in one process (a program with a node inside) keeps the first log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AroundTheBar)
        .with_ansi(false)
        .with_target(false)
        .try_init();
    throttle_panics();
}

/// A panic ends only the work on what made it. Should somebody outside find out how to make one, it comes as often as that
/// one likes, and must not fill the disk with the log.
fn throttle_panics() {
    let (tell, throttle) = (std::panic::take_hook(), Throttle::new(PANICS_TOLD_MAX, PANICS_INTERVAL));
    std::panic::set_hook(Box::new(move |panic| match throttle.pass() {
        None => {}
        Some(0) => tell(panic),
        Some(others) => {
            tell(panic);
            tracing::error!(others, "there were more panics than are told");
        }
    }));
}

/// How many panics are told in a time.
const PANICS_TOLD_MAX: u64 = 20;
const PANICS_INTERVAL: Duration = Duration::from_secs(60);

struct AroundTheBar;

impl<'a> MakeWriter<'a> for AroundTheBar {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// One line, written when it is complete.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = fit(&self.0, io::IsTerminal::is_terminal(&io::stderr()));
        // Nobody can be told that stderr is gone.
        let write = || drop(io::stderr().lock().write_all(line.as_bytes()));
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// An entry as one line of text, of which a terminal shows the level in its colour.
fn fit(entry: &[u8], colourful: bool) -> String {
    let text = String::from_utf8_lossy(entry);
    let text = printable(text.strip_suffix('\n').unwrap_or(&text)).to_string();
    if colourful {
        for (level, colour) in [("ERROR", 31), ("WARN", 33), ("INFO", 32), ("DEBUG", 34), ("TRACE", 35)] {
            // Time, level, and what is said: the first two are ours.
            if let Some((time, said)) = text.split_once(level)
                && time.len() <= TIME_LEN_MAX
            {
                return format!("\x1b[2m{time}\x1b[0m\x1b[{colour}m{level}\x1b[0m{said}\n");
            }
        }
    }
    text + "\n"
}

/// Longest time at the beginning of an entry, with the spaces behind it.
const TIME_LEN_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &[u8] =
        b"2026-11-22T07:00:00.000000Z  WARN \x1b[31mred\x07\nforged ERROR\r\xff \xc2\x9b2J\n";

    #[test]
    fn an_entry_is_one_line_of_text_whatever_is_in_it() {
        let line = fit(ENTRY, false);
        let said = "\\u{1b}[31mred\\u{7}\\nforged ERROR\\r\u{fffd} \\u{9b}2J";
        assert_eq!(line, format!("2026-11-22T07:00:00.000000Z  WARN {said}\n"));
    }

    #[test]
    fn on_a_terminal_only_the_level_has_a_colour() {
        let line = fit(ENTRY, true);
        let (before, said) = line.split_once("WARN").unwrap();
        assert_eq!(before, "\x1b[2m2026-11-22T07:00:00.000000Z  \x1b[0m\x1b[33m");
        let said = said.strip_prefix("\x1b[0m").unwrap().strip_suffix('\n').unwrap();
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}
