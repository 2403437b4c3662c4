//! Putting a file into the inbox of another node: finding that node, saying what there is, and serving it until it is there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use ftx_proto::digest::{NodeId, Root};
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::wire::discovery::{OfferedRoot, Want};
use ftx_proto::wire::session::{Message, PutRefusal};
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};

use super::Node;
use super::search::SETTLE;
use crate::actors::catalog::CatalogMessage;
use crate::error::{Code, Error};
use crate::fetch::resolve::is_named;
use crate::interop::meter::Meter;
use crate::limits::{PING_INTERVAL, SESSION_IDLE_MAX};
use crate::net::connection::{self, ConnectError, Connection, Peer};

/// A file that is to be put.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// What it is called in the share of this node.
    pub shared: RelativePath,
    /// What it is to be called there.
    pub name: RelativePath,
    /// Whose inbox: a node's name, the beginning of its id, or where it is.
    pub to: String,
    /// The port, where only a host is named.
    pub port: u16,
    /// How long to look for it.
    pub patience: Duration,
}

/// A file that was put.
#[derive(Debug, Clone)]
pub struct PutReport {
    /// Who has it now.
    pub peer: Peer,
    /// What it is called there.
    pub name: RelativePath,
    /// What it is.
    pub root: Root,
    /// Bytes.
    pub size: u64,
    /// It was there before.
    pub before: bool,
    /// Bytes that were there from an earlier try.
    pub resumed: u64,
    /// From the moment when it was offered.
    pub elapsed: Duration,
}

impl Node {
    /// Puts a file that this node shares ([`Sessions::WithOne`](crate::config::Sessions::WithOne)) into the inbox of another
    /// node.
    ///
    /// # Errors
    /// [`Code::NoNode`], [`Code::NotFound`] or [`Code::Ambiguous`] if the node is not found; [`Code::Refused`],
    /// [`Code::DiskFull`] or [`Code::Exists`] if it does not take the file; [`Code::Partial`] if it goes away.
    pub async fn put(&self, request: &PutRequest, meter: &Meter) -> Result<PutReport, Error> {
        let Place { mut addrs, node } = self.place_of(request).await?;
        // Before all is hashed: whether it can be reached at all, and who it is. From here on nobody else is.
        let Peer { node, addr, .. } = self.reach(&addrs, node).await?.peer;
        self.tls.admission.name_the_only_one(node);
        // Where it was is asked first; the others may keep one waiting.
        addrs.sort_by_key(|other| *other != addr);
        let (root, size) = self.root_of(&request.shared, meter).await?;
        let begun = Instant::now();
        let port = self.announce.port;
        let put = Message::Put { name: request.name.clone(), size, root, port };
        let mut refused = None;
        while refused.is_none() || begun.elapsed() < BUSY_MAX {
            let mut unreached = None;
            let mut asked = false;
            for addr in &addrs {
                let mut session = match self.reach(std::slice::from_ref(addr), Some(node)).await {
                    Ok(session) => session,
                    Err(error) => {
                        unreached = Some(error);
                        continue;
                    }
                };
                asked = true;
                let mut putting = Putting { meter, size, resumed: None };
                match putting.follow(&mut session, &put).await? {
                    Ok((name, before)) => {
                        let resumed = putting.resumed.unwrap_or_default();
                        let peer = session.peer;
                        let elapsed = begun.elapsed();
                        return Ok(PutReport { peer, name, root, size, before, resumed, elapsed });
                    }
                    Err((why, text)) => {
                        let error = refusal(&session.peer, why, &text);
                        // Of several instances of a node one may have an inbox; what was there a moment ago may be about to end.
                        if !matches!(why, PutRefusal::Busy | PutRefusal::NoInbox) {
                            return Err(error);
                        }
                        refused = Some((why, error));
                    }
                }
            }
            if let Some(error) = unreached.filter(|_| !asked) {
                return Err(error);
            }
            if matches!(refused, Some((PutRefusal::NoInbox, _))) {
                break;
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        Err(refused.map_or_else(|| Error::other("no node was asked"), |(_, error)| error))
    }

    /// Where the sessions of the node are that the user means, and who that is where the network was asked.
    async fn place_of(&self, request: &PutRequest) -> Result<Place, Error> {
        let to = request.to.as_str();
        let ip = to.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(addr) = ip.map(|ip| SocketAddr::new(ip, request.port)).or_else(|_| to.parse()) {
            return Ok(Place { addrs: vec![addr], node: None });
        }
        let has_port = to.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let found = if has_port { Found::default() } else { self.look_for(to, request.patience).await };
        let Found { mut nodes, untrusted, answered } = found;
        match nodes.len() {
            0 | 1 => {
                if let Some((node, addrs)) = nodes.pop_first() {
                    return Ok(Place { addrs, node: Some(node) });
                }
            }
            count => {
                let ids: Vec<String> = nodes.keys().map(NodeId::to_string).collect();
                let message = format!(
                    "'{}' is what {count} nodes are called: {}; name one by the beginning of its id",
                    printable(to),
                    ids.join(", ")
                );
                return Err(Error::new(Code::Ambiguous, message));
            }
        }
        if let Some(node) = untrusted {
            let message = format!(
                "{} is not trusted here; `ftx-node trust add {node}` would change that",
                printable(to)
            );
            return Err(Error::new(Code::Refused, message));
        }
        let is_local = matches!(to.rsplit_once(':').map_or(to, |(host, _)| host), "localhost");
        if self.config.bind.is_some_and(|bind| bind.is_loopback()) && !is_local {
            // Whoever is confined to this machine asks nobody else what a name means.
            return Err(nobody(to, answered));
        }
        let host = if has_port { to.to_owned() } else { format!("{to}:{}", request.port) };
        let resolved = timeout(RESOLVE_MAX, tokio::net::lookup_host(host)).await;
        let addrs: Vec<_> = resolved.ok().and_then(Result::ok).into_iter().flatten().collect();
        let local = self.config.bind;
        let usable = |addr: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == addr.is_ipv4());
        let addrs: Vec<_> = addrs.into_iter().filter(usable).collect();
        if !addrs.is_empty() {
            // Should a host be called as the id of a node is, it has to be that node.
            return Ok(Place { addrs, node: to.parse().ok() });
        }
        Err(nobody(to, answered))
    }

    /// Asks the network for nodes of this name, or whose id begins so.
    async fn look_for(&self, to: &str, patience: Duration) -> Found {
        let mut offers = self.find(Want::All);
        let mut until = Instant::now() + patience;
        let mut found = Found::default();
        let exact: Option<NodeId> = to.parse().ok();
        while let Ok(Some(offer)) = timeout_at(until, offers.recv()).await {
            found.answered += 1;
            let from = offer.offer.from;
            // Anybody can call itself by the id of another.
            if !exact.map_or_else(|| is_named(to, from.node, &from.name), |node| node == from.node) {
                continue;
            }
            if !offer.admitted {
                found.untrusted = Some(from.node);
                continue;
            }
            until = until.min(Instant::now() + SETTLE * 2);
            let addrs = found.nodes.entry(from.node).or_default();
            if !addrs.contains(&offer.addr) && addrs.len() < ADDRESSES_MAX {
                // Over IPv4 each packet has more room.
                let at = if offer.addr.is_ipv4() { 0 } else { addrs.len() };
                addrs.insert(at, offer.addr);
            }
        }
        found
    }

    /// A session with the first of these that answers; where it is known who it has to be, with the first that is this node.
    ///
    /// What led here proves nothing: anybody may say of any node that it is where the speaker is.
    async fn reach(&self, addrs: &[SocketAddr], node: Option<NodeId>) -> Result<Connection, Error> {
        let mut failed = Error::other("there is nowhere to connect to");
        for addr in addrs {
            match connection::dial(self.dialling(*addr)).await {
                Ok(session) => match node.filter(|node| *node != session.peer.node) {
                    None => return Ok(session),
                    Some(node) => {
                        failed = another(&session.peer, node);
                        tracing::warn!("{failed}; it gets nothing");
                    }
                },
                Err(error) => failed = unreachable(*addr, &error),
            }
        }
        Err(failed)
    }

    /// The root of a file that this node shares, once it is hashed.
    async fn root_of(&self, name: &RelativePath, meter: &Meter) -> Result<(Root, u64), Error> {
        let appears = Instant::now() + APPEAR_MAX;
        loop {
            let want = Want::Name(name.clone());
            let asked = self.links.catalog.call(|reply| CatalogMessage::Lookup(want, reply)).await;
            let (entries, _) = asked.unwrap_or_default();
            match entries.first().map(|entry| (entry.root, entry.size)) {
                Some((OfferedRoot::Whole(root), size)) => return Ok((root, size)),
                Some((OfferedRoot::Hashing(bytes), size)) => {
                    meter.hash(size, bytes);
                }
                _ if Instant::now() >= appears => {
                    let message = format!("{name}: it cannot be read; `-v` says why");
                    return Err(Error::other(message));
                }
                _ => {}
            }
            tokio::time::sleep(HASHED_POLL).await;
        }
    }
}

/// Where a node may be.
struct Place {
    addrs: Vec<SocketAddr>,
    /// Who has to be there; none: whoever is.
    node: Option<NodeId>,
}

/// Who is called as the user says.
#[derive(Default)]
struct Found {
    nodes: BTreeMap<NodeId, Vec<SocketAddr>>,
    untrusted: Option<NodeId>,
    /// Offers from anybody.
    answered: usize,
}

/// One try to put a file.
struct Putting<'a> {
    meter: &'a Meter,
    size: u64,
    resumed: Option<u64>,
}

/// The name that it has there, and whether it was there before; or why not.
type Answer = Result<(RelativePath, bool), (PutRefusal, String)>;

impl Putting<'_> {
    /// Proposes it, and waits until the other side has it or does not take it.
    async fn follow(&mut self, session: &mut Connection, put: &Message) -> Result<Answer, Error> {
        let Connection { peer, reader, writer, .. } = session;
        let broke = |why: String| {
            let who = shown(peer);
            Error::new(Code::Partial, format!("{who}: {why}; the same command goes on from what is there"))
        };
        writer.write(put, b"").await.map_err(|error| broke(error.to_string()))?;
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = {
                let mut reading = pin!(timeout(SESSION_IDLE_MAX, reader.read()));
                loop {
                    tokio::select! {
                        read = &mut reading => break read,
                        _ = pings.tick() => {
                            let pinged = timeout(PING_INTERVAL, writer.write(&Message::Ping(0), b"")).await;
                            let pinged = pinged.map_err(|_| broke("it takes nothing any more".to_owned()))?;
                            pinged.map_err(|error| broke(error.to_string()))?;
                        }
                    }
                }
            };
            match message {
                Ok(Ok(Some(Message::Putting { bytes }))) => self.reached(bytes),
                Ok(Ok(Some(Message::HavePut { name, before, .. }))) => return Ok(Ok((name, before))),
                Ok(Ok(Some(Message::PutRefused { why, text }))) => return Ok(Err((why, text))),
                Ok(Ok(Some(Message::Goodbye(why)))) => return Err(broke(printable(&why).to_string())),
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Err(broke("it closed the connection".to_owned())),
                Ok(Err(error)) => return Err(broke(error.to_string())),
                Err(_) => return Err(broke(format!("silent for {} s", SESSION_IDLE_MAX.as_secs()))),
            }
        }
    }

    fn reached(&mut self, bytes: u64) {
        // It is the other side that says so.
        let bytes = bytes.min(self.size);
        if self.resumed.is_none() {
            self.resumed = Some(bytes);
            self.meter.begin(self.size, bytes);
        }
        self.meter.reach(bytes);
    }
}

/// The error for a node that is not there, where so many others are.
fn nobody(to: &str, answered: usize) -> Error {
    let code = if answered == 0 { Code::NoNode } else { Code::NotFound };
    Error::new(code, format!("there is no node '{}', and no such host; see `ftx-node peers`", printable(to)))
}

fn shown(peer: &Peer) -> String {
    format!("{} ({}) at {}", printable(&peer.name), peer.node.short(), peer.addr)
}

fn unreachable(addr: SocketAddr, error: &ConnectError) -> Error {
    let code = if error.refused_with().is_some() { Code::Refused } else { Code::Network };
    Error::new(code, format!("no session with {addr}: {error}"))
}

fn another(peer: &Peer, node: NodeId) -> Error {
    Error::new(Code::Network, format!("at {} is node {}, not {}", peer.addr, peer.node.short(), node.short()))
}

fn refusal(peer: &Peer, why: PutRefusal, text: &str) -> Error {
    let code = match why {
        PutRefusal::NoInbox | PutRefusal::NotAllowed | PutRefusal::Busy => Code::Refused,
        PutRefusal::Full => Code::DiskFull,
        PutRefusal::Exists => Code::Exists,
        PutRefusal::Unreachable => Code::Network,
        PutRefusal::Failed => Code::Other,
    };
    Error::new(code, format!("{} does not take it: {}", shown(peer), printable(text)))
}

/// How long a file may take to be found in the share.
const APPEAR_MAX: Duration = Duration::from_secs(20);

/// How often it is looked whether it is hashed.
const HASHED_POLL: Duration = Duration::from_millis(50);

/// How long a node may be busy, mostly with the end of an earlier try.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// The pause before it is asked again.
const BUSY_PAUSE: Duration = Duration::from_millis(300);

/// How long the name of a host may take to be resolved.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// Most addresses of one node that are tried.
const ADDRESSES_MAX: usize = 16;
