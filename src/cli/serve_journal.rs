//! Where `serve` keeps plans: in memory, in a directory, or in a NATS JetStream stream that other replicas share.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::Failure;
use crate::journal::disk::{self, Disk};
use crate::journal::nats::{self, Nats};
use crate::journal::{Journal, Memory};

/// Where plans are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where plans are kept")]
pub(super) struct JournalOptions {
    /// Keep plans in this directory, so that they survive the process. Without it they live in memory and die with it.
    /// One process at a time may have the directory.
    #[arg(long, env = "FANOUT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// When a record is acknowledged: fsync, when the disk has it, so that neither a crash of the process nor of the
    /// machine loses it; os, when the operating system has it, so that only a crash of the machine can.
    #[arg(
        long,
        env = "FANOUT_DURABILITY",
        value_enum,
        default_value = "fsync",
        requires = "data_dir"
    )]
    durability: Durability,
    /// Keep plans in a stream of NATS JetStream (2.9 or later), where any number of processes serve the same plans.
    /// Servers are separated by commas: nats://[USER:PASSWORD@|TOKEN@]HOST:PORT, or tls://.
    #[arg(
        long,
        env = "FANOUT_NATS",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with = "data_dir"
    )]
    nats: Vec<String>,
    /// Name of the stream: letters, digits, - and _. It is made if it is not there; all who serve the same plans name the
    /// same one.
    #[arg(
        long,
        env = "FANOUT_NATS_STREAM",
        value_name = "NAME",
        default_value = "fanout",
        requires = "nats",
        value_parser = stream_name
    )]
    nats_stream: String,
    /// How many NATS servers are to have what is acknowledged, if the stream is made: 1 to 5.
    #[arg(
        long,
        env = "FANOUT_NATS_REPLICAS",
        value_name = "N",
        default_value_t = 1,
        requires = "nats",
        value_parser = clap::value_parser!(u8).range(1..=5)
    )]
    nats_replicas: u8,
    /// A file of NATS credentials.
    #[arg(
        long,
        env = "FANOUT_NATS_CREDENTIALS",
        value_name = "FILE",
        requires = "nats"
    )]
    nats_credentials: Option<PathBuf>,
    /// A PEM file of certificates to trust in NATS servers, beside the system's.
    #[arg(long, env = "FANOUT_NATS_CA", value_name = "FILE", requires = "nats")]
    nats_ca: Option<PathBuf>,
    /// A PEM file of a certificate to show to NATS servers.
    #[arg(
        long,
        env = "FANOUT_NATS_CERT",
        value_name = "FILE",
        requires_all = ["nats", "nats_key"]
    )]
    nats_cert: Option<PathBuf>,
    /// A PEM file of its key.
    #[arg(
        long,
        env = "FANOUT_NATS_KEY",
        value_name = "FILE",
        requires_all = ["nats", "nats_cert"]
    )]
    nats_key: Option<PathBuf>,
}

/// When a record is acknowledged.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Durability {
    Fsync,
    Os,
}

impl JournalOptions {
    /// Looks whether what is said of NATS can be meant; nobody is connected to.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let checked = nats::check_servers(&self.nats);
        checked.map_err(|error| Failure::new(format!("--nats: {error}")))
    }

    /// The journal, and in a word what it is.
    pub(super) async fn open(self) -> Result<(Arc<dyn Journal>, &'static str), Failure> {
        if !self.nats.is_empty() {
            let options = nats::Options {
                servers: self.nats,
                stream: self.nats_stream,
                replicas: self.nats_replicas.into(),
                credentials: self.nats_credentials,
                certificate_authority: self.nats_ca,
                certificate: self.nats_cert.zip(self.nats_key),
            };
            let opened = Nats::connect(&options).await;
            let nats = opened.map_err(|error| Failure::new(format!("--nats: {error}")))?;
            return Ok((Arc::new(nats), "NATS"));
        }
        let Some(directory) = self.data_dir else {
            return Ok((Arc::new(Memory::default()), "memory"));
        };
        let mut options = disk::Options::new(directory);
        let kept = match self.durability {
            Durability::Fsync => {
                options.durability = disk::Durability::Fsync;
                "disk, fsync"
            }
            Durability::Os => {
                options.durability = disk::Durability::Os;
                "disk, os"
            }
        };
        let opened = tokio::task::spawn_blocking(move || Disk::open(&options));
        let disk = opened
            .await?
            .map_err(|error| Failure::new(format!("--data-dir: {error}")))?;
        Ok((Arc::new(disk), kept))
    }
}

/// What NATS takes for a stream, and a subject's first word.
fn stream_name(text: &str) -> Result<String, String> {
    let is_one = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&text.len()) && text.chars().all(is_one) {
        return Ok(text.to_owned());
    }
    Err("is not 1 to 64 letters, digits, - and _".to_owned())
}
