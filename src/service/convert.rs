//! Requests into commands, and what the coordinator answers into messages. Optional fields and enum numbers stop here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tonic::Status;

use super::extent::Extent;
use super::status::{invalid, over_limit};
use crate::config::{
    self, LABELS, Limits, MESSAGE_BYTES_PER_VALUE, PAGE_SIZE, PLAN_TIME_MAX,
    WHOLE_DOCUMENT_BYTES_MAX,
};
use crate::coordinator::{Deadline, PlanCommand, PlanView, Source, plan_id_of};
use crate::engine::{self, Completion, EndReason, PlanStatus, RecordKind, SealRule, Timestamp};
use crate::json::{self, Object, Value};
use crate::proto;
use crate::reconcile;

/// Text that must not be longer than `most` bytes and must not hold a NUL.
pub(super) fn text<'t>(field: &str, text: &'t str, most: usize) -> Result<&'t str, Status> {
    if text.len() > most {
        let problem = format!("is {} bytes long, at most {most} are allowed", text.len());
        return Err(over_limit(field, &problem, "TEXT_TOO_LONG", most));
    }
    if text.contains('\0') {
        return Err(invalid(field, "contains a NUL character", "INVALID_TEXT"));
    }
    Ok(text)
}

pub(super) fn required_plan_id<'t>(plan_id: &'t str, limits: &Limits) -> Result<&'t str, Status> {
    required_text("plan_id", plan_id, limits.key_bytes_max)
}

pub(super) fn required_text<'t>(
    field: &str,
    given: &'t str,
    most: usize,
) -> Result<&'t str, Status> {
    if given.is_empty() {
        return Err(invalid(field, "is required", "FIELD_REQUIRED"));
    }
    text(field, given, most)
}

pub(super) fn page_size(page_size: i32, default: usize) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(default),
        Ok(size) if size <= PAGE_SIZE.1 => Ok(size),
        _ => {
            let problem = format!("is {page_size}, expected 0 to {}", PAGE_SIZE.1);
            Err(over_limit(
                "page_size",
                &problem,
                "INVALID_PAGE_SIZE",
                PAGE_SIZE.1,
            ))
        }
    }
}

/// The task that a page begins with. Tokens of task pages are `t.` and that number.
pub(super) fn task_page_start(page_token: &str) -> Result<usize, Status> {
    if page_token.is_empty() {
        return Ok(0);
    }
    let start = page_token
        .strip_prefix("t.")
        .and_then(|start| start.parse().ok());
    as_printed(start, page_token, |start| task_page_token(Some(*start)))
}

/// What was read of a page token, if this is how the token of that is printed.
pub(super) fn as_printed<T>(
    read: Option<T>,
    page_token: &str,
    print: impl FnOnce(&T) -> String,
) -> Result<T, Status> {
    let read = read.filter(|read| print(read) == page_token);
    read.ok_or_else(|| {
        let problem = "is not a token of this call";
        invalid("page_token", problem, "INVALID_PAGE_TOKEN")
    })
}

pub(super) fn task_page_token(start: Option<usize>) -> String {
    start.map(|start| format!("t.{start}")).unwrap_or_default()
}

pub(super) fn duration(
    field: &str,
    value: &prost_types::Duration,
    range: (Duration, Duration),
) -> Result<Duration, Status> {
    // Read without the conversion that would mend what is not normal and fail in what is out of range.
    let seconds = u64::try_from(value.seconds).ok();
    let nanos = u32::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let duration = seconds
        .zip(nanos)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos))
        .filter(|time| range.0 <= *time && *time <= range.1);
    duration.ok_or_else(|| {
        let nanos = match value.nanos {
            0 => String::new(),
            nanos => format!(" and {nanos}ns"),
        };
        let (least, most) = (config::shown(range.0), config::shown(range.1));
        let problem = format!("is {}s{nanos}, expected {least} to {most}", value.seconds);
        invalid(field, &problem, "INVALID_DURATION")
    })
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(at.0 % 1_000).unwrap_or_default() * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

/// A JSON document of not too many values; `None` if there are no bytes.
pub(super) fn document(
    field: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<Value>, Status> {
    let most = limits.message_bytes_max / MESSAGE_BYTES_PER_VALUE;
    // Each value but the first needs two bytes at least.
    if bytes.len() / 2 >= most && Extent::of(bytes).values > most {
        let problem = format!("more than {most} JSON values");
        return Err(over_limit(field, &problem, "LIMIT_EXCEEDED", most));
    }
    counted_document(field, bytes, limits)
}

/// A JSON document whose values were counted, if need be.
fn counted_document(field: &str, bytes: &[u8], limits: &Limits) -> Result<Option<Value>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let limits = json_limits(limits);
    json::parse(bytes, limits).map(Some).map_err(|error| {
        let problem = error.to_string();
        match error.limit {
            Some(limit) => over_limit(field, &problem, "JSON_LIMIT_EXCEEDED", limit),
            None => invalid(field, &problem, "INVALID_JSON"),
        }
    })
}

pub(super) fn json_limits(limits: &Limits) -> json::Limits {
    json::Limits {
        depth: limits.json_depth_max,
        ..json::Limits::default()
    }
}

/// A config: an object. The existing documents let anything else count as `{}`; a caller of an API made a mistake.
pub(super) fn config(field: &str, bytes: &[u8], limits: &Limits) -> Result<Object, Status> {
    match document(field, bytes, limits)? {
        None => Ok(Object::default()),
        Some(Value::Object(config)) => Ok(config),
        Some(other) => Err(expected(field, "an object", &other)),
    }
}

/// A list of what a request brings.
pub(super) fn list(field: &str, bytes: &[u8], limits: &Limits) -> Result<Option<Value>, Status> {
    check_list(field, document(field, bytes, limits)?)
}

/// The same, of which the caller has counted the values.
pub(super) fn counted_list(
    field: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Option<Value>, Status> {
    check_list(field, counted_document(field, bytes, limits)?)
}

fn check_list(field: &str, given: Option<Value>) -> Result<Option<Value>, Status> {
    match given {
        Some(other) if other.as_array().is_none() => Err(expected(field, "a list", &other)),
        list => Ok(list),
    }
}

fn expected(field: &str, what: &str, found: &Value) -> Status {
    invalid(
        field,
        &format!("expected {what}, found {}", found.kind()),
        "INVALID_DOCUMENT",
    )
}

pub(super) fn plan_command(
    request: proto::PlanRequest,
    limits: &Limits,
) -> Result<PlanCommand, Status> {
    use proto::plan_request::Source as Given;
    text("request_id", &request.request_id, limits.key_bytes_max)?;
    text("plan_id", &request.plan_id, limits.key_bytes_max)?;
    let completion = completion(request.completion_policy.as_ref())?;
    let zero_to_most = (Duration::ZERO, PLAN_TIME_MAX);
    let deadline = match (&request.deadline, &request.timeout) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "timeout",
                "give either deadline or timeout",
                "FIELDS_EXCLUDE_EACH_OTHER",
            ));
        }
        (Some(deadline), None) => Some(Deadline::At(read_timestamp("deadline", deadline)?)),
        (None, Some(timeout)) => {
            let range = (Duration::from_millis(1), PLAN_TIME_MAX);
            Some(Deadline::After(duration("timeout", timeout, range)?))
        }
        (None, None) => None,
    };
    let retention = request
        .retention
        .map(|retention| duration("retention", &retention, zero_to_most));
    let source = match &request.source {
        None => Source::Config,
        Some(Given::Items(items)) => {
            let items = list("items", items, limits)?;
            Source::Items(items.unwrap_or_else(|| Value::array(Vec::new())))
        }
        Some(Given::Groups(groups)) => {
            let groups = list("groups", groups, limits)?;
            Source::Groups(groups.unwrap_or_else(|| Value::array(Vec::new())))
        }
        Some(Given::FindingPackets(given)) => {
            let packets = list("finding_packets.packets", &given.packets, limits)?;
            let policy = config("finding_packets.policy", &given.policy, limits)?;
            let policy = (!policy.is_empty()).then(|| policy.into());
            let packets = packets.unwrap_or_else(|| Value::array(Vec::new()));
            Source::Packets { packets, policy }
        }
    };
    Ok(PlanCommand {
        tenant: Arc::default(),
        config: config("config", &request.config, limits)?,
        source,
        completion,
        deadline,
        retention: retention.transpose()?,
        labels: labels(request.labels)?,
        validate_only: request.validate_only,
        // Half of the message is for the task requests.
        document_bytes_max: WHOLE_DOCUMENT_BYTES_MAX.min(limits.message_bytes_max / 4),
        request_id: request.request_id,
        plan_id: request.plan_id,
    })
}

fn completion(policy: Option<&proto::CompletionPolicy>) -> Result<Completion, Status> {
    let Some(policy) = policy else {
        return Ok(Completion::default());
    };
    let seal_rule = match proto::SealRule::try_from(policy.seal_rule) {
        Ok(proto::SealRule::Unspecified | proto::SealRule::WhenAllRecorded) => {
            SealRule::WhenAllRecorded
        }
        Ok(proto::SealRule::Explicit) => SealRule::Explicit,
        Err(_) => {
            return Err(invalid(
                "completion_policy.seal_rule",
                "is not a rule that this server knows",
                "UNKNOWN_ENUM_VALUE",
            ));
        }
    };
    if policy.min_successful == Some(0) {
        let field = "completion_policy.min_successful";
        return Err(invalid(
            field,
            "is 0, expected at least 1",
            "INVALID_COMPLETION_POLICY",
        ));
    }
    let share = policy.tolerated_failure_percentage;
    if let Some(share) = share.filter(|share| !(0.0..=100.0).contains(share)) {
        let field = "completion_policy.tolerated_failure_percentage";
        let problem = format!("is {share}, expected 0 to 100");
        return Err(invalid(field, &problem, "INVALID_COMPLETION_POLICY"));
    }
    Ok(Completion {
        seal_rule,
        min_successful: policy.min_successful,
        tolerated_failure_count: policy.tolerated_failure_count,
        tolerated_failure_percentage: share,
    })
}

/// The last second of the year 9999, the last that a timestamp can say.
const TIMESTAMP_SECONDS_MAX: u64 = 253_402_300_799;

fn read_timestamp(field: &str, value: &prost_types::Timestamp) -> Result<Timestamp, Status> {
    let seconds = u64::try_from(value.seconds)
        .ok()
        .filter(|seconds| *seconds <= TIMESTAMP_SECONDS_MAX);
    let nanos = u64::try_from(value.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    let at = seconds
        .zip(nanos)
        .and_then(|(seconds, nanos)| seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000));
    at.map(Timestamp).ok_or_else(|| {
        invalid(
            field,
            "is not a time from 1970 to 9999",
            "INVALID_TIMESTAMP",
        )
    })
}

fn labels(labels: HashMap<String, String>) -> Result<BTreeMap<String, String>, Status> {
    let (most, bytes) = LABELS;
    if labels.len() > most {
        let problem = format!("{} labels, at most {most} are allowed", labels.len());
        return Err(over_limit("labels", &problem, "TOO_MANY_LABELS", most));
    }
    for side in labels.iter().flat_map(|(key, value)| [key, value]) {
        text("labels", side, bytes)?;
    }
    Ok(labels.into_iter().collect())
}

/// Which plans a list is to show.
pub(super) struct PlanFilter<'r> {
    after: Option<(Timestamp, &'r str)>,
    status: Option<PlanStatus>,
    labels: &'r HashMap<String, String>,
}

impl<'r> PlanFilter<'r> {
    pub(super) fn read(request: &'r proto::ListPlansRequest) -> Result<Self, Status> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                let read = || {
                    let (created_at, plan_id) = token.strip_prefix("p.")?.split_once('.')?;
                    Some((Timestamp(created_at.parse().ok()?), plan_id))
                };
                let print = |after: &(Timestamp, &str)| page_token_after(after.0, after.1);
                Some(as_printed(read(), token, print)?)
            }
        };
        let status = match proto::PlanStatus::try_from(request.status) {
            Ok(proto::PlanStatus::Unspecified) => None,
            Ok(proto::PlanStatus::Incomplete) => Some(PlanStatus::Incomplete),
            Ok(proto::PlanStatus::Completed) => Some(PlanStatus::Completed),
            Ok(proto::PlanStatus::Failed) => Some(PlanStatus::Failed),
            Err(_) => {
                return Err(invalid(
                    "status",
                    "is not a status that this server knows",
                    "UNKNOWN_ENUM_VALUE",
                ));
            }
        };
        Ok(Self {
            after,
            status,
            labels: &request.labels,
        })
    }

    pub(super) fn admits(&self, view: &PlanView) -> bool {
        let place = (view.spec.created_at, plan_id_of(&view.spec.plan_id));
        self.after.is_none_or(|after| place > after)
            && self
                .status
                .is_none_or(|status| status == view.standing.status)
            && self
                .labels
                .iter()
                .all(|(key, value)| view.spec.labels.get(key) == Some(value))
    }
}

pub(super) fn plan_page_token(last: &PlanView) -> String {
    page_token_after(last.spec.created_at, plan_id_of(&last.spec.plan_id))
}

fn page_token_after(created_at: Timestamp, plan_id: &str) -> String {
    format!("p.{}.{plan_id}", created_at.0)
}

pub(super) fn plan(view: &PlanView) -> proto::Plan {
    let (spec, standing) = (&view.spec, &view.standing);
    proto::Plan {
        plan_id: plan_id_of(&spec.plan_id).to_owned(),
        status: plan_status(standing.status).into(),
        end_reason: end_reason(standing.end.as_ref()).into(),
        counts: Some(counts(&standing.counts)),
        sequence: standing.sequence,
        cursor: view.cursor(standing.sequence),
        digest: spec.digest.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        create_time: Some(timestamp(spec.created_at)),
        deadline: spec.deadline.map(timestamp),
        end_time: standing.end.as_ref().map(|end| timestamp(end.at)),
        expire_time: view.expires_at().map(timestamp),
        completion_policy: Some(proto::CompletionPolicy {
            seal_rule: match spec.completion.seal_rule {
                SealRule::WhenAllRecorded => proto::SealRule::WhenAllRecorded,
                SealRule::Explicit => proto::SealRule::Explicit,
            }
            .into(),
            min_successful: spec.completion.min_successful,
            tolerated_failure_count: spec.completion.tolerated_failure_count,
            tolerated_failure_percentage: spec.completion.tolerated_failure_percentage,
        }),
        end_note: standing
            .end
            .as_ref()
            .map(|end| end.note.to_string())
            .unwrap_or_default(),
        traceparent: spec.traceparent.clone(),
    }
}

pub(super) fn plan_status(status: PlanStatus) -> proto::PlanStatus {
    match status {
        PlanStatus::Incomplete => proto::PlanStatus::Incomplete,
        PlanStatus::Completed => proto::PlanStatus::Completed,
        PlanStatus::Failed => proto::PlanStatus::Failed,
    }
}

pub(super) fn end_reason(end: Option<&engine::End>) -> proto::EndReason {
    match end.map(|end| end.reason) {
        None => proto::EndReason::Unspecified,
        Some(EndReason::AllRecorded) => proto::EndReason::AllRecorded,
        Some(EndReason::Sealed) => proto::EndReason::Sealed,
        Some(EndReason::Deadline) => proto::EndReason::Deadline,
        Some(EndReason::Cancelled) => proto::EndReason::Cancelled,
        Some(EndReason::ToleranceExceeded) => proto::EndReason::ToleranceExceeded,
        Some(EndReason::MinimumReached) => proto::EndReason::MinimumReached,
    }
}

pub(super) fn task_status(status: Option<reconcile::Status>) -> proto::TaskStatus {
    match status {
        None => proto::TaskStatus::Unspecified,
        Some(reconcile::Status::Completed) => proto::TaskStatus::Completed,
        Some(reconcile::Status::Failed) => proto::TaskStatus::Failed,
        Some(reconcile::Status::MissingRecord) => proto::TaskStatus::MissingRecord,
    }
}

pub(super) fn record_kind(kind: RecordKind) -> proto::RecordKind {
    match kind {
        RecordKind::Result => proto::RecordKind::Result,
        RecordKind::Started => proto::RecordKind::Started,
        RecordKind::Progress => proto::RecordKind::Progress,
    }
}

pub(super) fn matched_by(by: Option<reconcile::MatchedBy>) -> proto::MatchedBy {
    match by {
        None => proto::MatchedBy::Unspecified,
        Some(reconcile::MatchedBy::Id) => proto::MatchedBy::Id,
        Some(reconcile::MatchedBy::TaskId) => proto::MatchedBy::TaskId,
        Some(reconcile::MatchedBy::SandboxSessionId) => proto::MatchedBy::SandboxSessionId,
        Some(reconcile::MatchedBy::GroupKey) => proto::MatchedBy::GroupKey,
        Some(reconcile::MatchedBy::Operator) => proto::MatchedBy::Operator,
    }
}

pub(super) fn counts(counts: &engine::Counts) -> proto::Counts {
    let engine::Counts {
        items,
        groups,
        tasks,
        recorded,
        successful,
        failed,
        missing,
        running,
        outcomes,
        quarantined,
    } = *counts;
    proto::Counts {
        items,
        groups,
        tasks,
        recorded,
        successful,
        failed,
        missing,
        running,
        outcomes,
        quarantined,
    }
}

/// A page of task requests, and the token of the next. A page ends early where the message would grow too large.
pub(super) fn task_requests(
    view: &PlanView,
    start: usize,
    page_size: usize,
    limits: &Limits,
) -> (Vec<proto::TaskRequest>, String) {
    let spec = &view.spec;
    let tasks = spec.tasks.numbers(start..start.saturating_add(page_size));
    let requests = tasks.map(|task| proto::TaskRequest {
        task_id: spec.task_id(task).to_owned(),
        group_key: spec.group_key_text(task).into_owned(),
        document: spec.request(task),
    });
    let page = fitting(requests, limits);
    let next = start + page.len();
    let token = task_page_token((next < spec.tasks.len()).then_some(next));
    (page, token)
}

/// The first entries of a page, as many as fit into a message beside what else it has: at least one, if there is any.
pub(super) fn fitting<M: Message>(entries: impl Iterator<Item = M>, limits: &Limits) -> Vec<M> {
    let mut left = limits.message_bytes_max / 2;
    let mut fitting = Vec::new();
    for entry in entries {
        let bytes = entry.encoded_len();
        if !fitting.is_empty() && bytes > left {
            break;
        }
        left = left.saturating_sub(bytes);
        fitting.push(entry);
    }
    fitting
}
