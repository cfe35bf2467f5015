//! How soon a replica that joins serves a plan that others have filled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::proto::{Disposition, ReconcileRequest, Record, SubmitRecordsRequest};

use crate::client::{self, Client, ask_any, connect};
use crate::expected::name;
use crate::fleet::Fleet;
use crate::tally::Outcome;

const PLAN: &str = "joined";
/// Records in one message, and tasks in a page.
const BATCH: u64 = 1_000;

/// A replica that is ready has read such a plan, and taken a record, by then.
pub const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// What was measured.
pub struct Joined {
    /// From the start of the process until it was ready.
    pub ready: Duration,
    /// From when it was ready until it answered the first page of the result.
    pub read: Duration,
    /// From when it was ready until it acknowledged a record.
    pub taken: Duration,
}

/// Makes a plan with so many records, one for each task.
pub async fn fill(addresses: &Arc<[String]>, records: u64) -> Outcome<()> {
    client::plan(addresses, PLAN, records).await?;
    for first in (0..records).step_by(usize::try_from(BATCH)?) {
        let tasks = first..records.min(first + BATCH);
        let request = SubmitRecordsRequest {
            plan_id: PLAN.into(),
            records: tasks.map(record).collect(),
            producer_id: "one".into(),
            first_offset: Some(first),
            ..Default::default()
        };
        let call = async |mut client: Client| client.submit_records(request.clone()).await;
        ask_any(addresses, 0, call).await?;
    }
    Ok(())
}

fn record(task: u64) -> Record {
    Record {
        task_id: name(task),
        body: format!(
            r#"{{"status":"succeeded","outcome":{{"payload":{task},"checks":{{"lint":true,"tests":"passed"}}}},"summary":"this is what came of task {task}"}}"#
        )
        .into(),
        ..Default::default()
    }
}

/// Starts a replica, and asks nobody else.
pub async fn measure(fleet: &mut Fleet, records: u64) -> Outcome<Joined> {
    let since = Instant::now();
    let replica = fleet.join().await?;
    replica.ready().await?;
    let address = replica.address.clone();
    let ready = since.elapsed();
    let mut client = connect(&address).await?;
    let since = Instant::now();
    let request = ReconcileRequest {
        plan_id: PLAN.into(),
        page_size: i32::try_from(BATCH)?,
        ..Default::default()
    };
    let page = client.reconcile(request).await?.into_inner();
    let read = since.elapsed();
    let counts = page.counts.unwrap_or_default();
    if counts.recorded != records {
        return Err(format!("it knows {} of {records} records", counts.recorded).into());
    }
    let request = SubmitRecordsRequest {
        plan_id: PLAN.into(),
        records: vec![Record {
            task_id: name(0),
            body: r#"{"status":"failed"}"#.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = client.submit_records(request).await?.into_inner();
    let taken = since.elapsed();
    let found = answer.receipts.first().map(|receipt| receipt.disposition());
    if found != Some(Disposition::SupersededPrevious) {
        return Err(format!("its receipt is {found:?}").into());
    }
    Ok(Joined { ready, read, taken })
}
