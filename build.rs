//! Compiles the public contract and the journal's format in `proto`, and gRPC's own in `third_party`, with a pure-Rust compiler, so that a build needs no `protoc`; and finds out which commit is built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn Error>> {
    say_what_is_built();
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

/// Says version and commit to the program. The commit is that of the repository the package is in, if it is in one and a
/// release is built (development would be built anew at each commit); else `FANOUT_COMMIT` in the environment; else none.
/// The same commit is built the same.
fn say_what_is_built() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=FANOUT_COMMIT");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let of_repository = is_release.then(commit_of_repository).flatten();
    let commit = of_repository.or_else(|| env::var("FANOUT_COMMIT").ok());
    let is_commit = |text: &String| {
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex && (7..=64).contains(&text.len())
    };
    let commit = commit.filter(is_commit).unwrap_or_default();
    let commit = &commit[..commit.len().min(12)];
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=FANOUT_BUILD_COMMIT={commit}");
    match commit {
        "" => println!("cargo:rustc-env=FANOUT_BUILD_VERSION={version}"),
        _ => println!("cargo:rustc-env=FANOUT_BUILD_VERSION={version} ({commit})"),
    }
}

/// What is checked out here, if this is a repository of its own and git can be asked.
fn commit_of_repository() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let ask = |arguments: &[&str]| {
        let answer = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(answer.stdout).ok()?;
        answer.status.success().then(|| text.trim().to_owned())
    };
    let commit = ask(&["rev-parse", "HEAD"])?;
    // A file that is not there would have everything built anew each time.
    for name in ["HEAD", "logs/HEAD"] {
        let file = ask(&["rev-parse", "--git-path", name])?;
        if Path::new(&file).exists() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    Some(commit)
}
