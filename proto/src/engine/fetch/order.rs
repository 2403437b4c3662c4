//! In which order pieces are begun: a shuffle that needs no memory, and sets of places in it that find the next member
//! at once however large the content is.

use rand::Rng;

/// A seeded permutation of `0..len`, computed instead of stored: a Feistel network over the next power of four, walked
/// until it lands inside.
#[derive(Debug, Clone)]
pub(super) struct Shuffle {
    len: u32,
    half_bits: u32,
    keys: [u32; 4],
}

impl Shuffle {
    pub(super) fn new(len: u32, random: &mut impl Rng) -> Self {
        let half_bits = (u32::BITS - len.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
        Shuffle { len, half_bits, keys: std::array::from_fn(|_| random.next_u32()) }
    }

    /// The piece at this place of the order; `place` must be below the length.
    pub(super) fn piece_at(&self, place: u32) -> u32 {
        self.walk(place, |left, right, key| (right, left ^ self.mix(right, key)), self.keys)
    }

    /// The place of this piece in the order; the inverse of [`Shuffle::piece_at`].
    pub(super) fn place_of(&self, piece: u32) -> u32 {
        let [a, b, c, d] = self.keys;
        self.walk(piece, |left, right, key| (right ^ self.mix(left, key), left), [d, c, b, a])
    }

    fn walk(&self, from: u32, round: impl Fn(u32, u32, u32) -> (u32, u32), keys: [u32; 4]) -> u32 {
        assert!(from < self.len, "only what is in the order has a place there");
        let mut value = from;
        loop {
            let halves = (value >> self.half_bits, value & self.mask());
            let (left, right) = keys.iter().fold(halves, |(left, right), &key| round(left, right, key));
            value = left << self.half_bits | right;
            if value < self.len {
                return value;
            }
        }
    }

    fn mask(&self) -> u32 {
        (1 << self.half_bits) - 1
    }

    /// Any function does for a Feistel network; this one is the finisher of MurmurHash3.
    fn mix(&self, value: u32, key: u32) -> u32 {
        let mut h = value ^ key;
        h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
        h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
        (h ^ h >> 16) & self.mask()
    }
}

/// A set of numbers below a bound: a bitmap with summaries above it, so that the next member is a few words away.
#[derive(Debug, Clone)]
pub(super) struct PlaceSet {
    /// The members first; in each further level a bit for every word of the level below that is not zero.
    levels: Vec<Vec<u64>>,
    count: u32,
}

impl PlaceSet {
    pub(super) fn empty(len: u32) -> Self {
        let mut levels = vec![vec![0; (len as usize).div_ceil(64).max(1)]];
        while let Some(below) = levels.last().map(Vec::len).filter(|&words| words > 1) {
            levels.push(vec![0; below.div_ceil(64)]);
        }
        PlaceSet { levels, count: 0 }
    }

    pub(super) fn full(len: u32) -> Self {
        let mut set = Self::empty(len);
        let mut members = len as usize;
        for level in &mut set.levels {
            for (word, index) in level.iter_mut().zip(0usize..) {
                let here = members.saturating_sub(index * 64).min(64);
                *word = if here == 64 { u64::MAX } else { (1 << here) - 1 };
            }
            members = members.div_ceil(64);
        }
        set.count = len;
        set
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn contains(&self, place: u32) -> bool {
        self.word(0, place as usize / 64) >> (place % 64) & 1 == 1
    }

    /// Puts a place in; `true` if it was not there.
    pub(super) fn insert(&mut self, place: u32) -> bool {
        if self.contains(place) {
            return false;
        }
        let mut bit = place as usize;
        for level in &mut self.levels {
            if let Some(word) = level.get_mut(bit / 64) {
                *word |= 1 << (bit % 64);
            }
            bit /= 64;
        }
        self.count += 1;
        true
    }

    /// Takes a place out; `true` if it was there.
    pub(super) fn remove(&mut self, place: u32) -> bool {
        if !self.contains(place) {
            return false;
        }
        let mut bit = place as usize;
        for level in &mut self.levels {
            if let Some(word) = level.get_mut(bit / 64) {
                *word &= !(1 << (bit % 64));
                if *word != 0 {
                    break;
                }
            }
            bit /= 64;
        }
        self.count -= 1;
        true
    }

    /// The first member from `place` on, or from the beginning if there is none behind it.
    pub(super) fn next_around(&self, place: u32) -> Option<u32> {
        self.next_from(place as usize).or_else(|| self.next_from(0))
    }

    fn next_from(&self, place: usize) -> Option<u32> {
        let mut bit = place;
        for level in 0..self.levels.len() {
            // Up until a word has a member at or behind the bit, then down along the first members.
            let rest = self.word(level, bit / 64) & (u64::MAX << (bit % 64));
            if rest != 0 {
                let mut found = bit / 64 * 64 + rest.trailing_zeros() as usize;
                for below in (0..level).rev() {
                    found = found * 64 + self.word(below, found).trailing_zeros() as usize;
                }
                return Some(found as u32);
            }
            bit = bit / 64 + 1;
        }
        None
    }

    fn word(&self, level: usize, index: usize) -> u64 {
        self.levels.get(level).and_then(|words| words.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn a_shuffle_is_a_permutation_and_knows_its_inverse() {
        for len in [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 10_240] {
            let shuffle = Shuffle::new(len, &mut ChaCha8Rng::seed_from_u64(u64::from(len)));
            let pieces: BTreeSet<u32> = (0..len).map(|place| shuffle.piece_at(place)).collect();
            assert_eq!(pieces, (0..len).collect(), "{len}");
            assert!((0..len).all(|place| shuffle.place_of(shuffle.piece_at(place)) == place), "{len}");
        }
    }

    #[test]
    fn a_shuffle_of_the_largest_content_works() {
        let len = 1 << 24;
        let shuffle = Shuffle::new(len, &mut ChaCha8Rng::seed_from_u64(7));
        assert!((0..len).step_by(997).all(|place| shuffle.place_of(shuffle.piece_at(place)) == place));
        let stays = (0..len).step_by(997).filter(|&place| shuffle.piece_at(place) == place).count();
        assert!(stays < 10, "{stays}");
    }

    proptest! {
        #[test]
        fn a_place_set_is_a_set(full: bool, len in 1u32..10_000, actions in prop::collection::vec((0u32..10_000, 0u8..3), 0..300)) {
            let (mut set, mut model) = match full {
                true => (PlaceSet::full(len), (0..len).collect()),
                false => (PlaceSet::empty(len), BTreeSet::new()),
            };
            for (place, action) in actions {
                let place = place % len;
                match action {
                    0 => prop_assert_eq!(set.insert(place), model.insert(place)),
                    1 => prop_assert_eq!(set.remove(place), model.remove(&place)),
                    _ => {
                        let next = model.range(place..).next().or_else(|| model.iter().next()).copied();
                        prop_assert_eq!(set.next_around(place), next);
                    }
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert_eq!(set.contains(place), model.contains(&place));
            }
        }
    }
}
