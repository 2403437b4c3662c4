//! Which files wait to be hashed: a number for each, and a job only for those whose turn comes soon.
//!
//! ```text
//! waiting   -> under way   its turn came, or somebody asked
//! under way -> done        its job came back
//! any       -> withdrawn   the file is gone, or another one
//! ```
//!
//! A number may stand in line for a file that needs no hashing any more; whoever takes it out looks.

use std::collections::{HashMap, VecDeque};

use super::pool::Ticket;
use super::tree::Id;

/// Most jobs for small files at a time, without those that were asked for.
const SMALL_MAX: usize = 1024;

/// Most jobs for large files at a time, without those that were asked for.
const LARGE_MAX: usize = 64;

/// Files that wait.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    small: Line,
    large: Line,
    under_way: HashMap<Id, (Ticket, bool)>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Id>,
    under_way: usize,
}

impl Backlog {
    /// A file is to be hashed some time.
    pub(super) fn add(&mut self, id: Id, is_small: bool) {
        self.line(is_small).waiting.push_back(id);
    }

    /// The next file whose turn it is, if there are not enough jobs. It may not need hashing any more.
    pub(super) fn next(&mut self) -> Option<Id> {
        let next = |line: &mut Line, most: usize| {
            if line.under_way < most { line.waiting.pop_front() } else { None }
        };
        next(&mut self.small, SMALL_MAX).or_else(|| next(&mut self.large, LARGE_MAX))
    }

    /// How many wait, about.
    pub(super) fn len(&self) -> usize {
        self.small.waiting.len() + self.large.waiting.len()
    }

    /// Forgets those in line that need no hashing any more, if they could be many.
    pub(super) fn tidy(&mut self, files: usize, is_waiting: impl Fn(Id) -> bool) {
        if self.len() > 2 * files + SMALL_MAX {
            for line in [&mut self.small, &mut self.large] {
                line.waiting.retain(|id| is_waiting(*id));
            }
        }
    }

    /// The ticket for a job that begins.
    pub(super) fn begin(&mut self, id: Id, is_small: bool) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.insert(id, (ticket, is_small));
        self.line(is_small).under_way += 1;
        ticket
    }

    /// The ticket of the job that is under way for a file.
    pub(super) fn ticket(&self, id: Id) -> Option<Ticket> {
        self.under_way.get(&id).map(|(ticket, _)| *ticket)
    }

    /// The large files that are under way.
    pub(super) fn large(&self) -> impl Iterator<Item = (Id, Ticket)> {
        self.under_way.iter().filter(|(_, (_, is_small))| !is_small).map(|(id, (ticket, _))| (*id, *ticket))
    }

    /// A job came back. `false` if it is not the one that is waited for.
    pub(super) fn ended(&mut self, id: Id, ticket: Ticket) -> bool {
        let is_expected = self.ticket(id) == Some(ticket);
        if is_expected {
            self.withdraw(id);
        }
        is_expected
    }

    /// A file needs no hashing any more; the ticket of its job, if there is one.
    pub(super) fn withdraw(&mut self, id: Id) -> Option<Ticket> {
        let (ticket, is_small) = self.under_way.remove(&id)?;
        self.line(is_small).under_way -= 1;
        Some(ticket)
    }

    fn line(&mut self, is_small: bool) -> &mut Line {
        if is_small { &mut self.small } else { &mut self.large }
    }
}
