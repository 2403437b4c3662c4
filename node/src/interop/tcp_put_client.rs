//! Pushing a file by TCP put: the socket, the file and the time around [`ClientSession`].
//!
//! It owns one connection. It refuses to send a file that is changed meanwhile. A crash breaks the connection; what the
//! server then keeps is the server's to judge.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use ftx_proto::interop::tcp_put::client::{ClientConfig, ClientSession, Failure, Input, Output};
use ftx_proto::name::printable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, sleep_until, timeout};

use super::meter::Meter;
use super::outgoing;
use crate::catalog::ReadError;
use crate::catalog::content::{Stamp, check};
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::net::tcp::connect_to_host;

/// What is to be pushed, and where.
#[derive(Debug, Clone)]
pub struct TcpPutRequest {
    /// The file.
    pub path: PathBuf,
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The address to connect from, where the node is confined to one.
    pub local: Option<IpAddr>,
    /// How long the server may take for each step; `None` for what is usual.
    pub patience: Option<Duration>,
}

/// A file that the server has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Its bytes.
    pub size: u64,
    /// From the beginning to `OK`.
    pub elapsed: Duration,
}

/// Pushes the file, under its last name.
///
/// # Errors
/// [`Code::Usage`] for a file that cannot be sent, [`Code::Refused`], [`Code::Timeout`], [`Code::Network`].
pub async fn put(request: TcpPutRequest, meter: &Meter) -> Result<Pushed, Error> {
    let begun = Instant::now();
    let (file, stamp) = outgoing::open(&request.path)?;
    let name = request.path.file_name().and_then(|name| name.to_str());
    let unnamed = || Error::new(Code::Usage, format!("{} has no name to send", shown(&request.path)));
    let name = name.ok_or_else(unnamed)?;
    let TcpPutRequest { host, port, local, .. } = &request;
    let patience = request.patience.unwrap_or(CONNECT_MAX);
    let connected = connect_to_host(host, *port, *local, patience).await;
    let tcp = connected.map_err(|error| {
        let code = if error.kind() == io::ErrorKind::TimedOut { Code::Timeout } else { Code::Network };
        Error::new(code, format!("{host}, port {port}, cannot be reached: {error}"))
    })?;
    let clock = Clock::start();
    let usual = ClientConfig::default();
    let config = ClientConfig { answer_max: request.patience.unwrap_or(usual.answer_max) };
    let session = ClientSession::new(clock.now(), name, stamp.size, config)
        .map_err(|error| Error::new(Code::Usage, error.to_string()))?;
    let mut putting = Putting { request: &request, file, stamp, session, clock, meter };
    putting.run(tcp).await?;
    Ok(Pushed { size: stamp.size, elapsed: begun.elapsed() })
}

fn shown(path: &std::path::Path) -> String {
    printable(&path.display().to_string()).to_string()
}

struct Putting<'a> {
    request: &'a TcpPutRequest,
    file: File,
    stamp: Stamp,
    session: ClientSession,
    clock: Clock,
    meter: &'a Meter,
}

impl Putting<'_> {
    async fn run(&mut self, tcp: TcpStream) -> Result<(), Error> {
        // Both lines are to arrive as they are sent.
        tcp.set_nodelay(true).map_err(|error| self.broken(&error))?;
        let (mut reader, mut writer) = tcp.into_split();
        let mut ended = false;
        loop {
            while let Some(output) = self.session.poll() {
                match output {
                    Output::Send(line) => {
                        // A server that has closed shows that when it is read from.
                        let _ = timeout(SEND_MAX, writer.write_all(&line)).await;
                    }
                    Output::SendFile => {
                        self.send_file(&mut reader, &mut writer, &mut ended).await?;
                        self.session.handle(self.clock.now(), Input::Sent);
                    }
                    Output::Stored => return Ok(()),
                    Output::Failed(failure) => return Err(self.failed(failure)),
                }
            }
            let Some(deadline) = self.session.deadline() else {
                return Err(self.failed(Failure::NotConfirmed));
            };
            let mut buffer = [0; 64];
            tokio::select! {
                read = reader.read(&mut buffer), if !ended => self.received(read, &buffer, &mut ended),
                () = sleep_until(self.clock.instant(deadline)) => {
                    self.session.handle(self.clock.now(), Input::Tick);
                }
            }
        }
    }

    fn received(&mut self, read: io::Result<usize>, buffer: &[u8], ended: &mut bool) {
        let input = match read {
            // A broken connection brings no more either.
            Ok(0) | Err(_) => {
                *ended = true;
                Input::Ended
            }
            Ok(len) => Input::Received(&buffer[..len]),
        };
        self.session.handle(self.clock.now(), input);
    }

    /// Streams the file, and hears what the server says meanwhile.
    async fn send_file(
        &mut self,
        reader: &mut OwnedReadHalf,
        writer: &mut (impl AsyncWriteExt + Unpin),
        ended: &mut bool,
    ) -> Result<(), Error> {
        let size = self.stamp.size;
        self.meter.begin(size, 0);
        let mut buffer = vec![0; READ_LEN];
        let mut sent = 0;
        while sent < size {
            let len = usize::try_from(size - sent).unwrap_or(READ_LEN).min(READ_LEN);
            self.read(sent, &mut buffer[..len])?;
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let mut word = [0; 64];
                let silence_max = self.request.patience.unwrap_or(SEND_MAX);
                tokio::select! {
                    written = timeout(silence_max, writer.write(rest)) => match written {
                        Ok(Ok(count)) if count > 0 => rest = &rest[count..],
                        Ok(_) => return Err(self.failed(Failure::NotConfirmed)),
                        Err(_) => return Err(self.failed(Failure::Silent)),
                    },
                    read = reader.read(&mut word), if !*ended => {
                        self.received(read, &word, ended);
                        if *ended {
                            return Err(self.failed(Failure::NotConfirmed));
                        }
                    }
                }
            }
            sent += len as u64;
            self.meter.reach(sent);
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Changed,
            _ => ReadError::Unreadable(error),
        });
        read.and_then(|()| check(&self.file, &self.stamp)).map_err(|error| {
            Error::other(format!("{}: {error} while it was sent", shown(&self.request.path)))
        })
    }

    fn broken(&self, error: &io::Error) -> Error {
        let TcpPutRequest { host, port, .. } = self.request;
        Error::new(Code::Network, format!("{host}, port {port}: {error}"))
    }

    fn failed(&self, failure: Failure) -> Error {
        let TcpPutRequest { host, port, .. } = self.request;
        let code = match failure {
            Failure::Refused => Code::Refused,
            Failure::Silent => Code::Timeout,
            Failure::NotConfirmed | Failure::Unexpected => Code::Network,
        };
        let advice = match failure {
            Failure::Refused => {
                "; it gives no reason, but it may have a file of that name, no room, or take no more than one file"
            }
            Failure::Silent => "; is it a TCP put server? Give a slow one more time with --timeout",
            Failure::NotConfirmed | Failure::Unexpected => "",
        };
        Error::new(code, format!("{host}, port {port}: {failure}{advice}"))
    }
}

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long the server may take nothing.
const SEND_MAX: Duration = Duration::from_secs(60);

/// Bytes that are read and sent at once.
const READ_LEN: usize = 256 * 1024;
