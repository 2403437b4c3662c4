//! The nodes of a run: real ones, in this process, on 127.0.0.1, and what can be done to them.
//!
//! Each has a folder, a state and an identity of its own; they share threads and the discovery port, which the system
//! chose. Dropped, they are all gone at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ftx_node::Node;
use ftx_node::config::{NodeConfig, Services, Sessions};
use ftx_node::error::Error;
use ftx_proto::digest::NodeId;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::original::{Original, Placement, spoil};

/// The nodes of a run.
#[derive(Debug)]
pub struct Fleet {
    folder: PathBuf,
    port: u16,
    data: Handle,
    members: BTreeMap<MemberIndex, Member>,
    /// Nodes that were started so far, those that are forgotten included.
    started: usize,
}

/// One of the nodes, alive or killed.
#[derive(Debug)]
pub struct Member {
    /// What it calls itself.
    pub name: String,
    /// Its identity.
    pub id: NodeId,
    /// What it shares is here, or what it fetches.
    pub folder: PathBuf,
    /// What it shares, if it does.
    pub file: Option<PathBuf>,
    node: Option<Arc<Node>>,
}

/// Which of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(usize);

/// How far the sources are with hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashing {
    /// Sources that know the root of what they share.
    pub done: usize,
    /// Sources in all.
    pub sources: usize,
}

impl Fleet {
    /// No nodes yet; what they will need is below `folder`. Their connections do their work on `data`.
    ///
    /// # Errors
    /// If there is no port for discovery.
    pub fn new(folder: &Path, data: Handle) -> Result<Self, Error> {
        // The nodes open it together, and tolerate others on it: it need not be held meanwhile.
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = port.map_err(|error| Error::other(format!("no port for discovery: {error}")))?.port();
        Ok(Fleet { folder: folder.to_owned(), port, data, members: BTreeMap::new(), started: 0 })
    }

    /// Starts a node that shares the original.
    ///
    /// # Errors
    /// Of its folder, or what [`Node::start`] says.
    pub async fn start_source(
        &mut self,
        original: &Original,
        placement: Placement,
        max_upload: Option<u64>,
    ) -> Result<MemberIndex, Error> {
        let folder = self.make_folder("share")?;
        let (original, into) = (original.clone(), folder.clone());
        let placing = tokio::task::spawn_blocking(move || original.place(&into, placement));
        let placed = placing.await.map_err(std::io::Error::other).and_then(|placed| placed);
        let file = placed.map_err(|error| cannot("put a file into", &folder, &error))?;
        self.start(folder.clone(), Some(file), vec![folder], max_upload).await
    }

    /// Starts a node that shares nothing.
    ///
    /// # Errors
    /// As with [`Fleet::start_source`].
    pub async fn start_fetcher(&mut self) -> Result<MemberIndex, Error> {
        let folder = self.make_folder("fetched")?;
        self.start(folder, None, Vec::new(), None).await
    }

    /// All nodes, in the order in which they were started.
    pub fn members(&self) -> impl Iterator<Item = (MemberIndex, &Member)> {
        self.members.iter().map(|(index, member)| (*index, member))
    }

    /// One of them.
    ///
    /// # Panics
    /// If it is forgotten.
    pub fn member(&self, index: MemberIndex) -> &Member {
        &self.members[&index]
    }

    /// A node that has not been killed.
    pub fn node(&self, index: MemberIndex) -> Option<Arc<Node>> {
        self.members.get(&index)?.node.clone()
    }

    /// Ends a node as if its machine had lost its power: no goodbye, connections that just break.
    ///
    /// # Panics
    /// If somebody else holds the node, which would live on.
    pub fn kill(&mut self, index: MemberIndex) {
        drop(self.take(index));
    }

    /// Ends a node in an orderly way: it says goodbye.
    ///
    /// # Panics
    /// As with [`Fleet::kill`].
    pub async fn leave(&mut self, index: MemberIndex) {
        if let Some(node) = self.take(index) {
            node.stop().await;
        }
    }

    /// Ends a node as [`Fleet::kill`] does, if it is alive, and removes all that there is of it.
    ///
    /// # Panics
    /// As with [`Fleet::kill`].
    pub fn forget(&mut self, index: MemberIndex) {
        self.kill(index);
        let Some(member) = self.members.remove(&index) else { return };
        // What it is just making is removed with the folder of all.
        let _ = std::fs::remove_dir_all(member.folder.parent().unwrap_or(&member.folder));
    }

    fn take(&mut self, index: MemberIndex) -> Option<Node> {
        let node = Arc::into_inner(self.members.get_mut(&index)?.node.take()?);
        assert!(node.is_some(), "a node is ended by whoever has it alone, and this one is in use");
        node
    }

    /// Damages what a source shares, without any trace that it could notice.
    ///
    /// # Errors
    /// If it shares nothing, or a file that others share too.
    pub fn spoil(&self, index: MemberIndex, seed: u64) -> Result<(), Error> {
        let member = self.member(index);
        let Some(file) = &member.file else {
            return Err(Error::other(format!("{} has nothing that could be damaged", member.name)));
        };
        spoil(file, seed).map_err(|error| cannot("damage", file, &error))
    }

    /// Waits until every source knows the root of what it shares.
    ///
    /// # Errors
    /// If a source does not take its file, or nothing has gone on for a long time.
    pub async fn hashed(&self, mut observe: impl FnMut(Hashing)) -> Result<(), Error> {
        let mut waiting: Vec<&Member> =
            self.members.values().filter(|member| member.file.is_some()).collect();
        let sources = waiting.len();
        let mut looking = interval(LOOK_INTERVAL);
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_news = Instant::now();
        loop {
            let before = waiting.len();
            let mut still = Vec::new();
            for member in waiting {
                if !member.is_hashed().await? {
                    still.push(member);
                }
            }
            waiting = still;
            if waiting.len() < before {
                last_news = Instant::now();
                observe(Hashing { done: sources - waiting.len(), sources });
            }
            match waiting.first() {
                None => return Ok(()),
                Some(member) if last_news.elapsed() > HASHING_MAX => {
                    let seconds = HASHING_MAX.as_secs();
                    return Err(Error::other(format!(
                        "{} has not hashed its file in {seconds} s",
                        member.name
                    )));
                }
                Some(_) => _ = looking.tick().await,
            }
        }
    }

    async fn start(
        &mut self,
        folder: PathBuf,
        file: Option<PathBuf>,
        shares: Vec<PathBuf>,
        max_upload: Option<u64>,
    ) -> Result<MemberIndex, Error> {
        let config = NodeConfig {
            shares,
            bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.port,
            sessions: Sessions::Anywhere,
            peers: Vec::new(),
            state: folder.with_file_name("state"),
            name: format!("node-{}", self.started + 1),
            max_upload,
            inbox: None,
            services: Services::default(),
        };
        let name = config.name.clone();
        let node = Node::start(config, self.data.clone()).await?;
        let index = MemberIndex(self.started);
        self.started += 1;
        self.members.insert(index, Member { name, id: node.id(), folder, file, node: Some(Arc::new(node)) });
        Ok(index)
    }

    fn make_folder(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.folder.join(format!("node-{}", self.started + 1)).join(name);
        std::fs::create_dir_all(&folder).map_err(|error| cannot("make", &folder, &error))?;
        Ok(folder)
    }
}

impl Member {
    /// Whether it has been killed.
    pub fn is_killed(&self) -> bool {
        self.node.is_none()
    }

    async fn is_hashed(&self) -> Result<bool, Error> {
        let Some(node) = &self.node else {
            return Err(Error::other(format!("{} was killed before it had hashed its file", self.name)));
        };
        let status = node.catalog_status().await?;
        if let Some((path, reason)) = status.skipped_examples.first() {
            return Err(Error::other(format!("{} does not share {path}: {reason}", self.name)));
        }
        Ok(status.files > 0 && status.hashed_files == status.files)
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::other(format!("cannot {what} {}: {error}", path.display()))
}

/// How often the sources are asked how far they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long no source may become ready before something must be wrong.
const HASHING_MAX: Duration = Duration::from_secs(120);
