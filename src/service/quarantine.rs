//! `ListQuarantine`, `RematchRecord`, `DiscardRecord`: records that were set aside, and their repair.

use std::sync::Arc;

use tonic::Status;

use super::admission::named;
use super::{Fanout, convert, detached, receipt, status};
use crate::config::{PAGE_SIZE, REASON_BYTES_MAX};
use crate::coordinator::{PlanView, QuarantineEntry};
use crate::engine::{QuarantineReason, Resolution};
use crate::identity::Caller;
use crate::proto::{
    self, DiscardRecordRequest, DiscardRecordResponse, ListQuarantineRequest,
    ListQuarantineResponse, RematchRecordRequest, RematchRecordResponse,
};

pub(super) async fn list(
    fanout: &Fanout,
    caller: &Caller,
    request: &ListQuarantineRequest,
) -> Result<ListQuarantineResponse, Status> {
    let limits = &fanout.config.limits;
    let name = named(caller, &request.plan_id, limits)?;
    let page_size = convert::page_size(request.page_size, PAGE_SIZE.0)?;
    let after = after(&request.page_token)?;
    let page = fanout
        .coordinator
        .quarantine(&name, after, page_size, request.include_resolved)
        .await
        .map_err(|error| status::of(&error))?;
    let entries = page.records.iter();
    let records = convert::fitting(entries.map(|entry| record(&page.view, entry)), limits);
    let more = page.more || records.len() < page.records.len();
    let next_page_token = match records.last() {
        Some(last) if more => page_token_after(last.quarantine_id),
        _ => String::new(),
    };
    Ok(ListQuarantineResponse {
        records,
        next_page_token,
    })
}

/// The number that a page begins after. Tokens of these pages are `q.` and that number.
fn after(page_token: &str) -> Result<u64, Status> {
    if page_token.is_empty() {
        return Ok(0);
    }
    let number = page_token
        .strip_prefix("q.")
        .and_then(|number| number.parse().ok());
    convert::as_printed(number, page_token, |number| page_token_after(*number))
}

fn page_token_after(number: u64) -> String {
    format!("q.{number}")
}

pub(super) async fn rematch(
    fanout: &Fanout,
    caller: &Caller,
    request: RematchRecordRequest,
) -> Result<RematchRecordResponse, Status> {
    let limits = &fanout.config.limits;
    let name = named(caller, &request.plan_id, limits)?.into_owned();
    convert::required_text("task_id", &request.task_id, limits.key_bytes_max)?;
    check(request.quarantine_id, &request.reason)?;
    let coordinator = Arc::clone(&fanout.coordinator);
    let rematched = async move {
        let RematchRecordRequest {
            plan_id: _,
            quarantine_id,
            task_id,
            reason,
        } = request;
        coordinator
            .rematch(&name, quarantine_id, &task_id, &reason)
            .await
    };
    let (view, receipt, entry) = detached(rematched).await?;
    Ok(RematchRecordResponse {
        receipt: Some(receipt::message(&receipt, &view.spec)),
        record: Some(record(&view, &entry)),
    })
}

pub(super) async fn discard(
    fanout: &Fanout,
    caller: &Caller,
    request: DiscardRecordRequest,
) -> Result<DiscardRecordResponse, Status> {
    let name = named(caller, &request.plan_id, &fanout.config.limits)?.into_owned();
    check(request.quarantine_id, &request.reason)?;
    let coordinator = Arc::clone(&fanout.coordinator);
    let discarded = async move {
        let DiscardRecordRequest {
            plan_id: _,
            quarantine_id,
            reason,
        } = request;
        coordinator.discard(&name, quarantine_id, &reason).await
    };
    let (view, entry) = detached(discarded).await?;
    Ok(DiscardRecordResponse {
        record: Some(record(&view, &entry)),
    })
}

fn check(quarantine_id: u64, reason: &str) -> Result<(), Status> {
    if quarantine_id == 0 {
        return Err(status::invalid(
            "quarantine_id",
            "is required",
            "FIELD_REQUIRED",
        ));
    }
    convert::text("reason", reason, REASON_BYTES_MAX).map(drop)
}

fn record(view: &PlanView, entry: &QuarantineEntry) -> proto::QuarantinedRecord {
    let task_id = |task: &u32| view.spec.task_id(*task).to_owned();
    let quarantined = &entry.record;
    let (resolution, resolved_task) =
        match entry.resolved.as_ref().map(|resolved| resolved.resolution) {
            None => (proto::QuarantineResolution::Unspecified, None),
            Some(Resolution::Rematched(task)) => {
                (proto::QuarantineResolution::Rematched, Some(task))
            }
            Some(Resolution::Discarded) => (proto::QuarantineResolution::Discarded, None),
        };
    proto::QuarantinedRecord {
        quarantine_id: quarantined.id,
        reason: match quarantined.reason {
            QuarantineReason::Unmatched => proto::QuarantineReason::Unmatched,
            QuarantineReason::Ambiguous => proto::QuarantineReason::Ambiguous,
            QuarantineReason::Late => proto::QuarantineReason::Late,
            QuarantineReason::KeysDisagree => proto::QuarantineReason::KeysDisagree,
            QuarantineReason::NotFirst => proto::QuarantineReason::NotFirst,
        }
        .into(),
        candidate_task_ids: quarantined.candidates.iter().map(task_id).collect(),
        kind: convert::record_kind(quarantined.kind).into(),
        record: quarantined.document.clone(),
        quarantine_time: Some(convert::timestamp(quarantined.at)),
        sequence: quarantined.sequence,
        resolution: resolution.into(),
        task_id: resolved_task.as_ref().map(task_id).unwrap_or_default(),
        resolution_note: entry
            .resolved
            .as_ref()
            .map(|resolved| resolved.note.to_string())
            .unwrap_or_default(),
    }
}
