//! The composition: journal, coordinator, service, health, reflection and gRPC-Web on one listener, and how they end.

mod authority;
pub(crate) mod bounded_file;
mod certificates;
mod edge;
mod fair;
mod first_words;
mod key_set;
mod observed;
mod tls;

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;

use crate::config::{ANYBODYS_MESSAGE_BYTES_MAX, Config, PLAN_TIME_MAX, REQUEST_ID_LIFE, Times};
use crate::coordinator::{self, Clock, Coordinator, Limits};
use crate::identity::Authority;
use crate::journal::{self, Journal};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::fanout_service_server::FanoutServiceServer;
use crate::proto::health::health_server::HealthServer;
use crate::service::{Admission, Admitted, Fanout, HealthOf, Served};
pub use crate::service::{LIVENESS, Peer, READINESS};
use crate::{engine, plan};
use authority::Believed;
pub use certificates::CertificateError;
use certificates::Certificates;
use edge::Edge;
use observed::Observed;

/// Why the server did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptors do not describe a service.
    #[error("failed to set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// It cannot be said who may call.
    #[error("{0}")]
    Authority(String),
    /// The journal cannot say which plans it has.
    #[error("failed to read the journal: {0}")]
    Recovery(#[from] coordinator::Error),
    /// The port for metrics and probes cannot be opened.
    #[error("--metrics-listen {address}: failed to bind: {source}")]
    Observed {
        /// Its address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// There is to be TLS, and its certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every open call finished.
    Drained,
    /// Time was up; what was still open was cut.
    Cut,
}

/// Serves until `shutdown` resolves, with plans in memory, then drains: no longer ready, streams end and say so, calls
/// finish, connections close, at most for the configured grace.
///
/// # Errors
/// The service cannot be put together.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let journal = Arc::new(journal::Memory::default());
    run_with(journal, listener, config, shutdown).await
}

/// As [`run`], with plans' histories in this journal. Ready when all its plans are live again; until then, calls about
/// those that are not are answered with UNAVAILABLE.
///
/// # Errors
/// The service cannot be put together, the journal cannot say which plans it has, or the certificates cannot be used.
pub async fn run_with(
    journal: Arc<dyn Journal>,
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let prepared = Prepared::read(&config).await?;
    run_prepared(prepared, journal, listener, config, shutdown).await
}

/// What the settings name, as it was read: so that what is wrong with it is known before anything else is done.
pub struct Prepared {
    certificates: Option<Certificates>,
    /// Nothing where nobody has to say who they are.
    believed: Option<(Believed, Authority)>,
}

impl Prepared {
    /// Reads certificates, keys, and who may call. From then on SIGHUP does not end the process if there are certificates.
    /// To be called in a runtime.
    ///
    /// # Errors
    /// What cannot be read or used, and why.
    pub async fn read(config: &Config) -> Result<Self, Error> {
        let certificates = Certificates::read(&config.tls)?;
        let believed = if config.auth.is_on() {
            let shows_certificates = config.tls.client_authorities.is_some();
            let read = Believed::read(config.auth.clone(), shows_certificates).await;
            Some(read.map_err(Error::Authority)?)
        } else {
            None
        };
        Ok(Self {
            certificates,
            believed,
        })
    }
}

/// As [`run_with`], with what the settings name read before.
///
/// # Errors
/// The service cannot be put together, or the journal cannot say which plans it has.
pub async fn run_prepared(
    prepared: Prepared,
    journal: Arc<dyn Journal>,
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let config = Arc::new(config);
    let failure = journal.failure();
    let Prepared {
        certificates,
        believed,
    } = prepared;
    let (admission, believed) = match believed {
        Some((believed, authority)) => {
            let admission = Admission::new(authority);
            (Some(Arc::new(admission)), Some(believed))
        }
        None => (None, None),
    };
    let clock = Clock::system();
    let coordinator = Coordinator::before_recovery(journal, clock, limits(&config));
    let coordinator = Arc::new(coordinator);
    let fanout = Fanout::new(Arc::clone(&coordinator), Arc::clone(&config));
    let generated = FanoutServiceServer::new(fanout.clone())
        .max_decoding_message_size(config.limits.message_bytes_max)
        .max_encoding_message_size(config.limits.message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip);
    let mut recovering = pin!(coordinator.recover());
    // With a journal that has no plans, nobody sees that it was not ready.
    let recovered = poll_fn(|context| Poll::Ready(recovering.as_mut().poll(context)));
    let mut recovered = match recovered.await {
        Poll::Ready(recovered) => recovered.map(|_| true)?,
        Poll::Pending => false,
    };
    let (ready, readiness) = watch::channel(recovered);
    let mut journal_health = failure.unwrap_or_else(|| watch::channel(None).1);
    let mut sound = match &*journal_health.borrow_and_update() {
        None => true,
        Some(why) => {
            tracing::info!(why, "waiting for the journal; not ready yet");
            false
        }
    };
    ready.send_replace(recovered && sound);
    let most = ANYBODYS_MESSAGE_BYTES_MAX;
    let health = HealthServer::new(HealthOf::new(readiness.clone()));
    let health = health.max_decoding_message_size(most);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
    };

    let believing = admission.clone().zip(believed);
    let served = Served::beside(generated, fanout);
    let mut routes = Routes::new(Admitted::new(served, admission, clock));
    routes = routes.add_service(health);
    if !config.no_reflection {
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        routes = routes.add_service(v1.max_decoding_message_size(most));
        routes = routes.add_service(v1alpha.max_decoding_message_size(most));
    }
    let offered = certificates.as_ref().map(Certificates::offered);
    let edge = Edge::new(routes, offered, &config);
    let renewing = async {
        match certificates {
            Some(certificates) => certificates.keep_current().await,
            None => pending().await,
        }
    };
    let mut renewing = pin!(renewing);
    let observed = Observed {
        coordinator: Arc::clone(&coordinator),
        ready: readiness,
        connections: edge.connections.clone(),
    };
    // Open until this function is over.
    let _observing = match config.telemetry.metrics_listen {
        Some(address) => {
            let opened = observed.open(address).await;
            Some(opened.map_err(|source| Error::Observed { address, source })?)
        }
        None => None,
    };
    let accepting = edge.accept(listener);
    let mut accepting = pin!(accepting);
    let timers = async { coordinator.run_timers().await };
    let mut timers = pin!(timers);
    let mut shutdown = pin!(shutdown);
    let shared = async { coordinator.run_shared().await };
    let mut shared = pin!(shared);
    let following = async {
        match believing {
            Some((admission, believed)) => believed.follow(admission).await,
            None => pending().await,
        }
    };
    let mut following = pin!(following);

    loop {
        tokio::select! {
            () = &mut accepting => unreachable!("connections are accepted until the server drains"),
            () = &mut timers => unreachable!("timers run for ever"),
            () = &mut following => unreachable!("files are followed for ever"),
            () = &mut renewing => unreachable!("certificates are looked at for ever"),
            done = &mut recovering, if !recovered => {
                done?;
                recovered = true;
                ready.send_replace(sound);
            }
            () = &mut shared => unreachable!("others' appends are followed for ever"),
            Ok(()) = journal_health.changed() => {
                let failure = journal_health.borrow_and_update();
                match &*failure {
                    Some(why) => tracing::error!(why, "the journal has failed; not ready"),
                    None => tracing::info!("the journal is there"),
                }
                sound = failure.is_none();
                drop(failure);
                ready.send_replace(recovered && sound);
            }
            () = &mut shutdown => break,
        }
    }
    let Times {
        drain_delay,
        drain_grace,
        ..
    } = config.times;
    tracing::info!(
        delay_ms = drain_delay.as_millis(),
        grace_ms = drain_grace.as_millis(),
        "draining"
    );
    ready.send_replace(false);
    tokio::select! {
        () = &mut accepting => unreachable!("connections are accepted until the server drains"),
        () = &mut timers => unreachable!("timers run for ever"),
        () = &mut shared => unreachable!("others' appends are followed for ever"),
        () = tokio::time::sleep(drain_delay) => {}
    }
    edge.draining.cancel();
    edge.connections.close();
    let drained = async {
        tokio::select! {
            () = async { accepting.await; edge.connections.wait().await } => {}
            // What is still open may wait for others' appends.
            () = &mut shared => unreachable!("others' appends are followed for ever"),
        }
    };
    if tokio::time::timeout(drain_grace, drained).await.is_ok() {
        return Ok(Ended::Drained);
    }
    tracing::warn!("drain grace is over; cutting what is still open");
    edge.cut.cancel();
    edge.connections.wait().await;
    Ok(Ended::Cut)
}

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
            producers: limits.producers_per_plan_max,
            numbered_records: limits.numbered_records_max,
            ..engine::Limits::default()
        },
        task_request_bytes: limits.task_request_bytes_max,
        // With what else an answer has, it has to fit a message.
        one_task_request_bytes: limits.message_bytes_max / 2,
        id_bytes: limits.key_bytes_max,
        plans: limits.plans_max,
        tenant_plans: limits.tenant_plans_max,
        tenant_tasks: limits.tenant_tasks_max,
        tenant_bytes: limits.tenant_bytes_max,
        memory_bytes: limits.memory_bytes_max.bytes(),
        watchers_per_plan: limits.watchers_per_plan_max,
        request_ids: limits.request_ids_max,
        tenant_request_ids: limits.tenant_request_ids_max,
        request_id_life: REQUEST_ID_LIFE,
        deadline: PLAN_TIME_MAX,
        retention: config.times.retention,
    }
}
