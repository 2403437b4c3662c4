//! Errors as the user meets them: what happened, to what, what to do next, and the exit status that says it to scripts.

use std::fmt;

use ftx_proto::digest::{NodeId, Root};

use crate::store::StoreError;

/// The kinds of failure that the command line promises to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// None of the others.
    Other,
    /// The command line, or what it names, is wrong.
    Usage,
    /// Nodes answered, and none has it.
    NotFound,
    /// Several contents have the name that was asked for.
    Ambiguous,
    /// No node answered at all.
    NoNode,
    /// The network refuses.
    Network,
    /// Everybody who had it gave wrong bytes.
    Integrity,
    /// No room for it.
    DiskFull,
    /// The target is there already.
    Exists,
    /// The nodes that have it do not give it.
    Refused,
    /// Some of it is here, verified; the same command goes on.
    Partial,
    /// It took longer than was allowed.
    Timeout,
    /// The user stopped it.
    Interrupted,
}

impl Code {
    /// The process's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Code::Other => 1,
            Code::Usage => 2,
            Code::NotFound => 3,
            Code::Ambiguous => 4,
            Code::NoNode => 5,
            Code::Network => 6,
            Code::Integrity => 7,
            Code::DiskFull => 8,
            Code::Exists => 9,
            Code::Refused => 10,
            Code::Partial => 11,
            Code::Timeout => 12,
            Code::Interrupted => 130,
        }
    }

    /// The word for it in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Other => "other",
            Code::Usage => "usage",
            Code::NotFound => "not_found",
            Code::Ambiguous => "ambiguous",
            Code::NoNode => "no_node",
            Code::Network => "network",
            Code::Integrity => "integrity",
            Code::DiskFull => "disk_full",
            Code::Exists => "exists",
            Code::Refused => "refused",
            Code::Partial => "partial",
            Code::Timeout => "timeout",
            Code::Interrupted => "interrupted",
        }
    }
}

/// A failure, for the user.
#[derive(Debug, Clone)]
pub struct Error {
    /// Its kind.
    pub code: Code,
    /// What happened, to what, and what to do.
    pub message: String,
    /// With [`Code::Ambiguous`]: what there is to choose from.
    pub contents: Vec<ContentGroup>,
}

/// One of several contents of the same name, with the nodes that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentGroup {
    /// Its root, unless the nodes are still hashing it.
    pub root: Option<Root>,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970 of its last change, on the first of the nodes.
    pub mtime: i64,
    /// Who has it: id and name.
    pub nodes: Vec<(NodeId, String)>,
}

impl Error {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), contents: Vec::new() }
    }

    /// A failure that no other kind describes.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Code::Other, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Exists(_) | StoreError::InTheWay(_) | StoreError::OtherKind { .. } => Code::Exists,
            StoreError::DiskFull { .. } => Code::DiskFull,
            StoreError::NoFolder { .. } | StoreError::Name { .. } => Code::Usage,
            _ => Code::Other,
        };
        Error::new(code, error.to_string())
    }
}
