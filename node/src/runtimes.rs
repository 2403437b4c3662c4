//! The two runtimes that nodes run on; see the crate's documentation for why.

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::Error;

/// One for actors, one for connections; any number of nodes may share them.
#[derive(Debug)]
pub struct Runtimes {
    control: Runtime,
    data: Runtime,
}

impl Runtimes {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start() -> Result<Self, Error> {
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

    /// Where connections do their work: the `data` of [`Node::start`](crate::Node::start).
    pub fn data(&self) -> Handle {
        self.data.handle().clone()
    }

    /// Runs something to its end, on the runtime of the actors.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.control.block_on(future)
    }

    /// Ends all work now: what matters is on disk, and nobody waits for a peer or a broken disk.
    pub fn stop(self) {
        self.data.shutdown_background();
        self.control.shutdown_background();
    }
}
