//! A plan's creation on a line.

use std::time::Duration;

use super::members::{Line, Members};
use super::{LineError, Result, read_seal_rule, write_seal_rule, wrong};
use crate::engine::{Completion, Spec, Terms, Timestamp};
use crate::json;

/// Writes all that a plan is.
pub(super) fn write(line: &mut Line<'_>, spec: &Spec) {
    let completion = &spec.completion;
    line.text("plan_id", &spec.plan_id);
    line.text("digest", &spec.digest);
    line.object("labels", |line| {
        for (key, label) in &spec.labels {
            line.text(key, label);
        }
    });
    line.text("seal_rule", write_seal_rule(completion.seal_rule));
    line.number_if_given("min_successful", completion.min_successful);
    line.number_if_given("tolerated_failures", completion.tolerated_failure_count);
    if let Some(share) = completion.tolerated_failure_percentage {
        // As a string, because JSON has no word for infinity.
        line.text("tolerated_failure_percentage", &share.to_string());
    }
    line.number_if_given("deadline", spec.deadline.map(|deadline| deadline.0));
    line.number("retention_seconds", spec.retention.as_secs());
    line.number("retention_nanoseconds", spec.retention.subsec_nanos());
    line.number("created_at", spec.created_at.0);
    if !spec.traceparent.is_empty() {
        line.text("traceparent", &spec.traceparent);
    }
    line.document("config", &spec.config);
    line.document("head", &spec.head);
    line.number("item_count", spec.item_count as u64);
    line.number("group_count", spec.group_count as u64);
    line.list("task_requests", |line| {
        for task in spec.tasks.numbers(0..spec.tasks.len()) {
            line.element(&String::from_utf8_lossy(&spec.request(task)));
        }
    });
}

/// Reads it again.
pub(super) fn read(members: &mut Members<'_>) -> Result<Spec> {
    let completion = Completion {
        seal_rule: read_seal_rule(&members.text("seal_rule")?)?,
        min_successful: members.number_if_given("min_successful")?,
        tolerated_failure_count: members.number_if_given("tolerated_failures")?,
        tolerated_failure_percentage: percentage(members)?,
    };
    let labels = members.value("labels")?;
    let labels = labels.as_object().into_iter().flat_map(|all| all.iter());
    let nanoseconds: u32 = members.number("retention_nanoseconds")?;
    if nanoseconds >= 1_000_000_000 {
        return Err(wrong("retention_nanoseconds", "are a second or more"));
    }
    let terms = Terms {
        plan_id: members.text("plan_id")?.into(),
        digest: members.text("digest")?,
        labels: labels
            .map(|(key, label)| (key.to_string(), label.as_str().unwrap_or("").to_owned()))
            .collect(),
        completion,
        deadline: members.number_if_given("deadline")?.map(Timestamp),
        retention: Duration::new(members.number("retention_seconds")?, nanoseconds),
        created_at: Timestamp(members.number("created_at")?),
    };
    let counts = (
        members.number("item_count")?,
        members.number("group_count")?,
    );
    let (config, head) = (members.document("config")?, members.document("head")?);
    let requests = members.value("task_requests")?.into_list();
    // They were compact, and a compact text says the same again.
    let requests = requests.iter().map(|request| json::compact(request).into());
    let requests = requests.collect::<Vec<_>>();
    let spec = Spec::restore(terms, config, head, counts, &requests);
    let mut spec = spec.map_err(|error| LineError(error.to_string()))?;
    spec.traceparent = members.text_if_given("traceparent")?.unwrap_or_default();
    Ok(spec)
}

fn percentage(members: &mut Members<'_>) -> Result<Option<f64>> {
    let key = "tolerated_failure_percentage";
    let number = members.text_if_given(key)?.map(|text| text.parse());
    number
        .transpose()
        .map_err(|_| wrong(key, "expected a number in quotes"))
}
