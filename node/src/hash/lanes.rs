//! What all engines share: how a message becomes blocks, and lanes become digests.
//!
//! Source of the constants and of the padding: FIPS 180-4.

use std::array::from_fn;

use ftx_proto::digest::Digest;

/// Most messages that an engine hashes in one pass.
pub(super) const LANES_MAX: usize = 16;

/// Bytes that one step of SHA-256 takes in.
const BLOCK_BYTES: usize = 64;

/// What one step takes in.
pub(super) type Block = [u8; BLOCK_BYTES];

/// The eight words of `N` states: first the first word of each lane, then the second, and so on.
pub(super) type States<const N: usize> = [[u32; N]; 8];

/// The round constants.
#[rustfmt::skip]
pub(super) const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// The state before the first block.
const INITIAL: [u32; 8] =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// Hashes 1 to `N` messages side by side with `compress`, each digest to the place of its message.
///
/// `compress` takes in as many blocks for every lane, and goes through them in order. So a pass takes as long as the
/// longest message: a lane whose message has ended, or that never had one, does what another lane needs once more.
pub(super) fn hash_pass<const N: usize>(
    messages: &[&[u8]],
    digests: &mut [Digest],
    compress: impl Fn(&mut States<N>, &[&[Block]; N]),
) {
    assert!((1..=N).contains(&messages.len()), "as many messages as lanes, or fewer");
    assert_eq!(messages.len(), digests.len(), "one digest a message");
    let lanes: [&[u8]; N] = from_fn(|lane| messages[lane.min(messages.len() - 1)]);
    let split = lanes.map(|message| message.as_chunks::<BLOCK_BYTES>());
    let ends = from_fn::<_, N, _>(|lane| End::new(split[lane].1, lanes[lane].len()));
    let mut states = INITIAL.map(|word| [word; N]);
    let mut rest = split.map(|(whole, _)| whole);
    let mut stages = [Stage::Whole; N];
    loop {
        for lane in 0..N {
            if stages[lane] == Stage::Whole && rest[lane].is_empty() {
                (rest[lane], stages[lane]) = (ends[lane].blocks(), Stage::End);
            }
            if stages[lane] == Stage::End && rest[lane].is_empty() {
                stages[lane] = Stage::Over;
                // Now: what the lane does from here on is not about its message any more.
                if let Some(digest) = digests.get_mut(lane) {
                    *digest = digest_of(&states, lane);
                }
            }
        }
        let Some(least) = rest.into_iter().filter(|blocks| !blocks.is_empty()).min_by_key(|it| it.len())
        else {
            return;
        };
        let now = rest.map(|blocks| if blocks.is_empty() { least } else { &blocks[..least.len()] });
        compress(&mut states, &now);
        rest = rest.map(|blocks| blocks.get(least.len()..).unwrap_or_default());
    }
}

/// How far the message of a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// At the blocks that it fills.
    Whole,
    /// At its last ones.
    End,
    /// Its digest is known.
    Over,
}

/// The last blocks of a message: what does not fill a block, and the padding.
struct End {
    blocks: [Block; 2],
    count: usize,
}

impl End {
    fn new(rest: &[u8], message_len: usize) -> Self {
        let mut blocks = [[0; BLOCK_BYTES]; 2];
        let bytes = blocks.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        // With the length, in bits, at the end of the last block.
        let count = blocks_of(rest.len());
        let end = count * BLOCK_BYTES;
        bytes[end - size_of::<u64>()..end].copy_from_slice(&(message_len as u64 * 8).to_be_bytes());
        End { blocks, count }
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }
}

/// How many blocks a message of so many bytes becomes.
pub(super) fn blocks_of(message_len: usize) -> usize {
    (message_len + 1 + size_of::<u64>()).div_ceil(BLOCK_BYTES)
}

fn digest_of<const N: usize>(states: &States<N>, lane: usize) -> Digest {
    let mut digest = [0; 32];
    for (bytes, words) in digest.as_chunks_mut::<4>().0.iter_mut().zip(states) {
        *bytes = words[lane].to_be_bytes();
    }
    Digest(digest)
}
