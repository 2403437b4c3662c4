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
//! If the process is killed: nothing that was noted ([`Part::note`]). If the machine goes down: at most the pieces
//! since the last [`Part::commit`]. Why, step by step:
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
mod folder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod journal;
mod part;
mod parts;
mod sparse;
mod target;
mod whole;

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::Digest;
use ftx_proto::geometry::{Geometry, PieceIndex, Span};

pub(crate) use sparse::is_zero;

pub use error::StoreError;
pub use folder::{FolderOptions, FolderPart, Found, FoundRun, Opened, Selection, Summary, Tally};
pub use part::PartFile;
pub(crate) use parts::read_parts_at;
pub use target::{Target, is_own_file};
pub use whole::{WholeData, WholeFile, remove_abandoned};

/// Where a fetched content is put together: verified bytes at their places, a journal, and the step to the final name.
///
/// All of it blocks on the disk.
pub trait Part: std::fmt::Debug + Send + Sync {
    /// How the content is cut.
    fn geometry(&self) -> &Geometry;

    /// Where it will be when it is finished; `-` for a temporary file.
    fn path(&self) -> &Path;

    /// Writes verified bytes at their place, which must lie within the content.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Reads bytes that were written; fills the buffer.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;

    /// Pieces besides those of a span that a read of it takes bytes from: where files that are the same are kept once.
    fn borrows_from(&self, _span: Span) -> Vec<PieceIndex> {
        Vec::new()
    }

    /// Writes bytes that lie in several places of the memory, one behind the other, as [`Part::write_at`] does.
    fn write_parts_at(&self, mut offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        for part in parts {
            self.write_at(offset, part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Reads bytes that were written; fills the buffers, one behind the other.
    fn read_parts_at(&self, mut offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), StoreError> {
        for buffer in buffers {
            self.read_at(offset, buffer)?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    /// Makes these pieces, which were verified and written, last: data first, then the journal that says so.
    fn commit(&self, pieces: &[PieceIndex]) -> Result<(), StoreError>;

    /// Remembers pieces that were verified and written, with the hashes that they have in the tree of the content, until
    /// a commit makes them last. If the process is killed before that, the next one finds them.
    ///
    /// Waits for no disk, whatever is synced meanwhile. An error costs what it says, and nothing else.
    fn note(&self, pieces: &[(PieceIndex, Digest)]) -> Result<(), StoreError>;

    /// Gives it its final name, with its time of change (seconds and nanoseconds since 1970) and, for a file, its execute
    /// bit. Returns where it is, which is another place if somebody has moved the folder meanwhile.
    ///
    /// Every piece must have been verified and written. The handle can still be read from afterwards. A temporary file
    /// stays without a name. If a file is in the way and `force` is not given, the part stays as it is.
    fn finish(&self, mtime: (i64, u32), executable: bool, force: bool) -> Result<PathBuf, StoreError>;

    /// Gives back the room that was reserved for what is missing, where there is any. Nobody may be writing any more.
    fn release(&self, _have: &PieceSet) {}

    /// Removes part and journal. What was finished stays.
    fn discard(&self) -> Result<(), StoreError>;
}

/// How many of at most so many things may stay open: fewer where the process may not open many.
fn open_max(most: usize) -> usize {
    static ALLOWED: OnceLock<usize> = OnceLock::new();
    let allowed = ALLOWED.get_or_init(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.and_then(|limit| usize::try_from(limit / OPEN_SHARE).ok()).unwrap_or(usize::MAX)
    });
    most.min((*allowed).max(2))
}

/// What one kind of things may take of the files that the process may open.
const OPEN_SHARE: u64 = 20;
