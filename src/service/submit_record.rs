//! The record stream: read a message, have its records applied, send the receipts, read the next.
//!
//! There is no task and no queue between the two directions: the next message is read when there is room to send its
//! receipts, so a peer that does not read them is not read itself, and stalls nobody else. Half-close ends the stream
//! with OK after the last receipts; a peer that vanishes ends it between two messages, a change that was begun being
//! finished by the coordinator; a server that drains ends it between two messages, so that every receipt sent is true.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use smallvec::SmallVec;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{Fanout, convert, status};
use crate::config::Limits;
use crate::engine::{Disposition, Receipt, RecordKind, Spec, Submission, Violation, Warning};
use crate::proto::{self, SubmitRecordRequest, SubmitRecordResponse};
use crate::reconcile::record::{self, ReadRecord, Rewrite, TypedFields};
use crate::registry::LivePlan;

/// How many messages are answered before a stream that always has another one looks whether it is to end. Looking costs
/// as much as a tenth of a record.
const MESSAGES_BETWEEN_LOOKS: u64 = 32;

/// What a receipt takes beside its record's document: its numbers, and ids of usual length.
const RECEIPT_BYTES: usize = 256;

/// The answers of a record stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<SubmitRecordResponse, Status>> + Send>>;

pub(super) fn serve(
    fanout: Fanout,
    mut requests: Streaming<SubmitRecordRequest>,
    closing: CancellationToken,
) -> Responses {
    Box::pin(async_stream::stream! {
        let mut plan: Option<Arc<LivePlan>> = None;
        let (mut messages, mut receipts) = (0_u64, 0);
        let mut closing = pin!(closing.cancelled_owned());
        loop {
            let look_first = messages % MESSAGES_BETWEEN_LOOKS == 0;
            messages += 1;
            let request = {
                let mut message = pin!(requests.message());
                poll_fn(|context| {
                    if look_first && closing.as_mut().poll(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    match message.as_mut().poll(context) {
                        Poll::Ready(request) => Poll::Ready(Some(request)),
                        Poll::Pending => closing.as_mut().poll(context).map(|()| None),
                    }
                })
                .await
            };
            let Some(request) = request else {
                yield Err(status::draining_at([("receipts", receipts.to_string())]));
                return;
            };
            let answer = match request {
                Ok(None) => return,
                Ok(Some(request)) => answer(&fanout, &mut plan, &request).await,
                Err(broken) => Err(broken_message(&broken, &fanout.config.limits)),
            };
            let failed = answer.is_err();
            receipts += answer.as_ref().map_or(0, |answer| answer.receipts.len());
            yield answer;
            if failed {
                return;
            }
        }
    })
}

async fn answer(
    fanout: &Fanout,
    plan: &mut Option<Arc<LivePlan>>,
    request: &SubmitRecordRequest,
) -> Result<SubmitRecordResponse, Status> {
    let same = match plan {
        Some(plan) if request.plan_id.is_empty() || *request.plan_id == **plan.plan_id() => {
            Arc::clone(plan)
        }
        Some(plan) => {
            let problem = format!(
                "is {:?}, but this stream is for {:?}",
                request.plan_id,
                plan.plan_id()
            );
            return Err(status::invalid("plan_id", &problem, "PLAN_ID_CHANGED"));
        }
        None => {
            let plan_id = convert::required_plan_id(&request.plan_id, &fanout.config.limits)?;
            let found = fanout
                .coordinator
                .plan(plan_id)
                .map_err(|error| status::of(&error))?;
            Arc::clone(plan.insert(found))
        }
    };
    submit(fanout, &same, request).await
}

/// Applies the records of one message.
pub(super) async fn submit(
    fanout: &Fanout,
    plan: &Arc<LivePlan>,
    request: &SubmitRecordRequest,
) -> Result<SubmitRecordResponse, Status> {
    let limits = &fanout.config.limits;
    let most = limits.records_per_message_max;
    if request.records.is_empty() {
        return Err(status::invalid(
            "records",
            "expected at least one record",
            "FIELD_REQUIRED",
        ));
    }
    if request.records.len() > most {
        let problem = format!(
            "{} records, at most {most} are allowed",
            request.records.len()
        );
        return Err(status::over_limit(
            "records",
            &problem,
            "TOO_MANY_RECORDS",
            most,
        ));
    }
    let submissions: SmallVec<[Submission<'_>; 1]> = request
        .records
        .iter()
        .map(|record| read(record, plan.spec(), limits))
        .collect();
    let documents = submissions
        .iter()
        .filter_map(|submission| submission.record.as_ref().ok());
    let answer: usize = documents
        .map(|record| record.document.len() + RECEIPT_BYTES)
        .sum();
    if answer > limits.message_bytes_max {
        // Said now: records must not be applied whose receipts cannot be sent.
        let most = limits.message_bytes_max;
        let problem = format!("their receipts would not fit {most} bytes; send fewer at a time");
        return Err(status::over_limit(
            "records",
            &problem,
            "MESSAGE_TOO_LARGE",
            most,
        ));
    }
    let (receipts, standing) = fanout
        .coordinator
        .submit(plan, &submissions)
        .await
        .map_err(|error| status::of(&error))?;
    let spec = plan.spec();
    let receipts = receipts.into_iter().enumerate();
    Ok(SubmitRecordResponse {
        receipts: receipts
            .map(|(position, given)| receipt(given, position, spec))
            .collect(),
        counts: Some(convert::counts(&standing.counts)),
        status: convert::plan_status(standing.status).into(),
        sequence: standing.sequence,
    })
}

/// A message that could not be read is the end of its stream. Sizes are never worth retrying, so not OUT_OF_RANGE.
fn broken_message(broken: &Status, limits: &Limits) -> Status {
    match broken.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let most = limits.message_bytes_max;
            let problem = format!("is larger than {most} bytes");
            status::over_limit("message", &problem, "MESSAGE_TOO_LARGE", most)
        }
        Code::Internal => status::invalid("message", broken.message(), "MALFORMED_MESSAGE"),
        _ => broken.clone(),
    }
}

fn read<'r>(record: &'r proto::Record, spec: &Spec, limits: &Limits) -> Submission<'r> {
    let kind = match proto::RecordKind::try_from(record.kind) {
        Ok(proto::RecordKind::Unspecified | proto::RecordKind::Result) => Some(RecordKind::Result),
        Ok(proto::RecordKind::Started) => Some(RecordKind::Started),
        Ok(proto::RecordKind::Progress) => Some(RecordKind::Progress),
        Err(_) => None,
    };
    let Some(kind) = kind else {
        let violation = violation(
            "kind",
            "is not a kind that this server knows".into(),
            "UNKNOWN_ENUM_VALUE",
        );
        return Submission {
            kind: RecordKind::Result,
            record: Err(violation),
        };
    };
    Submission {
        kind,
        record: read_as(record, kind, spec, limits),
    }
}

fn read_as<'r>(
    record: &'r proto::Record,
    kind: RecordKind,
    spec: &Spec,
    limits: &Limits,
) -> Result<ReadRecord<'r>, Violation> {
    let most = limits.record_body_bytes_max;
    if record.body.len() > most {
        let description = format!(
            "is {} bytes long, at most {most} are allowed",
            record.body.len()
        );
        return Err(over("body", description, "BODY_TOO_LARGE", most));
    }
    let typed = TypedFields {
        id: &record.id,
        task_id: &record.task_id,
        sandbox_session_id: &record.sandbox_session_id,
        group_key: &record.group_key,
        status: &record.status,
        success: record.success,
    };
    let rewrite = match kind {
        RecordKind::Result => Rewrite::Reconciled,
        RecordKind::Started | RecordKind::Progress => Rewrite::AsSubmitted,
    };
    let json_limits = convert::json_limits(limits);
    check_text("status", &record.status, limits)?;
    let read = record::read(typed, &record.body, rewrite, json_limits, &spec.settings).map_err(
        |error| {
            let description = error.to_string();
            match error.limit {
                Some(limit) => over("body", description, "JSON_LIMIT_EXCEEDED", limit),
                None => violation("body", description, "INVALID_JSON"),
            }
        },
    )?;
    let keys: [(&'static str, &Cow<'_, str>); 4] = [
        ("id", &read.keys.id),
        ("task_id", &read.keys.task_id),
        ("sandbox_session_id", &read.keys.sandbox_session_id),
        ("group_key", &read.keys.group_key),
    ];
    for (field, key) in keys {
        check_text(field, key, limits)?;
    }
    Ok(read)
}

fn check_text(field: &'static str, text: &str, limits: &Limits) -> Result<(), Violation> {
    let most = limits.key_bytes_max;
    if text.len() > most {
        let description = format!("is {} bytes long, at most {most} are allowed", text.len());
        return Err(over(field, description, "KEY_TOO_LONG", most));
    }
    if text.contains('\0') {
        return Err(violation(
            field,
            "contains a NUL character".into(),
            "INVALID_TEXT",
        ));
    }
    Ok(())
}

fn violation(field: &'static str, description: String, reason: &'static str) -> Violation {
    Violation {
        field,
        description,
        reason,
        limit: 0,
        quota: false,
    }
}

fn over(field: &'static str, description: String, reason: &'static str, limit: usize) -> Violation {
    Violation {
        limit: limit as u64,
        ..violation(field, description, reason)
    }
}

/// A receipt as it goes out, that of the record at this position of its message.
pub(super) fn receipt(receipt: Receipt, position: usize, spec: &Spec) -> proto::Receipt {
    let (disposition, code) = match receipt.disposition {
        Disposition::Accepted => (proto::Disposition::Accepted, Code::Ok),
        Disposition::Duplicate => (proto::Disposition::Duplicate, Code::Ok),
        Disposition::SupersededPrevious => (proto::Disposition::SupersededPrevious, Code::Ok),
        Disposition::Unmatched => (proto::Disposition::Unmatched, Code::NotFound),
        Disposition::Ambiguous => (proto::Disposition::Ambiguous, Code::FailedPrecondition),
        Disposition::Late => (proto::Disposition::Late, Code::FailedPrecondition),
        Disposition::KeysDisagree => (proto::Disposition::KeysDisagree, Code::InvalidArgument),
        Disposition::Invalid => (proto::Disposition::Invalid, Code::InvalidArgument),
        Disposition::TooLarge
            if receipt
                .violation
                .as_ref()
                .is_some_and(|violation| violation.quota) =>
        {
            (proto::Disposition::TooLarge, Code::ResourceExhausted)
        }
        Disposition::TooLarge => (proto::Disposition::TooLarge, Code::InvalidArgument),
    };
    let applied = matches!(
        receipt.disposition,
        Disposition::Accepted | Disposition::SupersededPrevious
    );
    let task_id = |task: u32| spec.tasks[task as usize].id.to_string();
    let held = receipt.held.as_deref();
    proto::Receipt {
        disposition: disposition.into(),
        code: code.into(),
        task_id: receipt.task.map(task_id).unwrap_or_default(),
        matched_by: convert::matched_by(receipt.matched_by).into(),
        revision: held.map_or(0, |held| held.revision),
        sequence: receipt.sequence,
        status: convert::task_status(receipt.status()).into(),
        successful: held.is_some_and(|held| held.verdict.successful),
        record: held
            .filter(|_| applied)
            .map(|held| held.document.clone())
            .unwrap_or_default(),
        warnings: receipt
            .warnings
            .into_iter()
            .map(|warning| convert_warning(warning).into())
            .collect(),
        candidate_task_ids: receipt.candidates.into_iter().map(task_id).collect(),
        violation: receipt.violation.map(|violation| proto::Violation {
            field: format!("records[{position}].{}", violation.field),
            description: violation.description,
            reason: violation.reason.to_owned(),
            limit: violation.limit,
        }),
        quarantine_id: receipt.quarantine_id,
    }
}

fn convert_warning(warning: Warning) -> proto::Warning {
    match warning {
        Warning::KeysDisagree => proto::Warning::KeysDisagree,
        Warning::FieldInBodyIgnored => proto::Warning::FieldInBodyIgnored,
        Warning::SessionNotLearnt => proto::Warning::SessionNotLearnt,
    }
}
