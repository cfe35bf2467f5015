//! What Fanout promises, chapter by chapter. Every name is a sentence that could be false.

mod arbitrary;
mod architecture;
mod engine;
mod harness;
mod journal;
mod json;
mod planning;
mod reading_records;
mod vectors;
mod vectors_hold;
