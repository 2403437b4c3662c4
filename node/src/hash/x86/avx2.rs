//! Eight messages at a time in the vectors of AVX2: for processors that have no instructions for SHA-256.
#![expect(
    clippy::needless_range_loop,
    reason = "iterators are calls here, unless all of the program is optimised as one"
)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set_epi32, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_si256, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::rounds;
use crate::hash::lanes::{Block, K, States};

/// Says that the processor has AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hash) struct Avx2(());

impl Avx2 {
    /// Messages in one pass.
    pub(in crate::hash) const LANES: usize = 8;

    /// Itself, where the processor and the system have what it takes.
    pub(in crate::hash) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    /// Takes in as many blocks for every lane.
    pub(in crate::hash) fn compress(self, states: &mut States<8>, blocks: &[&[Block]; 8]) {
        // SAFETY: `self` exists, so `detect` has found the feature that `compress` is built with.
        #[expect(
            unsafe_code,
            reason = "only at run time is it known that the processor has the instructions"
        )]
        unsafe {
            compress(states, blocks);
        }
    }
}

#[target_feature(enable = "avx2")]
fn compress(states: &mut States<8>, blocks: &[&[Block]; 8]) {
    let mut state = [_mm256_setzero_si256(); 8];
    for word in 0..8 {
        state[word] = load_words(&states[word]);
    }
    for number in 0..blocks[0].len() {
        let [w0, w1, w2, w3, w4, w5, w6, w7] = transpose(load_halves::<0>(blocks, number));
        let [w8, w9, w10, w11, w12, w13, w14, w15] = transpose(load_halves::<1>(blocks, number));
        let words = [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15];
        state = rounds::compress_words!(state, words);
    }
    for word in 0..8 {
        store_words(state[word], &mut states[word]);
    }
}

/// One half of one block of each lane, as words.
#[inline]
#[target_feature(enable = "avx2")]
fn load_halves<const HALF: usize>(blocks: &[&[Block]; 8], number: usize) -> [__m256i; 8] {
    // In each word the bytes from last to first: SHA-256 has the most significant one first.
    let [r3, r2, r1, r0] = [0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203];
    let order = _mm256_set_epi32(r3, r2, r1, r0, r3, r2, r1, r0);
    let mut rows = [_mm256_setzero_si256(); 8];
    for lane in 0..8 {
        let (halves, _) = blocks[lane][number].as_chunks::<32>();
        rows[lane] = _mm256_shuffle_epi8(load_half(&halves[HALF]), order);
    }
    rows
}

/// From 8 words of each of 8 lanes to 8 lanes of each of 8 words.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // `fours[lanes][word]`: of four lanes, in each half of the vector, this word of four.
    let mut fours = [[_mm256_setzero_si256(); 4]; 2];
    for lanes in 0..2 {
        let four = 4 * lanes;
        let [first, second, third, fourth] = [rows[four], rows[four + 1], rows[four + 2], rows[four + 3]];
        let (low, high) = (_mm256_unpacklo_epi32(first, second), _mm256_unpackhi_epi32(first, second));
        let (low_2, high_2) = (_mm256_unpacklo_epi32(third, fourth), _mm256_unpackhi_epi32(third, fourth));
        fours[lanes] = [
            _mm256_unpacklo_epi64(low, low_2),
            _mm256_unpackhi_epi64(low, low_2),
            _mm256_unpacklo_epi64(high, high_2),
            _mm256_unpackhi_epi64(high, high_2),
        ];
    }
    let mut words = [_mm256_setzero_si256(); 8];
    for word in 0..4 {
        words[word] = _mm256_permute2x128_si256::<LOW_HALVES>(fours[0][word], fours[1][word]);
        words[4 + word] = _mm256_permute2x128_si256::<HIGH_HALVES>(fours[0][word], fours[1][word]);
    }
    words
}

/// The lower halves of two vectors.
const LOW_HALVES: i32 = 0x20;
/// The upper halves of two vectors.
const HIGH_HALVES: i32 = 0x31;

#[inline]
#[target_feature(enable = "avx2")]
fn load_half(half: &[u8; 32]) -> __m256i {
    // SAFETY: the reference leads to 32 bytes that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm256_loadu_si256(half.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_words(words: &[u32; 8]) -> __m256i {
    // SAFETY: the reference leads to 8 words, 32 bytes, that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm256_loadu_si256(words.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_words(vector: __m256i, words: &mut [u32; 8]) {
    // SAFETY: the reference leads to 8 words, 32 bytes, that are ours to write; this store asks for no alignment, and
    // any bits are words.
    #[expect(unsafe_code, reason = "storing a vector takes a pointer")]
    unsafe {
        _mm256_storeu_si256(words.as_mut_ptr().cast(), vector);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn choose(by: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(b, _mm256_and_si256(by, _mm256_xor_si256(a, b)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(c, _mm256_or_si256(a, b)))
}

/// Rotates right; `LEFT` is 32 less `RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const RIGHT: i32, const LEFT: i32>(x: __m256i) -> __m256i {
    const { assert!(RIGHT + LEFT == 32, "a rotation loses nothing") };
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(x), _mm256_slli_epi32::<LEFT>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn exclusive_or(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(a, _mm256_xor_si256(b, c))
}

#[inline]
#[target_feature(enable = "avx2")]
fn big_sigma_0(x: __m256i) -> __m256i {
    exclusive_or(rotate::<2, 30>(x), rotate::<13, 19>(x), rotate::<22, 10>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn big_sigma_1(x: __m256i) -> __m256i {
    exclusive_or(rotate::<6, 26>(x), rotate::<11, 21>(x), rotate::<25, 7>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn small_sigma_0(x: __m256i) -> __m256i {
    exclusive_or(rotate::<7, 25>(x), rotate::<18, 14>(x), _mm256_srli_epi32::<3>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn small_sigma_1(x: __m256i) -> __m256i {
    exclusive_or(rotate::<17, 15>(x), rotate::<19, 13>(x), _mm256_srli_epi32::<10>(x))
}
