//! The fetch engine: which chunks to ask from which source, when to ask again, whom to drop.
//!
//! It owns the plan of one fetch: who has what, what is asked from whom, what has come, which pieces are verified. It
//! never sees bytes, sockets or files: whoever receives a chunk claims its place, writes it, hashes it, and reports the
//! hash. It refuses to believe anybody: pieces are proved by the layer, the layer by the root. A crash loses the plan;
//! the verified pieces come back with [`FetchEngine::new`].
//!
//! # States
//!
//! A **piece** is in exactly one:
//!
//! * *fresh* (in `fresh`): nobody has been asked for any of it;
//! * *active* (in `active`): some chunks are here or asked for. In `open` as well while chunks are unassigned;
//!   With all chunks here it waits for the layer, if that is not known;
//! * *suspect* (in `active` and `suspects`): all chunks are here and do not prove the piece; its leaves are wanted;
//! * *verified* (in `have`, if all of it is wanted): for good. With nothing wanted of it, a piece counts as that at once.
//!
//! fresh → active when a source is asked, or a chunk comes late · active → verified or suspect with the last chunk ·
//! suspect → active when the bad chunks are known and reset · active → fresh only when too many are active.
//!
//! A **chunk** of an active piece is *unassigned*, *asked* (one or two copies), or *here*. asked → here when written,
//! by whatever request · asked → unassigned when its last copy is refused, lost, late, or its source goes ·
//! here → unassigned when proved wrong.
//!
//! A **request** is under way until it is answered to its end, cancelled, refused or lost. What it owes is *unanswered*;
//! the part that is counted on is *wanted*. A slow source's chunks are stolen by no longer wanting them from it; with
//! nothing wanted, it is cancelled.
//!
//! A **source** is *here* (in `sources`) or not. While here it is *responsive*, *silent* (late with everything: it is
//! probed with little, after all others) or *busy* (asked nothing until it said). Its statistics stay; a liar stays out.
//!
//! # Invariants
//!
//! Checked by [`FetchEngine::check_invariants`]: the states above exclude each other; no chunk has more than two copies
//! asked, nor two from one source; only what is missing is wanted, and everything that is asked and missing is wanted
//! from somebody; nothing is asked from who lacks it; every total equals the sum of its parts.

mod api;
mod check;
mod choose;
mod late;
mod order;
mod pace;
mod piece;
mod source;
mod steal;
mod swarm;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

pub use api::{DropReason, FetchConfig, Input, Lie, Output, Progress, SourceId, SourceStats};

use self::late::Intake;
use self::order::{PlaceSet, Shuffle};
use self::pace::Pace;
use self::piece::{ActivePiece, Asked};
use self::source::{Holding, Source};
use crate::chunk_set::{ChunkMask, PieceSet};
use crate::digest::Root;
use crate::geometry::{Geometry, PIECE_CHUNKS, PieceIndex};
use crate::merkle::PieceLayer;
use crate::time::Time;
use crate::wire::session::{Refusal, RequestId};

/// One running fetch.
#[derive(Debug)]
pub struct FetchEngine {
    config: FetchConfig,
    geometry: Geometry,
    root: Root,
    random: ChaCha8Rng,
    now: Time,
    outputs: VecDeque<Output>,

    layer: Option<Arc<PieceLayer>>,
    have: PieceSet,
    /// Chunks that are not wanted, by their pieces.
    skipped: BTreeMap<PieceIndex, ChunkMask>,
    /// Pieces of which others can be given all the same what is skipped of them.
    spared: PieceSet,
    /// How many pieces there is still something to get of.
    unfinished: u32,
    /// Bytes that are here and verified, and that are wanted in all.
    bytes: u64,
    bytes_total: u64,
    /// Pieces that nobody has begun, by their places in the order.
    fresh: PlaceSet,
    order: Shuffle,
    active: BTreeMap<PieceIndex, Box<ActivePiece>>,
    open: BTreeSet<PieceIndex>,
    suspects: BTreeSet<PieceIndex>,
    /// Chunks that are neither here nor asked for.
    unassigned: u64,
    /// Chunks that are not here.
    missing: u64,

    requests: BTreeMap<RequestId, PieceIndex>,
    next_request: u64,
    sources: BTreeMap<SourceId, Source>,
    stats: BTreeMap<SourceId, SourceStats>,
    liars: BTreeMap<SourceId, Lie>,
    joined: u32,
    /// Whether this machine is still being searched for chunks; nobody else is asked for any until it has been.
    searching: bool,
    /// How many sources with a part of the content have each piece; empty until there is such a source.
    availability: Vec<u16>,
    intake: Intake,
    /// What this fetch is called among those that fetch the same.
    name: Option<u64>,
    /// A source that is spared was not asked for what will soon come from others.
    holds_back: bool,
}

impl FetchEngine {
    /// A fetch of the content `root`, of which the pieces `have` are here and verified already.
    ///
    /// Panics if `have` is not of this geometry.
    pub fn new(config: FetchConfig, geometry: Geometry, root: Root, have: PieceSet, seed: u64) -> Self {
        Self::selecting(config, geometry, root, have, BTreeMap::new(), seed)
    }

    /// The same without the chunks `skipped`: of each piece all those of some files of a folder, or all of them.
    ///
    /// Pieces of which nothing else is wanted may be in `have` or not. Panics if a part of a file in a piece is skipped
    /// and another is not: nothing would prove that one.
    pub fn selecting(
        config: FetchConfig,
        geometry: Geometry,
        root: Root,
        mut have: PieceSet,
        mut skipped: BTreeMap<PieceIndex, ChunkMask>,
        seed: u64,
    ) -> Self {
        assert_eq!(have.geometry(), &geometry, "the pieces are those of this content");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let order = Shuffle::new(geometry.piece_count(), &mut random);
        let mut fresh = PlaceSet::full(geometry.piece_count());
        let (mut missing, mut unfinished) = (u64::from(geometry.chunk_count()), geometry.piece_count());
        let (mut bytes, mut bytes_total) = (have.bytes(), geometry.size());
        for piece in have.iter() {
            fresh.remove(order.place_of(piece.get()));
            missing -= u64::from(geometry.span_of(piece).count());
            unfinished -= 1;
        }
        skipped.retain(|_, chunks| !chunks.is_empty());
        for (&piece, &chunks) in &skipped {
            check::skips_files(&geometry, piece, chunks);
            let len = len_of(&geometry, piece, chunks);
            bytes_total -= len;
            if have.remove(piece) {
                bytes -= len;
                continue;
            }
            missing -= u64::from(chunks.count());
            if chunks == ChunkMask::of(geometry.span_of(piece)) {
                fresh.remove(order.place_of(piece.get()));
                unfinished -= 1;
            }
        }
        let spared = PieceSet::empty(geometry.clone());
        let mut engine = FetchEngine {
            config,
            geometry,
            root,
            random,
            now: Time::ZERO,
            outputs: VecDeque::new(),
            layer: None,
            have,
            skipped,
            spared,
            unfinished,
            bytes,
            bytes_total,
            fresh,
            order,
            active: BTreeMap::new(),
            open: BTreeSet::new(),
            suspects: BTreeSet::new(),
            unassigned: missing,
            missing,
            requests: BTreeMap::new(),
            next_request: 0,
            sources: BTreeMap::new(),
            stats: BTreeMap::new(),
            liars: BTreeMap::new(),
            joined: 0,
            searching: false,
            availability: Vec::new(),
            intake: Intake::default(),
            name: None,
            holds_back: false,
        };
        if let Some(layer) = PieceLayer::of_small(engine.geometry.clone(), root) {
            engine.set_layer(Arc::new(layer));
        }
        if engine.is_complete() {
            engine.outputs.push_back(Output::Complete);
        }
        engine
    }

    /// Asks nobody for chunks until this machine has been searched for them ([`Input::Found`], [`Input::Searched`]).
    pub fn search_first(&mut self) {
        self.searching = true;
    }

    /// Takes in what happened. Then drain [`FetchEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        if self.is_complete() {
            return;
        }
        match input {
            Input::SourceJoined { source, whole } => self.source_joined(source, whole),
            Input::SourceHas { source, pieces } => self.source_has(source, &pieces),
            Input::SourceFetches { source, name } => self.source_fetches(source, name),
            Input::SourceLeft { source } => self.remove_source(source),
            Input::LayerKnown(layer) => self.layer_known(layer),
            Input::Layer { source, hashes } => self.layer_answered(source, hashes),
            Input::LayerFailed { source } => self.layer_failed(source),
            Input::Arrived { source, request, first, leaves } => {
                self.arrived(source, request, first, &leaves);
            }
            Input::Refused { source, request, refusal } => self.refused(source, request, refusal),
            Input::Lost { source, requests } => self.lost(source, &requests),
            Input::Found { first, leaves } => self.found(first, &leaves),
            Input::Searched => self.searching = false,
            Input::Leaves { source, piece, leaves } => self.leaves_answered(source, piece, leaves),
            Input::LeavesFailed { source, piece } => self.leaves_failed(source, piece),
            Input::Overslept(lasted) => self.overslept(lasted),
            Input::Tick => {}
        }
        if self.is_complete() {
            self.outputs.push_back(Output::Complete);
            return;
        }
        self.expire();
        self.ask_for_layer();
        self.narrow_down();
        if !self.searching {
            self.schedule();
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How far the fetch is.
    pub fn progress(&self) -> Progress {
        Progress {
            pieces: self.geometry.piece_count() - self.unfinished,
            pieces_total: self.geometry.piece_count(),
            bytes: self.bytes,
            bytes_total: self.bytes_total,
        }
    }

    /// Bytes of a piece that are wanted, as [`FetchEngine::progress`] counts them.
    pub fn len_wanted(&self, piece: PieceIndex) -> u64 {
        let len = self.geometry.len_of(self.geometry.span_of(piece));
        len - self.skipped.get(&piece).map_or(0, |skipped| len_of(&self.geometry, piece, *skipped))
    }

    /// Whether everything that is wanted is verified.
    pub fn is_complete(&self) -> bool {
        self.unfinished == 0
    }

    /// Whether the fetch can only wait: no source that answers can give anything that is missing. One that is only busy
    /// can; one that was late with everything several times in a row cannot, nor one that never gives the layer.
    pub fn is_starved(&self) -> bool {
        let can_give = |source: &Source| {
            if self.layer.is_none() {
                return source.layer_attempts <= LAYER_ATTEMPTS_STARVED;
            }
            let fresh = match &source.holding {
                Holding::Whole => &self.fresh,
                Holding::Part { fresh, .. } => fresh,
            };
            source.pace.misses() < MISSES_STARVED
                && (!fresh.is_empty() || self.active.keys().any(|&piece| source.has(piece)))
        };
        !self.is_complete() && !self.sources.values().any(can_give)
    }

    /// What a source has done, if it ever joined.
    pub fn source_stats(&self, source: SourceId) -> Option<SourceStats> {
        self.stats.get(&source).copied()
    }

    /// What every source has done that ever joined, in the order of their numbers.
    pub fn all_stats(&self) -> impl Iterator<Item = (SourceId, SourceStats)> + '_ {
        self.stats.iter().map(|(&source, &stats)| (source, stats))
    }

    /// The verified pieces. One of which something is not wanted is never among them, unless it is spared.
    pub fn have(&self) -> &PieceSet {
        &self.have
    }

    /// The piece layer, once it is known.
    pub fn layer(&self) -> Option<&Arc<PieceLayer>> {
        self.layer.as_ref()
    }

    fn source_joined(&mut self, id: SourceId, whole: bool) {
        self.stats.entry(id).or_default();
        if let Some(&lie) = self.liars.get(&id) {
            self.outputs.push_back(Output::Drop { source: id, why: DropReason::Lied(lie) });
            return;
        }
        // Joining anew is a fresh start: whatever was under way with the old stay is gone.
        self.remove_source(id);
        let pieces = self.geometry.piece_count();
        // Multiples of the golden ratio fall far from each other, however many sources there will be.
        let slice = (f64::from(self.joined) * 0.618_033_988_749_895).fract();
        let cursor = (slice * f64::from(pieces)) as u32;
        self.joined = self.joined.wrapping_add(1);
        let pace = Pace::new(&self.config, self.now);
        self.sources.insert(id, Source::new(&self.geometry, whole, pace, cursor, self.now));
        if !whole {
            self.count_availability();
        }
    }

    /// The source is gone: what was asked from it goes back to the pool.
    fn remove_source(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(&id) else { return };
        let owed: Vec<RequestId> = source.queue.iter().copied().collect();
        self.release(&owed, Release::Gone);
        for piece in &self.suspects {
            if let Some(narrowing) = self.active.get_mut(piece).and_then(|piece| piece.narrowing.as_mut()) {
                narrowing.asked = narrowing.asked.filter(|&(asked, _)| asked != id);
            }
        }
        if let Some(Source { holding: Holding::Part { has, .. }, .. }) = self.sources.remove(&id) {
            for piece in has.iter() {
                if let Some(count) = self.availability.get_mut(piece.get() as usize) {
                    *count = count.saturating_sub(1);
                }
            }
        }
    }

    fn drop_source(&mut self, id: SourceId, why: DropReason) {
        let was_here = self.sources.contains_key(&id);
        self.remove_source(id);
        let is_news = match why {
            DropReason::Lied(lie) => self.liars.insert(id, lie).is_none(),
            DropReason::Gone(_) | DropReason::Unresponsive => was_here,
        };
        if is_news {
            self.outputs.push_back(Output::Drop { source: id, why });
        }
    }

    fn refused(&mut self, id: SourceId, request: RequestId, refusal: Refusal) {
        let piece = self.piece_of(id, request);
        if piece.is_some() {
            self.release(&[request], Release::Refused);
        }
        let Some(source) = self.sources.get_mut(&id) else { return };
        match (refusal, piece) {
            (Refusal::Busy { retry_after_ms }, _) => {
                let pause = retry_after_ms.clamp(BUSY_MS_MIN, BUSY_MS_MAX);
                source.busy_until = self.now + Duration::from_millis(u64::from(pause));
            }
            (Refusal::Missing, Some(piece)) => self.source_lacks(id, piece),
            (Refusal::Missing, None) => {}
            (Refusal::Unknown | Refusal::Changed | Refusal::Unreadable, _) => {
                self.drop_source(id, DropReason::Gone(refusal));
            }
        }
    }

    fn lost(&mut self, id: SourceId, requests: &[RequestId]) {
        let owed: Vec<_> =
            requests.iter().copied().filter(|&request| self.piece_of(id, request).is_some()).collect();
        self.release(&owed, Release::Lost);
    }

    /// The piece of a request that is under way with this source.
    fn piece_of(&self, id: SourceId, request: RequestId) -> Option<PieceIndex> {
        let source = self.sources.get(&id)?;
        source.queue.contains(&request).then(|| self.requests.get(&request).copied()).flatten()
    }

    /// Ends requests before their answers are complete; their chunks go back to the pool.
    fn release(&mut self, requests: &[RequestId], how: Release) {
        for &request in requests {
            let Some(piece) = self.requests.get(&request).copied() else { continue };
            let Some(asked) = self.finish(request) else { continue };
            let source = asked.source;
            if matches!(how, Release::Late | Release::Lost | Release::Gone)
                && let Some(stats) = self.stats.get_mut(&source)
            {
                stats.retransmitted += u64::from(asked.wanted.count());
            }
            if let Some(active) = self.active.get_mut(&piece) {
                if active.owner == Some(source) {
                    active.owner = None;
                }
                if !matches!(how, Release::Refused | Release::Gone) {
                    active.shunned = Some((source, asked.wanted));
                }
            }
            if matches!(how, Release::Late | Release::Cancelled) {
                self.outputs.push_back(Output::Cancel { source, request });
            }
        }
    }

    /// Takes a request off the books, and tells nobody.
    fn finish(&mut self, request: RequestId) -> Option<Asked> {
        let piece = self.requests.remove(&request)?;
        let asked = self.active.get_mut(&piece)?.take_asked(request)?;
        if let Some(source) = self.sources.get_mut(&asked.source) {
            source.queue.remove(&request);
            source.outstanding -= asked.unanswered.count();
            source.wanted -= asked.counted_wanted;
        }
        self.settle(piece);
        Some(asked)
    }

    /// Brings the totals in line after a change in an active piece.
    fn settle(&mut self, piece: PieceIndex) {
        let Some(active) = self.active.get_mut(&piece) else { return };
        let unassigned = active.unassigned().count();
        self.unassigned = self.unassigned + u64::from(unassigned) - u64::from(active.counted_unassigned);
        active.counted_unassigned = unassigned;
        for asked in active.asked_mut() {
            let wanted = asked.wanted.count();
            if let (true, Some(source)) =
                (wanted != asked.counted_wanted, self.sources.get_mut(&asked.source))
            {
                source.wanted = source.wanted + wanted - asked.counted_wanted;
                asked.counted_wanted = wanted;
            }
        }
        if unassigned > 0 {
            self.open.insert(piece);
        } else {
            self.open.remove(&piece);
        }
    }

    /// Begins a fresh piece.
    fn activate(&mut self, piece: PieceIndex) {
        let place = self.order.place_of(piece.get());
        assert!(self.fresh.remove(place), "only a fresh piece is begun");
        for source in self.sources.values_mut() {
            if let Holding::Part { fresh, .. } = &mut source.holding {
                fresh.remove(place);
            }
        }
        let chunks = ChunkMask::of(self.geometry.span_of(piece));
        let wanted = self.skipped.get(&piece).map_or(chunks, |skipped| chunks.without(*skipped));
        self.active.insert(piece, Box::new(ActivePiece::new(chunks.count(), wanted)));
        self.settle(piece);
    }

    /// Whether one more piece may be begun: without the layer, which takes a way there and back or may get lost on it, only
    /// as much as may turn out to be wrong.
    fn may_begin(&self) -> bool {
        self.layer.is_some() || self.active.len() < UNPROVED_PIECES_MAX
    }

    /// Makes room for one more active piece, where there are too many: one that nobody is asked for becomes fresh
    /// again. `false` if there is none.
    fn make_room(&mut self) -> bool {
        if self.active.len() < ACTIVE_PIECES_MAX {
            return true;
        }
        let idle =
            |piece: &&PieceIndex| self.active.get(piece).is_some_and(|active| active.asked().is_empty());
        let Some(piece) = self.open.iter().find(idle).copied() else { return false };
        let Some(active) = self.active.remove(&piece) else { return false };
        self.open.remove(&piece);
        let arrived = active.arrived();
        if !arrived.is_empty() {
            self.outputs.push_back(Output::Reset { piece, chunks: arrived });
        }
        self.unassigned += u64::from(arrived.count());
        self.missing += u64::from(arrived.count());
        let place = self.order.place_of(piece.get());
        self.fresh.insert(place);
        for source in self.sources.values_mut() {
            if let Holding::Part { has, fresh } = &mut source.holding
                && has.contains(piece)
            {
                fresh.insert(place);
            }
        }
        true
    }
}

/// Why a request ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    /// Not answered in time.
    Late,
    /// Its lane broke.
    Lost,
    /// Its source left or was dropped.
    Gone,
    /// The source refused it.
    Refused,
    /// It is not wanted any more.
    Cancelled,
}

/// The first run of a mask, of at most `count` chunks.
fn first_run(chunks: ChunkMask, count: u32) -> ChunkMask {
    let start = chunks.0.trailing_zeros();
    if start >= PIECE_CHUNKS {
        return ChunkMask::EMPTY;
    }
    let length = (chunks.0 >> start).trailing_ones().min(count);
    ChunkMask(ChunkMask::first(length).0 << start)
}

/// The last run of a mask, of at most `count` chunks.
fn last_run(chunks: ChunkMask, count: u32) -> ChunkMask {
    ChunkMask(first_run(ChunkMask(chunks.0.reverse_bits()), count).0.reverse_bits())
}

/// Most pieces begun at the same time: 256 sources with full windows. Each takes 2.5 KiB.
const ACTIVE_PIECES_MAX: usize = 4096;

/// Most pieces that are begun before the layer is known.
const UNPROVED_PIECES_MAX: usize = 256;

/// How often in a row a source was late with everything, or was asked for the layer, before it counts as no source.
const MISSES_STARVED: u32 = 3;
const LAYER_ATTEMPTS_STARVED: u32 = 3;

/// Shortest and longest time that a busy source is left alone, whatever it says.
const BUSY_MS_MIN: u32 = 20;
const BUSY_MS_MAX: u32 = 10_000;

/// Bytes of some chunks of a piece.
fn len_of(geometry: &Geometry, piece: PieceIndex, chunks: ChunkMask) -> u64 {
    chunks.spans(geometry, piece).into_iter().map(|span| geometry.len_of(span)).sum()
}
