//! The `fanout` program.

use std::process::ExitCode;

/// Records are kept in many small pieces; the system's allocator is much slower at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanout::cli::main(std::env::args_os())
}
