//! What the catalog tells of itself to whoever runs the node: each share in numbers, and what is being hashed.

use std::path::PathBuf;

use super::{CatalogState, CatalogStatus};
use crate::catalog::pool::HashPool;

/// How it is going, share by share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogOverview {
    /// What the last run knew is still being read; until then nothing is known.
    pub is_loading: bool,
    /// Of all shares together.
    pub status: CatalogStatus,
    /// In the order in which their names count.
    pub shares: Vec<ShareOverview>,
    /// Bytes read for hashing since the start, those of files that are not done included. It only grows, but for files
    /// that are given up.
    pub bytes_read: u64,
    /// Bytes of the files that are being hashed that are done.
    pub bytes_under_way: u64,
    /// What is being hashed, the largest first, and not more than a few.
    pub hashing: Vec<HashingOverview>,
}

/// A share in numbers. What a share before it has under the same name does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareOverview {
    /// Where it is.
    pub path: PathBuf,
    /// Its files.
    pub files: u64,
    /// The folders in it.
    pub folders: u64,
    /// The bytes of its files.
    pub bytes: u64,
    /// Files whose root is known.
    pub hashed_files: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Files that cannot be read.
    pub unreadable_files: u64,
    /// Their bytes.
    pub unreadable_bytes: u64,
}

/// A file that is being hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashingOverview {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// How many of them are hashed.
    pub done: u64,
}

impl CatalogState {
    pub(super) fn overview(&self) -> CatalogOverview {
        let share = |number| {
            let (folder, only) = self.shares.folder(number);
            let sums = self.index.tree.share_sums(number);
            ShareOverview {
                path: only.map_or_else(|| folder.to_path_buf(), |only| folder.join(only)),
                files: sums.files,
                folders: sums.folders,
                bytes: sums.bytes,
                hashed_files: sums.hashed_files,
                hashed_bytes: sums.hashed_bytes,
                unreadable_files: sums.failed_files,
                unreadable_bytes: sums.failed_bytes,
            }
        };
        let under_way = |pool: &HashPool| pool.under_way(HASHING_SHOWN_MAX);
        let (bytes_under_way, files) = self.pool.as_ref().map(under_way).unwrap_or_default();
        let hashing = files.into_iter().map(|(path, size, done)| HashingOverview { path, size, done });
        CatalogOverview {
            is_loading: self.questions.are_waiting(),
            status: self.status(),
            shares: (0..self.shares.len().min(SHARES_SHOWN_MAX)).map(share).collect(),
            bytes_read: self.bytes_read + bytes_under_way,
            bytes_under_way,
            hashing: hashing.collect(),
        }
    }
}

/// Most files that are shown as being hashed.
const HASHING_SHOWN_MAX: usize = 8;

/// Most shares that are shown.
const SHARES_SHOWN_MAX: usize = 256;
