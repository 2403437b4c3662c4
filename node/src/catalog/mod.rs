//! What the node offers: the files of its shares, and what it is fetching itself.
//!
//! # Owns
//!
//! Which files are in the shares (`scan`), their roots (`hash`, `pool`), the memory of those across restarts (`cache`),
//! the table that answers questions about them (`index`), and reading them (`content`). The actor that ties these
//! together is [`crate::actors::catalog`].
//!
//! # Refuses
//!
//! To write anything but its cache. To follow links, or to read anything but plain files. To give bytes of a file that is
//! not any more what was hashed: such a read fails with [`ReadError::Changed`].
//!
//! # What a crash loses
//!
//! The hashes of the last seconds, which are computed again. A damaged cache is set aside and built anew.

pub(crate) mod cache;
pub(crate) mod content;
pub(crate) mod hash;
pub(crate) mod index;
pub(crate) mod pool;
pub(crate) mod scan;
mod shared;

pub use content::{ChunkPart, Content, ContentReader, Have, ReadError};
pub use hash::hash_file;
pub use scan::{FILES_MAX, SkipReason, Skipped};
pub use shared::{SharedFile, SharedReader};
