//! `serve` and `health`.

use std::time::Duration;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::banner::{self, Setting};
use super::client::{ServerAddress, channel, explain};
use super::config::FileOptions;
use super::files::write_out;
use super::serve_journal::JournalOptions;
use super::{DONE, FAILED, Failure, Outcome};
use crate::config::Config;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;
use crate::server::{self, Ended, Prepared, READINESS};
use crate::telemetry::{self, LogFormat, traces};

/// `fanout serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: FileOptions,
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    journal: JournalOptions,
    /// Form of log lines, on standard error. FANOUT_LOG says which (default: info).
    #[arg(long, env = "FANOUT_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,
}

impl Serve {
    /// Whether the settings are to be checked, and nothing is to be served.
    pub(super) fn only_checks(&self) -> bool {
        self.file.check_config
    }
}

/// `fanout health`.
#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    server: ServerAddress,
    /// The health service's name to ask for: readiness, liveness, fanout.v1.FanoutService, or empty.
    #[arg(long, default_value = READINESS)]
    service: String,
}

pub(super) async fn serve(command: Serve, settings: &[Setting]) -> Outcome {
    telemetry::start(command.log_format).map_err(Failure::new)?;
    let config = command.config;
    let danger = danger(&config);
    if let Some((danger, remedy)) = danger
        && !config.tls.insecure
    {
        return Err(Failure::new(format!(
            "--listen {}: {danger}; {remedy}, or say --insecure",
            config.listen
        )));
    }
    let endpoint = otlp_endpoint(&config)?;
    command.journal.check()?;
    let prepared = Prepared::read(&config).await?;
    if command.file.check_config {
        let of = command.file.config_file.as_deref();
        let of = of.map_or_else(String::new, |path| {
            format!(", those of {} included", path.display())
        });
        write_out(&format!("the settings are sound{of}\n"))?;
        return Ok(DONE);
    }
    let sending = send_spans(endpoint, &config).await?;
    allow_open_files(config.limits.connections_max);
    let (journal, kept) = command.journal.open().await?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::new(format!(
            "--listen {}: failed to bind: {error}",
            config.listen
        ))
    })?;
    let address = listener.local_addr()?;
    // Before the address is announced: who reads it may end this at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some((danger, _)) = danger {
        tracing::warn!(%address, danger, "insecure, as it was said to be");
    }
    tracing::info!(%address, version = telemetry::VERSION_AND_COMMIT, journal = kept, "serving");
    banner::say(settings, command.log_format);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal; exiting at once");
            std::process::exit(FAILED.into());
        });
    };
    let ended = server::run_prepared(prepared, journal, listener, config, shutdown).await;
    if let Some(sending) = sending {
        tokio::task::spawn_blocking(move || sending.end()).await?;
    }
    match ended? {
        Ended::Drained => tracing::info!("drained; bye"),
        Ended::Cut => tracing::warn!("some calls were cut; bye"),
    }
    Ok(DONE)
}

/// Files that may be open beside connections: those of plans, and what the process itself needs.
const FILES_BESIDE_CONNECTIONS: u64 = 256;

/// Has the system allow as many open files as so many connections need, as far as it does, and says so if that is too few.
fn allow_open_files(connections_max: usize) {
    let needed = (connections_max as u64).saturating_add(FILES_BESIDE_CONNECTIONS);
    let Ok((allowed, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if allowed >= needed {
        return;
    }
    let raised = needed.min(most);
    let open_files = match setrlimit(Resource::RLIMIT_NOFILE, raised, most) {
        Ok(()) => raised,
        Err(_) => allowed,
    };
    if open_files < needed {
        tracing::warn!(
            open_files,
            needed,
            connections_max,
            "the system allows fewer open files than --connections-max may need: raise its limit (ulimit -n), or lower this one"
        );
    }
}

/// The collector that spans are sent to, if there is one.
fn otlp_endpoint(config: &Config) -> Result<Option<String>, Failure> {
    let standard = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
    let endpoint = config.telemetry.otlp_endpoint.clone().or_else(standard);
    let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty());
    match endpoint.as_deref().map(traces::check_endpoint) {
        Some(Err(problem)) => Err(Failure::new(format!("--otlp-endpoint: {problem}"))),
        _ => Ok(endpoint),
    }
}

/// Begins to send spans, if there is a collector for them.
async fn send_spans(
    endpoint: Option<String>,
    config: &Config,
) -> Result<Option<traces::Sending>, Failure> {
    let Some(endpoint) = endpoint else {
        return Ok(None);
    };
    let authorities = match &config.telemetry.otlp_ca {
        Some(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let wrong = |error| Failure::new(format!("--otlp-ca {}: {error}", path.display()));
            Some(read.map_err(wrong)?)
        }
        None => None,
    };
    let sending = traces::start(&endpoint, authorities.as_deref());
    let sending = sending.map_err(|error| Failure::new(format!("--otlp-endpoint: {error}")))?;
    Ok(Some(sending))
}

/// What is dangerous about listening where these settings say, and what there is to do about it.
fn danger(config: &Config) -> Option<(&'static str, &'static str)> {
    let tls = &config.tls;
    if config.listen.ip().to_canonical().is_loopback() {
        None
    } else if tls.certificate.is_none() {
        Some((
            "other machines reach it, and without TLS whoever is on the way reads and changes everything",
            "give --tls-cert and --tls-key",
        ))
    } else if tls.client_authorities.is_none() && !config.auth.is_on() {
        Some((
            "other machines reach it, and anybody there reads and changes every plan",
            "give --tokens, --jwks or --tls-client-ca",
        ))
    } else {
        None
    }
}

/// How long a server may take to say whether it is ready.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn health(command: Health) -> Outcome {
    let Health {
        server: address,
        service,
    } = command;
    let mut client = HealthClient::new(channel(&address).await?);
    let server = address.server;
    let request = HealthCheckRequest {
        service: service.clone(),
    };
    let answer = tokio::time::timeout(HEALTH_TIMEOUT, client.check(request)).await;
    let answer = answer.map_err(|_| {
        Failure::new(format!(
            "{server} did not answer in {} s",
            HEALTH_TIMEOUT.as_secs()
        ))
    })?;
    let status = answer
        .map_err(|status| explain(&status))?
        .into_inner()
        .status();
    if status == ServingStatus::Serving {
        println!("{server} is serving");
        return Ok(DONE);
    }
    Err(Failure::new(format!(
        "{server} is not serving: {} is {}",
        service,
        status.as_str_name()
    )))
}
