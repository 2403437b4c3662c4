//! The truth about a fetch in virtual time: every request, reset and verdict of the engine is held against it.

use std::collections::BTreeSet;
use std::ops::Range;

use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::engine::fetch::{DropReason, Lie, SourceId};
use ftx_proto::geometry::{PieceIndex, Span};
use ftx_proto::time::Time;
use ftx_proto::wire::session::RequestId;

use super::{FOUND, Peer, Question, World};

impl World {
    pub(super) fn settle_asked(&mut self, id: SourceId, request: RequestId, run: Range<u32>) {
        let asked = &mut self.peers.get_mut(&id).unwrap().asked;
        if let Some(chunks) = asked.get_mut(&request) {
            chunks.retain(|chunk| !run.contains(chunk));
            if chunks.is_empty() {
                asked.remove(&request);
            }
        }
    }

    pub(super) fn check_request(&mut self, id: SourceId, request: RequestId, span: Span) {
        assert!(self.requests_made.insert(request), "no request number is used twice");
        assert!(!self.searching, "this machine is searched first");
        let piece = span.first().piece();
        assert!(self.content.geometry.span_of(piece).contains(span), "a request lies in one piece");
        for chunk in span.chunks().map(|chunk| chunk.get()) {
            assert!(!self.reported.contains(&chunk), "what is here is not asked for");
            let chunk_of = self.content.geometry.chunk(chunk).expect("a request names chunks");
            assert!(self.content.is_wanted(chunk_of), "what is not wanted is not asked for");
            if self.check_always {
                let copies =
                    self.peers.values().flat_map(|peer| peer.asked.values()).filter(|a| a.contains(&chunk));
                assert!(copies.count() < 2, "never more than two copies");
                assert!(!self.peers[&id].asked.values().any(|asked| asked.contains(&chunk)));
            }
        }
        let peer = self.peers.get_mut(&id).unwrap();
        assert!(peer.here && !peer.banned, "only who is here is asked");
        assert!(peer.announced.contains(piece), "nothing is asked from who lacks it");
        peer.asked.insert(request, span.chunks().map(|chunk| chunk.get()).collect());
        let outstanding: usize = peer.asked.values().map(BTreeSet::len).sum();
        assert!(outstanding as u32 <= self.window_chunks_max, "the window holds");
        self.requested_chunks += u64::from(span.count());
        self.send(id, Question::Request(request, span));
    }

    pub(super) fn check_verified(&mut self, piece: PieceIndex) {
        assert!(self.done.insert(piece), "a piece is verified once");
        for chunk in self.content.wanted_chunks(piece) {
            let (leaf, from) = self.written[chunk.get() as usize].expect("verified chunks are written");
            assert!(self.content.is_right(chunk.get(), leaf), "verified chunks are right");
            self.found_chunks += u64::from(from == FOUND);
        }
        self.done_bytes += self.content.wanted_bytes(piece);
        if !self.content.skipped.contains_key(&piece) {
            self.whole.insert(piece);
        }
    }

    /// What the engine says of itself is exact after every input.
    pub(super) fn check_progress(&self) {
        assert_eq!(self.engine.have(), &self.whole, "only what is here as a whole is told");
        let progress = self.engine.progress();
        assert_eq!((progress.pieces, progress.bytes), (self.done.count(), self.done_bytes));
        assert!(
            self.engine.all_stats().all(|(id, _)| self.peers.contains_key(&id)),
            "only sources have statistics"
        );
    }

    pub(super) fn reset(&mut self, piece: PieceIndex, chunks: ChunkMask) {
        assert!(!chunks.is_empty() && !self.done.contains(piece), "what is verified stays");
        for place in chunks.iter() {
            let chunk = (piece.get() * 64 + place) as usize;
            let (leaf, _) = self.written[chunk].take().expect("only what is written is reset");
            let is_right = self.content.is_right(chunk as u32, leaf);
            assert!(!is_right || !self.leaves_always_come(), "what is right is kept");
            assert!(self.reported.remove(&(chunk as u32)));
        }
    }

    pub(super) fn check_drop(&mut self, id: SourceId, why: DropReason) {
        self.dropped.push((id, why));
        let peer = self.peers.get_mut(&id).unwrap();
        match why {
            DropReason::Lied(lie) => {
                let really = match lie {
                    Lie::Layer | Lie::Leaves(_) => peer.lied_about_hashes,
                    Lie::Chunk(chunk) => peer.lies_told.contains(&chunk.get()),
                    Lie::Piece(piece) => peer.lies_told.iter().any(|chunk| chunk / 64 == piece.get()),
                };
                assert!(really, "only liars are called that: {id:?} {why:?}");
                peer.banned = true;
            }
            DropReason::Gone(_) => assert!(peer.refused_for_good),
            DropReason::Unresponsive => assert!(peer.here),
        }
        self.leave(id);
    }

    /// What must hold when a fetch has ended, one way or the other.
    pub(crate) fn check_end(&self) {
        self.engine.check_invariants();
        let geometry = &self.content.geometry;
        let wanted = geometry.pieces().map(|piece| u64::from(self.content.wanted(piece).count()));
        let total: u64 = wanted.sum();
        let total_bytes: u64 = geometry.pieces().map(|piece| self.content.wanted_bytes(piece)).sum();
        assert_eq!(self.engine.progress().bytes_total, total_bytes, "only what is wanted counts");
        if self.completed_at.is_some() {
            let stats: Vec<_> = self.engine.all_stats().collect();
            let chunks: u64 = stats.iter().map(|(_, stats)| stats.chunks).sum();
            let not_fetched = self.resumed_chunks + self.found_chunks;
            assert_eq!(chunks, total - not_fetched, "every chunk is somebody's");
            let progress = self.engine.progress();
            assert_eq!((progress.pieces, progress.bytes), (progress.pieces_total, progress.bytes_total));
            assert_eq!(self.engine.deadline(), None);
            for (id, peer) in &self.peers {
                let named = self
                    .dropped
                    .iter()
                    .any(|(dropped, why)| dropped == id && matches!(why, DropReason::Lied(_)));
                let bad = self.stats(*id).bad;
                assert!(bad <= peer.lied_written, "only lies count as bad");
                if self.leaves_always_come() {
                    assert_eq!(bad, peer.lied_written, "every lie that was written is counted: {id:?}");
                    assert!(named || peer.lied_written == 0, "whoever lied is named: {id:?}");
                }
            }
            return;
        }
        // Not complete: then nobody who is here and honest has anything that is missing.
        let gives = |peer: &Peer| {
            let dead = peer.behaviour.dies_at.is_some_and(|at| self.now >= Time::from_origin(at));
            let missing = self.content.geometry.pieces().filter(|&piece| !self.done.contains(piece));
            // Without the layer nothing can be verified, and so nothing is asked for.
            let tells = self.engine.layer().is_some() || peer.behaviour.refuses_hashes < 0.9;
            peer.here && !dead && tells && missing.into_iter().any(|piece| peer.announced.contains(piece))
        };
        if let Some((id, _)) = self.peers.iter().find(|(_, peer)| gives(peer)) {
            panic!(
                "stuck at {:?} although {id:?} has what is missing: {:?}",
                self.now,
                self.engine.progress()
            );
        }
        assert!(self.engine.is_starved(), "with nobody to ask, a fetch knows that it starves");
    }

    /// Then bad chunks are always told from good ones; else a whole piece may have to be fetched again.
    fn leaves_always_come(&self) -> bool {
        self.peers.values().all(|Peer { behaviour, .. }| {
            behaviour.loss == 0.0 && behaviour.dies_at.is_none() && behaviour.refuses_hashes == 0.0
        })
    }
}
