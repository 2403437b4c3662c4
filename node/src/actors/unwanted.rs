//! Connections that one of the two sides does not want, as the log tells of them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::net::connection::ConnectError;
use crate::throttle::Throttle;

/// Tells of at most one in a second, since whoever is not wanted can come as often as it likes.
#[derive(Debug)]
pub struct Unwanted(Throttle);

impl Unwanted {
    /// Tells of one more, and how many were not told since the last one was.
    pub(super) fn tell(&self, addr: SocketAddr, error: &ConnectError) {
        match self.0.pass() {
            None => tracing::debug!(%addr, "no session: {error}"),
            Some(0) => tracing::warn!(%addr, "no session: {error}"),
            Some(others) => tracing::warn!(%addr, others, "no session: {error}"),
        }
    }
}

impl Default for Unwanted {
    fn default() -> Self {
        Unwanted(Throttle::new(1, Duration::from_secs(1)))
    }
}
