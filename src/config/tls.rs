//! Settings of transport security: the server's certificate, whose certificates clients have to show, and how often to look
//! for new ones.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::duration;

/// How connections are kept private. Without a certificate they are not.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct Tls {
    /// A PEM file of the server's certificate, followed by those between it and its authority. With it, every connection
    /// has to be TLS.
    #[arg(
        long = "tls-cert",
        env = "FANOUT_TLS_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    pub certificate: Option<PathBuf>,
    /// A PEM file of its key.
    #[arg(
        id = "key",
        long = "tls-key",
        env = "FANOUT_TLS_KEY",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub key: Option<PathBuf>,
    /// A PEM file of authorities: every client has to show a certificate that one of them has signed.
    #[arg(
        long = "tls-client-ca",
        env = "FANOUT_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub client_authorities: Option<PathBuf>,
    /// Oldest version of TLS that is spoken.
    #[arg(
        long = "tls-min",
        env = "FANOUT_TLS_MIN",
        value_enum,
        default_value = "1.3"
    )]
    pub oldest: TlsVersion,
    /// How often to look whether these files have changed: at least 1s. SIGHUP has it done at once. New connections get the
    /// new ones.
    #[arg(
        long = "tls-reload-interval",
        env = "FANOUT_TLS_RELOAD_INTERVAL",
        default_value = "30s",
        value_parser = reload_interval,
        value_name = "TIME"
    )]
    pub reload_interval: Duration,
    /// Listen on an address that other machines reach although there is no TLS, or nobody has to say who they are.
    #[arg(
        long,
        env = "FANOUT_INSECURE",
        value_parser = BoolishValueParser::new()
    )]
    pub insecure: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2, for clients that know no better.
    #[value(name = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[value(name = "1.3")]
    V1_3,
}

impl Tls {
    /// No TLS, whatever else is set.
    pub fn switch_off(&mut self) {
        (self.certificate, self.key, self.client_authorities) = (None, None, None);
    }
}

fn reload_interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("is less than 1s".to_owned()),
    }
}
