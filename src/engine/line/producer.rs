//! What a plan remembers of a producer's records, on a line.

use super::members::{Line, Members};
use super::{Result, read_matched_by, write_matched_by, wrong};
use crate::engine::{Advance, Disposition, Remembered, Violation, Warning, Warnings};
use crate::json::{self, Value};

words!(
    write_disposition,
    read_disposition,
    Disposition,
    [
        Accepted = "accepted",
        Duplicate = "duplicate",
        SupersededPrevious = "superseded_previous",
        Unmatched = "unmatched",
        Ambiguous = "ambiguous",
        Late = "late",
        KeysDisagree = "keys_disagree",
        Invalid = "invalid",
        TooLarge = "too_large",
    ]
);
words!(
    write_warning,
    read_warning,
    Warning,
    [
        KeysDisagree = "keys_disagree",
        FieldInBodyIgnored = "field_in_body_ignored",
        SessionNotLearnt = "session_not_learnt",
    ]
);

/// Writes all that is remembered.
pub(super) fn write(line: &mut Line<'_>, advance: &Advance) {
    line.text("producer", &advance.producer);
    line.number("first_offset", advance.first_offset);
    line.list("outcomes", |line| {
        for outcome in &advance.outcomes {
            line.element_object(|line| write_outcome(line, outcome));
        }
    });
    line.list("violations", |line| {
        for (position, violation) in &advance.violations {
            line.element_object(|line| {
                line.number("position", *position);
                line.text("field", violation.field);
                line.text("description", &violation.description);
                line.text("reason", violation.reason);
                line.number("limit", violation.limit);
                line.flag("quota", violation.quota);
            });
        }
    });
}

fn write_outcome(line: &mut Line<'_>, outcome: &Remembered) {
    line.number("sequence", outcome.sequence);
    line.number("held", outcome.held);
    line.number_if_given("task", outcome.task.map(u64::from));
    line.text("disposition", write_disposition(outcome.disposition));
    if let Some(matched_by) = outcome.matched_by {
        line.text("matched_by", write_matched_by(matched_by));
    }
    line.list("warnings", |line| {
        for warning in outcome.warnings.iter() {
            line.element(&json::compact(&write_warning(warning).into()));
        }
    });
}

/// Reads it again.
pub(super) fn read(members: &mut Members<'_>) -> Result<Advance> {
    Ok(Advance {
        producer: members.text("producer")?.into(),
        first_offset: members.number("first_offset")?,
        outcomes: each(members, "outcomes", read_outcome)?,
        violations: each(members, "violations", read_violation)?,
    })
}

/// Reads each object of a list.
fn each<T>(
    members: &mut Members<'_>,
    key: &str,
    read: impl Fn(&mut Members<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let read = |object: &Value| {
        let text = json::compact(object);
        let mut members = Members::read(text.as_bytes())?;
        let read = read(&mut members)?;
        members.end()?;
        Ok(read)
    };
    members.value(key)?.into_list().iter().map(read).collect()
}

fn read_outcome(members: &mut Members<'_>) -> Result<Remembered> {
    let matched_by = members.text_if_given("matched_by")?;
    let matched_by = matched_by.map(|name| read_matched_by(&name)).transpose()?;
    let warnings = members.value("warnings")?.into_list();
    let warnings = warnings.iter().map(|name| read_warning(&name.text()));
    let warnings = warnings.collect::<Result<Vec<_>>>()?;
    Ok(Remembered {
        sequence: members.number("sequence")?,
        held: members.number("held")?,
        task: members.number_if_given("task")?,
        disposition: read_disposition(&members.text("disposition")?)?,
        matched_by,
        warnings: Warnings::of(&warnings),
    })
}

fn read_violation(members: &mut Members<'_>) -> Result<(u32, Violation)> {
    let word = |key: &str, text: String| {
        let unknown = || wrong(key, &format!("{text:?} is unknown"));
        Violation::word(&text).ok_or_else(unknown)
    };
    let violation = Violation {
        field: word("field", members.text("field")?)?,
        description: members.text("description")?,
        reason: word("reason", members.text("reason")?)?,
        limit: members.number("limit")?,
        quota: members.flag("quota")?,
    };
    Ok((members.number("position")?, violation))
}
