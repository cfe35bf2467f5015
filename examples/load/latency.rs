//! How long one record takes, with one stream and nothing else under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::proto::{View, WatchPlanRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::echo::ECHO;
use crate::server::Server;
use crate::submit::{PLAN, SUBMIT, Shape, call, delete, one_for_each, plan_tasks};
use crate::watch::{WATCH, watch};
use crate::wire::{Count, Messages, Sending, echoed, receipts, results};
use crate::{Outcome, Servers, Size, within};

/// For one round of other measurements: what else the machine does shows in the slowest of a hundred before all else.
const ROUNDS: usize = 3;
/// One of so many at the beginning does not count.
const WARM_UP: usize = 10;

/// How long a record took in the middle, and the slowest of a hundred.
#[derive(Clone, Copy)]
pub struct Latency {
    pub p50: Duration,
    pub p99: Duration,
}

/// From the bare echo, from the coordinator, and from a record to a watcher of the coordinator; round by round.
pub async fn compare(servers: &Servers, size: Size) -> Outcome<Vec<[Latency; 3]>> {
    let shape = Shape {
        streams: 1,
        batch: 1,
        record_bytes: crate::RECORD_BYTES,
        view: View::Full,
        records: size.samples,
    };
    let messages = one_for_each(PLAN, 0, shape).remove(0);
    let ours = &servers.fanout;
    let mut rounds = Vec::new();
    for round in 0..=size.rounds * ROUNDS {
        let bare = ping_pong(&servers.bare, ECHO, echoed, &messages, None).await?;

        plan_tasks(ours, PLAN, shape.records).await?;
        ours.settle().await?;
        let receipt = ping_pong(ours, SUBMIT, receipts, &messages, None).await?;
        delete(ours, PLAN).await?;

        plan_tasks(ours, PLAN, shape.records).await?;
        let request = WatchPlanRequest {
            plan_id: PLAN.into(),
            ..Default::default()
        };
        let request = Arc::new(Messages::one(&request));
        let seen = watch(ours.connection(1), WATCH, request, results).await?;
        ours.settle().await?;
        let result = ping_pong(ours, SUBMIT, receipts, &messages, Some(seen)).await?;
        delete(ours, PLAN).await?;
        ours.settle().await?;
        if round > 0 {
            rounds.push([bare, receipt, result]);
        }
    }
    Ok(rounds)
}

/// Each message is sent when the one before is answered; with a watch, when it was seen there, too, which is what is
/// measured then.
async fn ping_pong(
    server: &Server,
    method: &'static str,
    count: Count,
    messages: &Arc<Messages>,
    mut watch: Option<Streaming<usize>>,
) -> Outcome<Latency> {
    let (numbers, stream) = mpsc::channel(1);
    let sending = Sending(Arc::clone(messages), count);
    let all = async {
        let stream = ReceiverStream::new(stream);
        let mut answers = call(server, 0, method, sending, stream).await?;
        let mut samples = Vec::with_capacity(messages.len());
        for number in 0..messages.len() {
            let began = Instant::now();
            numbers.send(number).await?;
            let answered = async { (answers.message().await, began.elapsed()) };
            let seen = async {
                match &mut watch {
                    Some(watch) => Some((watch.message().await, began.elapsed())),
                    None => None,
                }
            };
            let ((answer, answered), seen) = tokio::join!(answered, seen);
            let (seen, elapsed) = seen.unwrap_or((Ok(Some(1)), answered));
            if (answer?, seen?) != (Some(1), Some(1)) {
                return Err("a record was not answered alone".into());
            }
            samples.push(elapsed);
        }
        Outcome::Ok(samples)
    };
    let mut samples = within("records one by one", all).await?;
    samples.drain(..messages.len() / WARM_UP);
    samples.sort();
    Ok(Latency {
        p50: samples[samples.len() / 2],
        p99: samples[samples.len() * 99 / 100],
    })
}
