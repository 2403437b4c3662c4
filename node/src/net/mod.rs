//! The network as this machine has it: its interfaces, and the datagram sockets of discovery.

pub mod interfaces;
pub mod udp;
