//! The harness of the end-to-end tests: real processes of the node, real sockets, real files.
//!
//! The tests are in `tests/`, one file a topic, and read as stories on top of this:
//!
//! * [`network`]: a [`TestNet`] is a network of its own on loopback, apart from every other test that runs now; a
//!   [`Machine`] is a place where the node can be started;
//! * [`process`]: a node that runs, its output, its events, its end. Whatever is waited for has a deadline, and a
//!   missed one fails the test with all that the process has said;
//! * [`share`]: a node that shares a folder, known to be ready;
//! * [`data`]: contents made from a seed, and their hashes; [`tree`]: the same for folders of files;
//! * [`crash`]: processes killed at moments chosen from a seed, again and again; [`power`]: a disk that loses its power;
//! * [`inside`]: a test that runs in namespaces of its own, with file systems of its own;
//! * [`evil`]: peers and clients that break the protocol;
//! * [`step`]: a client of STEP, written from what its servers say on the wire;
//! * [`step_peer`]: a STEP server of another author, with quirks;
//! * [`lan`]: hosts, bridges and broadcast in network namespaces.
//!
//! Nothing here waits by sleeping, uses a fixed port, or sends anything that could leave the machine: on loopback the
//! node is bound to 127.0.0.1, and the namespaces have no link to the outside.

pub mod crash;
pub mod data;
pub mod evil;
pub mod inside;
pub mod lan;
pub mod network;
pub mod power;
pub mod process;
pub mod share;
pub mod step;
pub mod step_peer;
pub mod tree;

pub use data::{Content, listing, md5_hex, sha256_hex, sha256_of_file};
pub use lan::Lan;
pub use network::{Machine, TestNet};
pub use process::{Finished, Invocation, Running};
pub use rustix::process::Signal;
pub use share::Share;

/// A fresh [`TestNet`] for the node that cargo has built for this test.
#[macro_export]
macro_rules! net {
    () => {
        $crate::TestNet::new($crate::binary!())
    };
}

/// The path of the node that cargo has built for this test.
#[macro_export]
macro_rules! binary {
    () => {
        env!("CARGO_BIN_EXE_ftx-node-under-test")
    };
}
