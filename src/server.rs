//! The composition: journal, coordinator, service, health and reflection on one listener, and how they end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use crate::config::{Config, REQUEST_ID_LIFE};
use crate::coordinator::{Clock, Coordinator, Limits};
use crate::journal;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::fanout_service_server::{FanoutServiceServer, SERVICE_NAME};
use crate::service::Fanout;
use crate::{engine, plan};

/// The health service's name for "may be sent work": false while draining.
pub const READINESS: &str = "readiness";

/// Flow control: a peer that is not read is stopped by its stream's window long before h2 takes its many small unread
/// frames for an attack; that guard allows half of the connection's window.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Streams that this side had to reset on one connection before it is closed.
const LOCAL_RESETS_MAX: usize = 1_024;

/// Why the server did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors do not describe a service.
    #[error("failed to set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The listener failed.
    #[error("failed to serve: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every open call finished.
    Drained,
    /// Time was up; what was still open was cut.
    Cut,
}

/// Serves until `shutdown` resolves, then drains: no longer ready, streams end and say so, calls finish, connections
/// close, at most for the configured grace.
///
/// # Errors
/// The listener fails, or the service cannot be put together.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let coordinator = Arc::new(Coordinator::new(
        Arc::new(journal::Memory::default()),
        Clock::system(),
        limits(&config),
    ));
    let draining = CancellationToken::new();
    let streams = TaskTracker::new();
    let fanout = Fanout::new(
        Arc::clone(&coordinator),
        config,
        draining.clone(),
        streams.clone(),
    );
    let fanout = FanoutServiceServer::new(fanout)
        .max_decoding_message_size(config.limits.message_bytes_max)
        .max_encoding_message_size(config.limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip);

    let (health, health_service) = tonic_health::server::health_reporter();
    for name in ["", SERVICE_NAME, READINESS] {
        health
            .set_service_status(name, ServingStatus::Serving)
            .await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };

    let stop_accepting = draining.clone();
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.limits.streams_per_connection_max)
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(config.times.keepalive_interval))
        .http2_keepalive_timeout(Some(config.times.keepalive_timeout))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(fanout)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async move { stop_accepting.cancelled().await },
        );
    let mut serving = pin!(serving);
    let timers = async { coordinator.run_timers().await };

    tokio::select! {
        ended = &mut serving => return ended.map(|()| Ended::Drained).map_err(Error::from),
        () = timers => unreachable!("timers run for ever"),
        () = shutdown => {}
    }
    tracing::info!(grace_ms = config.times.drain_grace.as_millis(), "draining");
    for name in ["", SERVICE_NAME, READINESS] {
        health
            .set_service_status(name, ServingStatus::NotServing)
            .await;
    }
    draining.cancel();
    streams.close();
    let drained = async {
        streams.wait().await;
        // A health watch never ends by itself; it has been told now, and is let go.
        tokio::time::sleep(HEALTH_WATCH_LINGER).await;
        for name in ["", SERVICE_NAME, READINESS] {
            let mut health = health.clone();
            health.clear_service_status(name).await;
        }
        serving.await
    };
    match tokio::time::timeout(config.times.drain_grace, drained).await {
        Ok(ended) => ended.map(|()| Ended::Drained).map_err(Error::from),
        Err(_) => {
            tracing::warn!("drain grace is over; cutting what is still open");
            Ok(Ended::Cut)
        }
    }
}

/// How long health watchers have to take in that the server is no longer ready.
const HEALTH_WATCH_LINGER: Duration = Duration::from_millis(50);

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        plan: plan::Limits {
            items: limits.items_per_plan_max,
            tasks: limits.tasks_per_plan_max,
            template_text_bytes: limits.task_request_bytes_max,
        },
        engine: engine::Limits {
            quarantined_records: limits.quarantined_records_max,
            document_bytes: limits.plan_document_bytes_max,
            ..engine::Limits::default()
        },
        task_request_bytes: limits.task_request_bytes_max,
        plans: limits.plans_max,
        watchers_per_plan: limits.watchers_per_plan_max,
        request_ids: limits.request_ids_max,
        request_id_life: REQUEST_ID_LIFE,
        retention: config.times.retention,
    }
}
