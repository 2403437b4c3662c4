//! What the piece layer of a folder proves: exactly the right leaves, of whichever files are looked at.

#[path = "support/fetch_content.rs"]
#[allow(dead_code, reason = "every test program uses its part")]
mod fetch_content;

use fetch_content::Content;
use ftx_proto::chunk_set::ChunkMask;
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{CHUNK_SIZE, PIECE_SIZE, PieceIndex};
use ftx_proto::merkle::{LayerError, PieceLayer};
use proptest::prelude::*;

const CHUNK: u64 = CHUNK_SIZE as u64;

fn sizes() -> impl Strategy<Value = Vec<u64>> {
    let size = prop_oneof![
        4 => 1u64..40_000,
        2 => 1u64..(20 * CHUNK),
        1 => (62 * CHUNK)..(66 * CHUNK),
        1 => (60 * CHUNK)..(260 * CHUNK),
        1 => prop::sample::select(vec![CHUNK, PIECE_SIZE, PIECE_SIZE + 1, 2 * PIECE_SIZE]),
    ];
    prop::collection::vec(size, 1..40)
}

/// The right leaves of a piece.
fn leaves(content: &Content, piece: PieceIndex) -> Vec<Digest> {
    let span = content.geometry.span_of(piece);
    content.truth[span.first().get() as usize..span.end() as usize].to_vec()
}

/// Those at these places are changed.
fn changed(leaves: &[Digest], places: ChunkMask) -> Vec<Digest> {
    let mut leaves = leaves.to_vec();
    places.iter().for_each(|place| leaves[place as usize].0[7] ^= 1);
    leaves
}

proptest! {
    #[test]
    fn whole_files_are_proved_by_their_own_leaves_only(sizes in sizes(), files: u64, which: prop::sample::Index, bits: u64) {
        let content = Content::folder(&sizes);
        let layer = &content.layer;
        for piece in content.geometry.pieces() {
            let span = content.geometry.span_of(piece);
            let (all, right) = (ChunkMask::of(span), leaves(&content, piece));
            let chosen = content
                .geometry
                .segments(span)
                .filter(|segment| files >> (segment.file % 64) & 1 == 1)
                .fold(ChunkMask::EMPTY, |mask, segment| mask.union(ChunkMask::of(segment.span)));
            // Whatever stands where nobody looks.
            let seen = changed(&right, all.without(chosen));
            prop_assert!(layer.proves_part(piece, &seen, chosen));
            prop_assert!(layer.proves_part(piece, &right, all) && layer.proves(piece, &right));
            // Every single change is seen.
            for place in chosen.iter() {
                prop_assert!(!layer.proves_part(piece, &changed(&seen, ChunkMask(1 << place)), chosen));
            }
            // So are leaves that changed places, and one too few or too many.
            if let Some(place) = chosen.iter().nth(which.index(64)).filter(|place| *place > 0) {
                let mut swapped = seen.clone();
                swapped.swap(place as usize, place as usize - 1);
                prop_assert!(!layer.proves_part(piece, &swapped, chosen));
            }
            if !chosen.is_empty() {
                prop_assert!(!layer.proves_part(piece, &seen[1..], chosen));
                prop_assert!(!layer.proves_part(piece, &[&seen[..], &[Digest::ZERO]].concat(), chosen));
            }
            // Parts of files, and what is no chunk, are never proved.
            let any = ChunkMask(bits);
            let is_whole_files = content.geometry.segments(span).all(|segment| {
                let of_file = ChunkMask::of(segment.span);
                [ChunkMask::EMPTY, of_file].contains(&any.intersection(of_file))
            });
            let exists = any.without(all).is_empty();
            prop_assert_eq!(layer.proves_part(piece, &right, any), is_whole_files && exists);
        }
    }

    #[test]
    fn every_changed_hash_of_a_piece_is_refused(sizes in sizes(), at in 0usize..32, bit in 0u32..8) {
        let Content { geometry, layer, .. } = Content::folder(&sizes);
        let verify = |hashes| PieceLayer::verify(geometry.clone(), layer.root(), hashes);
        let hashes = layer.hashes().to_vec();
        prop_assert_eq!(verify(hashes.clone()), Ok(layer.clone()));
        for piece in 0..hashes.len() {
            let mut wrong = hashes.clone();
            wrong[piece].0[at] ^= 1 << bit;
            prop_assert_eq!(verify(wrong), Err(LayerError::Root));
            let mut swapped = hashes.clone();
            swapped.swap(0, piece);
            prop_assert_eq!(verify(swapped).is_ok(), piece == 0);
        }
        let count = |found| LayerError::Count { expected: hashes.len() as u32, found };
        prop_assert_eq!(verify(hashes[1..].to_vec()), Err(count(hashes.len() - 1)));
        prop_assert_eq!(verify([&hashes[..], &[Digest::ZERO]].concat()), Err(count(hashes.len() + 1)));
        let other = ftx_proto::digest::Root([8; 32]);
        prop_assert_eq!(PieceLayer::verify(geometry.clone(), other, hashes), Err(LayerError::Root));
    }

    // `Content::folder` holds the layer that the files' roots and layers give against the one that the leaves give.
    #[test]
    fn roots_alone_determine_the_layer_of_small_files(sizes in sizes()) {
        let Content { geometry, layer, .. } = Content::folder(&sizes);
        let has_large = sizes.iter().any(|size| *size > PIECE_SIZE);
        let small = PieceLayer::of_small(geometry, layer.root());
        prop_assert_eq!(small, (!has_large).then_some(layer));
    }
}
