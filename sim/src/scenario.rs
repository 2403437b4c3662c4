//! What is to happen in a run, and, from a seed, to whom and when.

use std::path::PathBuf;

use ftx_node::error::{Code, Error};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Most nodes in one process: beyond, they only fight for its threads.
pub const NODES_MAX: usize = 250;

/// What is to happen in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Nodes in all.
    pub nodes: usize,
    /// How many of them share the content; the others fetch it, all at once.
    pub sources: usize,
    /// The content.
    pub content: Content,
    /// How many sources are killed in the middle.
    pub kill: usize,
    /// How many sources send wrong bytes in good faith.
    pub liars: usize,
    /// For each slow source the bytes per second that it sends at most.
    pub slow: Vec<u64>,
    /// What every other source sends at most, in bytes per second.
    pub max_upload: Option<u64>,
    /// From what everything that is chosen by chance is chosen.
    pub seed: u64,
}

/// What the nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// So many bytes, made from the seed.
    Random(u64),
    /// This file.
    File(PathBuf),
}

/// What becomes of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Honest,
    /// It is killed once this many thousandths of all that is to be fetched are there.
    Killed {
        /// Of all bytes of all fetches.
        after_per_mille: u64,
    },
    /// Its disk rots after it has hashed the content.
    Liar,
    /// It sends no more than this.
    Slow {
        /// Bytes per second.
        rate: u64,
    },
}

impl Scenario {
    /// Five nodes, of which four share the content and one fetches it.
    pub fn demonstration(size: u64, seed: u64) -> Self {
        let content = Content::Random(size);
        Scenario {
            nodes: 5,
            sources: 4,
            content,
            kill: 0,
            liars: 0,
            slow: Vec::new(),
            max_upload: None,
            seed,
        }
    }

    /// The role of each source. The same for the same scenario.
    ///
    /// # Errors
    /// [`Code::Usage`] if the numbers do not fit together.
    pub fn roles(&self) -> Result<Vec<Role>, Error> {
        self.check()?;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let killed =
            (0..self.kill).map(|_| Role::Killed { after_per_mille: random.random_range(KILLED_PER_MILLE) });
        let mut roles: Vec<Role> = killed.collect();
        roles.extend((0..self.liars).map(|_| Role::Liar));
        roles.extend(self.slow.iter().map(|rate| Role::Slow { rate: *rate }));
        roles.resize(self.sources, Role::Honest);
        roles.shuffle(&mut random);
        Ok(roles)
    }

    fn check(&self) -> Result<(), Error> {
        let Scenario { nodes, sources, kill, liars, .. } = *self;
        let slow = self.slow.len();
        let wrong = |message: String| Err(Error::new(Code::Usage, message));
        if nodes > NODES_MAX {
            return wrong(format!(
                "{nodes} nodes are more than fit into one process; at most {NODES_MAX} do"
            ));
        }
        if sources == 0 || sources >= nodes {
            return wrong(format!(
                "of {nodes} nodes {sources} share: there must be one that does and one that does not"
            ));
        }
        if kill.saturating_add(liars).saturating_add(slow) > sources {
            return wrong(format!(
                "{sources} sources are too few for {kill} that are killed, {liars} that lie and {slow} that are slow: no \
                 source is two of these"
            ));
        }
        if kill + liars == sources {
            return wrong(format!(
                "all {sources} sources are killed or lie; one must be left that is honest, or nobody can fetch anything"
            ));
        }
        Ok(())
    }
}

/// Sources die in the first part of a fetch: what they would have sent is missed then.
const KILLED_PER_MILLE: std::ops::Range<u64> = 50..500;

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Scenario {
        Scenario {
            nodes: 20,
            sources: 15,
            content: Content::Random(1),
            kill: 4,
            liars: 3,
            slow: vec![7, 8],
            max_upload: None,
            seed: 1,
        }
    }

    #[test]
    fn every_role_is_given_as_often_as_it_is_asked_for() {
        let roles = scenario().roles().unwrap();
        let count = |wanted: fn(&Role) -> bool| roles.iter().filter(|role| wanted(role)).count();
        assert_eq!(roles.len(), 15);
        assert_eq!(count(|role| matches!(role, Role::Killed { .. })), 4);
        assert_eq!(count(|role| *role == Role::Liar), 3);
        assert_eq!(count(|role| matches!(role, Role::Slow { rate: 7 | 8 })), 2);
        assert_eq!(count(|role| *role == Role::Honest), 6);
    }

    #[test]
    fn the_seed_decides_who_and_when() {
        assert_eq!(scenario().roles().unwrap(), scenario().roles().unwrap());
        let other = Scenario { seed: 2, ..scenario() };
        assert_ne!(other.roles().unwrap(), scenario().roles().unwrap());
    }

    #[test]
    fn what_cannot_succeed_is_refused() {
        let refused = |change: fn(&mut Scenario)| {
            let mut scenario = scenario();
            change(&mut scenario);
            matches!(scenario.roles(), Err(Error { code: Code::Usage, .. }))
        };
        assert!(refused(|scenario| scenario.sources = 0));
        assert!(refused(|scenario| scenario.sources = 20));
        assert!(refused(|scenario| scenario.nodes = NODES_MAX + 1));
        assert!(refused(|scenario| scenario.kill = 11));
        assert!(refused(|scenario| scenario.kill = usize::MAX));
        assert!(refused(|scenario| (scenario.kill, scenario.liars, scenario.slow) = (8, 7, vec![])));
        assert!(!refused(|scenario| (scenario.kill, scenario.liars, scenario.slow) = (8, 6, vec![1])));
    }
}
