//! A fetched folder from its first byte to its final names, with everything that comes in between.

#[path = "../folder_support/mod.rs"]
mod folder_support;
#[path = "../small_disk/mod.rs"]
mod small_disk;

mod fetching;
mod harness;
mod trouble;
mod updating;
