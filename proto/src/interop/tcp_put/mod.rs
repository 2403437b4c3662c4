//! TCP put: one file pushed over one connection. Name line, size line, `READY`, the bytes, `OK`.
//!
//! There are no errors in it: who refuses closes. Original programs read what one receive brings and compare that, so
//! each side keeps the other's pieces apart by a [`PAUSE`], and accepts any cut itself.
//!
//! * [`server`]: takes one file;
//! * [`client`]: pushes one.

pub mod client;
pub mod server;

use std::time::Duration;

/// The port that servers listen on.
pub const PORT: u16 = 5001;

/// Longest line, in bytes, without its end.
pub const LINE_SIZE_MAX: usize = 4096;

/// How long two sends are kept apart that must not arrive as one.
pub const PAUSE: Duration = Duration::from_millis(100);

/// What a server says when the bytes may come.
pub const READY: &[u8] = b"READY";

/// What a server says when it has them all.
pub const OK: &[u8] = b"OK";
