//! The older systems, as this node takes part in them: the files, sums and users behind their servers, and their clients,
//! around the state machines of [`ftx_proto::interop`]. The servers' connections are in [`crate::actors`].

mod arrived;
pub mod digests;
pub mod fetched;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub mod meter;
mod outgoing;
pub mod step_client;
pub mod step_store;
pub mod step_users;
pub mod striped_client;
pub mod striped_server;
pub mod sum;
pub mod tcp_put_client;
pub mod tcp_put_server;
pub mod udp_get_client;
pub mod udp_get_server;
pub mod url;

pub use url::Url;
