//! Bytes as they travel: the messages of native discovery and of native sessions, version 1, and their codec.

pub mod codec;
pub mod datagram;
pub mod discovery;
pub mod sealed;
pub mod session;
