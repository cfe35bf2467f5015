//! Settings of what the server tells of itself.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where metrics, probes and traces are to be had.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Telemetry")]
pub struct Telemetry {
    /// Address for plain HTTP: /metrics for Prometheus, /livez and /readyz for probes. Neither plans nor anything that a
    /// caller sent are told there.
    #[arg(long, env = "FANOUT_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// OpenTelemetry collector that spans are sent to over gRPC (OTLP): http://HOST:PORT, or https://HOST:PORT for TLS. If it is
    /// not given, OTEL_EXPORTER_OTLP_ENDPOINT is looked at.
    #[arg(
        long,
        env = "FANOUT_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: Option<String>,
    /// A PEM file of authorities: the certificate of an https:// collector has to be signed by one of them, instead of one of
    /// the system's.
    #[arg(long, env = "FANOUT_OTLP_CA", value_name = "FILE")]
    pub otlp_ca: Option<PathBuf>,
}
