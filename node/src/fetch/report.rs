//! What is told of a fetch: while it runs, and when it is done.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId, Root};
use ftx_proto::engine::pull::choice::LaneKind;

/// A fetch, as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes of the content.
    pub size: u64,
    /// Bytes that are verified.
    pub bytes: u64,
    /// Of these, bytes that were there from an earlier try.
    pub resumed: u64,
    /// Bytes that are verified, synced and in the journal: a crash of the machine would not lose them.
    pub safe: u64,
    /// Everybody who took part so far.
    pub sources: Vec<SourceReport>,
}

/// What a fetch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No source is connected (any more).
    Waiting,
    /// The hashes of the pieces are asked for.
    Describing,
    /// Chunks are coming in.
    Fetching,
    /// Everything is verified; it is being synced to disk and named.
    Finishing,
}

impl Phase {
    /// The word for it in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Describing => "describing",
            Phase::Fetching => "fetching",
            Phase::Finishing => "finishing",
        }
    }
}

/// What one source gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReport {
    /// Who it is.
    pub node: NodeId,
    /// Which instance.
    pub instance: Instance,
    /// What it calls itself.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// Verified bytes that came from it.
    pub bytes: u64,
    /// Verified chunks that came from it.
    pub chunks: u64,
    /// Chunks that were asked of it and had to be asked again.
    pub retransmitted: u64,
    /// Chunks of it that proved wrong.
    pub bad: u64,
    /// Whether it still takes part.
    pub state: SourceState,
    /// On which kind of lane it is asked, or was last.
    pub lane: LaneKind,
    /// Why on that one; empty if it was never another.
    pub lane_reason: String,
    /// Fragments that had to be asked for again, where it was asked for datagrams.
    pub fragments_again: u64,
}

/// Whether a source takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// It does.
    Joined,
    /// It went away, for this reason.
    Left(String),
    /// It is not asked any more, for this reason.
    Dropped(String),
}

/// A fetch that is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Where the content is; `-` if it went to a temporary file.
    pub path: PathBuf,
    /// Bytes of the content.
    pub size: u64,
    /// Its root.
    pub root: Root,
    /// From the beginning of the fetch to the final name.
    pub elapsed: Duration,
    /// Bytes that were there from an earlier try.
    pub resumed: u64,
    /// Everybody who took part.
    pub sources: Vec<SourceReport>,
}

impl Report {
    /// Bytes fetched, for each second it took.
    pub fn bytes_per_second(&self) -> f64 {
        (self.size - self.resumed) as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}
