//! The datagram sockets of discovery: on every interface one that asks and one that hears, and one for this very node.
//!
//! Several nodes of one machine share the port of discovery. A broadcast reaches every socket on a shared port, but a
//! unicast datagram only one of them, whichever the system picks. So nothing that is meant for one node goes to the
//! shared port:
//!
//! | socket | bound to | sends | hears |
//! |---|---|---|---|
//! | asking, one for each interface | its address, any port | broadcasts, queries, answers | answers |
//! | hearing, one for each interface | its broadcast address, or the group | nothing | broadcasts |
//! | own | every address, or the one we are confined to; the number of our sessions' port | to networks that are not ours | queries to us alone |
//!
//! A datagram leaves by the interface whose address its socket is bound to, towards that network's own broadcast
//! address, or the group within the interface's scope. It is sent or dropped, never queued. What fails is logged once
//! for each interface and never ends anything. Nothing here outlives the [`Sockets`], which a crash replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::limits::SEALED_SIZE_MAX;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::interfaces::{Interface, Interfaces};
use crate::faults;
use crate::throttle::Throttle;

/// The link-local multicast group of discovery: `FTX1`, in a range for anybody's use.
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0x4654, 0x5831);

/// Most addresses of interfaces in use; a machine full of virtual interfaces has enough with the first of them.
const LINKS_MAX: usize = 64;

/// Room for a burst of answers, if the system grants it.
const RECEIVE_BUFFER_BYTES: usize = 512 * 1024;

/// Takes each datagram as it comes in, with its sender. Must not block.
pub type Heard = Arc<dyn Fn(SocketAddr, &[u8]) + Send + Sync>;

/// See the [module](self).
pub struct Sockets {
    bind: Option<IpAddr>,
    port: u16,
    heard: Heard,
    interfaces: Interfaces,
    links: BTreeMap<Interface, Link>,
    /// Interfaces that could not be used, and of which that has been told; with the reason.
    failed: BTreeMap<Interface, String>,
    own: Vec<Arc<UdpSocket>>,
    /// Receives from `own`; ends with it.
    _receiving: JoinSet<()>,
    send_failed: u64,
}

/// The sockets of one address of an interface.
struct Link {
    ask: Arc<UdpSocket>,
    /// Where all neighbours hear, if there is such an address.
    everybody: Option<SocketAddr>,
    /// Why the last datagram could not be sent, if so; it has been told.
    failing: Option<String>,
    /// Receives from the sockets; ends with the link.
    _receiving: JoinSet<()>,
}

impl Sockets {
    /// Opens what can be opened now. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If not a single socket can be opened that hears anything; the last error says why.
    pub fn open(bind: Option<IpAddr>, port: u16, own_port: u16, heard: Heard) -> io::Result<Self> {
        let mut receiving = JoinSet::new();
        let mut own = Vec::new();
        let mut last_error = None;
        let interfaces = Interfaces::list(bind)?;
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        for addr in bind.map_or(everywhere.to_vec(), |addr| vec![addr]) {
            match own_socket(addr, own_port, own_port == port, &interfaces) {
                Ok(socket) => own.push(receive(socket, &mut receiving, &heard)),
                Err(error) => {
                    tracing::warn!(%addr, port = own_port, %error, "cannot be asked directly by UDP");
                    last_error = Some(error);
                }
            }
        }
        let mut sockets = Sockets {
            bind,
            port,
            heard,
            interfaces,
            links: BTreeMap::new(),
            failed: BTreeMap::new(),
            own,
            _receiving: receiving,
            send_failed: 0,
        };
        sockets.refresh()?;
        match (sockets.links.is_empty() && sockets.own.is_empty(), last_error) {
            (true, Some(error)) => Err(error),
            _ => Ok(sockets),
        }
    }

    /// Looks which interfaces there are now, and opens and closes sockets accordingly. Whether there is a new one.
    pub fn refresh(&mut self) -> io::Result<bool> {
        self.interfaces = Interfaces::list(self.bind)?;
        // IPv4 first: a machine full of containers has a link-local address on each of their interfaces.
        let (v4, v6): (Vec<_>, Vec<_>) =
            self.interfaces.speakers().cloned().partition(|interface| interface.addr.is_ipv4());
        let wanted: BTreeSet<Interface> = v4.into_iter().chain(v6).take(LINKS_MAX).collect();
        self.links.retain(|interface, _| wanted.contains(interface));
        self.failed.retain(|interface, _| wanted.contains(interface));
        let mut news = false;
        for interface in wanted {
            if self.links.contains_key(&interface) {
                continue;
            }
            match Link::open(&interface, self.port, &self.heard) {
                Ok(link) => {
                    self.failed.remove(&interface);
                    self.links.insert(interface, link);
                    news = true;
                }
                Err(error) => {
                    if self.failed.insert(interface.clone(), error.to_string()).is_none() {
                        let Interface { name, addr, .. } = interface;
                        tracing::warn!(interface = %name, %addr, %error, "no discovery on this interface for now");
                    }
                }
            }
        }
        Ok(news)
    }

    /// Whether an interface could not be used, and is worth another look soon: a new IPv6 address is not at once valid.
    pub fn incomplete(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Each address of an interface that is used or should be, with where its neighbours hear all at once; and why
    /// it cannot be used, if so.
    pub fn links(&self) -> Vec<(Interface, Option<SocketAddr>, Option<String>)> {
        let open = self
            .links
            .iter()
            .map(|(interface, link)| (interface.clone(), link.everybody, link.failing.clone()));
        let failed = self.failed.iter().map(|(interface, why)| (interface.clone(), None, Some(why.clone())));
        open.chain(failed).collect()
    }

    /// Whether this address of an interface is in use.
    pub fn has_link(&self, addr: IpAddr) -> bool {
        self.links.keys().any(|interface| interface.addr == addr)
    }

    /// How many addresses of interfaces are in use.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// How many datagrams could not be sent, counted for each socket.
    pub fn send_failed(&self) -> u64 {
        self.send_failed
    }

    /// Whether `addr` is on one of our networks.
    pub fn on_link(&self, addr: SocketAddr) -> bool {
        self.interfaces.on_link(addr)
    }

    /// Sends to everybody on every network.
    pub fn broadcast(&mut self, bytes: &[u8]) {
        for (interface, link) in &mut self.links {
            if let Some(everybody) = link.everybody {
                let sent = link.send(interface, bytes, everybody);
                self.send_failed += u64::from(!sent);
            }
        }
    }

    /// Sends to one address: from its own network's interface, or from wherever the system's routes lead.
    pub fn send(&mut self, bytes: &[u8], to: SocketAddr) {
        if self.bind.is_some_and(|bind| bind.is_loopback() && !to.ip().is_loopback()) {
            // Confined to this machine: not even a route that somebody has bent leads out.
            self.send_failed += 1;
            return;
        }
        let sent = match self.links.iter_mut().find(|(interface, _)| interface.reaches(to)) {
            Some((interface, link)) => link.send(interface, bytes, to),
            None => self.own.iter().any(|socket| send_now(socket, bytes, to).is_ok()),
        };
        self.send_failed += u64::from(!sent);
    }
}

impl Link {
    fn open(interface: &Interface, port: u16, heard: &Heard) -> io::Result<Self> {
        let mut receiving = JoinSet::new();
        let scope = if interface.is_link_local_v6() { interface.index } else { 0 };
        let ask = socket(interface.addr)?;
        let everybody = match interface.addr {
            IpAddr::V4(_) => {
                ask.set_broadcast(true)?;
                interface.broadcast.map(|addr| SocketAddr::from((addr, port)))
            }
            IpAddr::V6(_) => {
                ask.set_multicast_if_v6(interface.index)?;
                Some(SocketAddrV6::new(GROUP, port, 0, interface.index).into())
            }
        };
        ask.bind(&scoped(interface.addr, 0, scope))?;
        if let Some(everybody) = everybody {
            receive(hearing_socket(interface, everybody)?, &mut receiving, heard);
        }
        let ask = receive(UdpSocket::from_std(ask.into())?, &mut receiving, heard);
        Ok(Link { ask, everybody, failing: None, _receiving: receiving })
    }

    /// Whether it could be sent.
    fn send(&mut self, interface: &Interface, bytes: &[u8], to: SocketAddr) -> bool {
        match send_now(&self.ask, bytes, to) {
            Ok(()) => self.failing = None,
            // The system's queue is full: others send too, and a datagram may get lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                if self.failing.is_none() {
                    tracing::warn!(interface = %interface.name, addr = %interface.addr, %to, %error, "cannot send");
                }
                self.failing = Some(error.to_string());
            }
        }
        self.failing.is_none()
    }
}

/// A socket that hears what is sent to `everybody`, beside others on the same port.
fn hearing_socket(interface: &Interface, everybody: SocketAddr) -> io::Result<UdpSocket> {
    // On Linux a socket that is bound to a broadcast address, or to a group, hears only what is sent there, so that it
    // takes no unicast datagram away from another node. Other systems do not let it.
    let bound_to_it = cfg!(target_os = "linux");
    let hear = socket(everybody.ip())?;
    share_port(&hear)?;
    match everybody {
        SocketAddr::V4(_) if bound_to_it => hear.bind(&everybody.into())?,
        SocketAddr::V4(_) => hear.bind(&scoped(Ipv4Addr::UNSPECIFIED.into(), everybody.port(), 0))?,
        SocketAddr::V6(_) => {
            let any = scoped(Ipv6Addr::UNSPECIFIED.into(), everybody.port(), 0);
            hear.bind(&if bound_to_it { everybody.into() } else { any })?;
            hear.join_multicast_v6(&GROUP, interface.index)?;
        }
    }
    UdpSocket::from_std(hear.into())
}

/// A socket that only this node hears. Its port is shared only if it is the one of discovery: then it must get along
/// with the sockets that hear broadcasts there.
fn own_socket(addr: IpAddr, port: u16, shared: bool, interfaces: &Interfaces) -> io::Result<UdpSocket> {
    let own = socket(addr)?;
    let link_local = interfaces.iter().find(|other| other.addr == addr && other.is_link_local_v6());
    let scope = link_local.map_or(0, |interface| interface.index);
    if shared && port != 0 {
        share_port(&own)?;
    }
    own.bind(&scoped(addr, port, scope))?;
    UdpSocket::from_std(own.into())
}

/// A socket that answers one client of an older system, from the port of discovery if that can be shared.
///
/// It is connected, so that it takes no datagram but that client's from the others on the port.
///
/// # Errors
/// If the client is on none of these networks, or what the system says.
pub(crate) fn answering_socket(
    interfaces: &Interfaces,
    port: u16,
    to: SocketAddr,
) -> io::Result<std::net::UdpSocket> {
    let interface = interfaces.reaching(to).ok_or(io::ErrorKind::NetworkUnreachable)?;
    let scope = if interface.is_link_local_v6() { interface.index } else { 0 };
    let open = |port: u16| {
        let answering = socket(interface.addr)?;
        answering.set_nonblocking(false)?;
        share_port(&answering)?;
        answering.bind(&scoped(interface.addr, port, scope))?;
        answering.connect(&to.into())?;
        io::Result::Ok(answering)
    };
    // Another program may have the port for itself; clients take chunks from any.
    Ok(open(port).or_else(|_| open(0))?.into())
}

fn socket(addr: IpAddr) -> io::Result<Socket> {
    let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // What the system does not grant only costs datagrams in a burst.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    Ok(socket)
}

fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuse_port(true)?;
    Ok(())
}

fn scoped(addr: IpAddr, port: u16, scope: u32) -> SockAddr {
    match addr {
        IpAddr::V4(addr) => SocketAddr::from((addr, port)).into(),
        IpAddr::V6(addr) => SocketAddrV6::new(addr, port, 0, scope).into(),
    }
}

/// Sends at once or not at all. Past tokio, which takes a socket for busy until it has once been told otherwise.
fn send_now(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).send_to(bytes, &to.into()).map(drop)
}

/// Receives from `socket` for as long as the set of tasks lives.
fn receive(socket: UdpSocket, tasks: &mut JoinSet<()>, heard: &Heard) -> Arc<UdpSocket> {
    let (socket, heard) = (Arc::new(socket), heard.clone());
    let receiving = socket.clone();
    tasks.spawn(async move {
        // One byte more than the largest datagram, so that a larger one shows.
        let mut buffer = [0; SEALED_SIZE_MAX + 1];
        let failures = Throttle::new(1, Duration::from_secs(1));
        loop {
            match receiving.recv_from(&mut buffer).await {
                Ok((len, from)) => {
                    // Whatever one datagram does, the next one is heard.
                    let taken_in = catch_unwind(AssertUnwindSafe(|| {
                        faults::point("hearing a datagram");
                        heard(from, &buffer[..len]);
                    }));
                    // Whoever found out how to make it fail can do so as often as it likes.
                    if taken_in.is_err()
                        && let Some(others) = failures.pass()
                    {
                        tracing::error!(%from, others, "taking in a datagram failed");
                    }
                }
                // An unreachable receiver of something we sent, or an interface that just left. If it lasts, the pause
                // keeps it from becoming a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    socket
}
