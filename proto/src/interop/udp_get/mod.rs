//! UDP broadcast get: `get NAME` is broadcast, and whoever has the file sends all of it, in shuffled chunks of 1 KiB.
//!
//! There is no acknowledgement and no request for a part: who misses a chunk asks for the whole file again. So a server
//! learns only from a repeated request that something was lost, and a client that is done has no word for it.
//!
//! * [`wire`]: the three datagrams;
//! * [`order`]: the shuffled order of chunks, without a list of them;
//! * [`server`]: who is sent what, and how fast;
//! * [`client`]: what is missing, and when to ask again.

pub mod client;
pub mod order;
mod pace;
mod received;
pub mod server;
pub mod wire;

/// The port that requests go to.
pub const PORT: u16 = 10_526;
