//! The Fetcher actor: one running fetch.
//!
//! Owns the fetch engine, the part file with its journal, and the Source actors (as their supervisor). Lanes tell it
//! what has landed; it feeds the engine, carries out what that decides, writes the journal in batches, and lets the
//! node serve what is verified. A failed source is a source less; only a full or broken disk ends a fetch at once.
//! A crash loses nothing that the journal says: see [`crate::store`].

mod messages;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::engine::fetch::{FetchEngine, Input, Output, SourceId};
use ftx_proto::geometry::PieceIndex;
use ftx_proto::merkle::PieceLayer;
use ftx_proto::time::Time;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::catalog::CatalogMessage;
use super::source::{Source, SourceArguments, SourceMessage};
use crate::catalog::Content;
use crate::error::{Code, Error};
use crate::fetch::candidates::{Candidates, Drought};
use crate::fetch::landing::Landing;
use crate::fetch::lane::Described;
use crate::fetch::pull::SharedBudget;
use crate::fetch::report::{Phase, Progress, Report};
use crate::fetch::search::search;
use crate::limits::{HAVE_INTERVAL, JOURNAL_BYTES_MAX, JOURNAL_INTERVAL, TRUST_INTERVAL};
use crate::net::connection::Dialling;
use crate::net::tcp_info::Tries;
use crate::net::tls::Tls;
use crate::store::{Found, StoreError};

pub use messages::{FetchSettings, FetcherArguments, FetcherMessage};

/// The Fetcher actor.
#[derive(Debug)]
pub struct Fetcher;

/// What a fetch owns.
#[derive(Debug)]
pub struct FetcherState {
    settings: FetchSettings,
    engine: FetchEngine,
    landing: Arc<Landing>,
    candidates: Candidates,
    /// What all datagram lanes may have in flight.
    budget: SharedBudget,
    /// What is to be looked at once the layer is known.
    found: Option<Found>,
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
    /// When something was looked at last.
    looked_at: Time,
    /// When it was told last which pieces are verified.
    pieces_told_at: Time,
    /// When a source joined or a chunk came, last.
    fed_at: Time,
    /// When it was looked last who is trusted, and what version of that it was.
    trust_seen: (Time, Option<u64>),
    /// What is offered to others meanwhile, and the catalog that was told.
    offered: Option<(Arc<Content>, Option<ActorId>)>,
    ending: Option<Ending>,
    done: Option<oneshot::Sender<Result<Report, Error>>>,
    ticking: AbortHandle,
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
        let FetcherArguments { mut engine, have, found, mtime, only, done, settings } = arguments;
        let now = settings.clock.now();
        let size = settings.geometry.size();
        let landing = Arc::new(Landing::new(Arc::clone(&settings.part), &have));
        engine.call_me(settings.hello.instance.0);
        let resumed = engine.progress().bytes;
        let mut state = FetcherState {
            engine,
            landing,
            candidates: Candidates::new(settings.hello.instance, only, size),
            budget: SharedBudget::default(),
            found,
            uncommitted: Vec::new(),
            note_failed: false,
            committing: false,
            committed_at: now,
            safe: resumed,
            resumed,
            mtime,
            executable: false,
            begun: now,
            looked_at: now,
            pieces_told_at: now,
            fed_at: now,
            trust_seen: (now, None),
            offered: None,
            ending: None,
            done: Some(done),
            ticking: tokio::spawn(tick_regularly(myself.clone())).abort_handle(),
            settings,
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
        let now = state.settings.clock.now();
        state.looked(&myself, now);
        let input = match message {
            FetcherMessage::Offered(announce, addr) => {
                state.candidates.offered(announce, addr, now);
                state.connect(&myself, now).await;
                return Ok(());
            }
            FetcherMessage::SourceReady { source, described } => {
                let (whole, name) = (described.whole, described.peer.instance.0);
                let Some(input) = state.ready(source, described, now) else { return Ok(()) };
                state.advance(&myself, now, input);
                if whole {
                    return Ok(());
                }
                // Only what is being fetched is offered in part.
                Input::SourceFetches { source, name }
            }
            FetcherMessage::SourceHas { source, pieces, permit: _permit } => {
                Input::SourceHas { source, pieces }
            }
            FetcherMessage::SourceFailed { source, end } => {
                state.candidates.failed(source, end);
                return Ok(());
            }
            FetcherMessage::Fact(input) => {
                if let Input::Arrived { source, leaves, .. } = &input
                    && leaves.iter().any(Option::is_some)
                {
                    state.fed_at = now;
                    state.candidates.fed_by(*source);
                }
                input
            }
            FetcherMessage::Found(input, _permit) => {
                state.fed_at = now;
                input
            }
            FetcherMessage::LaneOpened(source, meter) => {
                state.candidates.lane_opened(source, meter);
                return Ok(());
            }
            FetcherMessage::LaneChosen { source, lane, reason } => {
                state.candidates.lane_chosen(source, lane, reason);
                return Ok(());
            }
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
        let now = state.settings.clock.now();
        if let Some(source) = state.candidates.ended(&actor.get_id(), reason, now) {
            state.advance(&myself, now, Input::SourceLeft { source });
        }
        Ok(())
    }
}

impl Drop for FetcherState {
    /// Also after a panic, where `post_stop` is not called.
    fn drop(&mut self) {
        self.ticking.abort();
        self.settings.catalog.cast(CatalogMessage::RemovePartial(self.settings.root));
    }
}

impl FetcherState {
    /// Tells the engine if this process did not get to look for long: what came meanwhile waits behind this message.
    fn looked(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        let gap = now.since(std::mem::replace(&mut self.looked_at, now));
        if gap >= OVERSLEPT_MIN {
            self.advance(myself, now, Input::Overslept(gap));
        }
    }

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
                    self.candidates.tell(source, SourceMessage::Request(request, span));
                }
                Output::Cancel { source, request } => {
                    self.candidates.tell(source, SourceMessage::Cancel(request));
                }
                Output::AskLayer { source } => self.candidates.tell(source, SourceMessage::AskLayer),
                Output::AskLeaves { source, piece } => {
                    self.candidates.tell(source, SourceMessage::AskLeaves(piece));
                }
                Output::LayerReady(layer) => {
                    tracing::debug!(pieces = layer.hashes().len(), "the hashes of all pieces are known");
                    let content = self.partial(Arc::clone(&layer));
                    let content = if self.settings.is_named { content } else { content.nameless() };
                    self.fed_at = now;
                    self.offered = Some((Arc::new(content), None));
                    self.offer_to_others();
                    if let Some(found) = self.found.take() {
                        let found = found.judged_by(layer);
                        tokio::spawn(search(found, Arc::clone(&self.landing), myself.clone()));
                    }
                }
                Output::Verified { piece } => verified.push(piece),
                Output::Reset { piece, chunks } => self.landing.release(piece, chunks),
                Output::Drop { source, why } => self.candidates.dropped(source, why),
                Output::Complete => self.ending = Some(Ending::Finishing),
            }
        }
        // Before anybody is told that it is verified.
        self.note(verified);
        if now.since(self.pieces_told_at) >= HAVE_INTERVAL {
            self.tell_pieces(now);
        }
        self.commit_when_due(myself, now);
        if self.ending.is_some() {
            self.finish_when_possible(myself);
        }
    }

    /// What others can be served while it is fetched.
    fn partial(&self, layer: Arc<PieceLayer>) -> Content {
        let FetchSettings { name, folder, part, pieces, .. } = &self.settings;
        let (name, part, have) = (name.clone(), Arc::clone(part), pieces.subscribe());
        match folder.clone() {
            Some(folder) => Content::partial_folder(layer, name, self.mtime, folder, part, have),
            None => Content::partial(layer, name, self.mtime, self.executable, part, have),
        }
    }

    /// These pieces are verified: a process that is killed now does not lose them, and the next commit syncs them.
    fn note(&mut self, verified: Vec<PieceIndex>) {
        let hashes = self.engine.layer().map_or(&[][..], |layer| layer.hashes());
        let hashed: Vec<_> =
            verified.iter().filter_map(|piece| Some((*piece, *hashes.get(piece.get() as usize)?))).collect();
        if let Err(error) = self.settings.part.note(&hashed)
            && !std::mem::replace(&mut self.note_failed, true)
        {
            tracing::warn!(%error, "a killed fetch would lose what was verified last");
        }
        self.uncommitted.extend(verified);
    }

    /// Dials whoever is due.
    async fn connect(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        if self.ending.is_some() {
            return;
        }
        for (source, addr) in self.candidates.due(now) {
            let arguments = SourceArguments {
                source,
                dialling: Dialling {
                    addr,
                    local: self.settings.local,
                    tls: self.settings.tls.clone(),
                    hello: self.settings.hello.clone(),
                    tries: Tries::default(),
                },
                root: self.settings.root,
                landing: Arc::clone(&self.landing),
                fetcher: myself.clone(),
                mode: self.settings.lane,
                budget: Arc::clone(&self.budget),
                clock: self.settings.clock,
                data: self.settings.data.clone(),
            };
            let spawned = Source::spawn_linked(None, Source, arguments, myself.get_cell()).await;
            let spawned = spawned.inspect_err(|error| tracing::error!(%error, "cannot start a source"));
            self.candidates.dialled(source, spawned.ok().map(|(actor, _)| actor));
        }
    }

    /// A source is connected; if it may be asked, the engine is told.
    fn ready(&mut self, source: SourceId, described: Described, now: Time) -> Option<Input> {
        let joined = self.candidates.ready(source, &described)?;
        // Perhaps it was removed between the handshake and this.
        self.trust_seen.1 = None;
        if joined.useful {
            // Whoever only comes and goes does not prolong the wait.
            self.fed_at = now;
        }
        if self.mtime.1 == 0 {
            self.mtime = described.mtime;
        }
        self.executable |= described.executable;
        Some(Input::SourceJoined { source, whole: described.whole })
    }

    /// What is to be seen to from time to time.
    fn watch_over(&mut self, myself: &ActorRef<FetcherMessage>, now: Time) {
        if self.engine.layer().is_some() {
            self.candidates.spread_lanes();
        }
        self.offer_to_others();
        self.tell_progress();
        if self.ending.is_some() {
            return;
        }
        self.part_with_untrusted(now);
        // That does not change while somebody waits for it; but others may only just be answering.
        if now.since(self.fed_at) >= self.settings.patience.min(OTHERS_ANSWER_MAX)
            && let Some(refused) = self.candidates.nobody_admitted()
        {
            return self.fail_for(myself, refused);
        }
        // Whether nobody is there or those who are give nothing, it comes to the same for whoever waits.
        if now.since(self.fed_at) >= self.settings.patience {
            self.fail_for(myself, self.candidates.drought());
        }
    }

    /// Ends the sessions with nodes that are not trusted any more.
    fn part_with_untrusted(&mut self, now: Time) {
        let (looked_at, seen) = self.trust_seen;
        if now.since(looked_at) < TRUST_INTERVAL {
            return;
        }
        let Tls { admission, me, .. } = &self.settings.tls;
        let version = admission.version();
        self.trust_seen = (now, version);
        if version != seen {
            self.candidates.part_with_others(|node| admission.admits(node, *me, true));
        }
    }

    /// Ends the fetch since nobody gives anything.
    fn fail_for(&mut self, myself: &ActorRef<FetcherMessage>, drought: Drought) {
        let what = format!("{} ({})", self.settings.name, self.settings.named.short());
        let error = drought.error(&what, self.engine.progress(), self.settings.patience);
        self.fail(myself, error);
    }

    /// Lets the node serve what is verified. A catalog that was restarted knows nothing of it and is told again.
    fn offer_to_others(&mut self) {
        let Some((content, told)) = &mut self.offered else { return };
        if let Some(catalog) = self.settings.catalog.actor().filter(|actor| *told != Some(actor.get_id())) {
            *told = Some(catalog.get_id());
            let _ = catalog.cast(CatalogMessage::AddPartial(Arc::clone(content)));
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
        let bytes = pieces.iter().map(|piece| self.engine.len_wanted(*piece)).sum();
        let (part, myself) = (Arc::clone(&self.settings.part), myself.clone());
        let committing = tokio::task::spawn_blocking(move || part.commit(&pieces).map(|()| bytes));
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
        self.commit_when_due(myself, self.settings.clock.now());
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
                let (part, force) = (Arc::clone(&self.settings.part), self.settings.force);
                let (mtime, executable, myself) = (self.mtime, self.executable, myself.clone());
                let mut is_meant = self.settings.is_meant.clone();
                tokio::spawn(async move {
                    if is_meant.wait_for(|meant| *meant).await.is_err() {
                        // Whoever could have said so is gone, and has no use for it.
                        myself.stop(None);
                        return;
                    }
                    let finishing =
                        tokio::task::spawn_blocking(move || part.finish(mtime, executable, force));
                    let finished = finishing.await.unwrap_or_else(|failed| Err(failed_inside(failed)));
                    let _ = myself.cast(FetcherMessage::Finished(finished));
                });
            }
        }
    }

    fn finished(&mut self, myself: &ActorRef<FetcherMessage>, result: Result<PathBuf, StoreError>) {
        let result = result.map_err(Error::from).map(|path| Report {
            path,
            size: self.engine.progress().bytes_total,
            root: self.settings.named,
            elapsed: self.settings.clock.now().since(self.begun),
            resumed: self.resumed,
            sources: self.candidates.reports(&self.engine),
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

    /// Lets others, and whoever reads along, know what is verified.
    fn tell_pieces(&mut self, now: Time) {
        if self.settings.pieces.borrow().count() != self.engine.have().count() {
            self.settings.pieces.send_replace(Arc::new(self.engine.have().clone()));
            self.pieces_told_at = now;
        }
    }

    fn tell_progress(&mut self) {
        let progress = self.engine.progress();
        self.tell_pieces(self.settings.clock.now());
        let joined = self.candidates.joined_count() > 0;
        let phase = match (&self.ending, joined) {
            (Some(Ending::Finishing), _) => Phase::Finishing,
            (_, false) => Phase::Waiting,
            (_, true) if self.engine.layer().is_none() => Phase::Describing,
            (_, true) => Phase::Fetching,
        };
        self.settings.progress.send_replace(Progress {
            phase,
            size: progress.bytes_total,
            bytes: progress.bytes,
            resumed: self.resumed,
            safe: self.safe,
            sources: self.candidates.reports(&self.engine),
        });
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

/// How long others that have the content may take to answer, where those that did are out of reach.
const OTHERS_ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often a fetch looks after itself.
const TICK: Duration = Duration::from_millis(50);

/// Where nothing was looked at for so long, this process did not get to run.
const OVERSLEPT_MIN: Duration = Duration::from_millis(200);
