//! What stands behind the older systems that the node speaks besides its own protocol: the files that their clients put
//! and get, sums of whole files, users.
//!
//! The bytes of those systems are in [`ftx_proto::interop`], their connections in [`crate::actors`].

pub mod digests;
pub mod step_store;
pub mod step_users;
