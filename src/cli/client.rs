//! A connection to a coordinator, and what its errors say to people.

use std::error::Error;
use std::time::Duration;

use clap::Args;
use tonic::Status;
use tonic::codegen::http::Uri;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Channel, Endpoint};
use tonic_types::StatusExt;

use super::Failure;
use super::access::{Access, Token};
use super::client_tls::{self, Private};
use crate::proto::fanout_service_client::FanoutServiceClient;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_client::HealthClient;
use crate::server::LIVENESS;

/// What calls go through: a connection, and with each the token.
pub(super) type Admitted = InterceptedService<Channel, Token>;
/// A client of the service.
pub(super) type Client = FanoutServiceClient<Admitted>;

/// Which coordinator to talk to.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerAddress {
    /// Address of the coordinator: host:port, or an http:// or https:// URL.
    #[arg(
        long,
        env = "FANOUT_SERVER",
        default_value = "127.0.0.1:7117",
        value_name = "ADDRESS"
    )]
    pub(super) server: String,
    #[command(flatten)]
    pub(super) access: Access,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(20));
/// Largest answer taken: more than a server with default limits sends.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Connects.
pub(super) async fn connect(address: &ServerAddress) -> Result<Client, Failure> {
    let client = FanoutServiceClient::new(channel(address).await?);
    Ok(client
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Opens a channel.
pub(super) async fn channel(address: &ServerAddress) -> Result<Admitted, Failure> {
    let ServerAddress { server, access } = address;
    let wrong =
        |problem: &str| Failure::new(format!("--server {server}: {problem}; expected host:port"));
    let is_url = server.contains("://");
    let url = if is_url {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let uri: Uri = url.parse().map_err(|_| wrong("invalid URI"))?;
    if !is_url && uri.port().is_none() {
        return Err(wrong("names no port"));
    }
    let token = access.token()?;
    let channel = match uri.scheme_str() {
        Some("https") => private_channel(server, &uri, access).await?,
        Some("http") => {
            if let Some(setting) = access.only_over_tls() {
                let problem =
                    format!("{setting} is for an https:// address, and --server is {server}");
                return Err(Failure::new(problem));
            }
            if token.is_there() && !is_loopback(&uri) {
                eprintln!(
                    "warning: the token goes to {server} without TLS: whoever is on the way can read it"
                );
            }
            let connecting = endpoint(url).map_err(|error| wrong(&error.to_string()))?;
            connecting
                .connect()
                .await
                .map_err(|error| unreachable(server, &error))?
        }
        _ => return Err(wrong("is neither http:// nor https://")),
    };
    Ok(InterceptedService::new(channel, token))
}

async fn private_channel(server: &str, uri: &Uri, access: &Access) -> Result<Channel, Failure> {
    let private = Private::new(uri, access.clone())?;
    // The connector makes the connections private itself, which the transport does not have to know.
    let authority = uri
        .authority()
        .map(|authority| authority.as_str())
        .unwrap_or_default();
    let endpoint = endpoint(format!("http://{authority}"))?.origin(uri.clone());
    let connecting = private.clone();
    let connector = tower::service_fn(move |_: Uri| connecting.clone().connect());
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|error| unreachable(server, &error))?;
    // With TLS 1.3 who is not let in learns it from the first answer. So that it is not taken for a server that is away,
    // which is waited for, something is asked that everybody may.
    let alive = HealthCheckRequest {
        service: LIVENESS.to_owned(),
    };
    let mut health = HealthClient::new(channel.clone());
    let greeted = tokio::time::timeout(CONNECT_TIMEOUT, health.check(alive)).await;
    if let Ok(Err(_)) = greeted
        && let Some(advice) = private.refusal()
    {
        return Err(Failure::new(format!("{server}: {advice}")));
    }
    Ok(channel)
}

fn endpoint(url: String) -> Result<Endpoint, transport::Error> {
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .tcp_nodelay(true))
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

fn unreachable(server: &str, error: &transport::Error) -> Failure {
    if let Some(advice) = client_tls::explain(error) {
        return Failure::new(format!("{server}: {advice}"));
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Failure::new(format!(
        "no coordinator answers at {server} ({cause}); start one with `fanout serve`, or give --server"
    ))
}

/// What to do about a call that failed on the way, if that is known.
fn advice(status: &Status) -> Option<String> {
    client_tls::explain(status.source()?)
}

/// What a status says, with the machine's word for it.
pub(super) fn explain(status: &Status) -> Failure {
    if let Some(advice) = advice(status) {
        return Failure::new(format!("the coordinator cannot be reached: {advice}"));
    }
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
