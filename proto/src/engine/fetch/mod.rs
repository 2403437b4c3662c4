//! The fetch engine: which chunks to ask from which source, when to ask again, whom to drop.

mod api;

pub use api::{DropReason, FetchConfig, Input, Lie, Output, Progress, SourceId, SourceStats};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::chunk_set::PieceSet;
use crate::digest::Root;
use crate::geometry::Geometry;
use crate::merkle::PieceLayer;
use crate::time::Time;

/// One running fetch.
#[derive(Debug)]
pub struct FetchEngine {
    geometry: Geometry,
    have: PieceSet,
    layer: Option<Arc<PieceLayer>>,
    outputs: VecDeque<Output>,
    stats: BTreeMap<SourceId, SourceStats>,
}

impl FetchEngine {
    /// A fetch of the content `root`, of which the pieces `have` are here and verified already.
    pub fn new(_config: FetchConfig, geometry: Geometry, _root: Root, have: PieceSet, _seed: u64) -> Self {
        FetchEngine { geometry, have, layer: None, outputs: VecDeque::new(), stats: BTreeMap::new() }
    }

    /// Takes in what happened. Then drain [`FetchEngine::poll`].
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// How far the fetch is.
    pub fn progress(&self) -> Progress {
        Progress {
            pieces: self.have.count(),
            pieces_total: self.geometry.piece_count(),
            bytes: self.have.bytes(),
            bytes_total: self.geometry.size(),
        }
    }

    /// Whether every piece is verified.
    pub fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Whether the fetch can only wait: nothing is under way, and no source can give anything that is missing.
    pub fn is_starved(&self) -> bool {
        false
    }

    /// What a source has done, if it ever joined.
    pub fn source_stats(&self, source: SourceId) -> Option<SourceStats> {
        self.stats.get(&source).copied()
    }

    /// What every source has done that ever joined, in the order of their numbers.
    pub fn all_stats(&self) -> impl Iterator<Item = (SourceId, SourceStats)> + '_ {
        self.stats.iter().map(|(&source, &stats)| (source, stats))
    }

    /// The verified pieces.
    pub fn have(&self) -> &PieceSet {
        &self.have
    }

    /// The piece layer, once it is known.
    pub fn layer(&self) -> Option<&Arc<PieceLayer>> {
        self.layer.as_ref()
    }
}
