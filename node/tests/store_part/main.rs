//! A part file from its first byte to its final name, with everything that comes in between.

mod disk;
mod harness;
mod place;
mod resume;
