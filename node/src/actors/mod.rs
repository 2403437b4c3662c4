//! The actors: shells that own state and sockets around the engines.

pub mod discovery;
