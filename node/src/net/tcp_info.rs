//! What the system knows of a TCP connection: whether its network loses packets.
//!
//! The receiving side sees no retransmission, but it sees what came out of turn: behind a packet that was lost, all others
//! of the flight. So each *hole* shows as some packets out of turn, and their share tells a lossy network from a good one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Watches one connection. It keeps the connection open for as long as it lives.
#[derive(Debug, Clone)]
pub struct TcpWatch {
    socket: Arc<OwnedFd>,
}

/// Looks at one connection as long as somebody else keeps it open.
#[derive(Debug, Clone)]
pub struct TcpGlance(Weak<OwnedFd>);

/// Connections that are being made to one peer.
#[derive(Debug, Clone, Default)]
pub struct Tries(Arc<Mutex<Vec<Weak<OwnedFd>>>>);

impl Tries {
    /// One more is connected; it is forgotten when it ends.
    pub fn add(&self, watch: &TcpWatch) {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tries.retain(|socket| socket.strong_count() > 0);
        tries.push(Arc::downgrade(&watch.socket));
    }

    /// This one is made: that all has arrived there says nothing about the next.
    pub fn is_made(&self, watch: &TcpWatch) {
        let made = Arc::downgrade(&watch.socket);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|socket| !socket.ptr_eq(&made));
    }

    /// Whether the peer's system has all that was sent over one of them: then nothing was lost on the way there, and the
    /// peer is only slow.
    pub fn has_arrived(&self) -> bool {
        let tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive = tries.iter().filter_map(Weak::upgrade).map(|socket| TcpWatch { socket });
        alive.any(|watch| watch.has_arrived() == Some(true))
    }
}

/// Packets with data that came over a connection since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpCount {
    /// All of them.
    pub packets: u64,
    /// Those that came out of turn.
    pub out_of_turn: u64,
}

impl TcpWatch {
    /// Watches this connection.
    ///
    /// # Errors
    /// If there are no more file descriptors.
    pub fn new(connection: impl AsFd) -> io::Result<Self> {
        Ok(TcpWatch { socket: Arc::new(connection.as_fd().try_clone_to_owned()?) })
    }

    /// Looks at the same connection, and does not keep it open.
    pub fn glance(&self) -> TcpGlance {
        TcpGlance(Arc::downgrade(&self.socket))
    }

    /// What has come so far; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    pub fn count(&self) -> Option<TcpCount> {
        // Older systems fill less of it; what they leave out stays zero, and nothing is lost there as far as we see.
        self.info().map(|info| TcpCount {
            packets: u64::from(info.tcpi_data_segs_in),
            out_of_turn: u64::from(info.tcpi_rcv_ooopack),
        })
    }

    /// Whether the peer's system has told that it has all that was sent; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    pub fn has_arrived(&self) -> Option<bool> {
        self.info().map(|info| info.tcpi_unacked == 0)
    }

    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no safe crate asks for TCP_INFO")]
    fn info(&self) -> Option<libc::tcp_info> {
        use std::os::fd::AsRawFd;
        // SAFETY: `tcp_info` is made of integers only, for which all bits zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is open, since `self` owns it; the pointers lead to a `tcp_info` and to its length, both
        // alive and ours alone for the time of the call, and the system writes no more than that length.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &mut len,
            )
        };
        (result == 0).then_some(info)
    }

    /// What has come so far; `None` where the system does not tell.
    #[cfg(not(target_os = "linux"))]
    pub fn count(&self) -> Option<TcpCount> {
        None
    }

    /// Whether the peer's system has told that it has all that was sent; `None` where the system does not tell.
    #[cfg(not(target_os = "linux"))]
    pub fn has_arrived(&self) -> Option<bool> {
        None
    }
}

impl TcpGlance {
    /// The connection, if it is still there.
    pub fn watch(&self) -> Option<TcpWatch> {
        self.0.upgrade().map(|socket| TcpWatch { socket })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_that_loses_nothing_shows_packets_and_none_out_of_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let watch = TcpWatch::new(&server).unwrap();
        client.write_all(&[7; 10_000]).unwrap();
        server.read_exact(&mut [0; 10_000]).unwrap();
        if cfg!(target_os = "linux") {
            let count = watch.count().unwrap();
            assert!(count.packets > 0);
            assert_eq!(count.out_of_turn, 0);
        }
    }
    #[test]
    fn a_peer_that_is_slow_is_told_from_one_that_nothing_reaches() {
        let tries = Tries::default();
        assert!(!tries.has_arrived());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let watch = TcpWatch::new(&client).unwrap();
        tries.add(&watch);
        client.write_all(b"hello").unwrap();
        // Nobody has taken the connection, but the system has what came.
        if cfg!(target_os = "linux") {
            while !tries.has_arrived() {
                std::thread::yield_now();
            }
        }
        tries.is_made(&watch);
        assert!(!tries.has_arrived(), "it is not being made any more");
        tries.add(&watch);
        drop(watch);
        assert!(!tries.has_arrived(), "it is forgotten when it ends");
    }
}
