//! The shuffled order of the chunks of one burst, in constant memory.
//!
//! A list of the chunks of a large file would take longer to shuffle than the first request may wait, so the order is
//! computed: a [`Permutation`] is a small Feistel network over the next power of four, and what falls outside is
//! encrypted again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
//! 2002). It needs to look random to nobody, only to differ from burst to burst and from server to server.

use std::iter::FusedIterator;

/// Chunks of one block: 1 MiB. Blocks come in shuffled order, and within each its chunks do, since a disk that is asked
/// for single kilobytes all over a file is a hundred times slower.
const BLOCK_CHUNKS: u32 = 1024;

const ROUNDS: u64 = 4;

/// The numbers below a length, each once, in an order that a seed gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u32,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    /// An order of the numbers below `len`.
    pub fn new(len: u32, seed: u64) -> Self {
        let bits = u32::BITS - len.saturating_sub(1).leading_zeros();
        Permutation { len, half_bits: bits.div_ceil(2), seed }
    }

    /// The number at this place; `place` must be below the length.
    pub fn at(&self, place: u32) -> u32 {
        assert!(place < self.len, "a place within the permutation");
        let mut number = u64::from(place);
        loop {
            number = self.step(number);
            if number < u64::from(self.len) {
                return number as u32;
            }
        }
    }

    fn step(&self, number: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            let mixed = mix(self.seed ^ (round << 56) ^ right) & mask;
            (left, right) = (right, left ^ mixed);
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the input reaches every bit of the output.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The chunk numbers of a file, each once, shuffled.
#[derive(Debug, Clone)]
pub struct ChunkOrder {
    chunks: u32,
    given: u32,
    seed: u64,
    blocks: Permutation,
    block: u32,
    first: u32,
    within: Permutation,
    place: u32,
}

impl ChunkOrder {
    /// An order of the chunks of a file that has `chunks` of them.
    pub fn new(chunks: u32, seed: u64) -> Self {
        let blocks = Permutation::new(chunks.div_ceil(BLOCK_CHUNKS), mix(seed));
        let within = Permutation::new(0, seed);
        ChunkOrder { chunks, given: 0, seed, blocks, block: 0, first: 0, within, place: 0 }
    }

    /// How many numbers have come already.
    pub fn given(&self) -> usize {
        self.given as usize
    }
}

impl Iterator for ChunkOrder {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.given == self.chunks {
            return None;
        }
        if self.place == self.within.len {
            self.first = self.blocks.at(self.block) * BLOCK_CHUNKS;
            let len = BLOCK_CHUNKS.min(self.chunks - self.first);
            self.within = Permutation::new(len, mix(self.seed ^ u64::from(self.first)));
            self.block += 1;
            self.place = 0;
        }
        let number = self.first + self.within.at(self.place);
        self.place += 1;
        self.given += 1;
        Some(number)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.chunks - self.given) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ChunkOrder {}
impl FusedIterator for ChunkOrder {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn every_number_comes_once() {
        for len in (0..70).chain([1023, 1024, 1025, 4096, 4097, 100_003]) {
            for seed in [0, 1, u64::MAX] {
                let permutation = Permutation::new(len, seed);
                let all: Vec<u32> = (0..len).collect();
                assert_eq!(sorted((0..len).map(|place| permutation.at(place))), all, "{len} {seed}");
                assert_eq!(sorted(ChunkOrder::new(len, seed)), all, "{len} {seed}");
            }
        }
    }

    #[test]
    fn the_largest_file_has_an_order_too() {
        let permutation = Permutation::new(u32::MAX, 7);
        let some = sorted((0..1000).map(|place| permutation.at(place)));
        assert!(some.windows(2).all(|pair| pair[0] < pair[1]));
        let order = ChunkOrder::new(u32::MAX, 7);
        assert_eq!(order.len(), u32::MAX as usize);
        assert!(order.take(5000).all(|number| number < u32::MAX));
    }

    #[test]
    fn orders_differ_and_are_not_the_plain_one() {
        let orders: Vec<Vec<u32>> = (0..20).map(|seed| ChunkOrder::new(3000, seed).collect()).collect();
        for (i, order) in orders.iter().enumerate() {
            assert!(orders.iter().skip(i + 1).all(|other| other != order));
            let in_place = order.iter().zip(0..).filter(|(number, place)| **number == *place).count();
            let neighbours = order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
            assert!(
                in_place < 40 && neighbours < 40,
                "seed {i}: {in_place} in place, {neighbours} neighbours"
            );
        }
    }
}
