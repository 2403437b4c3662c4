//! The roots of files that are there already, computed on all cores.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ftx_proto::digest::Root;

use super::tree::{Seen, Tree};
use crate::catalog::hash::{FileHash, HashError};

/// Files larger than this are hashed by all threads together, others by one each.
const ALONE_MAX: u64 = 8 << 20;

/// A file to be hashed.
#[derive(Debug)]
pub(super) struct Hashing<'tree> {
    pub(super) tree: &'tree Tree,
    pub(super) path: PathBuf,
    /// What it was when it was looked at.
    pub(super) seen: Seen,
}

/// The root of each file; none for one that cannot be read, or is not any more what was looked at.
pub(super) fn roots(files: &[Hashing<'_>]) -> Vec<Option<Root>> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let roots = Mutex::new(vec![None; files.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = Vec::new();
        while let Some((number, file)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            files.get(number).map(|file| (number, file))
        } {
            if file.seen.size > ALONE_MAX {
                continue;
            }
            let root = open(file).and_then(|hash| {
                while let Some(run) = hash.claim() {
                    hash.hash_run(run, &mut buffer)?;
                }
                Ok(hash.finish()?.root())
            });
            roots.lock().unwrap_or_else(PoisonError::into_inner)[number] = told(file, root);
        }
    };
    let small = files.len();
    std::thread::scope(|scope| {
        // Another thread is worth it for some files only.
        for _ in 1..threads.min(small.div_ceil(8)) {
            scope.spawn(work);
        }
        work();
    });
    let mut roots = roots.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (file, root) in files.iter().zip(&mut roots).filter(|(file, _)| file.seen.size > ALONE_MAX) {
        *root = told(file, together(file, threads));
    }
    roots
}

/// Most threads at once.
const THREADS_MAX: usize = 16;

fn together(file: &Hashing<'_>, threads: usize) -> Result<Root, HashError> {
    let hash = open(file)?;
    let work = || -> Result<(), HashError> {
        let mut buffer = Vec::new();
        while let Some(run) = hash.claim() {
            hash.hash_run(run, &mut buffer).inspect_err(|_| hash.cancel())?;
        }
        Ok(())
    };
    let result = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others.into_iter().map(|thread| thread.join().unwrap_or(Err(HashError::Cancelled)));
        others.fold(own, |all, one| all.and(one))
    });
    result?;
    Ok(hash.finish()?.root())
}

fn open(file: &Hashing<'_>) -> Result<FileHash, HashError> {
    let opened: File = file.tree.open_file(&file.path).map_err(std::io::Error::from)?;
    // Size, times and number: those of the file that was looked at.
    let now = Seen::of(&opened).map_err(std::io::Error::from)?;
    if !now.is_same_content(&file.seen) {
        return Err(HashError::Changed);
    }
    FileHash::new(opened)
}

fn told(file: &Hashing<'_>, root: Result<Root, HashError>) -> Option<Root> {
    root.inspect_err(
        |error| tracing::debug!(%error, "{} has no root", file.tree.path_of(&file.path).display()),
    )
    .ok()
}
