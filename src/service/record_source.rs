//! What the messages of a stream of records say besides the records: whose they are, and for which plan. Said once, it holds
//! for all that follow.

use std::sync::Arc;

use tonic::Status;

use super::admission::named;
use super::{Fanout, convert, status};
use crate::coordinator::plan_id_of;
use crate::engine::producer_of_task;
use crate::identity::{BoundTask, Caller};
use crate::proto::View;
use crate::proto::records::{Known, RecordFields, RecordsMessage};
use crate::registry::LivePlan;

/// Where a stream's records come from, and where they go. Known from its first message on.
pub(super) struct Source {
    caller: Arc<Caller>,
    plan: Option<Arc<LivePlan>>,
    /// The plan as messages name it.
    plan_id: Box<str>,
    /// What the coordinator has of the name that the first message says, until that is read.
    found: Option<Result<Arc<LivePlan>, Status>>,
    /// The producer as messages name it; empty if it has none.
    producer: Box<str>,
    /// The producer as the plan knows it.
    known_producer: Box<str>,
    /// Offset of the next record, if the producer has said one.
    next_offset: Option<u64>,
    /// Whether receipts are to have their reconciled records.
    is_full: bool,
}

/// What a message says, or those before it, besides its records.
pub(super) struct Said<'s> {
    /// The plan.
    pub(super) plan: &'s Arc<LivePlan>,
    /// Offset of the first record, if there is a producer.
    pub(super) first_offset: Option<u64>,
    /// Whether receipts are to have their reconciled records.
    pub(super) is_full: bool,
}

impl Source {
    /// Nothing but whose it is.
    pub(super) fn of(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            plan: None,
            plan_id: Box::default(),
            found: None,
            producer: Box::default(),
            known_producer: Box::default(),
            next_offset: None,
            is_full: true,
        }
    }

    /// The only task that it may bring records for, if there is one.
    pub(super) fn bound_task(&self) -> Option<&BoundTask> {
        self.caller.task.as_ref()
    }

    /// The plan, once a message has named it.
    pub(super) fn plan(&self) -> Option<&Arc<LivePlan>> {
        self.plan.as_ref()
    }

    /// The producer, if there is one.
    pub(super) fn producer(&self) -> Option<&str> {
        (!self.known_producer.is_empty()).then_some(&*self.known_producer)
    }

    /// Has the coordinator look for the plan that the first message names. What is wrong with the message is said when it
    /// is [read](Self::read).
    pub(super) async fn find(&mut self, fanout: &Fanout, first: &RecordsMessage) {
        if self.plan.is_some() {
            return;
        }
        if let Some(plan_id) = first.plan_id() {
            let limits = &fanout.config.limits;
            self.found = Some(match named(&self.caller, plan_id, limits) {
                Ok(name) => {
                    let found = fanout.coordinator.plan(&name).await;
                    found.map_err(|error| status::of(&error))
                }
                Err(refused) => Err(refused),
            });
        }
    }

    /// Reads a message, the first one after its plan was [found](Self::find): appends its records, and answers what it
    /// says besides.
    pub(super) fn read<'m>(
        &mut self,
        fanout: &Fanout,
        message: &'m RecordsMessage,
        records: &mut Vec<RecordFields<'m>>,
    ) -> Result<Said<'_>, Status> {
        let limits = &fanout.config.limits;
        let begin = records.len();
        let known = Known {
            plan_id: &self.plan_id,
            producer_id: &self.producer,
        };
        let header = message
            .read(known, records)
            .map_err(|problem| status::invalid("message", &problem, "MALFORMED_MESSAGE"))?;
        let count = records.len() - begin;
        let plan = match self.plan.take() {
            None => {
                let plan_id = convert::required_plan_id(header.plan_id, limits)?;
                let found = self.found.take();
                let plan = found.unwrap_or_else(|| {
                    let problem = format!("nobody looked for plan {plan_id:?}");
                    Err(Status::internal(problem))
                })?;
                let most = limits.key_bytes_max;
                if header.producer_id.len() > most {
                    let length = header.producer_id.len();
                    let problem = format!("is {length} bytes long, at most {most} are allowed");
                    return Err(status::over_limit(
                        "producer_id",
                        &problem,
                        "KEY_TOO_LONG",
                        most,
                    ));
                }
                // It would be that of a producer for one task.
                if header.producer_id.contains('\0') {
                    let problem = "contains a NUL character";
                    return Err(status::invalid("producer_id", problem, "INVALID_TEXT"));
                }
                self.plan_id = plan_id_of(plan.plan_id()).into();
                self.producer = header.producer_id.into();
                self.known_producer = match &self.caller.task {
                    // Whoever sends for one task has producers of their own, and learns nothing of others'.
                    Some(task) if !self.producer.is_empty() => {
                        producer_of_task(&task.task_id, &self.producer).into()
                    }
                    _ => self.producer.clone(),
                };
                plan
            }
            Some(plan) => plan,
        };
        let plan = self.plan.insert(plan);
        let unlike = |field, said, holds, reason| {
            let problem = format!("is {said:?}, but this stream is for {holds:?}");
            Err(status::invalid(field, &problem, reason))
        };
        let (said, plan_id) = (header.plan_id, &*self.plan_id);
        if !said.is_empty() && said != plan_id {
            return unlike("plan_id", said, plan_id, "PLAN_ID_CHANGED");
        }
        let (said, producer) = (header.producer_id, &*self.producer);
        if !said.is_empty() && said != producer {
            return unlike("producer_id", said, producer, "PRODUCER_ID_CHANGED");
        }
        let most = limits.records_per_message_max;
        if count > most {
            let problem = format!("{count} records, at most {most} are allowed");
            return Err(status::over_limit(
                "records",
                &problem,
                "TOO_MANY_RECORDS",
                most,
            ));
        }
        match View::try_from(header.view) {
            Ok(View::Basic) => self.is_full = false,
            Ok(View::Full) => self.is_full = true,
            Ok(View::Unspecified) | Err(_) => {}
        }
        let has_producer = !self.producer.is_empty();
        let said = header.first_offset;
        let first_offset = first_offset(has_producer, said, &mut self.next_offset, count)?;
        Ok(Said {
            plan,
            first_offset,
            is_full: self.is_full,
        })
    }
}

/// Offset of a message's first record, and of what follows it. Without records it is none, which asks how many have come.
fn first_offset(
    has_producer: bool,
    said: Option<u64>,
    next_offset: &mut Option<u64>,
    count: usize,
) -> Result<Option<u64>, Status> {
    let required = |field, problem| Err(status::invalid(field, problem, "FIELD_REQUIRED"));
    if !has_producer {
        return match (said, count) {
            (Some(_), _) => required("producer_id", "first_offset is an offset of a producer"),
            (None, 0) => required("records", "expected at least one record"),
            (None, _) => Ok(None),
        };
    }
    if count == 0 {
        return Ok(None);
    }
    let Some(first) = said.or(*next_offset) else {
        return required(
            "first_offset",
            "the first records of a producer on a stream need it",
        );
    };
    let Some(next) = first.checked_add(count as u64) else {
        let problem = "there is no offset after the last record's";
        return Err(status::invalid("first_offset", problem, "INVALID_OFFSET"));
    };
    *next_offset = Some(next);
    Ok(Some(first))
}
