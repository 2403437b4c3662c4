//! However a content is cut, and whatever is asked of the cut and of sets of its pieces and chunks: every byte is in one
//! chunk, every chunk in one piece, and sets are what sets are.
#![no_main]

use std::collections::BTreeSet;
use std::ops::Range;

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::Root;
use ftx_proto::geometry::Geometry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[files], rest)) = data.split_first_chunk() else { return };
    let mut numbers = rest.chunks(4).map(|four| {
        let mut number = [0; 4];
        number[..four.len()].copy_from_slice(four);
        u32::from_le_bytes(number)
    });
    let mut number = || numbers.next().unwrap_or(0);
    let root = Root([1; 32]);
    let geometry = if files < 200 {
        Geometry::new(u64::from(number()) * u64::from(number() % 5000)).ok()
    } else {
        let sizes: Vec<_> = (200..files).map(|_| u64::from(number() % 3_000_000)).collect();
        Geometry::of_folder(root, sizes.into_iter().map(|size| (size, root))).ok()
    };
    let Some(geometry) = geometry else { return };
    for _ in 0..8 {
        spans(&geometry, number(), number());
        masks(&geometry, number(), u64::from(number()) << 32 | u64::from(number()));
    }
    sets(&geometry, (0..8).map(|_| number()..number()).collect());
});

fn spans(geometry: &Geometry, first: u32, count: u32) {
    for count in [count, count % 200] {
        let Some(span) = geometry.span(first % geometry.chunk_count().max(1), count) else { continue };
        assert_eq!((span.count(), span.end()), (count, span.first().get() + count));
        assert!(geometry.chunk(span.end() - 1).is_some(), "the last is a chunk too");
        let bytes = geometry.bytes_of(span);
        assert!(bytes.end <= geometry.size());
        if count > 200 {
            continue;
        }
        let lens: u64 = span
            .chunks()
            .filter(|chunk| geometry.chunk(chunk.get()).is_some())
            .map(|chunk| u64::from(geometry.chunk_len(chunk)))
            .sum();
        assert_eq!(lens, geometry.len_of(span));
        let runs: u32 = span.runs(16).map(|run| run.count()).sum();
        assert_eq!(runs, count);
        for piece in span.pieces() {
            let within = span.within(piece).expect("it has something of it");
            assert!(span.contains(within) && geometry.span_of(piece).contains(within));
        }
    }
}

fn masks(geometry: &Geometry, piece: u32, bits: u64) {
    let Some(piece) = geometry.piece(piece % geometry.piece_count().max(1)) else { return };
    let all = ChunkMask::of(geometry.span_of(piece));
    let mask = ChunkMask(bits).intersection(all);
    assert_eq!(mask.iter().count() as u32, mask.count());
    assert!(mask.iter().all(|place| mask.contains(place)));
    assert!(mask.without(all).is_empty() && mask.union(all) == all);
    let spans = mask.spans(geometry, piece);
    let again = spans.iter().fold(ChunkMask::EMPTY, |mask, span| mask.union(ChunkMask::of(*span)));
    assert_eq!(again, mask);
}

fn sets(geometry: &Geometry, ranges: Vec<Range<u32>>) {
    // Large ones are as small ones, only slower.
    if geometry.piece_count() > 5000 {
        return;
    }
    let mut set = PieceSet::empty(geometry.clone());
    let mut model = BTreeSet::new();
    for range in ranges {
        let (start, end) = (range.start % 6000, range.end % 6000);
        if range.end % 3 == 0 {
            let Some(piece) = geometry.piece(start) else { continue };
            assert_eq!(set.remove(piece), model.remove(&start));
        } else {
            set.insert_range(start..end);
            model.extend((start..end).filter(|number| geometry.piece(*number).is_some()));
        }
        assert_eq!(set.count() as usize, model.len());
        assert!(set.iter().map(|piece| piece.get()).eq(model.iter().copied()));
        let told: Vec<u32> = set.ranges().into_iter().flatten().collect();
        assert!(told.into_iter().eq(model.iter().copied()));
        let bytes: u64 = set.iter().map(|piece| geometry.len_of(geometry.span_of(piece))).sum();
        assert_eq!(bytes, set.bytes());
        assert_eq!(set.is_full(), model.len() == geometry.piece_count() as usize);
    }
}
