//! The older systems that a node speaks with, each as server and as client.
//!
//! Here are their frames, parsers and session state machines. Like the engines they refuse all I/O: what was received
//! and what time it is are arguments, what is to be done are outputs. Their formats are fixed by programs that exist, so
//! parsers take what those send, however odd, and refuse what none of them sends.

pub mod step;
pub mod striped;
pub mod tcp_put;
pub mod udp_get;
