//! Sixteen messages at a time in the vectors of AVX-512, which rotate in one step and do any logic of three in one.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_ror_epi32, _mm512_set_epi32, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::rounds;
use crate::hash::lanes::{Block, K, States};

/// Says that the processor has AVX-512F and AVX-512BW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hash) struct Avx512(());

impl Avx512 {
    /// Messages in one pass.
    pub(in crate::hash) const LANES: usize = 16;

    /// Itself, where the processor and the system have what it takes.
    pub(in crate::hash) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")).then_some(Avx512(()))
    }

    /// Takes in as many blocks for every lane.
    pub(in crate::hash) fn compress(self, states: &mut States<16>, blocks: &[&[Block]; 16]) {
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

#[target_feature(enable = "avx512f,avx512bw")]
fn compress(states: &mut States<16>, blocks: &[&[Block]; 16]) {
    let mut state = [_mm512_setzero_si512(); 8];
    for word in 0..8 {
        state[word] = load_words(&states[word]);
    }
    for number in 0..blocks[0].len() {
        let words = transpose(load_blocks(blocks, number));
        state = rounds::compress_words!(state, words);
    }
    for word in 0..8 {
        store_words(state[word], &mut states[word]);
    }
}

/// One block of each lane, as words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_blocks(blocks: &[&[Block]; 16], number: usize) -> [__m512i; 16] {
    // In each word the bytes from last to first: SHA-256 has the most significant one first.
    let reversed = [0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203];
    let [r3, r2, r1, r0] = reversed;
    let order = _mm512_set_epi32(r3, r2, r1, r0, r3, r2, r1, r0, r3, r2, r1, r0, r3, r2, r1, r0);
    let mut rows = [_mm512_setzero_si512(); 16];
    for lane in 0..16 {
        rows[lane] = _mm512_shuffle_epi8(load_block(&blocks[lane][number]), order);
    }
    rows
}

/// From 16 words of each of 16 lanes to 16 lanes of each of 16 words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // `fours[4 * lanes + word]`: of four lanes, in each quarter of the vector, this word of four.
    let mut fours = [zero; 16];
    for four in [0, 4, 8, 12] {
        let [first, second, third, fourth] = [rows[four], rows[four + 1], rows[four + 2], rows[four + 3]];
        let (low, high) = (_mm512_unpacklo_epi32(first, second), _mm512_unpackhi_epi32(first, second));
        let (low_2, high_2) = (_mm512_unpacklo_epi32(third, fourth), _mm512_unpackhi_epi32(third, fourth));
        fours[four] = _mm512_unpacklo_epi64(low, low_2);
        fours[four + 1] = _mm512_unpackhi_epi64(low, low_2);
        fours[four + 2] = _mm512_unpacklo_epi64(high, high_2);
        fours[four + 3] = _mm512_unpackhi_epi64(high, high_2);
    }
    let mut words = [zero; 16];
    for word in 0..4 {
        let [a, b, c, d] = [fours[word], fours[4 + word], fours[8 + word], fours[12 + word]];
        // The quarters 0 and 2, and the quarters 1 and 3, of two vectors each.
        let (even, odd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
        let (even_2, odd_2) = (_mm512_shuffle_i32x4::<EVEN>(c, d), _mm512_shuffle_i32x4::<ODD>(c, d));
        words[word] = _mm512_shuffle_i32x4::<EVEN>(even, even_2);
        words[4 + word] = _mm512_shuffle_i32x4::<EVEN>(odd, odd_2);
        words[8 + word] = _mm512_shuffle_i32x4::<ODD>(even, even_2);
        words[12 + word] = _mm512_shuffle_i32x4::<ODD>(odd, odd_2);
    }
    words
}

/// The quarters 0 and 2 of both vectors.
const EVEN: i32 = 0b10_00_10_00;
/// The quarters 1 and 3 of both vectors.
const ODD: i32 = 0b11_01_11_01;

/// Bits of the result for each of the eight cases of three bits.
const EXCLUSIVE_OR: i32 = 0x96;
const CHOOSE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

#[inline]
#[target_feature(enable = "avx512f")]
fn load_block(block: &Block) -> __m512i {
    // SAFETY: the reference leads to 64 bytes that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm512_loadu_si512(block.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_words(words: &[u32; 16]) -> __m512i {
    // SAFETY: the reference leads to 16 words, 64 bytes, that can be read; this load asks for no alignment.
    #[expect(unsafe_code, reason = "loading a vector takes a pointer")]
    unsafe {
        _mm512_loadu_si512(words.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(vector: __m512i, words: &mut [u32; 16]) {
    // SAFETY: the reference leads to 16 words, 64 bytes, that are ours to write; this store asks for no alignment, and
    // any bits are words.
    #[expect(unsafe_code, reason = "storing a vector takes a pointer")]
    unsafe {
        _mm512_storeu_si512(words.as_mut_ptr().cast(), vector);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn choose(by: __m512i, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<CHOOSE>(by, a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn majority(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_0(x: __m512i) -> __m512i {
    let (a, b, c) = (_mm512_ror_epi32::<2>(x), _mm512_ror_epi32::<13>(x), _mm512_ror_epi32::<22>(x));
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_1(x: __m512i) -> __m512i {
    let (a, b, c) = (_mm512_ror_epi32::<6>(x), _mm512_ror_epi32::<11>(x), _mm512_ror_epi32::<25>(x));
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_0(x: __m512i) -> __m512i {
    let (a, b, c) = (_mm512_ror_epi32::<7>(x), _mm512_ror_epi32::<18>(x), _mm512_srli_epi32::<3>(x));
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_1(x: __m512i) -> __m512i {
    let (a, b, c) = (_mm512_ror_epi32::<17>(x), _mm512_ror_epi32::<19>(x), _mm512_srli_epi32::<10>(x));
    _mm512_ternarylogic_epi32::<EXCLUSIVE_OR>(a, b, c)
}
