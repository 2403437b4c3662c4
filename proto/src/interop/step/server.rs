//! The server's side of one connection: requests in, replies out, in the same order.
//!
//! It owns what was received and not yet answered, and what is being waited for. It refuses to read files, to verify
//! passwords and to look at a clock: it says what it needs, and is told. It never has more than one thing asked. A crash
//! loses nothing, since tokens are good on every connection.
//!
//! States: *ready* (looks at the next request, if it is complete) → *waiting* for the store or for a password → ready;
//! from anywhere → *closed*. The next request is looked at only when the replies before it are taken by
//! [`ServerSession::poll`], so a client that sends a thousand requests without reading cannot make replies pile up here.
//!
//! Invariants: as many replies as requests (but none for BYE), in their order; no output while waiting; after
//! [`Output::Close`] nothing.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

use super::answer::{Index, Question, refusal_reply, reply};
use super::frame::{Binary, Frame, FrameBounds, FrameDecoder, FrameError};
use super::limits::{
    BACKLOG_BYTES, BACKLOG_BYTES_MAX, BLOCK_SIZE, PASSWORD_BYTES_MAX, REQUEST_DISCARD_MAX, REQUEST_JSON_MAX,
};
use super::message::{Body, Integer, Kind, Object, ObjectWriter, Operation};
use super::refusal::Refusal;
use super::store::{StoreAnswer, StoreRequest};
use super::token::{Authenticator, TokenError, classic_password};
use super::value::{FileSize, Key, KeyError, UserName, WallTime};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// Bytes came in: at most [`BACKLOG_BYTES`] at once, and only while [`ServerSession::wants_bytes`].
    Received(&'a [u8]),
    /// The store did what [`Output::Store`] asked.
    StoreDone(StoreAnswer),
    /// What [`Output::VerifyPassword`] asked.
    PasswordVerified(bool),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes, with one write where that is possible: they are one whole reply.
    Send(Vec<u8>),
    /// Do this, then [`Input::StoreDone`].
    Store(StoreRequest),
    /// Find out whether this is the user's password, then [`Input::PasswordVerified`].
    VerifyPassword {
        /// Who logs in.
        user: UserName,
        /// What was sent: the secret, or the hex digits of its MD5. Not to be logged.
        password: String,
    },
    /// End the connection.
    Close(CloseReason),
}

/// Why a connection is ended. The protocol has no word for it, so the client only sees the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// What was received is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The session was given more bytes than it wanted.
    #[error("more than {BACKLOG_BYTES_MAX} bytes wait to be processed")]
    Backlog,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct ServerSession {
    authenticator: Authenticator,
    random: ChaCha8Rng,
    now: WallTime,
    decoder: FrameDecoder,
    state: State,
}

#[derive(Debug)]
enum State {
    Ready,
    WaitingForPassword(UserName),
    WaitingForStore(Question),
    /// The reply is not yet taken.
    Answered(Vec<u8>),
    Closing(CloseReason),
    Closed,
}

/// What a request comes to, at first.
enum Step {
    Silence,
    Reply(Vec<u8>),
    Login(UserName, String),
    Ask(Question, StoreRequest),
}

/// A refusal, and what had been asked if that much was understood.
struct Rejected(Refusal, Option<(Operation, Kind)>);

impl ServerSession {
    /// A connection that has just been accepted. The seed makes the keys of what is saved without one.
    pub fn new(authenticator: Authenticator, seed: [u8; 32], now: WallTime) -> Self {
        let bounds = FrameBounds { json_max: REQUEST_JSON_MAX, keep: kept, discard_max: REQUEST_DISCARD_MAX };
        ServerSession {
            authenticator,
            random: ChaCha8Rng::from_seed(seed),
            now,
            decoder: FrameDecoder::new(bounds),
            state: State::Ready,
        }
    }

    /// From now on users and tokens are checked with this, which may know of other secrets than before.
    pub fn set_authenticator(&mut self, authenticator: Authenticator) {
        self.authenticator = authenticator;
    }

    /// Takes in what happened. Then drain [`ServerSession::poll`]. Answers to what was not asked are passed over.
    pub fn handle(&mut self, now: WallTime, input: Input<'_>) {
        self.now = now;
        match (input, std::mem::replace(&mut self.state, State::Ready)) {
            (_, State::Closed) => self.state = State::Closed,
            (_, State::Closing(reason)) => self.state = State::Closing(reason),
            (Input::Received(bytes), state) => {
                self.state = state;
                self.received(bytes);
            }
            (Input::StoreDone(answer), State::WaitingForStore(question)) => {
                self.state = State::Answered(question.reply(answer));
            }
            (Input::PasswordVerified(good), State::WaitingForPassword(user)) => {
                self.state = State::Answered(self.login_reply(&user, good));
            }
            (Input::StoreDone(_) | Input::PasswordVerified(_), state) => self.state = state,
        }
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        loop {
            match std::mem::replace(&mut self.state, State::Ready) {
                State::Ready => match self.decoder.poll() {
                    Ok(None) => return None,
                    Ok(Some(frame)) => {
                        if let Some(output) = self.request(frame) {
                            return Some(output);
                        }
                    }
                    Err(error) => self.state = State::Closing(error.into()),
                },
                State::Answered(reply) => return Some(Output::Send(reply)),
                State::Closing(reason) => {
                    self.state = State::Closed;
                    return Some(Output::Close(reason));
                }
                waiting => {
                    self.state = waiting;
                    return None;
                }
            }
        }
    }

    /// Whether more bytes should be read from the connection.
    pub fn wants_bytes(&self) -> bool {
        !matches!(self.state, State::Closing(_) | State::Closed) && self.decoder.buffered() < BACKLOG_BYTES
    }

    /// Whether nothing is under way: no request was begun or waits, so the connection may be ended as idle.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Ready) && self.decoder.is_between_frames()
    }

    fn received(&mut self, bytes: &[u8]) {
        if self.decoder.buffered() + bytes.len() > BACKLOG_BYTES_MAX {
            self.state = State::Closing(CloseReason::Backlog);
        } else {
            self.decoder.push(bytes);
        }
    }

    /// What a request comes to: nothing at all for BYE.
    fn request(&mut self, frame: Frame) -> Option<Output> {
        match self.dispatch(frame) {
            Ok(Step::Silence) => None,
            Ok(Step::Reply(reply)) => Some(Output::Send(reply)),
            Ok(Step::Login(user, password)) => {
                self.state = State::WaitingForPassword(user.clone());
                Some(Output::VerifyPassword { user, password })
            }
            Ok(Step::Ask(question, request)) => {
                self.state = State::WaitingForStore(question);
                Some(Output::Store(request))
            }
            Err(Rejected(refusal, asked)) => Some(Output::Send(refusal_reply(&refusal, asked))),
        }
    }

    /// The checks before dispatch, in the order that clients know, and then to where the request belongs.
    fn dispatch(&mut self, frame: Frame) -> Result<Step, Rejected> {
        let (operation, kind, fields) = envelope(frame.body).map_err(|refusal| Rejected(refusal, None))?;
        let step = match operation {
            Operation::Bye => Ok(Step::Silence),
            Operation::Login => self.login(kind, &fields),
            _ => self.user_of(&fields).and_then(|user| match kind {
                Kind::File => self.file(operation, user, &fields, frame.binary),
                Kind::Data => self.data(operation, user, fields),
                Kind::Auth => Err(Refusal::OperationForType(operation, kind)),
            }),
        };
        step.map_err(|refusal| Rejected(refusal, Some((operation, kind))))
    }

    fn user_of(&self, fields: &Object) -> Result<UserName, Refusal> {
        if !fields.has_value("token") {
            return Err(Refusal::NoToken);
        }
        let token = fields.text("token").ok_or(Refusal::TokenFormat)?;
        self.authenticator.user_of(&token, &self.now).map_err(|error| match error {
            TokenError::Format => Refusal::TokenFormat,
            TokenError::Wrong => Refusal::TokenWrong,
        })
    }

    fn login(&self, kind: Kind, fields: &Object) -> Result<Step, Refusal> {
        if kind != Kind::Auth {
            return Err(Refusal::LoginType);
        }
        let typed = fields.text("username").ok_or(Refusal::LoginField("username"))?;
        let password = fields.text("password").ok_or(Refusal::LoginField("password"))?;
        let user: UserName = typed.parse().map_err(|_| Refusal::Password)?;
        match self.authenticator {
            Authenticator::Classic => {
                let good = password.eq_ignore_ascii_case(&classic_password(&typed));
                Ok(Step::Reply(self.login_reply(&user, good)))
            }
            Authenticator::Secrets(..) if password.len() > PASSWORD_BYTES_MAX => Err(Refusal::Password),
            Authenticator::Secrets(..) => Ok(Step::Login(user, password)),
        }
    }

    fn login_reply(&self, user: &UserName, good: bool) -> Vec<u8> {
        let asked = (Operation::Login, Kind::Auth);
        if !good {
            return refusal_reply(&Refusal::Password, Some(asked));
        }
        let mut fields = ObjectWriter::default();
        fields.text("token", &self.authenticator.issue(user, &self.now));
        reply(fields, asked, "Login successfully", &[])
    }

    fn data(&mut self, operation: Operation, user: UserName, fields: Object) -> Result<Step, Refusal> {
        match operation {
            Operation::Save => {
                let key = self.key_or_random(&fields)?;
                let object = fields.without(NOT_STORED).with_text("key", key.as_str());
                let request = StoreRequest::SaveData { user, key: key.clone(), object };
                Ok(Step::Ask(Question::SaveData { key }, request))
            }
            Operation::Get => {
                let key = existing_key(&fields, "DATA GET", Refusal::KeyAbsent)?;
                Ok(Step::Ask(Question::GetData { key: key.clone() }, StoreRequest::GetData { user, key }))
            }
            Operation::Delete => {
                let key = existing_key(&fields, "DATA delete", Refusal::QuotedKeyAbsent)?;
                Ok(Step::Ask(
                    Question::DeleteData { key: key.clone() },
                    StoreRequest::DeleteData { user, key },
                ))
            }
            _ => Err(Refusal::OperationForType(operation, Kind::Data)),
        }
    }

    fn file(
        &mut self,
        operation: Operation,
        user: UserName,
        fields: &Object,
        binary: Binary,
    ) -> Result<Step, Refusal> {
        match operation {
            Operation::Save => self.save(user, fields),
            Operation::Upload => upload(user, fields, binary),
            Operation::Get if !fields.has_value("key") => {
                Ok(Step::Ask(Question::List, StoreRequest::ListFiles { user }))
            }
            Operation::Get => {
                let key = existing_key(fields, "FILE GET", Refusal::KeyAbsent)?;
                Ok(Step::Ask(Question::Get { key: key.clone() }, StoreRequest::FileInfo { user, key }))
            }
            Operation::Download => {
                let key = existing_key(fields, "FILE downloading", Refusal::QuotedKeyAbsent)?;
                let index = Index::of(fields.integer("block_index"));
                let request = match index {
                    Index::Number(index) => StoreRequest::ReadBlock { user, key: key.clone(), index },
                    Index::Missing | Index::Negative => StoreRequest::FileInfo { user, key: key.clone() },
                };
                Ok(Step::Ask(Question::Download { key, index }, request))
            }
            Operation::Delete => {
                let key = existing_key(fields, "FILE delete", Refusal::QuotedKeyAbsent)?;
                Ok(Step::Ask(Question::Delete { key: key.clone() }, StoreRequest::DeleteFile { user, key }))
            }
            Operation::Bye | Operation::Login => Err(Refusal::OperationForType(operation, Kind::File)),
        }
    }

    fn save(&mut self, user: UserName, fields: &Object) -> Result<Step, Refusal> {
        let key = self.key_or_random(fields)?;
        let size = match fields.integer("size") {
            Integer::Absent => Err(Refusal::SizeMissing),
            Integer::Unsigned(bytes) => FileSize::new(bytes).ok_or(Refusal::SizeWrong),
            Integer::Other | Integer::Negative | Integer::Huge => Err(Refusal::SizeWrong),
        };
        Ok(match size {
            Ok(size) => {
                let request = StoreRequest::SaveFile { user, key: key.clone(), size };
                Step::Ask(Question::Save { key, size }, request)
            }
            // That the key exists is told before what is wrong with the size.
            Err(refusal) => {
                let request = StoreRequest::FileInfo { user, key: key.clone() };
                Step::Ask(Question::SaveWithoutSize { key, refusal }, request)
            }
        })
    }

    fn key_or_random(&mut self, fields: &Object) -> Result<Key, Refusal> {
        match key_of(fields) {
            KeyField::Missing => {
                let mut bytes = [0; 16];
                self.random.fill_bytes(&mut bytes);
                Ok(Key::from_random(bytes))
            }
            KeyField::NotText => Err(Refusal::KeyNotText),
            KeyField::Bad(_, error) => Err(Refusal::KeyUnusable(error)),
            KeyField::Good(key) => Ok(key),
        }
    }
}

fn upload(user: UserName, fields: &Object, binary: Binary) -> Result<Step, Refusal> {
    let key = existing_key(fields, "FILE uploading", Refusal::UploadNotAccepted)?;
    let index = Index::of(fields.integer("block_index"));
    Ok(match (index, binary) {
        (Index::Number(index), Binary::Kept(block)) => {
            let request = StoreRequest::Upload { user, key: key.clone(), index, block };
            Step::Ask(Question::Upload { key, index }, request)
        }
        // How the file stands is told before what is wrong with the block.
        (index, _) => {
            let request = StoreRequest::FileInfo { user, key: key.clone() };
            Step::Ask(Question::UploadOfNothing { key, index }, request)
        }
    })
}

/// What is asked, of whatever was received.
fn envelope(body: Body) -> Result<(Operation, Kind, Object), Refusal> {
    let fields = match body {
        Body::Object(fields) => fields,
        Body::Other => Object::default(),
    };
    let direction = fields.text("direction");
    if direction.as_deref() == Some("EARTH") {
        return Err(Refusal::Earth);
    }
    if let Some(missing) = ["operation", "direction", "type"].into_iter().find(|name| !fields.contains(name))
    {
        return Err(Refusal::CompulsoryField(missing));
    }
    if direction.as_deref() != Some("REQUEST") {
        return Err(Refusal::Direction);
    }
    let word = |name| fields.text(name).or_else(|| fields.json(name).map(str::to_owned)).unwrap_or_default();
    let operation = word("operation");
    let operation = Operation::from_name(&operation).ok_or(Refusal::OperationUnknown(operation))?;
    let kind = word("type");
    let kind = Kind::from_name(&kind).ok_or(Refusal::TypeUnknown(kind))?;
    Ok((operation, kind, fields))
}

enum KeyField {
    /// Or null, as clients send for what they do not have.
    Missing,
    NotText,
    Bad(String, KeyError),
    Good(Key),
}

fn key_of(fields: &Object) -> KeyField {
    if !fields.has_value("key") {
        return KeyField::Missing;
    }
    match fields.text("key") {
        None => KeyField::NotText,
        Some(text) => text.parse().map_or_else(|error| KeyField::Bad(text, error), KeyField::Good),
    }
}

/// The key of what should be there; under a key that cannot be, nothing is.
fn existing_key(
    fields: &Object,
    purpose: &'static str,
    absent: fn(String) -> Refusal,
) -> Result<Key, Refusal> {
    match key_of(fields) {
        KeyField::Missing => Err(Refusal::KeyMissing(purpose)),
        KeyField::NotText => Err(Refusal::KeyNotText),
        KeyField::Bad(text, _) => Err(absent(text)),
        KeyField::Good(key) => Ok(key),
    }
}

/// Of binary data only the blocks of uploads are wanted.
fn kept(body: &Body) -> u32 {
    let Body::Object(fields) = body else { return 0 };
    let is = |name, word: &str| fields.text(name).is_some_and(|text| text == word);
    if is("operation", Operation::Upload.name()) && is("type", Kind::File.name()) { BLOCK_SIZE } else { 0 }
}

/// Fields of a request that are not part of the data it saves: secrets, and what every reply overwrites anyway.
const NOT_STORED: &[&str] = &["token", "password", "operation", "direction", "type", "status", "status_msg"];
