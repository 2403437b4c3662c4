//! Every bound of STEP, in one place, with their relations checked when this is compiled.

/// Bytes of a block. Six of the clients in use cut files at this length whatever a server announces.
pub const BLOCK_SIZE: u32 = 20_480;

/// Largest block, in bytes, that a client takes a server's word for.
pub const BLOCK_SIZE_MAX: u32 = 4 << 20;

/// Largest file, in bytes: what a signed 64-bit integer, which many programs use, can say.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Longest JSON of a request, in bytes (in characters, for peers that count those).
pub const REQUEST_JSON_MAX: u32 = 64 * 1024;

/// Longest JSON of a reply, in bytes (in characters, for peers that count those): a long list of files.
pub const REPLY_JSON_MAX: u32 = 16 << 20;

/// Most bytes of names in one list of files; what does not fit is left out, and the reply says so.
pub const LISTING_BYTES_MAX: usize = 2 << 20;

/// Deepest nesting of JSON that is taken in; parsers of other programs give up soon after.
pub const JSON_DEPTH_MAX: usize = 64;

/// Most bytes of unwanted binary data behind a request. Clients attach whole files where no data belongs; those bytes
/// are dropped as they arrive, so they cost nothing but the time that the client spends too, and the bound is simply
/// the most that the length field of a frame can say.
pub const REQUEST_DISCARD_MAX: u32 = u32::MAX;

/// Most bytes of unwanted binary data behind a reply.
pub const REPLY_DISCARD_MAX: u32 = 64 << 20;

/// While this many bytes wait to be processed the server session wants no more.
pub const BACKLOG_BYTES: usize = 256 * 1024;

/// Bytes that may wait at most: a shell that gives a session more than it wants loses it.
pub const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest user name, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// Longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Longest token, in characters; a client keeps what a server gave it within this.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Longest message of a server that is shown to people, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// How often a block is tried before a transfer fails.
pub const BLOCK_ATTEMPTS_MAX: u32 = 5;

const _: () = assert!(BLOCK_SIZE <= BLOCK_SIZE_MAX);
const _: () = assert!(2 * BACKLOG_BYTES <= BACKLOG_BYTES_MAX);
// A session always wants the rest of a request that it cannot process yet, of four bytes a character at most.
const _: () = assert!(4 * REQUEST_JSON_MAX as usize <= BACKLOG_BYTES);
const _: () = assert!(4 * KEY_BYTES_MAX <= REQUEST_JSON_MAX as usize);
const _: () = assert!(4 * PASSWORD_BYTES_MAX <= REQUEST_JSON_MAX as usize);
// Escaped, a character of two bytes becomes six: neither a list nor stored data outgrows what a client reads.
const _: () = assert!(6 * LISTING_BYTES_MAX < REPLY_JSON_MAX as usize);
const _: () = assert!(24 * REQUEST_JSON_MAX < REPLY_JSON_MAX);
