//! Connections that one of the two sides does not want, as the log tells of them.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::net::connection::ConnectError;

/// Tells of at most one in a second, since whoever is not wanted can come as often as it likes.
#[derive(Debug, Default)]
pub struct Unwanted(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When the last one was told.
    last: Option<Instant>,
    /// How many were not since.
    others: u64,
}

impl Unwanted {
    /// Tells of one more, and how many were not told since the last one was.
    pub(super) fn tell(&self, addr: SocketAddr, error: &ConnectError) {
        match self.others_to_tell() {
            None => tracing::debug!(%addr, "no session: {error}"),
            Some(0) => tracing::warn!(%addr, "no session: {error}"),
            Some(others) => tracing::warn!(%addr, others, "no session: {error}"),
        }
    }

    fn others_to_tell(&self) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| last.elapsed() < TOLD_INTERVAL) {
            told.others += 1;
            return None;
        }
        told.last = Some(Instant::now());
        Some(std::mem::take(&mut told.others))
    }
}

/// How often connections are told that are not wanted.
const TOLD_INTERVAL: Duration = Duration::from_secs(1);
