//! A lossy network in virtual time, and fetches by the datagram lane over it.
//!
//! Every source has a link of its own to the switch; all share the last one, from the switch to the node that fetches,
//! as on a real LAN; what is asked goes back another way, as lossy. The engines that ask are the real ones; a source is
//! what the real one is: it answers each Want and remembers nothing. Other traffic may share the last link ([`rival`]).
//! A run takes no time but that of computing it, and is decided by its seed alone.
//!
//! * [`link`]: one direction of a link, and what goes wrong on it;
//! * [`scenario`]: what is to happen, and how it went;
//! * [`run`]: from the one to the other;
//! * `fetch`: the side that fetches, and what it checks of what comes;
//! * [`rival`]: senders that are not ours.
//!
//! It is a model: machines take no time, sockets lose nothing, and what is sent back never meets what comes.

mod fetch;
pub mod link;
pub mod rival;
pub mod run;
pub mod scenario;

pub use link::{Bursts, LinkCount, LinkSpec};
pub use rival::{Control, RivalSpec};
pub use run::PullRun;
pub use scenario::{FetchOutcome, FetchSpec, PullOutcome, PullScenario, SourceOutcome, SourceSpec};
