//! A local network of hosts on this machine, made of network namespaces, and a measurement on it.
//!
//! Loopback hides what a network does: links have a rate, packets get lost, broadcasts reach some and not others. So
//! here are Ethernet segments (bridges) and hosts on them (network namespaces), in a user and a mount namespace of their
//! own, without any link to the machine's network. They need no privileges where the system lets its users make
//! namespaces, and they are gone when the process is, however it ends.
//!
//! * [`keeper`]: the namespaces, and commands within them; [`network`]: segments, hosts, cables; [`shape`]: what a cable
//!   does to packets (rate, queue, loss);
//! * [`scenario`]: what is measured; [`run`]: how, with real processes ([`process`]); [`outcome`]: what came out;
//! * [`http`]: the web server that `curl` fetches from, to compare with.

pub mod http;
pub mod keeper;
pub mod network;
pub mod outcome;
pub mod process;
pub mod run;
pub mod scenario;
pub mod shape;

pub use keeper::LanError;
pub use network::{Cable, Host, Network, Segment};
pub use shape::{Loss, Rate, Shape};
