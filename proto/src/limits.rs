//! Every bound of the protocol, in one place, with their relations checked when this is compiled.
//!
//! A peer that goes beyond one of them breaks the protocol; nothing in a node grows past them.

use crate::geometry::{CHUNK_SIZE, PIECE_CHUNKS};

/// Largest content, in bytes: 16 TiB. Keeps chunk numbers in a `u32` and a piece layer under 512 MiB.
pub const FILE_SIZE_MAX: u64 = 1 << 44;

/// Largest encoded manifest of a folder, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 192 << 20;

/// Most entries of a folder that is fetched at once.
pub const MANIFEST_ENTRIES_MAX: usize = 2 << 20;

/// Longest target of a symbolic link, in bytes.
pub const LINK_TARGET_BYTES_MAX: usize = 4095;

/// Largest discovery datagram, in bytes of UDP payload: fits every link's MTU without fragments.
pub const DATAGRAM_SIZE_MAX: usize = 1200;

/// What sealing adds to a discovery datagram: magic, nonce and tag.
pub const SEALED_OVERHEAD: usize = 32;

/// Largest sealed discovery datagram: it still fits a packet of IPv6's smallest MTU.
pub const SEALED_SIZE_MAX: usize = DATAGRAM_SIZE_MAX + SEALED_OVERHEAD;

/// Largest answer of which a copy follows: both together, sealed or not, are no larger than what was asked with.
pub const ANSWER_TWICE_BYTES_MAX: usize = SEALED_SIZE_MAX / 2 - SEALED_OVERHEAD;

/// Largest `meta` part of a session frame, in bytes.
pub const FRAME_META_MAX: usize = 64 * 1024;

/// Largest payload of a session frame, in bytes: a run of 16 chunks, or as many hashes as fit.
pub const FRAME_PAYLOAD_MAX: usize = 256 * 1024;

/// Most chunks in the payload of one frame.
pub const RUN_CHUNKS_MAX: u32 = (FRAME_PAYLOAD_MAX / CHUNK_SIZE as usize) as u32;

/// Most hashes in the payload of one frame.
pub const FRAME_HASHES_MAX: u32 = (FRAME_PAYLOAD_MAX / 32) as u32;

/// Longest name on the wire, in bytes: one offer with such a name still fits a datagram.
pub const PATH_BYTES_MAX: usize = 900;

/// Longest part of a name, in bytes.
pub const PATH_PART_BYTES_MAX: usize = 255;

/// Most parts of a name.
pub const PATH_PARTS_MAX: usize = 64;

/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// Longest reason or other free text that a peer may send, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Most entries in one listing frame.
pub const LISTING_ENTRIES_MAX: usize = 512;

/// Most ranges of pieces in one `Have`; what does not fit is told in a further one.
pub const HAVE_RANGES_MAX: usize = 4096;

/// Most requests that a session may have outstanding with us; more is a violation.
pub const SESSION_REQUESTS_MAX: usize = 4096;

/// Most bytes that a fetch keeps requested from one source.
pub const SOURCE_WINDOW_BYTES_MAX: u64 = 16 << 20;

/// Most chunks that one Want of the datagram lane names: as many as fit the smallest datagrams.
pub const WANT_CHUNKS_MAX: usize = 192;

/// Most fragments that one Want asks for: 256 KiB in the smallest datagrams.
pub const WANT_FRAGMENTS_MAX: u32 = 240;

/// Most queries that a node has under way at once; a further one is refused.
pub const QUERIES_MAX: usize = 256;

/// Most addresses that one query asks directly, besides its broadcasts.
pub const QUERY_PEERS_MAX: usize = 64;

/// Most offers (of a node, at an address) that one query remembers; further ones are not reported.
pub const QUERY_OFFERS_MAX: usize = 4096;

/// Most nodes in the table of peers; the one that was silent longest makes room.
pub const PEERS_MAX: usize = 4096;

/// Most addresses that are remembered of one peer: it may have several interfaces.
pub const PEER_ADDRESSES_MAX: usize = 8;

/// Most answers that wait for the catalog or for their moment; what comes beyond is not answered.
pub const ANSWERS_PENDING_MAX: usize = 1024;

/// Most answers that are remembered so as not to be given twice in a row.
pub const ANSWERS_RECENT_MAX: usize = 1024;

/// Answers a second to all askers together, when it goes on for long.
pub const ANSWERS_PER_SECOND: u32 = 256;

/// Answers in one burst to all askers together: a class room that presses the same key.
pub const ANSWERS_BURST: u32 = 512;

/// Answers a second to one asker, when it goes on for long.
pub const SOURCE_ANSWERS_PER_SECOND: u32 = 32;

/// Answers in one burst to one asker.
pub const SOURCE_ANSWERS_BURST: u32 = 64;

/// Most askers whose rate is watched one by one; the rate of all together holds whatever their number.
pub const SOURCES_MAX: usize = 1024;

const _: () = assert!(FRAME_PAYLOAD_MAX.is_multiple_of(CHUNK_SIZE as usize));
const _: () = assert!(PIECE_CHUNKS.is_multiple_of(RUN_CHUNKS_MAX));
const _: () = assert!(FILE_SIZE_MAX / CHUNK_SIZE as u64 <= u32::MAX as u64);
const _: () = assert!(PATH_BYTES_MAX + NODE_NAME_BYTES_MAX + 200 <= DATAGRAM_SIZE_MAX);
const _: () = assert!(SEALED_SIZE_MAX <= 1280 - 40 - 8);
const _: () = assert!(2 * (ANSWER_TWICE_BYTES_MAX + SEALED_OVERHEAD) <= SEALED_SIZE_MAX);
const _: () = assert!(2 * ANSWER_TWICE_BYTES_MAX <= DATAGRAM_SIZE_MAX);
const _: () = assert!(PATH_PART_BYTES_MAX < PATH_BYTES_MAX);
const _: () = assert!(HAVE_RANGES_MAX * 10 + 64 <= FRAME_META_MAX);
// A source can be asked for its whole window one chunk at a time without breaking the session's bound.
const _: () = assert!(SOURCE_WINDOW_BYTES_MAX / CHUNK_SIZE as u64 <= SESSION_REQUESTS_MAX as u64);
// No single asker can use up what is there for all, and everything that is answered in a burst can wait its moment.
const _: () = assert!(SOURCE_ANSWERS_BURST < ANSWERS_BURST && SOURCE_ANSWERS_PER_SECOND < ANSWERS_PER_SECOND);
const _: () = assert!(ANSWERS_BURST as usize <= ANSWERS_PENDING_MAX);
const _: () = assert!(ANSWERS_BURST as usize <= ANSWERS_RECENT_MAX);
