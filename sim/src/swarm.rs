//! Many that want the same content at once, and one source that cannot send it to each of them: do they serve each other?
//!
//! Measured twice on the same machine: one fetcher alone, and all together. What they need together, as a multiple of what
//! one needs alone, would be their number if each got everything from the source, and 1 if the source sent each byte once
//! and everybody had it from then on.

use std::time::Duration;

use ftx_node::error::{Code, Error};
use ftx_node::fetch::report::Report;
use tokio::runtime::Handle;

use crate::outcome::{Fetched, Outcome};
use crate::run::{Event, run};
use crate::scenario::{Content, NODES_MAX, Scenario};

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swarm {
    /// How many fetch at once.
    pub nodes: usize,
    /// Bytes a second that the source sends at most.
    pub source_rate: u64,
    /// Bytes of the content.
    pub size: u64,
    /// From what the content is made.
    pub seed: u64,
}

impl Swarm {
    /// Whether it can be run.
    ///
    /// # Errors
    /// [`Code::Usage`] if not.
    pub fn check(&self) -> Result<(), Error> {
        if self.nodes == 0 || self.nodes >= NODES_MAX {
            let message = format!("--nodes {}: from 1 to {} can fetch at once", self.nodes, NODES_MAX - 1);
            return Err(Error::new(Code::Usage, message));
        }
        if self.source_rate == 0 || self.size == 0 {
            return Err(Error::new(Code::Usage, "neither the rate of the source nor the size may be 0"));
        }
        Ok(())
    }

    /// So many that fetch from one source.
    fn scenario(&self, fetchers: usize) -> Scenario {
        Scenario {
            nodes: fetchers + 1,
            sources: 1,
            content: Content::Random(self.size),
            kill: 0,
            liars: 0,
            slow: Vec::new(),
            max_upload: Some(self.source_rate),
            seed: self.seed,
        }
    }

    /// Lets one fetch alone, then all at once.
    ///
    /// # Errors
    /// If it cannot be run. A fetch that fails is not an error, but part of the measurement.
    pub async fn measure(
        &self,
        data: Handle,
        observe: &mut (dyn FnMut(usize, Event<'_>) + Send),
    ) -> Result<Measured, Error> {
        self.check()?;
        let alone = run(&self.scenario(1), data.clone(), &mut |event| observe(1, event)).await?;
        let together = run(&self.scenario(self.nodes), data, &mut |event| observe(self.nodes, event)).await?;
        Ok(Measured { alone, together })
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Of one alone.
    pub alone: Outcome,
    /// Of all at once.
    pub together: Outcome,
}

impl Measured {
    /// How long one alone took.
    pub fn alone_took(&self) -> Option<Duration> {
        last(&self.alone)
    }

    /// How long it took until the last of all had it.
    pub fn together_took(&self) -> Option<Duration> {
        last(&self.together)
    }

    /// That as a multiple of what one needs alone. `None` if a fetch failed.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.together_took()?.as_secs_f64() / self.alone_took()?.as_secs_f64().max(1e-9))
    }

    /// What the source has sent to all together, as a multiple of the content.
    pub fn source_sent(&self) -> f64 {
        let sent: u64 = self.together.sources.iter().map(|fate| fate.sent).sum();
        sent as f64 / self.together.original.size.max(1) as f64
    }

    /// Everything that is not as it should be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.alone.problems();
        problems.extend(self.together.problems());
        problems
    }
}

/// When the last fetch had everything, if all did.
fn last(outcome: &Outcome) -> Option<Duration> {
    let took = |fetched: &Fetched| fetched.result.as_ref().ok().map(|report: &Report| report.elapsed);
    outcome.fetches.iter().map(took).try_fold(Duration::ZERO, |last, took| Some(last.max(took?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let good = Swarm { nodes: 8, source_rate: 1, size: 1, seed: 1 };
        assert!(good.check().is_ok());
        assert!(good.scenario(8).roles().is_ok());
        let bad = [
            Swarm { nodes: 0, ..good },
            Swarm { nodes: NODES_MAX, ..good },
            Swarm { source_rate: 0, ..good },
            Swarm { size: 0, ..good },
        ];
        for swarm in bad {
            assert!(matches!(swarm.check(), Err(Error { code: Code::Usage, .. })), "{swarm:?}");
        }
    }
}
