//! How much of the inbox each user takes, and how much there may be.
//!
//! Finished files, objects, and the full size of every upload under way count. It is counted by looking through the
//! folders when the node starts, kept by adding and subtracting, and counted again before somebody is refused, since
//! files may also be removed by hand.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;
use ftx_proto::interop::step::store::Denial;

use super::{DATA_FOLDER, OWN_FOLDER, folder};

/// How much may be put into an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxLimits {
    /// Bytes of each user.
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

#[derive(Debug)]
pub(super) struct Usage {
    limits: InboxLimits,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    users: HashMap<String, Amount>,
    total: Amount,
    at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files += 1;
    }

    fn subtract(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.files = self.files.saturating_sub(1);
    }
}

impl Usage {
    pub(super) fn new(limits: InboxLimits) -> Self {
        Usage { limits, counted: Mutex::default() }
    }

    /// Takes room for one more file in the folder of a user. `uploads` tells the uploads under way, for counting again.
    pub(super) fn reserve(
        &self,
        root: &Dir,
        user: &str,
        bytes: u64,
        uploads: &dyn Fn() -> Vec<(String, u64)>,
    ) -> Result<(), Denial> {
        let mut counted = self.lock();
        if !self.has_room(&counted, user, bytes) {
            if counted.at.is_some_and(|at| at.elapsed() < COUNT_INTERVAL) {
                return Err(Denial::OverQuota);
            }
            counted.count(root, uploads()).map_err(|error| {
                tracing::warn!(%error, "cannot count what is in the inbox");
                Denial::Failed
            })?;
            if !self.has_room(&counted, user, bytes) {
                return Err(Denial::OverQuota);
            }
        }
        counted.users.entry(user.to_owned()).or_default().add(bytes);
        counted.total.add(bytes);
        Ok(())
    }

    /// Gives room back.
    pub(super) fn release(&self, user: &str, bytes: u64) {
        let mut counted = self.lock();
        if let Some(amount) = counted.users.get_mut(user) {
            amount.subtract(bytes);
        }
        counted.total.subtract(bytes);
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
    fn count(&mut self, root: &Dir, uploads: Vec<(String, u64)>) -> io::Result<()> {
        let (mut users, mut total) = (HashMap::<String, Amount>::new(), Amount::default());
        let mut add = |user: &str, bytes| {
            users.entry(user.to_owned()).or_default().add(bytes);
            total.add(bytes);
        };
        folder::walk(root, &[], &mut |parts, bytes| {
            let user = match parts {
                [own, data, user, ..] if own == OWN_FOLDER && data == DATA_FOLDER => Some(user),
                [own, ..] if own == OWN_FOLDER => None,
                [user, _, ..] => Some(user),
                // A file beside the folders of the users is nobody's.
                _ => None,
            };
            if let Some(user) = user {
                add(user, bytes);
            }
            ControlFlow::Continue(())
        })?;
        for (user, bytes) in uploads {
            add(&user, bytes);
        }
        *self = Counted { users, total, at: Some(Instant::now()) };
        Ok(())
    }
}
