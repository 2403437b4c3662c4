//! A peer-to-peer node that moves files on a local network: the shells around the engines of [`ftx_proto`].
//!
//! A map, in the order in which a file comes through:
//!
//! * [`cli`]: the command line; [`node`]: a running node, for programs that want one inside them; [`config`];
//! * [`actors`]: who owns what: Node, Discovery, Catalog, Server with its Sessions, Fetcher with its Sources;
//! * [`inbox`]: what other nodes put here;
//! * [`trust`]: which nodes are trusted; who is admitted is [`net::admission`];
//! * [`publishers`]: who gave what under which name;
//! * [`net`]: interfaces and datagrams, TLS, frames, connections, the writing side of a session;
//! * [`catalog`]: what is shared, hashed in the background; [`store`]: part files, journals, final names;
//! * [`hash`]: the hashes of many chunks, side by side;
//! * [`fetch`]: lanes and where their chunks land, from a name to a root, what is told of a fetch;
//! * [`status`]: what a running node tells its owner;
//! * [`interop`]: the older systems: what stands behind their servers, and their clients, by [`Url`](interop::Url);
//! * [`sandbox`]: what keeps a process to its folders; the command line uses it, a program may.
//!
//! Two [`runtimes`]: one for actors and discovery, one ([`node::Node::start`]'s `data`) for the connections of the older
//! systems, whose tasks hash, read and write what they carry themselves. A slow disk holds up the second, never the first.
//! Sessions and lanes share a few threads, and what carries datagrams has threads of its own.

pub mod actors;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
mod faults;
pub mod fetch;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod hash;
pub mod identity;
pub mod inbox;
pub mod interop;
pub mod limits;
pub mod net;
pub mod node;
pub mod publishers;
pub mod runtimes;
pub mod sandbox;
pub mod status;
pub mod store;
mod throttle;
pub mod trust;

pub use node::Node;
