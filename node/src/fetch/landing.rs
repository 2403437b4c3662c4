//! Where chunks land: the part file, and the claims that let every chunk be written by one arrival only.
//!
//! Two copies of a chunk may arrive at once, from two sources, in two tasks. Whoever sets the chunk's bit in the claims
//! writes it; the other copy is dropped unwritten. A claim is given back only when its piece proved wrong, and by then
//! all its chunks are written; so a piece that was verified is never written again, whoever sends what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};

use crate::hash;
use crate::store::{Part, StoreError};

/// The target of one fetch, shared by all its lanes.
#[derive(Debug)]
pub struct Landing {
    geometry: Geometry,
    part: Arc<dyn Part>,
    claims: Vec<AtomicU64>,
}

impl Landing {
    /// A landing on `part`, where the pieces in `have` are verified already.
    pub fn new(part: Arc<dyn Part>, have: &PieceSet) -> Self {
        let geometry = have.geometry().clone();
        let claims = geometry
            .pieces()
            .map(|piece| AtomicU64::new(if have.contains(piece) { u64::MAX } else { 0 }))
            .collect();
        Landing { geometry, part, claims }
    }

    /// How the content is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Hashes chunks that arrived, and writes those that nobody else has written.
    ///
    /// `bytes` are those of `span`, which lies within one piece. The answer has one place a chunk: its leaf hash if it
    /// was written now, `None` if another copy was there before.
    pub fn land(&self, span: Span, bytes: &[u8]) -> Result<Vec<Option<Digest>>, StoreError> {
        assert_eq!(bytes.len() as u64, self.geometry.len_of(span), "the lane checked the length");
        // Hashed before it is claimed: a claim is held no longer than the write takes.
        let mut leaves = Vec::new();
        hash::leaves_of(&self.geometry, span, bytes, &mut leaves);
        let ours = self.claim(span);
        for run in ours.spans(&self.geometry, span.first().piece()) {
            let offset = self.geometry.offset_of(run.first());
            let from = offset - self.geometry.offset_of(span.first());
            let to = from + self.geometry.len_of(run);
            self.part.write_at(offset, &bytes[from as usize..to as usize])?;
        }
        Ok(Self::landed(span, ours, &leaves))
    }

    /// Hashes and writes chunks as [`Landing::land`] does, each from a place of its own.
    pub fn land_chunks(&self, span: Span, chunks: &[&[u8]]) -> Result<Vec<Option<Digest>>, StoreError> {
        let mut leaves = Vec::new();
        hash::hash_many(chunks, &mut leaves);
        self.land_hashed(span, chunks, &leaves)
    }

    /// Writes chunks as [`Landing::land`] does, each from a place of its own, where their leaf hashes are known.
    pub fn land_hashed(
        &self,
        span: Span,
        chunks: &[&[u8]],
        leaves: &[Digest],
    ) -> Result<Vec<Option<Digest>>, StoreError> {
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        assert_eq!(bytes as u64, self.geometry.len_of(span), "the lane checked the length");
        assert_eq!(
            (chunks.len(), leaves.len()),
            (span.count() as usize, span.count() as usize),
            "one a chunk"
        );
        let ours = self.claim(span);
        for run in ours.spans(&self.geometry, span.first().piece()) {
            let from = (run.first().get() - span.first().get()) as usize;
            let chunks = &chunks[from..from + run.count() as usize];
            self.part.write_parts_at(self.geometry.offset_of(run.first()), chunks)?;
        }
        Ok(Self::landed(span, ours, leaves))
    }

    /// Claims chunks of one piece, and says which nobody had claimed before.
    fn claim(&self, span: Span) -> ChunkMask {
        let wanted = ChunkMask::of(span);
        let claims = self.claims.get(span.first().piece().get() as usize);
        claims.map_or(ChunkMask::EMPTY, |claims| {
            wanted.without(ChunkMask(claims.fetch_or(wanted.0, Ordering::AcqRel)))
        })
    }

    /// The leaf hash of each chunk that was written.
    fn landed(span: Span, ours: ChunkMask, leaves: &[Digest]) -> Vec<Option<Digest>> {
        let ours = span.chunks().map(|chunk| ours.contains(chunk.in_piece()));
        leaves.iter().zip(ours).map(|(leaf, ours)| ours.then_some(*leaf)).collect()
    }

    /// Gives back the claims of chunks that proved wrong.
    pub fn release(&self, piece: PieceIndex, chunks: ChunkMask) {
        if let Some(claims) = self.claims.get(piece.get() as usize) {
            claims.fetch_and(!chunks.0, Ordering::AcqRel);
        }
    }
}
