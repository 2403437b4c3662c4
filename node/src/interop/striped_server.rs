//! Serving striped downloads: the control connection, and then the connections of the stripes.
//!
//! It owns the sockets of one download. What is said on them is [`ftx_proto::interop::striped`]'s. It refuses to serve
//! anything but shared files, and bytes that do not have the hash that it replied with: a stripe of a file that was
//! changed meanwhile breaks. A crash ends the downloads under way.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ftx_proto::interop::striped::control::{
    ControlRequest, RequestParser, Status, encode_refusal, encode_reply,
};
use ftx_proto::interop::striped::{Md5Hash, Stripes};
use ftx_proto::name::printable;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::digests::Digests;
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::catalog::{ReadError, SharedReader};
use crate::limits::{STRIPES_MAX, STRIPES_SPARE_MAX};
use crate::net::pace::Pace;
use crate::net::tcp::close_gently;
use crate::throttle::tell_of_failed;

/// What all striped downloads from this node share.
#[derive(Debug)]
pub struct StripedServer {
    /// What there is to serve.
    pub catalog: Link<CatalogMessage>,
    /// The MD5 of files.
    pub digests: Arc<Digests>,
    /// How fast all of them may be together.
    pub pace: Option<Pace>,
    /// Places for the connections of stripes, of all downloads.
    pub places: Arc<Semaphore>,
}

/// A file that is being served in stripes.
struct Download {
    server: Arc<StripedServer>,
    reader: SharedReader,
    stripes: Stripes,
    /// When the client last took something. One that reads its stripes in turn leaves the others waiting for long.
    progress: Mutex<Instant>,
}

impl StripedServer {
    /// Serves the shared files, at `max_upload` bytes a second at most. Must be called within a tokio runtime.
    pub fn new(catalog: Link<CatalogMessage>, digests: Arc<Digests>, max_upload: Option<u64>) -> Self {
        let places = Arc::new(Semaphore::new(STRIPES_MAX));
        StripedServer { catalog, digests, pace: max_upload.map(Pace::new), places }
    }

    /// One download, from its control connection on.
    pub async fn serve(self: Arc<Self>, mut tcp: TcpStream, addr: SocketAddr) {
        let request = match timeout(REQUEST_MAX, read_request(&mut tcp)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => return tracing::debug!(%addr, %error, "a striped request broke off"),
            Err(_) => return tracing::debug!(%addr, "a striped request took too long"),
        };
        let answer = match request {
            Ok(request) => {
                let path = request.path.clone();
                self.prepare(request, &tcp).await.inspect_err(|status| {
                    tracing::debug!(%addr, path = %printable(&path), status = status.code(), "striped refused");
                })
            }
            Err(status) => Err(status),
        };
        let (reply, offer) = match answer {
            Ok((reply, listener, download)) => (reply, Some((listener, download))),
            Err(status) => (encode_refusal(status), None),
        };
        if !matches!(timeout(REQUEST_MAX, tcp.write_all(&reply)).await, Ok(Ok(()))) {
            return;
        }
        match offer {
            Some((listener, download)) => {
                tokio::join!(close_gently(tcp), download.run(listener));
            }
            None => close_gently(tcp).await,
        }
    }

    /// The reply to a request, and what it promises: the port listens already.
    async fn prepare(
        self: &Arc<Self>,
        request: ControlRequest,
        tcp: &TcpStream,
    ) -> Result<(Vec<u8>, TcpListener, Arc<Download>), Status> {
        let name = request.name().map_err(|_| Status::NotFound)?;
        let found = self.catalog.call(|reply| CatalogMessage::FindFile(name, reply)).await;
        let file = found.map_err(|_| Status::Busy)?.ok_or(Status::NotFound)?;
        let digests = Arc::clone(&self.digests);
        let opening = tokio::task::spawn_blocking(move || -> Result<_, ReadError> {
            let mut tries = 0;
            loop {
                let reader = file.open()?;
                match digests.md5(reader.file()).and_then(|md5| reader.check().map(|()| md5)) {
                    Ok(md5) => return Ok((reader, Md5Hash(md5.0))),
                    // A file that is being written; the next state of it may last.
                    Err(ReadError::Changed) if tries < CHANGES_MAX => tries += 1,
                    Err(error) => return Err(error),
                }
            }
        });
        let opened = opening.await.map_err(|_| Status::InternalError)?;
        let (reader, hash) = opened.map_err(|error| status_of(&error))?;
        let mut local = tcp.local_addr().map_err(|_| Status::InternalError)?;
        local.set_port(0);
        let listening = TcpListener::bind(local).await;
        let listener = listening.inspect_err(|error| tracing::warn!(%error, "no port for stripes"));
        let listener = listener.map_err(|_| Status::Busy)?;
        let port = listener.local_addr().map_err(|_| Status::InternalError)?.port();
        let stripes = Stripes::new(reader.size(), request.threads);
        let progress = Mutex::new(Instant::now());
        let threads = usize::from(request.threads.count());
        let download = Download { server: Arc::clone(self), reader, stripes, progress };
        tracing::debug!(threads, size = download.reader.size(), port, "striped download");
        Ok((encode_reply(hash, port), listener, Arc::new(download)))
    }
}

impl Download {
    /// Gives the stripes to whoever connects, until each was given or nothing happens any more.
    async fn run(self: &Arc<Self>, listener: TcpListener) {
        let threads = usize::from(self.stripes.threads().count());
        let mut connections = JoinSet::new();
        let mut given = 0;
        loop {
            let quiet = self.last_progress() + QUIET_MAX;
            tokio::select! {
                accepted = listener.accept(), if connections.len() < threads + STRIPES_SPARE_MAX => {
                    let Ok((tcp, addr)) = accepted else { return };
                    let Ok(place) = Arc::clone(&self.server.places).try_acquire_owned() else {
                        tracing::warn!(%addr, "there are {STRIPES_MAX} stripes already");
                        continue;
                    };
                    let download = Arc::clone(self);
                    connections.spawn(async move {
                        let given = download.give(tcp).await;
                        drop(place);
                        given
                    });
                }
                Some(ended) = connections.join_next() => {
                    match ended {
                        Ok(Ok(())) => given += 1,
                        Ok(Err(error)) => tracing::debug!(%error, "a stripe broke"),
                        Err(error) => tell_of_failed("a stripe", &error),
                    }
                    if given >= threads && connections.is_empty() {
                        return;
                    }
                }
                () = sleep_until(quiet) => {
                    if self.is_quiet() {
                        return;
                    }
                }
            }
        }
    }

    /// One connection: the byte that says which stripe, then its bytes.
    async fn give(&self, mut tcp: TcpStream) -> io::Result<()> {
        let id = timeout(ID_MAX, tcp.read_u8()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.note_progress();
        let range = self.stripes.range(id);
        let pace = self.server.pace.as_ref();
        let len_max = pace.map_or(READ_LEN, Pace::len_max).min(READ_LEN);
        let mut buffer = vec![0; len_max.min(usize::try_from(range.end - range.start).unwrap_or(len_max))];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(len_max).min(len_max);
            let bytes = &mut buffer[..len];
            if let Err(error) = self.reader.read(at, bytes) {
                self.server.catalog.cast(CatalogMessage::Rescan);
                // A reset, so that it does not look like the end of the stripe.
                let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                return Err(io::Error::other(error));
            }
            if let Some(pace) = pace {
                pace.wait(len).await;
            }
            self.send(&mut tcp, bytes).await?;
            at += len as u64;
        }
        close_gently(tcp).await;
        Ok(())
    }

    async fn send(&self, tcp: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match timeout(QUIET_MAX, tcp.write(bytes)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(len)) => {
                    bytes = &bytes[len..];
                    self.note_progress();
                }
                Ok(Err(error)) => return Err(error),
                // Another stripe may be the one that is being read.
                Err(_) if !self.is_quiet() => {}
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }

    fn note_progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_progress(&self) -> Instant {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_quiet(&self) -> bool {
        self.last_progress().elapsed() >= QUIET_MAX
    }
}

/// The request, or the status that refuses it.
async fn read_request(tcp: &mut TcpStream) -> io::Result<Result<ControlRequest, Status>> {
    let mut parser = RequestParser::new();
    let mut buffer = [0; 4096];
    loop {
        match tcp.read(&mut buffer).await? {
            0 => return Ok(parser.end()),
            len => {
                if let Some(request) = parser.push(&buffer[..len]) {
                    return Ok(request);
                }
            }
        }
    }
}

fn status_of(error: &ReadError) -> Status {
    match error {
        ReadError::Unreadable(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => Status::Forbidden,
            // It went away, or is no file, since the catalog has seen it.
            _ => Status::NotFound,
        },
        ReadError::Changed | ReadError::Missing | ReadError::OneFile(_) => Status::InternalError,
    }
}

/// How long a request may take, and its reply.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// How long a connection may take to say which stripe it is.
const ID_MAX: Duration = Duration::from_secs(30);

/// How long a download may do nothing at all.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// How often a file may change while its hash is taken.
const CHANGES_MAX: u32 = 2;

/// Bytes that are read and sent at once.
const READ_LEN: usize = 256 * 1024;
