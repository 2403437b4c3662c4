//! What the system knows of a TCP connection: whether its network loses packets.
//!
//! The receiving side sees no retransmission, but it sees what came out of turn: behind a packet that was lost, all others
//! of the flight. So each *hole* shows as some packets out of turn, and their share tells a lossy network from a good one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Watches one connection. It keeps the connection open for as long as it lives.
#[derive(Debug)]
pub struct TcpWatch {
    socket: OwnedFd,
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
        Ok(TcpWatch { socket: connection.as_fd().try_clone_to_owned()? })
    }

    /// What has come so far; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no safe crate asks for TCP_INFO")]
    pub fn count(&self) -> Option<TcpCount> {
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
        // Older systems fill less of it; what they leave out stays zero, and nothing is lost there as far as we see.
        (result == 0).then(|| TcpCount {
            packets: u64::from(info.tcpi_data_segs_in),
            out_of_turn: u64::from(info.tcpi_rcv_ooopack),
        })
    }

    /// What has come so far; `None` where the system does not tell.
    #[cfg(not(target_os = "linux"))]
    pub fn count(&self) -> Option<TcpCount> {
        None
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
}
