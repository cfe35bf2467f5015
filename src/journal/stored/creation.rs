//! A plan's creation, stored and back.

use std::sync::Arc;
use std::time::Duration;

use super::generated::{self, PlanCreated};
use super::{Creation, Unreadable, malformed, read_seal_rule, store_seal_rule};
use crate::engine::{Completion, Entry, Event, Spec, Terms, Timestamp};

pub(super) fn store(spec: &Spec) -> PlanCreated {
    let completion = generated::Completion {
        seal_rule: store_seal_rule(spec.completion.seal_rule),
        min_successful: spec.completion.min_successful,
        tolerated_failure_count: spec.completion.tolerated_failure_count,
        tolerated_failure_percentage: spec.completion.tolerated_failure_percentage,
    };
    PlanCreated {
        plan_id: spec.plan_id.to_string(),
        digest: spec.digest.clone(),
        labels: spec.labels.clone(),
        completion: Some(completion),
        deadline: spec.deadline.map(|deadline| deadline.0),
        retention_seconds: spec.retention.as_secs(),
        retention_nanoseconds: spec.retention.subsec_nanos(),
        created_at: spec.created_at.0,
        config: spec.config.clone(),
        head: spec.head.clone(),
        item_count: spec.item_count as u64,
        group_count: spec.group_count as u64,
        task_count: spec.tasks.len() as u64,
        traceparent: spec.traceparent.clone(),
    }
}

/// The plan's creation, when all of its tasks are there.
pub(super) fn read(creation: Creation) -> Result<Entry, Unreadable> {
    let Creation {
        sequence,
        at,
        plan,
        requests,
    } = creation;
    if requests.len() as u64 != plan.task_count {
        return Err(malformed("there are more tasks than the plan has"));
    }
    let completion = plan
        .completion
        .ok_or_else(|| malformed("a plan has no completion policy"))?;
    // A larger number of nanoseconds would be carried over, which may be too much.
    if plan.retention_nanoseconds >= 1_000_000_000 {
        return Err(malformed("a plan's retention has too many nanoseconds"));
    }
    let terms = Terms {
        plan_id: plan.plan_id.into(),
        digest: plan.digest,
        labels: plan.labels,
        completion: Completion {
            seal_rule: read_seal_rule(completion.seal_rule)?,
            min_successful: completion.min_successful,
            tolerated_failure_count: completion.tolerated_failure_count,
            tolerated_failure_percentage: completion.tolerated_failure_percentage,
        },
        deadline: plan.deadline.map(Timestamp),
        retention: Duration::new(plan.retention_seconds, plan.retention_nanoseconds),
        created_at: Timestamp(plan.created_at),
    };
    let count = |count: u64| usize::try_from(count).map_err(malformed);
    let counts = (count(plan.item_count)?, count(plan.group_count)?);
    let mut spec =
        Spec::restore(terms, plan.config, plan.head, counts, &requests).map_err(malformed)?;
    spec.traceparent = plan.traceparent;
    Ok(Entry {
        sequence,
        at: Timestamp(at),
        event: Event::PlanCreated(Arc::new(spec)),
    })
}
