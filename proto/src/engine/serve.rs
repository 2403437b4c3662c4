//! The serve engine: who is served next.

use std::collections::VecDeque;
use std::time::Duration;

use crate::geometry::Span;
use crate::limits::RUN_CHUNKS_MAX;
use crate::time::Time;
use crate::wire::session::{Refusal, RequestId};

/// One session that is served. The caller never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Who is behind a session: all sessions of one peer have one share together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// Names a content; opaque to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey(pub u64);

/// What serving may be tuned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeConfig {
    /// Most bytes a second to all peers together; `None` for no limit.
    pub max_upload: Option<u64>,
    /// Most chunks in one grant.
    pub grant_chunks: u32,
    /// Most grants of one session that are not yet sent.
    pub grants_per_session: u32,
    /// Most requests that wait here in all sessions together; those beyond are refused as busy.
    pub requests_max: usize,
    /// When a refused peer may ask again.
    pub retry_after: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            max_upload: None,
            grant_chunks: RUN_CHUNKS_MAX,
            grants_per_session: 4,
            requests_max: 64 * 1024,
            retry_after: Duration::from_millis(500),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A session begins.
    Opened {
        /// Which one.
        session: SessionId,
        /// Who is behind it.
        peer: PeerKey,
    },
    /// A session is over; what was granted to it needs no [`Input::Sent`].
    Closed {
        /// Which one.
        session: SessionId,
    },
    /// A session asks for chunks that are here.
    Asked {
        /// Which one.
        session: SessionId,
        /// Its number for the request.
        request: RequestId,
        /// Of which content.
        content: ContentKey,
        /// Which chunks.
        span: Span,
    },
    /// A session does not want the rest of a request any more.
    Cancelled {
        /// Which one.
        session: SessionId,
        /// Its number for the request.
        request: RequestId,
    },
    /// The oldest grant of the session that was not yet sent has been sent, or could not be: then with 0 bytes.
    Sent {
        /// Which one.
        session: SessionId,
        /// How much it really was.
        bytes: u64,
    },
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Read and send these chunks, in this order among the grants of the session; then [`Input::Sent`].
    Grant {
        /// To which one.
        session: SessionId,
        /// For which of its requests.
        request: RequestId,
        /// Of which content.
        content: ContentKey,
        /// Which chunks: a part of the request.
        span: Span,
    },
    /// Tell the session that the request is not served.
    Refuse {
        /// Which one.
        session: SessionId,
        /// Which request.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The session has more requests than the protocol allows, or one number twice: end it.
    Violation {
        /// Which one.
        session: SessionId,
    },
}

/// Who is served next, for one node.
#[derive(Debug)]
pub struct ServeEngine {
    outputs: VecDeque<Output>,
}

impl ServeEngine {
    /// Nobody is served yet.
    pub fn new(_config: ServeConfig, _seed: u64) -> Self {
        ServeEngine { outputs: VecDeque::new() }
    }

    /// Takes in what happened. Then drain [`ServeEngine::poll`].
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        None
    }
}
