//! The datagram lane: chunks in sealed datagrams, for networks that lose packets (see [`ftx_proto::wire::datagram`]).
//!
//! [`seal`] makes keys of a session's TLS, [`socket`] sends and receives many datagrams with one call, [`serving`]
//! answers those who ask.

pub mod seal;
pub mod serving;
pub mod socket;
