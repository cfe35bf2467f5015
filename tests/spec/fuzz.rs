//! Bytes of others, of any kind: none makes the program panic, and what must hold of all holds. The corpus that fuzzing found
//! worth keeping, and mutations of it for a bounded time.
//!
//! `FANOUT_FUZZ_SECONDS` says how long each check mutates (default 1); `scripts/fuzz` does it with coverage.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::harness::project;

/// One of several small changes at a place.
fn mutate(data: &mut Vec<u8>, other: &[u8], random: &mut TestRng) {
    let mut below = |limit: usize| usize::try_from(random.next_u64()).unwrap_or(0) % limit.max(1);
    let (place, byte) = (below(data.len() + 1), u8::try_from(below(256)).unwrap_or(0));
    match below(6) {
        0 if place < data.len() => data[place] ^= 1 << (byte % 8),
        1 if place < data.len() => data[place] = byte,
        2 => data.insert(place, byte),
        3 if place < data.len() => drop(data.drain(place..data.len().min(place + 1 + below(8)))),
        4 => {
            let from = below(other.len());
            let piece = &other[from..other.len().min(from + below(32))];
            data.splice(place..place, piece.iter().copied());
        }
        _ => data.truncate(place),
    }
}

fn run(name: &str, check: fn(&[u8])) {
    let folder = project(&format!("fuzz/corpus/{name}"));
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!corpus.is_empty(), "{name} has no corpus");
    corpus.iter().for_each(|data| check(data));
    let seconds = std::env::var("FANOUT_FUZZ_SECONDS").ok();
    let seconds = seconds
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(seconds);
    let seed: [u8; 32] = std::array::from_fn(|byte| u8::try_from(byte).unwrap());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut data = Vec::new();
    while Instant::now() < until {
        for _ in 0..64 {
            let mut any =
                || &corpus[usize::try_from(random.next_u64() >> 1).unwrap() % corpus.len()];
            let (base, other) = (any(), any());
            if data.len() > 4_096 || random.next_u32().is_multiple_of(4) {
                data.clone_from(base);
            }
            mutate(&mut data, other, &mut random);
            check(&data);
        }
    }
}

#[test]
fn no_bytes_break_what_reads_them() {
    for (name, check) in checks::ALL {
        run(name, check);
    }
}
