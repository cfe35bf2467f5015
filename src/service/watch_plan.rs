//! The watch stream: snapshot, events from the cursor on, heartbeats, `End`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Fanout, convert, status};
use crate::config::HEARTBEAT_RANGE;
use crate::coordinator::{Next, PlanView, Standing, Watch};
use crate::engine::{Entry, Event, Held, RecordKind, Spec};
use crate::proto::watch_plan_response::Frame;
use crate::proto::{self, WatchPlanRequest, WatchPlanResponse};

/// Frames that may wait for a watcher that does not read; what comes after them waits in the plan's history.
const FRAMES_IN_FLIGHT: usize = 16;
/// Results in one part of a snapshot, and the bytes of their documents.
const SNAPSHOT_PART: (usize, usize) = (1_000, 1 << 20);

type Frames = mpsc::Sender<Result<WatchPlanResponse, Status>>;

pub(super) fn serve(
    fanout: &Fanout,
    request: &WatchPlanRequest,
) -> Result<ReceiverStream<Result<WatchPlanResponse, Status>>, Status> {
    let plan_id = convert::required_plan_id(&request.plan_id, &fanout.config.limits)?;
    if request.include_snapshot && !request.after.is_empty() {
        let problem = "not together with after: a snapshot begins with what there is now";
        return Err(status::invalid(
            "include_snapshot",
            problem,
            "FIELDS_EXCLUDE_EACH_OTHER",
        ));
    }
    let heartbeat = match &request.heartbeat_interval {
        None => fanout.config.times.heartbeat_interval,
        Some(interval) => convert::duration("heartbeat_interval", interval, HEARTBEAT_RANGE)?,
    };
    let watch = fanout
        .coordinator
        .watch(plan_id, &request.after)
        .map_err(|error| status::of(&error))?;
    let (frames, stream) = mpsc::channel(FRAMES_IN_FLIGHT);
    let watcher = Watcher {
        watch,
        frames,
        payload: request.include_payload,
        snapshot: request.include_snapshot,
        heartbeat,
    };
    let draining = fanout.draining.clone();
    fanout.streams.spawn(async move {
        let frames = watcher.frames.clone();
        tokio::select! {
            biased;
            () = frames.closed() => {}
            () = draining.cancelled() => drop(frames.try_send(Err(status::draining()))),
            () = watcher.run() => {}
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// The watcher has stopped reading for good.
struct Gone;

struct Watcher {
    watch: Watch,
    frames: Frames,
    payload: bool,
    snapshot: bool,
    heartbeat: Duration,
}

impl Watcher {
    async fn run(mut self) {
        // Nobody is left to tell if the watcher is gone.
        let _ = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Gone> {
        if self.snapshot {
            match self.watch.snapshot() {
                Ok((view, held)) => self.send_snapshot(&view, &held).await?,
                Err(error) => return self.fail(status::of(&error)).await,
            }
        }
        loop {
            match self.watch.next(self.heartbeat).await {
                Ok(Next::Entries(entries)) => {
                    for entry in entries {
                        if let Some(frame) = frame_of(&entry, self.watch.spec(), self.payload) {
                            self.send(entry.sequence, frame).await?;
                        }
                    }
                }
                Ok(Next::Quiet(standing)) => {
                    let counts = Some(convert::counts(&standing.counts));
                    self.send(
                        standing.sequence,
                        Frame::Heartbeat(proto::Heartbeat { counts }),
                    )
                    .await?;
                }
                Ok(Next::Ended(standing)) => {
                    return self
                        .send(standing.sequence, Frame::End(end_of(&standing)))
                        .await;
                }
                Ok(Next::Removed) => {
                    let removed = status::plan_removed(&self.watch.spec().plan_id);
                    return self.fail(removed).await;
                }
                Err(error) => return self.fail(status::of(&error)).await,
            }
        }
    }

    async fn send_snapshot(&self, view: &PlanView, held: &[Arc<Held>]) -> Result<(), Gone> {
        let mut rest = held;
        loop {
            let mut bytes = 0;
            let part = rest.iter().take(SNAPSHOT_PART.0).take_while(|held| {
                let fits = bytes < SNAPSHOT_PART.1;
                bytes += if self.payload { held.document.len() } else { 0 };
                fits
            });
            let results: Vec<_> = part
                .map(|held| result_of(held, &view.spec, self.payload))
                .collect();
            rest = &rest[results.len()..];
            let last = rest.is_empty();
            let snapshot = proto::Snapshot {
                plan: Some(convert::plan(view)),
                results,
                last,
            };
            // Only after the last part does the cursor say that all of it was seen.
            let sequence = if last { view.standing.sequence } else { 0 };
            self.send(sequence, Frame::Snapshot(snapshot)).await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn send(&self, sequence: u64, frame: Frame) -> Result<(), Gone> {
        let cursor = self.watch.cursor(sequence);
        let response = WatchPlanResponse {
            cursor,
            frame: Some(frame),
        };
        self.frames.send(Ok(response)).await.map_err(|_| Gone)
    }

    async fn fail(&self, status: Status) -> Result<(), Gone> {
        self.frames.send(Err(status)).await.map_err(|_| Gone)
    }
}

/// What a watcher is shown of an event; nothing if it is not about a task.
fn frame_of(entry: &Entry, spec: &Spec, payload: bool) -> Option<Frame> {
    match &entry.event {
        Event::RecordAccepted(held) => Some(Frame::Result(result_of(held, spec, payload))),
        Event::TaskProgressed(sign) => Some(Frame::Progress(proto::Progress {
            sequence: entry.sequence,
            task_id: spec.tasks[sign.task as usize].id.to_string(),
            kind: match sign.kind {
                RecordKind::Result => proto::RecordKind::Result,
                RecordKind::Started => proto::RecordKind::Started,
                RecordKind::Progress => proto::RecordKind::Progress,
            }
            .into(),
            sandbox_session_id: sign.session.to_string(),
            body: if payload {
                sign.document.clone()
            } else {
                prost::bytes::Bytes::new()
            },
            accept_time: Some(convert::timestamp(entry.at)),
        })),
        Event::PlanCreated(_)
        | Event::SessionLearnt { .. }
        | Event::RecordQuarantined(_)
        | Event::PlanEnded { .. } => None,
    }
}

fn result_of(held: &Held, spec: &Spec, payload: bool) -> proto::Result {
    let task = &spec.tasks[held.task as usize];
    proto::Result {
        sequence: held.sequence,
        task_id: task.id.to_string(),
        group_key: task.group_key.text().into_owned(),
        status: convert::task_status(Some(held.verdict.status)).into(),
        successful: held.verdict.successful,
        revision: held.revision,
        matched_by: convert::matched_by(Some(held.matched_by)).into(),
        record: if payload {
            held.document.clone()
        } else {
            prost::bytes::Bytes::new()
        },
        accept_time: Some(convert::timestamp(held.at)),
    }
}

fn end_of(standing: &Standing) -> proto::End {
    proto::End {
        status: convert::plan_status(standing.status).into(),
        end_reason: convert::end_reason(standing.end.as_ref()).into(),
        counts: Some(convert::counts(&standing.counts)),
    }
}
