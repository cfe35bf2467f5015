//! Compiles the public contract and the journal's format in `proto`, and gRPC's own in `third_party`, with a pure-Rust compiler, so that a build needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=third_party");
    let files = protox::compile(
        [
            "fanout/v1/plan.proto",
            "fanout/v1/quarantine.proto",
            "fanout/v1/record.proto",
            "fanout/v1/task.proto",
            "fanout/v1/fanout_service.proto",
            "grpc/health/v1/health.proto",
        ],
        ["proto", "third_party"],
    )?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    // The health service is small: its messages, client and server stand together.
    let (health, fanout) = files
        .file
        .into_iter()
        .partition(|file| file.package() == "grpc.health.v1");
    let (health, fanout) = (files_of(health), files_of(fanout));
    configure().compile_fds(health)?;
    configure()
        .build_server(false)
        .compile_fds(fanout.clone())?;
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    let own = OWN_MESSAGES.iter().fold(
        configure().extern_path(".fanout.v1", "crate::proto"),
        |own, (message, stand_in)| own.extern_path(message, stand_in),
    );
    own.build_client(false)
        .out_dir(server)
        .compile_fds(fanout)?;
    // Nobody asks a server by reflection how its disk is written.
    let journal = protox::compile(["fanout/journal/v1/journal.proto"], ["proto"])?;
    configure().btree_map(".").compile_fds(journal)?;
    Ok(())
}

/// Messages that the service reads and writes by itself; see `src/proto/records.rs`.
const OWN_MESSAGES: [(&str, &str); 5] = [
    (
        ".fanout.v1.SubmitRecordRequest",
        "crate::proto::records::RecordsMessage",
    ),
    (
        ".fanout.v1.SubmitRecordsRequest",
        "crate::proto::records::RecordsMessage",
    ),
    (
        ".fanout.v1.SubmitRecordResponse",
        "crate::proto::records::WrittenMessage",
    ),
    (
        ".fanout.v1.SubmitRecordsResponse",
        "crate::proto::records::WrittenMessage",
    ),
    (
        ".fanout.v1.WatchPlanResponse",
        "crate::proto::records::WrittenMessage",
    ),
];

fn configure() -> tonic_prost_build::Builder {
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::Codec")
}

fn files_of(file: Vec<FileDescriptorProto>) -> FileDescriptorSet {
    FileDescriptorSet { file }
}
