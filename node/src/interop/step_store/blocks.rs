//! Which blocks of an upload are here.
//!
//! Files may be huge and blocks come in any order: what is kept is how many of the first blocks are all here, and a map
//! of bits for the pages behind that have any.

use std::collections::BTreeMap;

const PAGE_BLOCKS: u64 = 4096;
const WORD_BLOCKS: u64 = 64;

/// A set of blocks of a file of a known number of blocks.
#[derive(Debug)]
pub(super) struct BlockSet {
    total: u64,
    count: u64,
    /// All blocks below are here.
    prefix: u64,
    /// None that lies below the prefix as a whole.
    pages: BTreeMap<u64, Box<[u64; (PAGE_BLOCKS / WORD_BLOCKS) as usize]>>,
}

impl BlockSet {
    pub(super) fn new(total: u64) -> Self {
        BlockSet { total, count: 0, prefix: 0, pages: BTreeMap::new() }
    }

    /// How many blocks are here.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many are not.
    pub(super) fn missing(&self) -> u64 {
        self.total - self.count
    }

    /// How many of the first blocks are here without a gap.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    pub(super) fn contains(&self, index: u64) -> bool {
        let word = || self.pages.get(&(index / PAGE_BLOCKS)).and_then(|page| page.get(word_of(index)));
        index < self.prefix || word().is_some_and(|word| word & bit_of(index) != 0)
    }

    /// Adds a block of the file.
    pub(super) fn insert(&mut self, index: u64) {
        assert!(index < self.total, "a block of the file");
        if self.contains(index) {
            return;
        }
        self.count += 1;
        let page = self.pages.entry(index / PAGE_BLOCKS).or_insert_with(|| Box::new([0; _]));
        if let Some(word) = page.get_mut(word_of(index)) {
            *word |= bit_of(index);
        }
        while self.prefix < self.total && self.contains(self.prefix) {
            self.prefix += 1;
        }
        while let Some(entry) = self.pages.first_entry()
            && (entry.key() + 1) * PAGE_BLOCKS <= self.prefix
        {
            entry.remove();
        }
    }
}

fn word_of(index: u64) -> usize {
    (index % PAGE_BLOCKS / WORD_BLOCKS) as usize
}

fn bit_of(index: u64) -> u64 {
    1 << (index % WORD_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn it_is_a_set_with_a_prefix() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let total = random.random_range(1..3 * PAGE_BLOCKS);
            let mut order: Vec<u64> = (0..total).collect();
            if seed % 3 > 0 {
                order.shuffle(&mut random);
            }
            let (mut blocks, mut model) = (BlockSet::new(total), BTreeSet::new());
            for (step, &index) in order.iter().enumerate() {
                assert!(!blocks.contains(index));
                blocks.insert(index);
                blocks.insert(index);
                model.insert(index);
                assert!(blocks.contains(index));
                assert_eq!(
                    (blocks.count(), blocks.missing()),
                    (model.len() as u64, total - model.len() as u64)
                );
                if step % 97 == 0 {
                    let prefix = (0..total).take_while(|index| model.contains(index)).count() as u64;
                    assert_eq!(blocks.prefix(), prefix, "seed {seed}");
                    assert!((0..total).all(|index| blocks.contains(index) == model.contains(&index)));
                }
            }
            assert_eq!((blocks.prefix(), blocks.missing()), (total, 0));
            assert!(blocks.pages.len() <= 1, "what is complete takes no room");
        }
    }

    #[test]
    fn a_few_blocks_of_a_huge_file_take_little() {
        let mut blocks = BlockSet::new(u64::MAX / 20_480);
        for index in [0, 1, u64::MAX / 20_480 - 1] {
            blocks.insert(index);
        }
        assert_eq!((blocks.prefix(), blocks.count(), blocks.pages.len()), (2, 3, 2));
    }
}
