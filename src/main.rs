//! The `fanout` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    fanout::cli::main(std::env::args_os())
}
