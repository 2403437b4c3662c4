//! One file to a server, with the MD5 of what was sent compared at the end.
//!
//! Blocks are read where they are sent from; the MD5 is that of the same file, read once more by a thread of its own while
//! it is still in the page cache. So bytes that changed on their way from the disk show as well.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ftx_proto::interop::step::block::Block;
use ftx_proto::interop::step::client::{Outcome, Reply, Request};
use ftx_proto::interop::step::upload::{ConnectionId, Standing, UploadPlan, UploadStep};
use ftx_proto::interop::step::value::{FileSize, Key, Md5Sum};
use ftx_proto::name::printable;

use super::connection::Connection;
use super::crew::{self, Step, Stopped, Transfer};
use super::journal::{Journal, Left};
use super::{Repeat, StepClient, damaged};
use crate::catalog::content::{Stamp, stamp_of};
use crate::error::{Code, Error};
use crate::interop::meter::{Meter, Phase};
use crate::interop::outgoing;
use crate::interop::sum::FollowingSum;

/// What is to be sent, and how.
#[derive(Debug)]
pub struct Upload {
    /// The file.
    pub file: PathBuf,
    /// Under which key; without one the server makes one up.
    pub key: Option<Key>,
    /// Connections at once.
    pub connections: NonZeroUsize,
    /// Where journals of unfinished uploads are.
    pub journals: PathBuf,
}

/// What was sent.
#[derive(Debug)]
pub struct Uploaded {
    /// The key that the server has it under.
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// The MD5 of the file.
    pub md5: Md5Sum,
    /// Whether the server says the same MD5; some say none.
    pub is_verified: bool,
    /// Bytes that an earlier try had sent.
    pub resumed: u64,
    /// From the first request to the last reply.
    pub elapsed: Duration,
}

/// The file, and what is known of it before the first request.
struct Source {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,
    size: FileSize,
}

/// An upload that the server has agreed to.
struct Begun {
    key: Key,
    plan: UploadPlan,
    resumed: u64,
}

/// How an upload begins.
enum Beginning {
    Begun(Begun),
    /// An earlier one had come to its end, only the reply was lost.
    Complete(Key, Md5Sum),
}

impl StepClient {
    /// Sends a file, and compares its MD5 with that which the server says at the end.
    pub async fn upload(&self, upload: Upload, meter: Arc<Meter>) -> Result<Uploaded, Error> {
        let started = Instant::now();
        let source = Source::open(&upload.file)?;
        let path = std::fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone());
        let place = self.account.place(upload.key.as_ref());
        let journal = Journal::new(&upload.journals, &path, &place, &source.stamp);
        journal.remove_old(SystemTime::now());
        let mut connection = None;
        let mut earlier = None;
        let begun = match self.resume(&mut connection, &source, &journal).await? {
            Some(Beginning::Complete(key, md5)) => {
                journal.remove();
                let (size, elapsed) = (source.size.get(), started.elapsed());
                meter.begin(size, size);
                return Ok(Uploaded { key, size, md5, is_verified: true, resumed: size, elapsed });
            }
            Some(Beginning::Begun(begun)) => {
                earlier = Some(begun.key.clone());
                begun
            }
            None => self.save(&mut connection, upload.key.clone(), source.size).await?,
        };
        let sent = self.send(&source, begun, connection, &upload, &journal, &meter).await;
        let (sending, theirs) = match (sent, earlier) {
            // The server may have lost blocks that it had confirmed; then only all of them help.
            (Err(error), Some(key))
                if !matches!(error.code, Code::Network | Code::Timeout | Code::Partial) =>
            {
                tracing::warn!(
                    "going on with an earlier upload failed ({error}); it is sent from the beginning"
                );
                let mut connection = None;
                let begun = self.save(&mut connection, Some(key), source.size).await?;
                self.send(&source, begun, connection, &upload, &journal, &meter).await?
            }
            (sent, _) => sent?,
        };
        meter.enter(Phase::Verifying);
        let ours = sending.finish_sum(&source).await?;
        journal.remove();
        source.check_unchanged()?;
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
            let what = format!("'{}' on {}", printable(sending.key.as_str()), self.account.server());
            return Err(damaged(&what, ours, theirs, "delete it with `ftx-node rm`, then send it again"));
        }
        Ok(Uploaded {
            key: sending.key.clone(),
            size: source.size.get(),
            md5: ours,
            is_verified: theirs.is_some(),
            resumed: meter.read().resumed,
            elapsed: started.elapsed(),
        })
    }

    /// How an upload goes on that an earlier one has begun, if there is one that both sides remember.
    async fn resume(
        &self,
        connection: &mut Option<Connection>,
        source: &Source,
        journal: &Journal,
    ) -> Result<Option<Beginning>, Error> {
        let Some(Left { key, plan, missing }) = journal.read() else { return Ok(None) };
        let outcome = self.ask(connection, Request::GetFile { key: key.clone() }, Repeat::Safe).await?;
        if outcome.is_ok() {
            // The earlier upload's, most likely. What the file's sum is has to be found out to know that.
            let sum =
                source.sum()?.finish(source.size.get()).await.map_err(|error| source.unreadable(&error))?;
            return match Standing::of(&outcome, source.size, sum) {
                Standing::Same => Ok(Some(Beginning::Complete(key, sum))),
                _ => Ok(None),
            };
        }
        match outcome {
            // Whichever status that has. What else it may be, beginning anew tells.
            outcome if Standing::of(&outcome, source.size, NO_SUM) == Standing::Partial => {
                let plan = UploadPlan::resume(plan, missing);
                let resumed = plan.bytes_done();
                Ok(Some(Beginning::Begun(Begun { key, plan, resumed })))
            }
            _ => Ok(None),
        }
    }

    /// Begins an upload on the server.
    async fn save(
        &self,
        connection: &mut Option<Connection>,
        key: Option<Key>,
        size: FileSize,
    ) -> Result<Begun, Error> {
        let asked = self.ask(connection, Request::SaveFile { key, size }, Repeat::Safe).await;
        let asked = asked.map_err(|error| match error.code {
            Code::Timeout if size.get() == 0 => {
                let message =
                    format!("{error}. The file is empty, and the original servers do not answer to that");
                Error::new(error.code, message)
            }
            _ => error,
        });
        match asked? {
            Ok(Reply::UploadPlan { key, plan, md5 }) => {
                Ok(Begun { key, plan: UploadPlan::new(plan, md5), resumed: 0 })
            }
            Ok(other) => Err(self.account.misanswered(&other)),
            Err(refused) => Err(self.account.refused(&refused)),
        }
    }

    /// Sends all blocks that are missing. Returns what the server says is the MD5 of what it has.
    async fn send(
        &self,
        source: &Source,
        begun: Begun,
        connection: Option<Connection>,
        upload: &Upload,
        journal: &Journal,
        meter: &Arc<Meter>,
    ) -> Result<(Arc<Sending>, Option<Md5Sum>), Error> {
        meter.begin(source.size.get(), begun.resumed);
        let connection = match connection {
            Some(connection) => connection,
            None => self.account.connect().await.map_err(|lost| self.account.lost(&lost))?,
        };
        let sending = Arc::new(Sending {
            key: begun.key,
            file: Arc::clone(&source.file),
            path: source.path.clone(),
            plan: Mutex::new(begun.plan),
            sum: Mutex::new(Some(source.sum()?)),
            meter: Arc::clone(meter),
        });
        let work =
            crew::work(Arc::clone(&self.account), Arc::clone(&sending), connection, upload.connections);
        let worked = with_journal(&sending, journal, work).await;
        let last = match worked {
            Ok(last) => last,
            Err(Stopped::Failed(error)) => return Err(error),
            Err(Stopped::Lost(lost)) => return Err(kept(self.account.lost(&lost), &sending)),
        };
        // A number that no connection had; the upload has ended, so nothing is handed out by this.
        let end = sending.plan().next(ConnectionId(0));
        match end {
            UploadStep::Failed(failure) => {
                Err(kept(self.account.upload_failed(&failure, last.as_ref()), &sending))
            }
            UploadStep::Finished { md5 } => Ok((Arc::clone(&sending), md5)),
            _ => Err(Error::other("the upload ended before its end")),
        }
    }
}

/// What is under way.
struct Sending {
    key: Key,
    file: Arc<File>,
    path: PathBuf,
    plan: Mutex<UploadPlan>,
    sum: Mutex<Option<FollowingSum>>,
    meter: Arc<Meter>,
}

impl Sending {
    fn read(&self, block: Block) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; block.len()];
        self.file
            .read_exact_at(&mut bytes, block.offset())
            .map_err(|error| unreadable(&self.path, &error))?;
        // Blocks are handed out in order: what lies before this one was read a short while ago.
        if let Some(sum) = &*self.sum.lock().unwrap_or_else(PoisonError::into_inner) {
            sum.reach(block.offset() + block.len() as u64);
        }
        Ok(bytes)
    }

    async fn finish_sum(&self, source: &Source) -> Result<Md5Sum, Error> {
        let sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sum) = sum else { return Err(Error::other("the sum was taken twice")) };
        sum.finish(source.size.get()).await.map_err(|error| source.unreadable(&error))
    }

    fn plan(&self) -> MutexGuard<'_, UploadPlan> {
        // Nothing panics half-way through a change of it.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer for Sending {
    fn next(&self, connection: ConnectionId) -> Result<Step, Error> {
        let step = self.plan().next(connection);
        Ok(match step {
            UploadStep::Send(block) => Step::Ask(Request::Upload {
                key: self.key.clone(),
                index: block.index(),
                block: self.read(block)?,
            }),
            UploadStep::Confirm => Step::Ask(Request::GetFile { key: self.key.clone() }),
            UploadStep::Wait => Step::Wait,
            UploadStep::Finished { .. } | UploadStep::Failed(_) => Step::End,
        })
    }

    fn replied(&self, connection: ConnectionId, outcome: Outcome) -> Result<(), Error> {
        let mut plan = self.plan();
        plan.replied(connection, outcome);
        self.meter.reach(plan.bytes_done());
        Ok(())
    }

    fn lost(&self, connection: ConnectionId) {
        self.plan().lost(connection);
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, Error> {
        let (file, stamp) = outgoing::open(path)?;
        let size = FileSize::new(stamp.size).ok_or_else(|| Error::other("the file is too large"))?;
        Ok(Source { path: path.to_owned(), file: Arc::new(file), stamp, size })
    }

    fn sum(&self) -> Result<FollowingSum, Error> {
        let file = Arc::clone(&self.file);
        let sum = FollowingSum::start(move |offset, buffer| file.read_exact_at(buffer, offset));
        sum.map_err(|error| Error::other(format!("cannot start a thread: {error}")))
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match stamp_of(&self.file) {
            Ok(stamp) if stamp.is_same_content(&self.stamp) => Ok(()),
            _ => {
                let path = self.path.display().to_string();
                let message = format!(
                    "{} changed while it was sent, so the server has a mixture; delete that, then send it again",
                    printable(&path)
                );
                Err(Error::other(message))
            }
        }
    }

    fn unreadable(&self, error: &std::io::Error) -> Error {
        unreadable(&self.path, error)
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let path = path.display().to_string();
    let reason = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it became shorter while it was sent".to_owned(),
        _ => error.to_string(),
    };
    Error::other(format!("cannot read {}: {reason}", printable(&path)))
}

/// Whoever loses the server wants to know what is left.
fn kept(error: Error, sending: &Sending) -> Error {
    let (bytes, size) = {
        let plan = sending.plan();
        (plan.bytes_done(), plan.plan().size())
    };
    if bytes == 0 || error.code != Code::Network {
        return error;
    }
    let message = format!(
        "{error}; the server has {bytes} bytes of {size}, and the same command goes on from there if it keeps them"
    );
    Error::new(Code::Partial, message)
}

/// Does the work, and from its beginning to its end, even one that comes from outside, writes down what is missing.
async fn with_journal<T>(sending: &Sending, journal: &Journal, work: impl Future<Output = T>) -> T {
    let keeper = JournalKeeper { sending, journal };
    // A key that the server made up is known to nobody else.
    keeper.write();
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(crate::limits::JOURNAL_INTERVAL, &mut work).await {
            Ok(result) => return result,
            Err(_) => keeper.write(),
        }
    }
}

struct JournalKeeper<'a> {
    sending: &'a Sending,
    journal: &'a Journal,
}

impl JournalKeeper<'_> {
    fn write(&self) {
        let (plan, missing) = {
            let plan = self.sending.plan();
            (plan.plan(), plan.missing())
        };
        if let Err(error) = self.journal.write(Left { key: self.sending.key.clone(), plan, missing }) {
            tracing::warn!("cannot write down how far the upload is: {error}");
        }
    }
}

impl Drop for JournalKeeper<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

/// For questions whose answer does not depend on a sum.
const NO_SUM: Md5Sum = Md5Sum([0; 16]);
