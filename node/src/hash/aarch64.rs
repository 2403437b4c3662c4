//! Two messages at a time with the instructions of ARMv8 for SHA-256, which have time for one while the other waits.
#![expect(
    clippy::needless_range_loop,
    reason = "iterators are calls here, unless all of the program is optimised as one"
)]

use std::arch::aarch64::{
    uint8x16_t, uint32x4_t, vaddq_u32, vld1q_u8, vld1q_u32, vreinterpretq_u32_u8, vrev32q_u8, vsha256h2q_u32,
    vsha256hq_u32, vsha256su0q_u32, vsha256su1q_u32, vst1q_u32,
};
use std::arch::is_aarch64_feature_detected;

use super::lanes::{Block, K, States};

/// Says that the processor has the instructions for SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ArmSha(());

impl ArmSha {
    /// Messages in one pass.
    pub(super) const LANES: usize = 2;

    /// Itself, where the processor has what it takes.
    pub(super) fn detect() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("sha2")).then_some(ArmSha(()))
    }

    /// Takes in as many blocks for both lanes.
    pub(super) fn compress(self, states: &mut States<2>, blocks: &[&[Block]; 2]) {
        // SAFETY: `self` exists, so `detect` has found the features that `compress` is built with.
        #[expect(
            unsafe_code,
            reason = "only at run time is it known that the processor has the instructions"
        )]
        unsafe {
            compress(states, blocks);
        }
    }
}

#[target_feature(enable = "neon,sha2")]
fn compress(states: &mut States<2>, blocks: &[&[Block]; 2]) {
    let mut left = Stream::load(states, 0);
    let mut right = Stream::load(states, 1);
    for number in 0..blocks[0].len() {
        let (left_before, right_before) = (left, right);
        let [mut l0, mut l1, mut l2, mut l3] = block_words(&blocks[0][number]);
        let [mut r0, mut r1, mut r2, mut r3] = block_words(&blocks[1][number]);
        // Sixteen rounds a turn. In the first three, each four words are replaced once they are used.
        for turn in 0..3 {
            left.four_rounds(l0, 4 * turn);
            right.four_rounds(r0, 4 * turn);
            (l0, r0) = (expand(l0, l1, l2, l3), expand(r0, r1, r2, r3));
            left.four_rounds(l1, 4 * turn + 1);
            right.four_rounds(r1, 4 * turn + 1);
            (l1, r1) = (expand(l1, l2, l3, l0), expand(r1, r2, r3, r0));
            left.four_rounds(l2, 4 * turn + 2);
            right.four_rounds(r2, 4 * turn + 2);
            (l2, r2) = (expand(l2, l3, l0, l1), expand(r2, r3, r0, r1));
            left.four_rounds(l3, 4 * turn + 3);
            right.four_rounds(r3, 4 * turn + 3);
            (l3, r3) = (expand(l3, l0, l1, l2), expand(r3, r0, r1, r2));
        }
        left.four_rounds(l0, 12);
        right.four_rounds(r0, 12);
        left.four_rounds(l1, 13);
        right.four_rounds(r1, 13);
        left.four_rounds(l2, 14);
        right.four_rounds(r2, 14);
        left.four_rounds(l3, 15);
        right.four_rounds(r3, 15);
        left.add(left_before);
        right.add(right_before);
    }
    left.store(states, 0);
    right.store(states, 1);
}

/// The state of one lane: words a to d and e to h.
#[derive(Clone, Copy)]
struct Stream {
    abcd: uint32x4_t,
    efgh: uint32x4_t,
}

impl Stream {
    #[inline]
    #[target_feature(enable = "neon")]
    fn load(states: &States<2>, lane: usize) -> Self {
        let [a, b, c, d, e, f, g, h] = states.map(|words| words[lane]);
        Stream { abcd: load_words(&[a, b, c, d]), efgh: load_words(&[e, f, g, h]) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn store(self, states: &mut States<2>, lane: usize) {
        let words = [store_words(self.abcd), store_words(self.efgh)];
        for (lanes, word) in states.iter_mut().zip(words.as_flattened()) {
            lanes[lane] = *word;
        }
    }

    /// Four rounds with these four words, and with the constants of this group of four.
    #[inline]
    #[target_feature(enable = "neon,sha2")]
    fn four_rounds(&mut self, words: uint32x4_t, group: usize) {
        let taken_in = vaddq_u32(words, load_words(&K.as_chunks::<4>().0[group]));
        let abcd = self.abcd;
        self.abcd = vsha256hq_u32(abcd, self.efgh, taken_in);
        self.efgh = vsha256h2q_u32(self.efgh, abcd, taken_in);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn add(&mut self, before: Stream) {
        self.abcd = vaddq_u32(self.abcd, before.abcd);
        self.efgh = vaddq_u32(self.efgh, before.efgh);
    }
}

/// The four words that follow these sixteen.
#[inline]
#[target_feature(enable = "neon,sha2")]
fn expand(w0: uint32x4_t, w4: uint32x4_t, w8: uint32x4_t, w12: uint32x4_t) -> uint32x4_t {
    vsha256su1q_u32(vsha256su0q_u32(w0, w4), w8, w12)
}

/// The words of a block, four by four.
#[inline]
#[target_feature(enable = "neon")]
fn block_words(block: &Block) -> [uint32x4_t; 4] {
    let (quarters, _) = block.as_chunks::<16>();
    [in_order(&quarters[0]), in_order(&quarters[1]), in_order(&quarters[2]), in_order(&quarters[3])]
}

/// In each word the bytes from last to first: SHA-256 has the most significant one first.
#[inline]
#[target_feature(enable = "neon")]
fn in_order(quarter: &[u8; 16]) -> uint32x4_t {
    vreinterpretq_u32_u8(vrev32q_u8(load_bytes(quarter)))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_bytes(quarter: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the reference leads to 16 bytes that can be read; bytes have no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        vld1q_u8(quarter.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_words(words: &[u32; 4]) -> uint32x4_t {
    // SAFETY: the reference leads to 4 words that can be read, aligned as words are, which is all that this load asks for.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        vld1q_u32(words.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_words(vector: uint32x4_t) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: the pointer leads to 4 words of our own, aligned as words are, which is all that this store asks for.
    #[expect(unsafe_code, reason = "storing a vector takes a pointer")]
    unsafe {
        vst1q_u32(words.as_mut_ptr(), vector);
    }
    words
}
