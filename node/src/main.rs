//! `ftx-node`: see the library's [`ftx_node::cli`].

fn main() -> std::process::ExitCode {
    ftx_node::cli::main()
}
