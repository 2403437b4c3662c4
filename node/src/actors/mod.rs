//! The actors: each owns one kind of state, and they exchange facts, never chunk bytes.

pub mod catalog;
