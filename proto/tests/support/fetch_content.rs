//! What is fetched: one file, or the files of a folder, of which some may not be wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{ChunkIndex, Geometry, PieceIndex};
use ftx_proto::merkle::{PieceLayer, piece_hash};

/// A content, with the truth about all its chunks and what is wanted of it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) geometry: Geometry,
    /// The right leaf of each chunk, by its number; of numbers that are no chunks, something.
    pub(crate) truth: Vec<Digest>,
    pub(crate) layer: PieceLayer,
    pub(crate) skipped: BTreeMap<PieceIndex, ChunkMask>,
}

pub(crate) fn layer_of(geometry: Geometry, truth: &[Digest]) -> PieceLayer {
    let hashes = geometry
        .pieces()
        .map(|piece| {
            let span = geometry.span_of(piece);
            piece_hash(&geometry, piece, &truth[span.first().get() as usize..span.end() as usize])
        })
        .collect();
    PieceLayer::from_hashes(geometry, hashes).unwrap()
}

fn leaf(number: u32) -> Digest {
    Digest::of(&number.to_le_bytes())
}

impl Content {
    /// One file.
    pub(crate) fn file(size: u64) -> Self {
        let geometry = Geometry::new(size).unwrap();
        let truth: Vec<_> = (0..geometry.chunk_count()).map(leaf).collect();
        let layer = layer_of(geometry.clone(), &truth);
        Content { geometry, truth, layer, skipped: BTreeMap::new() }
    }

    /// The files of a folder, of these sizes.
    pub(crate) fn folder(sizes: &[u64]) -> Self {
        let name = Root([9; 32]);
        let cut =
            |roots: &[Root]| Geometry::of_folder(name, sizes.iter().copied().zip(roots.iter().copied()));
        // Where the chunks are does not depend on the roots.
        let places = cut(&vec![name; sizes.len()]).unwrap();
        let numbers = places.pieces().last().map_or(0, |last| places.span_of(last).end());
        let truth: Vec<_> = (0..numbers).map(leaf).collect();
        let files = places.folder().unwrap().files();
        let layers: Vec<_> = files
            .iter()
            .map(|file| {
                let span = file.span();
                let leaves = &truth[span.first().get() as usize..span.end() as usize];
                Arc::new(layer_of(Geometry::new(file.size()).unwrap(), leaves))
            })
            .collect();
        let roots: Vec<_> = layers.iter().map(|layer| layer.root()).collect();
        let geometry = cut(&roots).unwrap();
        let layer = PieceLayer::of_folder(geometry.clone(), |file| Some(layers[file].clone())).unwrap();
        assert_eq!(layer, layer_of(geometry.clone(), &truth), "the files' hashes are those of the leaves");
        Content { geometry, truth, layer, skipped: BTreeMap::new() }
    }

    /// Without these files of it, by their numbers.
    pub(crate) fn without_files(mut self, files: &BTreeSet<usize>) -> Self {
        for piece in self.geometry.pieces() {
            for segment in self.geometry.segments(self.geometry.span_of(piece)) {
                if files.contains(&segment.file) {
                    let mask = self.skipped.entry(piece).or_default();
                    *mask = mask.union(ChunkMask::of(segment.span));
                }
            }
        }
        self
    }

    /// Without these pieces of it.
    pub(crate) fn without_pieces(mut self, pieces: &BTreeSet<u32>) -> Self {
        for piece in self.geometry.pieces().filter(|piece| pieces.contains(&piece.get())) {
            self.skipped.insert(piece, ChunkMask::of(self.geometry.span_of(piece)));
        }
        self
    }

    pub(crate) fn is_right(&self, chunk: u32, leaf: Digest) -> bool {
        self.truth[chunk as usize] == leaf
    }

    /// What is wanted of a piece.
    pub(crate) fn wanted(&self, piece: PieceIndex) -> ChunkMask {
        let all = ChunkMask::of(self.geometry.span_of(piece));
        all.without(self.skipped.get(&piece).copied().unwrap_or_default())
    }

    pub(crate) fn is_wanted(&self, chunk: ChunkIndex) -> bool {
        self.wanted(chunk.piece()).contains(chunk.in_piece())
    }

    /// The chunks that are wanted of a piece.
    pub(crate) fn wanted_chunks(&self, piece: PieceIndex) -> Vec<ChunkIndex> {
        let chunks = self.geometry.span_of(piece).chunks();
        chunks.filter(|chunk| self.is_wanted(*chunk)).collect()
    }

    /// Bytes of what is wanted of a piece.
    pub(crate) fn wanted_bytes(&self, piece: PieceIndex) -> u64 {
        self.wanted_chunks(piece).iter().map(|chunk| u64::from(self.geometry.chunk_len(*chunk))).sum()
    }
}
