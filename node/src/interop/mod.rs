//! The older systems, as this node takes part in them: the files, sums and users behind their servers, and their clients,
//! around the state machines of [`ftx_proto::interop`]. The servers' connections are in [`crate::actors`].

pub mod digests;
pub mod meter;
pub mod step_client;
pub mod step_store;
pub mod step_users;
pub mod sum;
pub mod url;

pub use url::Url;
