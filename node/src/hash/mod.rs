//! SHA-256 of several messages side by side: what one core hashes faster than one message after another.
//!
//! One SHA-256 is a chain in which every step waits for the one before; the chunks of a content are many short chains
//! that wait for nothing. [`leaves`] hashes consecutive chunks, [`hash_many`] messages from anywhere. An [`Engine`] hashes
//! a number of messages of the same length in one pass; which of those that the processor has are used is measured once,
//! at the first use, and for each number of messages on its own, so that few of them do not pay for many lanes.
//!
//! It knows nothing of trees, files or peers, and has no state but that choice: there is nothing for a crash to lose. All
//! engines give the same digests.

use ftx_proto::digest::Digest;
use ftx_proto::geometry::{CHUNK_SIZE, Geometry, Span};

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod choice;
mod engine;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use engine::Engine;

/// Appends the leaf hash of each chunk of these bytes, which begin with a chunk. The last chunk may be shorter.
pub fn leaves(bytes: &[u8], out: &mut Vec<Digest>) {
    out.reserve(bytes.len().div_ceil(CHUNK_BYTES));
    for group in bytes.chunks(CHUNK_BYTES * lanes::LANES_MAX) {
        let mut messages = [[].as_slice(); lanes::LANES_MAX];
        let count = group.len().div_ceil(CHUNK_BYTES);
        for (message, chunk) in messages.iter_mut().zip(group.chunks(CHUNK_BYTES)) {
            *message = chunk;
        }
        hash_many(&messages[..count], out);
    }
}

/// Appends the leaf hash of each chunk of a span, whose bytes these are. In a folder chunks end where files end.
pub fn leaves_of(geometry: &Geometry, span: Span, bytes: &[u8], out: &mut Vec<Digest>) {
    if geometry.folder().is_none() {
        return leaves(bytes, out);
    }
    let (mut rest, mut whole, mut short) = (bytes, Vec::new(), Vec::new());
    let is_whole: Vec<bool> = span
        .chunks()
        .map(|chunk| {
            let (message, behind) = rest.split_at(geometry.chunk_len(chunk) as usize);
            rest = behind;
            let is_whole = message.len() == CHUNK_BYTES;
            if is_whole {
                whole.push(message)
            } else {
                short.push(message)
            }
            is_whole
        })
        .collect();
    // Only messages of the same length are hashed side by side.
    let mut hashes = Vec::with_capacity(is_whole.len());
    hash_many(&whole, &mut hashes);
    hash_many(&short, &mut hashes);
    let mut of_short = hashes.split_off(whole.len()).into_iter();
    let mut of_whole = hashes.into_iter();
    out.extend(
        is_whole.into_iter().filter_map(|whole| if whole { of_whole.next() } else { of_short.next() }),
    );
}

/// Appends the SHA-256 of each message, in order.
///
/// Those that follow each other with the same length are hashed side by side.
pub fn hash_many(messages: &[&[u8]], out: &mut Vec<Digest>) {
    out.reserve(messages.len());
    match messages {
        [] => {}
        // Not worth to be measured for.
        [only] => out.push(Digest::of(only)),
        _ => choice::chosen().hash(messages, out),
    }
}

/// What hashes many chunks here, for people.
pub fn engine_name() -> &'static str {
    choice::chosen().engine_for(lanes::LANES_MAX).name()
}

/// Bytes of a whole chunk.
const CHUNK_BYTES: usize = CHUNK_SIZE as usize;
