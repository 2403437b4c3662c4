//! What is below a folder, in numbers.

use super::State;

/// Sums over files, and what is missing until all is known about a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) hashed_files: u64,
    pub(crate) hashed_bytes: u64,
    /// Files that cannot be read.
    pub(crate) failed_files: u64,
    pub(crate) failed_bytes: u64,
    /// Folders, this one included.
    pub(crate) folders: u64,
    /// Folders, this one included, of which it is not known that everything in them was seen.
    pub(crate) unlisted_folders: u64,
}

impl Sums {
    /// Those of a folder that was just heard of.
    pub(super) fn of_new_folder() -> Self {
        Sums { folders: 1, unlisted_folders: 1, ..Sums::default() }
    }

    /// What is missing of one while it is not known that everything in it was seen.
    pub(super) fn of_unlisted() -> Self {
        Sums { unlisted_folders: 1, ..Sums::default() }
    }

    /// Those of one file.
    pub(super) fn of_file(size: u64, state: &State) -> Self {
        let mut sums = Sums { files: 1, bytes: size, ..Sums::default() };
        match state {
            State::Hashed(_) => (sums.hashed_files, sums.hashed_bytes) = (1, size),
            State::Failed => (sums.failed_files, sums.failed_bytes) = (1, size),
            State::Unhashed | State::Unsettled => {}
        }
        sums
    }

    /// Whether everything below is known and has a root, apart from what cannot be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.unlisted_folders == 0 && self.hashed_files + self.failed_files == self.files
    }

    /// With something else in the place of a part of it.
    pub(super) fn replaced(self, before: Sums, after: Sums) -> Sums {
        let replaced = |all: u64, before: u64, after: u64| all - before + after;
        Sums {
            files: replaced(self.files, before.files, after.files),
            bytes: replaced(self.bytes, before.bytes, after.bytes),
            hashed_files: replaced(self.hashed_files, before.hashed_files, after.hashed_files),
            hashed_bytes: replaced(self.hashed_bytes, before.hashed_bytes, after.hashed_bytes),
            failed_files: replaced(self.failed_files, before.failed_files, after.failed_files),
            failed_bytes: replaced(self.failed_bytes, before.failed_bytes, after.failed_bytes),
            folders: replaced(self.folders, before.folders, after.folders),
            unlisted_folders: replaced(
                self.unlisted_folders,
                before.unlisted_folders,
                after.unlisted_folders,
            ),
        }
    }
}
