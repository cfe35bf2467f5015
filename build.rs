//! Compiles the public contract in `proto`, and gRPC's own in `third_party`, with a pure-Rust compiler, so that a build needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

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
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::Codec")
        .compile_fds(files)?;
    Ok(())
}
