//! A node.

pub mod actors;
pub mod catalog;
pub mod store;
