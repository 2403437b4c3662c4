//! What the catalog is asked: by name, by root, for all of it.
//!
//! ```text
//! question -> answered        from the table
//! question -> looking         at what its name stands for now
//! looking  -> answered        from the table as it is then
//! looking  -> making          the name is a folder of which all is known, and its manifest is not remembered
//! making   -> answered        with its root; or, if the folder was changed meanwhile, with how far hashing is
//! ```
//!
//! What a manifest is made of is copied from the table in steps, between which other questions are answered. Once all is
//! hashed, the roots of folders are found out before anybody asks for them, those at the top first.
//!
//! All of that is bounded: beyond it, what the table knows is the answer. Before the table of the last run is there,
//! questions wait.

use std::collections::{HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use ftx_proto::name::RelativePath;
use ftx_proto::wire::discovery::{OfferEntry, Want};
use ractor::RpcReplyPort;

use super::{CatalogMessage, CatalogState, Event, Looked, tell};
use crate::catalog::SharedFile;
use crate::catalog::folder::{Gathered, Gathering, Made};
use crate::catalog::scan::{SkipReason, Skipped};

/// Most looks at single names under way.
const LOOKS_MAX: usize = 16;

/// Most folders whose manifests are being made.
const MAKING_MAX: usize = 4;

/// Most questions that wait for one manifest.
const MAKING_ASKERS_MAX: usize = 256;

/// Entries that are copied before others have their turn: some milliseconds.
const GATHERED_AT_ONCE: usize = 4096;

/// How long after the last hash the roots of folders are found out, and how much longer than that took it rests then.
const UNASKED_DELAY: Duration = Duration::from_secs(1);
const UNASKED_SHARE: u32 = 20;

/// Most questions that wait for the table of the last run; those beyond are asked again by those who ask.
const LOADING_MAX: usize = 1024;

/// The answer to a lookup.
type LookupReply = RpcReplyPort<(Vec<OfferEntry>, bool)>;

/// Who wants to know what a look at a name shows.
#[derive(Debug)]
pub(super) enum Asker {
    Nobody,
    Lookup(LookupReply),
    FindFile(RpcReplyPort<Option<SharedFile>>),
}

/// Questions under way.
#[derive(Debug, Default)]
pub(super) struct Questions {
    looks: usize,
    /// Who waits for the manifest of a folder.
    making: HashMap<RelativePath, Vec<LookupReply>>,
    /// Folders whose roots are being found out, one after the other, though nobody has asked for them by name.
    unasked: VecDeque<RelativePath>,
    /// When that began, while it goes on; and when it may begin again.
    unasked_since: Option<Instant>,
    unasked_rest: Option<Instant>,
    /// It is going to begin.
    unasked_due: bool,
    /// While the table of the last run is read, the questions that came.
    loading: Option<Vec<CatalogMessage>>,
}

impl Questions {
    /// Questions wait from now on.
    pub(super) fn wait(&mut self) {
        self.loading = Some(Vec::new());
    }

    /// Whether they do.
    pub(super) fn are_waiting(&self) -> bool {
        self.loading.is_some()
    }

    /// They do not any more. Those that do.
    pub(super) fn go_on(&mut self) -> Vec<CatalogMessage> {
        self.loading.take().unwrap_or_default()
    }
}

impl CatalogState {
    /// Answers a question, now or later. A reply that cannot be sent is to somebody who does not wait any more.
    pub(super) fn question(&mut self, message: CatalogMessage) {
        if let Some(waiting) = &mut self.questions.loading {
            if waiting.len() < LOADING_MAX {
                waiting.push(message);
            }
            return;
        }
        match message {
            CatalogMessage::Lookup(want, reply) => self.lookup(want, reply),
            CatalogMessage::List { after, limit, reply } => {
                let _ = reply.send(self.index.list(after.as_ref(), limit));
            }
            CatalogMessage::Open(root, reply) => {
                let _ = reply.send(self.index.open(&root));
            }
            CatalogMessage::FindFile(name, reply) => {
                if self.may_look() {
                    return self.look(name, Asker::FindFile(reply));
                }
                let _ = reply.send(self.file(&name));
            }
            // No questions.
            _ => {}
        }
    }

    fn lookup(&mut self, want: Want, reply: LookupReply) {
        if let Want::Name(name) = &want
            && self.may_look()
        {
            return self.look(name.clone(), Asker::Lookup(reply));
        }
        let answer = self.answer(&want);
        if answer.0.is_empty() && matches!(want, Want::Root(_)) {
            self.want_scan();
            // It may be that of a folder, which nobody has asked for since the start.
            if self.questions.unasked_rest.is_none_or(|until| until <= Instant::now()) {
                self.find_roots();
            } else {
                self.find_roots_soon();
            }
        }
        let _ = reply.send(answer);
    }

    /// What the table says. What in it is not hashed yet comes first from now on.
    fn answer(&mut self, want: &Want) -> (Vec<OfferEntry>, bool) {
        let pool = self.pool.as_ref();
        let answer = self.index.lookup(want, &|ticket| pool.map_or(0, |pool| pool.bytes_done(ticket)));
        for id in answer.waits {
            let jobs = self.index.hastened(id);
            if let Some(pool) = &self.pool {
                pool.submit_first(jobs);
                if let Some(ticket) = self.index.ticket(id) {
                    pool.ask(ticket);
                }
            }
        }
        (answer.entries, answer.more)
    }

    /// The file of this name, as far as is known.
    fn file(&self, name: &RelativePath) -> Option<SharedFile> {
        let share = self.index.share_of_file(name)?;
        Some(SharedFile::new(self.shares.location(share, name)))
    }

    fn may_look(&self) -> bool {
        !self.shares.is_empty() && self.questions.looks < LOOKS_MAX
    }

    /// Has a look at what this name stands for, and answers then.
    pub(super) fn look(&mut self, name: RelativePath, asker: Asker) {
        self.questions.looks += 1;
        let walk = self.scanning.next_walk();
        let (myself, shares) = (self.myself.clone(), self.shares.clone());
        let stop = self.background.stop.clone();
        tokio::task::spawn_blocking(move || {
            let look = shares.look_into(&name, &stop);
            tell(&myself, Event::Looked { looked: Looked { name, look, walk }, asker });
        });
    }

    pub(super) fn looked(&mut self, looked: Looked, asker: Asker) {
        self.questions.looks -= 1;
        let name = looked.name.clone();
        self.apply(looked);
        // A reply that cannot be sent is to somebody who does not wait any more.
        match asker {
            Asker::Nobody => {}
            Asker::Lookup(reply) => self.answer_for_name(name, reply),
            Asker::FindFile(reply) => drop(reply.send(self.file(&name))),
        }
    }

    fn answer_for_name(&mut self, name: RelativePath, reply: LookupReply) {
        self.index.touch(&name);
        if let Some(askers) = self.questions.making.get_mut(&name) {
            if askers.len() < MAKING_ASKERS_MAX {
                return askers.push(reply);
            }
        } else if self.make(&name) {
            return self.questions.making.entry(name).or_default().push(reply);
        }
        let _ = reply.send(self.answer(&Want::Name(name)));
    }

    /// Begins to make the manifest of a folder. `false` if it cannot be made, or is there, or too many are being made.
    fn make(&mut self, name: &RelativePath) -> bool {
        if self.questions.making.len() >= MAKING_MAX || self.questions.making.contains_key(name) {
            return false;
        }
        let Some(gathering) = self.index.to_be_made(name) else { return false };
        self.questions.making.insert(name.clone(), Vec::new());
        // Later, so that nobody is answered before there is anybody to be.
        tell(&self.myself, Event::Gathering(Box::new(gathering)));
        true
    }

    /// Goes on with copying what a folder is made of.
    pub(super) fn gather(&mut self, gathering: Gathering) {
        let (myself, name) = (self.myself.clone(), gathering.name().clone());
        let snapshot = match gathering.go_on(&self.index, GATHERED_AT_ONCE) {
            Gathered::More(gathering) => return tell(&myself, Event::Gathering(gathering)),
            Gathered::Changed => return self.making_failed(&name),
            Gathered::All(snapshot) => snapshot,
        };
        tokio::task::spawn_blocking(move || {
            let made = panic::catch_unwind(AssertUnwindSafe(|| snapshot.make()));
            tell(&myself, made.map_or(Event::MakingFailed(name), |made| Event::Made(Box::new(made))));
        });
    }

    /// A folder has changed before its manifest was there, or it cannot be made.
    pub(super) fn making_failed(&mut self, name: &RelativePath) {
        self.answer_for_folder(name);
        self.make_unasked();
    }

    /// Everything is hashed, or something has changed: finds out the roots of folders soon, before anybody asks.
    pub(super) fn find_roots_soon(&mut self) {
        let questions = &mut self.questions;
        if questions.unasked_due || questions.unasked_since.is_some() || self.shares.is_empty() {
            return;
        }
        questions.unasked_due = true;
        let rest = questions
            .unasked_rest
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        self.tell_later(rest.max(UNASKED_DELAY), Event::RootsDue);
    }

    /// The time for that has come. While files wait to be hashed, it would be for nothing.
    pub(super) fn roots_due(&mut self) {
        self.questions.unasked_due = false;
        if self.is_hashed() {
            self.find_roots();
        }
    }

    /// Finds out the roots of folders that nobody has asked for.
    fn find_roots(&mut self) {
        if self.questions.unasked.is_empty() {
            self.questions.unasked = self.index.folders_to_be_made();
            self.questions.unasked_since = Some(Instant::now());
        }
        self.make_unasked();
    }

    /// Goes on with that, if nobody waits for a folder.
    fn make_unasked(&mut self) {
        while self.questions.making.is_empty() {
            let Some(name) = self.questions.unasked.pop_front() else {
                if let Some(since) = self.questions.unasked_since.take() {
                    let now = Instant::now();
                    // What changes all the time is not made all the time.
                    self.questions.unasked_rest = Some(now + now.duration_since(since) * UNASKED_SHARE);
                }
                return;
            };
            self.make(&name);
        }
    }

    /// A folder's manifest is there, or it is known that there is none.
    pub(super) fn made(&mut self, made: Made) {
        let (name, path) = (made.name.clone(), made.location.path());
        if let Some(reason) = self.index.made(made) {
            let skipped = Skipped::new(&path, SkipReason::Folder(reason));
            self.skipped.note(skipped, self.scanning.number());
        }
        self.answer_for_folder(&name);
        self.make_unasked();
    }

    /// Answers those who wait for a folder, as it is known now.
    pub(super) fn answer_for_folder(&mut self, name: &RelativePath) {
        self.index.forget_changed_folders();
        let askers = self.questions.making.remove(name).unwrap_or_default();
        if askers.is_empty() {
            return;
        }
        let answer = self.answer(&Want::Name(name.clone()));
        for asker in askers {
            let _ = asker.send(answer.clone());
        }
    }
}
