//! The older systems, as this node takes part in them: sockets, files and time around the state machines of
//! [`ftx_proto::interop`].

pub mod digests;
pub mod striped_server;
pub mod tcp_put_server;
pub mod udp_get_server;
