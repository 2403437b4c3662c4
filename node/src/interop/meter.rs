//! How far a transfer is: counted by those who move bytes, looked at now and then by whoever shows it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a transfer is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reaching the other side, and agreeing on what is transferred.
    Connecting,
    /// Moving bytes.
    Transferring,
    /// Comparing sums.
    Verifying,
    /// Finding out what the content is, before it is given to anybody.
    Hashing,
}

/// How far a transfer is, for any number of threads.
#[derive(Debug, Default)]
pub struct Meter {
    phase: AtomicU8,
    size: AtomicU64,
    bytes: AtomicU64,
    resumed: AtomicU64,
}

/// What a [`Meter`] showed at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What the transfer was busy with.
    pub phase: Phase,
    /// Bytes of the whole; 0 until it is known.
    pub size: u64,
    /// Bytes that were over there already, or here.
    pub bytes: u64,
    /// Those of them that an earlier try had moved.
    pub resumed: u64,
}

impl Phase {
    /// The word for it in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Transferring => "transferring",
            Phase::Verifying => "verifying",
            Phase::Hashing => "hashing",
        }
    }
}

impl Meter {
    /// The bytes of a content of `size` bytes begin to move; `resumed` of them need not.
    pub fn begin(&self, size: u64, resumed: u64) {
        self.size.store(size, Ordering::Relaxed);
        self.resumed.store(resumed, Ordering::Relaxed);
        self.bytes.store(resumed, Ordering::Relaxed);
        self.enter(Phase::Transferring);
    }

    /// Of a content of `size` bytes so many are hashed, and none is moved yet.
    pub fn hash(&self, size: u64, bytes: u64) {
        self.enter(Phase::Hashing);
        self.size.store(size, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// So many bytes have been moved in all.
    pub fn reach(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The transfer is busy with something else now.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// What it shows now.
    pub fn read(&self) -> Reading {
        let phases = [Phase::Connecting, Phase::Transferring, Phase::Verifying, Phase::Hashing];
        let phase = phases.into_iter().find(|phase| *phase as u8 == self.phase.load(Ordering::Relaxed));
        let size = self.size.load(Ordering::Relaxed);
        Reading {
            phase: phase.unwrap_or(Phase::Connecting),
            size,
            // The two are not read at the same moment.
            bytes: self.bytes.load(Ordering::Relaxed).min(size),
            resumed: self.resumed.load(Ordering::Relaxed).min(size),
        }
    }
}
