//! What came of a run, and what of it is not as it should be.
//!
//! The simulator knows more than its nodes do: who lied, who was killed, what the bytes should be. So it can tell not
//! only whether a file is right, but also whether the right nodes were blamed.

use std::time::Duration;

use ftx_node::error::Error;
use ftx_node::fetch::report::{Report, SourceReport, SourceState};
use ftx_proto::digest::{NodeId, Root};

use crate::original::Original;
use crate::scenario::Role;

/// A fetch that has ended.
#[derive(Debug)]
pub struct Fetched {
    /// The node that fetched.
    pub name: String,
    /// What the node says of it.
    pub result: Result<Report, Error>,
    /// What is wrong with the bytes, if anything is; `None` also if there are none.
    pub wrong: Option<String>,
}

/// A source, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFate {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: NodeId,
    /// What was planned for it.
    pub role: Role,
    /// If it was killed: the bytes that were there of all fetches then.
    pub killed_at: Option<u64>,
    /// Bytes of chunks that it has sent to all together, also those that nobody needed any more.
    pub sent: u64,
}

/// A run that is over.
#[derive(Debug)]
pub struct Outcome {
    /// The content.
    pub original: Original,
    /// Its root.
    pub root: Option<Root>,
    /// From the first search to the last byte.
    pub elapsed: Duration,
    /// All sources.
    pub sources: Vec<SourceFate>,
    /// All fetches.
    pub fetches: Vec<Fetched>,
}

impl Outcome {
    /// Everything that is not as it should be; nothing if the run was right.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for Fetched { name, result, wrong } in &self.fetches {
            match result {
                Err(error) => problems.push(format!("{name}: {error}")),
                Ok(report) => {
                    problems
                        .extend(wrong.iter().map(|wrong| format!("{name} fetched something else: {wrong}")));
                    problems.extend(report.sources.iter().filter_map(|source| {
                        let wrong = self.misjudged(source)?;
                        Some(format!("{name}: {} {wrong}", source.name))
                    }));
                }
            }
        }
        problems
    }

    /// What a fetch got wrong about a source, given what is known of it here.
    fn misjudged(&self, source: &SourceReport) -> Option<&'static str> {
        let fate = self.sources.iter().find(|fate| fate.id == source.node);
        let dropped = matches!(source.state, SourceState::Dropped(_));
        match fate.map(|fate| fate.role) {
            // Not a single chunk of it is right.
            Some(Role::Liar) if source.bytes > 0 => {
                Some("has nothing right, but is said to have sent verified bytes")
            }
            Some(Role::Liar) if source.bad > 0 && !dropped => Some("sent wrong bytes, but was not dropped"),
            Some(Role::Liar) => None,
            _ if source.bad > 0 => Some("is honest, but is said to have sent wrong bytes"),
            _ => None,
        }
    }

    /// What each node sent in all fetches together, sources first, in their order.
    pub fn sent(&self) -> Vec<(SourceReport, Option<&SourceFate>)> {
        let mut sent: Vec<(SourceReport, Option<&SourceFate>)> = Vec::new();
        for report in self.fetches.iter().filter_map(|fetched| fetched.result.as_ref().ok()) {
            for source in &report.sources {
                match sent.iter_mut().find(|(known, _)| known.node == source.node) {
                    Some((known, _)) => {
                        known.bytes += source.bytes;
                        known.chunks += source.chunks;
                        known.retransmitted += source.retransmitted;
                        known.bad += source.bad;
                    }
                    None => {
                        let fate = self.sources.iter().find(|fate| fate.id == source.node);
                        sent.push((source.clone(), fate));
                    }
                }
            }
        }
        sent.sort_by_key(|(source, fate)| (fate.is_none(), source.name.len(), source.name.clone()));
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_proto::digest::Instance;
    use ftx_proto::engine::pull::choice::LaneKind;

    fn outcome(role: Role, bytes: u64, bad: u64, state: SourceState, wrong: Option<&str>) -> Outcome {
        let id = NodeId([1; 32]);
        let source = SourceReport {
            node: id,
            instance: Instance(1),
            name: "node-1".to_owned(),
            addr: ([127, 0, 0, 1], 1).into(),
            bytes,
            chunks: 1,
            retransmitted: 0,
            bad,
            state,
            lane: LaneKind::Stream,
            lane_reason: String::new(),
            fragments_again: 0,
        };
        let report = Report {
            path: "file".into(),
            size: 10,
            root: Root([2; 32]),
            elapsed: Duration::from_secs(1),
            resumed: 0,
            sources: vec![source],
        };
        Outcome {
            original: Original { path: "file".into(), size: 10, sha256: [3; 32] },
            root: Some(report.root),
            elapsed: report.elapsed,
            sources: vec![SourceFate { name: "node-1".to_owned(), id, role, killed_at: None, sent: 0 }],
            fetches: vec![Fetched {
                name: "node-2".to_owned(),
                result: Ok(report),
                wrong: wrong.map(str::to_owned),
            }],
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let dropped = || SourceState::Dropped("it lied".to_owned());
        let right = [
            outcome(Role::Honest, 10, 0, SourceState::Joined, None),
            outcome(Role::Liar, 0, 3, dropped(), None),
            outcome(Role::Liar, 0, 0, SourceState::Joined, None),
        ];
        for outcome in right {
            assert_eq!(outcome.problems(), Vec::<String>::new(), "{outcome:?}");
        }
        let wrong = [
            outcome(Role::Honest, 10, 0, SourceState::Joined, Some("it has 9 bytes")),
            outcome(Role::Honest, 10, 1, SourceState::Joined, None),
            outcome(Role::Liar, 10, 0, SourceState::Joined, None),
            outcome(Role::Liar, 0, 3, SourceState::Joined, None),
            outcome(Role::Slow { rate: 1 }, 10, 1, dropped(), None),
        ];
        for outcome in wrong {
            assert_eq!(outcome.problems().len(), 1, "{outcome:?}");
        }
        let mut failed = outcome(Role::Honest, 10, 0, SourceState::Joined, None);
        failed.fetches[0].result = Err(Error::other("no"));
        assert_eq!(failed.problems(), ["node-2: no"]);
    }
}
