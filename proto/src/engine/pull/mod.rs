//! Pulling chunks out of a lossy network: the asking side of the datagram lane to one source.
//!
//! A chunk travels in fragments, each in a datagram of its own. What is to be sent is asked for in Wants, and a Want is
//! at the same time the credit to send it and the request to send again what was lost. The source sends exactly what is
//! wanted and remembers nothing; all that is clever is here.
//!
//! A fragment's way:
//!
//! ```text
//! to be asked -> in flight -> arrived
//!      ^             |
//!      \--- lost ----/   later ones have arrived (a gap), or nothing has for a while (a time-out)
//! ```
//!
//! What always holds: what is in flight is at most the window, but for one Want where nothing is; a fragment that has
//! arrived is never asked for again; every fragment that is missing is in flight or to be asked; a chunk is complete
//! once; nothing is kept of what nobody asked for. [`PullEngine::check_invariants`] says it in code.
//!
//! * [`window`] decides how much may be in flight, by delay and delivery, and `losses` whether less of
//!   it means fewer losses;
//! * [`budget`] bounds the sum over all sources that share the way to this node;
//! * `path` finds how large datagrams may be;
//! * `flight` knows what is on its way and finds the gaps;
//! * [`choice`] decides between this lane and the stream lane.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::geometry::{CHUNK_SIZE, ChunkIndex, Geometry, Span};
use crate::limits::{WANT_CHUNKS_MAX, WANT_FRAGMENTS_MAX};
use crate::time::Time;
use crate::wire::datagram::{Asking, DataHead, FragmentMask, Layout, Want};
use crate::wire::session::RequestId;

pub mod budget;
pub mod choice;

mod flight;
mod losses;
mod path;
pub mod window;

use budget::{Budget, Member};
use flight::{Flight, Landed, SentWant};
use path::PathProbe;
use window::Window;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// These chunks are wanted from the source.
    Ask {
        /// Names the request; comes back with each of its chunks.
        request: RequestId,
        /// Which chunks.
        span: Span,
    },
    /// What has not come of this request is not wanted any more.
    Cancel {
        /// Which one.
        request: RequestId,
    },
    /// A probe came back.
    Padding {
        /// Its number.
        number: u32,
    },
    /// Nothing but that time has passed: [`PullEngine::deadline`] is here.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Seal and send this.
    Send(Asking),
    /// What has come of this chunk is of no use any more.
    Forget(ChunkIndex),
    /// The source has not answered for so long that this lane is of no use. Comes once, as the last output.
    Silent,
}

/// What to do with the bytes of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Put them into this place of the chunk.
    Keep {
        /// Which chunk.
        chunk: ChunkIndex,
        /// Which bytes of it.
        place: Range<usize>,
        /// The request that it belongs to, if the chunk is complete with them.
        completes: Option<RequestId>,
    },
    /// They are here already, or nobody wants them any more.
    Drop,
}

/// What a source sent against the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A chunk that the content does not have, or that its Want does not name.
    #[error("it sent a fragment that nobody asked for")]
    Unasked,
    /// A fragment that is longer or shorter than it must be.
    #[error("it sent a fragment of a wrong length")]
    Length,
}

/// How it went; for whoever wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullStatistics {
    /// Fragments asked for, those asked again among them.
    pub asked: u64,
    /// Fragments that came and were of use.
    pub arrived: u64,
    /// Fragments that were taken for lost and asked again.
    pub lost: u64,
    /// Fragments that came though they were here, or were not wanted any more.
    pub useless: u64,
    /// Fragments that came after they had been taken for lost.
    pub late: u64,
    /// How often nothing came for so long that everything in flight was taken for lost.
    pub time_outs: u64,
}

/// The asking side of one lane. See the [module](self).
#[derive(Debug)]
pub struct PullEngine {
    geometry: Geometry,
    member: Member,
    /// What is wanted and not complete.
    chunks: BTreeMap<ChunkIndex, Pending>,
    /// Chunks of which nothing was asked yet, in the order in which they were wanted.
    fresh: VecDeque<ChunkIndex>,
    /// Chunks of which something is lost.
    lost: VecDeque<ChunkIndex>,
    flight: Flight,
    window: Window,
    /// Bytes that the budget allowed last.
    allowed: u64,
    path: PathProbe,
    next_want: u32,
    /// Time-outs without anything in between.
    silent: u32,
    /// So many of them make it doubt whether datagrams of this size pass.
    silent_path: u32,
    /// When something came, or was asked while nothing was in flight.
    progress_at: Time,
    over: bool,
    statistics: PullStatistics,
    outputs: VecDeque<Output>,
}

/// A chunk that is not complete.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    layout: Layout,
    missing: FragmentMask,
    /// Those of the missing ones that are in flight.
    asked: FragmentMask,
    /// It stands in `fresh`.
    fresh: bool,
    /// It stands in `lost`.
    queued: bool,
}

impl PullEngine {
    /// An engine for a content of this geometry. `buffer_bytes` is what the receiving socket holds.
    pub fn new(geometry: Geometry, member: Member, buffer_bytes: u64, now: Time) -> Self {
        let mut engine = PullEngine {
            geometry,
            member,
            chunks: BTreeMap::new(),
            fresh: VecDeque::new(),
            lost: VecDeque::new(),
            flight: Flight::default(),
            window: Window::new(buffer_bytes, now),
            allowed: 0,
            path: PathProbe::new(now),
            next_want: 0,
            silent: 0,
            silent_path: SILENT_PATH,
            progress_at: now,
            over: false,
            statistics: PullStatistics::default(),
            outputs: VecDeque::new(),
        };
        engine.probe(now);
        engine
    }

    /// Takes in what happened. Then drain [`PullEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input, budget: &mut Budget) {
        if self.over {
            return;
        }
        match input {
            Input::Ask { request, span } => self.ask(request, span),
            Input::Cancel { request } => self.cancel(request),
            Input::Padding { number } => self.path.answered(number),
            Input::Tick => {}
        }
        self.proceed(now, budget);
    }

    /// Takes in that a fragment of so many bytes came, and says where its bytes belong. Then drain [`PullEngine::poll`];
    /// after several at once is soon enough if [`Input::Tick`] follows.
    ///
    /// # Errors
    /// If no honest source sends that.
    pub fn data(&mut self, now: Time, head: DataHead, len: usize) -> Result<Fate, Violation> {
        let chunk = self.geometry.chunk(head.chunk).ok_or(Violation::Unasked)?;
        let chunk_len = self.geometry.chunk_len(chunk);
        let landed = self.flight.landed(head.want, (chunk, head.fragment), len);
        let layout = match landed {
            Landed::Strange => return Err(Violation::Unasked),
            Landed::Misfit => return Err(Violation::Length),
            Landed::Forgotten => None,
            Landed::Known { layout, sent_at, early, late, again } => {
                if !again {
                    self.window.arrived(flight::weight(len), early.then(|| now.since(sent_at)));
                }
                self.statistics.late += u64::from(late);
                Some(layout)
            }
        };
        self.silent = 0;
        self.progress_at = now;
        let one = FragmentMask::one(head.fragment);
        let pending = self.chunks.get_mut(&chunk).filter(|pending| {
            !pending.missing.intersection(one).is_empty()
                && layout.is_none_or(|layout| layout == pending.layout)
                && pending.layout.range(chunk_len, head.fragment).len() == len
        });
        let Some(pending) = pending else {
            self.statistics.useless += 1;
            return Ok(Fate::Drop);
        };
        pending.missing = pending.missing.without(one);
        pending.asked = pending.asked.without(one);
        self.statistics.arrived += 1;
        let place = pending.layout.range(chunk_len, head.fragment);
        let completes = pending.missing.is_empty().then_some(pending.request);
        if completes.is_some() {
            self.complete(chunk);
        }
        Ok(Fate::Keep { chunk, place, completes })
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        [self.time_out_at(), self.path.due()].into_iter().flatten().min()
    }

    /// How it went so far.
    pub fn statistics(&self) -> PullStatistics {
        self.statistics
    }

    /// How datagrams are cut now.
    pub fn layout(&self) -> Layout {
        self.path.layout()
    }

    /// Bytes in flight: asked for, neither here nor lost. Very short fragments count for more than they have.
    pub fn in_flight(&self) -> u64 {
        self.flight.bytes()
    }

    /// How much might be in flight when something happened last: the source's part of the budget.
    pub fn allowed(&self) -> u64 {
        self.allowed
    }

    /// How much may be in flight, as far as this source alone is concerned.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Bytes of the chunks that are wanted and not complete.
    pub fn wanted_bytes(&self) -> u64 {
        self.chunks.len() as u64 * u64::from(CHUNK_SIZE)
    }

    /// Whether nothing is wanted.
    pub fn is_idle(&self) -> bool {
        self.chunks.is_empty()
    }

    fn ask(&mut self, request: RequestId, span: Span) {
        for chunk in span.chunks() {
            if let Some(pending) = self.chunks.get_mut(&chunk) {
                pending.request = request;
                continue;
            }
            let layout = self.path.layout();
            let missing = layout.all(self.geometry.chunk_len(chunk));
            let asked = FragmentMask::EMPTY;
            self.chunks
                .insert(chunk, Pending { request, layout, missing, asked, fresh: true, queued: false });
            self.fresh.push_back(chunk);
        }
    }

    fn cancel(&mut self, request: RequestId) {
        let outputs = &mut self.outputs;
        self.chunks.retain(|chunk, pending| {
            let stays = pending.request != request;
            if !stays {
                outputs.push_back(Output::Forget(*chunk));
            }
            stays
        });
        self.fresh.retain(|chunk| self.chunks.contains_key(chunk));
        self.lost.retain(|chunk| self.chunks.contains_key(chunk));
    }

    /// Nothing is missing of it any more. What came late may have completed it while it still waited to be asked for.
    fn complete(&mut self, chunk: ChunkIndex) {
        let Some(pending) = self.chunks.remove(&chunk) else { return };
        if pending.queued {
            self.lost.retain(|queued| *queued != chunk);
        } else if pending.fresh {
            self.fresh.retain(|fresh| *fresh != chunk);
        }
    }

    /// Finds what is lost, adjusts the window, and asks for as much as it allows.
    fn proceed(&mut self, now: Time, budget: &mut Budget) {
        for (chunk, fragments) in self.flight.gaps() {
            self.take_for_lost(chunk, fragments);
        }
        if self.time_out_at().is_some_and(|at| at <= now) {
            self.time_out(now);
            if self.over {
                return;
            }
        }
        if self.path.changed() {
            self.cut_anew();
        }
        self.probe(now);
        let limited = self.flight.bytes() + self.want_bytes(self.window.bytes()) > self.window.bytes();
        self.window.adjust(now, limited || !self.nothing_to_ask());
        self.allowed = budget.allow(now, self.member, &self.window);
        while self.send_want(now, self.allowed) {}
    }

    fn nothing_to_ask(&self) -> bool {
        self.fresh.is_empty() && self.lost.is_empty()
    }

    fn take_for_lost(&mut self, chunk: ChunkIndex, fragments: FragmentMask) {
        self.statistics.lost += u64::from(fragments.count());
        self.window.lost(fragments.count());
        self.ask_again(chunk, fragments);
    }

    fn ask_again(&mut self, chunk: ChunkIndex, fragments: FragmentMask) {
        // One that was cancelled and wanted again waits among the fresh ones, whatever is lost of it.
        let Some(pending) = self.chunks.get_mut(&chunk).filter(|pending| !pending.fresh) else { return };
        pending.asked = pending.asked.without(fragments);
        if !pending.missing.without(pending.asked).is_empty() && !std::mem::replace(&mut pending.queued, true)
        {
            self.lost.push_back(chunk);
        }
    }

    /// When everything in flight is taken for lost.
    fn time_out_at(&self) -> Option<Time> {
        let sent_at = self.flight.oldest()?;
        let patience = self.window.patience().saturating_mul(1 << self.silent.min(6));
        Some(sent_at.max(self.progress_at) + patience.min(PATIENCE_MAX))
    }

    fn time_out(&mut self, now: Time) {
        self.statistics.time_outs += 1;
        if self.silent == 0 {
            // Where much is lost, everything in flight may be without a reason.
            self.silent_path = if self.window.loss() > LOSSY { SILENT_PATH_LOSSY } else { SILENT_PATH };
        }
        self.silent += 1;
        self.progress_at = now;
        for (chunk, fragments) in self.flight.give_up() {
            self.take_for_lost(chunk, fragments);
        }
        if self.silent > 1 {
            self.window.collapsed();
        }
        if self.silent >= SILENT_MAX {
            self.over = true;
            self.allowed = 0;
            self.outputs.push_back(Output::Silent);
        } else if self.silent >= self.silent_path {
            // Perhaps datagrams of this size do not pass any more.
            self.path.fall_back(now);
        }
    }

    /// Datagrams are smaller now than those that were asked for: what is not complete is asked for anew.
    fn cut_anew(&mut self) {
        let layout = self.path.layout();
        let too_large: Vec<ChunkIndex> = self
            .chunks
            .iter()
            .filter(|(_, pending)| pending.layout.fragment_len() > layout.fragment_len())
            .map(|(chunk, _)| *chunk)
            .collect();
        if !too_large.is_empty() {
            for (chunk, fragments) in self.flight.give_up() {
                self.ask_again(chunk, fragments);
            }
        }
        for chunk in too_large {
            let all = layout.all(self.geometry.chunk_len(chunk));
            let Some(pending) = self.chunks.get_mut(&chunk) else { continue };
            (pending.layout, pending.missing, pending.asked) = (layout, all, FragmentMask::EMPTY);
            // What was never asked still stands among the fresh ones.
            if !pending.queued && !pending.fresh {
                pending.queued = true;
                self.lost.push_back(chunk);
            }
        }
    }

    fn probe(&mut self, now: Time) {
        while let Some((number, bytes)) = self.path.probe(now) {
            self.outputs.push_back(Output::Send(Asking::Probe { number, bytes }));
        }
    }

    /// Bytes that one Want asks for: a part of the window, so that there are several on their way.
    fn want_bytes(&self, allowed: u64) -> u64 {
        let fragment = self.path.layout().fragment_len() as u64;
        let least = (WANT_FRAGMENTS_MIN * fragment).min(WANT_BYTES_MIN).max(fragment);
        // A Want that is lost takes its part of the window with it, and nothing may come when all of them are.
        let parts = if self.window.loss() > LOSSY { WANTS_IN_FLIGHT_LOSSY } else { WANTS_IN_FLIGHT };
        (allowed / parts).clamp(least, WANT_BYTES_MAX)
    }

    /// Asks for one Want more if that may be in flight. Lost fragments go before others.
    fn send_want(&mut self, now: Time, allowed: u64) -> bool {
        let bytes = self.want_bytes(allowed);
        if self.nothing_to_ask() || (self.flight.bytes() > 0 && self.flight.bytes() + bytes > allowed) {
            return false;
        }
        let layout = self.next_layout();
        let room = (bytes / layout.fragment_len() as u64).clamp(1, u64::from(WANT_FRAGMENTS_MAX)) as u32;
        let chunks = self.take_chunks(layout, room);
        if chunks.is_empty() {
            return false;
        }
        let want = Want { number: self.next_want, layout, chunks };
        self.next_want = self.next_want.wrapping_add(1);
        self.statistics.asked += u64::from(want.fragments());
        if self.flight.bytes() == 0 {
            self.progress_at = self.progress_at.max(now);
        }
        self.flight.sent(SentWant::new(&want, now, &self.geometry));
        self.outputs.push_back(Output::Send(Asking::Want(want)));
        true
    }

    /// How the next chunk is cut: one of which something came already as it was, any other as the path allows.
    fn next_layout(&self) -> Layout {
        let partial = self.lost.iter().find_map(|chunk| self.chunks.get(chunk));
        partial.map_or(self.path.layout(), |pending| pending.layout)
    }

    /// Chunks and fragments for one Want of this layout.
    fn take_chunks(&mut self, layout: Layout, mut room: u32) -> Vec<(ChunkIndex, FragmentMask)> {
        let mut taken = Vec::new();
        while room > 0 && taken.len() < WANT_CHUNKS_MAX {
            let Some((chunk, is_lost)) = self.front() else { break };
            let Some(pending) = self.chunks.get_mut(&chunk) else {
                self.drop_front(is_lost);
                continue;
            };
            if !is_lost && pending.asked.is_empty() && pending.layout != layout {
                // Nothing of it was asked yet, so it can be cut in any way.
                pending.layout = layout;
                pending.missing = layout.all(self.geometry.chunk_len(chunk));
            }
            if pending.layout != layout {
                break;
            }
            let open = pending.missing.without(pending.asked);
            let mask = first(open, room);
            pending.asked = pending.asked.union(mask);
            let done = mask == open;
            pending.fresh = false;
            if done {
                pending.queued = false;
            }
            room -= mask.count();
            if !mask.is_empty() {
                taken.push((chunk, mask));
            }
            if done {
                self.drop_front(is_lost);
            } else if !is_lost {
                // The rest of it is asked before anything else, and cut as this part is.
                pending.queued = true;
                self.drop_front(false);
                self.lost.push_front(chunk);
            }
        }
        taken
    }

    fn front(&self) -> Option<(ChunkIndex, bool)> {
        let lost = self.lost.front().map(|chunk| (*chunk, true));
        lost.or_else(|| self.fresh.front().map(|chunk| (*chunk, false)))
    }

    fn drop_front(&mut self, is_lost: bool) {
        if is_lost {
            self.lost.pop_front()
        } else {
            self.fresh.pop_front()
        };
    }

    /// Panics if what must always hold between two inputs does not; for tests.
    pub fn check_invariants(&self) {
        self.flight.check();
        for (chunk, pending) in &self.chunks {
            assert!(!pending.missing.is_empty(), "a complete chunk is gone");
            assert!(pending.asked.without(pending.missing).is_empty(), "what has arrived is not asked for");
            let open = !pending.missing.without(pending.asked).is_empty();
            assert_eq!(pending.queued, self.lost.contains(chunk));
            assert_eq!(pending.fresh, self.fresh.contains(chunk));
            assert!(!open || pending.queued || pending.fresh, "what is missing will be asked");
            assert!(!(pending.queued && pending.fresh), "a chunk waits in one queue");
        }
        let waiting = self.chunks.values().filter(|pending| pending.queued || pending.fresh).count();
        assert_eq!(waiting, self.fresh.len() + self.lost.len(), "and once, and only if it is wanted");
        let mut in_flight: BTreeMap<ChunkIndex, FragmentMask> = BTreeMap::new();
        for (chunk, fragment) in self.flight.all() {
            let mask = in_flight.entry(chunk).or_default();
            *mask = mask.union(fragment);
        }
        for (chunk, pending) in &self.chunks {
            let in_flight = in_flight.get(chunk).copied().unwrap_or_default();
            assert!(pending.asked.without(in_flight).is_empty(), "what counts as asked is in flight");
        }
    }
}

/// The first so many of them.
fn first(mask: FragmentMask, count: u32) -> FragmentMask {
    mask.iter().take(count as usize).fold(FragmentMask::EMPTY, |all, one| all.union(FragmentMask::one(one)))
}

/// Wants that fit the window.
const WANTS_IN_FLIGHT: u64 = 5;

/// The same where more than this share of fragments is lost. With more of them, and smaller ones, the two sides do little else
/// than to wake each other.
const LOSSY: f64 = 0.02;
const WANTS_IN_FLIGHT_LOSSY: u64 = 6;

/// A Want asks for at least so many fragments, or so many bytes if that is less.
const WANT_FRAGMENTS_MIN: u64 = 2;
const WANT_BYTES_MIN: u64 = 8 * 1024;

/// A Want asks for at most so many bytes.
const WANT_BYTES_MAX: u64 = 128 * 1024;

/// Longest wait before everything in flight is taken for lost.
const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// Time-outs in a row after which smaller datagrams are tried, also where much is lost anyway; and after which the lane
/// is given up.
const SILENT_PATH: u32 = 2;
const SILENT_PATH_LOSSY: u32 = 4;
const SILENT_MAX: u32 = 8;
