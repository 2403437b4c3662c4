//! The client's order of events: ask, open all connections, send the ids, read the stripes, begin again what breaks.
//!
//! It owns what is known of the cut and of each stripe. It refuses to connect, to read and to hash: it says which
//! connection is to be opened and where the bytes of which stripe belong. A crash loses it, and with it the download.
//!
//! States: *asking* (the control request is under way), *opening* (the connections, one after another), *streaming*, and
//! *over*. Streaming → asking when the stripes' port is gone or the stripes do not fit together; that happens a few times
//! at most. Each stripe is *closed*, *connecting*, *waiting* to connect again, *open*, *reading* or *done*.
//!
//! Nobody tells how long the file is, so until the first stripe has ended it is not known where the others belong. They
//! are therefore open, with their ids sent, but not read before: the link is as busy with one of them as with all, and
//! every byte goes straight to its place.

use std::collections::VecDeque;
use std::time::Duration;

use super::reply::{Reply, ReplyError};
use super::{Md5Hash, Stripes, Threads};
use crate::time::Time;

/// How soon a refused connection is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// For how long it is: a server may reply a moment before its port listens.
const RETRY_FOR: Duration = Duration::from_millis(1500);

/// What a download may be tuned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadConfig {
    /// How long the reply may take: a server hashes the whole file before it.
    pub reply_max: Duration,
    /// How often a stripe may break.
    pub breaks_max: u32,
    /// How often all begins again with a new request.
    pub restarts_max: u32,
    /// The largest file that is taken, in bytes.
    pub size_max: u64,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        DownloadConfig {
            reply_max: Duration::from_secs(120),
            breaks_max: 4,
            restarts_max: 3,
            size_max: crate::limits::FILE_SIZE_MAX,
        }
    }
}

/// How the stream of a stripe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripeEnd {
    /// The server closed it.
    Closed,
    /// It broke, or was silent for too long.
    Broken,
    /// It went on beyond the length it may have.
    TooLong,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The control request was answered, or was not.
    Replied(Result<Reply, ReplyError>),
    /// A connection is open.
    Connected {
        /// Of which stripe.
        stripe: u8,
    },
    /// A connection could not be opened.
    ConnectFailed {
        /// Of which stripe.
        stripe: u8,
    },
    /// A stream that was read has ended.
    Ended {
        /// Of which stripe.
        stripe: u8,
        /// How many bytes of the stripe, from its beginning, are in their place now.
        len: u64,
        /// How.
        end: StripeEnd,
    },
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make the control request; then [`Input::Replied`].
    Ask,
    /// Open the connection of a stripe; then [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect {
        /// Which one.
        stripe: u8,
        /// To which port of the server.
        port: u16,
    },
    /// Send one byte, the number of the stripe, on its connection.
    SendId {
        /// Which one.
        stripe: u8,
    },
    /// Read the connection of a stripe to its end; then [`Input::Ended`].
    Read {
        /// Which one.
        stripe: u8,
        /// Where in the file the stripe begins, in bytes.
        at: u64,
        /// How many bytes at its beginning are in their place already.
        skip: u64,
        /// How many bytes it has at most, with those.
        len_max: u64,
    },
    /// Close the connection of a stripe that is complete.
    Close {
        /// Which one.
        stripe: u8,
    },
    /// Close all connections, and report nothing more of them.
    Abandon,
    /// All stripes are in their places: the file has this length, and must have this hash.
    Complete {
        /// Its length in bytes.
        size: u64,
        /// What its MD5 was said to be.
        hash: Md5Hash,
    },
    /// It cannot be had.
    Failed(Failure),
}

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The control request was refused, or its reply made no sense.
    #[error(transparent)]
    Control(#[from] ReplyError),
    /// The server did not reply in time.
    #[error("the server did not answer in time")]
    NoReply,
    /// The port of the stripes cannot be reached, or they broke too often.
    #[error("the stripes of the file broke too often")]
    Stripes,
    /// The stripes do not have lengths that a cut file has.
    #[error("the stripes of the file do not fit together")]
    Inconsistent,
    /// After a new request the server has another file.
    #[error("the file was changed while it was sent")]
    Changed,
    /// The file is larger than what is taken.
    #[error("the file is too large")]
    TooLarge,
}

/// One download.
#[derive(Debug)]
pub struct DownloadEngine {
    config: DownloadConfig,
    threads: Threads,
    state: State,
    stripes: Vec<Stripe>,
    reply: Option<Reply>,
    /// Known once the first stripe has ended.
    part_size: Option<u64>,
    restarts: u32,
    /// Since when connections fail.
    failing_since: Option<Time>,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking { until: Time },
    Opening,
    Streaming,
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Stripe {
    connection: Connection,
    /// Bytes that are in their place.
    len: u64,
    breaks: u32,
    done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Closed,
    Connecting,
    Waiting { until: Time },
    Open,
    Reading,
}

impl DownloadEngine {
    /// A download that begins now: the first output is the control request.
    pub fn new(now: Time, threads: Threads, config: DownloadConfig) -> Self {
        let stripe = Stripe { connection: Connection::Closed, len: 0, breaks: 0, done: false };
        DownloadEngine {
            config,
            threads,
            state: State::Asking { until: now + config.reply_max },
            stripes: vec![stripe; usize::from(threads.count())],
            reply: None,
            part_size: None,
            restarts: 0,
            failing_since: None,
            outputs: VecDeque::from([Output::Ask]),
        }
    }

    /// Takes in what happened. Then drain [`DownloadEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            _ if self.state == State::Over => {}
            Input::Replied(reply) => self.replied(reply),
            Input::Connected { stripe } => self.connected(stripe),
            Input::ConnectFailed { stripe } => self.connect_failed(now, stripe),
            Input::Ended { stripe, len, end } => self.ended(now, stripe, len, end),
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
            State::Asking { until } => Some(until),
            State::Opening | State::Streaming => {
                self.stripes.iter().filter_map(|stripe| stripe.connection.waits_until()).min()
            }
            State::Over => None,
        }
    }

    fn replied(&mut self, reply: Result<Reply, ReplyError>) {
        if !matches!(self.state, State::Asking { .. }) {
            return;
        }
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return self.fail(Failure::Control(error)),
        };
        if self.reply.is_some_and(|before| before.hash != reply.hash) {
            return self.fail(Failure::Changed);
        }
        self.reply = Some(reply);
        self.failing_since = None;
        self.state = State::Opening;
        self.connect(0);
    }

    fn connected(&mut self, id: u8) {
        let Some(stripe) = self.stripe_in(id, Connection::Connecting) else { return };
        stripe.connection = Connection::Open;
        self.failing_since = None;
        match self.state {
            State::Opening if usize::from(id) + 1 < self.stripes.len() => self.connect(id + 1),
            State::Opening => {
                self.state = State::Streaming;
                self.outputs.extend(self.threads.ids().map(|stripe| Output::SendId { stripe }));
                self.read_what_can_be();
            }
            State::Streaming => {
                self.outputs.push_back(Output::SendId { stripe: id });
                self.read_what_can_be();
            }
            State::Asking { .. } | State::Over => {}
        }
    }

    fn connect_failed(&mut self, now: Time, id: u8) {
        let Some(stripe) = self.stripe_in(id, Connection::Connecting) else { return };
        stripe.connection = Connection::Waiting { until: now + RETRY_AFTER };
        let since = *self.failing_since.get_or_insert(now);
        if now.since(since) >= RETRY_FOR {
            self.begin_again(now, Failure::Stripes);
        }
    }

    fn ended(&mut self, now: Time, id: u8, len: u64, end: StripeEnd) {
        let (threads, part_size, breaks_max) = (self.threads, self.part_size, self.config.breaks_max);
        let Some(stripe) = self.stripe_in(id, Connection::Reading) else { return };
        stripe.connection = Connection::Closed;
        stripe.len = stripe.len.max(len);
        let len_min = part_size.map_or(0, |part_size| len_min(id, part_size, threads));
        if end == StripeEnd::TooLong {
            // The only bound of the first stripe is the largest file that is taken.
            return match part_size {
                Some(_) => self.begin_anew(now),
                None => self.fail(Failure::TooLarge),
            };
        }
        if end == StripeEnd::Broken || stripe.len < len_min {
            stripe.breaks += 1;
            if stripe.breaks > breaks_max {
                return self.fail(Failure::Stripes);
            }
            stripe.connection = Connection::Waiting { until: now + RETRY_AFTER };
            return;
        }
        stripe.done = true;
        if id == 0 {
            self.part_size = Some(stripe.len.max(1));
        }
        self.read_what_can_be();
        if self.stripes.iter().all(|stripe| stripe.done) {
            self.complete(now);
        }
    }

    fn complete(&mut self, now: Time) {
        let size = self.stripes.iter().fold(0u64, |sum, stripe| sum.saturating_add(stripe.len));
        let cut = Stripes::new(size, self.threads);
        let fits = self.threads.ids().zip(&self.stripes).all(|(id, stripe)| {
            let range = cut.range(id);
            range.end - range.start == stripe.len
        });
        match self.reply {
            _ if size > self.config.size_max => self.fail(Failure::TooLarge),
            Some(reply) if fits => {
                self.outputs.push_back(Output::Complete { size, hash: reply.hash });
                self.state = State::Over;
            }
            _ => self.begin_anew(now),
        }
    }

    /// Reads every open connection whose bytes have a known place.
    fn read_what_can_be(&mut self) {
        for (id, stripe) in self.threads.ids().zip(&mut self.stripes) {
            if stripe.connection != Connection::Open {
                continue;
            }
            if stripe.done {
                stripe.connection = Connection::Closed;
                self.outputs.push_back(Output::Close { stripe: id });
                continue;
            }
            let place = match self.part_size {
                _ if id == 0 => Some((0, self.config.size_max)),
                Some(part_size) => Some((part_size.saturating_mul(u64::from(id)), part_size)),
                None => None,
            };
            if let Some((at, len_max)) = place {
                stripe.connection = Connection::Reading;
                self.outputs.push_back(Output::Read { stripe: id, at, skip: stripe.len, len_max });
            }
        }
    }

    fn pass_time(&mut self, now: Time) {
        match self.state {
            State::Asking { until } if now >= until => self.fail(Failure::NoReply),
            State::Opening | State::Streaming => {
                for id in self.threads.ids() {
                    let stripe = self.stripes.get(usize::from(id));
                    let due = stripe.and_then(|stripe| stripe.connection.waits_until());
                    if due.is_some_and(|until| now >= until) {
                        self.connect(id);
                    }
                }
            }
            State::Asking { .. } | State::Over => {}
        }
    }

    fn connect(&mut self, id: u8) {
        let (Some(stripe), Some(reply)) = (self.stripes.get_mut(usize::from(id)), self.reply) else { return };
        stripe.connection = Connection::Connecting;
        self.outputs.push_back(Output::Connect { stripe: id, port: reply.port });
    }

    /// The stripes contradict each other: none of them can be trusted.
    fn begin_anew(&mut self, now: Time) {
        self.part_size = None;
        for stripe in &mut self.stripes {
            stripe.len = 0;
            stripe.done = false;
        }
        self.begin_again(now, Failure::Inconsistent);
    }

    /// Asks for new stripes, or fails for this reason if that was done often enough. Keeps what is in its place.
    fn begin_again(&mut self, now: Time, failure: Failure) {
        if self.restarts >= self.config.restarts_max {
            return self.fail(failure);
        }
        self.restarts += 1;
        for stripe in &mut self.stripes {
            stripe.connection = Connection::Closed;
        }
        self.state = State::Asking { until: now + self.config.reply_max };
        self.outputs.extend([Output::Abandon, Output::Ask]);
    }

    fn fail(&mut self, failure: Failure) {
        self.outputs.extend([Output::Abandon, Output::Failed(failure)]);
        self.state = State::Over;
    }

    /// The stripe, if its connection is in this state; what is reported of another one came too late.
    fn stripe_in(&mut self, id: u8, connection: Connection) -> Option<&mut Stripe> {
        self.stripes.get_mut(usize::from(id)).filter(|stripe| stripe.connection == connection)
    }
}

impl Connection {
    fn waits_until(self) -> Option<Time> {
        match self {
            Connection::Waiting { until } => Some(until),
            _ => None,
        }
    }
}

/// The shortest that a stripe can be if the parts are so long: that of the smallest file with such parts.
fn len_min(id: u8, part_size: u64, threads: Threads) -> u64 {
    let size_min = part_size.saturating_sub(1).saturating_mul(u64::from(threads.count()));
    let range = Stripes::new(size_min, threads).range(id);
    range.end - range.start
}
