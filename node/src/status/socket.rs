//! The sockets in the state folder: their names, opening one, and what to do with those of processes that are gone.
//!
//! A socket gets its name when it listens already. So one of that name where nobody listens is one of a process that is
//! gone, and may be removed at any time.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ftx_proto::digest::Instance;
use rustix::fd::OwnedFd;
use tokio::net::UnixListener;

/// Most bytes of an answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Most sockets in one state folder that are looked at.
pub(super) const SOCKETS_MAX: usize = 256;

/// The socket of this process. Its name goes when it is dropped.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    path: PathBuf,
}

impl StatusSocket {
    /// Opens the socket of this instance. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses, as on a file system without sockets, or if somebody else owns the folder of sockets.
    pub(crate) fn open(state: &Path, instance: Instance) -> io::Result<(Self, UnixListener)> {
        let folder = own_folder(state)?;
        remove_abandoned(&folder);
        let path = folder.join(file_name(instance));
        let draft = path.with_extension(DRAFT);
        let short = ShortPath::new(&draft)?;
        let listener = UnixListener::bind(short.path())?;
        // Removed with it if one of the next steps fails.
        let mut socket = StatusSocket { path: draft.clone() };
        fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
        fs::rename(&draft, &path)?;
        socket.path = path;
        Ok((socket, listener))
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // The whole state folder may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the sockets of this state folder are.
pub(super) fn folder_of(state: &Path) -> PathBuf {
    state.join("run")
}

/// The sockets there are, with the instance that each is named after.
pub(super) fn sockets_in(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let sockets = paths.filter(|path| path.extension().is_some_and(|extension| extension == SOCKET));
    let named = sockets.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)));
    let mut sockets: Vec<_> = named.take(SOCKETS_MAX).collect();
    sockets.sort_unstable();
    Ok(sockets)
}

fn file_name(instance: Instance) -> String {
    format!("{:016x}.{SOCKET}", instance.0)
}

/// The folder of sockets, which only its owner may enter.
fn own_folder(state: &Path) -> io::Result<PathBuf> {
    let folder = folder_of(state);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not what a link leads to: that may be anywhere.
    let metadata = fs::symlink_metadata(&folder)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{} is not a folder of this user", folder.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if metadata.mode() & 0o777 != 0o700 {
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
    }
    Ok(folder)
}

/// Removes the sockets of processes that are gone.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().take(SOCKETS_MAX) {
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_abandoned = match extension {
            SOCKET => nobody_listens(&path),
            // Somebody is about to listen, unless it was killed a while ago.
            DRAFT => entry.metadata().is_ok_and(|metadata| {
                metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > DRAFT_MAX))
            }),
            _ => false,
        };
        if is_abandoned && fs::remove_file(&path).is_ok() {
            tracing::debug!(socket = %path.display(), "a process that is gone had left it");
        }
    }
}

fn nobody_listens(path: &Path) -> bool {
    // A process that hangs has room for some who wait, and asking does not wait where it has none.
    let connected = ShortPath::new(path).and_then(|short| connect_now(short.path()));
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects at once or not at all.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// A path that fits into the address of a socket, which has room for some hundred bytes only.
#[derive(Debug)]
pub(super) struct ShortPath {
    path: PathBuf,
    /// Through which the path leads, where the real one is too long.
    _folder: Option<OwnedFd>,
}

impl ShortPath {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX || !cfg!(target_os = "linux") {
            return Ok(ShortPath { path: path.to_owned(), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let number = rustix::fd::AsRawFd::as_raw_fd(&folder);
        let path = Path::new("/proc/self/fd").join(number.to_string()).join(name);
        Ok(ShortPath { path, _folder: Some(folder) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// How a socket is called that can be asked, and one that is about to be.
const SOCKET: &str = "sock";
const DRAFT: &str = "new";

/// How long a socket may be about to be one.
const DRAFT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a path that every system has room for in the address of a socket.
const PATH_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_the_owners_only_and_goes_with_its_process() {
        let state = tempfile::tempdir().unwrap();
        let folder = folder_of(state.path());
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();

        let (socket, _listener) = StatusSocket::open(state.path(), Instance(7)).unwrap();
        let (other, _other_listener) = StatusSocket::open(state.path(), Instance(8)).unwrap();

        assert_eq!(mode(&folder), 0o700);
        let sockets = sockets_in(&folder).unwrap();
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        assert_eq!(sockets[0].0, "0000000000000007");
        assert_eq!(mode(&sockets[0].1), 0o600);
        drop((socket, other));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let folder = folder_of(state.path());
        let (killed, listener) = StatusSocket::open(state.path(), Instance(1)).unwrap();
        std::mem::forget(killed);
        drop(listener);
        let (_living, _listener) = StatusSocket::open(state.path(), Instance(2)).unwrap();
        fs::write(folder.join("note"), "not ours").unwrap();
        // Listening no more, and named before that: as between opening and naming.
        drop(std::os::unix::net::UnixListener::bind(folder.join("0000000000000009.new")).unwrap());

        let (_new, _new_listener) = StatusSocket::open(state.path(), Instance(3)).unwrap();

        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0000000000000002.sock", "0000000000000003.sock", "0000000000000009.new", "note"]);
    }

    #[tokio::test]
    async fn a_folder_that_leads_elsewhere_is_not_used() {
        let (state, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), folder_of(state.path())).unwrap();
        let refused = StatusSocket::open(state.path(), Instance(1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_path_may_be_longer_than_an_address_has_room_for() {
        let state = tempfile::tempdir().unwrap();
        let long = state.path().join("x".repeat(200));
        fs::create_dir(&long).unwrap();
        let (_socket, _listener) = StatusSocket::open(&long, Instance(1)).unwrap();
        let sockets = sockets_in(&folder_of(&long)).unwrap();
        assert_eq!(sockets.len(), 1);
        assert!(!nobody_listens(&sockets[0].1));
    }
}
