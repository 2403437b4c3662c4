//! Files that are being downloaded, kept open from one block to the next.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};

use ftx_proto::interop::step::block::BlockPlan;
use ftx_proto::interop::step::store::StoreAnswer;
use ftx_proto::interop::step::value::FileSize;

use super::FileName;
use super::finished::size_of;
use crate::catalog::content::Stamp;

/// Files that are kept open.
const OPEN_MAX: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Readers {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<FileName, (Arc<File>, u64)>,
    uses: u64,
}

impl Readers {
    /// Keeps a file open.
    pub(super) fn add(&self, name: FileName, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.with(|open| {
            if open.files.len() >= OPEN_MAX
                && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used)
            {
                let oldest = oldest.0.clone();
                open.files.remove(&oldest);
            }
            open.uses += 1;
            open.files.insert(name, (Arc::clone(&file), open.uses));
        });
        file
    }

    /// The file that is open under this name. Whether it still has a name is for [`read_block`] to find out.
    pub(super) fn of(&self, name: &FileName) -> Option<Arc<File>> {
        self.with(|open| {
            open.uses += 1;
            let uses = open.uses;
            let (file, used) = open.files.get_mut(name)?;
            *used = uses;
            Some(Arc::clone(file))
        })
    }

    /// Lets go of a file.
    pub(super) fn remove(&self, name: &FileName) {
        self.with(|open| open.files.remove(name));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Open) -> T) -> T {
        // Nothing panics half-way through a change of it.
        act(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads a block of a file as it is now; `None` if the file has lost its last name.
pub(super) fn read_block(file: &File, index: u64) -> io::Result<Option<StoreAnswer>> {
    let metadata = file.metadata()?;
    if metadata.nlink() == 0 {
        return Ok(None);
    }
    let size: FileSize =
        Stamp::of(&metadata).map(|stamp| size_of(&stamp)).ok_or(io::ErrorKind::InvalidData)?;
    let Some(block) = BlockPlan::standard(size).block(index) else {
        return Ok(Some(StoreAnswer::BlockRefused(
            ftx_proto::interop::step::block::BlockFault::IndexBeyondEnd,
        )));
    };
    let mut bytes = vec![0; block.len()];
    file.read_exact_at(&mut bytes, block.offset())?;
    Ok(Some(StoreAnswer::Block(bytes)))
}
