//! What Fanout promises, chapter by chapter. Every name is a sentence that could be false.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arbitrary;
mod architecture;
mod cli_documents;
mod cli_journal;
mod cli_large;
mod cli_refusals;
mod cli_server;
mod deadlines;
mod disk;
mod edge;
mod engine;
mod harness;
mod health;
mod hostile;
mod identity;
mod journal;
mod json;
mod nats;
mod objects;
mod outline;
mod panics;
mod plan_stream;
mod planned_tasks;
mod planning;
mod plans;
mod producers;
mod reading_records;
mod reconcile;
mod recovery;
mod refusals;
mod replicas;
mod restarts;
mod result_text;
mod run;
mod run_interrupted;
mod shutdown;
mod slow_journal;
mod submit_record;
mod tasks;
mod vectors;
mod vectors_hold;
mod watch_plan;
mod web;
