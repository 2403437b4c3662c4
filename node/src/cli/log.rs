//! The log, on stderr. Lines go around a progress bar that is being drawn, never through it.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::args::CommonOptions;

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
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .try_init();
}

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
        // Nobody can be told that stderr is gone.
        let write = || drop(io::stderr().lock().write_all(&self.0));
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
