//! A running node, for the command line and for programs that want one inside them.

mod fetching;
mod putting;
mod search;
mod services;
mod telling;

pub(crate) use fetching::Starter;
pub use fetching::{Fetch, FetchOptions, FetchRequest, FolderRequest};
pub use putting::{PutReport, PutRequest};
pub use search::Search;
pub use services::ServiceAddrs;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::digest::{Instance, NodeId};
use ftx_proto::limits::NODE_NAME_BYTES_MAX;
use ftx_proto::wire::discovery::{Announce, Want};
use ftx_proto::wire::session::Hello;
use ractor::{Actor, ActorRef};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::actors::catalog::{CatalogArguments, CatalogMessage, CatalogStatus};
use crate::actors::discovery::{
    DiscoveryArguments, DiscoveryMessage, DiscoveryStatistics, Found, LinkReport, Lookup,
};
use crate::actors::node::{Links, NodeArguments, NodeMessage, NodeRoot, reason_of};
use crate::actors::server::{ServerArguments, ServerMessage};
use crate::actors::udp_get;
use crate::clock::Clock;
use crate::config::{NodeConfig, Sessions};
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::inbox::Inbox;
use crate::interop::digests::Digests;
use crate::interop::udp_get_server::UdpGetServing;
use crate::net::admission::Admission;
use crate::net::connection::Dialling;
use crate::net::datagram::serving::{Datagrams, DatagramsArguments};
use crate::net::datagram::socket::Mode;
use crate::net::tcp_info::Tries;
use crate::net::tls::Tls;
use services::{Started, no_inbox, tidy_inbox};
use telling::{RunningFetches, Telling};

/// A running node. It stops when it is dropped; [`Node::stop`] says goodbye first.
#[derive(Debug)]
pub struct Node {
    root: ActorRef<NodeMessage>,
    ended: JoinHandle<()>,
    links: Links,
    announce: Announce,
    tls: Tls,
    config: NodeConfig,
    session_addr: Option<SocketAddr>,
    services: ServiceAddrs,
    fetches: RunningFetches,
    /// Answers its owner; ends with it.
    _telling: Option<Telling>,
    data: Handle,
    clock: Clock,
}

impl Node {
    /// Starts a node. Connections do their work on the runtime `data`, everything else on the current one.
    ///
    /// # Errors
    /// A share or the state folder that cannot be used, or no socket that can be opened.
    pub async fn start(config: NodeConfig, data: Handle) -> Result<Self, Error> {
        let inbox = config.inbox.as_ref().map(|inbox| inbox.path.clone());
        make_folders(inbox.as_deref(), &config.shares, &config.state)?;
        tidy_inbox(inbox.as_deref());
        let identity = Identity::load_or_create(&config.state)?;
        let admission = Admission::open(&config.access)?;
        let with_one = config.sessions == Sessions::WithOne;
        let tls = Tls::admitting(&identity, if with_one { admission.only_one() } else { admission })?;
        let listener = match config.sessions {
            Sessions::None => None,
            Sessions::AtPort => Some(listen(config.bind, config.port, true)?),
            Sessions::Anywhere | Sessions::WithOne => Some(listen(config.bind, 0, true)?),
        };
        let session_addr = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let announce = Announce {
            node: identity.node(),
            instance: Instance(rand::random()),
            port: session_addr.map_or(0, |addr| addr.port()),
            name: shortened(&config.name),
        };
        let clock = Clock::start();
        let (links, digests) = (Links::default(), Arc::new(Digests::default()));
        let services = Started::new(&config, &links, &digests, &data, clock)?;
        let service_addrs = services.addrs(&config);
        let hello = Hello { instance: announce.instance, name: announce.name.clone() };
        let fetches = RunningFetches::default();
        let starter = Starter {
            links: links.clone(),
            hello: hello.clone(),
            tls: tls.clone(),
            bind: config.bind,
            seeking: None,
            data: data.clone(),
            fetches: fetches.clone(),
            clock,
        };
        let usage = services.usage.clone();
        let puts = config.inbox.as_ref().zip(usage).map(|(inbox, usage)| Inbox::new(inbox, usage, starter));
        let shares: Vec<PathBuf> = config.shares.iter().cloned().chain(inbox).collect();
        let arguments = NodeArguments {
            catalog: CatalogArguments {
                state_dir: (!shares.is_empty()).then(|| config.state.clone()),
                shares,
                hash_threads: std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN),
                rescan_interval: RESCAN_INTERVAL,
            },
            discovery: DiscoveryArguments {
                me: announce.clone(),
                bind: config.bind,
                port: config.port,
                session_port: if config.sessions == Sessions::WithOne { 0 } else { announce.port },
                lookup: lookup_in(&links),
                admission: tls.admission.clone(),
                gets: config.services.udp_get.then(|| udp_get::hearing(links.udp_get.clone())),
                clock,
            },
            server: listener.map(|listener| ServerArguments {
                listener: Arc::new(listener),
                tls: tls.clone(),
                hello,
                catalog: links.catalog.clone(),
                limits: config.limits,
                max_upload: config.max_upload,
                datagrams: Datagrams::new(DatagramsArguments {
                    bind: config.bind,
                    mode: Mode::default(),
                    max_upload: config.max_upload,
                    server: links.server.clone(),
                    catalog: links.catalog.clone(),
                    data: data.clone(),
                }),
                inbox: puts.map(Arc::new),
                data: data.clone(),
                clock,
            }),
            step: services.step,
            striped: services.striped,
            tcp_put: services.tcp_put,
            udp_get: config.services.udp_get.then(|| UdpGetServing {
                bind: config.bind,
                port: config.port,
                max_upload: config.max_upload,
                catalog: links.catalog.clone(),
                digests,
                data: data.clone(),
                clock,
            }),
            links: links.clone(),
            clock,
        };
        let (root, ended) = NodeRoot::spawn(None, NodeRoot, arguments)
            .await
            .map_err(|error| Error::new(Code::Network, reason_of(error)))?;
        let mut node = Node {
            root,
            ended,
            links,
            announce,
            tls,
            config,
            session_addr,
            services: service_addrs,
            fetches,
            _telling: None,
            data,
            clock,
        };
        // Who only looks around is nobody that anybody wants to know about.
        if node.config.sessions != Sessions::None {
            node._telling = Telling::start(&node);
        }
        Ok(node)
    }

    /// Its identity.
    pub fn id(&self) -> NodeId {
        self.announce.node
    }

    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.announce.name
    }

    /// Which instance of its identity it is.
    pub fn instance(&self) -> Instance {
        self.announce.instance
    }

    /// Where it takes sessions, if it does.
    pub fn session_addr(&self) -> Option<SocketAddr> {
        self.session_addr
    }

    /// Where it serves the older systems.
    pub fn services(&self) -> &ServiceAddrs {
        &self.services
    }

    /// How far the catalog is.
    pub async fn catalog_status(&self) -> Result<CatalogStatus, Error> {
        self.links.catalog.call(CatalogMessage::Status).await.map_err(|error| Error::other(error.to_string()))
    }

    /// Bytes of chunks that it has sent to others since it started.
    pub async fn sent_bytes(&self) -> Result<u64, Error> {
        let asked = self.links.server.call(ServerMessage::Statistics).await;
        asked.map(|statistics| statistics.bytes_sent).map_err(|error| Error::other(error.to_string()))
    }

    /// How it is with discovery on each of the networks.
    pub async fn network_links(&self) -> Result<Vec<LinkReport>, Error> {
        self.links
            .discovery
            .call(DiscoveryMessage::Links)
            .await
            .map_err(|error| Error::other(error.to_string()))
    }

    /// What discovery has counted.
    pub async fn discovery_statistics(&self) -> Result<DiscoveryStatistics, Error> {
        let asked = self.links.discovery.call(DiscoveryMessage::Statistics).await;
        asked.map_err(|error| Error::other(error.to_string()))
    }

    /// Asks the network; offers come in until the receiver is dropped.
    pub fn find(&self, want: Want) -> mpsc::Receiver<Found> {
        self.find_also_at(want, self.config.peers.clone())
    }

    /// Asks the network, and these directly.
    pub fn find_also_at(&self, want: Want, peers: Vec<SocketAddr>) -> mpsc::Receiver<Found> {
        let (found, offers) = mpsc::channel(OFFERS_WAITING_MAX);
        self.links.discovery.cast(DiscoveryMessage::Find { want, peers, found });
        offers
    }

    fn hello(&self) -> Hello {
        Hello { instance: self.announce.instance, name: self.announce.name.clone() }
    }

    /// How to dial a node from this one.
    pub fn dialling(&self, addr: SocketAddr) -> Dialling {
        let hello = self.hello();
        // A loopback or private address to dial from, where the node is confined; the family must match.
        let local = self.config.bind.filter(|bind| bind.is_ipv4() == addr.is_ipv4());
        Dialling { addr, local, tls: self.tls.clone(), hello, tries: Tries::default() }
    }

    /// Waits until the node ends of itself, which it does only if something is beyond repair.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Stops the node, and tells the network.
    pub async fn stop(mut self) {
        let _ = self.root.cast(NodeMessage::Stop);
        // What hangs is killed when this is dropped.
        let _ = timeout(STOP_TIMEOUT, &mut self.ended).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.root.kill();
    }
}

fn lookup_in(links: &Links) -> Lookup {
    let catalog = links.catalog.clone();
    Arc::new(move |want| {
        let catalog = catalog.clone();
        Box::pin(async move {
            catalog.call(|reply| CatalogMessage::Lookup(want, reply)).await.unwrap_or_default()
        })
    })
}

/// Makes the folders that a node needs, and looks whether what it is to share is there. What is wrong with them should be
/// said before anything else happens.
pub(crate) fn make_folders(inbox: Option<&Path>, shares: &[PathBuf], state: &Path) -> Result<(), Error> {
    if let Some(inbox) = inbox {
        std::fs::create_dir_all(inbox).map_err(|error| no_inbox(inbox, &error))?;
    }
    for share in shares {
        if let Err(error) = std::fs::metadata(share) {
            let message = format!("cannot share {}: {error}", share.display());
            return Err(Error::new(Code::Usage, message));
        }
    }
    std::fs::create_dir_all(state).map_err(|error| {
        let state = state.display();
        Error::other(format!("cannot create the state folder {state}: {error}; choose another with --state"))
    })
}

/// Opens the socket for sessions; at another port if that one is taken.
fn listen(bind: Option<IpAddr>, port: u16, elsewhere: bool) -> Result<TcpListener, Error> {
    match open_listener(bind, port) {
        Ok(listener) => Ok(listener),
        Err(error) if elsewhere && port != 0 && error.kind() == std::io::ErrorKind::AddrInUse => {
            let listener = listen(bind, 0, false)?;
            let other = listener.local_addr().map_or(0, |addr| addr.port());
            tracing::warn!("port {port} is in use; sessions are taken at port {other} instead");
            Ok(listener)
        }
        Err(error) => {
            let message = match bind {
                Some(bind) => {
                    let addr = SocketAddr::new(bind, port);
                    format!(
                        "cannot listen at {addr}: {error}; choose an address of this machine, or another port"
                    )
                }
                None => format!("cannot listen at port {port}: {error}"),
            };
            Err(Error::new(Code::Network, message))
        }
    }
}

/// Whether sessions could be taken at this port.
pub(crate) fn check_listening(bind: Option<IpAddr>, port: u16) -> std::io::Result<()> {
    open_listener(bind, port).map(drop)
}

fn open_listener(bind: Option<IpAddr>, port: u16) -> std::io::Result<TcpListener> {
    let open = |addr: IpAddr| -> std::io::Result<TcpListener> {
        let addr = SocketAddr::new(addr, port);
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(bind.is_some())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match bind {
        Some(addr) => open(addr),
        // One socket for both families; a machine without IPv6 has the older one only.
        None => match open(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => open(Ipv4Addr::UNSPECIFIED.into()),
            other => other,
        },
    }
}

fn shortened(name: &str) -> String {
    let mut end = name.len().min(NODE_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// Offers of one query that may wait to be looked at.
const OFFERS_WAITING_MAX: usize = 256;

/// How often shares are looked through for changes.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);

/// How long the node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
const LISTEN_BACKLOG: i32 = 1024;

#[cfg(all(test, target_os = "linux"))]
mod supervision;
#[cfg(test)]
mod tests;
