//! Fetching: what is shared between the actors that decide and the tasks that carry bytes.
//!
//! * [`candidates`]: who may give a content, from the first offer to being dropped;
//! * [`landing`]: where chunks land: claimed, hashed, written, all in the task that received them;
//! * [`lane`]: one connection to a source, from the socket to the landing;
//! * [`pull`]: the same in datagrams, for networks that lose packets;
//! * [`meter`]: what a lane carries, for whoever chooses between lanes;
//! * [`report`]: what is told of a fetch while it runs and when it is done;
//! * [`resolve`]: from a name to a root, and to the nodes that have it.

mod arrived;
mod asked;
pub mod candidates;
pub mod landing;
pub mod lane;
pub mod meter;
pub mod pull;
pub mod report;
pub mod resolve;
pub mod search;
