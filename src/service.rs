//! gRPC: each method converts in, calls the coordinator, converts out.
//!
//! A handler's future is dropped when its client goes away, so whatever changes a plan runs on a task of its own.

mod admission;
mod call;
mod convert;
mod extent;
mod framing;
mod health;
mod peer;
mod plan_stream;
mod quarantine;
mod receipt;
mod reconcile_request;
mod record;
mod record_source;
mod served;
mod standing;
mod status;
mod submit_record;
mod tasks;
mod tenants;
mod watch_plan;
mod web;

pub use admission::{Admission, Admitted};
pub use call::{Closing, call};
pub use health::{HealthOf, LIVENESS, READINESS};
pub use peer::Peer;
pub use served::Served;
pub use web::in_a_browsers_words;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status, Streaming};

use admission::{caller, named};
use framing::{MessageStream, one_by_one};
use tenants::Tenants;

use crate::config::{Config, DOCUMENT_RECONCILIATIONS_MAX, PAGE_SIZE, REASON_BYTES_MAX};
use crate::coordinator::{
    Coordinator, Error, PlanCommand, PlanView, Registered, plan_id_of, request_name,
};
use crate::engine::EndReason;
use crate::identity::Caller;
use crate::proto::fanout_service_server::FanoutService;
use crate::proto::records::{RecordsMessage, WrittenMessage};
use crate::proto::{
    CancelPlanRequest, CancelPlanResponse, DeletePlanRequest, DeletePlanResponse,
    DiscardRecordRequest, DiscardRecordResponse, ExplainTaskRequest, ExplainTaskResponse,
    GetPlanRequest, GetPlanResponse, GetTaskRequest, GetTaskResponse, ListPlansRequest,
    ListPlansResponse, ListQuarantineRequest, ListQuarantineResponse, ListTasksRequest,
    ListTasksResponse, PlanRequest, PlanResponse, PlanStreamRequest, PlanStreamResponse,
    ReconcileRequest, ReconcileResponse, RematchRecordRequest, RematchRecordResponse,
    SealPlanRequest, SealPlanResponse, View, WatchPlanRequest,
};
use crate::telemetry::traces;

/// The service.
#[derive(Clone)]
pub struct Fanout {
    coordinator: Arc<Coordinator>,
    config: Arc<Config>,
    /// Places for plan streams.
    plan_streams: Arc<Semaphore>,
    /// Places for reconciling documents that come with a call.
    document_places: Arc<Semaphore>,
    tenants: Arc<Tenants>,
}

impl Fanout {
    /// The service over a coordinator.
    #[must_use]
    pub fn new(coordinator: Arc<Coordinator>, config: Arc<Config>) -> Self {
        let most = config.limits.plan_streams_max.min(Semaphore::MAX_PERMITS);
        let tenants = Tenants::new(&config.limits);
        Self {
            coordinator,
            config,
            plan_streams: Arc::new(Semaphore::new(most)),
            document_places: Arc::new(Semaphore::new(DOCUMENT_RECONCILIATIONS_MAX)),
            tenants: Arc::new(tenants),
        }
    }
}

/// Cancelled when a call's connection is about to be closed: because of its age, or because the server drains. What
/// would wait longer ends then, and says so.
fn closing(extensions: &Extensions) -> CancellationToken {
    let closing = extensions.get::<Closing>();
    closing.map(|closing| closing.0.clone()).unwrap_or_default()
}

/// Runs a call on a task of its own, so that it finishes also if nobody waits for it.
async fn detached<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(traces::carried(call)).await {
        Ok(answer) => answer.map_err(|error| status::of(&error)),
        Err(_) => Err(status::panicked()),
    }
}

#[tonic::async_trait]
impl FanoutService for Fanout {
    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanResponse>, Status> {
        let caller = caller(request.extensions());
        let request = request.into_inner();
        let limits = self.config.limits;
        let page_size = convert::page_size(request.page_size, PAGE_SIZE.0)?;
        let mut command = blocking(move || convert::plan_command(request, &limits)).await?;
        of_tenant(&mut command, &caller)?;
        let response = self.register(command, &caller, page_size, ()).await?;
        Ok(Response::new(response))
    }

    async fn plan_stream(
        &self,
        request: Request<Streaming<PlanStreamRequest>>,
    ) -> Result<Response<PlanStreamResponse>, Status> {
        let closing = closing(request.extensions());
        let caller = caller(request.extensions());
        let planned = plan_stream::serve(self, &caller, request.into_inner(), &closing).await;
        planned.map(Response::new)
    }

    type SubmitRecordStream = MessageStream;

    async fn submit_record(
        &self,
        request: Request<Streaming<RecordsMessage>>,
    ) -> Result<Response<Self::SubmitRecordStream>, Status> {
        let closing = closing(request.extensions());
        let caller = caller(request.extensions());
        let requests = request.into_inner();
        let answers = submit_record::serve(self.clone(), caller, requests, closing);
        Ok(Response::new(one_by_one(answers)))
    }

    async fn submit_records(
        &self,
        request: Request<RecordsMessage>,
    ) -> Result<Response<WrittenMessage>, Status> {
        let fanout = self.clone();
        let caller = caller(request.extensions());
        let message = request.into_inner();
        let submitted = async move { submit_record::once(&fanout, caller, &message).await };
        let submitted = tokio::spawn(traces::carried(submitted));
        let answer = submitted.await.unwrap_or_else(|_| Err(status::panicked()));
        answer.map(Response::new)
    }

    async fn reconcile(
        &self,
        request: Request<ReconcileRequest>,
    ) -> Result<Response<ReconcileResponse>, Status> {
        let closing = closing(request.extensions());
        let caller = caller(request.extensions());
        let reconciled = reconcile_request::serve(self, &caller, request.into_inner(), &closing);
        let reconciled = reconciled.await;
        reconciled.map(Response::new)
    }

    type WatchPlanStream = MessageStream;

    async fn watch_plan(
        &self,
        request: Request<WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let closing = closing(request.extensions());
        let caller = caller(request.extensions());
        let frames = watch_plan::serve(self, &caller, request.get_ref(), closing).await?;
        Ok(Response::new(one_by_one(frames)))
    }

    async fn get_plan(
        &self,
        request: Request<GetPlanRequest>,
    ) -> Result<Response<GetPlanResponse>, Status> {
        let caller = caller(request.extensions());
        let request = request.into_inner();
        let limits = &self.config.limits;
        let name = named(&caller, &request.plan_id, limits)?;
        let page_size = convert::page_size(request.page_size, PAGE_SIZE.0)?;
        let start = convert::task_page_start(&request.page_token)?;
        let view = self
            .coordinator
            .view(&name)
            .await
            .map_err(|error| status::of(&error))?;
        let mut response = GetPlanResponse {
            plan: Some(convert::plan(&view)),
            ..Default::default()
        };
        if request.view() == View::Full {
            (response.task_requests, response.next_page_token) =
                convert::task_requests(&view, start, page_size, limits);
            if start == 0 {
                response.document = view.spec.head.clone();
            }
        }
        Ok(Response::new(response))
    }

    async fn list_plans(
        &self,
        request: Request<ListPlansRequest>,
    ) -> Result<Response<ListPlansResponse>, Status> {
        let caller = caller(request.extensions());
        let request = request.into_inner();
        let page_size = convert::page_size(request.page_size, PAGE_SIZE.0)?;
        let wanted = convert::PlanFilter::read(&request)?;
        let views = self.coordinator.views(&caller.tenant).await;
        let views = views.map_err(|error| status::of(&error))?;
        let is_theirs = |view: &&PlanView| {
            let bound = caller.plan_id.as_deref();
            bound.is_none_or(|plan_id| plan_id == plan_id_of(&view.spec.plan_id))
        };
        let matching = views
            .iter()
            .filter(is_theirs)
            .filter(|view| wanted.admits(view));
        let page = matching.clone().take(page_size).map(convert::plan);
        let plans = convert::fitting(page, &self.config.limits);
        let mut rest = matching.skip(plans.len().saturating_sub(1));
        let next_page_token = match (rest.next(), rest.next()) {
            (Some(last), Some(_)) => convert::plan_page_token(last),
            _ => String::new(),
        };
        Ok(Response::new(ListPlansResponse {
            plans,
            next_page_token,
        }))
    }

    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<GetTaskResponse>, Status> {
        let caller = caller(request.extensions());
        let answer = tasks::get(self, &caller, request.get_ref()).await;
        answer.map(Response::new)
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let caller = caller(request.extensions());
        let answer = tasks::list(self, &caller, request.get_ref()).await;
        answer.map(Response::new)
    }

    async fn explain_task(
        &self,
        request: Request<ExplainTaskRequest>,
    ) -> Result<Response<ExplainTaskResponse>, Status> {
        let caller = caller(request.extensions());
        let answer = tasks::explain(self, &caller, request.get_ref()).await;
        answer.map(Response::new)
    }

    async fn list_quarantine(
        &self,
        request: Request<ListQuarantineRequest>,
    ) -> Result<Response<ListQuarantineResponse>, Status> {
        let caller = caller(request.extensions());
        let answer = quarantine::list(self, &caller, request.get_ref()).await;
        answer.map(Response::new)
    }

    async fn rematch_record(
        &self,
        request: Request<RematchRecordRequest>,
    ) -> Result<Response<RematchRecordResponse>, Status> {
        let caller = caller(request.extensions());
        let rematched = quarantine::rematch(self, &caller, request.into_inner()).await;
        rematched.map(Response::new)
    }

    async fn discard_record(
        &self,
        request: Request<DiscardRecordRequest>,
    ) -> Result<Response<DiscardRecordResponse>, Status> {
        let caller = caller(request.extensions());
        let discarded = quarantine::discard(self, &caller, request.into_inner()).await;
        discarded.map(Response::new)
    }

    async fn seal_plan(
        &self,
        request: Request<SealPlanRequest>,
    ) -> Result<Response<SealPlanResponse>, Status> {
        let caller = caller(request.extensions());
        let SealPlanRequest {
            plan_id,
            request_id,
            reason,
        } = request.into_inner();
        let plan = self
            .end(&caller, plan_id, request_id, EndReason::Sealed, reason)
            .await?;
        Ok(Response::new(SealPlanResponse { plan: Some(plan) }))
    }

    async fn cancel_plan(
        &self,
        request: Request<CancelPlanRequest>,
    ) -> Result<Response<CancelPlanResponse>, Status> {
        let caller = caller(request.extensions());
        let CancelPlanRequest {
            plan_id,
            request_id,
            reason,
        } = request.into_inner();
        let plan = self
            .end(&caller, plan_id, request_id, EndReason::Cancelled, reason)
            .await?;
        Ok(Response::new(CancelPlanResponse { plan: Some(plan) }))
    }

    async fn delete_plan(
        &self,
        request: Request<DeletePlanRequest>,
    ) -> Result<Response<DeletePlanResponse>, Status> {
        let caller = caller(request.extensions());
        let DeletePlanRequest {
            plan_id,
            request_id,
        } = request.into_inner();
        let plan_id = named(&caller, &plan_id, &self.config.limits)?.into_owned();
        let request_id = self.request_id(&caller, &request_id)?;
        let coordinator = Arc::clone(&self.coordinator);
        let name = plan_id.clone();
        let deleted = async move { coordinator.delete(&plan_id, &request_id).await };
        let view = detached(deleted).await?;
        say_who(&caller, "deleted", &name);
        Ok(Response::new(DeletePlanResponse {
            plan: view.as_deref().map(convert::plan),
        }))
    }
}

impl Fanout {
    /// Registers a plan; `place` is given back when that is over, also if nobody waits for it any more.
    async fn register(
        &self,
        command: PlanCommand,
        caller: &Caller,
        page_size: usize,
        place: impl Send + 'static,
    ) -> Result<PlanResponse, Status> {
        let validate_only = command.validate_only;
        let coordinator = Arc::clone(&self.coordinator);
        let registered = async move {
            let _place = place;
            coordinator.register(command).await
        };
        let Registered {
            view,
            document,
            created,
        } = detached(registered).await?;
        if created {
            say_who(caller, "registered", &view.spec.plan_id);
        }
        let (task_requests, next_page_token) =
            convert::task_requests(&view, 0, page_size, &self.config.limits);
        let mut plan = convert::plan(&view);
        if validate_only {
            (plan.cursor, plan.create_time) = (String::new(), None);
        }
        Ok(PlanResponse {
            plan: Some(plan),
            created,
            document: document.unwrap_or_default(),
            task_requests,
            next_page_token,
        })
    }

    async fn end(
        &self,
        caller: &Caller,
        plan_id: String,
        request_id: String,
        end_reason: EndReason,
        note: String,
    ) -> Result<crate::proto::Plan, Status> {
        let plan_id = named(caller, &plan_id, &self.config.limits)?.into_owned();
        let request_id = self.request_id(caller, &request_id)?;
        convert::text("reason", &note, REASON_BYTES_MAX)?;
        let coordinator = Arc::clone(&self.coordinator);
        let ended = async move {
            coordinator
                .end(&plan_id, &request_id, end_reason, &note)
                .await
        };
        let view = detached(ended).await?;
        let done = match end_reason {
            EndReason::Cancelled => "cancelled",
            _ => "sealed",
        };
        say_who(caller, done, &view.spec.plan_id);
        Ok(convert::plan(&view))
    }
}

impl Fanout {
    /// The request id of a tenant among those of all; empty if there is none.
    fn request_id(&self, caller: &Caller, request_id: &str) -> Result<String, Status> {
        convert::text("request_id", request_id, self.config.limits.key_bytes_max)?;
        if request_id.is_empty() {
            return Ok(String::new());
        }
        Ok(name_of_request(caller, request_id))
    }
}

/// Logs what somebody has done with a plan. A name is not a secret: it stands in the list, or is a token's `sub`.
fn say_who(caller: &Caller, done: &'static str, plan_id: &str) {
    let caller = &*caller.name;
    tracing::info!(plan.id = plan_id, caller, done, "done for a caller");
}

/// Makes the plan its tenant's.
fn of_tenant(command: &mut PlanCommand, caller: &Caller) -> Result<(), Status> {
    if let Some(bound) = &caller.plan_id
        && **bound != *command.plan_id
    {
        return Err(status::bound_to_plan());
    }
    command.tenant = Arc::clone(&caller.tenant);
    if !command.request_id.is_empty() {
        command.request_id = name_of_request(caller, &command.request_id);
    }
    Ok(())
}

/// The name of a caller's request id among those of all.
fn name_of_request(caller: &Caller, request_id: &str) -> String {
    request_name(&caller.tenant, caller.plan_id.as_deref(), request_id)
}

/// Runs something that takes the processor for a while where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(status::panicked()))
}
