//! Hearing of changes in the shares when they happen, where the system tells of them.
//!
//! It owns the watcher and a thread. What changes is named once it was quiet for a moment, so that a file that is being
//! written is not looked at again and again. It knows nothing of what the change is. Where there is no watcher, or not
//! enough room in it, it says so once, and changes are found by the next scan; so are those that a watcher misses, as on
//! network file systems.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use ftx_proto::name::RelativePath;
use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::scan::Shares;
use crate::store::is_own_file;

/// How long something must be quiet until it is looked at.
const QUIET: Duration = Duration::from_millis(300);

/// Most things that are not quiet yet; with more of them, everything is looked at.
const RESTLESS_MAX: usize = 4096;

/// Most notices that wait for the thread.
const NOTICES_MAX: usize = 1024;

/// Most names that are handed over at once.
const NAMES_MAX: usize = 64;

/// A watch under way. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    notices: SyncSender<Notice>,
}

/// What is heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something about these has changed.
    Names(Vec<RelativePath>),
    /// Something has changed, nobody knows what.
    Something,
}

/// What the watcher tells the thread.
#[derive(Debug)]
enum Notice {
    Paths(Vec<PathBuf>),
    Missed,
    End,
}

impl Watch {
    /// Watches these shares from now on. `hear` is called on a thread of its own, and may block; with `false` it ends.
    /// None if nothing can be watched. Blocks on the disk while it goes through the folders.
    pub(crate) fn start(
        shares: Arc<Shares>,
        hear: impl FnMut(Heard) -> bool + Send + 'static,
    ) -> Option<Self> {
        let (notices, heard) = sync_channel(NOTICES_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let watcher = watch(&shares, &notices, &missed)?;
        let listener = Listener { shares, restless: HashMap::new(), missed, hear };
        let thread = std::thread::Builder::new().name("watch".to_owned());
        let started = thread.spawn(move || {
            listener.listen(&heard);
            drop(watcher);
        });
        started.inspect_err(|error| tracing::warn!("cannot start a thread: {error}")).ok()?;
        Some(Watch { notices })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // If there is no room, the thread has something to tell, and ends when nobody hears it.
        let _ = self.notices.try_send(Notice::End);
    }
}

/// A watcher of those shares that can be watched.
fn watch(
    shares: &Arc<Shares>,
    notices: &SyncSender<Notice>,
    missed: &Arc<AtomicBool>,
) -> Option<RecommendedWatcher> {
    let (shares_too, notices, missed) = (shares.clone(), notices.clone(), missed.clone());
    let tell = move |event: notify::Result<Event>| {
        let Some(notice) = notice_of(&shares_too, event) else { return };
        if matches!(notices.try_send(notice), Err(TrySendError::Full(_))) {
            missed.store(true, Ordering::Relaxed);
        }
    };
    let without = "changes are found by looking from time to time only";
    let mut watcher = RecommendedWatcher::new(tell, Config::default().with_follow_symlinks(false))
        .inspect_err(|error| tracing::warn!("{without}: {error}"))
        .ok()?;
    let mut watched = 0;
    for share in 0..shares.len() {
        let (folder, only) = shares.folder(share);
        let mode = if only.is_some() { RecursiveMode::NonRecursive } else { RecursiveMode::Recursive };
        match watcher.watch(folder, mode) {
            Ok(()) => watched += 1,
            Err(error) => {
                tracing::warn!("{}: {without}: {error}", folder.display());
                // What was begun takes room that others can use.
                let _ = watcher.unwatch(folder);
            }
        }
    }
    (watched > 0).then_some(watcher)
}

/// What there is to tell of an event, if anything.
fn notice_of(shares: &Shares, event: notify::Result<Event>) -> Option<Notice> {
    let event = match event {
        Ok(event) if event.need_rescan() => return Some(Notice::Missed),
        Ok(event) => event,
        Err(_) => return Some(Notice::Missed),
    };
    if !is_something(&event) {
        return None;
    }
    let is_ours = |path: &PathBuf| {
        let is_own = path.file_name().is_some_and(is_own_file);
        !is_own && !shares.is_in_private(path)
    };
    let paths: Vec<PathBuf> = event.paths.into_iter().filter(is_ours).collect();
    (!paths.is_empty()).then_some(Notice::Paths(paths))
}

/// Reading is none, and serving does nothing else.
fn is_something(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The thread's side.
struct Listener<H> {
    shares: Arc<Shares>,
    /// What has changed, and when last.
    restless: HashMap<PathBuf, Instant>,
    /// There was more than fits.
    missed: Arc<AtomicBool>,
    hear: H,
}

impl<H: FnMut(Heard) -> bool> Listener<H> {
    fn listen(mut self, notices: &Receiver<Notice>) {
        loop {
            let notice = if self.restless.is_empty() && !self.missed.load(Ordering::Relaxed) {
                notices.recv().map_err(RecvTimeoutError::from)
            } else {
                notices.recv_timeout(QUIET)
            };
            match notice {
                Ok(Notice::Paths(paths)) => self.note(paths),
                Ok(Notice::Missed) => self.missed.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Notice::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.tell() {
                return;
            }
        }
    }

    fn note(&mut self, paths: Vec<PathBuf>) {
        let now = Instant::now();
        for path in paths {
            if self.restless.len() < RESTLESS_MAX || self.restless.contains_key(&path) {
                self.restless.insert(path, now);
            } else {
                self.missed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Tells of what is quiet now.
    fn tell(&mut self) -> bool {
        if self.missed.swap(false, Ordering::Relaxed) && !(self.hear)(Heard::Something) {
            return false;
        }
        let now = Instant::now();
        let quiet = self.restless.extract_if(|_, last| now.saturating_duration_since(*last) >= QUIET);
        let mut names: Vec<RelativePath> =
            quiet.flat_map(|(path, _)| names_of(&self.shares, &path)).collect();
        names.sort_unstable();
        names.dedup();
        names.chunks(NAMES_MAX).all(|names| (self.hear)(Heard::Names(names.to_vec())))
    }
}

/// What a path is called in the shares; the wire may not be able to carry it.
fn names_of(shares: &Shares, path: &Path) -> Vec<RelativePath> {
    let name = |share| {
        let (folder, only) = shares.folder(share);
        let name = path.strip_prefix(folder).ok()?.to_str()?;
        let is_meant = only.is_none_or(|only| only == name);
        name.parse().ok().filter(|_| is_meant)
    };
    (0..shares.len()).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// All names that are heard until these were among them.
    fn hear_of(heard: &Receiver<Heard>, expected: &[&str]) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        while !expected.iter().all(|name| all.contains(*name)) {
            match heard.recv_timeout(PATIENCE) {
                Ok(Heard::Names(names)) => all.extend(names.iter().map(|name| name.as_str().to_owned())),
                other => panic!("{other:?} after {all:?} while waiting for {expected:?}"),
            }
        }
        all
    }

    #[test]
    fn every_change_is_heard_of_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["sub/deep", "state", "alone"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["sub/deep/changes", "sub/goes", "sub/moves", "sub/stays", "alone/single", "alone/other"]
        {
            fs::write(path(name), name).unwrap();
        }
        let shares = Shares::new(&[path("sub"), path("alone/single")], Some(&path("sub/state")));
        let (sender, heard) = channel();
        let watch = Watch::start(Arc::new(shares), move |heard| sender.send(heard).is_ok()).unwrap();
        fs::create_dir(path("sub/state")).unwrap();
        for (name, bytes) in [
            ("sub/deep/changes", "other"),
            ("sub/new", "new"),
            ("sub/.x.ftx-part", "ours"),
            ("sub/state/key", "secret"),
            ("alone/single", "other"),
            ("alone/other", "other"),
        ] {
            fs::write(path(name), bytes).unwrap();
        }
        fs::read(path("sub/stays")).unwrap();
        fs::remove_file(path("sub/goes")).unwrap();
        fs::rename(path("sub/moves"), path("sub/moved")).unwrap();
        fs::create_dir(path("sub/folder")).unwrap();
        let expected = ["deep/changes", "new", "single", "goes", "moves", "moved", "folder"];
        let mut all = hear_of(&heard, &expected);
        // In a folder that is new as well.
        fs::write(path("sub/folder/inside"), "x").unwrap();
        all.extend(hear_of(&heard, &["folder/inside"]));
        for quiet in ["stays", "other", ".x.ftx-part", "state", "state/key"] {
            assert!(!all.contains(quiet), "{quiet} in {all:?}");
        }
        // The end is the end: the thread lets go of what it tells.
        drop(watch);
        let is_over = || heard.recv_timeout(PATIENCE);
        while is_over().is_ok() {}
        assert_eq!(is_over(), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn what_is_written_is_told_of_when_it_was_quiet() {
        let told = std::cell::RefCell::new(Vec::new());
        let shares = Arc::new(Shares::new(&["/no/such/share".into()], None));
        let hear = |heard| {
            told.borrow_mut().push(heard);
            true
        };
        let mut listener = Listener { shares, restless: HashMap::new(), missed: Arc::default(), hear };
        listener.note(vec!["/no/such/share/a".into()]);
        assert!(listener.tell() && told.borrow().is_empty());
        let earlier = Instant::now().checked_sub(QUIET).unwrap();
        listener.restless.insert("/no/such/share/b".into(), earlier);
        assert!(listener.tell());
        assert_eq!(told.take(), [Heard::Names(vec!["b".parse().unwrap()])]);
        // Written to again and again: not yet.
        assert!(listener.restless.contains_key(Path::new("/no/such/share/a")));
        // More than can be kept apart.
        listener.note((0..=RESTLESS_MAX).map(|number| format!("/no/such/share/{number}").into()).collect());
        assert!(listener.tell());
        assert_eq!(told.take(), [Heard::Something]);
        assert_eq!(listener.restless.len(), RESTLESS_MAX);
    }
}
