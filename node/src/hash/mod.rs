//! SHA-256 of several messages side by side: what one core hashes faster than one message after another.
//!
//! One SHA-256 is a chain in which every step waits for the one before; the chunks of a content are many short chains
//! that wait for nothing. [`leaves`] hashes consecutive chunks, [`hash_many`] messages from anywhere. An [`Engine`] hashes
//! a number of messages in one pass, which takes as long as the longest of them; so passes are made of messages of about
//! one length. How long the engines that the processor has take is measured once, at the first use; which passes make up
//! the least time is found out for each set of messages, so that few or short ones do not pay for many lanes.
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
    let (mut rest, mut messages) = (bytes, Vec::with_capacity(span.count() as usize));
    for chunk in span.chunks() {
        let (message, behind) = rest.split_at(geometry.chunk_len(chunk) as usize);
        messages.push(message);
        rest = behind;
    }
    hash_many(&messages, out);
}

/// Appends the SHA-256 of each message, in order.
///
/// They are hashed side by side, best those of about the same length.
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
    choice::chosen().engine_for_many().name()
}

/// Bytes of a whole chunk.
const CHUNK_BYTES: usize = CHUNK_SIZE as usize;
