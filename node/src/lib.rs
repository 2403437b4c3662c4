//! A node.

pub mod actors;
pub mod clock;
pub mod net;
