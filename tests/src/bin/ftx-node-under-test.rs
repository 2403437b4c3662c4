//! The node, as a binary of this package: cargo builds it before the tests and tells them where it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    ftx_node::cli::main()
}
