//! A part file from its first byte to its final name, with everything that comes in between.

#[path = "../small_disk/mod.rs"]
mod small_disk;

mod disk;
mod harness;
mod place;
mod resume;
