//! The two runtimes that nodes run on; see the crate's documentation for why.

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::error::Error;

/// A thread of its own, for a task that carries datagrams.
///
/// Where several threads wait for the system together, every datagram that comes wakes one of them, though the task that
/// it is for is at work and will look by itself. Here nobody waits meanwhile.
#[derive(Debug)]
pub(crate) struct Apart {
    runtime: Handle,
    /// To the thread, which ends with the task.
    task: Option<oneshot::Sender<JoinHandle<()>>>,
}

impl Apart {
    /// Starts the thread. Where there is none, the task runs with the `others`.
    pub(crate) fn start(name: &str, others: &Handle) -> Self {
        let started = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let handle = runtime.handle().clone();
            let (task, given) = oneshot::channel::<JoinHandle<()>>();
            let work = move || {
                runtime.block_on(async {
                    if let Ok(task) = given.await {
                        let _ = task.await;
                    }
                });
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
            Ok(Apart { runtime: handle, task: Some(task) })
        });
        started.unwrap_or_else(|error| {
            tracing::warn!(%error, "no thread for datagrams");
            Apart { runtime: others.clone(), task: None }
        })
    }

    /// Within this, sockets of the task are opened.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Gives the thread its task.
    pub(crate) fn run(self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let task = self.runtime.spawn(task);
        let abort = task.abort_handle();
        if let Some(thread) = self.task {
            // It waits for this.
            let _ = thread.send(task);
        }
        abort
    }
}

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
