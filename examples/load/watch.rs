//! How fast results reach many who read them.

use std::sync::Arc;
use std::time::Instant;

use fanout::proto::fanout_service_client::FanoutServiceClient;
use fanout::proto::{Record, SubmitRecordRequest, View, WatchPlanRequest};
use prost::Message;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::echo::FAN_OUT;
use crate::server::{Cpu, Server};
use crate::submit::{PLAN, Pace, Rate, SUBMIT, Shape, delete, one_for_each, plan_tasks, send};
use crate::wire::{Count, Messages, Sending, receipts, results};
use crate::{Outcome, Servers, Size, within};

pub const WATCH: &str = "/fanout.v1.FanoutService/WatchPlan";

/// Results per second to all watchers together: of the bare fan-out; of the coordinator while the records come in; of
/// the coordinator when they were all there before. Round by round.
pub async fn compare(
    servers: &Servers,
    watchers: usize,
    payload: bool,
    size: Size,
) -> Outcome<Vec<[Rate; 3]>> {
    let shape = Shape {
        streams: 8,
        batch: 128,
        record_bytes: crate::RECORD_BYTES,
        view: View::Full,
        records: size.watched,
    };
    let records = one_for_each(PLAN, 0, shape);
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        include_payload: payload,
        ..Default::default()
    };
    let watch_plan = Arc::new(Messages::one(&request));
    let ours = &servers.fanout;
    let mut rounds = Vec::new();
    for round in 0..=size.rounds {
        plan_tasks(ours, PLAN, shape.records).await?;
        ours.settle().await?;
        let watching = open(ours, WATCH, &watch_plan, watchers).await?;
        let begin = Begin::now(ours)?;
        let (live, sent) = tokio::join!(
            begin.deliver(watching, shape.records),
            send(ours, SUBMIT, receipts, &records, Pace::Free)
        );
        sent?;

        let begin = Begin::now(ours)?;
        let watching = open(ours, WATCH, &watch_plan, watchers).await?;
        let later = begin.deliver(watching, shape.records).await?;

        let fan_out = Arc::new(Messages::one(&SubmitRecordRequest {
            records: vec![Record {
                id: shape.records.to_string(),
                body: a_frame(ours, request.clone(), shape.records / 2)
                    .await?
                    .into(),
                ..Default::default()
            }],
            ..Default::default()
        }));
        delete(ours, PLAN).await?;
        ours.settle().await?;
        let begin = Begin::now(&servers.bare)?;
        let watching = open(&servers.bare, FAN_OUT, &fan_out, watchers).await?;
        let bare = begin.deliver(watching, shape.records).await?;
        if round > 0 {
            rounds.push([bare, live?, later]);
        }
    }
    Ok(rounds)
}

/// A frame in the middle of a watch, encoded.
async fn a_frame(server: &Server, request: WatchPlanRequest, nth: usize) -> Outcome<Vec<u8>> {
    let mut client = FanoutServiceClient::new(server.connection(0));
    let read = async {
        let mut frames = client.watch_plan(request).await?.into_inner();
        for _ in 0..nth {
            frames.message().await?;
        }
        frames.message().await
    };
    let frame = within("a frame", read).await?;
    Ok(frame.ok_or("a watch ended")?.encode_to_vec())
}

async fn open(
    server: &Server,
    method: &'static str,
    request: &Arc<Messages>,
    watchers: usize,
) -> Outcome<Vec<Streaming<usize>>> {
    let mut watching = Vec::new();
    for nth in 0..watchers {
        let connection = server.connection(nth);
        watching.push(watch(connection, method, Arc::clone(request), results).await?);
    }
    Ok(watching)
}

/// Opens a stream of answers to one request.
pub async fn watch(
    connection: Channel,
    method: &'static str,
    request: Arc<Messages>,
    count: Count,
) -> Outcome<Streaming<usize>> {
    let mut grpc = Grpc::new(connection);
    within("a connection", grpc.ready()).await?;
    let path = PathAndQuery::from_static(method);
    let answers = grpc.server_streaming(Request::new(0), path, Sending(request, count));
    Ok(within("a watch", answers).await?.into_inner())
}

/// When a delivery began.
struct Begin<'s> {
    server: &'s Server,
    at: Instant,
    cpu: Cpu,
}

impl<'s> Begin<'s> {
    fn now(server: &'s Server) -> Outcome<Self> {
        Ok(Self {
            server,
            cpu: server.cpu()?,
            at: Instant::now(),
        })
    }

    /// Reads until every watcher has so many results.
    async fn deliver(self, watching: Vec<Streaming<usize>>, results: usize) -> Outcome<Rate> {
        let delivered = (watching.len() * results) as f64;
        let mut reading = JoinSet::new();
        for mut watch in watching {
            reading.spawn(async move {
                let mut seen = 0;
                while seen < results {
                    let next = watch.message().await?;
                    seen += next.ok_or_else(|| Status::aborted("a watch ended early"))?;
                }
                Ok::<_, Status>(())
            });
        }
        let all = async {
            while let Some(read) = reading.join_next().await {
                read??;
            }
            Outcome::Ok(())
        };
        within("all results at all watchers", all).await?;
        Rate::new(self.server, delivered, self.at.elapsed(), &self.cpu)
    }
}
