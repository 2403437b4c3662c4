//! The older systems, as this node takes part in them: sockets, files and time around the state machines of
//! [`ftx_proto::interop`].

pub mod meter;
pub mod step_client;
pub mod sum;
pub mod url;

pub use url::Url;
