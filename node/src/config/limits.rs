//! How much others may have of a node at once.

use serde::Deserialize;

use crate::limits::{
    HANDSHAKES_PER_SECOND, SESSIONS_MAX, STEP_SESSIONS_MAX, STRIPED_DOWNLOADS_MAX, TCP_PUTS_MAX,
};

/// Those bounds that a machine with more or fewer means than most may want to change. All others are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Connections of nodes.
    pub sessions: u16,
    /// Connections of nodes that may begin within a second.
    pub handshakes_per_second: u16,
    /// Connections to the STEP server.
    pub step_sessions: u16,
    /// Striped downloads.
    pub striped_downloads: u16,
    /// Files that are pushed by TCP put.
    pub tcp_puts: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sessions: SESSIONS_MAX,
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            step_sessions: STEP_SESSIONS_MAX,
            striped_downloads: STRIPED_DOWNLOADS_MAX,
            tcp_puts: TCP_PUTS_MAX,
        }
    }
}
