//! At the end: what each replica shows of a plan is the same to the byte, and it is what the receipts said.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use fanout::json::{self, Limits, Value};
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{ReconcileRequest, WatchPlanRequest};
use prost::Message;

use crate::client::{Client, ask_any, soon};
use crate::expected::name;
use crate::shown::Shown;
use crate::submitter::Applied;
use crate::tally::{Outcome, Tally};

/// Tasks in one page of a result.
const PAGE: i32 = 1_000;

/// What one replica shows of a plan that has ended.
pub struct Ending {
    /// By sequence: the task, and its revision.
    pub results: BTreeMap<u64, (String, u32)>,
    /// What every task has at last: its name, and the payload.
    pub payloads: BTreeMap<String, u64>,
    /// Of all frames of a watch from the beginning.
    watched: u64,
    /// Of all pages of the result.
    pages: u64,
}

/// Reads it from this replica.
pub async fn ending(
    addresses: &[String],
    at: usize,
    shown: &Shown,
    tally: &Tally,
) -> Outcome<Ending> {
    let own = &addresses[at..=at];
    let (results, watched) = watch(own, at, shown, tally).await?;
    let (payloads, pages) = result(own, shown.plan_id()).await?;
    Ok(Ending {
        results,
        payloads,
        watched,
        pages,
    })
}

type Results = BTreeMap<u64, (String, u32)>;

async fn watch(own: &[String], at: usize, shown: &Shown, tally: &Tally) -> Outcome<(Results, u64)> {
    let request = WatchPlanRequest {
        plan_id: shown.plan_id().to_owned(),
        include_payload: true,
        ..Default::default()
    };
    let call = async |mut client: Client| client.watch_plan(request.clone()).await;
    let mut frames = ask_any(own, 0, call).await?;
    let mut results = BTreeMap::new();
    let mut hasher = DefaultHasher::new();
    while let Some(frame) = soon(frames.message()).await? {
        if matches!(frame.frame, Some(Frame::Heartbeat(_))) {
            continue;
        }
        frame.encode_to_vec().hash(&mut hasher);
        match frame.frame {
            Some(Frame::Result(result)) => {
                shown.show(at, &result, tally);
                results.insert(result.sequence, (result.task_id, result.revision));
            }
            Some(Frame::End(_)) => return Ok((results, hasher.finish())),
            _ => {}
        }
    }
    Err(format!("replica {at}: the watch of a plan that has ended has no end").into())
}

async fn result(own: &[String], plan_id: &str) -> Outcome<(BTreeMap<String, u64>, u64)> {
    let mut payloads = BTreeMap::new();
    let mut hasher = DefaultHasher::new();
    let mut page_token = String::new();
    loop {
        let request = ReconcileRequest {
            plan_id: plan_id.into(),
            page_size: PAGE,
            page_token,
            ..Default::default()
        };
        let call = async |mut client: Client| client.reconcile(request.clone()).await;
        let mut page = ask_any(own, 0, call).await?;
        page_token = std::mem::take(&mut page.next_page_token);
        page.encode_to_vec().hash(&mut hasher);
        let document = json::parse(&page.document, Limits::default())?;
        let records = document.get("records").and_then(Value::as_array);
        for record in records.unwrap_or_default() {
            let text = |value: Option<&Value>| value.map(|value| value.text().into_owned());
            // A task without a record has an entry, too.
            let Some(payload) = text(record.lookup("outcome.payload").as_deref()) else {
                continue;
            };
            let task = text(record.get("task_id")).ok_or("a record without a task")?;
            payloads.insert(task, payload.parse()?);
        }
        if page_token.is_empty() {
            return Ok((payloads, hasher.finish()));
        }
    }
}

impl Ending {
    /// Whether another replica shows the same.
    pub fn is_shown_by(&self, at: usize, other: &Self, plan_id: &str, tally: &Tally) {
        if other.watched != self.watched {
            tally.wrong(format_args!(
                "replica {at} shows another watch of {plan_id} than replica 0: {} results, and {}",
                other.results.len(),
                self.results.len()
            ));
        }
        if other.pages != self.pages {
            tally.wrong(format_args!(
                "replica {at} shows another result of {plan_id} than replica 0"
            ));
        }
    }

    /// Compares it with what receipts said was applied, and with what every task must have at last.
    pub fn is_of(
        &self,
        applied: &[Applied],
        finally: &BTreeMap<String, u64>,
        plan_id: &str,
        tally: &Tally,
    ) {
        let mut acknowledged = BTreeSet::new();
        for Applied {
            sequence,
            task,
            revision,
        } in applied
        {
            if !acknowledged.insert(*sequence) {
                tally.wrong(format_args!(
                    "two records of {plan_id} have sequence {sequence}"
                ));
            }
            let found = self.results.get(sequence);
            if found.is_none_or(|(found, at)| *found != name(*task) || at != revision) {
                tally.lose(1);
            }
        }
        let others = self
            .results
            .keys()
            .filter(|sequence| !acknowledged.contains(sequence));
        tally.double(others.count());
        if self.payloads.len() != finally.len() {
            let (found, expected) = (self.payloads.len(), finally.len());
            tally.wrong(format_args!(
                "{plan_id} has {found} records at last, expected {expected}"
            ));
        }
        for (task, payload) in finally {
            let found = self.payloads.get(task);
            if found != Some(payload) {
                tally.wrong(format_args!(
                    "{task} of {plan_id} has {found:?}, expected {payload}"
                ));
            }
        }
    }

    /// Compares it with what a watcher saw.
    pub fn was_seen(&self, seen: &[u64], whose: &str, tally: &Tally) {
        if !self.results.keys().eq(seen.iter()) {
            tally.wrong(format_args!(
                "{whose} saw {} results, there are {}",
                seen.len(),
                self.results.len()
            ));
        }
    }
}
