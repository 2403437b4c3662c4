//! A fetched folder from its first byte to its final names, with everything that comes in between.

#[path = "../folder_support/mod.rs"]
mod folder_support;

mod fetching;
mod harness;
mod trouble;
mod updating;
