//! Chunks that are on this machine already, in older versions of what is fetched: landed like what arrives from a source.

use std::sync::Arc;

use ftx_proto::engine::fetch::Input;
use ractor::ActorRef;
use tokio::sync::Semaphore;

use super::landing::Landing;
use crate::actors::fetcher::FetcherMessage;
use crate::store::{FoundRun, StoreError};

/// Runs of chunks, each of one piece, that may be right. Taking the next one blocks on the disk.
pub struct FoundRuns(pub Box<dyn Iterator<Item = FoundRun> + Send>);

impl std::fmt::Debug for FoundRuns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FoundRuns")
    }
}

/// Lands all of it, and tells the fetcher what was landed; at the end that nothing more will be.
pub async fn search(runs: FoundRuns, landing: Arc<Landing>, fetcher: ActorRef<FetcherMessage>) {
    let permits = Arc::new(Semaphore::new(WAITING_MAX));
    let mut runs = runs.0;
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let landing = Arc::clone(&landing);
        let next = tokio::task::spawn_blocking(move || {
            let landed = runs.next().map(|run| land(&landing, &run));
            (landed, runs)
        });
        // If it panicked, what it would have found is fetched.
        let Ok((Some(landed), rest)) = next.await else { break };
        runs = rest;
        let facts = match landed {
            Ok(facts) => facts,
            Err(error) => {
                let _ = fetcher.cast(FetcherMessage::StoreFailed(error));
                return;
            }
        };
        let permit = Arc::new(permit);
        for fact in facts {
            if fetcher.cast(FetcherMessage::Found(fact, Arc::clone(&permit))).is_err() {
                return;
            }
        }
    }
    let _ = fetcher.cast(FetcherMessage::Fact(Input::Searched));
}

/// What to tell of a run: the chunks of it that nobody had landed before.
fn land(landing: &Landing, run: &FoundRun) -> Result<Vec<Input>, StoreError> {
    let leaves = landing.land(run.span, &run.bytes)?;
    let mut facts: Vec<Input> = Vec::new();
    let mut goes_on = false;
    for (chunk, leaf) in run.span.chunks().zip(leaves) {
        match (leaf, facts.last_mut()) {
            (Some(leaf), Some(Input::Found { leaves, .. })) if goes_on => leaves.push(leaf),
            (Some(leaf), _) => facts.push(Input::Found { first: chunk, leaves: vec![leaf] }),
            (None, _) => {}
        }
        goes_on = leaf.is_some();
    }
    Ok(facts)
}

/// Most runs that wait for the fetcher.
const WAITING_MAX: usize = 64;
