//! Fetches, as whoever holds a node starts and follows them: of a file, of a folder's manifest, of its files.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::chunk_set::{ChunkMask, PieceSet};
use ftx_proto::digest::{NodeId, Root};
use ftx_proto::engine::fetch::{FetchConfig, FetchEngine};
use ftx_proto::engine::pull::choice::LaneMode;
use ftx_proto::geometry::{Geometry, PieceIndex};
use ftx_proto::limits::MANIFEST_BYTES_MAX;
use ftx_proto::manifest::{Manifest, data_root};
use ftx_proto::merkle::PieceLayer;
use ftx_proto::wire::discovery::{OfferedManifest, Want};
use ftx_proto::wire::session::Hello;
use ractor::ActorRef;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::telling::RunningFetches;
use super::{Node, OFFERS_WAITING_MAX};
use crate::actors::catalog::CatalogMessage;
use crate::actors::discovery::{DiscoveryMessage, Found};
use crate::actors::fetcher::{FetchSettings, FetcherArguments, FetcherMessage};
use crate::actors::link::Link;
use crate::actors::node::{Links, NodeMessage};
use crate::catalog::folder::layer_of_bytes;
use crate::catalog::{Content, PartOfFolder};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::fetch::report::{Phase, Progress, Report};
use crate::fetch::resolve::{ContentKind, Holder, Resolved};
use crate::net::admission::Admission;
use crate::net::tls::Tls;
use crate::store::{self, Part, PartFile, Target};

/// A file that is to be fetched.
#[derive(Debug)]
pub struct FetchRequest {
    /// The content, and who has it.
    pub resolved: Resolved,
    /// Where it goes.
    pub target: Target,
    /// How.
    pub how: FetchOptions,
}

/// How a content is to be fetched.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// Replace what is there.
    pub force: bool,
    /// How long to wait when no source is left.
    pub patience: Duration,
    /// Only from this node.
    pub only: Option<NodeId>,
    /// On which lanes sources are asked.
    pub lane: LaneMode,
}

/// A folder that is to be fetched, where it goes being open already.
#[derive(Debug)]
pub struct FolderRequest {
    /// The folder, and who has it.
    pub resolved: Resolved,
    /// What is in it.
    pub manifest: Arc<Manifest>,
    /// Where its files go.
    pub part: Arc<dyn Part>,
    /// What is there from an earlier run.
    pub have: PieceSet,
    /// What is not wanted, or there already.
    pub skipped: BTreeMap<PieceIndex, ChunkMask>,
    /// Pieces of which others can be given all the same what is skipped of them.
    pub spared: PieceSet,
    /// What is there and may be right.
    pub found: Option<store::Found>,
    /// How.
    pub how: FetchOptions,
    /// Whether it is certain by now that this is what is meant; before that it gets no final name.
    pub is_meant: watch::Receiver<bool>,
}

/// What a fetch begins with.
struct Fetching {
    content: Root,
    geometry: Geometry,
    folder: Option<PartOfFolder>,
    part: Arc<dyn Part>,
    have: PieceSet,
    skipped: BTreeMap<PieceIndex, ChunkMask>,
    spared: PieceSet,
    found: Option<store::Found>,
    /// Whether it is what its name stands for; otherwise others are offered it by its root only.
    is_named: bool,
    is_meant: watch::Receiver<bool>,
}

/// A running fetch. It is given up when this is dropped; what is verified by then stays.
#[derive(Debug)]
pub struct Fetch {
    /// How it stands; changes many times a second.
    pub progress: watch::Receiver<Progress>,
    /// Which pieces are verified.
    pub pieces: watch::Receiver<Arc<PieceSet>>,
    /// Where they can be read.
    pub part: Arc<dyn Part>,
    report: oneshot::Receiver<Result<Report, Error>>,
    fetcher: ActorRef<FetcherMessage>,
    finding: Option<AbortHandle>,
}

impl Fetch {
    /// Waits for the end.
    pub async fn done(&mut self) -> Result<Report, Error> {
        (&mut self.report).await.unwrap_or_else(|_| {
            let message = "the fetch failed inside this program; run the same command again to go on";
            Err(Error::other(message))
        })
    }

    /// Asks it to stop; [`Fetch::done`] then says so, once what is verified is safe.
    pub fn interrupt(&self) {
        let _ = self.fetcher.cast(FetcherMessage::Interrupt);
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(finding) = &self.finding {
            finding.abort();
        }
        self.fetcher.stop(None);
    }
}

/// Looks for sources as long as the fetch runs.
async fn keep_finding(
    discovery: Link<DiscoveryMessage>,
    peers: Vec<SocketAddr>,
    root: Root,
    fetcher: ActorRef<FetcherMessage>,
    mut progress: watch::Receiver<Progress>,
) {
    let mut is_offered = false;
    loop {
        let (found, mut offers) = mpsc::channel(OFFERS_WAITING_MAX);
        discovery.cast(DiscoveryMessage::Find { want: Want::Root(root.into()), peers: peers.clone(), found });
        loop {
            let found = tokio::select! {
                found = offers.recv() => found,
                Ok(_) = progress.wait_for(|it| it.phase == Phase::Fetching), if !is_offered => {
                    // Who began when we did can be asked when we can: not before the hashes of all pieces are known. A
                    // fresh query finds them at once; the old one waits longer each time.
                    is_offered = true;
                    break;
                }
            };
            let Some(Found { addr, offer, admitted }) = found else {
                // Discovery is being restarted.
                tokio::time::sleep(Duration::from_secs(1)).await;
                break;
            };
            let has_it = admitted && offer.entries.iter().any(|entry| entry.root.root() == Some(root));
            if has_it && fetcher.cast(FetcherMessage::Offered(offer.from, addr)).is_err() {
                return;
            }
        }
    }
}

/// With what fetches are started: that of a node, or of something in it that fetches for others.
#[derive(Debug, Clone)]
pub(crate) struct Starter {
    pub(super) links: Links,
    pub(super) hello: Hello,
    pub(super) tls: Tls,
    pub(super) bind: Option<IpAddr>,
    /// Nodes that are asked directly; none: nobody is asked, since whoever has it is known.
    pub(super) seeking: Option<Vec<SocketAddr>>,
    pub(super) data: Handle,
    /// Where they are told of.
    pub(super) fetches: RunningFetches,
    pub(super) clock: Clock,
}

impl Node {
    fn starter(&self) -> Starter {
        Starter {
            links: self.links.clone(),
            hello: self.hello(),
            tls: self.tls.clone(),
            bind: self.config.bind,
            seeking: Some(self.config.peers.clone()),
            data: self.data.clone(),
            fetches: self.fetches.clone(),
            clock: self.clock,
        }
    }

    /// Starts to fetch a file from everybody who has it.
    ///
    /// # Errors
    /// What [`PartFile::open`] says of the target.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Fetch, Error> {
        self.starter().fetch(request).await
    }

    /// Starts to fetch the files of a folder, or some of them, from everybody who has it.
    ///
    /// # Errors
    /// Only if the node is about to stop.
    pub async fn fetch_folder(&self, request: FolderRequest) -> Result<Fetch, Error> {
        self.starter().fetch_folder(request).await
    }

    /// Fetches what says what is in a folder.
    ///
    /// Nodes whose files have other times give other ones. The one that most have is taken first; any is good as long as
    /// it has the folder's root.
    ///
    /// # Errors
    /// [`Code::Integrity`] if no node gives the right one, and whatever a fetch may end with.
    pub async fn manifest(&self, resolved: &Resolved, how: FetchOptions) -> Result<Manifest, Error> {
        let mut offered: BTreeMap<OfferedManifest, Vec<Holder>> = BTreeMap::new();
        for holder in &resolved.holders {
            if let Some(manifest) = holder.manifest {
                offered.entry(manifest).or_default().push(holder.clone());
            }
        }
        let mut offered: Vec<_> = offered.into_iter().collect();
        offered.sort_by_key(|(_, holders)| std::cmp::Reverse(holders.len()));
        let mut last = None;
        for (OfferedManifest { root, size }, holders) in offered {
            let list = Resolved { root, size, kind: ContentKind::File, holders, ..resolved.clone() };
            match self.try_manifest(resolved, list, how).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => {
                    tracing::warn!(%error, "a list of what is in the folder is of no use");
                    last = Some(error);
                }
            }
        }
        let nobody = || Error::new(Code::NotFound, format!("{}: no node says what is in it", resolved.name));
        Err(last.unwrap_or_else(nobody))
    }

    async fn try_manifest(
        &self,
        resolved: &Resolved,
        list: Resolved,
        how: FetchOptions,
    ) -> Result<Manifest, Error> {
        let wrong = |why: String| Error::new(Code::Integrity, format!("{}: {why}", resolved.name));
        let size = usize::try_from(list.size).ok().filter(|size| *size <= MANIFEST_BYTES_MAX);
        let size = size.ok_or_else(|| wrong("the list of what is in the folder is too long".to_owned()))?;
        let request = FetchRequest { resolved: list, target: Target::temporary(), how };
        let mut fetch = self.starter().fetch_file(request, false).await?;
        fetch.done().await?;
        let part = Arc::clone(&fetch.part);
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; size];
            part.read_at(0, &mut bytes)?;
            Ok::<_, Error>(Manifest::decode(&bytes))
        });
        let read = reading
            .await
            .map_err(|_| Error::other("the list of what is in the folder could not be read"))??;
        let manifest =
            read.map_err(|error| wrong(format!("the list of what is in the folder is wrong: {error}")))?;
        if manifest.root() != resolved.root {
            return Err(wrong("the list is that of another folder".to_owned()));
        }
        Ok(manifest)
    }
}

impl Starter {
    /// Whom the node talks to.
    pub(crate) fn admission(&self) -> &Admission {
        &self.tls.admission
    }

    /// What it shares.
    pub(crate) fn catalog(&self) -> &Link<CatalogMessage> {
        &self.links.catalog
    }

    /// Starts to fetch a file from everybody who has it.
    ///
    /// # Errors
    /// What [`PartFile::open`] says of the target.
    pub(crate) async fn fetch(&self, request: FetchRequest) -> Result<Fetch, Error> {
        self.fetch_file(request, true).await
    }

    async fn fetch_file(&self, request: FetchRequest, is_named: bool) -> Result<Fetch, Error> {
        let FetchRequest { resolved, target, how } = request;
        let geometry = Geometry::new(resolved.size)
            .map_err(|error| Error::other(format!("{}: {error}", resolved.name)))?;
        if geometry.size() == 0 && PieceLayer::verify(geometry.clone(), resolved.root, Vec::new()).is_err() {
            let message = format!("{}: {} is not the root of an empty file", resolved.name, resolved.root);
            return Err(Error::new(Code::Integrity, message));
        }
        let (cut, root) = (geometry.clone(), resolved.root);
        let opening = tokio::task::spawn_blocking(move || PartFile::open(target, cut, root, how.force));
        let opened = opening.await.map_err(|_| Error::other("the target could not be opened"))?;
        let (part, have) = opened?;
        let fetching = Fetching {
            content: root,
            spared: PieceSet::empty(geometry.clone()),
            geometry,
            folder: None,
            part: Arc::new(part),
            have,
            skipped: BTreeMap::new(),
            found: None,
            is_named,
            is_meant: watch::channel(true).1,
        };
        self.start_fetch(fetching, &resolved, how).await
    }

    /// Starts to fetch the files of a folder, or some of them, from everybody who has it.
    ///
    /// # Errors
    /// Only if the node is about to stop.
    async fn fetch_folder(&self, request: FolderRequest) -> Result<Fetch, Error> {
        let FolderRequest { resolved, manifest, part, have, skipped, spared, found, how, is_meant } = request;
        let content = data_root(resolved.root);
        let geometry = part.geometry().clone();
        let (name, mtime) = (resolved.name.clone(), (resolved.mtime, 0));
        // Others who want the folder get it from here as well.
        let encoding = tokio::task::spawn_blocking(move || {
            let bytes: Arc<[u8]> = manifest.encode().ok()?.into();
            Some(Arc::new(Content::memory(layer_of_bytes(&bytes), name, mtime, bytes)))
        });
        let manifest = encoding.await.ok().flatten();
        let folder = Some(PartOfFolder { root: resolved.root, manifest });
        let is_named = true;
        let fetching =
            Fetching { content, geometry, folder, part, have, skipped, spared, found, is_named, is_meant };
        self.start_fetch(fetching, &resolved, how).await
    }

    async fn start_fetch(
        &self,
        fetching: Fetching,
        resolved: &Resolved,
        how: FetchOptions,
    ) -> Result<Fetch, Error> {
        let Fetching { content, geometry, folder, part, have, skipped, spared, found, is_named, is_meant } =
            fetching;
        let config = FetchConfig::default();
        let (cut, pieces) = (geometry.clone(), have.clone());
        let mut engine = FetchEngine::selecting(config, cut, content, pieces, skipped, rand::random());
        engine.spare(spared);
        if found.is_some() {
            engine.search_first();
        }
        let begun = engine.progress();
        let (progress, watching) = watch::channel(Progress {
            phase: Phase::Waiting,
            size: begun.bytes_total,
            bytes: begun.bytes,
            resumed: begun.bytes,
            safe: begun.bytes,
            sources: Vec::new(),
        });
        let (pieces, verified) = watch::channel(Arc::new(have.clone()));
        let (done, report) = oneshot::channel();
        let settings = FetchSettings {
            root: content,
            named: resolved.root,
            geometry,
            folder,
            name: resolved.name.clone(),
            is_named,
            part: Arc::clone(&part),
            force: how.force,
            patience: how.patience,
            lane: how.lane,
            tls: self.tls.clone(),
            hello: self.hello.clone(),
            local: self.bind,
            catalog: self.links.catalog.clone(),
            data: self.data.clone(),
            clock: self.clock,
            progress,
            pieces,
            is_meant,
        };
        let mtime = (resolved.mtime, 0);
        let only = how.only;
        let arguments = FetcherArguments { engine, have, found, mtime, only, done, settings };
        let starting = |reply| NodeMessage::Fetch(Box::new(arguments), reply);
        let fetcher = match self.links.root.call(starting).await {
            Ok(Some(fetcher)) => fetcher,
            _ => return Err(Error::other("the fetch could not be started")),
        };
        let mut holders: Vec<_> = resolved.holders.iter().collect();
        // Of several ways to one node the one over IPv4 is taken first: there each packet has more room.
        holders.sort_by_key(|holder| holder.addr.is_ipv6());
        for holder in holders {
            let _ = fetcher.cast(FetcherMessage::Offered(holder.announce.clone(), holder.addr));
        }
        let finding = self.seeking.clone().map(|peers| {
            let (discovery, progress) = (self.links.discovery.clone(), watching.clone());
            tokio::spawn(keep_finding(discovery, peers, resolved.root, fetcher.clone(), progress))
                .abort_handle()
        });
        self.fetches.add(&resolved.name, resolved.root, watching.clone());
        Ok(Fetch { progress: watching, pieces: verified, part, report, fetcher, finding })
    }
}
