//! What all nodes of the process share: two runtimes, and the process's limit of open files.

use ftx_node::error::Error;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle, Runtime};

/// The runtimes of all nodes: one for actors, one for connections (see [`ftx_node`]).
#[derive(Debug)]
pub struct Runtimes {
    control: Runtime,
    data: Runtime,
}

impl Runtimes {
    /// Starts the threads, and allows the process as many open files as it may have.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start() -> Result<Self, Error> {
        raise_open_files();
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

    /// Where the nodes' connections do their work.
    pub fn data(&self) -> Handle {
        self.data.handle().clone()
    }

    /// Runs something to its end, on the runtime of the actors.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.control.block_on(future)
    }

    /// Ends all work now; nothing of it is to be kept.
    pub fn stop(self) {
        self.data.shutdown_background();
        self.control.shutdown_background();
    }
}

/// A node has about a dozen files open, and two for each connection within the process; the usual soft limit of 1024
/// is not enough for fifty nodes.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Where it cannot be raised, a run that needs more says so by its failures.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
