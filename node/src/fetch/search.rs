//! Chunks that are on this machine already, in older versions of what is fetched: landed like what arrives from a source.

use std::sync::Arc;

use ftx_proto::engine::fetch::Input;
use ractor::ActorRef;
use tokio::sync::Semaphore;

use super::landing::Landing;
use crate::actors::fetcher::FetcherMessage;
use crate::store::{Found, FoundRun, StoreError};

/// Lands all of it, and tells the fetcher what was landed; at the end that nothing more will be.
pub async fn search(mut found: Found, landing: Arc<Landing>, fetcher: ActorRef<FetcherMessage>) {
    let permits = Arc::new(Semaphore::new(WAITING_MAX));
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let landing = Arc::clone(&landing);
        let next = tokio::task::spawn_blocking(move || {
            let landed = land_some(&landing, &mut found);
            (landed, found)
        });
        // If it panicked, what it would have found is fetched.
        let Ok((landed, rest)) = next.await else { break };
        found = rest;
        let facts = match landed {
            Ok(Some(facts)) => facts,
            Ok(None) => break,
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

/// Lands the next runs, as many as are worth the way to another thread and back; what to tell of them, unless there are
/// none any more.
fn land_some(landing: &Landing, found: &mut Found) -> Result<Option<Vec<Input>>, StoreError> {
    let (mut facts, mut runs, mut bytes) = (Vec::new(), 0, 0);
    while runs < BATCH_RUNS && bytes < BATCH_BYTES {
        let Some(run) = found.next() else { break };
        facts.extend(land(landing, &run)?);
        runs += 1;
        bytes += run.bytes.len();
    }
    Ok((runs > 0).then_some(facts))
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

/// Most runs, and about how many bytes, that are landed together.
const BATCH_RUNS: usize = 64;
const BATCH_BYTES: usize = 4 << 20;

/// Most of these that wait for the fetcher.
const WAITING_MAX: usize = 4;
