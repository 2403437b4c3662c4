//! Frames: `u32 BE json_len`, `u32 BE bin_len`, JSON, binary data; the same both ways.
//!
//! The decoder takes the stream in any segments and holds at most one frame's JSON, the binary data that its owner wants
//! to keep, and what was received behind it. Binary data that nobody wants is dropped as it arrives.
//!
//! Python peers put the number of *characters* of the JSON text in `json_len`. So a text that does not parse at
//! `json_len` bytes and has characters beyond ASCII is tried again with `json_len` characters. What is sent is ASCII, where
//! both are the same.

use super::message::{Body, NotJson, ObjectWriter};

/// Bytes of the two lengths.
pub const HEADER_LEN: usize = 8;

/// What a decoder takes in.
#[derive(Debug, Clone, Copy)]
pub struct FrameBounds {
    /// Longest JSON, in bytes or characters.
    pub json_max: u32,
    /// How many bytes of binary data are kept behind this JSON; longer data is dropped as a whole.
    pub keep: fn(&Body) -> u32,
    /// Longest binary data that is dropped.
    pub discard_max: u32,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its JSON.
    pub body: Body,
    /// Its binary data.
    pub binary: Binary,
}

/// The binary data of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binary {
    /// All of it; empty if there was none.
    Kept(Vec<u8>),
    /// So many bytes, which nobody wanted.
    Dropped(u32),
}

/// Bytes that are no frame. Nothing behind them can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The JSON is longer than is taken in.
    #[error("JSON of {0} bytes is more than is taken in")]
    JsonTooLong(u32),
    /// The binary data is longer than is taken in.
    #[error("binary data of {0} bytes is more than is taken in")]
    BinaryTooLong(u32),
    /// The JSON does not parse.
    #[error("the JSON does not parse")]
    NotJson,
}

impl From<NotJson> for FrameError {
    fn from(_: NotJson) -> Self {
        FrameError::NotJson
    }
}

/// Takes frames out of a stream of bytes.
#[derive(Debug)]
pub struct FrameDecoder {
    bounds: FrameBounds,
    state: State,
    /// Received, and from `start` on not yet taken.
    buffer: Vec<u8>,
    start: usize,
}

/// header → JSON (→ JSON by characters) → binary → header; from anywhere → failed.
#[derive(Debug)]
enum State {
    Header,
    Json {
        json_len: u32,
        bin_len: u32,
    },
    /// Of the JSON so many bytes are looked at, which are so many characters.
    Characters {
        json_len: u32,
        bin_len: u32,
        bytes: usize,
        characters: u32,
    },
    Binary {
        body: Body,
        binary: Binary,
        left: u32,
    },
    Failed(FrameError),
}

impl FrameDecoder {
    /// Nothing received yet.
    pub fn new(bounds: FrameBounds) -> Self {
        FrameDecoder { bounds, state: State::Header, buffer: Vec::new(), start: 0 }
    }

    /// Takes in what was received. Then drain [`FrameDecoder::poll`].
    pub fn push(&mut self, bytes: &[u8]) {
        if let State::Failed(_) = self.state {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes received and not yet taken into a frame.
    pub fn buffered(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether the stream is between two frames: nothing of the next one is here.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header) && self.buffered() == 0
    }

    /// The next frame, once it is complete. An error is final.
    pub fn poll(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Header);
            match self.step(state) {
                Ok(Step::Frame(frame)) => return Ok(Some(frame)),
                Ok(Step::Next(next)) => self.state = next,
                Ok(Step::Wait(same)) => {
                    self.state = same;
                    return Ok(None);
                }
                Err(error) => {
                    self.state = State::Failed(error);
                    self.buffer = Vec::new();
                    self.start = 0;
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, state: State) -> Result<Step, FrameError> {
        let received = self.buffer.get(self.start..).unwrap_or_default();
        match state {
            State::Header => {
                let Some((&[a, b, c, d, e, f, g, h], _)) = received.split_first_chunk::<HEADER_LEN>() else {
                    return Ok(Step::Wait(state));
                };
                let (json_len, bin_len) =
                    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                if json_len > self.bounds.json_max {
                    return Err(FrameError::JsonTooLong(json_len));
                }
                self.start += HEADER_LEN;
                Ok(Step::Next(State::Json { json_len, bin_len }))
            }
            State::Json { json_len, bin_len } => {
                let Some(text) = received.get(..json_len as usize) else { return Ok(Step::Wait(state)) };
                match Body::parse(text) {
                    Ok(body) => self.json_done(body, json_len as usize, bin_len),
                    Err(NotJson) if text.is_ascii() => Err(FrameError::NotJson),
                    Err(NotJson) => {
                        Ok(Step::Next(State::Characters { json_len, bin_len, bytes: 0, characters: 0 }))
                    }
                }
            }
            State::Characters { json_len, bin_len, mut bytes, mut characters } => {
                while characters < json_len {
                    let Some(&first) = received.get(bytes) else { break };
                    let len = character_len(first).ok_or(FrameError::NotJson)?;
                    if received.len() < bytes + len {
                        break;
                    }
                    bytes += len;
                    characters += 1;
                }
                if characters < json_len {
                    return Ok(Step::Wait(State::Characters { json_len, bin_len, bytes, characters }));
                }
                let body = Body::parse(received.get(..bytes).unwrap_or_default())?;
                self.json_done(body, bytes, bin_len)
            }
            State::Binary { body, binary, left } => Ok(self.take_binary(body, binary, left)),
            State::Failed(error) => Err(error),
        }
    }

    fn json_done(&mut self, body: Body, bytes: usize, bin_len: u32) -> Result<Step, FrameError> {
        self.start += bytes;
        let binary = if bin_len <= (self.bounds.keep)(&body) {
            Binary::Kept(Vec::with_capacity(bin_len as usize))
        } else if bin_len <= self.bounds.discard_max {
            Binary::Dropped(bin_len)
        } else {
            return Err(FrameError::BinaryTooLong(bin_len));
        };
        Ok(Step::Next(State::Binary { body, binary, left: bin_len }))
    }

    fn take_binary(&mut self, body: Body, mut binary: Binary, left: u32) -> Step {
        let received = self.buffer.get(self.start..).unwrap_or_default();
        let taken = received.get(..left as usize).unwrap_or(received);
        if let Binary::Kept(bytes) = &mut binary {
            bytes.extend_from_slice(taken);
        }
        // No more than `left`, which fits.
        let left = left - taken.len() as u32;
        self.start += taken.len();
        if left == 0 {
            Step::Frame(Frame { body, binary })
        } else {
            Step::Wait(State::Binary { body, binary, left })
        }
    }
}

enum Step {
    Frame(Frame),
    Next(State),
    Wait(State),
}

/// The bytes of a frame, in one piece: some peers read it with a single `recv`.
pub fn encode(json: ObjectWriter, binary: &[u8]) -> Vec<u8> {
    let json = json.finish();
    let mut bytes = Vec::with_capacity(HEADER_LEN + json.len() + binary.len());
    for part in [json.as_bytes(), binary] {
        // Everything that we send is bounded far below what the field can say.
        assert!(part.len() <= u32::MAX as usize, "a frame's parts are bounded");
        bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
    }
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend_from_slice(binary);
    bytes
}

/// Bytes of the UTF-8 character that begins with this byte, if one can.
fn character_len(first: u8) -> Option<usize> {
    match first {
        0x00..=0x7f => Some(1),
        0xc2..=0xdf => Some(2),
        0xe0..=0xef => Some(3),
        0xf0..=0xf4 => Some(4),
        _ => None,
    }
}
