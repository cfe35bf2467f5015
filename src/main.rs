//! The `fanout` program.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

/// Records are kept in many small pieces; the system's allocator is much slower at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory that was freed goes back to the system after so many milliseconds (`MIMALLOC_PURGE_DELAY` in the environment says
/// otherwise). A plan that comes within that time takes over what the one before has left. The allocator's own second is over
/// before the next plan has its records, and to get pages anew costs a record up to a quarter of the coordinator's time.
const FREED_KEPT_MS: c_long = 10_000;
/// `mi_option_purge_delay` of the allocator's header, which its crate has no name for.
const PURGE_DELAY: c_int = 15;

fn main() -> ExitCode {
    keep_freed_memory();
    fanout::cli::main(std::env::args_os())
}

/// The only unsafe block there is; `benches/RESULTS.md` says what it is for ("The record path").
#[expect(unsafe_code, reason = "the allocator has no other way to be told")]
fn keep_freed_memory() {
    // SAFETY: it stores a number in a table of the allocator's, under a number that is in that table.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, FREED_KEPT_MS) }
}
