//! See `checks::config`.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "a target runs one of them")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::config(data));
