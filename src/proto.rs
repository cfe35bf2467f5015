//! The public contract, generated from `proto/fanout/v1`; its documentation is there.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("fanout.v1");

/// The compiled descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("fanout.v1");
