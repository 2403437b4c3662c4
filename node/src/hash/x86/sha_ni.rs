//! Two messages at a time with the instructions for SHA-256, which have time for one while the other waits.
#![expect(
    clippy::needless_range_loop,
    reason = "iterators are calls here, unless all of the program is optimised as one"
)]

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
        let mut pair = Pair::begin(left, right, &blocks[0][number], &blocks[1][number]);
        pair.four_rounds::<0>();
        pair.four_rounds::<1>();
        pair.four_rounds::<2>();
        pair.four_rounds::<3>();
        pair.four_rounds::<4>();
        pair.four_rounds::<5>();
        pair.four_rounds::<6>();
        pair.four_rounds::<7>();
        pair.four_rounds::<8>();
        pair.four_rounds::<9>();
        pair.four_rounds::<10>();
        pair.four_rounds::<11>();
        pair.four_rounds::<12>();
        pair.four_rounds::<13>();
        pair.four_rounds::<14>();
        pair.four_rounds::<15>();
        left.add(pair.left);
        right.add(pair.right);
    }
    left.store(states, 0);
    right.store(states, 1);
}

/// Two blocks on their way through the rounds.
struct Pair {
    left: Stream,
    right: Stream,
    left_words: [__m128i; 4],
    right_words: [__m128i; 4],
}

impl Pair {
    /// Before the first round. Behind the last one, the state is to be added to the one before.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn begin(left: Stream, right: Stream, left_block: &Block, right_block: &Block) -> Self {
        Pair { left, right, left_words: load_block(left_block), right_words: load_block(right_block) }
    }

    /// Four rounds of both, the `GROUP`th of sixteen times. As long as more will follow than there are words, the four words
    /// are replaced once they are used.
    #[inline]
    #[target_feature(enable = "sha,sse4.1")]
    fn four_rounds<const GROUP: usize>(&mut self) {
        let [first, second, third, fourth] =
            const { [GROUP % 4, (GROUP + 1) % 4, (GROUP + 2) % 4, (GROUP + 3) % 4] };
        let (l, r) = (&mut self.left_words, &mut self.right_words);
        self.left.four_rounds(l[first], GROUP);
        self.right.four_rounds(r[first], GROUP);
        if GROUP < 12 {
            l[first] = expand(l[first], l[second], l[third], l[fourth]);
            r[first] = expand(r[first], r[second], r[third], r[fourth]);
        }
    }
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
        let word = |number: usize| states[number][lane].cast_signed();
        let [a, b, c, d, e, f, g, h] =
            [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
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
    fn add(&mut self, other: Stream) {
        self.abef = _mm_add_epi32(self.abef, other.abef);
        self.cdgh = _mm_add_epi32(self.cdgh, other.cdgh);
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
