//! How fast records go through.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::{
    DeletePlanRequest, SubmitRecordRequest, View, WatchPlanRequest, WatchPlanResponse,
};
use futures_util::{FutureExt, StreamExt, stream};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::echo::{ECHO, FORGET};
use crate::server::{Cpu, Server, Used};
use crate::wire::{Count, MESSAGE_BYTES_MAX, Messages, Sending, echoed, receipts};
use crate::{Outcome, RECORD_BYTES, Servers, Size, tasks, within};

pub const SUBMIT: &str = "/fanout.v1.FanoutService/SubmitRecord";
pub const PLAN: &str = "load";
/// Watchers that do not read are stuck for good after so many records.
const UNTIL_STUCK: usize = 2_048;
/// Records to one of two servers before as many go to the other.
const SLICE: usize = 12_800;

/// How records are sent.
#[derive(Clone, Copy)]
pub struct Shape {
    pub streams: usize,
    pub batch: usize,
    pub record_bytes: usize,
    /// In which receipts are asked for.
    pub view: View,
    pub records: usize,
}

impl Shape {
    /// The same records, whose receipts are to come without them.
    pub fn for_short(self) -> Self {
        Self {
            view: View::Basic,
            ..self
        }
    }
}

/// What one server did.
#[derive(Clone, Copy, Default)]
pub struct Rate {
    pub per_second: f64,
    pub used: Used,
    pub cpu_per_million: f64,
    pub resident_mib: f64,
}

impl Rate {
    /// So many in this time, since the server had used this.
    pub fn new(server: &Server, many: f64, elapsed: Duration, before: &Cpu) -> Outcome<Self> {
        let used = server.cpu()?.since(before);
        Ok(Self {
            per_second: many / elapsed.as_secs_f64(),
            used,
            cpu_per_million: used.seconds / many * 1e6,
            resident_mib: server.resident_mib()?,
        })
    }
}

/// The same messages to the bare echo, the keeping echo and the coordinator, and to that again for short receipts, round by
/// round.
pub async fn compare(servers: &Servers, shape: Shape, size: Size) -> Outcome<Vec<[Rate; 4]>> {
    let messages = one_for_each(PLAN, 0, shape);
    let for_short = one_for_each(PLAN, 0, shape.for_short());
    let mut rounds = Vec::new();
    // The first warms up.
    for round in 0..=size.rounds {
        let bare = send(&servers.bare, ECHO, echoed, &messages, Pace::Free).await?;
        let keeping = send(&servers.keeping, ECHO, echoed, &messages, Pace::Free).await?;
        forget(&servers.keeping).await?;
        servers.keeping.settle().await?;
        let ours = on_a_plan(&servers.fanout, &messages, shape).await?;
        let short = on_a_plan(&servers.fanout, &for_short, shape).await?;
        if round > 0 {
            rounds.push([bare, keeping, ours, short]);
        }
    }
    Ok(rounds)
}

/// The same with echoes that answer with as many bytes as the coordinator does, whose receipts have their records in them.
pub async fn compare_as_long(
    servers: &mut Servers,
    shape: Shape,
    size: Size,
) -> Outcome<Vec<[Rate; 3]>> {
    let messages = one_for_each(PLAN, 0, shape);
    let longer = longer_by(&servers.fanout, &messages[0], shape).await?;
    (servers.bare.longer, servers.keeping.longer) = (longer, longer);
    let mut rounds = Vec::new();
    for round in 0..=size.rounds {
        let bare = send(&servers.bare, ECHO, echoed, &messages, Pace::Free).await?;
        let keeping = send(&servers.keeping, ECHO, echoed, &messages, Pace::Free).await?;
        forget(&servers.keeping).await?;
        servers.keeping.settle().await?;
        let ours = on_a_plan(&servers.fanout, &messages, shape).await?;
        if round > 0 {
            rounds.push([bare, keeping, ours]);
        }
    }
    (servers.bare.longer, servers.keeping.longer) = (0, 0);
    Ok(rounds)
}

/// How many bytes the answer to the first of these messages is longer than the message.
async fn longer_by(server: &Server, messages: &Messages, shape: Shape) -> Outcome<usize> {
    plan_tasks(server, PLAN, shape.records).await?;
    let request = SubmitRecordRequest::decode(messages.first())?;
    let requests = server.request(stream::iter([request]));
    let mut client = client(server);
    let answers = within("a stream", client.submit_record(requests)).await?;
    let answer = within("an answer", answers.into_inner().message()).await?;
    let answer = answer.ok_or("a stream ended without an answer")?;
    delete(server, PLAN).await?;
    Ok(answer.encoded_len().saturating_sub(messages.first().len()))
}

/// Records for all tasks of a plan that is made for them.
pub async fn on_a_plan(server: &Server, messages: &[Arc<Messages>], shape: Shape) -> Outcome<Rate> {
    plan_tasks(server, PLAN, shape.records).await?;
    server.settle().await?;
    let rate = send(server, SUBMIT, receipts, messages, Pace::Free).await?;
    delete(server, PLAN).await?;
    server.settle().await?;
    Ok(rate)
}

/// Records per second without and with so many watchers that open a watch and read nothing, round by round. Two servers
/// get the same records, some to one and then as many to the other, so that what the machine does meanwhile is shared by
/// both; in the other half of a round the watchers are at the other one.
pub async fn stalled_watchers(watchers: usize, size: Size) -> Outcome<Vec<[f64; 2]>> {
    let servers = [Server::fanout().await?, Server::fanout().await?];
    let shape = |records| Shape {
        streams: 64,
        batch: 1,
        record_bytes: RECORD_BYTES,
        view: View::Full,
        records,
    };
    let slices = size.records / SLICE / 2;
    let tasks = slices * SLICE;
    let until_stuck = one_for_each(PLAN, tasks, shape(UNTIL_STUCK));
    let mut rounds = Vec::new();
    let mut seconds = [0.0; 2];
    for half in 0..2 * (size.rounds + 1) {
        let [without, with] = [half % 2, 1 - half % 2].map(|nth| &servers[nth]);
        let mut deaf = Vec::new();
        for (server, watchers) in [(without, 0), (with, watchers)] {
            plan_tasks(server, PLAN, tasks + UNTIL_STUCK).await?;
            deaf.push(watch_deaf(server, watchers).await?);
            send(server, SUBMIT, receipts, &until_stuck, Pace::Free).await?;
            server.settle().await?;
        }
        for slice in 0..slices {
            let messages = one_for_each(PLAN, slice * SLICE, shape(SLICE));
            for nth in [slice % 2, 1 - slice % 2] {
                let server = [without, with][nth];
                let sent = send(server, SUBMIT, receipts, &messages, Pace::Free).await?;
                seconds[nth] += SLICE as f64 / sent.per_second;
            }
        }
        drop(deaf);
        for server in &servers {
            delete(server, PLAN).await?;
            server.settle().await?;
        }
        if half % 2 > 0 {
            let seconds = std::mem::take(&mut seconds);
            rounds.push(seconds.map(|seconds| (2 * tasks) as f64 / seconds));
        }
    }
    // The first has warmed up.
    rounds.remove(0);
    Ok(rounds)
}

/// Opens so many watches of the plan, of which nothing is ever read.
async fn watch_deaf(server: &Server, watchers: usize) -> Outcome<Deaf> {
    let connections = server.connect_deaf().await?;
    let mut deaf = Vec::new();
    for connection in connections.iter().cycle().take(watchers) {
        let request = WatchPlanRequest {
            plan_id: PLAN.into(),
            include_payload: true,
            ..Default::default()
        };
        let mut client = FanoutServiceClient::new(connection.clone());
        deaf.push(within("a watch", client.watch_plan(request)).await?);
    }
    Ok((connections, deaf))
}

/// Watches of which nothing is read, and what they are on.
type Deaf = (Vec<Channel>, Vec<Response<Streaming<WatchPlanResponse>>>);

/// One record for each of the plan's tasks from this on, each stream's tasks one after the other.
pub fn one_for_each(plan_id: &str, first: usize, shape: Shape) -> Vec<Arc<Messages>> {
    let per_stream = shape.records / shape.streams;
    let stream = |stream: usize| {
        let first = first + stream * per_stream;
        let tasks = first..first + per_stream;
        Messages::submit(plan_id, tasks, shape.record_bytes, shape.batch, shape.view)
    };
    (0..shape.streams).map(stream).map(Arc::new).collect()
}

/// When the next message of a stream is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// When there is room for it.
    Free,
    /// So, but others have their turn after so many.
    Burst(usize),
    /// When no more than so many are without their answer with it.
    InFlight(usize),
}

/// Opens a stream for each of these, then sends the messages of all at once, each stream at this pace.
pub async fn send(
    server: &Server,
    method: &'static str,
    count: Count,
    messages: &[Arc<Messages>],
    pace: Pace,
) -> Outcome<Rate> {
    let (go, gone) = watch::channel(false);
    let mut streams = JoinSet::new();
    for (nth, messages) in messages.iter().enumerate() {
        let sending = Sending(Arc::clone(messages), count);
        let (numbers, permits) = match pace {
            Pace::Free => (Numbers::new(messages.len(), usize::MAX).left_stream(), None),
            Pace::Burst(burst) => (Numbers::new(messages.len(), burst).left_stream(), None),
            Pace::InFlight(most) => {
                let permits = Arc::new(Semaphore::new(most));
                let numbers = in_flight(messages.len(), Arc::clone(&permits));
                (numbers.right_stream(), Some(permits))
            }
        };
        let mut gone = gone.clone();
        let numbers = async move {
            let _ = gone.wait_for(|gone| *gone).await;
            numbers
        };
        let numbers = numbers.flatten_stream();
        let opened = call(server, nth, method, sending, numbers);
        let mut answers = within("a stream", opened).await?;
        streams.spawn(async move {
            let mut answered = 0;
            while let Some(records) = answers.message().await? {
                answered += records;
                if let Some(permits) = &permits {
                    permits.add_permits(1);
                }
            }
            Ok::<_, Status>(answered)
        });
    }
    let cpu = server.cpu()?;
    let began = Instant::now();
    go.send(true)?;
    let all = async {
        let mut answered = 0;
        while let Some(stream) = streams.join_next().await {
            answered += stream??;
        }
        Outcome::Ok(answered)
    };
    let answered = within("the answers to all records", all).await?;
    let elapsed = began.elapsed();
    let records: usize = messages.iter().map(|messages| messages.records).sum();
    if answered != records {
        return Err(format!("{answered} of {records} records were answered").into());
    }
    Rate::new(server, records as f64, elapsed, &cpu)
}

/// Opens a stream, on the connection of the stream of this number.
pub async fn call(
    server: &Server,
    nth: usize,
    method: &'static str,
    sending: Sending,
    numbers: impl Stream<Item = usize> + Send + 'static,
) -> Result<Streaming<usize>, Status> {
    let mut grpc = Grpc::new(server.connection(nth)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(method);
    let answers = grpc.streaming(server.request(numbers), path, sending);
    Ok(answers.await?.into_inner())
}

/// Numbers from 0, each when it may be sent.
fn in_flight(messages: usize, permits: Arc<Semaphore>) -> impl Stream<Item = usize> {
    stream::iter(0..messages).then(move |number| {
        let permits = Arc::clone(&permits);
        async move {
            // Closed it is never.
            if let Ok(permit) = permits.acquire().await {
                permit.forget();
            }
            number
        }
    })
}

/// The messages to send next, by number.
struct Numbers {
    next: usize,
    end: usize,
    burst: usize,
    /// Of the burst.
    left: usize,
}

impl Numbers {
    fn new(end: usize, burst: usize) -> Self {
        Self {
            next: 0,
            end,
            burst,
            left: burst,
        }
    }
}

impl Stream for Numbers {
    type Item = usize;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let number = self.next;
        if number == self.end {
            return Poll::Ready(None);
        }
        // Every burst is followed by a pause of one turn.
        if self.left == 0 {
            self.left = self.burst;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        self.next += 1;
        Poll::Ready(Some(number))
    }
}

/// Plans `task-0`, `task-1` and so on. The plan stays open when all have a record.
pub async fn plan_tasks(server: &Server, plan_id: &str, tasks: usize) -> Outcome<()> {
    let request = tasks::numbered(plan_id, tasks as u64);
    let mut client = client(server);
    within("a plan", client.plan(server.request(request))).await?;
    Ok(())
}

pub async fn delete(server: &Server, plan_id: &str) -> Outcome<()> {
    let request = DeletePlanRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    };
    let request = server.request(request);
    within("a plan's deletion", client(server).delete_plan(request)).await?;
    Ok(())
}

fn client(server: &Server) -> FanoutServiceClient<Channel> {
    FanoutServiceClient::new(server.connection(0))
}

/// Has an echo give back what it keeps.
async fn forget(server: &Server) -> Outcome<()> {
    let sending = Sending(Arc::new(Messages::one(&())), |_| Some(0));
    let mut grpc = Grpc::new(server.connection(0));
    within("an echo", grpc.ready()).await?;
    let path = PathAndQuery::from_static(FORGET);
    within("an echo", grpc.unary(Request::new(0), path, sending)).await?;
    Ok(())
}
