//! What a lane carries, counted by its task and read by whoever chooses between lanes.

use std::sync::atomic::{AtomicU64, Ordering};

use ftx_proto::engine::pull::choice::Carried;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct LaneMeter {
    bytes: AtomicU64,
    packets: AtomicU64,
    lost: AtomicU64,
}

impl LaneMeter {
    /// Bytes of chunks came.
    pub fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many packets came since the beginning, and so many did not, or not in their turn.
    pub fn packets(&self, packets: u64, lost: u64) {
        self.packets.store(packets, Ordering::Relaxed);
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// What was carried so far.
    pub fn carried(&self) -> Carried {
        Carried {
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}
