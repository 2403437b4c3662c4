//! Who has what: a set of pieces of a content, and a set of chunks within one piece.

use std::ops::Range;

use crate::geometry::{Geometry, PIECE_CHUNKS, PieceIndex, Span};

/// A set of the pieces of one content: a bitmap with its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceSet {
    geometry: Geometry,
    words: Vec<u64>,
    count: u32,
    bytes: u64,
}

impl PieceSet {
    /// No piece.
    pub fn empty(geometry: Geometry) -> Self {
        let words = vec![0; geometry.piece_count().div_ceil(64) as usize];
        PieceSet { geometry, words, count: 0, bytes: 0 }
    }

    /// Every piece.
    pub fn full(geometry: Geometry) -> Self {
        let mut set = Self::empty(geometry);
        set.insert_range(0..set.geometry.piece_count());
        set
    }

    /// The content whose pieces these are.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether the piece is in the set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let number = piece.get();
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Puts a piece in; `true` if it was not there.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let added = !self.contains(piece) && self.geometry.piece(piece.get()).is_some();
        if let (true, Some(word)) = (added, self.words.get_mut(piece.get() as usize / 64)) {
            *word |= 1 << (piece.get() % 64);
            self.count += 1;
            self.bytes += self.geometry.len_of(self.geometry.span_of(piece));
        }
        added
    }

    /// Takes a piece out; `true` if it was there.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let there = self.contains(piece);
        if let (true, Some(word)) = (there, self.words.get_mut(piece.get() as usize / 64)) {
            *word &= !(1 << (piece.get() % 64));
            self.count -= 1;
            self.bytes -= self.geometry.len_of(self.geometry.span_of(piece));
        }
        there
    }

    /// Puts the pieces with these numbers in. Numbers beyond the end of the content are left out.
    pub fn insert_range(&mut self, numbers: Range<u32>) {
        for number in numbers.start..numbers.end.min(self.geometry.piece_count()) {
            if let Some(piece) = self.geometry.piece(number) {
                self.insert(piece);
            }
        }
    }

    /// The pieces of this set that are not in `other`, which is of the same content.
    #[must_use]
    pub fn without(&self, other: &PieceSet) -> Self {
        let mut rest = Self::empty(self.geometry.clone());
        for (index, (&word, &theirs)) in (0u32..).zip(self.words.iter().zip(&other.words)) {
            for bit in ChunkMask(word & !theirs).iter() {
                rest.insert_range(index * 64 + bit..index * 64 + bit + 1);
            }
        }
        rest
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece of the content is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.geometry.piece_count()
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words.iter().zip(0u32..).flat_map(move |(&word, i)| {
            ChunkMask(word).iter().filter_map(move |bit| self.geometry.piece(i * 64 + bit))
        })
    }

    /// The set as ranges of piece numbers: in order, apart from each other, none empty.
    pub fn ranges(&self) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for number in self.iter().map(PieceIndex::get) {
            match ranges.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }

    /// Bytes of the pieces in the set.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A set of chunks within one piece: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkMask(pub u64);

impl ChunkMask {
    /// No chunk.
    pub const EMPTY: ChunkMask = ChunkMask(0);

    /// The first `count` chunks of a piece.
    pub fn first(count: u32) -> Self {
        if count >= PIECE_CHUNKS { ChunkMask(u64::MAX) } else { ChunkMask((1 << count) - 1) }
    }

    /// The chunks of a span, which must lie within one piece.
    pub fn of(span: Span) -> Self {
        let place = span.first().in_piece();
        assert!(place + span.count() <= PIECE_CHUNKS, "the span lies within one piece");
        ChunkMask(Self::first(span.count()).0 << place)
    }

    /// Whether the chunk at this place is in the set.
    pub fn contains(self, place: u32) -> bool {
        place < PIECE_CHUNKS && self.0 >> place & 1 == 1
    }

    /// How many chunks.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The chunks in one or the other.
    #[must_use]
    pub fn union(self, other: ChunkMask) -> Self {
        ChunkMask(self.0 | other.0)
    }

    /// The chunks of this that are not in `other`.
    #[must_use]
    pub fn without(self, other: ChunkMask) -> Self {
        ChunkMask(self.0 & !other.0)
    }

    /// The chunks in both.
    #[must_use]
    pub fn intersection(self, other: ChunkMask) -> Self {
        ChunkMask(self.0 & other.0)
    }

    /// The places in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let place = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (place < 64).then_some(place)
        })
    }

    /// The set as spans of chunks of `piece`, which must have all of them.
    pub fn spans(self, geometry: &Geometry, piece: PieceIndex) -> Vec<Span> {
        let base = piece.get() * PIECE_CHUNKS;
        let mut rest = self.0;
        let mut spans = Vec::new();
        while rest != 0 {
            let start = rest.trailing_zeros();
            let count = (!(rest >> start)).trailing_zeros();
            spans.extend(geometry.span(base + start, count));
            rest &= !(Self::first(count).0 << start);
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::PIECE_SIZE;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_piece_set_is_a_set(pieces in 1u32..300, numbers in prop::collection::vec((0u32..300, any::<bool>()), 0..200)) {
            let geometry = Geometry::new(u64::from(pieces) * PIECE_SIZE - 5).unwrap();
            let mut set = PieceSet::empty(geometry.clone());
            let mut model = BTreeSet::new();
            for (number, insert) in numbers {
                let Some(piece) = geometry.piece(number) else { continue };
                if insert {
                    prop_assert_eq!(set.insert(piece), model.insert(number));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&number));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(set.iter().map(PieceIndex::get).collect::<BTreeSet<_>>(), model.clone());
            let mut again = PieceSet::empty(geometry.clone());
            for range in set.ranges() {
                again.insert_range(range);
            }
            prop_assert_eq!(&again, &set);
            let (mut even, mut rest) = (PieceSet::empty(geometry.clone()), model.clone());
            for number in (0..pieces).step_by(2) {
                even.insert_range(number..number + 1);
                rest.remove(&number);
            }
            prop_assert_eq!(set.without(&even).iter().map(PieceIndex::get).collect::<BTreeSet<_>>(), rest);
            let bytes: u64 = set.iter().map(|p| geometry.len_of(geometry.span_of(p))).sum();
            prop_assert_eq!(set.bytes(), bytes);
        }

        #[test]
        fn a_mask_is_its_spans(bits: u64) {
            let geometry = Geometry::new(3 * PIECE_SIZE).unwrap();
            let piece = geometry.piece(1).unwrap();
            let mask = ChunkMask(bits);
            let spans = mask.spans(&geometry, piece);
            let union = spans.iter().fold(ChunkMask::EMPTY, |m, s| m.union(ChunkMask::of(*s)));
            prop_assert_eq!(union, mask);
            prop_assert_eq!(spans.iter().map(Span::count).sum::<u32>(), mask.count());
            prop_assert_eq!(mask.iter().count() as u32, mask.count());
        }
    }

    #[test]
    fn full_and_beyond() {
        let geometry = Geometry::new(65 * PIECE_SIZE).unwrap();
        let mut set = PieceSet::full(geometry);
        assert!(set.is_full());
        set.insert_range(60..4_000_000_000);
        assert_eq!(set.count(), 65);
        assert_eq!(set.ranges(), vec![0..65]);
        assert!(PieceSet::empty(Geometry::new(0).unwrap()).is_full());
    }
}
