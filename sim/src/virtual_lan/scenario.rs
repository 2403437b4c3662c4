//! What is to happen in a run, and how it went.

use std::time::Duration;

use ftx_proto::engine::pull::PullStatistics;
use ftx_proto::time::Time;

use super::link::{LinkCount, LinkSpec};
use super::rival::RivalSpec;

/// What is to happen.
#[derive(Debug, Clone, PartialEq)]
pub struct PullScenario {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Who fetches, all over the same last link.
    pub fetches: Vec<FetchSpec>,
    /// Who else sends over it.
    pub rivals: Vec<RivalSpec>,
    /// The link from the switch to the node that fetches.
    pub last: LinkSpec,
    /// When to give up.
    pub until: Time,
    /// Whether to check the engines' invariants at every step.
    pub checked: bool,
}

/// One fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchSpec {
    /// Bytes of the content.
    pub size: u64,
    /// From where it comes.
    pub sources: Vec<SourceSpec>,
    /// Bytes that the receiving socket holds.
    pub buffer: u64,
    /// When it begins.
    pub begins: Time,
}

/// A source and its way to the switch.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceSpec {
    /// The link, which is as good in the one direction as in the other.
    pub link: LinkSpec,
    /// Bytes of the largest datagram that passes, headers of UDP and IP not counted.
    pub datagram_max: usize,
    /// From then on datagrams may only have so many bytes.
    pub shrinks: Option<(Time, usize)>,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq)]
pub struct PullOutcome {
    /// Each fetch.
    pub fetches: Vec<FetchOutcome>,
    /// Bytes that each rival delivered.
    pub rivals: Vec<u64>,
    /// What the last link did.
    pub last: LinkCount,
    /// Stands for everything that happened, in its order.
    pub log: u64,
}

/// How a fetch went.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchOutcome {
    /// When the last chunk was there; `None` if it never was.
    pub done_at: Option<Time>,
    /// Each of its sources.
    pub sources: Vec<SourceOutcome>,
    /// Most bytes that were ever in flight from all of them together.
    pub in_flight_max: u64,
}

/// How it went with a source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceOutcome {
    /// Bytes of the content that it gave.
    pub bytes: u64,
    /// What the engines counted that asked it.
    pub statistics: PullStatistics,
    /// Fragments that its chunks are cut into in the end.
    pub fragments: u8,
    /// How often its lane was given up.
    pub silences: u32,
    /// What its link did.
    pub link: LinkCount,
}

impl SourceSpec {
    /// A source on this link, where the usual datagrams of Ethernet pass.
    pub fn new(link: LinkSpec) -> Self {
        SourceSpec { link, datagram_max: ETHERNET_DATAGRAM_MAX, shrinks: None }
    }
}

impl FetchSpec {
    /// A fetch of so many bytes from these sources, by a node whose system is as it was installed.
    pub fn new(size: u64, sources: Vec<SourceSpec>) -> Self {
        FetchSpec { size, sources, buffer: USUAL_BUFFER, begins: Time::ZERO }
    }
}

impl PullScenario {
    /// One fetch and nothing else.
    pub fn one(seed: u64, fetch: FetchSpec, last: LinkSpec) -> Self {
        let until = Time::ZERO + Duration::from_secs(600);
        PullScenario { seed, fetches: vec![fetch], rivals: Vec::new(), last, until, checked: false }
    }

    /// Bytes a second that its links can carry, all frames counted.
    pub fn rate(&self) -> f64 {
        let sources = self.fetches.iter().flat_map(|fetch| &fetch.sources);
        sources.map(|source| source.link.rate).sum::<f64>().min(self.last.rate)
    }
}

impl PullOutcome {
    /// What all engines counted.
    pub fn statistics(&self) -> PullStatistics {
        let sources = self.fetches.iter().flat_map(|fetch| &fetch.sources);
        sources.fold(PullStatistics::default(), |sum, source| add(sum, source.statistics))
    }

    /// Datagrams of all sources that found a queue full.
    pub fn overflowed(&self) -> u64 {
        let sources = self.fetches.iter().flat_map(|fetch| &fetch.sources);
        self.last.overflowed + sources.map(|source| source.link.overflowed).sum::<u64>()
    }

    /// When the last fetch was done, if all were.
    pub fn done_at(&self) -> Option<Time> {
        self.fetches.iter().map(|fetch| fetch.done_at).collect::<Option<Vec<Time>>>()?.into_iter().max()
    }

    /// Bytes a second of the content of a single fetch, to its end; 0 if it did not come to it.
    pub fn goodput(&self) -> f64 {
        let bytes: u64 =
            self.fetches.iter().flat_map(|fetch| &fetch.sources).map(|source| source.bytes).sum();
        self.done_at().map_or(0.0, |at| bytes as f64 / at.since_origin().as_secs_f64())
    }
}

/// The sum of both.
pub(super) fn add(one: PullStatistics, other: PullStatistics) -> PullStatistics {
    PullStatistics {
        asked: one.asked + other.asked,
        arrived: one.arrived + other.arrived,
        lost: one.lost + other.lost,
        useless: one.useless + other.useless,
        late: one.late + other.late,
        time_outs: one.time_outs + other.time_outs,
    }
}

/// UDP payload of a full frame of Ethernet.
pub const ETHERNET_DATAGRAM_MAX: usize = 1472;

/// What Linux gives a socket that does not ask for more.
pub const USUAL_BUFFER: u64 = 208 << 10;
