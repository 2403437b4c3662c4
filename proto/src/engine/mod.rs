//! The state machines that decide: one `Input` enum, one `Output` enum each; a mutation, then drain the outputs until
//! the next deadline. Time and randomness are arguments, and no engine ever sees a chunk's bytes.

pub mod discovery;
pub mod fetch;
pub mod pull;
pub mod serve;
