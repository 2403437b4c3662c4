//! The protocol of ftx-node: bytes and behaviour, without I/O.
//!
//! No sockets, no files, no clock, no threads, no `unsafe`: whatever depends on those is an argument. So everything
//! here can be tested in virtual time, replayed from a seed, and fuzzed.
//!
//! A map, from the bottom up:
//!
//! * values that cannot be wrong once made: [`digest`] (roots, node ids), [`geometry`] (chunks, pieces, spans),
//!   [`merkle`] (the tree that names a content), [`name`] (safe relative paths), [`chunk_set`] (who has what);
//! * [`manifest`]: what a folder holds;
//! * [`wire`]: the messages of discovery and of sessions, their codec, and [`limits`];
//! * [`engine`]: the state machines that decide: fetching, serving, discovery;
//! * [`interop`]: the older systems that a node speaks with, frames and sessions.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod chunk_set;
pub mod digest;
pub mod engine;
pub mod geometry;
pub mod interop;
pub mod limits;
pub mod manifest;
pub mod merkle;
pub mod name;
pub mod time;
pub mod tokens;
pub mod wire;
