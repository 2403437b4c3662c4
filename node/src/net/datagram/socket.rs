//! A UDP socket that sends and receives many datagrams with one call, where the system can (GSO and GRO on Linux).
//!
//! Datagrams are never fragmented on their way: what is larger than the path takes is dropped and counted, which is what
//! probes are for. Nothing that happens to a datagram ends anything; who sends is told only that the system takes no
//! more for now. A socket on a loopback address sends to loopback addresses only. There is no state but counters.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// How datagrams are given to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Many with one call, as far as the system can.
    #[default]
    Batched,
    /// One at a time.
    Single,
}

/// Between whom a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The other side.
    pub peer: SocketAddr,
    /// Which of our addresses it knows us by, where that is known; else the system chooses one.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Route {
    fn from(peer: SocketAddr) -> Self {
        Route { peer, local: None }
    }
}

/// See the [module](self).
pub struct DatagramSocket {
    socket: UdpSocket,
    /// Without it datagrams go and come one at a time.
    batches: Option<UdpSocketState>,
    /// The system cuts what is sent into datagrams.
    segments: AtomicBool,
    local: SocketAddr,
    receive_buffer_bytes: usize,
    too_large: AtomicU64,
    not_sent: AtomicU64,
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket").field("local", &self.local).finish_non_exhaustive()
    }
}

impl DatagramSocket {
    /// A socket at this address; with port 0 the system gives one. An IPv6 socket takes IPv6 only. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(local: SocketAddr, mode: Mode) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        // What the system does not grant costs datagrams in a burst.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        let receive_buffer_bytes = socket.recv_buffer_size()?;
        socket.bind(&local.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let batches = match mode {
            Mode::Batched => UdpSocketState::new(UdpSockRef::from(&socket))
                .inspect_err(|error| tracing::debug!(%error, "datagrams go and come one at a time"))
                .ok(),
            Mode::Single => None,
        };
        if batches.is_none() {
            forbid_fragments(&socket);
        }
        Ok(DatagramSocket {
            local: socket.local_addr()?,
            segments: AtomicBool::new(batches.as_ref().is_some_and(|state| state.max_gso_segments() > 1)),
            socket,
            batches,
            receive_buffer_bytes,
            too_large: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
        })
    }

    /// Where it is.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What the system has for datagrams that are not yet received, as it counts: more than they have bytes.
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Whether the system cuts what is sent into datagrams. It may turn out later that it cannot.
    pub fn segments(&self) -> bool {
        self.segments.load(Ordering::Relaxed)
    }

    /// Datagrams that were not sent because they are larger than the path takes.
    pub fn too_large(&self) -> u64 {
        self.too_large.load(Ordering::Relaxed)
    }

    /// Datagrams that were not sent for any other reason.
    pub fn not_sent(&self) -> u64 {
        self.not_sent.load(Ordering::Relaxed)
    }

    /// Waits for datagrams, and fills `into` with those that are there.
    ///
    /// # Errors
    /// What the system says of the socket; what it says of datagrams sent earlier is passed over.
    pub async fn recv(&self, into: &mut Received) -> io::Result<()> {
        loop {
            match self.socket.async_io(Interest::READABLE, || self.recv_now(into)).await {
                Err(error) if is_about_another(&error) => {}
                result => return result,
            }
        }
    }

    /// Fills `into` with the datagrams that are there; with none if there is none.
    ///
    /// # Errors
    /// As [`DatagramSocket::recv`].
    pub fn try_recv(&self, into: &mut Received) -> io::Result<()> {
        // Of a socket that is known not to be ready nothing is asked.
        into.count = 0;
        match self.socket.try_io(Interest::READABLE, || self.recv_now(into)) {
            Err(error) if is_about_another(&error) || error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    fn recv_now(&self, into: &mut Received) -> io::Result<()> {
        into.count = 0;
        if let Some(state) = &self.batches {
            let mut buffers = into.buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
            into.count = state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut into.meta)?;
            return Ok(());
        }
        for (buffer, meta) in into.buffers.iter_mut().zip(&mut into.meta) {
            match recv_from(&self.socket, buffer) {
                Ok((len, addr)) => {
                    *meta = RecvMeta::default();
                    (meta.len, meta.stride, meta.addr) = (len, len, addr);
                    into.count += 1;
                }
                Err(_) if into.count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a run of datagrams of `segment` bytes each, of which the last one may be shorter, and says how many bytes
    /// of it are dealt with: sent, or dropped and counted.
    ///
    /// # Errors
    /// Only [`io::ErrorKind::WouldBlock`], where nothing of it could be sent; see [`DatagramSocket::writable`].
    pub fn try_send(&self, route: impl Into<Route>, bytes: &[u8], segment: usize) -> io::Result<usize> {
        let route = route.into();
        let segment = segment.max(1);
        if self.local.ip().is_loopback() && !route.peer.ip().to_canonical().is_loopback() {
            // Confined to this machine: not even a route that somebody has bent leads out.
            self.not_sent.fetch_add(bytes.len().div_ceil(segment) as u64, Ordering::Relaxed);
            return Ok(bytes.len());
        }
        let mut done = 0;
        while done < bytes.len() {
            let per_call =
                if self.segments() { (CALL_BYTES_MAX / segment).clamp(1, SEGMENTS_MAX) } else { 1 };
            let run = &bytes[done..bytes.len().min(done + per_call * segment)];
            match self.socket.try_io(Interest::WRITABLE, || self.send_run(route, run, segment)) {
                Ok(()) => done += run.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && done > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // Cut by ourselves from now on.
                Err(_) if per_call > 1 && !self.segments() => {}
                Err(error) => {
                    done += run.len();
                    let count = run.len().div_ceil(segment) as u64;
                    let counter =
                        if quinn_udp::is_msg_size_err(&error) { &self.too_large } else { &self.not_sent };
                    counter.fetch_add(count, Ordering::Relaxed);
                }
            }
        }
        Ok(done)
    }

    /// Sends a run of datagrams as [`DatagramSocket::try_send`] does, waiting for the system to take them.
    pub async fn send(&self, route: impl Into<Route>, bytes: &[u8], segment: usize) -> io::Result<()> {
        let (route, mut rest) = (route.into(), bytes);
        while !rest.is_empty() {
            match self.try_send(route, rest, segment) {
                Ok(done) => rest = &rest[done..],
                Err(_) => self.writable().await?,
            }
        }
        Ok(())
    }

    /// Waits until the system may take more.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Gives one run to the system, as many datagrams as one call may have.
    fn send_run(&self, route: Route, run: &[u8], segment: usize) -> io::Result<()> {
        let Some(state) = &self.batches else {
            return SockRef::from(&self.socket).send_to(run, &route.peer.into()).map(drop);
        };
        // The system knows where we are bound to better than a datagram does.
        let src_ip = route.local.filter(|_| self.local.ip().is_unspecified());
        let transmit = |contents, segment_size| Transmit {
            destination: route.peer,
            ecn: None,
            contents,
            segment_size,
            src_ip,
        };
        let sent = state.try_send(UdpSockRef::from(&self.socket), &transmit(run, Some(segment)));
        match sent {
            Err(error) if run.len() > segment && is_about_segments(&error) => {
                // Either the system or the interface does not cut, or a datagram is too large for the path, which some
                // kernels tell in the same words. One alone shows which. The peer may get it twice, which harms nothing.
                let first = run.get(..segment).unwrap_or(run);
                let alone = state.try_send(UdpSockRef::from(&self.socket), &transmit(first, None));
                if alone.is_ok() && self.segments.swap(false, Ordering::Relaxed) {
                    tracing::info!(%error, "datagrams are sent one at a time: they cannot be cut on their way");
                }
                alone.and(Err(error))
            }
            sent => sent,
        }
    }
}

/// Datagrams that were received with one call, in buffers that are used again.
pub struct Received {
    buffers: [Box<[u8]>; CALL_MESSAGES_MAX],
    meta: [RecvMeta; CALL_MESSAGES_MAX],
    count: usize,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("meta", &&self.meta[..self.count]).finish()
    }
}

impl Default for Received {
    fn default() -> Self {
        Received::new()
    }
}

impl Received {
    /// Nothing is received yet.
    pub fn new() -> Self {
        let buffers = std::array::from_fn(|_| vec![0; MESSAGE_BYTES_MAX].into_boxed_slice());
        Received { buffers, meta: [RecvMeta::default(); CALL_MESSAGES_MAX], count: 0 }
    }

    /// Whether the last call brought nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The datagrams, in the order in which they came. An empty one is passed over.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (Route, &mut [u8])> {
        self.buffers.iter_mut().zip(&self.meta).take(self.count).flat_map(|(buffer, meta)| {
            let route = Route { peer: meta.addr, local: meta.dst_ip };
            let len = meta.len.min(buffer.len());
            buffer[..len].chunks_mut(meta.stride.max(1)).map(move |datagram| (route, datagram))
        })
    }
}

/// Keeps the system from cutting datagrams where the path is narrow. Where it cannot be asked, they may arrive cut and
/// put together again, which is slower and otherwise the same.
fn forbid_fragments(socket: &UdpSocket) {
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt::{
            Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
        };
        let _ = match socket.local_addr() {
            Ok(SocketAddr::V6(_)) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE),
            _ => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE),
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// Past tokio, which looks by itself whether a socket is ready.
fn recv_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let (len, addr) = rustix::net::recvfrom(socket, buffer, rustix::net::RecvFlags::empty())
        .map(|(len, _, addr)| (len, addr))?;
    let addr = addr.and_then(|addr| SocketAddr::try_from(addr).ok());
    Ok((len, addr.ok_or(io::ErrorKind::InvalidData)?))
}

/// An error of something that was sent earlier, or to somebody else.
fn is_about_another(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
        || quinn_udp::is_msg_size_err(error)
}

/// What is said where datagrams cannot be cut by the system or the interface.
fn is_about_segments(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::INVAL, rustix::io::Errno::IO].iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// What the system is asked to have for datagrams that are not yet received. A stock one grants a tenth of it.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Datagrams that the system cuts from one call.
const SEGMENTS_MAX: usize = 64;

/// Bytes of one call: the most that a datagram can have.
pub(crate) const CALL_BYTES_MAX: usize = 65_507;

/// Messages of one call, each a datagram or several of equal size put together.
const CALL_MESSAGES_MAX: usize = 16;

/// Bytes of such a message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const MODES: [Mode; 2] = [Mode::Batched, Mode::Single];

    fn loopback(mode: Mode) -> DatagramSocket {
        DatagramSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), mode).unwrap()
    }

    /// Datagrams as they come, until there are so many.
    async fn receive(socket: &DatagramSocket, count: usize) -> Vec<(Route, Vec<u8>)> {
        let (mut batch, mut all) = (Received::new(), Vec::new());
        while all.len() < count {
            socket.recv(&mut batch).await.unwrap();
            all.extend(batch.datagrams().map(|(route, bytes)| (route, bytes.to_vec())));
        }
        all
    }

    fn bytes_of(received: Vec<(Route, Vec<u8>)>) -> Vec<u8> {
        received.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    #[tokio::test]
    async fn a_run_arrives_as_the_datagrams_it_is_made_of() {
        for (from, to) in MODES.into_iter().flat_map(|from| MODES.map(|to| (from, to))) {
            let (sender, receiver) = (loopback(from), loopback(to));
            for (segment, len) in
                [(1399, 12 * 1399 - 8), (10, 10), (10, 7), (16_417, 16_417), (1193, 1193 * 15)]
            {
                let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
                sender.send(receiver.local_addr(), &bytes, segment).await.unwrap();
                let received = receive(&receiver, usize::div_ceil(len, segment)).await;
                assert!(
                    received.iter().all(|(route, _)| route.peer == sender.local_addr()),
                    "{from:?} {to:?}"
                );
                let expected: Vec<_> = bytes.chunks(segment).collect();
                let received: Vec<_> = received.iter().map(|(_, bytes)| bytes.as_slice()).collect();
                assert_eq!(received, expected, "{from:?} {to:?} {segment}");
            }
            assert_eq!((sender.too_large(), sender.not_sent()), (0, 0));
            assert_eq!(sender.segments(), from == Mode::Batched);
        }
    }

    #[tokio::test]
    async fn more_than_one_call_takes_is_sent_with_several() {
        for mode in MODES {
            let (sender, receiver) = (loopback(mode), loopback(Mode::Batched));
            // More datagrams than one call may have, and more bytes.
            for (segment, len) in [(20, 20 * 100 + 1), (16_417, 16_417 * 5)] {
                let bytes: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
                sender.send(receiver.local_addr(), &bytes, segment).await.unwrap();
                let received = receive(&receiver, usize::div_ceil(len, segment)).await;
                assert_eq!(bytes_of(received), bytes, "{mode:?} {segment}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_dropped_and_the_rest_is_sent() {
        for mode in MODES {
            let (sender, receiver) = (loopback(mode), loopback(mode));
            sender.send(receiver.local_addr(), &[1; 65_508], 65_508).await.unwrap();
            assert_eq!((sender.too_large(), sender.not_sent()), (1, 0), "{mode:?}");
            sender.send(receiver.local_addr(), &[2; 100], 50).await.unwrap();
            assert_eq!(bytes_of(receive(&receiver, 2).await), [2; 100]);
            assert_eq!(sender.segments(), mode == Mode::Batched);
        }
    }

    #[tokio::test]
    async fn who_is_not_there_is_no_error() {
        for mode in MODES {
            let (sender, receiver) = (loopback(mode), loopback(mode));
            let gone = loopback(mode).local_addr();
            for _ in 0..3 {
                sender.send(gone, &[1; 100], 50).await.unwrap();
            }
            receiver.send(sender.local_addr(), b"still here", 10).await.unwrap();
            assert_eq!(bytes_of(receive(&sender, 1).await), b"still here");
        }
    }

    #[tokio::test]
    async fn nothing_leaves_a_machine_that_is_confined_to_itself() {
        for mode in MODES {
            let sender = loopback(mode);
            // An address of documentation, should it leave all the same.
            let outside = SocketAddr::from(([192, 0, 2, 1], 9));
            assert_eq!(sender.try_send(outside, &[1; 101], 50).unwrap(), 101);
            assert_eq!(sender.not_sent(), 3);
        }
    }

    #[tokio::test]
    #[ignore = "binds to every address: only within a network namespace of its own"]
    async fn a_socket_at_every_address_answers_from_the_one_that_was_asked() {
        let everywhere = DatagramSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into(), Mode::Batched).unwrap();
        let asker = loopback(Mode::Batched);
        let port = everywhere.local_addr().port();
        let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 5), port));
        asker.send(other, b"asked", 5).await.unwrap();
        let (route, _) = receive(&everywhere, 1).await.pop().unwrap();
        everywhere.send(route, b"told", 4).await.unwrap();
        let (route, _) = receive(&asker, 1).await.pop().unwrap();
        assert_eq!(route.peer, other);
    }

    #[tokio::test]
    #[ignore = "loopback must take no more than 1500 bytes, as it may within a network namespace of its own"]
    async fn what_the_path_does_not_take_is_not_cut_and_others_go_on_in_runs() {
        for mode in MODES {
            let (sender, receiver) = (loopback(mode), loopback(mode));
            sender.send(receiver.local_addr(), &[1; 24_000], 8000).await.unwrap();
            sender.send(receiver.local_addr(), &[1; 8000], 8000).await.unwrap();
            assert_eq!((sender.too_large(), sender.not_sent()), (4, 0), "{mode:?}");
            assert_eq!(sender.segments(), mode == Mode::Batched);
            sender.send(receiver.local_addr(), &[2; 14_000], 1400).await.unwrap();
            assert_eq!(bytes_of(receive(&receiver, 10).await), [2; 14_000]);
        }
    }

    #[tokio::test]
    async fn both_families_and_a_stock_buffer_do() {
        for local in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
            // A machine may have no IPv6.
            let Ok(one) = DatagramSocket::bind(local, Mode::Batched) else { continue };
            let other = DatagramSocket::bind(local, Mode::Single).unwrap();
            assert!(one.receive_buffer_bytes() >= 64 << 10, "{}", one.receive_buffer_bytes());
            other.send(one.local_addr(), &[5; 2000], 1000).await.unwrap();
            assert_eq!(bytes_of(receive(&one, 2).await), [5; 2000]);
        }
    }

    #[tokio::test]
    async fn nothing_there_is_nothing_received() {
        for mode in MODES {
            let socket = loopback(mode);
            let mut batch = Received::new();
            socket.try_recv(&mut batch).unwrap();
            assert!(batch.is_empty());
            assert_eq!(batch.datagrams().count(), 0);
        }
    }
}
