//! Plain TCP connections, as the older systems use them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Connects to `addr`, from the address `local` where the node is confined to one.
///
/// # Errors
/// What the system says; [`io::ErrorKind::TimedOut`] after `patience`.
pub async fn connect(addr: SocketAddr, local: Option<IpAddr>, patience: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(local) = local {
            if local.is_loopback() && !addr.ip().is_loopback() || local.is_ipv4() != addr.is_ipv4() {
                let text = format!("{addr} cannot be reached from {local}, which --bind names");
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
            }
            socket.bind(SocketAddr::new(local, 0))?;
        }
        socket.connect(addr).await
    };
    timeout(patience, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The addresses that a host on the command line stands for; those that can be reached from `local` first.
///
/// # Errors
/// What the system says, or that there is none.
pub async fn addresses_of(host: &str, port: u16, local: Option<IpAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    found.sort_by_key(|addr| local.is_some_and(|local| local.is_ipv4() != addr.is_ipv4()));
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "this host has no address"));
    }
    Ok(found)
}

/// Connects to the first address of a host that answers.
///
/// # Errors
/// What the system says of the last one.
pub async fn connect_to_host(
    host: &str,
    port: u16,
    local: Option<IpAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let mut failed = None;
    for addr in addresses_of(host, port, local).await? {
        match connect(addr, local, patience).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// Ends a connection so that what was sent last arrives: a socket that is closed with something unread in it sends a
/// reset, which may overtake that.
pub async fn close_gently(mut tcp: TcpStream) {
    let closing = async {
        tcp.shutdown().await?;
        let mut rest = [0; 4096];
        let mut room = UNREAD_MAX;
        while room > 0 {
            let len = tcp.read(&mut rest).await?;
            if len == 0 {
                break;
            }
            room = room.saturating_sub(len);
        }
        io::Result::Ok(())
    };
    // Whoever does not take the last word has gone.
    let _ = timeout(CLOSING_MAX, closing).await;
}

/// How long the other side may take to close too.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// Most bytes that are read to be thrown away.
const UNREAD_MAX: usize = 1 << 20;
