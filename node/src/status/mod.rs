//! What a running node tells of itself to its owner, through a socket in its state folder.
//!
//! ```text
//! STATE/run/            0700
//!   INSTANCE.sock       0600, one for each process that is a node with this state folder
//! ```
//!
//! Connecting is the whole question, so there is nothing that could be asked wrongly: the node writes a [`NodeStatus`] as one
//! line of JSON and closes. It answers the owner of the process and root, a few at a time, each within a time-out. A
//! process that was killed leaves its socket behind; nobody listens there, so whoever asks passes over it, and the next
//! node that starts removes it.
//!
//! Names and paths in it are printable text. Nothing of it is on disk or survives the process.

mod ask;
mod socket;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use ask::{Asked, ask_all};
pub(crate) use socket::{ANSWER_BYTES_MAX, StatusSocket};

/// A node as it stands. Where a part of it does not answer in time, what that would tell is missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its identity: 64 hex digits.
    pub node: String,
    /// What it calls itself.
    pub name: String,
    /// Which instance of its identity it is: 16 hex digits.
    pub instance: String,
    /// The process.
    pub pid: u32,
    /// Of the program.
    pub version: String,
    /// Its state folder.
    pub state: String,
    /// When it started: seconds since 1970.
    pub started: f64,
    /// Since then.
    pub uptime_seconds: f64,
    /// Port of discovery (UDP).
    pub port: u16,
    /// Where it takes sessions (TCP).
    pub session_addr: Option<SocketAddr>,
    /// The networks that it uses.
    pub addresses: Vec<AddressStatus>,
    /// How many instances of other nodes it has heard of lately.
    pub peers: Option<u64>,
    /// What it shares.
    pub shares: Vec<ShareStatus>,
    /// How far hashing in the background is.
    pub hashing: Option<HashingStatus>,
    /// What it sends.
    pub upload: Option<UploadStatus>,
    /// Who gets something from it, or is connected to get something.
    pub sessions: Vec<SessionStatus>,
    /// What this process is fetching.
    pub fetches: Vec<FetchStatus>,
    /// Where clients of the older systems put files.
    pub inbox: Option<InboxStatus>,
    /// The older systems that it serves, by name, and where.
    pub services: BTreeMap<String, SocketAddr>,
}

/// A network that a node uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The system's name of the interface.
    pub interface: String,
    /// The node's address there.
    pub addr: IpAddr,
    /// How many of its first bits are the network's.
    pub prefix: u8,
    /// Where all hosts of the network hear.
    pub broadcast: Option<Ipv4Addr>,
}

/// A share in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShareStatus {
    /// Where it is.
    pub path: String,
    /// Files in it.
    pub files: u64,
    /// Folders in it.
    pub folders: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Files whose root is known.
    pub hashed_files: u64,
    /// Their bytes.
    pub hashed_bytes: u64,
    /// Files that cannot be read.
    pub unreadable_files: u64,
}

/// How far hashing is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashingStatus {
    /// What the last run knew is still being read.
    pub loading: bool,
    /// The shares are being looked through.
    pub scanning: bool,
    /// Files with a root.
    pub files_done: u64,
    /// Files that wait for one.
    pub files_waiting: u64,
    /// Bytes that are hashed, those of files that are not done included.
    pub bytes_done: u64,
    /// Bytes that wait to be.
    pub bytes_waiting: u64,
    /// How fast it goes just now.
    pub bytes_per_second: f64,
    /// What is being hashed, the largest first, and not more than a few.
    pub now: Vec<HashingFile>,
    /// Entries of the shares that are not offered.
    pub skipped: u64,
    /// Some of those, with the reason.
    pub skipped_examples: Vec<(String, String)>,
}

/// A file that is being hashed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashingFile {
    /// Where it is.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// How many of them are hashed.
    pub done: u64,
}

/// What a node sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus {
    /// How fast it goes just now.
    pub bytes_per_second: f64,
    /// The most it may be.
    pub limit: Option<u64>,
    /// Bytes of chunks since the start, without those to clients of the older systems.
    pub bytes: u64,
    /// Connections that were turned away since there were too many.
    pub turned_away: u64,
    /// Sessions that were closed since their peer broke the protocol.
    pub broke_protocol: u64,
}

/// A peer that has sessions with a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its identity: 64 hex digits.
    pub node: String,
    /// What it calls itself.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// How many connections it has.
    pub connections: usize,
    /// Bytes of chunks that it was given in these.
    pub stream_bytes: u64,
    /// Bytes of chunks that it was given in datagrams.
    pub datagram_bytes: u64,
    /// How long it has wanted nothing.
    pub quiet_seconds: f64,
}

/// A fetch under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FetchStatus {
    /// The content's name.
    pub name: String,
    /// The root that it was asked for by.
    pub root: String,
    /// What it is doing.
    pub phase: String,
    /// Bytes of the content.
    pub size: u64,
    /// Bytes that are verified.
    pub bytes: u64,
    /// How fast it goes just now.
    pub bytes_per_second: f64,
    /// Nodes that take part.
    pub sources: usize,
}

/// The inbox of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InboxStatus {
    /// Where it is.
    pub path: String,
    /// Most bytes that one user may put there.
    pub user_bytes_max: u64,
    /// Most bytes that all may put there.
    pub total_bytes_max: u64,
}
