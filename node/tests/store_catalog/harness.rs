//! A catalog that runs, and what tests ask it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_node::actors::catalog::{Catalog, CatalogArguments, CatalogMessage, CatalogStatus};
use ftx_node::catalog::{Content, ReadError, hash_file};
use ftx_proto::digest::Root;
use ftx_proto::wire::discovery::{OfferEntry, OfferedRoot, Want};
use ftx_proto::wire::session::ListingEntry;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

/// How long a test waits for what is sure to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running catalog.
pub(crate) struct Running {
    pub(crate) actor: ActorRef<CatalogMessage>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(shares: &[&Path], state_dir: Option<&Path>) -> Self {
        // Scans are asked for; this only allows them to follow each other quickly.
        Self::start_scanning(shares, state_dir, Duration::from_millis(10)).await
    }

    /// With so much time between two scans.
    pub(crate) async fn start_scanning(
        shares: &[&Path],
        state_dir: Option<&Path>,
        rescan_interval: Duration,
    ) -> Self {
        let arguments = CatalogArguments {
            shares: shares.iter().map(PathBuf::from).collect(),
            state_dir: state_dir.map(PathBuf::from),
            hash_threads: NonZeroUsize::new(2).unwrap(),
            rescan_interval,
        };
        let (actor, task) = Actor::spawn(None, Catalog, arguments).await.unwrap();
        Running { actor, task }
    }

    pub(crate) async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> CatalogMessage,
    ) -> T {
        match self.actor.call(message, Some(PATIENCE)).await.unwrap() {
            CallResult::Success(answer) => answer,
            _ => panic!("no answer"),
        }
    }

    pub(crate) async fn lookup(&self, want: Want) -> Vec<OfferEntry> {
        self.call(|reply| CatalogMessage::Lookup(want, reply)).await.0
    }

    pub(crate) async fn list(&self) -> Vec<ListingEntry> {
        self.call(|reply| CatalogMessage::List { after: None, limit: 100, reply }).await.0
    }

    pub(crate) async fn open(&self, root: Root) -> Option<Arc<Content>> {
        self.call(|reply| CatalogMessage::Open(root, reply)).await
    }

    pub(crate) async fn status(&self) -> CatalogStatus {
        self.call(CatalogMessage::Status).await
    }

    /// Asks again and again, until the status is as described.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&CatalogStatus) -> bool) -> CatalogStatus {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "waiting until {what}: {status:?}");
            tokio::task::yield_now().await;
        }
    }

    /// A scan that begins after this call, and all hashing that it leads to.
    pub(crate) async fn rescan(&self) -> CatalogStatus {
        // One may be under way and have passed by already; the next one has not.
        let scans = self.status().await.scans + 2;
        self.until("it is scanned again", |status| {
            if status.scans < scans {
                self.actor.cast(CatalogMessage::Rescan).unwrap();
            }
            status.scans >= scans
        })
        .await;
        self.until("all is hashed", |status| status.queue == 0 && status.hashed_files == status.files).await
    }

    pub(crate) async fn root_of(&self, name: &str) -> Root {
        let begun = Instant::now();
        loop {
            match self.lookup(want(name)).await.as_slice() {
                [OfferEntry { root: OfferedRoot::Whole(root), .. }] => return *root,
                other => assert!(begun.elapsed() < PATIENCE, "waiting for the root of {name}: {other:?}"),
            }
        }
    }

    pub(crate) async fn stop(self) {
        self.actor.stop(None);
        self.task.await.unwrap();
    }
}

pub(crate) fn want(name: &str) -> Want {
    Want::Name(name.parse().unwrap())
}

pub(crate) fn root(path: &Path) -> Root {
    hash_file(path, NonZeroUsize::MIN, &|_| ()).unwrap().root()
}

pub(crate) fn read_all(content: &Content) -> Result<Vec<u8>, ReadError> {
    let reader = content.reader()?;
    let mut bytes = vec![0; content.geometry().size() as usize];
    for piece in content.geometry().pieces() {
        let span = content.geometry().span_of(piece);
        let place = content.geometry().bytes_of(span);
        reader.read(span, &mut bytes[place.start as usize..place.end as usize])?;
        assert!(content.layer().proves(piece, &reader.leaves(piece)?));
    }
    Ok(bytes)
}
