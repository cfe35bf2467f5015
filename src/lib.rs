//! Fanout plans a batch of items as one task for each group, takes records from executors it never met, reconciles each
//! one the moment it arrives, and never lies about the outcome.
//!
//! From the inside out: [`json`] carries documents; [`plan`] and [`reconcile`] are the rules, [`engine`] a plan's state
//! machine, all three pure; [`journal`] keeps histories and [`registry`] live plans; [`coordinator`] orders effects;
//! [`service`] is gRPC and [`server`] the composition; [`cli`] is the program. `ARCHITECTURE.md` says who may import whom.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod engine;
pub mod identity;
pub mod journal;
pub mod json;
pub mod plan;
pub mod proto;
pub mod reconcile;
pub mod registry;
pub mod server;
pub mod service;
pub mod telemetry;
