//! The server's side of one connection: takes one file.
//!
//! It owns the two lines until they are complete, and the count of bytes. It refuses to see the bytes themselves, to name
//! the file any other than by its base name, and to answer errors: there is no word for them. A crash loses it; what was
//! stored under no final name yet is the caller's to remove.
//!
//! States: *naming* → *sizing* → *opening* (the caller makes the file) → *taking* → *finishing* (the caller gives it its
//! name) → *confirming* (waits until `OK` cannot merge with `READY`) → *over*. Every state but the last ends as *over* when
//! the client is silent, closes, or the caller fails.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::{LINE_SIZE_MAX, OK, PAUSE, READY};
use crate::limits::FILE_SIZE_MAX;
use crate::name::{NameError, RelativePath};
use crate::time::Time;

/// How long a connection may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// Until both lines are complete, from its beginning.
    pub lines_max: Duration,
    /// Between two pieces of data.
    pub silence_max: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig { lines_max: Duration::from_secs(30), silence_max: Duration::from_secs(60) }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// Bytes came in; at least one.
    Received(&'a [u8]),
    /// The client sends nothing more.
    Ended,
    /// The file is open, and there is room for it.
    Opened,
    /// All is stored under the final name.
    Finished,
    /// The file could not be opened, written or finished.
    Failed,
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done, in this order: an output waits until the one before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make a file for so many bytes, under no final name yet; then [`Input::Opened`] or [`Input::Failed`].
    Open {
        /// A single part.
        name: RelativePath,
        /// In bytes.
        size: u64,
    },
    /// Append a part of the bytes just handed in.
    Data(Range<usize>),
    /// Send this.
    Send(&'static [u8]),
    /// Give the file its final name; then [`Input::Finished`] or [`Input::Failed`].
    Finish,
    /// Close the connection, and remove what has no final name yet.
    Close(Reason),
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// All is stored, and the client knows.
    #[error("the file is stored")]
    Stored,
    /// A line has no end.
    #[error("a line is longer than {LINE_SIZE_MAX} bytes")]
    LineTooLong,
    /// The name cannot be one of a file here.
    #[error("the name cannot be stored: {0}")]
    Name(NameError),
    /// The name is not UTF-8.
    #[error("the name is not UTF-8")]
    NameEncoding,
    /// The size is no number, or is too large.
    #[error("the size makes no sense")]
    Size,
    /// The client closed before all was there.
    #[error("the client closed after {received} of {size} bytes")]
    CutShort {
        /// Bytes that came.
        received: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// The client was silent for too long.
    #[error("the client was silent for too long")]
    Silent,
    /// The caller could not store it.
    #[error("the file could not be stored")]
    NotStored,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct ServerSession {
    config: ServerConfig,
    state: State,
    /// Of the current line, what has arrived.
    line: Vec<u8>,
    size: u64,
    received: u64,
    /// When `READY` was sent, if nothing has arrived since.
    ready_alone: Option<Time>,
    /// When the client has been silent for too long.
    patience: Time,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Naming,
    Sizing { name: RelativePath },
    Opening,
    Taking,
    Finishing,
    Confirming { at: Time },
    Over,
}

impl ServerSession {
    /// A connection that was accepted now.
    pub fn new(now: Time, config: ServerConfig) -> Self {
        ServerSession {
            config,
            state: State::Naming,
            line: Vec::new(),
            size: 0,
            received: 0,
            ready_alone: None,
            patience: now + config.lines_max,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened. Then drain [`ServerSession::poll`]; what an output leads to may be handed in before the
    /// next one is polled, but no further bytes.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            _ if self.state == State::Over => {}
            Input::Received(bytes) => self.received(now, bytes),
            Input::Ended => self.ended(),
            Input::Opened => self.opened(now),
            Input::Finished => self.finished(now),
            Input::Failed => self.close(Reason::NotStored),
            Input::Tick => {}
        }
        self.pass_time(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Naming | State::Sizing { .. } | State::Taking => Some(self.patience),
            State::Confirming { at } => Some(at),
            State::Opening | State::Finishing | State::Over => None,
        }
    }

    /// Bytes of the file that have come.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    fn received(&mut self, now: Time, bytes: &[u8]) {
        let mut from = 0;
        while matches!(self.state, State::Naming | State::Sizing { .. }) {
            let rest = bytes.get(from..).unwrap_or_default();
            let end = rest.iter().position(|&byte| byte == b'\n');
            let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            if self.line.len() + part.len() > LINE_SIZE_MAX {
                return self.close(Reason::LineTooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return };
            from += end + 1;
            let line = std::mem::take(&mut self.line);
            self.line_complete(&line);
        }
        if !matches!(self.state, State::Opening | State::Taking) {
            return;
        }
        let left = self.size - self.received;
        let here = bytes.len().saturating_sub(from).min(usize::try_from(left).unwrap_or(usize::MAX));
        if here > 0 {
            self.received += here as u64;
            self.ready_alone = None;
            self.outputs.push_back(Output::Data(from..from + here));
        }
        self.patience = now + self.config.silence_max;
        self.finish_if_complete();
    }

    fn line_complete(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Naming => match base_name(line) {
                Ok(name) => self.state = State::Sizing { name },
                Err(reason) => self.close(reason),
            },
            State::Sizing { name } => match size_of(line) {
                Some(size) => {
                    self.size = size;
                    self.state = State::Opening;
                    self.outputs.push_back(Output::Open { name, size });
                }
                None => self.close(Reason::Size),
            },
            other => self.state = other,
        }
    }

    fn opened(&mut self, now: Time) {
        if self.state != State::Opening {
            return;
        }
        self.state = State::Taking;
        self.ready_alone = Some(now);
        self.patience = now + self.config.silence_max;
        self.outputs.push_back(Output::Send(READY));
        self.finish_if_complete();
    }

    fn finish_if_complete(&mut self) {
        if self.state == State::Taking && self.received == self.size {
            self.state = State::Finishing;
            self.outputs.push_back(Output::Finish);
        }
    }

    fn finished(&mut self, now: Time) {
        if self.state == State::Finishing {
            self.state = State::Confirming { at: self.ready_alone.map_or(now, |ready| ready + PAUSE) };
        }
    }

    fn ended(&mut self) {
        // A client that has sent all may close its half.
        let all_sent = match self.state {
            State::Finishing | State::Confirming { .. } => true,
            State::Opening => self.received == self.size,
            _ => false,
        };
        if !all_sent {
            self.close(Reason::CutShort { received: self.received, size: self.size });
        }
    }

    fn pass_time(&mut self, now: Time) {
        match self.state {
            State::Confirming { at } if now >= at => {
                self.outputs.push_back(Output::Send(OK));
                self.close(Reason::Stored);
            }
            State::Naming | State::Sizing { .. } | State::Taking if now >= self.patience => {
                self.close(Reason::Silent);
            }
            _ => {}
        }
    }

    fn close(&mut self, reason: Reason) {
        self.state = State::Over;
        self.outputs.push_back(Output::Close(reason));
    }
}

/// The last part of the name that a client gives, whichever separators it uses.
fn base_name(line: &[u8]) -> Result<RelativePath, Reason> {
    let text = std::str::from_utf8(line).map_err(|_| Reason::NameEncoding)?;
    let base = text.rsplit(['/', '\\']).next().unwrap_or(text);
    base.parse().map_err(Reason::Name)
}

/// A decimal number of bytes; white space around it does not matter.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.trim_ascii();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (size <= FILE_SIZE_MAX).then_some(size)
}
