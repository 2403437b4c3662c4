//! What is behind all STEP sessions of a node: the files and data of its users in the inbox, and the node's shares.
//!
//! # Owns
//!
//! `INBOX/USER/KEY`, the finished files, which are shared with the network as any other; and `INBOX/.ftx-step`, which
//! never is: uploads under way, sums of finished files, data. Names that cannot be file names are escaped, see `names`.
//! One process at a time owns an inbox.
//!
//! # Refuses
//!
//! To leave the inbox: all access goes through open folders, step by step, and no link is followed. To write into a share,
//! or at all without an inbox. To give a name to a file of which a block is missing. More than the quotas and the free
//! space allow: an upload has all of its room from its beginning.
//!
//! # What a crash loses
//!
//! If the process is killed: no block that was confirmed, see `journal`. After a power cut: at most the blocks since
//! the last sync, of which clients learn only by starting again; but nothing wrong is ever completed, since a block counts
//! only if its bytes are known to be on the disk or have the sum that was written down for them. The end goes in this
//! order: data synced, sum remembered, renamed, folder synced, journal removed. Before the rename there are part and
//! journal, and asking for the file finishes it; after it there is the file, and a journal without a part is removed.

mod background;
mod blocks;
mod data;
mod finished;
mod folder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod handles;
mod inbox;
mod journal;
mod names;
mod readers;
mod upload;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use ftx_proto::digest::Digest;
use ftx_proto::interop::step::limits::LISTING_BYTES_MAX;
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer, StoreRequest};
use ftx_proto::interop::step::value::{Key, UserName};
use ftx_proto::name::RelativePath;

pub use self::usage::{InboxLimits, InboxUsage, Reserved, ReservedPart};

use self::finished::size_of;
use self::inbox::Inbox;
use self::readers::{Readers, read_block};
use crate::catalog::ReadError;
use crate::catalog::content::stamp_of;
use crate::catalog::scan::Shares;
use crate::interop::digests::Digests;

/// The folder in an inbox that is not shared.
pub const OWN_FOLDER: &str = ".ftx-step";

const UPLOADS_FOLDER: &str = "uploads";
const SUMS_FOLDER: &str = "sums";
const DATA_FOLDER: &str = "data";

/// What a store is opened with.
#[derive(Debug, Clone, Default)]
pub struct StepStoreConfig {
    /// Where uploads go; none: nothing is taken.
    pub inbox: Option<PathBuf>,
    /// How much is taken.
    pub limits: InboxLimits,
    /// What everybody may read besides: folders and files, without the inbox.
    pub shares: Vec<PathBuf>,
    /// Nothing in it is ever given away.
    pub state: Option<PathBuf>,
}

/// What is behind all STEP sessions of a node. All methods may be called by many threads at once.
#[derive(Debug)]
pub struct StepStore {
    inbox: Option<Inbox>,
    shares: Shares,
    readers: Readers,
    digests: Arc<Digests>,
}

/// A file of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileName {
    user: UserName,
    key: Key,
}

impl FileName {
    /// What the files of an upload are called.
    fn stem(&self, seal: u64) -> String {
        let name = format!("{}\0{}", self.user, self.key);
        let digest = Digest::of(name.as_bytes()).to_string();
        format!("{}-{seal:016x}", digest.get(..32).unwrap_or_default())
    }
}

/// For the log.
impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.key.as_str(), self.user.as_str())
    }
}

impl StepStore {
    /// Opens the store; an inbox that is not there is made. Blocks on the disk.
    ///
    /// # Errors
    /// The inbox cannot be used, or is used by another process.
    pub fn open(config: StepStoreConfig, digests: Arc<Digests>) -> io::Result<Self> {
        let inbox = config.inbox.as_deref().map(|path| Inbox::open(path, config.limits)).transpose()?;
        let shares = Shares::new(&config.shares, config.state.as_deref().map(Path::new));
        Ok(StepStore { inbox, shares, readers: Readers::default(), digests })
    }

    /// How much the inbox holds, for others who put something into it.
    pub fn usage(&self) -> Option<Arc<InboxUsage>> {
        self.inbox.as_ref().map(|inbox| Arc::clone(&inbox.usage))
    }

    /// Gives up the uploads of which no block came for [`STEP_UPLOAD_QUIET_MAX`]; opening the store does that too.
    /// Blocks on the disk.
    ///
    /// [`STEP_UPLOAD_QUIET_MAX`]: crate::limits::STEP_UPLOAD_QUIET_MAX
    pub fn remove_abandoned(&self, now: SystemTime) {
        if let Some(inbox) = &self.inbox {
            inbox.remove_abandoned(now);
        }
    }

    /// Does what is asked if that is quick, which blocks of uploads and downloads mostly are; else gives it back.
    pub fn quick(&self, request: StoreRequest) -> Result<StoreAnswer, StoreRequest> {
        match (request, &self.inbox) {
            (StoreRequest::Upload { user, key, index, block }, Some(inbox)) => {
                let name = FileName { user, key };
                inbox.upload_quickly(&name, index, &block).ok_or_else(|| {
                    let FileName { user, key } = name;
                    StoreRequest::Upload { user, key, index, block }
                })
            }
            (StoreRequest::ReadBlock { user, key, index }, inbox) => {
                let name = FileName { user, key };
                let is_uploading = inbox.as_ref().is_some_and(|inbox| inbox.is_uploading(&name));
                let file = if is_uploading { None } else { self.readers.of(&name) };
                match file.map(|file| read_block(&file, index)) {
                    Some(Ok(Some(answer))) => Ok(answer),
                    other => {
                        if other.is_some() {
                            self.readers.remove(&name);
                        }
                        let FileName { user, key } = name;
                        Err(StoreRequest::ReadBlock { user, key, index })
                    }
                }
            }
            (request, _) => Err(request),
        }
    }

    /// Does what is asked. Blocks on the disk, for as long as it takes to read a whole file.
    pub fn execute(&self, request: StoreRequest) -> StoreAnswer {
        self.answer(request).unwrap_or_else(StoreAnswer::Denied)
    }

    fn answer(&self, request: StoreRequest) -> Result<StoreAnswer, Denial> {
        let inbox = self.inbox.as_ref().ok_or(Denial::ReadOnly);
        match request {
            StoreRequest::FileInfo { user, key } => self.info(FileName { user, key }).map(StoreAnswer::File),
            StoreRequest::ReadBlock { user, key, index } => self.read_block(FileName { user, key }, index),
            StoreRequest::ListFiles { user } => self.list(&user),
            StoreRequest::SaveFile { user, key, size } => {
                inbox?.save(FileName { user, key }, size, &self.digests)
            }
            StoreRequest::Upload { user, key, index, block } => {
                let name = FileName { user, key };
                let answer = inbox?.upload(&name, index, &block, &self.digests)?;
                if matches!(answer, StoreAnswer::BlockStored { md5: Some(_) }) {
                    self.readers.remove(&name);
                }
                Ok(answer)
            }
            StoreRequest::DeleteFile { user, key } => {
                let name = FileName { user, key };
                let answer = inbox?.delete(&name)?;
                self.readers.remove(&name);
                Ok(answer)
            }
            StoreRequest::SaveData { user, key, object } => inbox?.save_data(&user, &key, &object),
            StoreRequest::GetData { user, key } => match inbox {
                Ok(inbox) => inbox.read_data(&user, &key),
                Err(_) => Ok(StoreAnswer::DataAbsent),
            },
            StoreRequest::DeleteData { user, key } => inbox?.delete_data(&user, &key),
        }
    }

    /// How a file stands: one of the user's, or else one of the shares.
    fn info(&self, name: FileName) -> Result<FileState, Denial> {
        if let Some(inbox) = &self.inbox {
            let state = inbox.info(&name, &self.digests)?;
            if state != FileState::Absent {
                return Ok(state);
            }
        }
        let Some(file) = self.shared(&name.key) else { return Ok(FileState::Absent) };
        sum_of(&name, || {
            let stamp = stamp_of(&file)?;
            Ok(FileState::Complete { size: size_of(&stamp), md5: self.digests.md5(&file)? })
        })
    }

    fn read_block(&self, name: FileName, index: u64) -> Result<StoreAnswer, Denial> {
        let own = match &self.inbox {
            Some(inbox) => {
                if let Some(state) = inbox.uploading(&name)? {
                    return Ok(StoreAnswer::File(state));
                }
                inbox.open_finished(&name)?
            }
            None => None,
        };
        let Some(file) = own.or_else(|| self.shared(&name.key)) else {
            return Ok(StoreAnswer::File(FileState::Absent));
        };
        let file = self.readers.add(name.clone(), file);
        let read = read_block(&file, index).map_err(|error| io_failed("read", &name, &error))?;
        Ok(read.unwrap_or(StoreAnswer::File(FileState::Absent)))
    }

    /// The keys of the user's files, then the names of what is shared, as many as fit a reply.
    fn list(&self, user: &UserName) -> Result<StoreAnswer, Denial> {
        let mut keys = match &self.inbox {
            Some(inbox) => inbox.list(user)?,
            None => Vec::new(),
        };
        keys.sort();
        let mut bytes: usize = keys.iter().map(|key| key.as_str().len()).sum();
        let own = keys.len();
        let _ = self.shares.scan(&AtomicBool::new(false), &mut |batch| {
            for found in batch.files() {
                bytes += found.name.as_str().len();
                keys.extend(found.name.as_str().parse::<Key>().ok());
            }
            if bytes > LISTING_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // A name that the user has too stands for the user's file.
        let mut seen: HashSet<Key> = keys.drain(own..).collect();
        for key in &keys {
            seen.remove(key);
        }
        let mut shared: Vec<Key> = seen.into_iter().collect();
        shared.sort();
        keys.extend(shared);
        Ok(StoreAnswer::Files(keys))
    }

    /// The file of the shares that the key names.
    fn shared(&self, key: &Key) -> Option<File> {
        let name: RelativePath = key.as_str().parse().ok()?;
        let found = self.shares.probe(&name)?;
        self.shares.location(found.share, &name).open().ok()
    }
}

/// Tries again when a file is changed while it is read, as long as that makes sense.
fn sum_of(
    name: &FileName,
    mut compute: impl FnMut() -> Result<FileState, ReadError>,
) -> Result<FileState, Denial> {
    for _ in 0..SUM_ATTEMPTS_MAX {
        match compute() {
            Ok(state) => return Ok(state),
            Err(ReadError::Unreadable(error)) => return Err(io_failed("read", name, &error)),
            Err(ReadError::Changed | ReadError::Missing | ReadError::OneFile(_)) => {}
        }
    }
    Err(Denial::Busy)
}

/// How often a file that changes is read.
const SUM_ATTEMPTS_MAX: usize = 3;

/// What a client is told of an error of the disk; the log has it in full.
fn io_failed(action: &str, name: &FileName, error: &io::Error) -> Denial {
    let denial = denial(error);
    tracing::warn!(%name, %error, "cannot {action} a file of the inbox");
    denial
}

fn denial(error: &io::Error) -> Denial {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Denial::DiskFull
        }
        _ => Denial::Failed,
    }
}
