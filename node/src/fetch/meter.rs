//! What a lane carries, counted by its task and read by whoever chooses between lanes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ftx_proto::engine::pull::choice::Carried;

use crate::net::tcp_info::{TcpGlance, TcpWatch};

/// See the [module](self).
#[derive(Debug, Default)]
pub struct LaneMeter {
    bytes: AtomicU64,
    packets: AtomicU64,
    lost: AtomicU64,
    /// The connection of a stream.
    stream: OnceLock<TcpGlance>,
}

impl LaneMeter {
    /// Counts the packets of this connection.
    pub fn watch(&self, watch: &TcpWatch) {
        // A lane has one connection in its life.
        let _ = self.stream.set(watch.glance());
    }

    /// Asks the system what came over the connection. Says whether some of what was sent is known not to have arrived.
    pub fn look(&self) -> bool {
        let Some(watch) = self.stream.get().and_then(TcpGlance::watch) else { return false };
        if let Some(count) = watch.count() {
            self.packets(count.packets, count.out_of_turn);
        }
        watch.has_arrived() == Some(false)
    }

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
