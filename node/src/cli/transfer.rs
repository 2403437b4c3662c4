//! A transfer with an older system, on the screen: its progress, the user's wish to stop it, and what came of it.

use std::time::Duration;

use ftx_proto::name::printable;
use tokio::task::{JoinError, JoinHandle};

use super::args::CommonOptions;
use super::get::Interrupt;
use super::json::Output;
use super::progress::{Display, EVENT_INTERVAL};
use crate::error::{Code, Error};
use crate::interop::meter::Meter;

/// A transfer that is under way.
pub(super) struct Transfer<T, S> {
    /// What comes of it.
    pub(super) task: JoinHandle<Result<T, Error>>,
    /// Ends the task early.
    pub(super) stop: S,
    /// What is left when it was stopped, to be said to whoever did it.
    pub(super) left: &'static str,
}

/// What is left of a transfer that goes on where it was.
pub(super) const GOES_ON: &str = "the same command goes on from what is kept of it";

/// What is left of one that does not.
pub(super) const NOTHING: &str = "nothing was kept";

impl<T, S: Fn()> Transfer<T, S> {
    /// Shows it until it is done, or the user does not want it any more.
    pub(super) async fn show(
        mut self,
        what: &str,
        meter: &Meter,
        common: &CommonOptions,
        output: &Output,
    ) -> Result<T, Error> {
        let mut display = Display::new(printable(what).to_string(), common, *output);
        let interrupt = Interrupt::new()?;
        let mut ticks = tokio::time::interval(EVENT_INTERVAL);
        loop {
            tokio::select! {
                done = &mut self.task => {
                    display.transferring(&meter.read());
                    return joined(done);
                }
                _ = ticks.tick() => display.transferring(&meter.read()),
                () = interrupt.wait() => {
                    (self.stop)();
                    // What it holds is let go, and what is not to stay is removed, before the process ends.
                    return match self.task.await {
                        // It was faster.
                        Ok(Ok(done)) => Ok(done),
                        _ => Err(Error::new(Code::Interrupted, format!("interrupted; {}", self.left))),
                    };
                }
            }
        }
    }
}

/// What came of a task that needs no progress to be shown.
pub(super) async fn finished<T>(task: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    let interrupt = Interrupt::new()?;
    tokio::select! {
        done = task => joined(done),
        () = interrupt.wait() => Err(Error::new(Code::Interrupted, "interrupted")),
    }
}

fn joined<T>(done: Result<Result<T, Error>, JoinError>) -> Result<T, Error> {
    done.unwrap_or_else(|error| Err(Error::other(format!("the transfer's task failed: {error}"))))
}

/// Bytes for each second of so long a time.
pub(super) fn per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / elapsed.as_secs_f64().max(1e-6)
}
