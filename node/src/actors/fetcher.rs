//! The Fetcher actor: one running fetch.
//!
//! Owns the fetch engine, the part file with its journal, and the Source actors (as their supervisor). Lanes tell it
//! what has landed; it feeds the engine, carries out what that decides, writes the journal in batches, and lets the
//! node serve what is verified. A failed source is a source less; only a full or broken disk ends a fetch at once.
//! A crash loses nothing that the journal says: see [`crate::store`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{Digest, Instance, NodeId, Root};
use ftx_proto::engine::fetch::{DropReason, FetchConfig, FetchEngine, Input, Output, SourceId};
use ftx_proto::geometry::{ChunkIndex, Geometry, PieceIndex};
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::time::Time;
use ftx_proto::wire::discovery::Announce;
use ftx_proto::wire::session::{Hello, Refusal, RequestId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::AbortHandle;

use super::catalog::CatalogMessage;
use super::link::Link;
use super::source::{Source, SourceArguments, SourceMessage};
use crate::catalog::Content;
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::fetch::landing::Landing;
use crate::fetch::lane::{Described, LaneEnd};
use crate::fetch::report::{Phase, Progress, Report, SourceReport, SourceState};
use crate::limits::{JOURNAL_BYTES_MAX, JOURNAL_INTERVAL, SOURCES_MAX};
use crate::net::connection::{Dialling, Peer};
use crate::net::tls::Tls;
use crate::store::{PartFile, StoreError};

/// The Fetcher actor.
#[derive(Debug)]
pub struct Fetcher;

/// What a fetch is started with.
#[derive(Debug)]
pub struct FetcherArguments {
    /// The content.
    pub root: Root,
    /// How it is cut.
    pub geometry: Geometry,
    /// The name under which this node serves what it has of it.
    pub name: RelativePath,
    /// Where it goes.
    pub part: Arc<PartFile>,
    /// What is there of it already.
    pub have: PieceSet,
    /// When it was last changed, in seconds and nanoseconds since 1970; a source may say it more exactly.
    pub mtime: (i64, u32),
    /// Replace what has the final name.
    pub force: bool,
    /// How long to wait when no source is left.
    pub patience: Duration,
    /// Only this node is asked, if one is given.
    pub only: Option<NodeId>,
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
    /// Where the end is told.
    pub done: oneshot::Sender<Result<Report, Error>>,
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
    /// Chunks landed.
    Arrived {
        /// From whom.
        source: SourceId,
        /// For which request.
        request: RequestId,
        /// The first of them.
        first: ChunkIndex,
        /// As [`Landing::land`] says.
        leaves: Vec<Option<Digest>>,
    },
    /// A source does not give what was asked.
    Refused {
        /// Which one.
        source: SourceId,
        /// Which request.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// Requests that will not be answered.
    Lost {
        /// By whom.
        source: SourceId,
        /// Which requests.
        requests: Vec<RequestId>,
    },
    /// The hashes of all pieces.
    Layer {
        /// From whom.
        source: SourceId,
        /// In order.
        hashes: Vec<Digest>,
    },
    /// No hashes of pieces from this source.
    LayerFailed {
        /// Which one.
        source: SourceId,
    },
    /// The hashes of the chunks of a piece.
    Leaves {
        /// From whom.
        source: SourceId,
        /// Which piece.
        piece: PieceIndex,
        /// In order.
        leaves: Vec<Digest>,
    },
    /// No hashes of chunks from this source.
    LeavesFailed {
        /// Which one.
        source: SourceId,
        /// Which piece.
        piece: PieceIndex,
    },
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

/// What a fetch owns.
#[derive(Debug)]
pub struct FetcherState {
    arguments: Arguments,
    engine: FetchEngine,
    landing: Arc<Landing>,
    candidates: HashMap<Claim, Candidate>,
    by_actor: HashMap<ActorId, Claim>,
    by_source: HashMap<SourceId, Claim>,
    uncommitted: Vec<PieceIndex>,
    /// Whether it was said that verified pieces cannot be noted.
    note_failed: bool,
    committing: bool,
    committed_at: Time,
    safe: u64,
    resumed: u64,
    mtime: (i64, u32),
    executable: bool,
    begun: Time,
    /// When a source joined or a chunk came, last.
    fed_at: Time,
    last_refusal: Option<DropReason>,
    /// Why the last one was banned that was.
    last_ban: Option<String>,
    /// What is offered to others meanwhile, and the catalog that was told.
    offered: Option<(Arc<Content>, Option<ActorId>)>,
    ending: Option<Ending>,
    done: Option<oneshot::Sender<Result<Report, Error>>>,
    ticking: AbortHandle,
}

/// The arguments that are needed later on.
#[derive(Debug)]
struct Arguments {
    root: Root,
    geometry: Geometry,
    name: RelativePath,
    part: Arc<PartFile>,
    force: bool,
    patience: Duration,
    only: Option<NodeId>,
    tls: Tls,
    hello: Hello,
    local: Option<std::net::IpAddr>,
    catalog: Link<CatalogMessage>,
    data: Handle,
    clock: Clock,
    progress: watch::Sender<Progress>,
    pieces: watch::Sender<Arc<PieceSet>>,
}

/// Who somebody says to be in discovery, where nothing is proved. Both together name a candidate: whoever borrows the
/// instance of another has to borrow its identity too, and that shows as soon as it is dialled.
type Claim = (NodeId, Instance);

/// Somebody who has, or had, the content.
#[derive(Debug)]
struct Candidate {
    source: SourceId,
    /// Where it was heard, the best of them first. A node on several of our networks has several.
    addrs: VecDeque<SocketAddr>,
    announced: Announce,
    peer: Option<Peer>,
    actor: Option<ActorRef<SourceMessage>>,
    lanes: usize,
    tries: u32,
    retry_at: Option<Time>,
    state: Option<SourceState>,
    banned: bool,
    /// It has given something since it was connected last.
    useful: bool,
}

/// What is left to do before the fetch is over.
#[derive(Debug)]
enum Ending {
    /// The last journal entry, then this error.
    Failing(Error),
    /// Sync and rename.
    Finishing,
}

impl Actor for Fetcher {
    type Msg = FetcherMessage;
    type State = FetcherState;
    type Arguments = FetcherArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<FetcherMessage>,
        arguments: FetcherArguments,
    ) -> Result<FetcherState, ActorProcessingErr> {
        let FetcherArguments { root, geometry, have, done, part, mtime, .. } = arguments;
        let now = arguments.clock.now();
        let resumed = have.bytes();
        let landing = Arc::new(Landing::new(Arc::clone(&part), &have));
        let engine = FetchEngine::new(FetchConfig::default(), geometry, root, have, rand::random());
        let arguments = Arguments {
            root,
            geometry,
            name: arguments.name,
            part,
            force: arguments.force,
            patience: arguments.patience,
            only: arguments.only,
            tls: arguments.tls,
            hello: arguments.hello,
            local: arguments.local,
            catalog: arguments.catalog,
            data: arguments.data,
            clock: arguments.clock,
            progress: arguments.progress,
            pieces: arguments.pieces,
        };
        let mut state = FetcherState {
            engine,
            landing,
            candidates: HashMap::new(),
            by_actor: HashMap::new(),
            by_source: HashMap::new(),
            uncommitted: Vec::new(),
            note_failed: false,
            committing: false,
            committed_at: now,
            safe: resumed,
            resumed,
            mtime,
            executable: false,
            begun: now,
            fed_at: now,
            last_refusal: None,
            last_ban: None,
            offered: None,
            ending: None,
            done: Some(done),
            ticking: tokio::spawn(tick_regularly(myself.clone())).abort_handle(),
            arguments,
        };
        // An empty content is complete before anybody is asked.
        state.advance(&myself, now, Input::Tick);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<FetcherMessage>,
        message: FetcherMessage,
        state: &mut FetcherState,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.arguments.clock.now();
        let input = match message {
            FetcherMessage::Offered(announce, addr) => {
                state.offered(announce, addr, now);
                state.connect(&myself, now).await;
                return Ok(());
            }
            FetcherMessage::SourceReady { source, described } => match state.ready(source, described, now) {
                Some(input) => input,
                None => return Ok(()),
            },
            FetcherMessage::SourceHas { source, pieces, permit: _permit } => {
                Input::SourceHas { source, pieces }
            }
            FetcherMessage::SourceFailed { source, end } => {
                state.source_failed(source, end);
                return Ok(());
            }
            FetcherMessage::Arrived { source, request, first, leaves } => {
                if leaves.iter().any(Option::is_some) {
                    state.fed_by(source, now);
                }
                Input::Arrived { source, request, first, leaves }
            }
            FetcherMessage::Refused { source, request, refusal } => {
                Input::Refused { source, request, refusal }
            }
            FetcherMessage::Lost { source, requests } => Input::Lost { source, requests },
            FetcherMessage::Layer { source, hashes } => Input::Layer { source, hashes },
            FetcherMessage::LayerFailed { source } => Input::LayerFailed { source },
            FetcherMessage::Leaves { source, piece, leaves } => Input::Leaves { source, piece, leaves },
            FetcherMessage::LeavesFailed { source, piece } => Input::LeavesFailed { source, piece },
            FetcherMessage::Tick => {
                state.advance(&myself, now, Input::Tick);
                state.connect(&myself, now).await;
                state.watch_over(&myself, now);
                return Ok(());
            }
            FetcherMessage::StoreFailed(error) => {
                state.fail(&myself, error.into());
                return Ok(());
            }
            FetcherMessage::Committed(result) => {
                state.committed(&myself, now, result);
                return Ok(());
            }
            FetcherMessage::Finished(result) => {
                state.finished(&myself, result);
                return Ok(());
            }
            FetcherMessage::Interrupt => {
                state.fail(&myself, Error::new(Code::Interrupted, "interrupted"));
                return Ok(());
            }
        };
        state.advance(&myself, now, input);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<FetcherMessage>,
        event: SupervisionEvent,
        state: &mut FetcherState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => (actor, reason.unwrap_or_default()),
            SupervisionEvent::ActorFailed(actor, error) => (actor, format!("internal error: {error}")),
            _ => return Ok(()),
        };
        let now = state.arguments.clock.now();
        if let Some(source) = state.source_ended(&actor.get_id(), reason, now) {
            state.advance(&myself, now, Input::SourceLeft { source });
        }
        Ok(())
    }
}

impl Drop for FetcherState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.ticking.abort();
        self.arguments.catalog.cast(CatalogMessage::RemovePartial(self.arguments.root));
    }
}

impl FetcherState {
    /// Feeds the engine and does what it decides.
    fn advance(&mut self, myself: &ActorRef<FetcherMessage>, now: Time, input: Input) {
        if self.ending.is_some() {
            return;
        }
        self.engine.handle(now, input);
        let mut verified = Vec::new();
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Request { source, request, span } => {
                    self.tell_source(source, SourceMessage::Request(request, span));
                }
                Output::Cancel { source, request } => {
                    self.tell_source(source, SourceMessage::Cancel(request));
                }
                Output::AskLayer { source } => self.tell_source(source, SourceMessage::AskLayer),
                Output::AskLeaves { source, piece } => {
                    self.tell_source(source, SourceMessage::AskLeaves(piece));
                }
                Output::LayerReady(layer) => {
                    let content = Content::partial(
                        layer,
                        self.arguments.name.clone(),
                        self.mtime,
                        self.executable,
                        Arc::clone(&self.arguments.part),
                        self.arguments.pieces.subscribe(),
                    );
                    self.fed_at = now;
                    self.offered = Some((Arc::new(content), None));
                    self.offer_to_others();
                }
                Output::Verified { piece } => verified.push(piece),
                Output::Reset { piece, chunks } => self.landing.release(piece, chunks),
                Output::Drop { source, why } => self.drop_source(source, why),
                Output::Complete => {
                    self.ending = Some(Ending::Finishing);
                    self.finish_when_possible(myself);
                }
            }
        }
        self.note(verified);
        self.commit_when_due(myself, now);
    }

    /// These pieces are verified: a process that is killed now does not lose them, and the next commit syncs them.
    fn note(&mut self, verified: Vec<PieceIndex>) {
        let hashes = self.engine.layer().map_or(&[][..], |layer| layer.hashes());
        let hashed: Vec<_> =
            verified.iter().filter_map(|piece| Some((*piece, *hashes.get(piece.get() as usize)?))).collect();
        if let Err(error) = self.arguments.part.note(&hashed)
            && !std::mem::replace(&mut self.note_failed, true)
        {
            tracing::warn!(%error, "a killed fetch would lose what was verified last");
        }
        self.uncommitted.extend(verified);
    }

    fn tell_source(&self, source: SourceId, message: SourceMessage) {
        let candidate = self.by_source.get(&source).and_then(|claim| self.candidates.get(claim));
        if let Some(actor) = candidate.and_then(|candidate| candidate.actor.as_ref()) {
            // A source that has just ended is reported by its supervision event.
            let _ = actor.cast(message);
        }
    }

    fn offered(&mut self, announced: Announce, addr: SocketAddr, now: Time) {
        if announced.instance == self.arguments.hello.instance
            || self.arguments.only.is_some_and(|only| only != announced.node)
        {
            return;
        }
        let claim = (announced.node, announced.instance);
        if self.candidates.len() >= CANDIDATES_MAX && !self.candidates.contains_key(&claim) {
            return;
        }
        let next = SourceId(self.candidates.len() as u32);
        let candidate = self.candidates.entry(claim).or_insert_with(|| Candidate {
            source: next,
            addrs: VecDeque::new(),
            announced: announced.clone(),
            peer: None,
            actor: None,
            lanes: 0,
            tries: 0,
            retry_at: Some(Time::ZERO),
            state: None,
            banned: false,
            useful: true,
        });
        if !candidate.addrs.contains(&addr) {
            candidate.addrs.push_back(addr);
            if candidate.addrs.len() > ADDRESSES_MAX {
                candidate.addrs.pop_front();
            }
        }
        if candidate.actor.is_none() && !candidate.banned {
            // It is there again, or still.
            candidate.tries = candidate.tries.min(1);
            let soon = if candidate.tries == 0 { now } else { now + RETRY_AFTER };
            candidate.retry_at.get_or_insert(soon);
        }
        self.by_source.insert(candidate.source, claim);
    }

    /// Dials whoever is due, as many as the limit allows.
    async fn connect(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        if self.ending.is_some() {
            return;
        }
        let connected = self.candidates.values().filter(|candidate| candidate.actor.is_some()).count();
        let due = self.candidates.iter().filter(|(_, candidate)| {
            !candidate.banned
                && candidate.actor.is_none()
                && !candidate.addrs.is_empty()
                && candidate.retry_at.is_some_and(|at| at <= now)
        });
        // Whoever was tried least comes first: announcing many nodes that do not answer must not keep others out.
        let mut due: Vec<(u32, Claim)> = due.map(|(claim, candidate)| (candidate.tries, *claim)).collect();
        due.sort_unstable_by_key(|(tries, _)| *tries);
        due.truncate(SOURCES_MAX.saturating_sub(connected));
        for (_, claim) in due {
            let Some(candidate) = self.candidates.get_mut(&claim) else { continue };
            let Some(addr) = candidate.addrs.front().copied() else { continue };
            let arguments = SourceArguments {
                source: candidate.source,
                dialling: Dialling {
                    addr,
                    local: self.arguments.local,
                    tls: self.arguments.tls.clone(),
                    hello: self.arguments.hello.clone(),
                },
                root: self.arguments.root,
                landing: Arc::clone(&self.landing),
                fetcher: myself.clone(),
                data: self.arguments.data.clone(),
            };
            candidate.retry_at = None;
            match Source::spawn_linked(None, Source, arguments, myself.get_cell()).await {
                Ok((actor, _)) => {
                    self.by_actor.insert(actor.get_id(), claim);
                    candidate.actor = Some(actor);
                    candidate.lanes = 1;
                }
                Err(error) => tracing::error!(%error, "cannot start a source"),
            }
        }
    }

    /// A source is connected: is it one that may be asked?
    fn ready(&mut self, source: SourceId, described: Described, now: Time) -> Option<Input> {
        let claim = *self.by_source.get(&source)?;
        let unwanted = self.unwanted(&described);
        let candidate = self.candidates.get_mut(&claim)?;
        let who = format!("{} ({})", printable(&described.peer.name), described.peer.node.short());
        if described.peer.node != candidate.announced.node {
            // No fault of the node that was announced: perhaps it is at another address.
            let addr = described.peer.addr;
            tracing::warn!(%addr, found = %who, expected = %candidate.who(), "another node answers there");
            if let Some(actor) = &candidate.actor {
                actor.stop(Some("another node answers there".to_owned()));
            }
            candidate.addrs.retain(|known| *known != addr);
            return None;
        }
        candidate.peer = Some(described.peer);
        if let Some(why) = unwanted {
            tracing::warn!(source = %who, %why, "source refused");
            self.ban(claim, why);
            return None;
        }
        // That a source has ended is heard before what it said last; the engine would ask it in vain.
        candidate.actor.as_ref()?;
        tracing::info!(source = %who, addr = ?candidate.addrs.front(), whole = described.whole, "source");
        if std::mem::take(&mut candidate.useful) {
            // Whoever only comes and goes is tried less and less often, and does not prolong the wait.
            candidate.tries = 0;
            self.fed_at = now;
        }
        candidate.state = Some(SourceState::Joined);
        if self.mtime.1 == 0 {
            self.mtime = described.mtime;
        }
        self.executable |= described.executable;
        Some(Input::SourceJoined { source, whole: described.whole })
    }

    /// Why a peer is not taken as a source, if it is not.
    fn unwanted(&self, described: &Described) -> Option<String> {
        let node = described.peer.node;
        let lied = |candidate: &Candidate| {
            candidate.banned && candidate.peer.as_ref().map(|peer| peer.node) == Some(node)
        };
        if self.candidates.values().any(lied) {
            Some("it is a node that was dropped before".to_owned())
        } else if self.arguments.only.is_some_and(|only| only != node) {
            Some("it is not the node that was asked for".to_owned())
        } else if described.size != self.arguments.geometry.size() {
            Some(format!("it says that the content has {} bytes", described.size))
        } else {
            None
        }
    }

    /// A chunk came that was not here.
    fn fed_by(&mut self, source: SourceId, now: Time) {
        self.fed_at = now;
        let claim = self.by_source.get(&source);
        if let Some(candidate) = claim.and_then(|claim| self.candidates.get_mut(claim)) {
            candidate.useful = true;
        }
    }

    /// A source said why it ends, or showed it.
    fn source_failed(&mut self, source: SourceId, end: LaneEnd) {
        let Some(claim) = self.by_source.get(&source).copied() else { return };
        match end {
            LaneEnd::Broke(_) => {}
            LaneEnd::Refused(refusal) => self.last_refusal = Some(DropReason::Gone(refusal)),
            LaneEnd::Violation(what) => {
                let who = self.candidates.get(&claim).map(Candidate::who).unwrap_or_default();
                tracing::warn!(source = %who, why = %what, "source dropped for breaking the protocol");
                self.ban(claim, what);
            }
        }
    }

    /// Never asks it again in this fetch.
    fn ban(&mut self, claim: Claim, why: String) {
        let Some(candidate) = self.candidates.get_mut(&claim) else { return };
        candidate.banned = true;
        candidate.state = Some(SourceState::Dropped(why.clone()));
        if let Some(actor) = &candidate.actor {
            actor.stop(Some(why.clone()));
        }
        self.last_ban = Some(why);
    }

    fn drop_source(&mut self, source: SourceId, why: DropReason) {
        self.last_refusal = Some(why);
        let Some(claim) = self.by_source.get(&source).copied() else { return };
        let Some(candidate) = self.candidates.get_mut(&claim) else { return };
        let who = candidate.who();
        match why {
            DropReason::Lied(_) => {
                tracing::warn!(source = %who, %why, "source dropped for wrong data");
                self.ban(claim, why.to_string());
            }
            DropReason::Gone(_) | DropReason::Unresponsive => {
                tracing::warn!(source = %who, %why, "source dropped");
                candidate.state = Some(SourceState::Dropped(why.to_string()));
                if let Some(actor) = &candidate.actor {
                    actor.stop(Some(why.to_string()));
                }
            }
        }
    }

    /// A source actor has ended: its candidate is tried again later, less and less often.
    fn source_ended(&mut self, actor: &ActorId, reason: String, now: Time) -> Option<SourceId> {
        let claim = self.by_actor.remove(actor)?;
        let candidate = self.candidates.get_mut(&claim)?;
        candidate.actor = None;
        candidate.lanes = 0;
        // Perhaps another way leads there.
        candidate.addrs.rotate_left(usize::from(!candidate.addrs.is_empty()));
        tracing::info!(source = %candidate.who(), %reason, "source left");
        if candidate.state == Some(SourceState::Joined) {
            candidate.state = Some(SourceState::Left(reason));
        }
        if !candidate.banned && candidate.tries < TRIES_MAX {
            candidate.retry_at = Some(now + RETRY_AFTER * (1 << candidate.tries));
            candidate.tries += 1;
        }
        Some(candidate.source)
    }

    /// What is to be seen to from time to time.
    fn watch_over(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        self.spread_lanes();
        self.offer_to_others();
        self.tell_progress();
        if self.ending.is_some() {
            return;
        }
        // Whether nobody is there or those who are give nothing, it comes to the same for whoever waits.
        if now.since(self.fed_at) >= self.arguments.patience {
            let error = self.starved();
            self.fail(myself, error);
        }
    }

    /// Lets the node serve what is verified. A catalog that was restarted knows nothing of it and is told again.
    fn offer_to_others(&mut self) {
        let Some((content, told)) = &mut self.offered else { return };
        if let Some(catalog) = self.arguments.catalog.actor().filter(|actor| *told != Some(actor.get_id())) {
            *told = Some(catalog.get_id());
            let _ = catalog.cast(CatalogMessage::AddPartial(Arc::clone(content)));
        }
    }

    /// Where there are few sources, several lanes to each.
    fn spread_lanes(&mut self) {
        let joined = self.candidates.values().filter(|c| c.state == Some(SourceState::Joined)).count();
        if joined == 0 || self.engine.layer().is_none() {
            return;
        }
        let wanted = LANES_IN_ALL.div_ceil(joined);
        for candidate in self.candidates.values_mut() {
            if let Some(actor) = candidate.actor.as_ref().filter(|_| candidate.lanes < wanted) {
                candidate.lanes += 1;
                let _ = actor.cast(SourceMessage::WantLanes(wanted));
            }
        }
    }

    /// The error for a fetch that nobody feeds any more.
    fn starved(&self) -> Error {
        let seconds = self.arguments.patience.as_secs_f64();
        let progress = self.engine.progress();
        let liars = self.candidates.values().any(|candidate| candidate.banned && candidate.peer.is_some());
        let what = format!("{} ({})", self.arguments.name, self.arguments.root.short());
        if let (true, Some(why @ DropReason::Lied(_))) = (liars, self.last_refusal) {
            let message = format!(
                "{what}: every node that has it sent wrong data ({why}); nothing wrong was kept; the same \
                 command goes on when another node has it"
            );
            return Error::new(Code::Integrity, message);
        }
        if progress.bytes > 0 {
            let message = format!(
                "{what}: no node has given the rest for {seconds} s; {} of {} bytes are here and verified; the \
                 same command goes on from there",
                progress.bytes, progress.bytes_total
            );
            return Error::new(Code::Partial, message);
        }
        match self.last_refusal {
            Some(DropReason::Gone(refusal)) => {
                Error::new(Code::Refused, format!("{what}: the nodes that had it do not give it: {refusal}"))
            }
            _ => {
                let why = match &self.last_ban {
                    Some(why) => format!("one was dropped since {why}"),
                    None => "see `-v` for why".to_owned(),
                };
                let message = format!("{what}: no node that has it gave anything for {seconds} s; {why}");
                Error::new(Code::Timeout, message)
            }
        }
    }

    fn commit_when_due(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        let bytes: u64 = self.uncommitted.len() as u64 * ftx_proto::geometry::PIECE_SIZE;
        let due = bytes >= JOURNAL_BYTES_MAX
            || (bytes > 0 && now.since(self.committed_at) >= JOURNAL_INTERVAL)
            || (bytes > 0 && matches!(self.ending, Some(Ending::Failing(_))));
        if !due || self.committing || matches!(self.ending, Some(Ending::Finishing)) {
            return;
        }
        self.committing = true;
        self.committed_at = now;
        let pieces = std::mem::take(&mut self.uncommitted);
        let (part, geometry, myself) =
            (Arc::clone(&self.arguments.part), self.arguments.geometry, myself.clone());
        let committing = tokio::task::spawn_blocking(move || {
            let bytes = pieces.iter().map(|piece| geometry.len_of(geometry.span_of(*piece))).sum();
            part.commit(&pieces).map(|()| bytes)
        });
        tokio::spawn(async move {
            let committed = committing.await.unwrap_or_else(|failed| Err(failed_inside(failed)));
            let _ = myself.cast(FetcherMessage::Committed(committed));
        });
    }

    fn committed(&mut self, myself: &ActorRef<FetcherMessage>, now: Time, result: Result<u64, StoreError>) {
        self.committing = false;
        match (result, self.ending.take()) {
            (Ok(bytes), ending) => {
                self.safe += bytes;
                self.ending = ending;
            }
            (Err(error), None) => self.ending = Some(Ending::Failing(error.into())),
            (Err(error), Some(ending)) => {
                tracing::warn!(%error, "the journal could not be written");
                self.uncommitted.clear();
                self.ending = Some(ending);
            }
        }
        self.commit_when_due(myself, now);
        self.finish_when_possible(myself);
    }

    /// Ends the fetch with an error, once the journal has what is verified.
    fn fail(&mut self, myself: &ActorRef<FetcherMessage>, error: Error) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending::Failing(error));
        self.commit_when_due(myself, self.arguments.clock.now());
        self.finish_when_possible(myself);
    }

    fn finish_when_possible(&mut self, myself: &ActorRef<FetcherMessage>) {
        if self.committing {
            return;
        }
        match self.ending.take() {
            None => {}
            Some(Ending::Failing(error)) => {
                self.tell_progress();
                self.end(myself, Err(error));
                // Nothing that still comes in may begin anything anew.
                self.ending = Some(Ending::Finishing);
            }
            Some(Ending::Finishing) => {
                self.ending = Some(Ending::Finishing);
                self.committing = true;
                self.tell_progress();
                let (part, force) = (Arc::clone(&self.arguments.part), self.arguments.force);
                let (mtime, executable, myself) = (self.mtime, self.executable, myself.clone());
                let finishing = tokio::task::spawn_blocking(move || part.finish(mtime, executable, force));
                tokio::spawn(async move {
                    let finished = finishing.await.unwrap_or_else(|failed| Err(failed_inside(failed)));
                    let _ = myself.cast(FetcherMessage::Finished(finished));
                });
            }
        }
    }

    fn finished(&mut self, myself: &ActorRef<FetcherMessage>, result: Result<PathBuf, StoreError>) {
        let result = result.map_err(Error::from).map(|path| Report {
            path,
            size: self.arguments.geometry.size(),
            root: self.arguments.root,
            elapsed: self.arguments.clock.now().since(self.begun),
            resumed: self.resumed,
            sources: self.sources(),
        });
        self.end(myself, result);
    }

    fn end(&mut self, myself: &ActorRef<FetcherMessage>, result: Result<Report, Error>) {
        if let Some(done) = self.done.take() {
            // Whoever wanted it may have gone.
            let _ = done.send(result);
        }
        myself.stop(None);
    }

    fn tell_progress(&mut self) {
        let progress = self.engine.progress();
        if self.arguments.pieces.borrow().count() != progress.pieces {
            self.arguments.pieces.send_replace(Arc::new(self.engine.have().clone()));
        }
        let joined = self.candidates.values().any(|c| c.state == Some(SourceState::Joined));
        let phase = match (&self.ending, joined) {
            (Some(Ending::Finishing), _) => Phase::Finishing,
            (_, false) => Phase::Waiting,
            (_, true) if self.engine.layer().is_none() => Phase::Describing,
            (_, true) => Phase::Fetching,
        };
        self.arguments.progress.send_replace(Progress {
            phase,
            size: progress.bytes_total,
            bytes: progress.bytes,
            resumed: self.resumed,
            safe: self.safe,
            sources: self.sources(),
        });
    }

    /// Everybody who was connected, in the order in which they were heard of.
    fn sources(&self) -> Vec<SourceReport> {
        let mut candidates: Vec<&Candidate> = self.candidates.values().collect();
        candidates.sort_by_key(|candidate| candidate.source);
        candidates
            .into_iter()
            .filter_map(|candidate| {
                let peer = candidate.peer.as_ref()?;
                let stats = self.engine.source_stats(candidate.source).unwrap_or_default();
                Some(SourceReport {
                    node: peer.node,
                    instance: peer.instance,
                    name: peer.name.clone(),
                    addr: peer.addr,
                    bytes: stats.bytes,
                    chunks: stats.chunks,
                    retransmitted: stats.retransmitted,
                    bad: stats.bad,
                    state: candidate.state.clone()?,
                })
            })
            .collect()
    }
}

impl Candidate {
    /// For people: its name and the beginning of its id.
    fn who(&self) -> String {
        match &self.peer {
            Some(peer) => format!("{} ({})", printable(&peer.name), peer.node.short()),
            None => {
                format!("{} ({}, not proved)", printable(&self.announced.name), self.announced.node.short())
            }
        }
    }
}

/// A panic while writing ends the fetch as a broken disk does; without a word it would wait for ever.
fn failed_inside(failed: tokio::task::JoinError) -> StoreError {
    StoreError::Other { action: "write", path: "the part file".into(), error: std::io::Error::other(failed) }
}

/// Keeps the engine's deadlines (its time-outs are long against this) and the progress up to date.
async fn tick_regularly(fetcher: ActorRef<FetcherMessage>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if fetcher.cast(FetcherMessage::Tick).is_err() {
            return;
        }
    }
}

/// How often a fetch looks after itself.
const TICK: Duration = Duration::from_millis(50);

/// Lanes to all sources together, as long as these are few: two keep two cores busy, four cover their pauses.
const LANES_IN_ALL: usize = 4;

/// How long to wait before a source is tried again; twice as long each further time.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often in a row a source is tried until it is heard of again.
const TRIES_MAX: u32 = 6;

/// Most candidates of one fetch; whoever is heard of beyond is not asked.
const CANDIDATES_MAX: usize = 1024;

/// Most addresses that are remembered of one candidate.
const ADDRESSES_MAX: usize = 8;
