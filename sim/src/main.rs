//! `ftx-sim`: see the library's [`ftx_sim::cli`].

fn main() -> std::process::ExitCode {
    ftx_sim::cli::main()
}
