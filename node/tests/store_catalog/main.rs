//! A catalog as the rest of the node meets it: shares come up, files and folders change, nodes restart.

mod files;
mod folders;
mod harness;
