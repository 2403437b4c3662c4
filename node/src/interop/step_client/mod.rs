//! The client of STEP servers: files over several connections at once, and small data.
//!
//! # Owns
//!
//! The connections (`connection`, `crew`), and one transfer for as long as it runs (`upload`, `download`). What is
//! asked next and what a reply means is decided by [`ftx_proto::interop::step`].
//!
//! # Refuses
//!
//! To have two requests outstanding on one connection, since the original servers lose what they read too early. To give a
//! file its name before its MD5 was compared: blocks carry no sum of their own. To print or to ask: that is the command
//! line's part.
//!
//! # What a crash loses
//!
//! Of a download, the blocks since its journal was written last (2 s). Of an upload, the same: the server keeps blocks,
//! and the journal says which.
//!
//! Everything runs where it is called, and reads and writes blocks there: on a runtime that may wait for disks.

mod connection;
mod crew;
mod download;
mod failure;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod journal;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use ftx_proto::interop::step::client::{Outcome, Reply, Request};
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::value::{Key, Md5Sum};

pub use connection::Account;
pub use download::{Download, Downloaded};
pub use upload::{Upload, Uploaded};

use crate::error::{Code, Error};
use connection::{Connection, Lost};

/// A client of one account.
#[derive(Clone)]
pub struct StepClient {
    account: Arc<Account>,
}

impl StepClient {
    /// Of this account. Nothing is connected yet.
    pub fn new(account: Account) -> Self {
        StepClient { account: Arc::new(account) }
    }

    /// Deletes a file, or what there is of one.
    pub async fn remove(&self, key: Key) -> Result<(), Error> {
        match self.single(Request::DeleteFile { key }, Repeat::Unsafe).await? {
            Ok(Reply::FileDeleted) => Ok(()),
            Ok(other) => Err(self.account.misanswered(&other)),
            // They say no, and do it.
            Err(refused) if refused.message.contains("tmp files are deleted") => Ok(()),
            Err(refused) => Err(self.account.refused(&refused)),
        }
    }

    /// The names of all files, as the server gives them, and whether it left some out. Few servers can do that.
    pub async fn list(&self) -> Result<(Vec<String>, bool), Error> {
        let listed = self.single(Request::ListFiles, Repeat::Safe).await?;
        match listed {
            Ok(Reply::Files { names, has_more }) => Ok((names, has_more)),
            Ok(other) => Err(self.account.misanswered(&other)),
            // What the originals say, which know no lists.
            Err(refused) if refused.status == 410 => {
                let error = self.account.refused(&refused);
                Err(Error::new(error.code, format!("{error}; this server does not list files")))
            }
            Err(refused) => Err(self.account.refused(&refused)),
        }
    }

    /// Keeps an object, and says under which key.
    pub async fn save_data(&self, key: Option<Key>, object: Object) -> Result<Key, Error> {
        match self.ask_once(Request::SaveData { key, object }).await? {
            Reply::DataSaved { key } => Ok(key),
            other => Err(self.account.misanswered(&other)),
        }
    }

    /// An object that was kept.
    pub async fn data(&self, key: Key) -> Result<Object, Error> {
        let found = self.single(Request::GetData { key }, Repeat::Safe).await?;
        match found.map_err(|refused| self.account.refused(&refused))? {
            Reply::Data(object) => Ok(object),
            other => Err(self.account.misanswered(&other)),
        }
    }

    /// Deletes an object.
    pub async fn remove_data(&self, key: Key) -> Result<(), Error> {
        match self.ask_once(Request::DeleteData { key }).await? {
            Reply::DataDeleted => Ok(()),
            other => Err(self.account.misanswered(&other)),
        }
    }

    /// The reply to a request that must not be made twice.
    async fn ask_once(&self, request: Request) -> Result<Reply, Error> {
        let outcome = self.single(request, Repeat::Unsafe).await?;
        outcome.map_err(|refused| self.account.refused(&refused))
    }

    /// The only request of its connection.
    async fn single(&self, request: Request, repeat: Repeat) -> Result<Outcome, Error> {
        let mut connection = None;
        let outcome = self.ask(&mut connection, request, repeat).await?;
        if let Some(connection) = connection {
            connection.farewell().await;
        }
        Ok(outcome)
    }

    /// What comes of a request on this connection, or on a new one if it is none or breaks.
    async fn ask(
        &self,
        connection: &mut Option<Connection>,
        request: Request,
        repeat: Repeat,
    ) -> Result<Outcome, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut has_asked = false;
            let asked = async {
                let mut line = match connection.take() {
                    Some(line) => line,
                    None => self.account.connect().await?,
                };
                has_asked = true;
                let outcome = line.ask(request.clone()).await?;
                Ok((line, outcome))
            };
            match asked.await {
                Ok((line, outcome)) => {
                    *connection = Some(line);
                    return Ok(outcome);
                }
                Err(lost @ Lost::Broken(_))
                    if attempt < ATTEMPTS_MAX && (repeat == Repeat::Safe || !has_asked) =>
                {
                    tracing::debug!(?lost, "asking again on another connection");
                    tokio::time::sleep(BACKOFF * attempt).await;
                }
                Err(lost) => return Err(self.account.lost(&lost)),
            }
        }
    }
}

/// Whether a request may be made again when its reply was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    /// The second time it could be refused for what the first time did.
    Unsafe,
}

/// The sums of what was sent and of what the other side has differ.
fn damaged(what: &str, ours: Md5Sum, theirs: Md5Sum, advice: &str) -> Error {
    let message = format!("{what}: the bytes here have the MD5 {ours}, the server says {theirs}; {advice}");
    Error::new(Code::Integrity, message)
}

/// How often a single request is tried while connections break.
const ATTEMPTS_MAX: u32 = 4;

/// The pause before the second try; the next ones are multiples of it.
const BACKOFF: Duration = Duration::from_millis(100);
