//! The public contract, generated from `proto/fanout/v1`, and gRPC's health checking; their documentation is there.

mod codec;
pub mod records;

pub use codec::{Codec, FIELDS_PER_MESSAGE_MAX, Incoming, Outgoing, check_fields};
pub use generated::*;
pub use server::fanout_service_server;

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("fanout.v1");
}

/// The service's side, which has messages of its own for the record path.
#[allow(missing_docs, clippy::all)]
mod server {
    include!(concat!(env!("OUT_DIR"), "/server/fanout.v1.rs"));
}

/// gRPC's health checking protocol.
#[allow(missing_docs, clippy::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The compiled descriptors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
