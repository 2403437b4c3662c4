//! What other nodes put here: each file is fetched from the node that put it, into a folder of that node in the inbox.
//!
//! `ftx-node put FILE ftx://NODE` says in a session what it has ([`Message::Put`]) and serves it to this node alone, which
//! fetches it as it would fetch anything: verified, resumable, on any lane. This module decides whether it is taken, from
//! whom, under which name, within which quota; it tells the putting side how far it is and what became of it. It refuses
//! to replace anything. A put ends with its session. What is verified by then stays as a part, which counts with what it
//! takes on the disk: room that was reserved for the rest is given back. The next put of that name and content goes on with
//! it, and after a week without one it is removed. Of a put that gave nothing nothing stays, so that nobody takes room by
//! asking for it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ftx_proto::chunk_set::PieceSet;
use ftx_proto::digest::{NodeId, Root};
use ftx_proto::engine::pull::choice::LaneMode;
use ftx_proto::geometry::Geometry;
use ftx_proto::interop::step::store::Denial;
use ftx_proto::name::{RelativePath, printable};
use ftx_proto::wire::discovery::Announce;
use ftx_proto::wire::session::{Message, PutRefusal};
use rustix::fs::FlockOperation;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

use crate::actors::catalog::CatalogMessage;
use crate::catalog::hash_file;
use crate::config::{InboxConfig, InboxFrom};
use crate::error::{Code, Error};
use crate::fetch::report::Report;
use crate::fetch::resolve::{ContentKind, Holder, Resolved};
use crate::interop::step_store::{InboxUsage, OWN_FOLDER, ReservedPart};
use crate::limits::{PUT_PATIENCE, PUT_QUIET_MAX, PUT_TOLD_INTERVAL, PUTS_MAX, PUTS_PER_NODE_MAX};
use crate::net::connection::Peer;
use crate::net::serving::Saying;
use crate::node::{Fetch, FetchOptions, FetchRequest, Starter};
use crate::store::{Part, Target, is_own_file};

/// What a node wants to put here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The name it is to have: one part.
    pub name: RelativePath,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub root: Root,
    /// TCP port of the sessions in which it is given.
    pub port: u16,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Inbox {
    path: PathBuf,
    from: InboxFrom,
    usage: Arc<InboxUsage>,
    starter: Starter,
    places: Arc<Semaphore>,
    at_work: AtWork,
    quiet: Mutex<Quiet>,
}

/// How many files are being put into which folder.
type AtWork = Arc<Mutex<HashMap<String, usize>>>;

/// One of the files that may be put at once. Whatever does something for it has a share of it, and the folder goes with the
/// last one, unless something is in it.
#[derive(Debug)]
struct Place {
    at_work: AtWork,
    folder: String,
    path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = at_work.get_mut(&self.folder) else { return };
        *count -= 1;
        if *count == 0 {
            at_work.remove(&self.folder);
            // Whoever comes next waits, and makes it again.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// A put that is under way.
struct Unfinished {
    part: Arc<dyn Part>,
    pieces: watch::Receiver<Arc<PieceSet>>,
    held: Option<(ReservedPart, Arc<Place>)>,
    /// Nobody writes to the part any more.
    has_ended: bool,
}

impl Unfinished {
    /// All is there.
    fn keep(mut self) {
        if let Some((room, _place)) = self.held.take() {
            room.keep();
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        let (part, have, has_ended) = (Arc::clone(&self.part), self.pieces.borrow().clone(), self.has_ended);
        let leave = move || {
            if !have.is_empty() {
                if has_ended {
                    part.release(&have);
                }
            } else if let Err(error) = part.discard() {
                tracing::warn!("a part of which nothing is there stays in the inbox: {error}");
            }
            // What is left then still counts.
            drop(held);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(leave)),
            Err(_) => leave(),
        }
    }
}

/// Why a file is not taken.
#[derive(Debug)]
struct Refused {
    why: PutRefusal,
    text: String,
}

fn refused(why: PutRefusal, text: impl Into<String>) -> Refused {
    Refused { why, text: text.into() }
}

/// The answer to whoever puts something onto a node without an inbox.
pub fn no_inbox() -> Message {
    Message::put_refused(PutRefusal::NoInbox, "it has no inbox; --inbox DIR there would give it one")
}

/// Why nobody may put anything, if nobody may.
pub fn closed_to_all(from: InboxFrom, is_closed: bool) -> Option<&'static str> {
    (from == InboxFrom::Trusted && !is_closed).then_some(
        "the inbox takes files from trusted nodes only, and none is: it needs --trust FILE or --secret-file FILE, or \
         --inbox-from anyone",
    )
}

impl Inbox {
    pub(crate) fn new(config: &InboxConfig, usage: Arc<InboxUsage>, starter: Starter) -> Self {
        let places = Arc::new(Semaphore::new(PUTS_MAX));
        let at_work = AtWork::default();
        let (path, quiet) = (config.path.clone(), Mutex::default());
        Inbox { path, from: config.from, usage, starter, places, at_work, quiet }
    }

    /// Removes what nobody went on with for long. Blocks on the disk.
    pub fn remove_forgotten(&self) {
        let parts = match left_parts(&self.path) {
            Ok(parts) => parts,
            Err(error) => {
                return tracing::warn!("{}: what nobody went on with stays: {error}", self.path.display());
            }
        };
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        for part in quiet.look(Instant::now(), parts, PUT_QUIET_MAX) {
            // Nobody begins there meanwhile.
            let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            if !at_work.keys().any(|busy| part.folder == busy.as_str()) {
                part.remove();
            }
        }
    }

    /// A place among those who put something at once, if this node can have one more.
    fn place(&self, folder: &str) -> Option<Arc<Place>> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let count = at_work.entry(folder.to_owned()).or_default();
        if *count >= PUTS_PER_NODE_MAX {
            return None;
        }
        *count += 1;
        let (at_work, path) = (Arc::clone(&self.at_work), self.path.join(folder));
        Some(Arc::new(Place { at_work, folder: folder.to_owned(), path, _permit: permit }))
    }

    /// Takes a file, and says so, or why not. Ends when the session does; to be let do so, since there is something to tidy up.
    pub async fn take(self: Arc<Self>, proposal: Proposal, peer: Peer, saying: Saying) {
        let who = format!("{} ({}) at {}", printable(&peer.name), peer.node.short(), peer.addr);
        let (name, root) = (proposal.name.clone(), proposal.root);
        let answer = match self.try_take(proposal, &peer, &saying).await {
            Ok((name, before)) => {
                tracing::info!(from = %who, %name, "put into the inbox");
                Message::HavePut { root, name, before }
            }
            Err(Refused { why, text }) => {
                tracing::warn!(from = %who, %name, "not taken into the inbox: {text}");
                Message::put_refused(why, &text)
            }
        };
        saying.say(answer).await;
    }

    async fn try_take(
        &self,
        proposal: Proposal,
        peer: &Peer,
        saying: &Saying,
    ) -> Result<(RelativePath, bool), Refused> {
        let admission = self.starter.admission();
        if let Some(why) = closed_to_all(self.from, admission.is_closed()) {
            return Err(refused(PutRefusal::NotAllowed, why));
        }
        let folder = folder_of(peer.node, admission.name_of(peer.node));
        let name = checked_name(&folder, &proposal.name)?;
        let Some(place) = self.place(&folder) else {
            return Err(refused(PutRefusal::Busy, "too many files are being put there at once"));
        };
        let path = self.path.join(&folder).join(proposal.name.as_str());
        if is_there(&path, &proposal, &place).await? {
            return Ok((name, true));
        }
        let (target, room) = self.make_room(&place, &proposal).await?;
        let mut fetch = self.fetch(target, &proposal, name.clone(), peer).await?;
        let (part, pieces) = (Arc::clone(&fetch.part), fetch.pieces.clone());
        let mut unfinished = Unfinished { part, pieces, held: Some((room, place)), has_ended: false };
        let fetched = follow(&mut fetch, saying).await;
        unfinished.has_ended = true;
        let report = fetched.map_err(|error| self.failed(&error, peer))?;
        unfinished.keep();
        tracing::debug!(path = %report.path.display(), "whole");
        self.starter.catalog().cast(CatalogMessage::Rescan);
        Ok((name, false))
    }

    /// The place for a file, and room for it.
    async fn make_room(
        &self,
        place: &Arc<Place>,
        proposal: &Proposal,
    ) -> Result<(Target, ReservedPart), Refused> {
        let (place, usage) = (Arc::clone(place), Arc::clone(&self.usage));
        let (name, size) = (proposal.name.clone(), proposal.size);
        let making = tokio::task::spawn_blocking(move || {
            let failed = |error: Error| failed_there(&error);
            std::fs::create_dir_all(&place.path)
                .map_err(|error| refused(PutRefusal::Failed, format!("its inbox cannot be used: {error}")))?;
            let target = Target::new(&place.path.join(""), &name).map_err(|error| failed(error.into()))?;
            if target.is_locked() {
                // An earlier try, mostly, that is about to end.
                return Err(refused(PutRefusal::Busy, "this file is being put there already"));
            }
            let part = target.part_name().unwrap_or_default();
            let room = usage.reserve_part(&place.folder, &part, size).map_err(|denial| match denial {
                Denial::Busy => refused(PutRefusal::Busy, "this file is being put there already"),
                Denial::OverQuota => {
                    refused(PutRefusal::Full, "the quota of its inbox has no room for the file")
                }
                other => refused(PutRefusal::Failed, other.to_string()),
            })?;
            Ok((target, room))
        });
        making.await.unwrap_or_else(|_| Err(refused(PutRefusal::Failed, "its inbox failed")))
    }

    /// Starts to fetch it from the node that put it.
    async fn fetch(
        &self,
        target: Target,
        proposal: &Proposal,
        name: RelativePath,
        peer: &Peer,
    ) -> Result<Fetch, Refused> {
        let Proposal { size, root, port, .. } = *proposal;
        let announce = Announce { node: peer.node, instance: peer.instance, port, name: peer.name.clone() };
        // With its scope, without which a link-local address leads nowhere.
        let mut addr: SocketAddr = peer.addr;
        addr.set_port(port);
        let holders = vec![Holder { announce, addr, manifest: None }];
        let resolved = Resolved { root, kind: ContentKind::File, size, mtime: 0, name, holders };
        let how = FetchOptions {
            force: false,
            patience: PUT_PATIENCE,
            only: Some(peer.node),
            lane: LaneMode::default(),
        };
        let started = self.starter.fetch(FetchRequest { resolved, target, how }).await;
        started.map_err(|error| self.failed(&error, peer))
    }

    /// What the putting side is told of a fetch that failed. Paths and options of this machine are for its own log.
    fn failed(&self, error: &Error, peer: &Peer) -> Refused {
        tracing::warn!(from = %peer.addr, "{error}");
        failed_there(error)
    }
}

fn failed_there(error: &Error) -> Refused {
    match error.code {
        Code::DiskFull => refused(PutRefusal::Full, "its disk has no room for the file"),
        Code::Exists => refused(PutRefusal::Exists, "something else has this name there by now"),
        Code::Timeout | Code::Partial | Code::Network | Code::Refused => refused(
            PutRefusal::Unreachable,
            "it could not get the file from here; perhaps a firewall lets no connection in",
        ),
        _ => refused(PutRefusal::Failed, "it could not store the file; its log says why"),
    }
}

/// Tells how far it is until it is done, or nobody listens any more.
async fn follow(fetch: &mut Fetch, saying: &Saying) -> Result<Report, Error> {
    let progress = fetch.progress.clone();
    let mut ticks = tokio::time::interval(PUT_TOLD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            done = fetch.done() => return done,
            () = saying.ended() => break,
            _ = ticks.tick() => {
                let bytes = progress.borrow().bytes;
                if told.replace(bytes) != Some(bytes) {
                    saying.is_busy();
                }
                saying.say(Message::Putting { bytes }).await;
            }
        }
    }
    // It may just be getting its final name: then it is there, and counts.
    fetch.interrupt();
    fetch.done().await
}

/// The folder of a node: what it is called here, or the beginning of its id. What it calls itself is anybody's to choose.
fn folder_of(node: NodeId, name: Option<String>) -> String {
    let id = node.to_string();
    name.unwrap_or_else(|| id.get(..FOLDER_DIGITS).unwrap_or(&id).to_owned())
}

/// The name that it will have on the network.
fn checked_name(folder: &str, name: &RelativePath) -> Result<RelativePath, Refused> {
    let unfit =
        |why: &str| refused(PutRefusal::NotAllowed, format!("'{name}' cannot be its name there: {why}"));
    if is_own_file(name.as_str().as_ref()) || name.as_str() == OWN_FOLDER {
        return Err(unfit("names like this belong to the node"));
    }
    format!("{folder}/{}", name.as_str()).parse().map_err(|error| unfit(&format!("{error}")))
}

/// Whether just this is there already.
async fn is_there(path: &Path, proposal: &Proposal, place: &Arc<Place>) -> Result<bool, Refused> {
    let geometry =
        Geometry::new(proposal.size).map_err(|error| refused(PutRefusal::NotAllowed, error.to_string()))?;
    let exists = || refused(PutRefusal::Exists, "another file, or a folder, has this name there");
    // It goes on when its session has ended, and so has a place until it is done.
    let (path, root, place) = (path.to_owned(), proposal.root, Arc::clone(place));
    let looking = tokio::task::spawn_blocking(move || {
        let _place = place;
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(refused(PutRefusal::Failed, format!("its inbox cannot be used: {error}")));
            }
        };
        if !found.is_file() || found.len() != geometry.size() {
            return Err(exists());
        }
        // One that cannot be read is not known to be the same.
        let layer = hash_file(&path, std::num::NonZero::<usize>::MIN, &|_| {}).map_err(|_| exists())?;
        if layer.root() == root { Ok(true) } else { Err(exists()) }
    });
    looking.await.unwrap_or_else(|_| Err(refused(PutRefusal::Failed, "its inbox failed")))
}

/// Digits of the id of a node that its folder is called by: as many as nobody finds a second key for.
const FOLDER_DIGITS: usize = 16;

/// Removes parts in the folders of nodes with which nobody went on for long, before anything is put there.
///
/// # Errors
/// If the inbox cannot be listed.
pub fn remove_forgotten(inbox: &Path) -> io::Result<()> {
    let now = SystemTime::now();
    for part in left_parts(inbox)? {
        if now.duration_since(part.modified).is_ok_and(|quiet| quiet >= PUT_QUIET_MAX) {
            part.remove();
            // Unless there is something else in it.
            let _ = std::fs::remove_dir(inbox.join(&part.folder));
        }
    }
    Ok(())
}

/// A part, or its journal, in the folder of a node.
struct LeftPart {
    folder: OsString,
    path: PathBuf,
    modified: SystemTime,
}

impl LeftPart {
    fn remove(&self) {
        let removed = std::fs::File::open(&self.path).and_then(|file| {
            // The journal of a part is locked by whoever is at it; the part itself by nobody.
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            std::fs::remove_file(&self.path)
        });
        match removed {
            Ok(()) => tracing::info!("{}: removed; nobody went on with it", self.path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{}: cannot be removed: {error}", self.path.display()),
        }
    }
}

/// All that lie in the folders of nodes. What cannot be looked at is passed over: it is somebody else's.
fn left_parts(inbox: &Path) -> io::Result<Vec<LeftPart>> {
    let mut left = Vec::new();
    for folder in std::fs::read_dir(inbox)?.flatten() {
        let is_folder = folder.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder || folder.file_name() == OWN_FOLDER {
            continue;
        }
        let entries = match std::fs::read_dir(folder.path()) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!("{}: {error}", folder.path().display());
                continue;
            }
        };
        let own = entries.flatten().filter(|entry| is_own_file(&entry.file_name()));
        left.extend(own.filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let (folder, path) = (folder.file_name(), entry.path());
            Some(LeftPart { folder, path, modified: metadata.modified().ok()? })
        }));
    }
    Ok(left)
}

/// Parts of which nothing was changed since they were first seen.
#[derive(Debug, Default)]
struct Quiet(HashMap<PathBuf, (SystemTime, Instant)>);

impl Quiet {
    /// Takes note of what is there, and gives what has not changed for `long`. The clock on the wall may jump meanwhile.
    fn look(&mut self, now: Instant, parts: Vec<LeftPart>, long: Duration) -> Vec<LeftPart> {
        let before = std::mem::take(&mut self.0);
        let mut forgotten = Vec::new();
        for part in parts {
            let seen = before.get(&part.path).filter(|(modified, _)| *modified == part.modified);
            let since = seen.map_or(now, |(_, since)| *since);
            self.0.insert(part.path.clone(), (part.modified, since));
            if now.saturating_duration_since(since) >= long {
                forgotten.push(part);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_node_has_a_folder_that_only_we_or_its_key_can_name() {
        let node = NodeId([0xab; 32]);
        assert_eq!(folder_of(node, None), "abababababababab");
        assert_eq!(folder_of(node, Some("ada".to_owned())), "ada");
    }

    #[test]
    fn names_of_the_node_itself_are_not_taken() {
        let checked = |name: &str| checked_name("ada", &name.parse().unwrap());
        assert_eq!(checked("report.pdf").unwrap().as_str(), "ada/report.pdf");
        for name in [".x.ftx-part", ".x.ftx-journal", OWN_FOLDER] {
            assert_eq!(checked(name).unwrap_err().why, PutRefusal::NotAllowed, "{name}");
        }
    }

    #[test]
    fn what_nobody_went_on_with_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - PUT_QUIET_MAX - Duration::from_secs(60);
        for (name, old) in [
            ("ada/.a.ftx-part", true),
            ("ada/.a.ftx-journal", true),
            ("ada/.b.ftx-part", false),
            ("ada/c", true),
            ("bob/.a.ftx-part", true),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            if old {
                file.set_modified(long_ago).unwrap();
            }
        }
        // As `lost+found` is for whoever is not root.
        let locked = dir.path().join("locked");
        std::fs::create_dir(&locked).unwrap();
        std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        remove_forgotten(dir.path()).unwrap();
        let left = |folder: &str| {
            let entries = std::fs::read_dir(dir.path().join(folder)).unwrap();
            let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            left.sort();
            left
        };
        assert_eq!(left("ada"), [".b.ftx-part", "c"]);
        assert_eq!(left(""), ["ada", "locked"], "a folder stays with nothing in it");
    }

    #[test]
    fn a_clock_that_jumps_does_not_make_a_part_forgotten() {
        let (begun, long) = (Instant::now(), Duration::from_secs(100));
        let part = |modified: u64| LeftPart {
            folder: "ada".into(),
            path: "ada/.a.ftx-part".into(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(modified),
        };
        let mut quiet = Quiet::default();
        let mut look = |seconds, modified| {
            !quiet.look(begun + Duration::from_secs(seconds), vec![part(modified)], long).is_empty()
        };
        assert!(!look(0, 0) && !look(99, 0));
        assert!(!look(100, 1_000_000), "somebody went on with it");
        assert!(!look(199, 1_000_000));
        assert!(look(200, 1_000_000));
        assert!(quiet.look(begun, Vec::new(), long).is_empty());
        assert!(quiet.0.is_empty(), "what is gone is kept");
    }
}
