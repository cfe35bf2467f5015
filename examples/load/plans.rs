//! Whether it matters how large a plan is, and how many there are.

use std::sync::Arc;

use fanout::proto::View;
use futures_util::{TryStreamExt, stream};

use crate::server::Server;
use crate::submit::{Pace, SUBMIT, Shape, delete, one_for_each, plan_tasks, send};
use crate::wire::{Messages, receipts};
use crate::{Outcome, RECORD_BYTES, Size};

const THOUSAND: usize = 1_000;
const MILLION: usize = 1_000_000;
const BIG: &str = "million";

/// Most plans that are live at once.
const PLANS: usize = 2_000;
/// Records of one plan before others have their turn.
const BURST: usize = 8;
/// Plans that are made or deleted at a time.
const CALLS: usize = 8;

/// Records per second on plans of 1,000 tasks and on a plan of 1,000,000, round by round. Both get a thousand records at
/// a time, in plan order, over streams that are opened for them, and both keep what they get to the end, so that nothing
/// but the size of the plan differs: records that follow those of a deleted plan get memory that is still warm.
pub async fn by_size(size: Size) -> Outcome<Vec<[f64; 2]>> {
    let server = Server::fanout().await?;
    plan_tasks(&server, BIG, MILLION).await?;
    let shape = Shape {
        streams: 8,
        batch: 1,
        record_bytes: RECORD_BYTES,
        view: View::Full,
        records: THOUSAND,
    };
    // No task has a record twice.
    let thousands = (size.records / THOUSAND).min(MILLION / THOUSAND / (size.rounds + 1));
    let mut rounds = Vec::new();
    for round in 0..=size.rounds {
        let mut seconds = [0.0; 2];
        for nth in 0..thousands {
            let nth = round * thousands + nth;
            let small = format!("thousand-{nth}");
            plan_tasks(&server, &small, THOUSAND).await?;
            let first = nth * THOUSAND;
            for (seconds, (plan_id, first)) in seconds.iter_mut().zip([(&*small, 0), (BIG, first)])
            {
                let messages = one_for_each(plan_id, first, shape);
                let sent = send(&server, SUBMIT, receipts, &messages, Pace::Free).await?;
                *seconds += THOUSAND as f64 / sent.per_second;
            }
        }
        if round > 0 {
            rounds.push(seconds.map(|seconds| (thousands * THOUSAND) as f64 / seconds));
        }
    }
    Ok(rounds)
}

/// Records per second over 2,000 streams for one plan, and for a plan each, round by round.
pub async fn by_number(size: Size) -> Outcome<Vec<[f64; 2]>> {
    let server = Server::fanout().await?;
    let of_each = size.records / PLANS;
    let mut rounds = Vec::new();
    for round in 0..=size.rounds {
        let mut rates = [0.0; 2];
        for (rate, plans) in rates.iter_mut().zip([1, PLANS]) {
            let tasks = of_each * PLANS / plans;
            let shape = Shape {
                streams: PLANS / plans,
                batch: 1,
                record_bytes: RECORD_BYTES,
                view: View::Full,
                records: tasks,
            };
            let plan_ids = || (0..plans).map(|plan| format!("plan-{plan}"));
            let server = &server;
            stream::iter(plan_ids().map(Ok))
                .try_for_each_concurrent(CALLS, async |id| plan_tasks(server, &id, tasks).await)
                .await?;
            let messages: Vec<Arc<Messages>> = plan_ids()
                .flat_map(|id| one_for_each(&id, 0, shape))
                .collect();
            server.settle().await?;
            let sent = send(server, SUBMIT, receipts, &messages, Pace::Burst(BURST)).await?;
            *rate = sent.per_second;
            stream::iter(plan_ids().map(Ok))
                .try_for_each_concurrent(CALLS, async |id| delete(server, &id).await)
                .await?;
        }
        if round > 0 {
            rounds.push(rates);
        }
    }
    Ok(rounds)
}
