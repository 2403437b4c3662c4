//! How much of the inbox each user takes, and how much there may be.
//!
//! Finished files, objects, and the full size of everything under way count; of parts that were left by other nodes counts what
//! is there. It is counted by looking through the folders when the node starts, kept by adding and subtracting, and counted
//! again before somebody is refused, since files may also be removed by hand. What lies in the inbox itself, beside the
//! folders of the users, is that of those who push files without a name of their own: all of them together are one user.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt};
use ftx_proto::interop::step::store::Denial;

use super::{DATA_FOLDER, OWN_FOLDER, folder};
use crate::store::is_own_file;

/// How much may be put into an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxLimits {
    /// Bytes of each user; all who have no name are one.
    pub user_bytes_max: u64,
    /// Bytes of all users together.
    pub total_bytes_max: u64,
}

impl Default for InboxLimits {
    fn default() -> Self {
        InboxLimits { user_bytes_max: 10 << 30, total_bytes_max: 100 << 30 }
    }
}

/// Files and objects of one user.
const USER_FILES_MAX: u64 = 100_000;

/// Files and objects of all users.
const TOTAL_FILES_MAX: u64 = 1_000_000;

/// Shortest time between two counts.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Who has no name. The folder of a user always has one.
const NOBODY: &str = "";

/// How much an inbox holds, for all that put something into it.
#[derive(Debug)]
pub struct InboxUsage {
    root: Dir,
    limits: InboxLimits,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    users: HashMap<String, Amount>,
    total: Amount,
    /// What is under way, in the above with its full size; no count finds it.
    promised: HashMap<String, Amount>,
    /// Parts in folders of users, by these and their names, that are promised and so not to be found.
    parts: HashSet<(String, String)>,
    at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

impl Amount {
    fn add(&mut self, more: Amount) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.files = self.files.saturating_add(more.files);
    }

    fn subtract(&mut self, less: Amount) {
        self.bytes = self.bytes.saturating_sub(less.bytes);
        self.files = self.files.saturating_sub(less.files);
    }
}

fn one_of(bytes: u64) -> Amount {
    Amount { bytes, files: 1 }
}

/// Bytes that a part takes which nobody is at: it has its full size from the start, and holes where nothing is yet. Some file
/// systems do not tell.
fn bytes_of_part(metadata: &Metadata) -> u64 {
    let taken = metadata.blocks().saturating_mul(512);
    if taken == 0 { metadata.len() } else { metadata.len().min(taken) }
}

/// Room for a file that is under way. It is given back when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    usage: Arc<InboxUsage>,
    bytes: u64,
    kept: bool,
}

impl Reserved {
    /// The file is there for good, and has this size.
    pub fn keep(mut self) {
        self.kept = true;
        self.usage.keep(NOBODY, self.bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            self.usage.give_up(NOBODY, self.bytes);
        }
    }
}

/// Room for a file that is put together under a name of its own in the folder of a user. Dropped, what lies there then
/// still counts, since somebody may go on with it.
#[derive(Debug)]
pub struct ReservedPart {
    usage: Arc<InboxUsage>,
    user: String,
    part: String,
    bytes: u64,
}

impl Drop for ReservedPart {
    fn drop(&mut self) {
        let usage = &self.usage;
        let left = usage.left_of(&self.user, &self.part);
        let mut counted = usage.lock();
        counted.parts.remove(&(self.user.clone(), self.part.clone()));
        counted.end_promise(&self.user, self.bytes);
        counted.subtract(&self.user, self.bytes);
        if let Some(left) = left {
            counted.add(&self.user, left);
        }
    }
}

impl ReservedPart {
    /// The file is there for good, and has its size.
    pub fn keep(self) {
        self.usage.lock().add(&self.user, one_of(self.bytes));
        // What is dropped now takes it off again, since the part is no more.
    }
}

impl InboxUsage {
    /// For the inbox at this path.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, limits: InboxLimits) -> io::Result<Self> {
        Ok(Self::new(Dir::open_ambient_dir(path, ambient_authority())?, limits))
    }

    pub(super) fn new(root: Dir, limits: InboxLimits) -> Self {
        InboxUsage { root, limits, counted: Mutex::default() }
    }

    /// Takes room for one more file of somebody without a name. May look through the folders, so it blocks on the disk.
    ///
    /// # Errors
    /// [`Denial::OverQuota`] if there is none.
    pub fn reserve_for_nobody(self: &Arc<Self>, bytes: u64) -> Result<Reserved, Denial> {
        self.reserve(NOBODY, bytes)?;
        Ok(Reserved { usage: Arc::clone(self), bytes, kept: false })
    }

    /// Takes room for a file in the folder of a user, whose part lies there under this name and counts as what it will be.
    /// May look through the folders, so it blocks on the disk.
    ///
    /// # Errors
    /// [`Denial::OverQuota`] if there is none; [`Denial::Busy`] if that part is under way already.
    pub fn reserve_part(
        self: &Arc<Self>,
        user: &str,
        part: &str,
        bytes: u64,
    ) -> Result<ReservedPart, Denial> {
        let place = (user.to_owned(), part.to_owned());
        let mut counted = self.lock();
        if !counted.parts.insert(place.clone()) {
            return Err(Denial::Busy);
        }
        let left = self.left_of(user, part);
        // What is left of an earlier try goes into the new one.
        if let Some(left) = left {
            counted.subtract(user, left.bytes);
        }
        match self.reserve_in(&mut counted, user, bytes) {
            Ok(()) => {
                let (user, part) = place;
                Ok(ReservedPart { usage: Arc::clone(self), user, part, bytes })
            }
            Err(denial) => {
                counted.parts.remove(&place);
                if let Some(left) = left {
                    counted.add(user, left);
                }
                Err(denial)
            }
        }
    }

    /// What a part in the folder of a user takes that nobody is at, if it is there.
    fn left_of(&self, user: &str, part: &str) -> Option<Amount> {
        let metadata = self.root.symlink_metadata(Path::new(user).join(part)).ok()?;
        Some(one_of(bytes_of_part(&metadata)))
    }

    /// Takes room for one more file in the folder of a user: for something that is under way from now on.
    pub(super) fn reserve(&self, user: &str, bytes: u64) -> Result<(), Denial> {
        self.reserve_in(&mut self.lock(), user, bytes)
    }

    fn reserve_in(&self, counted: &mut Counted, user: &str, bytes: u64) -> Result<(), Denial> {
        if !self.has_room(counted, user, bytes) {
            if counted.at.is_some_and(|at| at.elapsed() < COUNT_INTERVAL) {
                return Err(Denial::OverQuota);
            }
            counted.count(&self.root).map_err(|error| {
                tracing::warn!(%error, "cannot count what is in the inbox");
                Denial::Failed
            })?;
            if !self.has_room(counted, user, bytes) {
                return Err(Denial::OverQuota);
            }
        }
        counted.promise(user, bytes);
        Ok(())
    }

    /// Something is under way since an earlier run, whether there is room or not.
    pub(super) fn promise(&self, user: &str, bytes: u64) {
        self.lock().promise(user, bytes);
    }

    /// What was under way is finished: it is there, and a count finds it.
    pub(super) fn keep(&self, user: &str, bytes: u64) {
        self.lock().end_promise(user, bytes);
    }

    /// What was under way is given up.
    pub(super) fn give_up(&self, user: &str, bytes: u64) {
        let mut counted = self.lock();
        counted.end_promise(user, bytes);
        counted.subtract(user, bytes);
    }

    /// What was finished is gone.
    pub(super) fn release(&self, user: &str, bytes: u64) {
        self.lock().subtract(user, bytes);
    }

    fn has_room(&self, counted: &Counted, user: &str, bytes: u64) -> bool {
        let fits = |amount: Amount, bytes_max: u64, files_max: u64| {
            amount.bytes.saturating_add(bytes) <= bytes_max && amount.files < files_max
        };
        let amount = counted.users.get(user).copied().unwrap_or_default();
        // Before the first count nothing is known.
        counted.at.is_some()
            && fits(amount, self.limits.user_bytes_max, USER_FILES_MAX)
            && fits(counted.total, self.limits.total_bytes_max, TOTAL_FILES_MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Nothing panics half-way through a change of it.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn promise(&mut self, user: &str, bytes: u64) {
        self.add(user, one_of(bytes));
        self.promised.entry(user.to_owned()).or_default().add(one_of(bytes));
    }

    fn end_promise(&mut self, user: &str, bytes: u64) {
        let Some(amount) = self.promised.get_mut(user) else { return };
        amount.subtract(one_of(bytes));
        if amount.files == 0 {
            self.promised.remove(user);
        }
    }

    fn add(&mut self, user: &str, amount: Amount) {
        self.users.entry(user.to_owned()).or_default().add(amount);
        self.total.add(amount);
    }

    fn subtract(&mut self, user: &str, bytes: u64) {
        if let Some(amount) = self.users.get_mut(user) {
            amount.subtract(one_of(bytes));
            // Names may be made up without end.
            if amount.files == 0 {
                self.users.remove(user);
            }
        }
        self.total.subtract(one_of(bytes));
    }

    fn count(&mut self, root: &Dir) -> io::Result<()> {
        let mut counted =
            Counted { promised: self.promised.clone(), parts: self.parts.clone(), ..Counted::default() };
        for (user, amount) in &self.promised {
            counted.add(user, *amount);
        }
        folder::walk(root, &[], &mut |parts, entry| {
            let is_promised = |user: &str, name: &str| {
                is_own_file(OsStr::new(name)) && self.parts.contains(&(user.to_owned(), name.to_owned()))
            };
            let user = match parts {
                [user, name] if is_promised(user, name) => None,
                [own, data, user, ..] if own == OWN_FOLDER && data == DATA_FOLDER => Some(user.as_str()),
                [own, ..] if own == OWN_FOLDER => None,
                // Promised with its full size.
                [name] if is_own_file(OsStr::new(name)) => None,
                [_] => Some(NOBODY),
                [user, ..] => Some(user.as_str()),
                [] => None,
            };
            if let Some(user) = user {
                let is_part = parts.last().is_some_and(|name| is_own_file(OsStr::new(name)));
                let size = if is_part { bytes_of_part } else { Metadata::len };
                counted.add(user, one_of(entry.metadata().map_or(0, |metadata| size(&metadata))));
            }
            ControlFlow::Continue(())
        })?;
        counted.at = Some(Instant::now());
        *self = counted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_part_takes_its_room_once_and_as_long_as_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("ada");
        fs::create_dir(&place).unwrap();
        let limits = InboxLimits { user_bytes_max: 100, total_bytes_max: 150 };
        let open = || Arc::new(InboxUsage::open(dir.path(), limits).unwrap());
        let usage = open();
        let (part, other) = (".a.ftx-part", ".b.ftx-part");
        let refused = |usage: &Arc<InboxUsage>, part: &str, bytes| {
            usage.reserve_part("ada", part, bytes).map(drop).unwrap_err()
        };
        let first = usage.reserve_part("ada", part, 80).unwrap();
        assert_eq!(refused(&usage, part, 1), Denial::Busy);
        assert_eq!(refused(&usage, other, 30), Denial::OverQuota);
        drop(usage.reserve_part("ada", other, 20).unwrap());

        fs::write(place.join(part), [0; 80]).unwrap();
        drop(first);
        // It is not there any more as something under way, and still takes its room: also after a start.
        for usage in [usage, open()] {
            assert_eq!(refused(&usage, other, 30), Denial::OverQuota);
            drop(usage.reserve_part("bob", other, 70).unwrap());
            drop(usage.reserve_part("ada", part, 100).unwrap());
            assert_eq!(refused(&usage, part, 101), Denial::OverQuota);
            assert_eq!(refused(&usage, other, 30), Denial::OverQuota);
        }
        let usage = open();
        let again = usage.reserve_part("ada", part, 80).unwrap();
        fs::rename(place.join(part), place.join("a")).unwrap();
        again.keep();
        assert_eq!(refused(&usage, other, 30), Denial::OverQuota);
        drop(usage.reserve_part("ada", other, 20).unwrap());
    }

    #[test]
    fn holes_of_a_part_that_nobody_is_at_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("ada");
        fs::create_dir(&place).unwrap();
        let limits = InboxLimits { user_bytes_max: 1 << 20, total_bytes_max: 2 << 20 };
        let open = || Arc::new(InboxUsage::open(dir.path(), limits).unwrap());
        let (usage, part) = (open(), ".a.ftx-part");
        let room = usage.reserve_part("ada", part, 1 << 20).unwrap();
        fs::write(place.join(part), [1; 4096]).unwrap();
        fs::File::options().write(true).open(place.join(part)).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(usage.reserve_part("ada", ".b.ftx-part", 1).map(drop).unwrap_err(), Denial::OverQuota);
        drop(room);
        for usage in [usage, open()] {
            drop(usage.reserve_part("ada", ".b.ftx-part", 3 << 18).unwrap());
        }
    }
}
