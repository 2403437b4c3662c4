//! What has come: chunks, whether they prove their piece, and who lied if they do not.

use std::sync::Arc;
use std::time::Duration;

use crate::chunk_set::{ChunkMask, PieceSet};
use crate::digest::Digest;
use crate::geometry::{ChunkIndex, PieceIndex};
use crate::merkle::PieceLayer;
use crate::wire::session::RequestId;

use super::piece::Narrowing;
use super::{DropReason, FetchEngine, Lie, Output, SourceId};

impl FetchEngine {
    /// Says that others can be given all of these pieces once what is wanted of them is verified: what is skipped of them
    /// is on this machine in another way. To be said before anything else.
    ///
    /// Panics if they are not of this geometry.
    pub fn spare(&mut self, pieces: PieceSet) {
        assert_eq!(pieces.geometry(), &self.geometry, "the pieces are those of this content");
        for piece in pieces.iter().filter(|piece| !self.fresh.contains(self.order.place_of(piece.get()))) {
            self.have.insert(piece);
        }
        self.spared = pieces;
    }

    pub(super) fn arrived(
        &mut self,
        id: SourceId,
        request: RequestId,
        first: ChunkIndex,
        leaves: &[Option<Digest>],
    ) {
        let piece = first.piece();
        let Some(run) = self.run_of(first, leaves.len()) else { return };
        // A request that is over is not known any more, but what is written is written. One that was never made, or is
        // another's, or about other chunks, is not reported by an honest receiver.
        if request.0 >= self.next_request || !self.stats.contains_key(&id) {
            return;
        }
        let under_way =
            self.requests.get(&request).and_then(|piece| self.active.get(piece)?.find_asked(request));
        if under_way.is_some_and(|asked| {
            asked.source != id
                || !run.without(ChunkMask::of(asked.span)).is_empty()
                || asked.span.first().piece() != piece
        }) {
            return;
        }
        let asked_at = under_way.map(|asked| asked.at);
        let answered = self.active.get_mut(&piece).map_or(0, |active| active.answer(request, run));
        if let Some(source) = self.sources.get_mut(&id) {
            source.outstanding -= answered;
            self.intake.add(self.now, run.count());
            source.pace.arrived(self.now, run.count(), asked_at, source.outstanding == 0);
        }
        let written = leaves.iter().flatten().count() as u64;
        if written > 0 && self.fresh.contains(self.order.place_of(piece.get())) {
            self.activate(piece);
        }
        let taken = self.put(id, piece, first.in_piece(), leaves);
        if let Some(stats) = self.stats.get_mut(&id) {
            stats.duplicates += leaves.len() as u64 - taken;
        }
        self.convict_by_truth(piece, run);
        self.settle(piece);
        self.conclude(piece);
        self.judge(piece);
    }

    /// Chunks that were here all the time may be right. Nobody is to blame if they are not.
    pub(super) fn found(&mut self, first: ChunkIndex, leaves: &[Digest]) {
        let piece = first.piece();
        let Some(run) = self.run_of(first, leaves.len()) else { return };
        if self.fresh.contains(self.order.place_of(piece.get())) {
            if !self.may_begin() || !self.make_room() {
                self.outputs.push_back(Output::Reset { piece, chunks: run });
                return;
            }
            self.activate(piece);
        }
        let leaves: Vec<Option<Digest>> = leaves.iter().copied().map(Some).collect();
        self.put(SourceId::DISK, piece, first.in_piece(), &leaves);
        self.convict_by_truth(piece, run);
        self.settle(piece);
        self.conclude(piece);
        self.judge(piece);
    }

    /// The places of a run of `count` chunks, if it lies within one piece of the content.
    fn run_of(&self, first: ChunkIndex, count: usize) -> Option<ChunkMask> {
        let piece = self.geometry.piece(first.piece().get())?;
        let span = self.geometry.span(first.get(), u32::try_from(count).ok()?)?;
        self.geometry.span_of(piece).contains(span).then(|| ChunkMask::of(span))
    }

    /// Takes in the chunks that were written and were missing. Returns how many.
    fn put(&mut self, id: SourceId, piece: PieceIndex, start: u32, leaves: &[Option<Digest>]) -> u64 {
        let Some(active) = self.active.get_mut(&piece) else { return 0 };
        let mut taken = 0;
        for (place, leaf) in (start..).zip(leaves) {
            if let Some(leaf) = leaf
                && active.put(place, *leaf, id)
            {
                taken += 1;
            }
        }
        self.missing -= taken;
        taken
    }

    /// Ends the requests that nobody counts on any more.
    pub(super) fn conclude(&mut self, piece: PieceIndex) {
        let done = self.active.get(&piece).map(|active| active.done_with()).unwrap_or_default();
        for request in done {
            let Some(asked) = self.finish(request) else { continue };
            if !asked.unanswered.is_empty() {
                self.outputs.push_back(Output::Cancel { source: asked.source, request });
            } else if let Some(source) = self.sources.get_mut(&asked.source) {
                source.pace.answered(self.now, asked.at);
            }
        }
    }

    /// A piece that has all its chunks is verified or suspect.
    fn judge(&mut self, piece: PieceIndex) {
        let Some(active) = self.active.get_mut(&piece).filter(|active| active.is_whole()) else { return };
        let Some(layer) = &self.layer else { return };
        if !layer.proves_part(piece, active.leaves(), active.all()) {
            active.narrowing.get_or_insert_default();
            self.suspects.insert(piece);
            return;
        }
        let Some(active) = self.active.remove(&piece) else { return };
        for (chunk, source) in self.geometry.span_of(piece).chunks().zip(active.from()) {
            if !active.all().contains(chunk.in_piece()) {
                continue;
            }
            let len = u64::from(self.geometry.chunk_len(chunk));
            self.bytes += len;
            if let Some(stats) = self.stats.get_mut(source) {
                stats.chunks += 1;
                stats.bytes += len;
            }
        }
        self.unfinished -= 1;
        if !self.skipped.contains_key(&piece) || self.spared.contains(piece) {
            self.have.insert(piece);
        }
        self.outputs.push_back(Output::Verified { piece });
    }

    /// Compares chunks with the right leaves, where those had to be asked for: the wrong ones name their senders.
    fn convict_by_truth(&mut self, piece: PieceIndex, chunks: ChunkMask) {
        let Some(active) = self.active.get_mut(&piece) else { return };
        let Some(truth) = &active.truth else { return };
        let mut bad = ChunkMask::EMPTY;
        let mut liars = Vec::new();
        let here =
            active.leaves().iter().zip(truth).zip(active.from()).zip(self.geometry.span_of(piece).chunks());
        for (((leaf, right), &source), chunk) in here {
            let place = ChunkMask(1 << chunk.in_piece());
            if leaf != right && !chunks.intersection(active.arrived()).intersection(place).is_empty() {
                bad = bad.union(place);
                liars.push((source, chunk));
            }
        }
        self.reset(piece, bad);
        for (source, chunk) in liars.into_iter().filter(|(source, _)| *source != SourceId::DISK) {
            if let Some(stats) = self.stats.get_mut(&source) {
                stats.bad += 1;
                stats.retransmitted += 1;
            }
            self.drop_source(source, DropReason::Lied(Lie::Chunk(chunk)));
        }
    }

    /// These chunks are not here after all.
    fn reset(&mut self, piece: PieceIndex, chunks: ChunkMask) {
        let Some(active) = self.active.get_mut(&piece).filter(|_| !chunks.is_empty()) else { return };
        active.reset(chunks);
        active.narrowing = None;
        self.suspects.remove(&piece);
        self.missing += u64::from(chunks.count());
        self.outputs.push_back(Output::Reset { piece, chunks });
        self.settle(piece);
    }

    pub(super) fn leaves_answered(&mut self, id: SourceId, piece: PieceIndex, leaves: Vec<Digest>) {
        let Some(active) = self.active.get_mut(&piece) else { return };
        // An answer that comes late is as good as one in time, from whoever was asked.
        let is_asked =
            active.narrowing.as_ref().is_some_and(|narrowing| narrowing.attempts.contains_key(&id));
        let Some(layer) = self.layer.as_ref().filter(|_| is_asked && self.sources.contains_key(&id)) else {
            return;
        };
        if layer.proves(piece, &leaves) {
            let all = active.all();
            active.truth = Some(leaves);
            self.convict_by_truth(piece, all);
        } else {
            self.drop_source(id, DropReason::Lied(Lie::Leaves(piece)));
        }
    }

    pub(super) fn leaves_failed(&mut self, id: SourceId, piece: PieceIndex) {
        let narrowing = self.active.get_mut(&piece).and_then(|active| active.narrowing.as_mut());
        let Some(narrowing) = narrowing else { return };
        if narrowing.asked.is_some_and(|(asked, _)| asked == id) {
            narrowing.asked = None;
            let attempts = narrowing.attempts.get(&id).copied().unwrap_or(0);
            narrowing.retry_at = self.now + HASHES_PAUSE.saturating_mul(attempts);
        }
    }

    /// Sees to it that somebody is asked for the leaves of every suspect piece.
    pub(super) fn narrow_down(&mut self) {
        let suspects: Vec<PieceIndex> = self.suspects.iter().copied().collect();
        for piece in suspects {
            self.narrow_down_piece(piece);
        }
    }

    fn narrow_down_piece(&mut self, piece: PieceIndex) {
        let now = self.now;
        let Some(active) = self.active.get_mut(&piece) else { return };
        let mut senders = active.from().to_vec();
        senders.dedup();
        let Some(Narrowing { asked, attempts, retry_at }) = &mut active.narrowing else { return };
        if asked.is_some_and(|(_, due)| due > now) || *retry_at > now {
            return;
        }
        *asked = None;
        // Whoever was asked least, and rather one that has not sent any of it.
        let tries = |id: &SourceId| attempts.get(id).copied().unwrap_or(0);
        let next = self
            .sources
            .iter()
            .filter(|(_, source)| source.has(piece))
            .map(|(&id, _)| (tries(&id), senders.contains(&id), id))
            .min();
        match next {
            Some((tries, _, id)) if tries < LEAVES_ATTEMPTS_MAX => {
                attempts.insert(id, tries + 1);
                *asked = Some((id, now + LEAVES_PATIENCE));
                self.outputs.push_back(Output::AskLeaves { source: id, piece });
            }
            Some(_) => self.give_up_narrowing(piece),
            // Nobody has it: whoever comes next is asked.
            None => {}
        }
    }

    /// Nobody tells the leaves. If one source sent everything it lied; else all of it is fetched anew, until one has
    /// sent everything or somebody tells.
    fn give_up_narrowing(&mut self, piece: PieceIndex) {
        let Some(active) = self.active.get(&piece) else { return };
        let (all, liar) = (active.all(), active.only_source());
        self.reset(piece, all);
        let Some(liar) = liar.filter(|source| *source != SourceId::DISK) else { return };
        if let Some(stats) = self.stats.get_mut(&liar) {
            // At least one; which ones is not known.
            stats.bad += 1;
            stats.retransmitted += u64::from(all.count());
        }
        self.drop_source(liar, DropReason::Lied(Lie::Piece(piece)));
    }

    pub(super) fn layer_known(&mut self, layer: Arc<PieceLayer>) {
        if self.layer.is_none() && layer.root() == self.root && *layer.geometry() == self.geometry {
            self.set_layer(layer);
        }
    }

    pub(super) fn set_layer(&mut self, layer: Arc<PieceLayer>) {
        self.layer = Some(layer.clone());
        self.outputs.push_back(Output::LayerReady(layer));
        // What came before it is judged now.
        let waiting: Vec<PieceIndex> = self.active.keys().copied().collect();
        for piece in waiting {
            self.judge(piece);
        }
    }

    pub(super) fn layer_answered(&mut self, id: SourceId, hashes: Vec<Digest>) {
        if self.layer.is_some() || !self.sources.contains_key(&id) {
            return;
        }
        match PieceLayer::verify(self.geometry.clone(), self.root, hashes) {
            Ok(layer) => self.set_layer(Arc::new(layer)),
            Err(_) => self.drop_source(id, DropReason::Lied(Lie::Layer)),
        }
    }

    pub(super) fn layer_failed(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.layer_due = None;
            source.layer_retry_at =
                self.now + HASHES_PAUSE.saturating_mul(source.layer_attempts.clamp(1, 16));
        }
    }

    /// Sees to it that somebody is asked for the layer, and another one when that takes too long.
    pub(super) fn ask_for_layer(&mut self) {
        let now = self.now;
        if self.layer.is_some()
            || self.sources.values().any(|source| source.layer_due.is_some_and(|due| due > now))
        {
            return;
        }
        let patience = self.layer_patience();
        let ready = self.sources.iter_mut().filter(|(_, source)| source.layer_retry_at <= now);
        if let Some((&id, source)) = ready.min_by_key(|(_, source)| source.layer_attempts) {
            source.layer_attempts += 1;
            source.layer_due = Some(now + patience.saturating_mul(source.layer_attempts.min(4)));
            self.outputs.push_back(Output::AskLayer { source: id });
        }
    }

    /// Time for an answer with the whole layer: at a mebibyte a second even a huge one comes in time.
    fn layer_patience(&self) -> Duration {
        LEAVES_PATIENCE + Duration::from_micros(u64::from(self.geometry.piece_count()) * 32)
    }
}

/// How long to wait for leaves before another source is asked.
const LEAVES_PATIENCE: Duration = Duration::from_secs(2);

/// How often each source is asked for the leaves of a piece before they are given up.
const LEAVES_ATTEMPTS_MAX: u32 = 3;

/// Pause after a source would not give hashes, longer each time.
const HASHES_PAUSE: Duration = Duration::from_millis(250);
