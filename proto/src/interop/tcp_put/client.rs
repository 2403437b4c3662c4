//! The client's side of one connection: pushes one file.
//!
//! It owns the order of the sends and their pauses. It refuses to read the file. A crash loses it; what the server then
//! has is the server's to judge.
//!
//! States: *pausing* (before the name line) → *named* (before the size line) → *asked* (waits for `READY`) → *sending* (the
//! caller streams the file) → *sent* (waits for `OK`) → *over*. All but *sending* end as *over* when time is up; the caller
//! watches over its own sends.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LINE_SIZE_MAX, OK, PAUSE, READY};
use crate::time::Time;

/// How long the server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConfig {
    /// From the size to `READY`, and from the last byte to `OK`.
    pub answer_max: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig { answer_max: Duration::from_secs(60) }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// Bytes came in; at least one.
    Received(&'a [u8]),
    /// The server sends nothing more.
    Ended,
    /// All bytes of the file were sent.
    Sent,
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this, alone.
    Send(Vec<u8>),
    /// Send all bytes of the file, while still handing in what comes; then [`Input::Sent`].
    SendFile,
    /// The server has stored it.
    Stored,
    /// It was not stored, as far as is known. Close the connection.
    Failed(Failure),
}

/// Why a put failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server closed instead of `READY`: that is how it says no.
    #[error("the server refused the file")]
    Refused,
    /// The server closed instead of `OK`.
    #[error("the server closed without confirming that it stored the file")]
    NotConfirmed,
    /// The server said something else.
    #[error("the server said something else than READY and OK")]
    Unexpected,
    /// The server took too long.
    #[error("the server did not answer in time")]
    Silent,
}

/// A name that cannot be sent in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name to put must have 1 to {LINE_SIZE_MAX} bytes, and neither a line end nor a NUL")]
pub struct NameError;

/// The client's side of one connection.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    name_line: Vec<u8>,
    size: u64,
    state: State,
    /// Of what the server is to say next, what has come.
    heard: usize,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pausing { until: Time },
    Named { until: Time },
    Asked { until: Time },
    Sending,
    Sent { until: Time },
    Over,
}

impl ClientSession {
    /// A connection that was opened now, for a file of `size` bytes that is to have this name there.
    pub fn new(now: Time, name: &str, size: u64, config: ClientConfig) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > LINE_SIZE_MAX || name.contains(['\n', '\r', '\0']) {
            return Err(NameError);
        }
        Ok(ClientSession {
            config,
            name_line: format!("{name}\n").into_bytes(),
            size,
            state: State::Pausing { until: now + PAUSE },
            heard: 0,
            outputs: VecDeque::new(),
        })
    }

    /// Takes in what happened. Then drain [`ClientSession::poll`].
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            _ if self.state == State::Over => {}
            Input::Received(bytes) => self.received(bytes),
            Input::Ended => self.ended(),
            Input::Sent if self.state == State::Sending => {
                self.state = State::Sent { until: now + self.config.answer_max };
                self.confirm_if_heard();
            }
            Input::Sent | Input::Tick => {}
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
            State::Pausing { until }
            | State::Named { until }
            | State::Asked { until }
            | State::Sent { until } => Some(until),
            State::Sending | State::Over => None,
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match self.state {
                State::Asked { .. } if READY.get(self.heard) == Some(&byte) => {
                    self.heard += 1;
                    if self.heard == READY.len() {
                        self.heard = 0;
                        self.state = State::Sending;
                        self.outputs.push_back(Output::SendFile);
                    }
                }
                State::Sending | State::Sent { .. } if self.may_confirm(byte) => {
                    self.heard += 1;
                    self.confirm_if_heard();
                }
                // Line ends between the words are a habit of some.
                _ if byte.is_ascii_whitespace() => {}
                State::Over => return,
                _ => return self.end(Output::Failed(Failure::Unexpected)),
            }
        }
    }

    /// Whether the byte belongs to an `OK` that can be true: nobody has a file of which something is still to be sent. For
    /// an empty one it may come together with `READY`.
    fn may_confirm(&self, byte: u8) -> bool {
        OK.get(self.heard) == Some(&byte) && (self.size == 0 || self.state != State::Sending)
    }

    /// It counts once all is sent.
    fn confirm_if_heard(&mut self) {
        if matches!(self.state, State::Sent { .. }) && self.heard == OK.len() {
            self.end(Output::Stored);
        }
    }

    fn ended(&mut self) {
        let all_heard = self.state == State::Sending && self.heard == OK.len();
        match self.state {
            // The server has confirmed and closed before the caller could say that all is sent.
            State::Sending if all_heard => {}
            State::Sending | State::Sent { .. } => self.end(Output::Failed(Failure::NotConfirmed)),
            _ => self.end(Output::Failed(Failure::Refused)),
        }
    }

    fn pass_time(&mut self, now: Time) {
        match self.state {
            State::Pausing { until } if now >= until => {
                self.outputs.push_back(Output::Send(std::mem::take(&mut self.name_line)));
                self.state = State::Named { until: now + PAUSE };
            }
            State::Named { until } if now >= until => {
                self.outputs.push_back(Output::Send(format!("{}\n", self.size).into_bytes()));
                self.state = State::Asked { until: now + self.config.answer_max };
            }
            State::Asked { until } | State::Sent { until } if now >= until => {
                self.end(Output::Failed(Failure::Silent));
            }
            _ => {}
        }
    }

    fn end(&mut self, output: Output) {
        self.state = State::Over;
        self.outputs.push_back(output);
    }
}
