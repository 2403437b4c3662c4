//! Connections that one of the two sides does not want, as the log tells of them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::net::connection::ConnectError;
use crate::throttle::Throttle;

/// Tells of only so many, since whoever is not wanted can come as often as it likes.
#[derive(Debug)]
pub struct Unwanted {
    refused: Throttle,
    violations: Throttle,
}

impl Unwanted {
    /// Tells that a session was closed since its peer broke the protocol.
    pub(super) fn tell_of_violation(&self, peer: &str, violation: &str) {
        match self.violations.pass() {
            None => tracing::debug!(peer, %violation, "session closed"),
            Some(0) => tracing::warn!(peer, %violation, "session closed"),
            Some(others) => tracing::warn!(peer, %violation, others, "session closed"),
        }
    }

    /// Tells of one more, and how many were not told since the last one was.
    pub(super) fn tell(&self, addr: SocketAddr, error: &ConnectError) {
        match self.refused.pass() {
            None => tracing::debug!(%addr, "no session: {error}"),
            Some(0) => tracing::warn!(%addr, "no session: {error}"),
            Some(others) => tracing::warn!(%addr, others, "no session: {error}"),
        }
    }
}

impl Default for Unwanted {
    fn default() -> Self {
        Unwanted {
            refused: Throttle::new(1, Duration::from_secs(1)),
            // Each is a fault in some program; the first ones have to be seen one by one.
            violations: Throttle::new(20, Duration::from_secs(60)),
        }
    }
}
