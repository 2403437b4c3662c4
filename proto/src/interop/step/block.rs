//! Where the blocks of a file are: the only place that computes with block numbers, offsets and lengths.
//!
//! Block `i` of a file begins at `i * block_size`, and every block is full but the last. Nothing here overflows: sizes
//! are below 2^63, and a [`Block`] only comes from the plan whose file it lies in.

use super::limits::{BLOCK_SIZE, BLOCK_SIZE_MAX};
use super::value::FileSize;

/// How a file is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockPlan {
    size: u64,
    block_size: u32,
}

/// One block of a file: at least one byte long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    index: u64,
    offset: u64,
    len: u32,
}

/// Why a block does not fit a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// There is no block with this number.
    #[error("the file has no block of this number")]
    IndexBeyondEnd,
    /// The block has another length than the plan says.
    #[error("the block has the wrong length")]
    SizeWrong,
}

impl BlockPlan {
    /// The plan that our server announces for a file of this size.
    pub const fn standard(size: FileSize) -> Self {
        BlockPlan { size: size.get(), block_size: BLOCK_SIZE }
    }

    /// The plan that a server announced; none if its blocks are empty or larger than [`BLOCK_SIZE_MAX`].
    pub fn announced(size: FileSize, block_size: u64) -> Option<Self> {
        let block_size = u32::try_from(block_size).ok()?;
        (1..=BLOCK_SIZE_MAX).contains(&block_size).then_some(BlockPlan { size: size.get(), block_size })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every block but the last.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Number of blocks; none for an empty file.
    pub fn total_block(&self) -> u64 {
        self.size.div_ceil(u64::from(self.block_size))
    }

    /// The block with this number, if there is one.
    pub fn block(&self, index: u64) -> Option<Block> {
        if index >= self.total_block() {
            return None;
        }
        // Below the number of blocks, so the product is below the size of the file.
        let offset = index * u64::from(self.block_size);
        let len = u32::try_from(self.size - offset).unwrap_or(u32::MAX).min(self.block_size);
        Some(Block { index, offset, len })
    }

    /// Where `len` bytes that came as block `index` belong. A number beyond the end is told before a wrong length.
    pub fn place(&self, index: u64, len: usize) -> Result<Block, BlockFault> {
        let block = self.block(index).ok_or(BlockFault::IndexBeyondEnd)?;
        if block.len as usize == len { Ok(block) } else { Err(BlockFault::SizeWrong) }
    }
}

impl Block {
    /// The number of the block.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Where in the file it begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::step::limits::FILE_SIZE_MAX;
    use proptest::prelude::*;

    fn size(bytes: u64) -> FileSize {
        FileSize::new(bytes).unwrap()
    }

    #[test]
    fn sizes_around_every_edge() {
        let cases = [
            (0, 0, 0),
            (1, 1, 1),
            (20_479, 1, 20_479),
            (20_480, 1, 20_480),
            (20_481, 2, 1),
            (45_000, 3, 4040),
        ];
        for (bytes, blocks, last) in cases {
            let plan = BlockPlan::standard(size(bytes));
            assert_eq!(plan.total_block(), blocks, "{bytes}");
            let last_block = blocks.checked_sub(1).and_then(|index| plan.block(index));
            assert_eq!(last_block.map_or(0, |block| block.len()), last, "{bytes}");
            assert_eq!(plan.block(blocks), None);
        }
    }

    #[test]
    fn the_largest_file_does_not_overflow() {
        for block_size in [1, 20_480, u64::from(BLOCK_SIZE_MAX)] {
            let plan = BlockPlan::announced(size(FILE_SIZE_MAX), block_size).unwrap();
            let last = plan.block(plan.total_block() - 1).unwrap();
            assert_eq!(last.offset() + last.len() as u64, FILE_SIZE_MAX);
            assert_eq!(plan.block(u64::MAX), None);
        }
        assert_eq!(FileSize::new(FILE_SIZE_MAX + 1), None);
    }

    #[test]
    fn a_server_announces_what_it_likes_within_bounds() {
        assert_eq!(BlockPlan::announced(size(30_000), 12_800).unwrap().total_block(), 3);
        for block_size in [0, u64::from(BLOCK_SIZE_MAX) + 1, u64::MAX] {
            assert_eq!(BlockPlan::announced(size(1), block_size), None);
        }
    }

    #[test]
    fn a_number_beyond_the_end_is_told_first() {
        let plan = BlockPlan::standard(size(45_000));
        assert_eq!(plan.place(3, 7), Err(BlockFault::IndexBeyondEnd));
        assert_eq!(plan.place(2, 20_480), Err(BlockFault::SizeWrong));
        assert_eq!(plan.place(2, 4040).map(|block| block.offset()), Ok(40_960));
    }

    proptest! {
        #[test]
        fn blocks_cover_the_file_once(bytes in 0u64..3_000_000, block_size in 1000u64..50_000) {
            let plan = BlockPlan::announced(size(bytes), block_size).unwrap();
            let mut end = 0;
            for index in 0..plan.total_block() {
                let block = plan.block(index).unwrap();
                prop_assert_eq!(block.offset(), end);
                end += block.len() as u64;
            }
            prop_assert_eq!(end, bytes);
        }
    }
}
