//! The actors: shells that own state and sockets around the engines.
//!
//! ```text
//! Node ── Discovery
//!      ├─ Catalog
//!      ├─ Server ── Session, one for each connection that came in
//!      ├─ Fetcher, one for each fetch ── Source, one for each peer it gets chunks from
//!      ├─ StepListener ── StepSession, one for each connection of a STEP client
//!      ├─ UdpGet
//!      └─ Listener, one for each of striped and TCP put ── Connection, one for each that came in
//! ```
//!
//! They exchange facts, never chunks. No actor has a name (ractor's registry is global to the process, and several
//! nodes may live in one), every call has a time-out, and whoever fails is restarted or given up by its supervisor
//! without harm to the others: the policy is in [`node`].

mod accept;
pub mod catalog;
pub mod discovery;
pub mod fetcher;
pub mod link;
pub mod listener;
pub mod node;
mod places;
pub mod server;
pub mod session;
pub mod source;
pub mod step;
mod turns;
pub mod udp_get;
pub mod unwanted;
