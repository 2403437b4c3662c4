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
//! If the process is killed: nothing that was noted ([`PartFile::note`]). If the machine goes down: at most the pieces
//! since the last [`PartFile::commit`]. Why, step by step:
//!
//! 1. `commit` syncs the data, then appends to the journal, then syncs that. So a journal record never speaks of bytes
//!    that are not on the disk; the reverse, bytes without a record, costs fetching them again.
//! 2. A record has a checksum over itself, its place and the content it belongs to. One that was torn, or that a disk
//!    brought back from an older journal, ends the journal: what stands before it is good, what stands behind it is
//!    looked through for hints only.
//! 3. `note` writes hints behind the records and syncs nothing. What a process has written outlives it, and what outlived
//!    only in part, after a power cut, shows: `open` reads every hinted piece that no record lists, and takes it if it has
//!    the hash that was proved before the hint was written. It commits what it takes before it drops the hints, so it can
//!    be killed as well. What it reads lies between two commits.
//! 4. `commit` writes its records over the hints. A hint is no record, since it begins with what no record begins with;
//!    the middle of one is none, by its checksum. The hints that the records do not cover are written behind them in the
//!    same step; should that be torn, old hints behind the tear are still found at their places.
//! 5. A journal for another content is emptied, and that is synced, before the first byte of the new content is written.
//! 6. `finish` syncs the data, renames the part to the final name, syncs the folder, and only then removes the journal.
//!    Before the rename is on the disk there are part and journal; after it the final file, at worst with a journal that
//!    the next run removes.
//! 7. If syncing the data fails, the system may have dropped what was not written; a later sync that succeeds would say
//!    nothing about it. So nothing more is committed or finished through that handle.

mod error;
mod journal;
mod part;
mod parts;
mod target;
mod whole;

pub use error::StoreError;
pub use part::PartFile;
pub(crate) use parts::read_parts_at;
pub use target::{Target, is_own_file};
pub use whole::{WholeData, WholeFile};
