//! What the node offers: the files and folders of its shares, and what it is fetching itself.
//!
//! # Owns
//!
//! What is in the shares (`scan`, `walk`), hearing of changes (`watch`), the roots of files (`hash`, `pool`) in the order
//! in which they are computed (`backlog`), the memory of those across restarts (`cache`, `load`), the table of it all
//! (`tree`, `index`) and its answers (`answers`), folders as a whole (`folder`), and reading (`content`, `places`,
//! `bundle`). The actor that ties these together is [`crate::actors::catalog`].
//!
//! # Refuses
//!
//! To write anything but its cache. To follow links, or to read anything but plain files. To give bytes of a file that is
//! not any more what was hashed: such a read fails with [`ReadError::Changed`]. To merge folders of the same name.
//!
//! # What a crash loses
//!
//! The hashes of the last seconds, which are computed again. A damaged cache is set aside and built anew.

mod answers;
mod backlog;
mod bundle;
pub(crate) mod cache;
pub(crate) mod content;
pub(crate) mod folder;
pub(crate) mod hash;
pub(crate) mod index;
pub(crate) mod load;
mod local;
pub(crate) mod places;
pub(crate) mod pool;
pub(crate) mod scan;
mod shared;
pub(crate) mod tree;
pub(crate) mod walk;
pub(crate) mod watch;

pub use content::{ChunkPart, Content, ContentReader, Have, PartOfFolder, ReadError};
pub use hash::hash_file;
pub use local::hash_folder;
pub use scan::{FILES_MAX, SkipReason, Skipped};
pub use shared::{SharedFile, SharedReader};
