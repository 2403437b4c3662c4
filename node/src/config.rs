//! What a node is started with, however it was said: on the command line, in the environment, in a file, in a program.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::interop::step_store::InboxLimits;

mod limits;
mod listen_at;

pub use limits::Limits;
pub use listen_at::ListenAt;

/// The port of discovery (UDP) and, where it is free, of sessions (TCP).
pub const DEFAULT_PORT: u16 = 10526;

/// What a node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// What it offers: folders, or single files.
    pub shares: Vec<PathBuf>,
    /// Confines it to the interfaces of this address.
    pub bind: Option<IpAddr>,
    /// Port of discovery, the same for all nodes of a network.
    pub port: u16,
    /// Whether it takes part in serving, and where.
    pub sessions: Sessions,
    /// Nodes that are asked directly, where broadcast does not reach.
    pub peers: Vec<SocketAddr>,
    /// Where its identity and its hashes are.
    pub state: PathBuf,
    /// What it calls itself.
    pub name: String,
    /// Bytes per second that it sends at most.
    pub max_upload: Option<u64>,
    /// Where nodes and clients of the older systems may put files; none: nowhere. What is finished there is shared.
    pub inbox: Option<InboxConfig>,
    /// The older systems that it serves.
    pub services: Services,
    /// How much others may have of it at once.
    pub limits: Limits,
    /// Whom it talks to.
    pub access: Access,
}

/// Whom a node talks to; everybody, where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The nodes in this file only, see [`crate::trust`].
    pub trust: Option<PathBuf>,
    /// Nodes only that know the secret in this file, see [`crate::net::group`].
    pub secret_file: Option<PathBuf>,
}

impl Access {
    /// Whether not everybody may talk to the node.
    pub fn is_closed(&self) -> bool {
        self.trust.is_some() || self.secret_file.is_some()
    }
}

/// Which of the older systems a node serves, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// STEP.
    pub step: Option<StepConfig>,
    /// Striped downloads; any port if none is named.
    pub striped: Option<ListenAt>,
    /// Files that are pushed by TCP put; port 5001 if none is named.
    pub tcp_put: Option<ListenAt>,
    /// udp-get, at the port of discovery.
    pub udp_get: bool,
}

/// Where clients of the older systems may put files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxConfig {
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// How much is taken.
    pub limits: InboxLimits,
    /// From which nodes; this is not about the older systems.
    pub from: InboxFrom,
}

/// From which nodes files are taken into the inbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InboxFrom {
    /// From those that are trusted or know the group's secret; where there is neither, from nobody.
    #[default]
    Trusted,
    /// From every node.
    Anyone,
}

/// How a node speaks STEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepConfig {
    /// Where it listens; port 1379 if none is named.
    pub at: ListenAt,
    /// Who may log in.
    pub auth: StepAuth,
}

/// Who may log in to STEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepAuth {
    /// Everybody under any name, as in the originals.
    Classic,
    /// The users in this file, see [`crate::interop::step_users`].
    File(PathBuf),
}

/// Whether and where a node takes sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// At the port of discovery; where another program has that, at any other.
    AtPort,
    /// At any port: for a node that lives for one fetch.
    Anywhere,
    /// At any port, with one other node, which is told where; discovery tells nobody: for a node that lives to give something
    /// to that one.
    WithOne,
    /// Not at all: for a node that only looks around.
    None,
}
