//! The client's side of one connection: one request out, its reply in.
//!
//! It owns the one request that is outstanding and what was received of its reply. It refuses to send a second one before
//! that, since the original servers read beyond a request and lose what they read: parallel work takes several
//! connections. It has no clock: some servers do not answer everything, so its shell gives every request a time, and
//! then gives up the connection. A crash loses the session; the token is good on any other connection.
//!
//! States: *idle* → *outstanding* ([`ClientSession::begin`]) → idle ([`ClientSession::received`] with a reply); from
//! anywhere → *broken*, with the first error.
//!
//! Replies are read leniently: a status other than 200 is a refusal, whichever it is, with the server's message. Of a good
//! reply only what is needed must be there; what the request said already is taken from there.

use super::block::BlockPlan;
use super::frame::{Binary, Frame, FrameBounds, FrameDecoder, FrameError, encode};
use super::limits::{
    BLOCK_SIZE, BLOCK_SIZE_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, REPLY_DISCARD_MAX, REPLY_JSON_MAX,
    TOKEN_BYTES_MAX,
};
use super::message::{Body, Kind, Object, ObjectWriter, Operation};
use super::value::{FileSize, Key, Md5Sum};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Begins a session; the token in the reply is used from then on.
    Login {
        /// As the user types it.
        user: String,
        /// The secret, or [`classic_password`](super::token::classic_password).
        password: String,
    },
    /// Begins an upload.
    SaveFile {
        /// Under which key; the server makes one up if there is none.
        key: Option<Key>,
        /// Bytes of the whole file.
        size: FileSize,
    },
    /// Sends one block, of at most [`BLOCK_SIZE_MAX`] bytes.
    Upload {
        /// Of which file.
        key: Key,
        /// Its number.
        index: u64,
        /// Its bytes.
        block: Vec<u8>,
    },
    /// Asks for a file's plan and MD5: begins a download, or confirms an upload.
    GetFile {
        /// Which one.
        key: Key,
    },
    /// Asks for the names of all files. Few servers know how.
    ListFiles,
    /// Asks for one block.
    Download {
        /// Of which file.
        key: Key,
        /// Its number.
        index: u64,
    },
    /// Deletes a file.
    DeleteFile {
        /// Which one.
        key: Key,
    },
    /// Keeps an object.
    SaveData {
        /// Under which key; the server makes one up if there is none.
        key: Option<Key>,
        /// Its fields. Those that are part of the protocol are not sent.
        object: Object,
    },
    /// Reads an object.
    GetData {
        /// Which one.
        key: Key,
    },
    /// Deletes an object.
    DeleteData {
        /// Which one.
        key: Key,
    },
}

/// What a server says to a request that it granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The session is begun.
    LoggedIn {
        /// Good for other connections too.
        token: String,
    },
    /// The upload may begin.
    UploadPlan {
        /// Under this key.
        key: Key,
        /// In these blocks.
        plan: BlockPlan,
        /// Of an empty file, which is complete already.
        md5: Option<Md5Sum>,
    },
    /// The block is stored.
    BlockStored {
        /// Of the whole file, if the server says so; most do it in the reply that completes the file.
        md5: Option<Md5Sum>,
    },
    /// The file is there.
    FilePlan {
        /// In these blocks.
        plan: BlockPlan,
        /// Its sum, if the server says so.
        md5: Option<Md5Sum>,
    },
    /// The files that are there.
    Files {
        /// As the server names them.
        names: Vec<String>,
        /// Whether it left some out.
        has_more: bool,
    },
    /// The block that was asked for. Its length is not checked: [`BlockPlan::place`] does that.
    Block {
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The file is gone.
    FileDeleted,
    /// The object is kept.
    DataSaved {
        /// Under this key.
        key: Key,
    },
    /// The object, with whatever fields the server gave back, but those that are part of every reply.
    Data(Object),
    /// The object is gone.
    DataDeleted,
}

/// A server's no. The connection is as good as before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server refused with status {status}: {message}", message = crate::name::printable(message))]
pub struct Refused {
    /// Whatever it is, it is not 200.
    pub status: u64,
    /// In the server's words, cut to [`MESSAGE_BYTES_MAX`].
    pub message: String,
}

/// Why a connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// What was received is no frame.
    #[error("the server's reply is no frame: {0}")]
    Frame(#[from] FrameError),
    /// The reply lacks what it must have.
    #[error("the server's reply has no usable field \"{0}\"")]
    Field(&'static str),
    /// The server said something without being asked.
    #[error("the server sent bytes that were not asked for")]
    Unsolicited,
}

/// What came of a request.
pub type Outcome = Result<Reply, Refused>;

/// The client's side of one connection.
#[derive(Debug)]
pub struct ClientSession {
    token: Option<String>,
    decoder: FrameDecoder,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    Outstanding(Expected),
    Broken(ClientError),
}

/// What the reply is to, and what it may leave out.
#[derive(Debug, Clone)]
enum Expected {
    Login,
    SaveFile { key: Option<Key>, size: FileSize },
    Upload { index: u64 },
    GetFile,
    ListFiles,
    Download { index: u64 },
    DeleteFile,
    SaveData { key: Option<Key> },
    GetData,
    DeleteData,
}

impl ClientSession {
    /// A connection that has just been made; with the token that another one was given, if there is one.
    pub fn new(token: Option<String>) -> Self {
        let keep = |_: &Body| BLOCK_SIZE_MAX;
        let bounds = FrameBounds { json_max: REPLY_JSON_MAX, keep, discard_max: REPLY_DISCARD_MAX };
        ClientSession { token, decoder: FrameDecoder::new(bounds), state: State::Idle }
    }

    /// The token of the session, to be used on other connections too.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Whether a request may begin.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The bytes of a request, to be sent at once. None while another one is outstanding or the connection is broken.
    ///
    /// # Panics
    ///
    /// If a block is longer than [`BLOCK_SIZE_MAX`]; no plan has such blocks.
    pub fn begin(&mut self, request: Request) -> Option<Vec<u8>> {
        if !self.is_idle() {
            return None;
        }
        let (expected, bytes) = self.encode(request);
        self.state = State::Outstanding(expected);
        Some(bytes)
    }

    /// The bytes of a farewell, which no server answers. The connection is to be ended then.
    pub fn farewell(&self) -> Vec<u8> {
        encode(self.fields(Operation::Bye, Kind::Auth), &[])
    }

    /// Takes in what was received: nothing yet, or what came of the outstanding request. An error is final.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Option<Outcome>, ClientError> {
        let outcome = match &self.state {
            State::Broken(error) => return Err(error.clone()),
            State::Idle if bytes.is_empty() => return Ok(None),
            State::Idle => Err(ClientError::Unsolicited),
            State::Outstanding(expected) => {
                let expected = expected.clone();
                self.decoder.push(bytes);
                match self.decoder.poll() {
                    Ok(None) => return Ok(None),
                    Ok(Some(_)) if !self.decoder.is_between_frames() => Err(ClientError::Unsolicited),
                    Ok(Some(frame)) => read(expected, frame),
                    Err(error) => Err(error.into()),
                }
            }
        };
        match outcome {
            Ok(outcome) => {
                if let Ok(Reply::LoggedIn { token }) = &outcome {
                    self.token = Some(token.clone());
                }
                self.state = State::Idle;
                Ok(Some(outcome))
            }
            Err(error) => {
                self.state = State::Broken(error.clone());
                Err(error)
            }
        }
    }

    fn encode(&self, request: Request) -> (Expected, Vec<u8>) {
        let with_key = |operation, kind, key: &Key| {
            let mut fields = self.fields(operation, kind);
            fields.text("key", key.as_str());
            fields
        };
        let plain = |expected, fields| (expected, encode(fields, &[]));
        match request {
            Request::Login { user, password } => {
                let mut fields = ObjectWriter::default();
                envelope(&mut fields, Operation::Login, Kind::Auth);
                fields.text("username", &user).text("password", &password);
                plain(Expected::Login, fields)
            }
            Request::SaveFile { key, size } => {
                let mut fields = self.fields(Operation::Save, Kind::File);
                if let Some(key) = &key {
                    fields.text("key", key.as_str());
                }
                fields.number("size", size.get());
                plain(Expected::SaveFile { key, size }, fields)
            }
            Request::Upload { key, index, block } => {
                assert!(block.len() <= BLOCK_SIZE_MAX as usize, "a block comes from a plan");
                let mut fields = with_key(Operation::Upload, Kind::File, &key);
                fields.number("block_index", index);
                (Expected::Upload { index }, encode(fields, &block))
            }
            Request::GetFile { key } => plain(Expected::GetFile, with_key(Operation::Get, Kind::File, &key)),
            Request::ListFiles => plain(Expected::ListFiles, self.fields(Operation::Get, Kind::File)),
            Request::Download { key, index } => {
                let mut fields = with_key(Operation::Download, Kind::File, &key);
                fields.number("block_index", index);
                plain(Expected::Download { index }, fields)
            }
            Request::DeleteFile { key } => {
                plain(Expected::DeleteFile, with_key(Operation::Delete, Kind::File, &key))
            }
            Request::SaveData { key, object } => {
                let mut fields = self.fields(Operation::Save, Kind::Data);
                if let Some(key) = &key {
                    fields.text("key", key.as_str());
                }
                for (name, json) in object.without(REQUEST_FIELDS).iter() {
                    fields.json(name, json);
                }
                plain(Expected::SaveData { key }, fields)
            }
            Request::GetData { key } => plain(Expected::GetData, with_key(Operation::Get, Kind::Data, &key)),
            Request::DeleteData { key } => {
                plain(Expected::DeleteData, with_key(Operation::Delete, Kind::Data, &key))
            }
        }
    }

    /// What every request but LOGIN begins with.
    fn fields(&self, operation: Operation, kind: Kind) -> ObjectWriter {
        let mut fields = ObjectWriter::default();
        envelope(&mut fields, operation, kind);
        fields.text("token", self.token.as_deref().unwrap_or_default());
        fields
    }
}

fn envelope(fields: &mut ObjectWriter, operation: Operation, kind: Kind) {
    fields.text("operation", operation.name()).text("direction", "REQUEST").text("type", kind.name());
}

/// What a reply says to a request.
fn read(expected: Expected, frame: Frame) -> Result<Outcome, ClientError> {
    let Body::Object(fields) = frame.body else { return Err(ClientError::Field("status")) };
    let status = fields.lenient_number("status").ok_or(ClientError::Field("status"))?;
    if status != 200 {
        let message = cut(fields.text("status_msg").unwrap_or_default());
        return Ok(Err(Refused { status, message }));
    }
    let md5 = fields.text("md5").and_then(|text| text.trim().parse().ok());
    Ok(Ok(match expected {
        Expected::Login => {
            let token = fields.text("token").filter(|token| token.len() <= TOKEN_BYTES_MAX);
            Reply::LoggedIn { token: token.ok_or(ClientError::Field("token"))? }
        }
        Expected::SaveFile { key, size } => {
            let plan = plan(&fields, Some(size))?;
            if plan.size() != size.get() {
                return Err(ClientError::Field("size"));
            }
            Reply::UploadPlan { key: saved_key(&fields, key)?, plan, md5 }
        }
        Expected::Upload { index } => {
            same_block(&fields, index)?;
            Reply::BlockStored { md5 }
        }
        Expected::GetFile => Reply::FilePlan { plan: plan(&fields, None)?, md5 },
        Expected::ListFiles => {
            let names = fields.texts("file_list").ok_or(ClientError::Field("file_list"))?;
            Reply::Files { names, has_more: fields.json("more") == Some("true") }
        }
        Expected::Download { index } => {
            same_block(&fields, index)?;
            match frame.binary {
                Binary::Kept(bytes) => Reply::Block { bytes },
                Binary::Dropped(len) => return Err(ClientError::Frame(FrameError::BinaryTooLong(len))),
            }
        }
        Expected::DeleteFile => Reply::FileDeleted,
        Expected::SaveData { key } => Reply::DataSaved { key: saved_key(&fields, key)? },
        Expected::GetData => Reply::Data(fields.without(REPLY_FIELDS)),
        Expected::DeleteData => Reply::DataDeleted,
    }))
}

/// Whether a reply is to the block that was asked. Some servers do not say, but one that says another is out of step.
fn same_block(fields: &Object, index: u64) -> Result<(), ClientError> {
    match fields.lenient_number("block_index") {
        Some(other) if other != index => Err(ClientError::Field("block_index")),
        _ => Ok(()),
    }
}

/// The plan that a reply announces; its number of blocks follows from the rest.
fn plan(fields: &Object, asked: Option<FileSize>) -> Result<BlockPlan, ClientError> {
    let announced = fields.lenient_number("size").and_then(FileSize::new);
    let size = announced.or(asked).ok_or(ClientError::Field("size"))?;
    let block_size = match fields.contains("block_size") {
        true => fields.lenient_number("block_size").ok_or(ClientError::Field("block_size"))?,
        // As every common server has it, and six clients believe whatever a server says.
        false => u64::from(BLOCK_SIZE),
    };
    BlockPlan::announced(size, block_size).ok_or(ClientError::Field("block_size"))
}

/// The key that something was saved under. A server may have made it up, or changed the one that was asked for.
fn saved_key(fields: &Object, asked: Option<Key>) -> Result<Key, ClientError> {
    match fields.text("key") {
        Some(text) if text.len() <= KEY_BYTES_MAX => text.parse().map_err(|_| ClientError::Field("key")),
        Some(_) => Err(ClientError::Field("key")),
        None => asked.ok_or(ClientError::Field("key")),
    }
}

/// At most [`MESSAGE_BYTES_MAX`] bytes, cut between two characters.
fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&at| message.is_char_boundary(at));
        message.truncate(end.unwrap_or(0));
    }
    message
}

/// Fields that a request has for itself.
const REQUEST_FIELDS: &[&str] = &["operation", "direction", "type", "token", "key"];

/// Fields that are part of every reply, and a saver's secrets, which some servers give back.
const REPLY_FIELDS: &[&str] =
    &["operation", "direction", "type", "status", "status_msg", "token", "password"];
