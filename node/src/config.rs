//! What a node is started with, however it was said: on the command line, in the environment, in a file, in a program.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The port of discovery (UDP) and, where it is free, of sessions (TCP).
pub const DEFAULT_PORT: u16 = 10526;

/// What a node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// What it offers: folders, or single files.
    pub shares: Vec<PathBuf>,
    /// Confines it to the interfaces of this address.
    pub bind: Option<IpAddr>,
    /// Port of discovery, the same for all nodes of a network.
    pub port: u16,
    /// Whether it takes part in serving, and where.
    pub sessions: Sessions,
    /// Nodes that are asked directly, where broadcast does not reach.
    pub peers: Vec<SocketAddr>,
    /// Where its identity and its hashes are.
    pub state: PathBuf,
    /// What it calls itself.
    pub name: String,
    /// Bytes per second that it sends at most.
    pub max_upload: Option<u64>,
    /// Where it puts what others give it; without it, nobody can.
    pub inbox: Option<PathBuf>,
    /// The older systems that it serves.
    pub services: Services,
}

/// Which of the older systems a node serves, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Striped downloads; any port if none is named.
    pub striped: Option<ListenAt>,
    /// Files that are pushed by TCP put; port 5001 if none is named.
    pub tcp_put: Option<ListenAt>,
    /// udp-get, at the port of discovery.
    pub udp_get: bool,
}

/// Where a service listens, as far as that was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenAt {
    /// At which of the machine's addresses; else where the node is confined to, or at all of them.
    pub ip: Option<IpAddr>,
    /// At which port; else the usual one.
    pub port: Option<u16>,
}

impl FromStr for ListenAt {
    type Err = String;

    /// `ADDR:PORT`, `ADDR`, `PORT`, or nothing.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(ListenAt::default());
        }
        if let Ok(port) = text.parse() {
            return Ok(ListenAt { ip: None, port: Some(port) });
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(ListenAt { ip: Some(addr.ip()), port: Some(addr.port()) });
        }
        match text.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(ip) => Ok(ListenAt { ip: Some(ip), port: None }),
            Err(_) => Err(format!("'{text}' is no place to listen: give an address, a port or both")),
        }
    }
}

/// Whether and where a node takes sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// At the port of discovery; where another program has that, at any other.
    AtPort,
    /// At any port: for a node that lives for one fetch.
    Anywhere,
    /// Not at all: for a node that only looks around.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_are_said_in_part_or_whole() {
        let at = |ip: &str, port| {
            let ip = (!ip.is_empty()).then(|| ip.parse().unwrap());
            Ok(ListenAt { ip, port })
        };
        assert_eq!("".parse(), at("", None));
        assert_eq!("7".parse(), at("", Some(7)));
        assert_eq!("127.0.0.1".parse(), at("127.0.0.1", None));
        assert_eq!("127.0.0.1:0".parse(), at("127.0.0.1", Some(0)));
        assert_eq!("[::1]:9".parse(), at("::1", Some(9)));
        assert_eq!("[::1]".parse(), at("::1", None));
        assert_eq!("::1".parse(), at("::1", None));
        for wrong in ["here", "127.0.0.1:x", "70000"] {
            assert!(wrong.parse::<ListenAt>().is_err(), "{wrong}");
        }
    }
}
