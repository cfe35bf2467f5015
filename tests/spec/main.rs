//! What Fanout promises, chapter by chapter. Every name is a sentence that could be false.

mod architecture;
mod harness;
mod json;
mod vectors;
mod vectors_hold;
