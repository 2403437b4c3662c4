//! One connection to a server: a request out in one write, its reply in, within a time.
//!
//! It refuses to be used again after anything went wrong, so a late reply is never taken for that to a later request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ftx_proto::interop::step::client::{ClientError, ClientSession, Outcome, Refused, Request};
use ftx_proto::interop::step::token::classic_password;
use ftx_proto::interop::step::value::Key;
use ftx_proto::name::printable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::interop::Url;

/// A user of a server, and how the server is reached.
pub struct Account {
    user: String,
    password: Option<String>,
    host: String,
    port: u16,
    bind: Option<IpAddr>,
    reply_time: Duration,
    known: Mutex<Known>,
}

/// What the first connection found out for all others.
#[derive(Default)]
struct Known {
    /// Of the addresses that the host's name stands for, the one that answered.
    addr: Option<SocketAddr>,
    token: Option<String>,
}

/// Why a request came to nothing. The connection is of no use any more, but another one may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// There was no connection to begin with.
    Unreachable(String),
    /// It ended, or what came over it cannot be understood.
    Broken(String),
    /// The server did not answer in time.
    Silent,
    /// The server does not let the user in. Another connection is of no use either.
    LoginRefused(Refused),
}

/// A connection on which no request is outstanding.
pub(super) struct Connection {
    stream: TcpStream,
    session: ClientSession,
    buffer: Vec<u8>,
    reply_time: Duration,
}

impl Account {
    /// The account of `user` on a server, with the classic password if none is given. Every reply may take `reply_time`;
    /// with an address in `bind`, connections are made from there.
    pub fn new(
        user: String,
        password: Option<String>,
        (host, port): (String, u16),
        bind: Option<IpAddr>,
        reply_time: Duration,
    ) -> Self {
        Account { user, password, host, port, bind, reply_time, known: Mutex::default() }
    }

    /// The server, for people.
    pub(super) fn server(&self) -> String {
        format!("{} port {}", printable(&self.host), self.port)
    }

    /// What tells a file under `key` from all others anywhere; without one, what has no key yet.
    pub(super) fn place(&self, key: Option<&Key>) -> String {
        let (user, host, port) = (self.user.clone(), self.host.clone(), self.port);
        Url::Step { user, host, port, key: key.cloned() }.to_string()
    }

    /// How long every reply may take.
    pub(super) fn reply_time(&self) -> Duration {
        self.reply_time
    }

    /// A connection that is logged in: with the token that another one was given, if one was.
    pub(super) async fn connect(&self) -> Result<Connection, Lost> {
        let stream = timeout(self.reply_time, self.dial()).await.unwrap_or(Err(Lost::Silent))?;
        let token = self.known().token.clone();
        let is_known = token.is_some();
        let mut connection = Connection {
            stream,
            session: ClientSession::new(token),
            buffer: vec![0; READ_LEN],
            reply_time: self.reply_time,
        };
        if !is_known {
            self.log_in(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Asks for a token, for this connection and all later ones.
    pub(super) async fn log_in(&self, connection: &mut Connection) -> Result<(), Lost> {
        let password = self.password.clone().unwrap_or_else(|| classic_password(&self.user));
        let request = Request::Login { user: self.user.clone(), password };
        connection.ask(request).await?.map_err(Lost::LoginRefused)?;
        self.known().token = connection.session.token().map(str::to_owned);
        Ok(())
    }

    async fn dial(&self) -> Result<TcpStream, Lost> {
        let known = self.known().addr;
        let addrs: Vec<SocketAddr> = match known {
            Some(addr) => vec![addr],
            None => match lookup_host((self.host.as_str(), self.port)).await {
                Ok(addrs) => addrs.collect(),
                Err(error) => return Err(Lost::Unreachable(format!("its name does not resolve: {error}"))),
            },
        };
        let mut failed = "its name stands for no address that can be used".to_owned();
        for addr in addrs {
            match self.dial_addr(addr).await {
                Ok(stream) => {
                    self.known().addr = Some(addr);
                    return Ok(stream);
                }
                Err(error) => failed = format!("{addr}: {error}"),
            }
        }
        Err(Lost::Unreachable(failed))
    }

    async fn dial_addr(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bind) = self.bind {
            socket.bind(SocketAddr::new(bind, 0))?;
        }
        let stream = socket.connect(addr).await?;
        // A request waits for nothing that could come after it.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics half-way through a change of it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// What comes of a request. After an error the connection must not be used again.
    pub(super) async fn ask(&mut self, request: Request) -> Result<Outcome, Lost> {
        timeout(self.reply_time, self.exchange(request)).await.unwrap_or(Err(Lost::Silent))
    }

    async fn exchange(&mut self, request: Request) -> Result<Outcome, Lost> {
        let broken = |error: io::Error| Lost::Broken(error.to_string());
        let misunderstood = |error: ClientError| Lost::Broken(error.to_string());
        let bytes = self.session.begin(request).ok_or_else(|| Lost::Broken("it failed before".to_owned()))?;
        let written = self.stream.write_all(&bytes).await;
        loop {
            let received = match self.stream.read(&mut self.buffer).await {
                Ok(0) => {
                    let closed = io::Error::other("the server closed the connection without a reply");
                    return Err(broken(written.err().unwrap_or(closed)));
                }
                // Whoever refuses before the end of a request may have said so before it closed.
                Ok(len) => self.buffer.get(..len).unwrap_or_default(),
                Err(error) => return Err(broken(written.err().unwrap_or(error))),
            };
            if let Some(outcome) = self.session.received(received).map_err(misunderstood)? {
                return Ok(outcome);
            }
        }
    }

    /// Ends the session as clients do. Nobody answers, and nothing depends on it.
    pub(super) async fn farewell(mut self) {
        let bytes = self.session.farewell();
        let gone = async {
            let _ = self.stream.write_all(&bytes).await;
            let _ = self.stream.shutdown().await;
        };
        let _ = timeout(FAREWELL_TIME, gone).await;
    }
}

/// How much of a reply is read at once: more than a usual block with its header.
const READ_LEN: usize = 64 * 1024;

/// How long saying good-bye may take.
const FAREWELL_TIME: Duration = Duration::from_millis(500);
