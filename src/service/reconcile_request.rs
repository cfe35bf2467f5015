//! Reconcile: of a registered plan, or of documents that come with the call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::admission::named;
use super::extent::Extent;
use super::{Fanout, blocking, convert, detached, status};
use crate::config::{Limits, RECONCILE_WAIT_MAX};
use crate::coordinator::{Error, Page, ResultPage};
use crate::engine::EndReason;
use crate::identity::{Caller, Role};
use crate::json::{self, Value};
use crate::plan::{self, Input};
use crate::proto::{self, ReconcileDocuments, ReconcileRequest, ReconcileResponse, View};
use crate::reconcile;

pub(super) async fn serve(
    fanout: &Fanout,
    caller: &Caller,
    request: ReconcileRequest,
    closing: &CancellationToken,
) -> Result<ReconcileResponse, Status> {
    match request.documents {
        Some(_) if !request.plan_id.is_empty() => {
            let problem = "give either plan_id or documents";
            Err(status::invalid(
                "documents",
                problem,
                "FIELDS_EXCLUDE_EACH_OTHER",
            ))
        }
        Some(documents) => {
            let of_plans = [
                ("wait", request.wait.is_some()),
                ("seal", request.seal),
                ("page_size", request.page_size != 0),
                ("page_token", !request.page_token.is_empty()),
            ];
            if let Some((field, _)) = of_plans.iter().find(|(_, is_given)| *is_given) {
                let problem = "not together with documents: it is of a registered plan";
                return Err(status::invalid(field, problem, "FIELDS_EXCLUDE_EACH_OTHER"));
            }
            let limits = fanout.config.limits;
            let is_basic = request.view == i32::from(View::Basic);
            let places = Arc::clone(&fanout.document_places);
            let work = move || of_documents(&documents, is_basic, &limits);
            in_turn(places, closing, work).await
        }
        None => of_registered(fanout, caller, request, closing).await,
    }
}

/// Does this when there is a place for it, which it has until it is done, also if its caller goes away.
async fn in_turn<T: Send + 'static>(
    places: Arc<Semaphore>,
    closing: &CancellationToken,
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let place = tokio::select! {
        biased;
        place = places.acquire_owned() => place.map_err(|_| status::draining())?,
        () = closing.cancelled() => return Err(status::draining()),
    };
    let placed = move || {
        let _place = place;
        work()
    };
    blocking(placed).await
}

async fn of_registered(
    fanout: &Fanout,
    caller: &Caller,
    request: ReconcileRequest,
    closing: &CancellationToken,
) -> Result<ReconcileResponse, Status> {
    let limits = &fanout.config.limits;
    for (role, is_needed) in [(Role::Watch, true), (Role::Plan, request.seal)] {
        if is_needed && !caller.may(role) {
            return Err(status::role_required(role.name()));
        }
    }
    let name = named(caller, &request.plan_id, limits)?;
    let wait = request
        .wait
        .map(|wait| convert::duration("wait", &wait, (Duration::ZERO, RECONCILE_WAIT_MAX)));
    let wait = wait.transpose()?.unwrap_or_default();
    // A call that waits takes what a stream takes.
    let tenants = &fanout.tenants;
    let open = || tenants.open_stream(&caller.tenant);
    let _place = (!wait.is_zero()).then(open).transpose()?;
    let page_size = convert::page_size(request.page_size, 0)?;
    let start = convert::task_page_start(&request.page_token)?;
    let page = match (request.view(), page_size) {
        (View::Basic, _) => Page::None,
        (_, 0) if start > 0 => {
            let problem = "a page token needs the page size it was made with";
            return Err(status::invalid("page_size", problem, "FIELD_REQUIRED"));
        }
        (_, 0) => Page::Whole,
        (_, size) => Page::From(start, size),
    };
    let plan = fanout
        .coordinator
        .current(&name)
        .await
        .map_err(|error| status::of(&error))?;
    if request.seal {
        let (coordinator, plan) = (Arc::clone(&fanout.coordinator), Arc::clone(&plan));
        // The answer is of this very plan: once it has ended, it may be forgotten at any time.
        let sealed = async move { coordinator.end_this(&plan, EndReason::Sealed, "").await };
        detached(sealed).await?;
    }
    let head = tokio::select! {
        biased;
        () = closing.cancelled(), if !wait.is_zero() => return Err(status::draining()),
        head = fanout.coordinator.wait_for_end(&plan, wait) => head,
    };
    if head.removed && !head.ended {
        return Err(status::plan_removed(&request.plan_id));
    }
    // The result of an ended plan does not change any more.
    if !wait.is_zero() && !head.ended {
        let caught_up = fanout.coordinator.catch_up(&plan).await;
        caught_up.map_err(|error| match error {
            Error::PlanNotFound { .. } => status::plan_removed(&request.plan_id),
            error => status::of(&error),
        })?;
    }
    let most = document_bytes_max(limits);
    let result = fanout.coordinator.result_within(plan, page, most);
    let ResultPage {
        view,
        document,
        next,
    } = result.await.map_err(|error| status::of(&error))?;
    let document = document.unwrap_or_default();
    let standing = &view.standing;
    Ok(ReconcileResponse {
        status: convert::plan_status(standing.status).into(),
        end_reason: convert::end_reason(standing.end.as_ref()).into(),
        counts: Some(convert::counts(&standing.counts)),
        document: document.into(),
        next_page_token: convert::task_page_token(next),
        sequence: standing.sequence,
        cursor: view.cursor(standing.sequence),
    })
}

fn of_documents(
    documents: &ReconcileDocuments,
    is_basic: bool,
    limits: &Limits,
) -> Result<ReconcileResponse, Status> {
    let refused = |error: plan::Error| status::of(&error.into());
    let config = convert::config("documents.config", &documents.config, limits)?;
    let most = limits.tasks_per_plan_max;
    if Extent::of(&documents.records).items > most {
        let problem = format!("more than {most} records");
        return Err(status::over_limit(
            "documents.records",
            &problem,
            "LIMIT_EXCEEDED",
            most,
        ));
    }
    let records = convert::list("documents.records", &documents.records, limits)?;
    let plan = match convert::document("documents.plan", &documents.plan, limits)? {
        Some(plan) => plan,
        None => {
            let items = convert::list("documents.items", &documents.items, limits)?;
            let groups = convert::list("documents.groups", &documents.groups, limits)?;
            let plan_limits = plan_limits(limits);
            let input = Input {
                config: config.clone(),
                items,
                groups,
            };
            plan::plan(input, &plan_limits).map_err(refused)?.document()
        }
    };
    let records = records.map(Value::into_list).unwrap_or_default();
    let reconciled = reconcile::reconcile_counting(&config, &plan, records);
    let (result, missing) = reconciled.map_err(refused)?;
    let (mut document, most) = (String::new(), document_bytes_max(limits));
    if !is_basic && !json::write_compact_within(&mut document, &result, most) {
        let problem = format!("their result is larger than {most} bytes; reconcile fewer tasks");
        return Err(status::over_limit(
            "documents",
            &problem,
            "DOCUMENT_TOO_LARGE",
            most,
        ));
    }
    let count = |field| {
        let count = result
            .get("reconciliation")
            .and_then(|reconciliation| reconciliation.get(field));
        count
            .and_then(|count| count.text().parse().ok())
            .unwrap_or(0)
    };
    let settings = reconcile::Settings::read(&config).map_err(refused)?;
    let (missing_successful, missing_failed) = match settings.counts_missing_as_successful() {
        true => (missing, 0),
        false => (0, missing),
    };
    let completed = count("failure_count") == 0;
    let items = plan
        .get("summary")
        .and_then(|summary| summary.get("item_count"));
    let counts = proto::Counts {
        items: items
            .and_then(|count| count.text().parse().ok())
            .unwrap_or(0),
        groups: count("group_count"),
        tasks: count("task_count"),
        recorded: count("task_count") - missing,
        successful: count("success_count").saturating_sub(missing_successful),
        failed: count("failure_count").saturating_sub(missing_failed),
        missing,
        outcomes: count("outcome_count"),
        ..Default::default()
    };
    let status = if completed {
        proto::PlanStatus::Completed
    } else {
        proto::PlanStatus::Failed
    };
    Ok(ReconcileResponse {
        status: status.into(),
        counts: Some(counts),
        document: document.into(),
        ..Default::default()
    })
}

/// What planning is held to by the server's settings.
pub(super) fn plan_limits(limits: &Limits) -> plan::Limits {
    plan::Limits {
        items: limits.items_per_plan_max,
        tasks: limits.tasks_per_plan_max,
        template_text_bytes: limits.task_request_bytes_max,
    }
}

/// What leaves room for the fields beside the document.
fn document_bytes_max(limits: &Limits) -> usize {
    limits.message_bytes_max.saturating_sub(64 << 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::sync::{Semaphore, oneshot};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::in_turn;

    #[tokio::test]
    async fn work_waits_for_a_place_and_has_it_until_it_is_done_also_if_its_caller_has_gone() {
        let places = Arc::new(Semaphore::new(1));
        let closing = CancellationToken::new();
        let (finish, finished) = oneshot::channel();
        let work = move || Ok(finished.blocking_recv());
        let mut first = Box::pin(in_turn(Arc::clone(&places), &closing, work));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        let mut second = Box::pin(in_turn(Arc::clone(&places), &closing, || Ok("done")));
        assert!((&mut second).now_or_never().is_none());
        finish.send(()).expect("the first goes on");
        assert_eq!(second.await.expect("a place"), "done");
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn work_that_waits_for_a_place_when_its_connection_is_closed_is_not_done() {
        let closing = CancellationToken::new();
        closing.cancel();
        let none = Arc::new(Semaphore::new(0));
        let refused = in_turn(none, &closing, || Ok(()))
            .await
            .expect_err("refused");
        assert_eq!(refused.code(), Code::Unavailable);
        let free = Arc::new(Semaphore::new(1));
        assert!(in_turn(free, &closing, || Ok(())).await.is_ok());
    }
}
