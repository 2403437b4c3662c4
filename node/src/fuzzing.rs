//! What the fuzz targets in `node/fuzz` try of what nobody else may call. It is not there in an ordinary build.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

pub use crate::catalog::fuzzing::cache;
pub use crate::cli::fuzzing::{configuration, words};
pub use crate::interop::fuzzing::users as step_users;
pub use crate::interop::step_client::fuzzing::journal as step_upload_journal;
pub use crate::interop::step_store::fuzzing::journal as step_store_journal;
pub use crate::net::fuzzing::frames;
pub use crate::store::fuzzing::journal;

/// A file that no disk has.
pub(crate) fn memory_file() -> File {
    memfd_create("fuzzing", MemfdFlags::CLOEXEC).expect("memory").into()
}

/// What a disk may do to a file, from some bytes of the input: other bytes somewhere, or fewer.
pub(crate) fn damage(file: &File, how: [u8; 4]) -> io::Result<()> {
    let len = file.metadata()?.len();
    let place = u64::from(u16::from_le_bytes([how[1], how[2]])) % (len + 1);
    match how[0] % 4 {
        0 => file.set_len(place),
        1 => file.write_all_at(&[how[3]; 16], place / 16 * 16),
        _ => file.write_all_at(&[how[3]], place),
    }
}

/// The bytes of an input, one after the other; zeros behind them.
pub(crate) struct Bytes<'data>(pub(crate) &'data [u8]);

impl Bytes<'_> {
    /// The next one, as long as there is one.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next ones.
    pub(crate) fn take<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        std::array::from_fn(|_| self.next().unwrap_or(0))
    }
}
