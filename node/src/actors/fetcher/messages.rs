//! What a Fetcher is started with, and what it is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{NodeId, Root};
use ftx_proto::engine::fetch::FetchEngine;
use ftx_proto::engine::fetch::{Input, SourceId};
use ftx_proto::engine::pull::choice::{LaneKind, LaneMode};
use ftx_proto::geometry::Geometry;
use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::Announce;
use ftx_proto::wire::session::Hello;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::catalog::PartOfFolder;
use crate::clock::Clock;
use crate::error::Error;
use crate::fetch::lane::{Described, LaneEnd};
use crate::fetch::meter::LaneMeter;
use crate::fetch::report::{Progress, Report};
use crate::net::tls::Tls;
use crate::store::{Found, Part, StoreError};

/// What a fetch is started with.
#[derive(Debug)]
pub struct FetcherArguments {
    /// What decides, before anything has happened.
    pub engine: FetchEngine,
    /// What is there of it already, also where nothing of it is wanted.
    pub have: PieceSet,
    /// What may be right and is on this machine already; looked at before anybody is asked for chunks.
    pub found: Option<Found>,
    /// When it was last changed, in seconds and nanoseconds since 1970; a source may say it more exactly.
    pub mtime: (i64, u32),
    /// Only this node is asked, if one is given.
    pub only: Option<NodeId>,
    /// Where the end is told.
    pub done: oneshot::Sender<Result<Report, Error>>,
    /// What it needs all the time.
    pub settings: FetchSettings,
}

/// What a fetch needs as long as it runs.
#[derive(Debug)]
pub struct FetchSettings {
    /// The content.
    pub root: Root,
    /// The root that people know it by: of the files of a folder, the folder's.
    pub named: Root,
    /// How it is cut.
    pub geometry: Geometry,
    /// Of the files of a folder, what others are to know of that.
    pub folder: Option<PartOfFolder>,
    /// The name under which this node serves what it has of it.
    pub name: RelativePath,
    /// Whether that name stands for it; otherwise it is offered by its root only.
    pub is_named: bool,
    /// Where it goes.
    pub part: Arc<dyn Part>,
    /// Replace what has the final name.
    pub force: bool,
    /// How long to wait when no source is left.
    pub patience: Duration,
    /// Which lanes may be used.
    pub lane: LaneMode,
    /// How this node shows itself, and from where it dials.
    pub tls: Tls,
    /// What it says first.
    pub hello: Hello,
    /// The local address to dial from, where the node is confined to one.
    pub local: Option<std::net::IpAddr>,
    /// What this node shares.
    pub catalog: Link<CatalogMessage>,
    /// Where lanes do their work.
    pub data: Handle,
    /// What time it is.
    pub clock: Clock,
    /// Where the progress is told.
    pub progress: watch::Sender<Progress>,
    /// Which pieces are verified; for whoever reads along.
    pub pieces: watch::Sender<Arc<PieceSet>>,
    /// Whether it may get its final name.
    pub is_meant: watch::Receiver<bool>,
}

/// What a fetch is told.
#[derive(Debug)]
pub enum FetcherMessage {
    /// Somebody says that it has the content.
    Offered(Announce, SocketAddr),
    /// A source is connected.
    SourceReady {
        /// Which one.
        source: SourceId,
        /// What it says.
        described: Described,
    },
    /// A source has more pieces.
    SourceHas {
        /// Which one.
        source: SourceId,
        /// Ranges of piece numbers.
        pieces: Vec<std::ops::Range<u32>>,
        /// Given back when this has been looked at.
        permit: OwnedSemaphorePermit,
    },
    /// A source does not give the content, or broke the protocol; it is about to end.
    SourceFailed {
        /// Which one.
        source: SourceId,
        /// How.
        end: LaneEnd,
    },
    /// Something that the engine is to know: what came, and what will not.
    Fact(Input),
    /// Chunks were found on this machine; the permit is given back when this has been looked at.
    Found(Input, Arc<OwnedSemaphorePermit>),
    /// A source is asked on this kind of lane from now on.
    LaneChosen {
        /// Which one.
        source: SourceId,
        /// On which.
        lane: LaneKind,
        /// Why.
        reason: String,
    },
    /// A datagram lane to a source was opened, and counts here.
    LaneOpened(SourceId, Arc<LaneMeter>),
    /// The disk does not take it.
    StoreFailed(StoreError),
    /// The journal says now that these bytes are safe.
    Committed(Result<u64, StoreError>),
    /// The content has its final name.
    Finished(Result<PathBuf, StoreError>),
    /// Time has passed.
    Tick,
    /// The user does not want it any more.
    Interrupt,
}
