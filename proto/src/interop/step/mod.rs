//! STEP, the Simple Transfer and Exchange Protocol: sessions with tokens, files in numbered blocks, and small data.
//!
//! It owns the bytes and the behaviour of both sides: [`frame`] and [`message`] (what travels), [`value`], [`block`] and
//! [`token`] (values that cannot be wrong once made), [`server`] and [`client`] (one connection), [`upload`] and
//! [`download`] (one file over many connections). It refuses to touch files, passwords' hashes, sockets and clocks: the
//! server asks its shell through [`store::StoreRequest`] and [`server::Output`]. A crash loses the sessions, which the
//! protocol lets a client begin anew at any request, and no block that the store has confirmed.
//!
//! A connection carries requests one after the other, each a frame of JSON and binary data, and one reply for each in
//! the same order.

mod answer;
pub mod block;
pub mod client;
pub mod download;
pub mod frame;
pub mod limits;
pub mod message;
mod queue;
mod refusal;
pub mod server;
pub mod store;
pub mod token;
pub mod upload;
pub mod value;

/// The port that servers listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 1379;
