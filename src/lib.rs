//! x
#![allow(missing_docs)]
pub mod json;
pub mod plan;
pub mod reconcile;
pub mod proto { #![allow(missing_docs, clippy::all)] tonic::include_proto!("fanout.v1"); }
