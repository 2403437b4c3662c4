//! One file to a server, over any number of connections.
//!
//! It owns which blocks are stored, which connection sends which, and when the upload is over. It refuses to read the file
//! and to talk: connections ask it what to do next. A crash loses it; with the ranges of [`UploadPlan::missing`] in a
//! journal another one goes on, as long as the server remembers the upload.
//!
//! States: *sending* → *confirming* (one connection asks with FILE GET how the file stands) → *finished*, *failed*, or
//! sending again. It is finished as soon as a reply carries the file's MD5. It confirms when every block is stored and no
//! reply did, and when a block is refused: the block may have been stored the first time, with its reply lost.
//!
//! The original servers race when the last two blocks come at once on two connections, and then miss the end of the file
//! or do not answer one of them. So the last block that is left is held back until all others are stored.

use std::ops::Range;

pub use super::queue::ConnectionId;

use super::block::{Block, BlockPlan};
use super::client::{Outcome, Refused, Reply};
use super::limits::BLOCK_ATTEMPTS_MAX;
use super::queue::BlockQueue;
use super::value::{FileSize, Md5Sum};

/// What a connection should do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStep {
    /// Send this block, then tell [`UploadPlan::replied`] or [`UploadPlan::lost`].
    Send(Block),
    /// Nothing yet: ask again when another connection has told something.
    Wait,
    /// Ask with FILE GET for the file, then tell [`UploadPlan::replied`] or [`UploadPlan::lost`].
    Confirm,
    /// The server has the whole file. Its MD5, if the server says one, is to be compared with that of what was sent.
    Finished {
        /// In the server's words.
        md5: Option<Md5Sum>,
    },
    /// It goes no further. What is missing can be tried again another time.
    Failed(UploadFailure),
}

/// Why an upload goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadFailure {
    /// The server refuses a block again and again, or says that the file is not complete although all blocks are sent.
    #[error("{0}")]
    Refused(Refused),
    /// The same request was lost again and again: connections broke, or there was no reply.
    #[error("{BLOCK_ATTEMPTS_MAX} attempts without a usable reply")]
    Lost,
    /// Under this key the server has a file of another size.
    #[error("the server has a file of another size under this key")]
    OtherFile,
}

/// How a key stands on the server before an upload, by what FILE GET says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is there: begin with SAVE.
    Absent,
    /// An upload was begun. With a journal of stored blocks it can go on without SAVE, which would begin it anew.
    Partial,
    /// The very file is there.
    Same,
    /// Another file is there, or one whose MD5 the server does not say.
    Other,
}

impl Standing {
    /// From the outcome of FILE GET.
    pub fn of(outcome: &Outcome, size: FileSize, md5: Md5Sum) -> Self {
        match outcome {
            Ok(Reply::FilePlan { plan, md5: Some(theirs) })
                if plan.size() == size.get() && *theirs == md5 =>
            {
                Standing::Same
            }
            Ok(_) => Standing::Other,
            Err(refused) if refused.message.contains("not completely") => Standing::Partial,
            Err(_) => Standing::Absent,
        }
    }
}

/// One upload.
#[derive(Debug)]
pub struct UploadPlan {
    queue: BlockQueue,
    state: State,
    /// How often confirming brought no end.
    confirmed_in_vain: u32,
    /// The block that was refused last was tried too often: unless the file turns out to be complete, this is the end.
    given_up: Option<UploadFailure>,
}

#[derive(Debug)]
enum State {
    Sending,
    /// By this connection, once one has asked for work.
    Confirming(Option<ConnectionId>),
    Finished(Option<Md5Sum>),
    Failed(UploadFailure),
}

impl UploadPlan {
    /// All of a file, after SAVE was granted with this plan, and with this MD5 if the file is empty.
    pub fn new(plan: BlockPlan, md5: Option<Md5Sum>) -> Self {
        let mut upload = Self::resume(plan, std::iter::once(0..plan.total_block()));
        if let (true, Some(md5)) = (upload.queue.is_done(), md5) {
            upload.state = State::Finished(Some(md5));
        }
        upload
    }

    /// The rest of a file whose upload the server remembers: the blocks with these numbers.
    pub fn resume(plan: BlockPlan, missing: impl IntoIterator<Item = Range<u64>>) -> Self {
        UploadPlan {
            queue: BlockQueue::new(plan, missing),
            state: State::Sending,
            confirmed_in_vain: 0,
            given_up: None,
        }
    }

    /// What this connection should do next. Asked twice without a word in between, it says the same.
    pub fn next(&mut self, connection: ConnectionId) -> UploadStep {
        if let State::Sending = self.state {
            if self.queue.is_done() {
                self.state = State::Confirming(None);
            } else if self.queue.is_last_of_several() && self.queue.held_by(connection).is_none() {
                return UploadStep::Wait;
            } else {
                return self.queue.take(connection).map_or(UploadStep::Wait, UploadStep::Send);
            }
        }
        match &mut self.state {
            State::Sending => UploadStep::Wait,
            State::Confirming(by) => match by.get_or_insert(connection) {
                asked if *asked == connection => UploadStep::Confirm,
                _ => UploadStep::Wait,
            },
            State::Finished(md5) => UploadStep::Finished { md5: *md5 },
            State::Failed(failure) => UploadStep::Failed(failure.clone()),
        }
    }

    /// What came of the step that this connection was told to do.
    pub fn replied(&mut self, connection: ConnectionId, outcome: Outcome) {
        match (&self.state, outcome) {
            (State::Finished(_) | State::Failed(_), _) => {}
            (State::Confirming(Some(by)), outcome) if *by == connection => self.confirmed(outcome),
            (_, Ok(Reply::BlockStored { md5 })) => {
                self.queue.done(connection);
                if md5.is_some() {
                    self.state = State::Finished(md5);
                }
            }
            (_, Ok(_)) => self.lost(connection),
            (_, Err(refused)) => {
                if self.queue.held_by(connection).is_some() {
                    if !self.queue.lost(connection) {
                        self.given_up = Some(UploadFailure::Refused(refused));
                    }
                    self.confirm();
                }
            }
        }
    }

    /// What this connection was told to do came to nothing: it broke, or there was no reply in time.
    pub fn lost(&mut self, connection: ConnectionId) {
        match &mut self.state {
            State::Finished(_) | State::Failed(_) => {}
            State::Confirming(by) if *by == Some(connection) => {
                *by = None;
                self.confirmed_in_vain(UploadFailure::Lost);
            }
            State::Confirming(_) | State::Sending => {
                if !self.queue.lost(connection) {
                    self.given_up = Some(UploadFailure::Lost);
                    self.confirm();
                }
            }
        }
    }

    /// The plan that the blocks are of.
    pub fn plan(&self) -> BlockPlan {
        self.queue.plan()
    }

    /// The numbers of blocks that are not known to be stored: what a journal keeps.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.queue.missing()
    }

    /// Bytes that are known to be stored.
    pub fn bytes_done(&self) -> u64 {
        self.queue.bytes_done()
    }

    fn confirm(&mut self) {
        if let State::Sending = self.state {
            self.state = State::Confirming(None);
        }
    }

    fn confirmed(&mut self, outcome: Outcome) {
        match outcome {
            Ok(Reply::FilePlan { plan, md5 }) if plan.size() == self.plan().size() => {
                self.state = State::Finished(md5);
            }
            Ok(_) => self.state = State::Failed(UploadFailure::OtherFile),
            Err(_) if !self.queue.is_done() && self.given_up.is_none() => self.state = State::Sending,
            Err(refused) => {
                if self.queue.is_done() && self.plan().total_block() > 0 {
                    // A server that missed the end of the file notices it with the last block.
                    self.queue.repeat_last();
                    self.state = State::Sending;
                }
                self.confirmed_in_vain(UploadFailure::Refused(refused));
            }
        }
    }

    fn confirmed_in_vain(&mut self, failure: UploadFailure) {
        self.confirmed_in_vain += 1;
        if let Some(given_up) = self.given_up.take() {
            self.state = State::Failed(given_up);
        } else if self.confirmed_in_vain >= BLOCK_ATTEMPTS_MAX {
            self.state = State::Failed(failure);
        }
    }
}
