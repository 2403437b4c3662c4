//! How sources behave in the network of a fetch.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use ftx_proto::wire::session::Refusal;

/// How a source behaves. The default is a good one: 6,400 chunks (100 MiB) a second, 1 ms away, with everything.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    pub(crate) rate: f64,
    pub(crate) latency: Duration,
    /// Of every message in each direction.
    pub(crate) loss: f64,
    pub(crate) joins_at: Duration,
    /// Answers nothing from then on.
    pub(crate) dies_at: Option<Duration>,
    /// The session ends then.
    pub(crate) leaves_at: Option<Duration>,
    /// Comes back that long after it left or was dropped without a lie.
    pub(crate) returns_after: Option<Duration>,
    /// Pieces that it says it has, and when; `None` for a whole source.
    pub(crate) parts: Option<Vec<(Duration, Range<u32>)>>,
    /// Pieces that it refuses as missing although it said that it has them.
    pub(crate) lacks: BTreeSet<u32>,
    /// Share of the chunks it sends that are wrong, of the layers, of the leaves.
    pub(crate) lies: f64,
    pub(crate) lies_about_layer: f64,
    pub(crate) lies_about_leaves: f64,
    /// Share of requests refused as busy.
    pub(crate) busy: f64,
    /// Share of questions for hashes that it will not answer.
    pub(crate) refuses_hashes: f64,
    /// Lanes break at these times: half of what waits at the source is lost.
    pub(crate) breaks_at: Vec<Duration>,
    /// Refuses everything with this from then on.
    pub(crate) gone_at: Option<(Duration, Refusal)>,
    /// Reports of written chunks reach the engine up to so much later.
    pub(crate) report_delay: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            rate: 6400.0,
            latency: Duration::from_millis(1),
            loss: 0.0,
            joins_at: Duration::ZERO,
            dies_at: None,
            leaves_at: None,
            returns_after: None,
            parts: None,
            lacks: BTreeSet::new(),
            lies: 0.0,
            lies_about_layer: 0.0,
            lies_about_leaves: 0.0,
            busy: 0.0,
            refuses_hashes: 0.0,
            breaks_at: Vec::new(),
            gone_at: None,
            report_delay: Duration::ZERO,
        }
    }
}
