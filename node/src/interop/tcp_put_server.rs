//! Taking files that are pushed by TCP put, into the inbox.
//!
//! It owns one connection and the unfinished file of it. What is said is [`ftx_proto::interop::tcp_put`]'s. It refuses,
//! by closing, what cannot be stored: without an inbox everything, else a name that is taken or cannot be, and more than
//! there is room for on the disk and within the quotas, for which all who push by TCP put are one user. The protocol has
//! no word for why, so the log says it. A crash leaves a part without a name that the next start of the node throws away.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ftx_proto::interop::tcp_put::server::{Input, Output, Reason, ServerConfig, ServerSession};
use ftx_proto::name::{RelativePath, printable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout, timeout_at};

use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::interop::step_store::{InboxUsage, OWN_FOLDER, Reserved};
use crate::net::tcp::close_gently;
use crate::store::{Target, WholeFile};

/// Where files that are pushed go.
#[derive(Debug, Clone)]
pub struct TcpPutServer {
    /// The folder; without one nothing is taken.
    pub inbox: Option<PathBuf>,
    /// How much of it is taken; there is one if there is an inbox.
    pub usage: Option<Arc<InboxUsage>>,
    /// What time it is.
    pub clock: Clock,
}

/// One connection.
struct Taking {
    server: TcpPutServer,
    tcp: TcpStream,
    addr: SocketAddr,
    session: ServerSession,
    file: Option<WholeFile>,
    /// Room for all of it, from before it is made until it is gone or has its name.
    room: Option<Reserved>,
    name: String,
    size: u64,
    /// Bytes that are written.
    written: u64,
}

impl TcpPutServer {
    /// One connection, until its end.
    pub async fn serve(self, tcp: TcpStream, addr: SocketAddr) {
        let session = ServerSession::new(self.clock.now(), ServerConfig::default());
        let name = String::new();
        let mut taking =
            Taking { server: self, tcp, addr, session, file: None, room: None, name, size: 0, written: 0 };
        let reason = taking.run().await;
        // Nothing may be left of it when the client sees that the connection is closed.
        drop(taking.file.take());
        drop(taking.room.take());
        let Taking { tcp, name, size, .. } = taking;
        match reason {
            Reason::Stored => tracing::info!(%addr, %name, size, "taken by TCP put"),
            reason => tracing::warn!(%addr, %name, size, "TCP put: {reason}"),
        }
        close_gently(tcp).await;
    }
}

impl Taking {
    async fn run(&mut self) -> Reason {
        let mut buffer = vec![0; READ_LEN];
        let mut ended = false;
        loop {
            let Some(deadline) = self.session.deadline() else { return Reason::NotStored };
            let deadline = self.server.clock.instant(deadline);
            let received = if ended {
                sleep_until(deadline).await;
                None
            } else {
                timeout_at(deadline, self.tcp.read(&mut buffer)).await.ok()
            };
            let input = match received {
                None => Input::Tick,
                // A broken connection brings no more either.
                Some(Ok(0) | Err(_)) => {
                    ended = true;
                    Input::Ended
                }
                Some(Ok(len)) => Input::Received(&buffer[..len]),
            };
            self.session.handle(self.server.clock.now(), input);
            if let Some(reason) = self.carry_out(&buffer).await {
                return reason;
            }
        }
    }

    /// Does what the session wants, in order; the reason to close, if that is the end of it.
    async fn carry_out(&mut self, buffer: &[u8]) -> Option<Reason> {
        while let Some(output) = self.session.poll() {
            let done = match output {
                Output::Open { name, size } => {
                    self.name = printable(name.as_str()).to_string();
                    self.size = size;
                    self.open(name, size).await.map(|()| Some(Input::Opened))
                }
                Output::Data(range) => self.write(&buffer[range]).map(|()| None),
                Output::Send(word) => {
                    match timeout(SEND_MAX, self.tcp.write_all(word)).await {
                        Ok(Ok(())) => Ok(None),
                        // What it has sent counts all the same; that it is gone shows when it is read from.
                        Ok(Err(_)) | Err(_) => Ok(None),
                    }
                }
                Output::Finish => self.finish().await.map(|()| Some(Input::Finished)),
                Output::Close(reason) => return Some(reason),
            };
            match done {
                Ok(Some(input)) => self.session.handle(self.server.clock.now(), input),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(addr = %self.addr, name = %self.name, "TCP put refused: {error}");
                    return Some(Reason::NotStored);
                }
            }
        }
        None
    }

    async fn open(&mut self, name: RelativePath, size: u64) -> Result<(), Error> {
        let (Some(inbox), Some(usage)) = (self.server.inbox.clone(), self.server.usage.clone()) else {
            return Err(Error::other("this node has no inbox; --inbox DIR gives it one"));
        };
        if name.as_str() == OWN_FOLDER {
            return Err(Error::other("this name is used by the inbox itself"));
        }
        let opening = tokio::task::spawn_blocking(move || {
            // With a slash at its end, so that a folder in it that has this name is not taken for the place.
            let target = Target::new(&inbox.join(""), &name)?;
            let room = usage
                .reserve_for_nobody(size)
                .map_err(|denial| Error::new(Code::DiskFull, denial.to_string()))?;
            let file = WholeFile::create(target, false)?;
            file.check_room(size)?;
            Ok::<_, Error>((file, room))
        });
        let opened = opening.await.map_err(|_| Error::other("the file could not be opened"))?;
        let (file, room) = opened?;
        (self.file, self.room) = (Some(file), Some(room));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = &self.file else { return Err(Error::other("there is no file")) };
        file.data().write_at(self.written, bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Error> {
        let Some(mut file) = self.file.take() else { return Err(Error::other("there is no file")) };
        let (size, room) = (self.written, self.room.take());
        // Together, since it goes on when the connection ends meanwhile.
        let finishing = tokio::task::spawn_blocking(move || {
            file.finish(size)?;
            if let Some(room) = room {
                room.keep();
            }
            Ok::<_, Error>(())
        });
        finishing.await.map_err(|_| Error::other("the file could not be finished"))?
    }
}

/// Bytes that are read and written at once.
const READ_LEN: usize = 256 * 1024;

/// How long a word may take to be sent.
const SEND_MAX: Duration = Duration::from_secs(10);
