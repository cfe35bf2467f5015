//! A watcher that loses its connection, and goes on after its cursor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::proto::WatchPlanRequest;
use fanout::proto::watch_plan_response::Frame;
use tokio::sync::watch::Receiver;
use tonic::Code;

use crate::producer::{Seen, may_be_tried_again};
use crate::server::connect;
use crate::{Outcome, PATIENCE, PLAN, Tally};

/// Between two attempts to connect.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What was accepted, by sequence; none until all is.
type Accepted = Receiver<Option<Arc<BTreeMap<u64, Seen>>>>;

/// Follows the plan until it has seen all that was accepted.
pub async fn run(nth: usize, address: &str, mut accepted: Accepted, tally: &Tally) -> Outcome<()> {
    let mut cursor = String::new();
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut since = (Instant::now(), 0);
    loop {
        let all = accepted.borrow_and_update().clone();
        if let Some(all) = all.filter(|all| all.len() <= seen.len()) {
            if *all != seen {
                tally.wrong(format_args!("watcher {nth} saw something else"));
            }
            return Ok(());
        }
        if since.1 < seen.len() || accepted.borrow().is_none() {
            since = (Instant::now(), seen.len());
        }
        if since.0.elapsed() > PATIENCE {
            tally.wrong(format_args!("watcher {nth} has not seen everything"));
            return Ok(());
        }
        // An error is that the server is away; how long is bounded above.
        let _ = follow(nth, address, &mut accepted, &mut cursor, &mut seen, tally).await;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn follow(
    nth: usize,
    address: &str,
    accepted: &mut Accepted,
    cursor: &mut String,
    seen: &mut BTreeMap<u64, Seen>,
    tally: &Tally,
) -> Outcome<()> {
    let mut client = connect(address).await?;
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        after: cursor.clone(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(request).await?.into_inner();
    loop {
        let known = accepted.borrow().as_ref().map(|all| all.len());
        if known.is_some_and(|known| known <= seen.len()) {
            return Ok(());
        }
        let next = tokio::select! {
            next = frames.message() => next,
            _ = accepted.changed() => continue,
        };
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::OutOfRange => {
                tally.wrong(format_args!(
                    "watcher {nth} is ahead of the plan: {status:?}"
                ));
                return Err(status.into());
            }
            Err(status) => {
                if !may_be_tried_again(&status) {
                    tally.wrong(format_args!("watcher {nth}: {status:?}"));
                }
                return Ok(());
            }
        };
        if let Some(Frame::Result(result)) = frame.frame {
            let last = seen.last_key_value().map_or(0, |(last, _)| *last);
            if result.sequence <= last {
                tally.wrong(format_args!(
                    "watcher {nth} saw {} after {last}",
                    result.sequence
                ));
            }
            seen.insert(result.sequence, (result.task_id, result.revision));
        }
        *cursor = frame.cursor;
    }
}
