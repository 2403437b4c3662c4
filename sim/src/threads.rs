//! What all nodes of the process share: its runtimes, and its limit of open files.

use ftx_node::error::Error;
pub use ftx_node::runtimes::Runtimes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Starts the threads of all nodes, and allows the process as many open files as it may have.
///
/// # Errors
/// If the system gives no threads.
pub fn start() -> Result<Runtimes, Error> {
    raise_open_files();
    Runtimes::start()
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
