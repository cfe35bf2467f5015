//! gRPC's health checking: whether this server may be sent work, and whether it is alive.

use std::pin::{Pin, pin};

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{closing, status};
use crate::proto::fanout_service_server::SERVICE_NAME;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

/// The name of "may be sent work": not while the server drains.
pub const READINESS: &str = "readiness";
/// The name of "need not be restarted": as long as it answers at all.
pub const LIVENESS: &str = "liveness";
/// The names that turn with readiness: the server as a whole, and what it serves.
const READY_NAMES: [&str; 3] = ["", SERVICE_NAME, READINESS];

/// Answers for this server's health.
pub struct HealthOf {
    ready: watch::Receiver<bool>,
}

impl HealthOf {
    /// Follows whether the server is ready.
    #[must_use]
    pub fn new(ready: watch::Receiver<bool>) -> Self {
        Self { ready }
    }
}

fn status_of(name: &str, ready: bool) -> Option<ServingStatus> {
    if name == LIVENESS {
        return Some(ServingStatus::Serving);
    }
    READY_NAMES.contains(&name).then_some(if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthOf {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        let status = status_of(name, *self.ready.borrow());
        let status = status.ok_or_else(|| status::health_name_not_found(name))?;
        Ok(Response::new(response(status)))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let ready = *self.ready.borrow();
        let names = READY_NAMES.into_iter().chain([LIVENESS]);
        let statuses = names.filter_map(|name| {
            let status = status_of(name, ready)?;
            Some((name.to_owned(), response(status)))
        });
        Ok(Response::new(HealthListResponse {
            statuses: statuses.collect(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let closing = closing(request.extensions());
        let name = request.into_inner().service;
        let mut ready = self.ready.clone();
        Ok(Response::new(Box::pin(async_stream::stream! {
            let mut closed = pin!(closing.cancelled_owned());
            let mut said = None;
            loop {
                let is_ready = *ready.borrow_and_update();
                let status = status_of(&name, is_ready).unwrap_or(ServingStatus::ServiceUnknown);
                if said.replace(status) != Some(status) {
                    yield Ok(response(status));
                }
                tokio::select! {
                    biased;
                    changed = ready.changed() => if changed.is_err() {
                        return;
                    },
                    () = &mut closed => {
                        yield Err(status::draining());
                        return;
                    }
                }
            }
        })))
    }
}
