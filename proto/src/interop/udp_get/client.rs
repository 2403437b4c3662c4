//! The client's side: what is missing of one file, and when to ask for it again.
//!
//! It owns the bitmap of what is in and the list of servers. It refuses to write, to hash the whole file and to pick
//! interfaces: it says which bytes of the datagram just handed in go where, and when the request is to be broadcast. A
//! crash loses the bitmap, and with it the download.
//!
//! States: *asking* (no server has announced the file), *settling* (one has; another one may still announce a different
//! file of that name), *receiving*, and *over*. Asking → settling with the first announcement; settling → over if another
//! one disagrees, else → receiving when time is up; receiving → over when all is in, when nothing new has come for long,
//! or when the last server has changed its mind. Chunks are taken in while settling too, so that it costs no time.
//!
//! **Whose chunks.** Only those of servers that announced the same file, so that one that answers with another file of
//! that name spoils nothing. A server that lies in its chunks is found out by the hash of the whole file only: that is all
//! the system offers.
//!
//! **When to ask again.** A request makes every server begin again: those that pace their chunks drop the rest of the old
//! burst, the others send the new one after it. So a request goes out only when no chunk has come for longer than the
//! gaps in the burst let expect, and later each time one brings nothing new.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::received::Received;
use super::wire::{CHUNK_DATA_SIZE, CHUNK_HEADER_SIZE, Chunk, DecodeError, Except, encode_get};
use crate::digest::Digest;
use crate::name::RelativePath;
use crate::time::Time;

/// Most servers that one download listens to.
pub const SERVERS_MAX: usize = 256;

/// The shortest silence after which the request is repeated: a busy server or client pauses for so long.
const SILENCE_MIN: Duration = Duration::from_millis(120);

/// The silence that is waited for before anything is known of a burst.
const SILENCE_FIRST: Duration = Duration::from_millis(400);

/// The longest silence, which is what the other clients of this system wait for.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How many times the longest gap in a burst its end is told by.
const GAPS: u32 = 4;

/// Chunks of a server whose announcement was lost are no use: so soon it is asked to begin again, once.
const UNANNOUNCED: Duration = Duration::from_millis(50);

/// What a download may be tuned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConfig {
    /// How long a first announcement is waited for.
    pub answer_max: Duration,
    /// How long after the first announcement a different one still makes the name ambiguous.
    pub settle: Duration,
    /// How long a download goes on without anything new.
    pub silence_max: Duration,
    /// The only file that is wanted, where several have that name.
    pub wanted: Option<Digest>,
    /// The largest file that is taken, in bytes.
    pub size_max: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            answer_max: Duration::from_secs(5),
            settle: Duration::from_millis(150),
            silence_max: Duration::from_secs(30),
            wanted: None,
            size_max: super::wire::FILE_SIZE_MAX,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// A datagram came in.
    Received {
        /// Its sender.
        from: SocketAddr,
        /// What was in it.
        bytes: &'a [u8],
    },
    /// Nothing but that time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the port of servers, on every interface or to the host that is asked alone.
    Ask {
        /// What.
        datagram: Vec<u8>,
    },
    /// A server announced the file.
    Joined {
        /// Which one.
        server: SocketAddr,
        /// What it announced.
        except: Except,
    },
    /// Write a part of the datagram just handed in.
    Write {
        /// The number of the chunk.
        number: u32,
        /// Where it belongs, in bytes.
        offset: u64,
        /// Which bytes of the datagram.
        data: Range<usize>,
    },
    /// All is in: the file has this length, and must have this hash.
    Complete {
        /// Its length in bytes.
        size: u64,
        /// What its SHA-256 was announced to be.
        sha256: Digest,
    },
    /// It cannot be had.
    Failed(Failure),
}

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody announced the file in time.
    #[error("no server answered")]
    NoAnswer,
    /// Servers announced different files of that name.
    #[error("servers have different files of that name")]
    Ambiguous {
        /// Who announced what.
        answers: Vec<(SocketAddr, Except)>,
    },
    /// The file is larger than what is taken.
    #[error("the file of {chunks} KiB is too large")]
    TooLarge {
        /// As many chunks were announced.
        chunks: u32,
    },
    /// All servers have announced another file since.
    #[error("the file was changed while it was sent")]
    Changed,
    /// Nothing new has come for long.
    #[error("nothing new came in time, {missing} of {chunks} KiB are missing")]
    Silence {
        /// Chunks that have not come.
        missing: u32,
        /// Chunks of the file.
        chunks: u32,
    },
}

/// What one server has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerReport {
    /// Chunks that were new.
    pub chunks: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Chunks that had come before.
    pub repeated: u64,
    /// Chunks that were damaged, or that the file does not have.
    pub bad: u64,
    /// Whether it announced the file that is being received.
    pub agrees: bool,
}

/// One download.
#[derive(Debug)]
pub struct ClientEngine {
    config: ClientConfig,
    request: Vec<u8>,
    state: State,
    servers: BTreeMap<SocketAddr, Server>,
    received: Received,
    /// Known once the last chunk is in.
    size: Option<u64>,
    begun: Time,
    /// When something was received that was new, or the first announcement.
    last_new: Time,
    /// When the request is to go out next, if nothing comes.
    ask_at: Time,
    /// How long a silence makes the request go out.
    silence: Duration,
    burst: BurstTiming,
    asked: u32,
    asked_for_unannounced: bool,
    outputs: VecDeque<Output>,
    malformed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Settling { except: Except, until: Time },
    Receiving { except: Except },
    Over,
}

#[derive(Debug)]
struct Server {
    except: Except,
    report: ServerReport,
}

/// The gaps between the chunks that one request brought.
#[derive(Debug, Default)]
struct BurstTiming {
    last: Option<Time>,
    gap_max: Duration,
}

/// A name that cannot be asked for: servers cut it at its first space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name with a space cannot be asked for: servers cut it there")]
pub struct NameHasSpace;

impl ClientEngine {
    /// A download that begins now: the first output is the request.
    pub fn new(now: Time, name: &RelativePath, config: ClientConfig) -> Result<Self, NameHasSpace> {
        let mut engine = ClientEngine {
            config,
            request: encode_get(name).ok_or(NameHasSpace)?,
            state: State::Asking,
            servers: BTreeMap::new(),
            received: Received::default(),
            size: None,
            begun: now,
            last_new: now,
            ask_at: now,
            silence: SILENCE_FIRST,
            burst: BurstTiming::default(),
            asked: 0,
            asked_for_unannounced: false,
            outputs: VecDeque::new(),
            malformed: 0,
        };
        engine.ask(now);
        Ok(engine)
    }

    /// Takes in what happened. Then drain [`ClientEngine::poll`].
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        if self.state == State::Over {
            return;
        }
        if let Input::Received { from, bytes } = input {
            self.datagram(now, from, bytes);
        }
        self.pass_time(now);
    }

    /// The next thing to do, until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before; `None` when it is over.
    pub fn deadline(&self) -> Option<Time> {
        let end = self.give_up_at();
        match self.state {
            State::Asking | State::Receiving { .. } => Some(self.ask_at.min(end)),
            State::Settling { until, .. } if self.received.is_full() => Some(until),
            State::Settling { until, .. } => Some(self.ask_at.min(end).min(until)),
            State::Over => None,
        }
    }

    /// Chunks that are in, and chunks of the file, once it was announced.
    pub fn progress(&self) -> Option<(u32, u32)> {
        let (State::Settling { except, .. } | State::Receiving { except }) = self.state else { return None };
        Some((self.received.count(), except.chunks))
    }

    /// How often the request went out.
    pub fn asked_count(&self) -> u32 {
        self.asked
    }

    /// Datagrams that were neither an announcement nor a chunk.
    pub fn malformed_count(&self) -> u64 {
        self.malformed
    }

    /// What each server has done.
    pub fn servers(&self) -> impl Iterator<Item = (SocketAddr, ServerReport)> + '_ {
        self.servers.iter().map(|(&addr, server)| (addr, server.report))
    }

    fn datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) {
        match Except::decode(bytes) {
            Ok(except) => self.announced(now, from, except),
            Err(_) => match Chunk::decode(bytes) {
                Ok(chunk) => self.chunk(now, from, chunk),
                Err(_) => self.malformed += 1,
            },
        }
    }

    fn announced(&mut self, now: Time, from: SocketAddr, except: Except) {
        if self.servers.len() >= SERVERS_MAX && !self.servers.contains_key(&from) {
            return;
        }
        if self.config.wanted.is_some_and(|wanted| wanted != except.sha256) {
            self.servers.remove(&from);
            return;
        }
        let server = self.servers.entry(from).or_insert(Server { except, report: ServerReport::default() });
        let was_agreeing = server.report.agrees;
        server.except = except;
        match self.state {
            State::Asking => {
                // Less than the file by one chunk, since the last one may have a single byte.
                let size_min = u64::from(except.chunks.saturating_sub(1)) * u64::from(CHUNK_DATA_SIZE);
                if size_min > self.config.size_max {
                    self.end(Output::Failed(Failure::TooLarge { chunks: except.chunks }));
                    return;
                }
                server.report.agrees = true;
                self.received = Received::none(except.chunks);
                self.last_new = now;
                // Where one file alone is wanted there is nothing to disagree about.
                let settle = if self.config.wanted.is_some() { Duration::ZERO } else { self.config.settle };
                self.state = State::Settling { except, until: now + settle };
            }
            State::Settling { except: first, .. } | State::Receiving { except: first } => {
                server.report.agrees = first == except;
            }
            State::Over => return,
        }
        let agrees = server.report.agrees;
        if agrees && !was_agreeing {
            self.outputs.push_back(Output::Joined { server: from, except });
        }
        if agrees {
            self.ask_at = self.ask_at.max(now + self.silence);
        } else if matches!(self.state, State::Receiving { .. })
            && !self.servers.values().any(|server| server.report.agrees)
        {
            self.end(Output::Failed(Failure::Changed));
        }
    }

    fn chunk(&mut self, now: Time, from: SocketAddr, chunk: Chunk<'_>) {
        let (State::Settling { except, .. } | State::Receiving { except }) = self.state else {
            self.unannounced(now);
            return;
        };
        let Some(server) = self.servers.get_mut(&from).filter(|server| server.report.agrees) else {
            return;
        };
        let report = &mut server.report;
        let is_last = chunk.number.checked_add(1) == Some(except.chunks);
        let fits = chunk.number < except.chunks && (is_last || chunk.data.len() == CHUNK_DATA_SIZE as usize);
        if !fits {
            report.bad += 1;
            return;
        }
        if self.received.contains(chunk.number) {
            report.repeated += 1;
            self.heard(now);
            return;
        }
        if chunk.verify() == Err(DecodeError::Hash) {
            report.bad += 1;
            return;
        }
        report.chunks += 1;
        report.bytes += chunk.data.len() as u64;
        self.received.insert(chunk.number);
        let offset = u64::from(chunk.number) * u64::from(CHUNK_DATA_SIZE);
        if is_last {
            self.size = Some(offset + chunk.data.len() as u64);
        }
        let data = CHUNK_HEADER_SIZE..CHUNK_HEADER_SIZE + chunk.data.len();
        self.outputs.push_back(Output::Write { number: chunk.number, offset, data });
        self.last_new = now;
        self.heard(now);
    }

    /// Chunks come of a file that nobody has announced: the announcement was lost.
    fn unannounced(&mut self, now: Time) {
        if !std::mem::replace(&mut self.asked_for_unannounced, true) {
            self.ask_at = self.ask_at.min(now + UNANNOUNCED);
        } else {
            // A server that is not paced sends all of it before it looks at a request: only silence shows its end.
            self.ask_at = self.ask_at.max(now + SILENCE_MIN);
        }
    }

    /// A burst is still going on.
    fn heard(&mut self, now: Time) {
        if let Some(last) = self.burst.last {
            self.burst.gap_max = self.burst.gap_max.max(now.since(last));
            self.silence = (self.burst.gap_max * GAPS).clamp(SILENCE_MIN, SILENCE_MAX);
        }
        self.burst.last = Some(now);
        self.ask_at = now + self.silence;
    }

    fn pass_time(&mut self, now: Time) {
        if let State::Settling { except, until } = self.state
            && now >= until
        {
            if self.servers.values().any(|server| server.except != except) {
                let answers = self.servers.iter().map(|(&addr, server)| (addr, server.except)).collect();
                self.end(Output::Failed(Failure::Ambiguous { answers }));
                return;
            }
            self.state = State::Receiving { except };
        }
        if let State::Receiving { except } = self.state
            && self.received.is_full()
        {
            self.end(Output::Complete { size: self.size.unwrap_or(0), sha256: except.sha256 });
            return;
        }
        if now >= self.give_up_at() {
            let failure = match self.progress() {
                Some((count, chunks)) => Failure::Silence { missing: chunks - count, chunks },
                None => Failure::NoAnswer,
            };
            self.end(Output::Failed(failure));
        } else if now >= self.ask_at && !self.is_only_settling() {
            self.ask(now);
        }
    }

    /// Whether all is in, and only a different announcement is still waited for.
    fn is_only_settling(&self) -> bool {
        matches!(self.state, State::Settling { .. }) && self.received.is_full()
    }

    fn ask(&mut self, now: Time) {
        self.outputs.push_back(Output::Ask { datagram: self.request.clone() });
        self.asked = self.asked.saturating_add(1);
        if self.asked > 1 {
            self.silence = (self.silence * 2).min(SILENCE_MAX);
        }
        self.burst = BurstTiming::default();
        self.ask_at = now + self.silence;
    }

    fn give_up_at(&self) -> Time {
        match self.state {
            State::Asking => self.begun + self.config.answer_max,
            _ => self.last_new + self.config.silence_max,
        }
    }

    fn end(&mut self, output: Output) {
        self.outputs.push_back(output);
        self.state = State::Over;
        // The bitmap of a large file is not small, and nobody asks for it any more.
        self.received = Received::default();
    }
}
