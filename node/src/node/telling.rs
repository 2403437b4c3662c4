//! Telling the node's owner how it is: the task behind the socket of [`crate::status`].
//!
//! It owns the socket. It asks the actors, all at once and each within [`PART_MAX`]; one that does not answer costs its part
//! of the answer. What they tell is bounded and small. Rates are what changes between two looks, so an answer takes a
//! moment while something is going on. Nothing waits for the task, and its end costs nothing but the answers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftx_proto::digest::Root;
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::wire::discovery::Announce;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Node;
use super::services::ServiceAddrs;
use crate::actors::catalog::{CatalogMessage, CatalogOverview};
use crate::actors::discovery::{DiscoveryMessage, DiscoveryStatistics};
use crate::actors::link::Link;
use crate::actors::node::Links;
use crate::actors::server::{ServedPeer, ServerMessage, ServerStatistics};
use crate::clock::Clock;
use crate::config::{NodeConfig, Sessions};
use crate::fetch::report::{Progress, SourceState};
use crate::net::interfaces::Interfaces;
use crate::status::{
    ANSWER_BYTES_MAX, AddressStatus, FetchStatus, HashingFile, HashingStatus, InboxStatus, NodeStatus,
    SessionStatus, ShareStatus, StatusSocket, UploadStatus,
};

/// The fetches of one process that are under way, for whoever asks.
#[derive(Debug, Clone, Default)]
pub(super) struct RunningFetches(Arc<Mutex<Vec<RunningFetch>>>);

#[derive(Debug, Clone)]
struct RunningFetch {
    name: RelativePath,
    root: Root,
    /// Closed when the fetch has ended.
    progress: watch::Receiver<Progress>,
}

/// The task. It ends when this is dropped, and the socket is gone.
#[derive(Debug)]
pub(super) struct Telling {
    _socket: StatusSocket,
    task: AbortHandle,
}

/// Whom to ask, and what never changes.
struct Teller {
    me: Announce,
    config: NodeConfig,
    session_addr: Option<std::net::SocketAddr>,
    services: ServiceAddrs,
    links: Links,
    fetches: RunningFetches,
    /// Seconds since 1970.
    started: f64,
    clock: Clock,
}

/// What was seen at one moment; two of them give rates.
struct Look {
    at: Instant,
    uptime: Duration,
    catalog: Option<CatalogOverview>,
    server: Option<ServerStatistics>,
    fetches: Vec<(RunningFetch, Progress)>,
}

impl RunningFetches {
    /// One more is under way.
    pub(super) fn add(&self, name: &RelativePath, root: Root, progress: watch::Receiver<Progress>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(RunningFetch::is_running);
        if all.len() < FETCHES_MAX {
            all.push(RunningFetch { name: name.clone(), root, progress });
        }
    }

    fn look(&self) -> Vec<(RunningFetch, Progress)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(RunningFetch::is_running);
        let with_progress = |fetch: &RunningFetch| (fetch.clone(), fetch.progress.borrow().clone());
        all.iter().map(with_progress).collect()
    }
}

impl RunningFetch {
    fn is_running(&self) -> bool {
        self.progress.has_changed().is_ok()
    }
}

impl Telling {
    /// Begins to tell. A node that cannot is none the worse for it.
    pub(super) fn start(node: &Node) -> Option<Self> {
        let (socket, listener) = match StatusSocket::open(&node.config.state, node.announce.instance) {
            Ok(opened) => opened,
            Err(error) if node.config.sessions == Sessions::AtPort => {
                tracing::warn!("`ftx-node status` will not see this node: {error}");
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, "no socket to be asked at");
                return None;
            }
        };
        let teller = Teller {
            me: node.announce.clone(),
            config: node.config.clone(),
            session_addr: node.session_addr,
            services: node.services.clone(),
            links: node.links.clone(),
            fetches: node.fetches.clone(),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            clock: node.clock,
        };
        let task = tokio::spawn(tell(listener, Arc::new(teller))).abort_handle();
        Some(Telling { _socket: socket, task })
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers whoever connects, a few at a time; the others wait in the system's queue.
async fn tell(listener: UnixListener, teller: Arc<Teller>) {
    let permits = Arc::new(Semaphore::new(ANSWERS_MAX));
    let mut answers = JoinSet::new();
    while let Ok(permit) = permits.clone().acquire_owned().await {
        while answers.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let teller = Arc::clone(&teller);
                answers.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = timeout(ANSWER_MAX, answer(stream, &teller)).await.unwrap_or(Ok(())) {
                        tracing::debug!(%error, "a question for the status was not answered");
                    }
                });
            }
            // Descriptors are short, most likely; soon there may be one.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

async fn answer(mut stream: UnixStream, teller: &Teller) -> io::Result<()> {
    // The folder keeps others out; where it does not, as on odd file systems, this does.
    let (peer, owner) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if peer != owner && peer != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut line = serde_json::to_vec(&teller.status().await)?;
    line.push(b'\n');
    if line.len() > ANSWER_BYTES_MAX {
        return Err(io::Error::other("there is too much to tell"));
    }
    stream.write_all(&line).await?;
    stream.shutdown().await
}

/// Asks an actor; one that does not answer at once is passed over.
async fn part<M: ractor::Message, T: Send + 'static>(
    link: &Link<M>,
    question: impl FnOnce(ractor::RpcReplyPort<T>) -> M,
) -> Option<T> {
    timeout(PART_MAX, link.call(question)).await.ok()?.ok()
}

impl Teller {
    async fn status(&self) -> NodeStatus {
        let discovery = part(&self.links.discovery, DiscoveryMessage::Statistics);
        let peers = part(&self.links.server, ServerMessage::Peers);
        let (first, discovery, peers) = tokio::join!(self.look(), discovery, peers);
        if first.is_idle(peers.as_deref()) {
            return self.told(&first, &first, discovery, peers);
        }
        sleep(RATE_WINDOW).await;
        let (second, peers) = tokio::join!(self.look(), part(&self.links.server, ServerMessage::Peers));
        self.told(&first, &second, discovery, peers)
    }

    async fn look(&self) -> Look {
        let uptime = self.clock.now().since_origin();
        let catalog = part(&self.links.catalog, CatalogMessage::Overview);
        let server = part(&self.links.server, ServerMessage::Statistics);
        let (catalog, server) = tokio::join!(catalog, server);
        Look { at: Instant::now(), uptime, catalog, server, fetches: self.fetches.look() }
    }

    fn told(
        &self,
        before: &Look,
        now: &Look,
        discovery: Option<DiscoveryStatistics>,
        peers: Option<Vec<ServedPeer>>,
    ) -> NodeStatus {
        let inbox = self.config.inbox.as_ref().map(|inbox| InboxStatus {
            path: text_of(&inbox.path),
            user_bytes_max: inbox.limits.user_bytes_max,
            total_bytes_max: inbox.limits.total_bytes_max,
        });
        NodeStatus {
            node: self.me.node.to_string(),
            name: printable(&self.me.name).to_string(),
            instance: format!("{:016x}", self.me.instance.0),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: text_of(&self.config.state),
            started: self.started,
            uptime_seconds: before.uptime.as_secs_f64(),
            port: self.config.port,
            session_addr: self.session_addr,
            addresses: addresses(&self.config),
            peers: discovery.map(|statistics| statistics.peers),
            shares: now.catalog.as_ref().map(shares).unwrap_or_default(),
            hashing: now.catalog.as_ref().map(|catalog| hashing(catalog, before, now)),
            upload: now.server.map(|server| UploadStatus {
                bytes_per_second: now.rate(before, |look| look.server.map(|server| server.bytes_sent)),
                limit: self.config.max_upload,
                bytes: server.bytes_sent,
                turned_away: server.turned_away,
                broke_protocol: server.broke_protocol,
            }),
            sessions: peers.into_iter().flatten().map(session).collect(),
            fetches: now.fetches.iter().map(|(fetch, progress)| fetch.told(progress, before, now)).collect(),
            inbox,
            services: self.services.iter().map(|(name, addr)| (name.to_owned(), addr)).collect(),
        }
    }
}

impl Look {
    /// Whether there is nothing that has a rate.
    fn is_idle(&self, peers: Option<&[ServedPeer]>) -> bool {
        let is_hashing = self.catalog.as_ref().is_some_and(|catalog| catalog.status.queue > 0);
        !is_hashing && self.fetches.is_empty() && peers.is_some_and(<[ServedPeer]>::is_empty)
    }

    /// How much more it is of something a second.
    fn rate(&self, before: &Look, amount: impl Fn(&Look) -> Option<u64>) -> f64 {
        let more = match (amount(self), amount(before)) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            _ => 0,
        };
        let seconds = (self.at - before.at).as_secs_f64();
        if seconds > 0.0 { (more as f64 / seconds).round() } else { 0.0 }
    }
}

impl RunningFetch {
    fn told(&self, progress: &Progress, before: &Look, now: &Look) -> FetchStatus {
        let bytes = |look: &Look| {
            let same = look.fetches.iter().find(|(fetch, _)| fetch.progress.same_channel(&self.progress));
            same.map(|(_, progress)| progress.bytes)
        };
        let joined = progress.sources.iter().filter(|source| source.state == SourceState::Joined).count();
        FetchStatus {
            name: printable(self.name.as_str()).to_string(),
            root: self.root.to_string(),
            phase: progress.phase.as_str().to_owned(),
            size: progress.size,
            bytes: progress.bytes,
            bytes_per_second: now.rate(before, bytes),
            sources: joined,
        }
    }
}

fn addresses(config: &NodeConfig) -> Vec<AddressStatus> {
    let interfaces = Interfaces::list(config.bind).unwrap_or_default();
    let told = interfaces.iter().map(|interface| AddressStatus {
        interface: interface.name.clone(),
        addr: interface.addr,
        prefix: interface.prefix,
        broadcast: interface.broadcast,
    });
    told.take(ADDRESSES_MAX).collect()
}

fn shares(catalog: &CatalogOverview) -> Vec<ShareStatus> {
    let told = catalog.shares.iter().map(|share| ShareStatus {
        path: text_of(&share.path),
        files: share.files,
        folders: share.folders,
        bytes: share.bytes,
        hashed_files: share.hashed_files,
        hashed_bytes: share.hashed_bytes,
        unreadable_files: share.unreadable_files,
    });
    told.collect()
}

fn hashing(catalog: &CatalogOverview, before: &Look, now: &Look) -> HashingStatus {
    let sum =
        |of: fn(&crate::actors::catalog::ShareOverview) -> u64| catalog.shares.iter().map(of).sum::<u64>();
    let status = &catalog.status;
    let bytes_done = status.hashed_bytes + catalog.bytes_under_way;
    HashingStatus {
        loading: catalog.is_loading,
        scanning: status.scanning,
        files_done: status.hashed_files,
        files_waiting: status.files.saturating_sub(status.hashed_files + sum(|share| share.unreadable_files)),
        bytes_done,
        bytes_waiting: status.bytes.saturating_sub(bytes_done + sum(|share| share.unreadable_bytes)),
        bytes_per_second: now.rate(before, |look| look.catalog.as_ref().map(|catalog| catalog.bytes_read)),
        now: catalog
            .hashing
            .iter()
            .map(|file| HashingFile { path: text_of(&file.path), size: file.size, done: file.done })
            .collect(),
        skipped: status.skipped,
        skipped_examples: status.skipped_examples.clone(),
    }
}

fn session(peer: ServedPeer) -> SessionStatus {
    SessionStatus {
        node: peer.node.to_string(),
        name: printable(&peer.name).to_string(),
        addr: peer.addr,
        connections: peer.connections,
        stream_bytes: peer.stream_bytes,
        datagram_bytes: peer.datagram_bytes,
        quiet_seconds: peer.quiet.as_secs_f64(),
    }
}

fn text_of(path: &std::path::Path) -> String {
    printable(&path.to_string_lossy()).to_string()
}

/// Most answers under way.
const ANSWERS_MAX: usize = 8;

/// How long one answer may take, with whoever takes it.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// How long one actor may take for its part of an answer.
const PART_MAX: Duration = Duration::from_secs(1);

/// How long is looked at what changes.
const RATE_WINDOW: Duration = Duration::from_millis(400);

/// Until somebody is answered again after the system refused a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Most fetches that are told.
const FETCHES_MAX: usize = 256;

/// Most addresses that are told.
const ADDRESSES_MAX: usize = 256;
