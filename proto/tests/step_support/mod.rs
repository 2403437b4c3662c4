//! A server session with a simple store in memory behind it, and frames as maps of their fields.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::collections::BTreeMap;

use ftx_proto::interop::step::block::BlockPlan;
use ftx_proto::interop::step::message::Object;
use ftx_proto::interop::step::server::{CloseReason, Input, Output, ServerSession};
use ftx_proto::interop::step::store::{Denial, FileState, StoreAnswer, StoreRequest};
use ftx_proto::interop::step::token::Authenticator;
use ftx_proto::interop::step::value::{FileSize, Key, LocalTime, Md5Sum, UserName, WallTime};
use serde_json::{Map, Value};

/// The file of the captures and of most tests.
pub(crate) const PATTERN_LEN: usize = 45_000;

/// Byte `i` is `(7i + i/256) mod 256`.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((7 * i + i / 256) % 256) as u8).collect()
}

pub(crate) fn at(unix_seconds: u64) -> WallTime {
    let local = LocalTime { year: 2026, month: 11, day: 21, hour: 19, minute: 53, second: 48 };
    WallTime { unix_seconds, local }
}

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    files: BTreeMap<(UserName, Key), File>,
    data: BTreeMap<(UserName, Key), Object>,
    /// Answers everything.
    pub(crate) denial: Option<Denial>,
}

#[derive(Debug)]
struct File {
    size: FileSize,
    blocks: BTreeMap<u64, Vec<u8>>,
    md5: Option<Md5Sum>,
}

impl File {
    fn content(&self) -> Vec<u8> {
        self.blocks.values().flatten().copied().collect()
    }

    fn state(&self) -> FileState {
        match self.md5 {
            Some(md5) => FileState::Complete { size: self.size, md5 },
            None => FileState::Uploading { size: self.size },
        }
    }

    fn complete(&mut self) -> Option<Md5Sum> {
        let total = BlockPlan::standard(self.size).total_block();
        if self.blocks.len() as u64 == total {
            self.md5 = Some(Md5Sum::of(&self.content()));
        }
        self.md5
    }
}

impl MemoryStore {
    pub(crate) fn file(&self, user: &str, key: &str) -> Option<Vec<u8>> {
        let name = (user.parse().unwrap(), key.parse().unwrap());
        self.files.get(&name).filter(|file| file.md5.is_some()).map(File::content)
    }

    pub(crate) fn data(&self, user: &str, key: &str) -> Option<String> {
        self.data.get(&(user.parse().unwrap(), key.parse().unwrap())).map(Object::to_json)
    }

    fn state(&self, name: &(UserName, Key)) -> FileState {
        self.files.get(name).map_or(FileState::Absent, File::state)
    }

    pub(crate) fn answer(&mut self, request: StoreRequest) -> StoreAnswer {
        if let Some(denial) = self.denial {
            return StoreAnswer::Denied(denial);
        }
        match request {
            StoreRequest::SaveFile { user, key, size } => match self.state(&(user.clone(), key.clone())) {
                state @ FileState::Complete { .. } => StoreAnswer::File(state),
                _ => {
                    let mut file = File { size, blocks: BTreeMap::new(), md5: None };
                    let md5 = file.complete();
                    self.files.insert((user, key), file);
                    StoreAnswer::UploadBegun { md5 }
                }
            },
            StoreRequest::Upload { user, key, index, block } => match self.files.get_mut(&(user, key)) {
                Some(file) if file.md5.is_none() => {
                    match BlockPlan::standard(file.size).place(index, block.len()) {
                        Ok(place) => {
                            file.blocks.insert(place.index(), block);
                            StoreAnswer::BlockStored { md5: file.complete() }
                        }
                        Err(fault) => StoreAnswer::BlockRefused(fault),
                    }
                }
                file => StoreAnswer::File(file.map_or(FileState::Absent, |file| file.state())),
            },
            StoreRequest::FileInfo { user, key } => StoreAnswer::File(self.state(&(user, key))),
            StoreRequest::ReadBlock { user, key, index } => self.read(&(user, key), index),
            StoreRequest::DeleteFile { user, key } => {
                let was = self.files.remove(&(user, key));
                StoreAnswer::FileDeleted(was.map_or(FileState::Absent, |file| file.state()))
            }
            StoreRequest::ListFiles { user } => {
                let complete =
                    self.files.iter().filter(|((owner, _), file)| *owner == user && file.md5.is_some());
                StoreAnswer::Files(complete.map(|((_, key), _)| key.clone()).collect())
            }
            StoreRequest::SaveData { user, key, object } => {
                if self.data.contains_key(&(user.clone(), key.clone())) {
                    return StoreAnswer::DataExists;
                }
                self.data.insert((user, key), object);
                StoreAnswer::DataSaved
            }
            StoreRequest::GetData { user, key } => {
                self.data.get(&(user, key)).cloned().map_or(StoreAnswer::DataAbsent, StoreAnswer::Data)
            }
            StoreRequest::DeleteData { user, key } => {
                self.data.remove(&(user, key)).map_or(StoreAnswer::DataAbsent, |_| StoreAnswer::DataDeleted)
            }
        }
    }

    fn read(&self, name: &(UserName, Key), index: u64) -> StoreAnswer {
        match self.files.get(name) {
            Some(file) if file.md5.is_some() => match file.blocks.get(&index) {
                Some(block) => StoreAnswer::Block(block.clone()),
                None => {
                    StoreAnswer::BlockRefused(ftx_proto::interop::step::block::BlockFault::IndexBeyondEnd)
                }
            },
            file => StoreAnswer::File(file.map_or(FileState::Absent, File::state)),
        }
    }
}

/// One connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: ServerSession,
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) closed: Option<CloseReason>,
}

impl Connection {
    pub(crate) fn new(authenticator: Authenticator) -> Self {
        Connection {
            session: ServerSession::new(authenticator, [1; 32], at(0)),
            sent: Vec::new(),
            closed: None,
        }
    }

    pub(crate) fn classic() -> Self {
        Self::new(Authenticator::Classic)
    }

    /// What the session sends after these bytes; every password is good that is "secret".
    pub(crate) fn receive(&mut self, store: &mut MemoryStore, bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::new();
        for part in bytes.chunks(64 * 1024) {
            assert!(self.session.wants_bytes() || self.closed.is_some(), "everything was processed before");
            self.session.handle(at(0), Input::Received(part));
            self.drain(store, &mut sent);
        }
        sent
    }

    fn drain(&mut self, store: &mut MemoryStore, sent: &mut Vec<u8>) {
        while let Some(output) = self.session.poll() {
            assert_eq!(self.closed, None, "nothing comes after the end");
            match output {
                Output::Send(bytes) => {
                    sent.extend_from_slice(&bytes);
                    self.sent.push(bytes);
                }
                Output::Store(request) => {
                    assert_eq!(self.session.poll(), None, "nothing comes while it waits");
                    self.session.handle(at(0), Input::StoreDone(store.answer(request)));
                }
                Output::VerifyPassword { password, .. } => {
                    assert_eq!(self.session.poll(), None, "nothing comes while it waits");
                    self.session.handle(at(0), Input::PasswordVerified(password == "secret"));
                }
                Output::Close(reason) => self.closed = Some(reason),
            }
        }
    }

    /// The only reply to a request of this JSON.
    pub(crate) fn ask(&mut self, store: &mut MemoryStore, json: &str) -> Map<String, Value> {
        self.ask_with(store, json, &[]).0
    }

    /// The only reply to a request of this JSON with binary data, with its own.
    pub(crate) fn ask_with(
        &mut self,
        store: &mut MemoryStore,
        json: &str,
        binary: &[u8],
    ) -> (Map<String, Value>, Vec<u8>) {
        let sent = self.receive(store, &frame(json, binary));
        let mut frames = frames(&sent);
        assert_eq!(frames.len(), 1, "one reply to {json}");
        frames.remove(0)
    }
}

pub(crate) fn frame(json: &str, binary: &[u8]) -> Vec<u8> {
    let lengths = [json.len() as u32, binary.len() as u32].map(u32::to_be_bytes);
    [&lengths[0][..], &lengths[1], json.as_bytes(), binary].concat()
}

/// Complete frames and nothing else, cut apart without the decoder under test.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(Map<String, Value>, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = |place: usize| u32::from_be_bytes(bytes[place..place + 4].try_into().unwrap()) as usize;
        let (json_len, bin_len) = (length(0), length(4));
        let (json, binary) = bytes[8..8 + json_len + bin_len].split_at(json_len);
        assert!(json.is_ascii(), "what is sent is ASCII");
        frames.push((serde_json::from_slice(json).unwrap(), binary.to_vec()));
        bytes = &bytes[8 + json_len + bin_len..];
    }
    frames
}

/// A request with a good classic token of the user `alice`, and these fields.
pub(crate) fn request(operation: &str, kind: &str, fields: &str) -> String {
    let token = Authenticator::Classic.issue(&"alice".parse().unwrap(), &at(0));
    let comma = if fields.is_empty() { "" } else { ", " };
    format!(
        r#"{{"operation": "{operation}", "direction": "REQUEST", "type": "{kind}", "token": "{token}"{comma}{fields}}}"#
    )
}
