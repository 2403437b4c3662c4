//! Where what is fetched is written to: the part file, its journal, and the step to the final name.
//!
//! # Owns
//!
//! `.NAME.ftx-part`, which holds verified pieces at their places, and `.NAME.ftx-journal`, which says which pieces those
//! are. Both lie beside the target and go when it is done. The journal's lock says that somebody is at it.
//!
//! # Refuses
//!
//! To leave the target's folder: it is opened once, and everything happens through that handle and one checked name. To
//! follow a link or use a device that lies where the part should be. To replace a finished file without being told to.
//! To judge pieces: the caller verifies before it writes, and says what it verified.
//!
//! # What a crash loses
//!
//! The pieces since the last [`PartFile::commit`], nothing else. Why, step by step:
//!
//! 1. `commit` syncs the data, then appends to the journal, then syncs that. So a journal record never speaks of bytes
//!    that are not on the disk; the reverse, bytes without a record, costs fetching them again.
//! 2. A record has a checksum over itself, its place and the content it belongs to. One that was torn, or that a disk
//!    brought back from an older journal, ends the journal: what stands before it is good, what stands behind it is not
//!    looked at.
//! 3. A journal for another content is emptied, and that is synced, before the first byte of the new content is written.
//! 4. `finish` syncs the data, renames the part to the final name, syncs the folder, and only then removes the journal.
//!    Before the rename is on the disk there are part and journal; after it the final file, at worst with a journal that
//!    the next run removes.
//! 5. If syncing the data fails, the system may have dropped what was not written; a later sync that succeeds would say
//!    nothing about it. So nothing more is committed or finished through that handle.

mod error;
mod journal;
mod part;
mod target;

pub use error::StoreError;
pub use part::PartFile;
pub use target::{Target, is_own_file};
