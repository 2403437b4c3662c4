//! Roots and piece layers as another program (libtorrent) makes them.

use ftx_proto::digest::{Digest, Root};
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, PIECE_CHUNKS};
use ftx_proto::merkle::{PieceLayer, leaf_hash, piece_hash};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    size: usize,
    seed: u32,
    sha256: String,
    root: String,
    piece_layer: Vec<String>,
}

/// The bytes that the file's note describes.
fn data(size: usize, seed: u32) -> Vec<u8> {
    let step = |x: &mut u32| {
        *x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*x >> 24) as u8)
    };
    std::iter::repeat_n((), size).scan(seed, |x, ()| step(x)).collect()
}

#[test]
fn every_vector_matches() {
    let file: File = serde_json::from_str(include_str!("data/merkle.json")).unwrap();
    assert_eq!(file.vectors.len(), 12);
    for vector in file.vectors {
        let data = data(vector.size, vector.seed);
        assert_eq!(Digest::of(&data).to_string(), vector.sha256, "the generator is the file's");
        let geometry = Geometry::new(vector.size as u64).unwrap();
        let leaves: Vec<_> = data.chunks(CHUNK_SIZE as usize).map(leaf_hash).collect();
        let hashes: Vec<_> = leaves
            .chunks(PIECE_CHUNKS as usize)
            .zip(geometry.pieces())
            .map(|(leaves, piece)| piece_hash(&geometry, piece, leaves))
            .collect();
        if !vector.piece_layer.is_empty() {
            let expected: Vec<Digest> = vector.piece_layer.iter().map(|h| h.parse().unwrap()).collect();
            assert_eq!(hashes, expected, "piece layer of {} bytes", vector.size);
        }
        let root: Root = vector.root.parse().unwrap();
        let layer = PieceLayer::verify(geometry, root, hashes);
        assert!(layer.is_ok(), "root of {} bytes", vector.size);
    }
}
