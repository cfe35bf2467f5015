//! A connection to a coordinator, and what its errors say to people.

use std::time::Duration;

use clap::Args;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use super::Failure;
use crate::proto::fanout_service_client::FanoutServiceClient;

/// A client of the service.
pub(super) type Client = FanoutServiceClient<Channel>;

/// Which coordinator to talk to.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerAddress {
    /// Address of the coordinator: host:port, or an http:// URL.
    #[arg(
        long,
        env = "FANOUT_SERVER",
        default_value = "127.0.0.1:7117",
        value_name = "ADDRESS"
    )]
    pub(super) server: String,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(20));
/// Largest answer taken: more than a server with default limits sends.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Connects.
pub(super) async fn connect(server: &str) -> Result<Client, Failure> {
    let client = FanoutServiceClient::new(channel(server).await?);
    Ok(client
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Opens a channel.
pub(super) async fn channel(server: &str) -> Result<Channel, Failure> {
    let url = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let endpoint = Endpoint::from_shared(url)
        .map_err(|error| Failure::new(format!("--server {server}: {error}; expected host:port")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Failure::new(format!(
            "no coordinator answers at {server} ({cause}); start one with `fanout serve`, or give --server"
        ))
    })
}

/// What a status says, with the machine's word for it.
pub(super) fn explain(status: &Status) -> Failure {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| format!(", {}", info.reason))
        .unwrap_or_default();
    Failure::new(format!(
        "{} ({:?}{reason})",
        status.message(),
        status.code()
    ))
}
