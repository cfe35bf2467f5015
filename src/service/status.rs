//! Errors as gRPC statuses: the only place that chooses a code.
//!
//! Every status carries an `ErrorInfo` of domain `fanout.v1`. What the caller sent is echoed escaped and cut, so that
//! neither a terminal nor a trailer suffers.

use std::collections::HashMap;
use std::time::Duration;

use hyper::body::Frame;
use prost::bytes::Bytes;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::coordinator::{Error, JournalError, plan_id_of, request_id_of};
use crate::engine::Refusal;

const DOMAIN: &str = "fanout.v1";
/// Longest text in a status, in bytes: trailers have to stay small.
const TEXT_BYTES_MAX: usize = 1_024;
/// When to try again after a passing failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of an error.
pub(super) fn of(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::Invalid {
            field,
            problem,
            reason,
            limit,
        } => invalid_with(field, problem, reason, limit.map(|limit| limit.to_string())),
        Error::PlanNotFound { plan_id } => {
            let mut details = info("PLAN_NOT_FOUND", []);
            details.set_resource_info(
                "fanout.v1.Plan",
                clean(plan_id_of(plan_id)),
                "",
                "there is no such plan",
            );
            with(Code::NotFound, &message, details)
        }
        Error::PlanRemoved { plan_id } => plan_removed(plan_id_of(plan_id)),
        Error::TaskNotFound { task_id, .. } => {
            let mut details = info("TASK_NOT_FOUND", []);
            let resource = clean(task_id);
            details.set_resource_info("fanout.v1.Task", resource, "", "the plan has no such task");
            with(Code::NotFound, &message, details)
        }
        Error::QuarantineRefused { id, refusal } => {
            let (code, reason) = match refusal {
                Refusal::NotFound => (Code::NotFound, "QUARANTINED_RECORD_NOT_FOUND"),
                Refusal::Resolved(_) => (Code::FailedPrecondition, "QUARANTINED_RECORD_RESOLVED"),
                Refusal::PlanEnded => (Code::FailedPrecondition, "PLAN_ENDED"),
                Refusal::NotAResult => (Code::FailedPrecondition, "NOT_A_RESULT"),
            };
            let mut details = info(reason, []);
            let resource = id.to_string();
            details.set_resource_info("fanout.v1.QuarantinedRecord", resource, "", clean(&message));
            with(code, &message, details)
        }
        Error::PlanExists {
            plan_id,
            existing,
            requested,
        } => {
            let metadata = [
                ("existing_digest", existing.clone()),
                ("requested_digest", requested.clone()),
            ];
            let mut details = info("PLAN_EXISTS", metadata);
            details.set_resource_info(
                "fanout.v1.Plan",
                clean(plan_id_of(plan_id)),
                "",
                "exists with other content",
            );
            with(Code::AlreadyExists, &message, details)
        }
        Error::RequestIdReused { request_id } => {
            let mut details = info("REQUEST_ID_REUSED", []);
            details.set_resource_info(
                "request_id",
                clean(request_id_of(request_id)),
                "",
                "was used for another request",
            );
            with(Code::AlreadyExists, &message, details)
        }
        Error::QuotaExceeded {
            what,
            setting,
            limit,
        } => {
            let metadata = [
                ("limit", (*setting).to_owned()),
                ("value", limit.to_string()),
            ];
            let mut details = info("QUOTA_EXCEEDED", metadata);
            details.add_quota_failure_violation(*setting, format!("{limit} {what}"));
            with(Code::ResourceExhausted, &message, details)
        }
        Error::OffsetAhead { committed, .. } => {
            let metadata = [("committed_offset", committed.to_string())];
            let mut details = info("OFFSET_AHEAD", metadata);
            details.add_bad_request_violation("first_offset", clean(&message));
            with(Code::OutOfRange, &message, details)
        }
        Error::CursorAhead { sequence, .. } => {
            let mut details = info("CURSOR_AHEAD", [("sequence", sequence.to_string())]);
            details.add_bad_request_violation("after", clean(&message));
            with(Code::OutOfRange, &message, details)
        }
        Error::PlanPoisoned { .. } => with(Code::Internal, &message, info("PLAN_POISONED", [])),
        Error::Journal(JournalError::Conflict { .. }) => {
            let mut details = info("CONTENTION", []);
            details.set_retry_info(Some(RETRY_AFTER));
            with(Code::Aborted, &message, details)
        }
        Error::Recovering => {
            let mut details = info("RECOVERING", []);
            details.set_retry_info(Some(RETRY_AFTER));
            with(Code::Unavailable, &message, details)
        }
        Error::Journal(JournalError::NotFound | JournalError::Exists) => {
            with(Code::Internal, &message, info("JOURNAL_FAILED", []))
        }
        Error::Journal(JournalError::Full(_)) => {
            let mut details = info("STORAGE_FULL", []);
            details.set_retry_info(Some(RETRY_AFTER));
            with(Code::ResourceExhausted, &message, details)
        }
        Error::Journal(JournalError::Away(_)) => {
            let mut details = info("JOURNAL_AWAY", []);
            details.set_retry_info(Some(RETRY_AFTER));
            with(Code::Unavailable, &message, details)
        }
        Error::Journal(JournalError::Damaged(_)) => {
            with(Code::DataLoss, &message, info("JOURNAL_DAMAGED", []))
        }
        Error::Journal(JournalError::Failed(_)) => {
            let mut details = info("JOURNAL_UNAVAILABLE", []);
            details.set_retry_info(Some(RETRY_AFTER));
            with(Code::Unavailable, &message, details)
        }
    }
}

/// A field of a request is wrong.
pub(super) fn invalid(field: &str, problem: &str, reason: &str) -> Status {
    invalid_with(field, problem, reason, None)
}

/// A field of a request is over a limit. Not retryable, so not RESOURCE_EXHAUSTED.
pub(super) fn over_limit(field: &str, problem: &str, reason: &str, limit: usize) -> Status {
    invalid_with(field, problem, reason, Some(limit.to_string()))
}

fn invalid_with(field: &str, problem: &str, reason: &str, limit: Option<String>) -> Status {
    let mut details = info(reason, limit.map(|limit| ("limit", limit)));
    details.add_bad_request_violation(clean(field), clean(problem));
    with(
        Code::InvalidArgument,
        &format!("{field}: {problem}"),
        details,
    )
}

/// The server is going away; the same call may be made elsewhere, or here a little later.
pub(super) fn draining() -> Status {
    draining_at([])
}

/// The same, of a stream that got as far as this says.
pub(super) fn draining_at(position: impl IntoIterator<Item = (&'static str, String)>) -> Status {
    let mut details = info("DRAINING", position);
    details.set_retry_info(Some(RETRY_AFTER));
    with(
        Code::Unavailable,
        "the server is closing this connection; reconnect and go on",
        details,
    )
}

/// The health service has no such name.
pub(super) fn health_name_not_found(name: &str) -> Status {
    let mut details = info("HEALTH_NAME_NOT_FOUND", []);
    let resource = clean(name);
    details.set_resource_info("grpc.health.v1.Health", resource, "", "List has all names");
    let message = format!("there is no health of {name:?}");
    with(Code::NotFound, &message, details)
}

/// The call took longer than its caller wanted to wait.
pub(super) fn deadline_exceeded(deadline: Duration) -> Status {
    let message = format!("the call's deadline of {deadline:?} has passed");
    with(
        Code::DeadlineExceeded,
        &message,
        info("DEADLINE_EXCEEDED", []),
    )
}

/// What the transport says of a call that did not get to its method, in this service's words, if it has better ones.
pub(super) fn of_transport(status: &Status) -> Option<Status> {
    let (code, reason) = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => (Code::InvalidArgument, "MESSAGE_TOO_LARGE"),
        Code::Internal => (Code::InvalidArgument, "MALFORMED_MESSAGE"),
        // The one thing that is said of a method that there is.
        Code::Unimplemented if status.message().starts_with("Content is compressed") => {
            (Code::Unimplemented, "UNSUPPORTED_COMPRESSION")
        }
        Code::Unimplemented => (Code::Unimplemented, "UNKNOWN_METHOD"),
        _ => return None,
    };
    let mut details = info(reason, []);
    if code == Code::InvalidArgument {
        details.add_bad_request_violation("message", clean(status.message()));
    }
    let message = match status.message() {
        "" => "there is no such method",
        message => message,
    };
    Some(with(code, message, details))
}

/// A stream of which nothing came for so long.
pub(super) fn stream_idle(idle: Duration) -> Status {
    let message = format!("no message came for {idle:?}; nothing was planned");
    with(Code::DeadlineExceeded, &message, info("STREAM_IDLE", []))
}

/// A call's message did not become whole in this time.
pub(super) fn message_late(time: Duration) -> Status {
    let message = format!("the request was not whole after {time:?}");
    with(Code::DeadlineExceeded, &message, info("MESSAGE_LATE", []))
}

/// A plan stream that was not over after so long.
pub(super) fn stream_too_long(most: Duration) -> Status {
    let message = format!("the commit did not come within {most:?}; nothing was planned");
    let details = info("STREAM_TOO_LONG", []);
    with(Code::DeadlineExceeded, &message, details)
}

/// There is no plan of this id, for this caller.
pub(super) fn no_plan(plan_id: &str) -> Status {
    of(&Error::PlanNotFound {
        plan_id: plan_id.to_owned(),
    })
}

/// Nobody is behind the token, if there is one. Why is not said.
pub(super) fn unauthenticated() -> Status {
    let message = "a valid bearer token is needed in the authorization metadata, or a client certificate that is listed";
    with(Code::Unauthenticated, message, info("UNAUTHENTICATED", []))
}

/// The caller's tenant sends more records than it may; after this time it may send more.
pub(super) fn too_fast(records_per_second: u32, wait: Duration) -> Status {
    const SETTING: &str = "tenant_records_per_second_max";
    let metadata = [
        ("limit", SETTING.to_owned()),
        ("value", records_per_second.to_string()),
    ];
    let mut details = info("RATE_EXCEEDED", metadata);
    let description = format!("{records_per_second} records of the tenant a second");
    details.add_quota_failure_violation(SETTING, description);
    details.set_retry_info(Some(wait));
    let message = format!("the tenant may send {records_per_second} records a second; wait");
    with(Code::ResourceExhausted, &message, details)
}

/// The caller does not have the role that the method needs.
pub(super) fn role_required(role: &'static str) -> Status {
    let message = format!("the token does not have the role {role:?}, or is for one task");
    let details = info("ROLE_REQUIRED", [("role", role.to_owned())]);
    with(Code::PermissionDenied, &message, details)
}

/// The caller may register one plan, and this is another.
pub(super) fn bound_to_plan() -> Status {
    let message = "plan_id: the token is for one plan, and this is not its id";
    with(Code::PermissionDenied, message, info("BOUND_TO_PLAN", []))
}

/// The plan that was watched is gone.
pub(super) fn plan_removed(plan_id: &str) -> Status {
    let mut details = info("PLAN_REMOVED", []);
    details.set_resource_info(
        "fanout.v1.Plan",
        clean(plan_id_of(plan_id)),
        "",
        "was deleted or has expired",
    );
    with(
        Code::NotFound,
        &format!("plan {plan_id:?} was deleted or has expired"),
        details,
    )
}

/// A defect of this program made the call panic. What and where it was is in the log, not in the answer.
pub(super) fn panicked() -> Status {
    with(Code::Internal, "internal error", info("INTERNAL", []))
}

/// A status as the end of an answer.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    let added = status.add_header(&mut trailers);
    added.map(|()| Frame::trailers(trailers))
}

fn info(reason: &str, metadata: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn with(code: Code, message: &str, details: ErrorDetails) -> Status {
    Status::with_error_details(code, clean(message), details)
}

/// Control and direction characters escaped, and not too long.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(TEXT_BYTES_MAX));
    for c in text.chars() {
        if clean.len() >= TEXT_BYTES_MAX - 16 {
            clean.push_str("...");
            break;
        }
        let direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || direction {
            clean.extend(c.escape_unicode());
        } else {
            clean.push(c);
        }
    }
    clean
}
