//! What goes into a fetch engine and what comes out of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::chunk_set::ChunkMask;
use crate::digest::Digest;
use crate::geometry::{ChunkIndex, PieceIndex, Span};
use crate::merkle::PieceLayer;
use crate::wire::session::{Refusal, RequestId};

/// One source of a fetch. The caller chooses the numbers and gives each to one peer only, for the life of the engine:
/// a source that comes back with its number goes on with its statistics, and stays out if it lied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

impl SourceId {
    /// Stands for chunks that were found on this machine. No source has this number.
    pub(super) const DISK: SourceId = SourceId(u32::MAX - 1);
}

/// What a fetch may be tuned with; the default is right for a local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// Most bytes kept requested from one source; at most [`crate::limits::SOURCE_WINDOW_BYTES_MAX`].
    pub window_bytes_max: u64,
    /// Bytes requested from a source of which nothing is known yet.
    pub window_bytes_start: u64,
}

impl Default for FetchConfig {
    fn default() -> Self {
        FetchConfig { window_bytes_max: crate::limits::SOURCE_WINDOW_BYTES_MAX, window_bytes_start: 2 << 20 }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// There is a source. A `whole` one has every piece, any other has none until [`Input::SourceHas`].
    SourceJoined {
        /// Which one.
        source: SourceId,
        /// It has every piece.
        whole: bool,
    },
    /// The source has these pieces now. Numbers beyond the end are ignored.
    SourceHas {
        /// Which one.
        source: SourceId,
        /// Ranges of piece numbers.
        pieces: Vec<Range<u32>>,
    },
    /// The source is fetching the content itself, and goes by this name among all that do. Where this fetch has a name
    /// too ([`super::FetchEngine::call_me`]), they divide among them what sources with everything are asked for.
    SourceFetches {
        /// Which one.
        source: SourceId,
        /// Its name, the same for all who hear of it.
        name: u64,
    },
    /// The source is gone, and what was requested from it will not come.
    SourceLeft {
        /// Which one.
        source: SourceId,
    },
    /// The piece layer is known from elsewhere and verified: from the journal of an earlier run.
    LayerKnown(Arc<PieceLayer>),
    /// Answer to [`Output::AskLayer`]: all piece hashes in order.
    Layer {
        /// Which one.
        source: SourceId,
        /// As they came.
        hashes: Vec<Digest>,
    },
    /// The source will not give the layer now.
    LayerFailed {
        /// Which one.
        source: SourceId,
    },
    /// A run of consecutive chunks of one piece came in, and each was written unless another copy had been claimed before.
    ///
    /// A chunk is claimed by exactly one arrival until [`Output::Reset`]. What is said here is a fact whether the
    /// request is still wanted or not: a written chunk is taken even when it comes late.
    Arrived {
        /// Who sent it.
        source: SourceId,
        /// For which request.
        request: RequestId,
        /// The first chunk of the run.
        first: ChunkIndex,
        /// For every chunk the hash of what was written, or `None` if it was a duplicate and dropped.
        leaves: Vec<Option<Digest>>,
    },
    /// A run of consecutive chunks of one piece was found on this machine, claimed, and written to its place: what an
    /// older copy has there, which may be right. To be told once the layer is known.
    Found {
        /// The first chunk of the run.
        first: ChunkIndex,
        /// The hash of each.
        leaves: Vec<Digest>,
    },
    /// No further [`Input::Found`] will come.
    Searched,
    /// The source does not answer this request, or not to its end.
    Refused {
        /// Who.
        source: SourceId,
        /// Which request.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// One of the lanes of a source broke: these requests will not be answered. The source itself stays.
    Lost {
        /// Whose.
        source: SourceId,
        /// Which requests.
        requests: Vec<RequestId>,
    },
    /// Answer to [`Output::AskLeaves`]: the hashes of all chunks of the piece in order.
    Leaves {
        /// Who.
        source: SourceId,
        /// Of which piece.
        piece: PieceIndex,
        /// As they came.
        leaves: Vec<Digest>,
    },
    /// The source will not give these leaves now.
    LeavesFailed {
        /// Who.
        source: SourceId,
        /// Of which piece.
        piece: PieceIndex,
    },
    /// Whoever runs this engine did not get to look for so long, until now: time in which nobody was late.
    Overslept(Duration),
    /// Nothing but that time has passed: [`super::FetchEngine::deadline`] is here.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask the source for the piece layer. A second one to the same source replaces the first.
    AskLayer {
        /// Whom.
        source: SourceId,
    },
    /// The piece layer is known now. Comes once, before any piece is verified.
    LayerReady(Arc<PieceLayer>),
    /// Ask the source for these chunks, all of one piece.
    Request {
        /// Whom.
        source: SourceId,
        /// Names the request; never used again by this engine.
        request: RequestId,
        /// Which chunks.
        span: Span,
    },
    /// What has not come of this request is not wanted from this source any more. What comes still counts.
    Cancel {
        /// Whom to tell.
        source: SourceId,
        /// Which request.
        request: RequestId,
    },
    /// Ask the source for the hashes of all chunks of a piece. A second one to the same source replaces the first.
    AskLeaves {
        /// Whom.
        source: SourceId,
        /// Of which piece.
        piece: PieceIndex,
    },
    /// Every chunk of the piece is written and right. Comes once for each piece.
    Verified {
        /// Which one.
        piece: PieceIndex,
    },
    /// These written chunks are wrong: release their claims. A fresh copy will be asked for.
    Reset {
        /// In which piece.
        piece: PieceIndex,
        /// Places within the piece.
        chunks: ChunkMask,
    },
    /// Have nothing more to do with this source in this fetch: its requests are over, without a [`Output::Cancel`].
    ///
    /// Comes at most once for a stay of a source; for a lie also when the source has left already.
    Drop {
        /// Whom.
        source: SourceId,
        /// Why.
        why: DropReason,
    },
    /// Every piece is verified. Comes once, as the last output.
    Complete,
}

/// Why a source is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It sent something that is proved wrong.
    Lied(Lie),
    /// It does not give this content any more.
    Gone(Refusal),
    /// It has not delivered anything in many times of its measured time, and others have.
    Unresponsive,
}

/// What a source was proved wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Its piece layer does not lead to the root.
    Layer,
    /// Its leaves do not lead to the hash of the piece.
    Leaves(PieceIndex),
    /// Its bytes of this chunk do not have the chunk's hash.
    Chunk(ChunkIndex),
    /// It gave every chunk of this piece, and they do not have the piece's hash.
    Piece(PieceIndex),
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DropReason::Lied(Lie::Layer) => f.write_str("it sent piece hashes that do not lead to the root"),
            DropReason::Lied(Lie::Leaves(piece)) => {
                write!(f, "it sent wrong hashes for piece {}", piece.get())
            }
            DropReason::Lied(Lie::Chunk(chunk)) => write!(f, "it sent wrong bytes for chunk {}", chunk.get()),
            DropReason::Lied(Lie::Piece(piece)) => write!(f, "it sent wrong bytes for piece {}", piece.get()),
            DropReason::Gone(refusal) => refusal.fmt(f),
            DropReason::Unresponsive => f.write_str("it does not answer any more"),
        }
    }
}

/// How far a fetch is. Only what is verified counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pieces verified, those of an earlier run among them.
    pub pieces: u32,
    /// Pieces of the content.
    pub pieces_total: u32,
    /// Bytes verified.
    pub bytes: u64,
    /// Bytes of the content.
    pub bytes_total: u64,
}

/// What a source has done for a fetch. Stays when the source leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceStats {
    /// Verified bytes that came from it.
    pub bytes: u64,
    /// Verified chunks that came from it.
    pub chunks: u64,
    /// Chunks that had to be asked for again since it did not deliver them: too late, lost, left, or wrong.
    pub retransmitted: u64,
    /// Chunks from it that are proved wrong.
    pub bad: u64,
    /// Chunks from it that were here already.
    pub duplicates: u64,
}
