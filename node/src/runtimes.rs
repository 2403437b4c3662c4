//! The two runtimes that nodes run on, and the threads that carry bytes; see the crate's documentation for why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Starts the task of a connection that carries chunks, on the thread of the [`Crew`] that has the fewest of them; among
/// the `others` where there are no such threads.
pub(crate) fn carry(task: impl Future<Output = ()> + Send + 'static, others: &Handle) -> AbortHandle {
    let crew = crew();
    let Some(carrier) = crew.0.iter().min_by_key(|carrier| carrier.tasks.load(Ordering::Relaxed)) else {
        return others.spawn(task).abort_handle();
    };
    carrier.tasks.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(&carrier.tasks);
    let task = async move {
        let _counted = counted;
        task.await;
    };
    carrier.runtime.spawn(task).abort_handle()
}

/// Starts the threads that carry chunks, as the first connection would otherwise. They belong to the process and stay: for
/// whoever counts what is left of nodes.
pub fn start_carriers() {
    crew();
}

fn crew() -> &'static Crew {
    static CREW: OnceLock<Crew> = OnceLock::new();
    CREW.get_or_init(Crew::start)
}

/// As many threads as there are cores, for the connections of all nodes of this process, however many these are.
///
/// A connection stays on its thread: what comes wakes that one and no other, and what it works with stays near its core.
/// Like the cores they are there as long as the process.
#[derive(Debug)]
struct Crew(Vec<Carrier>);

#[derive(Debug)]
struct Carrier {
    runtime: Handle,
    tasks: AtomicUsize,
}

/// One of a carrier's tasks, until it is dropped.
struct Counted(&'static AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    fn start() -> Self {
        let start = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let carrier = Carrier { runtime: runtime.handle().clone(), tasks: AtomicUsize::new(0) };
            let work = move || runtime.block_on(std::future::pending::<()>());
            std::thread::Builder::new().name(format!("carrier-{number}")).spawn(work)?;
            std::io::Result::Ok(carrier)
        };
        let started = (0..cores()).map_while(|number| {
            let warn = |error: &std::io::Error| tracing::warn!(%error, "a thread less for connections");
            start(number).inspect_err(warn).ok()
        });
        Crew(started.collect())
    }
}

/// Threads that work where each could keep a core busy.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
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
        Ok(Runtimes { control: start("control", 2)?, data: start("data", cores())? })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn connections_are_spread_over_few_threads_and_end_when_they_are_aborted() {
        let threads = Arc::new(Mutex::new(BTreeSet::new()));
        let (here, mut seen) = tokio::sync::mpsc::channel::<()>(100);
        let tasks: Vec<AbortHandle> = (0..100)
            .map(|_| {
                let (threads, here) = (Arc::clone(&threads), here.clone());
                let task = async move {
                    let name = std::thread::current().name().map(str::to_owned);
                    threads.lock().unwrap().insert(name);
                    let _ = here.send(()).await;
                    std::future::pending::<()>().await;
                };
                carry(task, &Handle::current())
            })
            .collect();
        drop(here);
        for _ in 0..100 {
            seen.recv().await.unwrap();
        }
        assert_eq!(threads.lock().unwrap().len(), cores());
        tasks.iter().for_each(AbortHandle::abort);
        // The last one to end drops the last sender.
        assert_eq!(seen.recv().await, None);
    }
}
