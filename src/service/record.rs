//! A record's fields into what is submitted: its kind, its keys, its document, or what is wrong with it.

use std::borrow::Cow;

use super::convert;
use crate::config::Limits;
use crate::engine::{RecordKind, Spec, Submission, Violation};
use crate::proto;
use crate::proto::records::RecordFields;
use crate::reconcile::record::{self, Form, ReadRecord, Rewrite, TypedFields};

/// Reads a record, and appends its document to `documents`; that of the submission is empty. The form is that of records
/// before it.
#[inline]
pub(super) fn read<'r>(
    record: &RecordFields<'r>,
    spec: &Spec,
    limits: &Limits,
    form: &mut Form,
    documents: &mut String,
) -> Submission<'r> {
    let kind = match proto::RecordKind::try_from(record.kind) {
        Ok(proto::RecordKind::Unspecified | proto::RecordKind::Result) => RecordKind::Result,
        Ok(proto::RecordKind::Started) => RecordKind::Started,
        Ok(proto::RecordKind::Progress) => RecordKind::Progress,
        Err(_) => {
            let unknown = violation(
                "kind",
                "is not a kind that this server knows".into(),
                "UNKNOWN_ENUM_VALUE",
            );
            return Submission {
                kind: RecordKind::Result,
                record: Err(unknown),
            };
        }
    };
    let start = documents.len();
    let record = read_as(record, kind, spec, limits, form, documents);
    if record.is_err() {
        documents.truncate(start);
    }
    Submission { kind, record }
}

#[inline]
fn read_as<'r>(
    record: &RecordFields<'r>,
    kind: RecordKind,
    spec: &Spec,
    limits: &Limits,
    form: &mut Form,
    documents: &mut String,
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
        id: record.id,
        task_id: record.task_id,
        sandbox_session_id: record.sandbox_session_id,
        group_key: record.group_key,
        status: record.status,
        success: record.success,
    };
    let rewrite = match kind {
        RecordKind::Result => Rewrite::Reconciled,
        RecordKind::Started | RecordKind::Progress => Rewrite::AsSubmitted,
    };
    let json_limits = convert::json_limits(limits);
    check_text("status", record.status, limits)?;
    let settings = &spec.settings;
    let read = record::read_into(
        documents,
        form,
        typed,
        record.body,
        rewrite,
        json_limits,
        settings,
    )
    .map_err(|error| {
        let description = error.to_string();
        match error.limit {
            Some(limit) => over("body", description, "JSON_LIMIT_EXCEEDED", limit),
            None => violation("body", description, "INVALID_JSON"),
        }
    })?;
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

#[inline]
fn check_text(field: &'static str, text: &str, limits: &Limits) -> Result<(), Violation> {
    if text.is_empty() {
        return Ok(());
    }
    check_given(field, text, limits)
}

fn check_given(field: &'static str, text: &str, limits: &Limits) -> Result<(), Violation> {
    let most = limits.key_bytes_max;
    if text.len() > most {
        let description = format!("is {} bytes long, at most {most} are allowed", text.len());
        return Err(over(field, description, "KEY_TOO_LONG", most));
    }
    if text.as_bytes().contains(&0) {
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
