//! The table of what is offered: files, the folders they are in, and what is being fetched.
//!
//! A file is in exactly one state:
//!
//! ```text
//! found        -> Unhashed   it waits for a job, or one for it is under way
//! remembered   -> Hashed     from an earlier run; nobody has looked at it yet
//! Unhashed     -> Hashed     its job came back
//! Unhashed     -> Unsettled  it was changed while being hashed
//! Unhashed     -> Failed     it cannot be read, so it is not offered
//! Failed       -> Hashed     it was tried again when it was seen next, and can be read
//! Unsettled    -> Unhashed   it is seen again
//! any          -> Unhashed   its stamp is another one
//! any          -> gone       a walk through its folder that began later did not find it
//! ```
//!
//! A job that comes back late is known by its ticket and not looked at. A folder is known as a whole once every folder
//! in it was listed and every file has a root or cannot be read.

use std::collections::HashMap;
use std::sync::Arc;

use ftx_proto::digest::Root;
use ftx_proto::name::RelativePath;

use super::backlog::Backlog;
use super::content::{Content, Stamp};
use super::folder::Folders;
use super::pool::{Hashed, Job, Ticket};
use super::scan::{FILES_MAX, Found, Shares, SkipReason, What};
use super::tree::{Hashes, Id, New, State, Sums, Tree, View};

/// Most contents that are offered while they are fetched.
const PARTIALS_MAX: usize = 1024;

/// Most files of a folder that are hashed first when somebody asks for it.
const HASTENED_MAX: usize = 256;

/// Most of those that are gone that are told by name.
const GONE_MAX: usize = 1 << 16;

/// Everything that is offered.
#[derive(Debug)]
pub(crate) struct Index {
    pub(super) shares: Arc<Shares>,
    pub(crate) tree: Tree,
    pub(super) backlog: Backlog,
    pub(super) partials: HashMap<Root, Arc<Content>>,
    pub(super) folders: Folders,
}

/// What something that was found means.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Not to be hashed any more.
    pub(crate) withdrawn: Vec<Ticket>,
    /// It is not offered: what, and why.
    pub(crate) skipped: Option<(RelativePath, SkipReason)>,
    /// It was remembered, and is as it was.
    pub(crate) confirmed: bool,
}

/// What is not there any more.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// Not to be hashed any more.
    pub(crate) withdrawn: Vec<Ticket>,
    /// Hashed files, with their shares; not all of them if they are very many.
    pub(crate) files: Vec<(RelativePath, usize)>,
}

impl Index {
    pub(crate) fn new(shares: Arc<Shares>) -> Self {
        let (backlog, folders) = (Backlog::default(), Folders::default());
        Index { shares, tree: Tree::new(), backlog, partials: HashMap::new(), folders }
    }

    /// Sums over everything.
    pub(crate) fn totals(&self) -> Sums {
        self.tree.sums(Id::ROOT)
    }

    /// Files that are remembered from an earlier run are going to be put in.
    pub(crate) fn begin_remembering(&mut self) {
        self.tree.begin_filling();
    }

    /// All of them are.
    pub(crate) fn end_remembering(&mut self) {
        self.tree.end_filling();
    }

    /// The folder of this name, or that everything is in, for files that are remembered. None if something of an earlier
    /// share has the name.
    pub(crate) fn remembered_folder(&mut self, share: usize, name: Option<&RelativePath>) -> Option<Id> {
        let mut folder = Id::ROOT;
        for part in name.into_iter().flat_map(RelativePath::parts) {
            let known = self.tree.child(folder, part).filter(|known| {
                // The first share that has a name counts, and these come in another order.
                let makes_room = self.tree.share(*known) > share;
                if makes_room {
                    self.tree.remove(*known, &mut |_, _| ());
                }
                !makes_room
            });
            let next = known.or_else(|| self.tree.insert(folder, part, share, (0, 0), New::Folder))?;
            if !self.tree.is_folder(next) || self.tree.share(next) != share {
                return None;
            }
            folder = next;
        }
        Some(folder)
    }

    /// A file is remembered from an earlier run. It counts until somebody looks, if nothing else has its name.
    pub(crate) fn remembered(&mut self, folder: Id, share: usize, name: &str, stamp: Stamp, hashes: Hashes) {
        let known = self.tree.child(folder, name).filter(|known| {
            let makes_room = self.tree.share(*known) > share;
            if makes_room {
                self.tree.remove(*known, &mut |_, _| ());
            }
            !makes_room
        });
        if known.is_none() && self.tree.len() < FILES_MAX {
            self.tree.insert(folder, name, share, stamp.mtime, New::File(stamp, Some(hashes)));
        }
    }

    /// Something was seen by walk number `walk`.
    pub(crate) fn found(&mut self, found: Found, walk: u64) -> Change {
        let mut change = Change::default();
        let Found { share, name, what } = found;
        let too_many = |name: &RelativePath| Some((name.clone(), SkipReason::TooMany));
        if let Some(shadowed) = self.counts_elsewhere(share, &name, walk, &mut change) {
            change.skipped = Some((shadowed, SkipReason::Shadowed));
            return change;
        }
        let mut parts = name.parts();
        let Some(last) = parts.next_back() else { return change };
        let folder =
            parts.try_fold(Id::ROOT, |folder, part| self.folder_for(folder, part, share, walk, &mut change));
        let Some(folder) = folder else {
            change.skipped = too_many(&name);
            return change;
        };
        let known = self.tree.child(folder, last);
        let known = known.filter(|id| {
            self.is_still(*id, &what) || {
                self.take_out(*id, &mut change.withdrawn);
                false
            }
        });
        match known {
            Some(id) => self.seen_again(id, what, walk, &mut change),
            None if self.tree.len() >= FILES_MAX => change.skipped = too_many(&name),
            None => {
                if !self.add(folder, last, share, what, walk) {
                    change.skipped = too_many(&name);
                }
            }
        }
        change
    }

    /// All that is in a folder, or at the top of a share, was seen by walk number `walk`: what was not is gone.
    pub(crate) fn listed(&mut self, share: usize, folder: Option<&RelativePath>, walk: u64) -> Gone {
        let mut gone = Gone::default();
        let id = match folder {
            None => Some(Id::ROOT),
            Some(folder) => {
                self.tree.find(folder).filter(|id| self.tree.is_folder(*id) && self.tree.share(*id) == share)
            }
        };
        let Some(id) = id else { return gone };
        let keep = |tree: &Tree, id: Id| tree.share(id) != share || tree.seen(id) >= walk;
        self.tree.retain(id, &keep, &mut |tree, id| note_gone(tree, id, &mut self.backlog, &mut gone));
        if folder.is_some() {
            self.tree.set_listed(id);
        }
        gone
    }

    /// Takes out what has this name.
    pub(crate) fn remove(&mut self, name: &RelativePath) -> Gone {
        let mut gone = Gone::default();
        if let Some(id) = self.tree.find(name) {
            self.tree.remove(id, &mut |tree, id| note_gone(tree, id, &mut self.backlog, &mut gone));
        }
        gone
    }

    /// Jobs for those whose turn it is.
    pub(crate) fn next_jobs(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        while let Some(id) = self.backlog.next() {
            jobs.extend(self.begin(id));
        }
        jobs
    }

    /// Jobs for those of an entry that is asked for that have none yet.
    pub(crate) fn hastened(&mut self, id: Id) -> Vec<Job> {
        let ids: Vec<Id> = match self.tree.is_folder(id) {
            false => vec![id],
            true => {
                let waits = self.tree.below(id).filter(|id| self.waits(*id));
                waits.take(HASTENED_MAX).collect()
            }
        };
        ids.into_iter().filter_map(|id| self.begin(id)).collect()
    }

    /// How many files wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// The ticket of the job that is under way for a file.
    pub(crate) fn ticket(&self, id: Id) -> Option<Ticket> {
        self.backlog.ticket(id)
    }

    /// A job came back with a root. The name of the file, if that is waited for.
    pub(crate) fn hashed(&mut self, id: Id, ticket: Ticket, hashed: &Hashed) -> Option<RelativePath> {
        let hashes = Hashes::from(&hashed.layer);
        self.ended(id, ticket, hashed.stamp, State::Hashed(hashes.root()), Some(hashes))
    }

    /// A job came back because the file was changed. Its name, if that is waited for.
    pub(crate) fn unsettled(&mut self, id: Id, ticket: Ticket) -> Option<RelativePath> {
        self.ended(id, ticket, self.stamp(id)?, State::Unsettled, None)
    }

    /// A job came back because the file cannot be read. Its name, if that is waited for.
    pub(crate) fn failed(&mut self, id: Id, ticket: Ticket) -> Option<RelativePath> {
        self.ended(id, ticket, self.stamp(id)?, State::Failed, None)
    }

    /// Which share something is in.
    pub(crate) fn share_of(&self, name: &RelativePath) -> Option<usize> {
        self.tree.find(name).map(|id| self.tree.share(id))
    }

    /// Which share a file is in.
    pub(crate) fn share_of_file(&self, name: &RelativePath) -> Option<usize> {
        let id = self.tree.find(name)?;
        self.stamp(id).map(|_| self.tree.share(id))
    }

    /// Offers what is being fetched. `false` if there are too many already.
    pub(crate) fn add_partial(&mut self, content: Arc<Content>) -> bool {
        let root = content.root();
        if self.partials.len() >= PARTIALS_MAX && !self.partials.contains_key(&root) {
            return false;
        }
        self.partials.insert(root, content);
        true
    }

    /// Does not offer it any more.
    pub(crate) fn remove_partial(&mut self, root: &Root) {
        self.partials.remove(root);
    }

    /// Takes over what is being fetched from the table that was there before this one.
    pub(crate) fn take_partials(&mut self, other: &mut Index) {
        self.partials = std::mem::take(&mut other.partials);
    }

    /// The name that is to be told as skipped, if this is in a share that does not count for its name. What is in a later
    /// share makes room.
    fn counts_elsewhere(
        &mut self,
        share: usize,
        name: &RelativePath,
        walk: u64,
        change: &mut Change,
    ) -> Option<RelativePath> {
        let top = name.parts().next()?;
        let known = self.tree.child(Id::ROOT, top)?;
        let other = self.tree.share(known);
        // Shares are walked in order, so one that this walk has seen already comes first.
        if other < share && self.tree.seen(known) >= walk {
            return top.parse().ok();
        }
        if other != share {
            self.take_out(known, &mut change.withdrawn);
        }
        None
    }

    /// The folder of this name in another one; what else has its name makes room.
    fn folder_for(
        &mut self,
        folder: Id,
        name: &str,
        share: usize,
        walk: u64,
        change: &mut Change,
    ) -> Option<Id> {
        let known = self.tree.child(folder, name);
        let known = known.filter(|id| {
            self.tree.is_folder(*id) || {
                self.take_out(*id, &mut change.withdrawn);
                false
            }
        });
        let id = match known {
            Some(known) => known,
            None if self.tree.len() >= FILES_MAX => return None,
            None => self.tree.insert(folder, name, share, (0, 0), New::Folder)?,
        };
        self.tree.see(id, walk);
        Some(id)
    }

    /// Whether something that is known is of the same kind, and if it is a link, the same.
    fn is_still(&self, id: Id, what: &What) -> bool {
        match (self.tree.view(id), what) {
            (View::File { .. }, What::File(_)) | (View::Folder { .. }, What::Folder { .. }) => true,
            (View::Link { target }, What::Link { target: now, .. }) => target == now,
            _ => false,
        }
    }

    fn seen_again(&mut self, id: Id, what: What, walk: u64, change: &mut Change) {
        match (self.tree.view(id), what) {
            (View::File { stamp, state }, What::File(now)) => {
                let is_same = stamp.is_same_content(&now);
                if !is_same || state == State::Unsettled {
                    let withdrawn = self.backlog.withdraw(id);
                    if withdrawn.is_some() || state != State::Unhashed {
                        self.backlog.add(id, is_small(&now));
                    }
                    change.withdrawn.extend(withdrawn);
                    self.tree.set_file(id, now, State::Unhashed, None);
                } else if state == State::Failed {
                    // What it is in stays as it is, unless it can be read now.
                    if self.backlog.ticket(id).is_none() {
                        self.backlog.add(id, is_small(&now));
                    }
                } else if stamp != now {
                    let hashes = self.tree.layer(id).as_ref().map(Hashes::from);
                    self.tree.set_file(id, now, state, hashes);
                }
                change.confirmed = is_same && matches!(state, State::Hashed(_)) && self.tree.seen(id) == 0;
            }
            (_, What::Folder { mtime } | What::Link { mtime, .. }) => self.tree.set_mtime(id, mtime),
            (_, What::File(_)) => {}
        }
        self.tree.see(id, walk);
    }

    fn add(&mut self, folder: Id, name: &str, share: usize, what: What, walk: u64) -> bool {
        let (mtime, new) = match what {
            What::File(stamp) => (stamp.mtime, New::File(stamp, None)),
            What::Folder { mtime } => (mtime, New::Folder),
            What::Link { target, mtime } => (mtime, New::Link(target)),
        };
        let small = if let New::File(stamp, _) = &new { Some(is_small(stamp)) } else { None };
        let Some(id) = self.tree.insert(folder, name, share, mtime, new) else { return false };
        self.tree.see(id, walk);
        if let Some(is_small) = small {
            self.backlog.add(id, is_small);
            let tree = &self.tree;
            self.backlog.tidy(tree.len(), |id| matches!(tree.state(id), Some(State::Unhashed)));
        }
        true
    }

    fn take_out(&mut self, id: Id, withdrawn: &mut Vec<Ticket>) {
        let backlog = &mut self.backlog;
        self.tree.remove(id, &mut |_, id| withdrawn.extend(backlog.withdraw(id)));
    }

    fn waits(&self, id: Id) -> bool {
        self.tree.state(id) == Some(State::Unhashed) && self.backlog.ticket(id).is_none()
    }

    fn begin(&mut self, id: Id) -> Option<Job> {
        let needs_hashing = matches!(self.tree.state(id), Some(State::Unhashed | State::Failed));
        if !needs_hashing || self.backlog.ticket(id).is_some() {
            return None;
        }
        let stamp = self.stamp(id)?;
        let location = self.shares.location(self.tree.share(id), &self.tree.path(id)?);
        let ticket = self.backlog.begin(id, is_small(&stamp));
        Some(Job { ticket, id, location, stamp })
    }

    fn ended(
        &mut self,
        id: Id,
        ticket: Ticket,
        stamp: Stamp,
        state: State,
        hashes: Option<Hashes>,
    ) -> Option<RelativePath> {
        if !self.backlog.ended(id, ticket) {
            return None;
        }
        // It may have failed again, and that is no news for the folders that it is in.
        if self.tree.state(id) != Some(state) {
            self.tree.set_file(id, stamp, state, hashes);
        }
        self.tree.path(id)
    }

    fn stamp(&self, id: Id) -> Option<Stamp> {
        self.tree.state(id)?;
        match self.tree.view(id) {
            View::File { stamp, .. } => Some(stamp),
            View::Folder { .. } | View::Link { .. } => None,
        }
    }
}

/// Whether a file is hashed in the line of small files.
fn is_small(stamp: &Stamp) -> bool {
    stamp.size <= super::pool::SMALL_BYTES_MAX
}

fn note_gone(tree: &Tree, id: Id, backlog: &mut Backlog, gone: &mut Gone) {
    gone.withdrawn.extend(backlog.withdraw(id));
    if matches!(tree.state(id), Some(State::Hashed(_)))
        && gone.files.len() < GONE_MAX
        && let Some(name) = tree.path(id)
    {
        gone.files.push((name, tree.share(id)));
    }
}

#[cfg(test)]
mod tests;
