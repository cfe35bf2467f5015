//! Runs vectors against this implementation: `cargo run --release --example conformance -- FILE.jsonl...`
//!
//! Each line of a file is `{name, kind, input, expected}` or `{name, kind, input, expected_error: true}`; a
//! `recommended` (or `recommended_error`, `recommended_text`) beside them wins, and `input_text` holds an input that is
//! not to be read before it is tested. Prints every failure with what was expected, then `N passed, N failed`.

use std::process::ExitCode;

#[path = "../tests/spec/vectors.rs"]
mod vectors;

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: conformance FILE.jsonl...");
        return ExitCode::from(1);
    }
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(1);
            }
        };
        for (line, vector) in text
            .split('\n')
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            match vectors::check(vector) {
                Ok(()) => passed += 1,
                Err(failure) => {
                    failed += 1;
                    println!("FAILED {file}:{} {failure}\n", line + 1);
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
