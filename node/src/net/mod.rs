//! The network as this machine has it: interfaces and datagrams for discovery, authenticated streams for sessions.

pub mod connection;
pub mod datagram;
pub mod frame;
mod handshake;
pub mod interfaces;
pub mod pace;
pub mod records;
pub mod serving;
pub mod tcp;
pub mod tcp_info;
pub mod tls;
pub mod udp;
