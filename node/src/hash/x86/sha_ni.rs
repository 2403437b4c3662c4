//! Two messages at a time with the instructions for SHA-256, which have time for one while the other waits.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi32,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::hash::lanes::{Block, K, States};

/// Says that the processor has the instructions for SHA-256, and SSE 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hash) struct ShaNi(());

impl ShaNi {
    /// Messages in one pass.
    pub(in crate::hash) const LANES: usize = 2;

    /// Itself, where the processor has what it takes.
    pub(in crate::hash) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")).then_some(ShaNi(()))
    }

    /// Takes in as many blocks for both lanes.
    pub(in crate::hash) fn compress(self, states: &mut States<2>, blocks: &[&[Block]; 2]) {
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

#[target_feature(enable = "sha,sse4.1")]
fn compress(states: &mut States<2>, blocks: &[&[Block]; 2]) {
    let mut left = Stream::load(states, 0);
    let mut right = Stream::load(states, 1);
    for number in 0..blocks[0].len() {
        let (left_before, right_before) = (left, right);
        let [mut l0, mut l1, mut l2, mut l3] = load_block(&blocks[0][number]);
        let [mut r0, mut r1, mut r2, mut r3] = load_block(&blocks[1][number]);
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

/// The state of one lane as the instructions want it: words a, b, e, f and c, d, g, h, from the highest.
#[derive(Clone, Copy)]
struct Stream {
    abef: __m128i,
    cdgh: __m128i,
}

impl Stream {
    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn load(states: &States<2>, lane: usize) -> Self {
        let [a, b, c, d, e, f, g, h] = states.map(|words| words[lane].cast_signed());
        Stream { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
    }

    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn store(self, states: &mut States<2>, lane: usize) {
        let Stream { abef, cdgh } = self;
        let words = [
            _mm_extract_epi32::<3>(abef),
            _mm_extract_epi32::<2>(abef),
            _mm_extract_epi32::<3>(cdgh),
            _mm_extract_epi32::<2>(cdgh),
            _mm_extract_epi32::<1>(abef),
            _mm_extract_epi32::<0>(abef),
            _mm_extract_epi32::<1>(cdgh),
            _mm_extract_epi32::<0>(cdgh),
        ];
        for (lanes, word) in states.iter_mut().zip(words) {
            lanes[lane] = word.cast_unsigned();
        }
    }

    /// Four rounds with these four words, and with the constants of this group of four.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn four_rounds(&mut self, words: __m128i, group: usize) {
        let taken_in = _mm_add_epi32(words, load_words(&K.as_chunks::<4>().0[group]));
        // Two rounds turn the older half of the state into the newer one.
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, taken_in);
        let upper = _mm_shuffle_epi32::<0b11_10>(taken_in);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, upper);
    }

    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn add(&mut self, before: Stream) {
        self.abef = _mm_add_epi32(self.abef, before.abef);
        self.cdgh = _mm_add_epi32(self.cdgh, before.cdgh);
    }
}

/// The four words that follow these sixteen.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn expand(w0: __m128i, w4: __m128i, w8: __m128i, w12: __m128i) -> __m128i {
    let w9 = _mm_alignr_epi8::<4>(w12, w8);
    _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w0, w4), w9), w12)
}

/// The words of a block, four by four.
#[inline]
#[target_feature(enable = "sse4.1")]
fn load_block(block: &Block) -> [__m128i; 4] {
    // In each word the bytes from last to first: SHA-256 has the most significant one first.
    let order = _mm_set_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let (quarters, _) = block.as_chunks::<16>();
    [
        _mm_shuffle_epi8(load_bytes(&quarters[0]), order),
        _mm_shuffle_epi8(load_bytes(&quarters[1]), order),
        _mm_shuffle_epi8(load_bytes(&quarters[2]), order),
        _mm_shuffle_epi8(load_bytes(&quarters[3]), order),
    ]
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn load_bytes(quarter: &[u8; 16]) -> __m128i {
    // SAFETY: the reference leads to 16 bytes that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm_loadu_si128(quarter.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn load_words(words: &[u32; 4]) -> __m128i {
    // SAFETY: the reference leads to 4 words, 16 bytes, that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm_loadu_si128(words.as_ptr().cast())
    }
}
