//! Many nodes on one machine: a demonstration, and a place to try them against failures.
//!
//! On loopback, the nodes are the real ones, with sockets, folders and identities of their own; only the threads are
//! shared. A map, in the order in which a run goes:
//!
//! * [`scenario`]: how many nodes, of which how many are killed, lie or are slow, and from a seed which and when;
//! * [`scratch`]: the folder that everything is in, and that nothing is left of; [`original`]: the content;
//! * [`fleet`]: the nodes, and what can be done to them;
//! * [`run`]: from the scenario to its [`outcome`], which says what went wrong, if anything did;
//! * [`soak`]: round after round of that for minutes or days, and whether anything grows;
//! * [`swarm`]: the same with one slow source and many that fetch, held against one that fetches alone;
//! * [`lan`]: hosts, links and losses made of network namespaces, and real processes of the node on them;
//! * [`virtual_lan`]: the asking side of the datagram lane on networks that exist in virtual time only;
//! * [`cli`]: the command line. [`threads`]: the runtimes that all nodes share.
//!
//! Nothing here leaves the machine: every node is confined to 127.0.0.1, or to namespaces without a way out.

pub mod cli;
pub mod fleet;
pub mod lan;
pub mod original;
pub mod outcome;
pub mod run;
pub mod scenario;
pub mod scratch;
pub mod soak;
pub mod swarm;
pub mod threads;
pub mod virtual_lan;
