//! The older systems that a node speaks besides its own protocol, as server and as client: frames, parsers and session
//! state machines, without I/O.
//!
//! Programs of each by many authors are in use, so what those really send and tolerate decides here, not what would be
//! neat.

pub mod step;
