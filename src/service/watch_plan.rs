//! The watch stream: snapshot, events from the cursor on, heartbeats, `End`.
//!
//! There is no task and no queue for a watcher: frames are taken when there is room to send them, from where the watcher is
//! in the plan's history. One that does not read costs nothing, and reads on later. What is shown of an event is the same
//! for all watchers, and is written once.

use std::pin::pin;
use std::sync::Arc;

use prost::bytes::BytesMut;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::admission::named;
use super::framing::{self, Framed, FramedStream};
use super::{Fanout, convert, status};
use crate::config::HEARTBEAT_RANGE;
use crate::coordinator::{self, Next, PlanView, Standing, plan_id_of};
use crate::engine::{Entry, Event, Held, Spec};
use crate::identity::Caller;
use crate::proto::watch_plan_response::Frame;
use crate::proto::{self, WatchPlanRequest, WatchPlanResponse};
use crate::telemetry::traces;

/// Results in one part of a snapshot, and bytes after which no other is added.
const SNAPSHOT_PART: (usize, usize) = (1_000, 1 << 20);
/// What a result takes beside its document and its task's names.
const RESULT_BYTES_BESIDE_TEXTS: usize = 64;

pub(super) async fn serve(
    fanout: &Fanout,
    caller: &Caller,
    request: &WatchPlanRequest,
    closing: CancellationToken,
) -> Result<FramedStream, Status> {
    let name = named(caller, &request.plan_id, &fanout.config.limits)?;
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
    let payload = request.include_payload;
    let mut watch = fanout
        .coordinator
        .watch(&name, &request.after)
        .await
        .map_err(|error| status::of(&error))?;
    let snapshot = request.include_snapshot.then(|| watch.snapshot());
    let snapshot = snapshot.transpose().map_err(|error| status::of(&error))?;
    Ok(Box::pin(async_stream::stream! {
        let mut closed = pin!(closing.clone().cancelled_owned());
        if let Some((view, held)) = snapshot {
            let mut rest = &held[..];
            loop {
                let (part, left) = rest.split_at(part_of_snapshot(rest, &view.spec, payload));
                rest = left;
                // Only after the last part does the cursor say that all of it was seen.
                let last = rest.is_empty();
                let cursor = if last { watch.cursor(view.standing.sequence) } else { String::new() };
                yield Ok(frame(cursor, snapshot_part(&view, part, payload, last)));
                if last {
                    break;
                }
            }
        }
        // How far the frames went that were sent.
        let mut seen = watch.position();
        loop {
            let next = tokio::select! {
                biased;
                () = &mut closed => {
                    yield Err(status::draining_at([("cursor", watch.cursor(seen))]));
                    return;
                }
                next = watch.next(heartbeat) => next,
            };
            match next {
                Ok(Next::Entries(mut entries)) => {
                    while !entries.is_empty() && !closing.is_cancelled() {
                        let from = entries.after();
                        match watch.frames(&mut entries, payload, show) {
                            Ok(frames) if frames.is_empty() => {}
                            Ok(frames) => {
                                traces::shown(&watch.spec().plan_id, from, entries.after());
                                yield Ok(Framed::of(frames));
                            }
                            Err(error) => {
                                yield Err(status::of(&error));
                                return;
                            }
                        }
                        seen = entries.after();
                    }
                }
                Ok(Next::Quiet(standing)) => {
                    let counts = Some(convert::counts(&standing.counts));
                    let heartbeat = Frame::Heartbeat(proto::Heartbeat { counts });
                    // The plan may be further, with results that were not sent.
                    yield Ok(frame(watch.cursor(seen), heartbeat));
                }
                Ok(Next::Ended(standing)) => {
                    yield Ok(frame(watch.cursor(standing.sequence), Frame::End(end_of(&standing))));
                    return;
                }
                Ok(Next::Removed) => {
                    yield Err(status::plan_removed(plan_id_of(&watch.spec().plan_id)));
                    return;
                }
                Err(error) => {
                    yield Err(status::of(&error));
                    return;
                }
            }
        }
    }))
}

fn frame(cursor: String, frame: Frame) -> Framed {
    let mut framed = BytesMut::new();
    write(&mut framed, cursor, frame);
    Framed::of(framed.freeze())
}

fn write(to: &mut BytesMut, cursor: String, frame: Frame) {
    let frame = Some(frame);
    framing::put(to, &WatchPlanResponse { cursor, frame });
}

/// Appends what watchers are shown of an event.
fn show(to: &mut BytesMut, spec: &Spec, entry: &Entry, payload: bool) {
    if let Some(frame) = frame_of(entry, spec, payload) {
        write(to, coordinator::cursor(spec, entry.sequence), frame);
    }
}

/// How many of these results fit into one part of a snapshot: at least one, if there is any.
fn part_of_snapshot(held: &[Arc<Held>], spec: &Spec, payload: bool) -> usize {
    let mut bytes = 0;
    let fitting = held.iter().take(SNAPSHOT_PART.0).take_while(|held| {
        let fits = bytes < SNAPSHOT_PART.1;
        let names = spec.task_id(held.task).len() + spec.group_key_text(held.task).len();
        let document = if payload { held.document.len() } else { 0 };
        bytes += RESULT_BYTES_BESIDE_TEXTS + names + document;
        fits
    });
    fitting.count()
}

fn snapshot_part(view: &PlanView, held: &[Arc<Held>], payload: bool, last: bool) -> Frame {
    let results = held.iter().map(|held| result_of(held, &view.spec, payload));
    Frame::Snapshot(proto::Snapshot {
        plan: Some(convert::plan(view)),
        results: results.collect(),
        last,
    })
}

/// What a watcher is shown of an event; nothing if it is not about a task.
fn frame_of(entry: &Entry, spec: &Spec, payload: bool) -> Option<Frame> {
    match &entry.event {
        Event::RecordAccepted(held) => Some(Frame::Result(result_of(held, spec, payload))),
        Event::TaskProgressed(sign) => Some(Frame::Progress(proto::Progress {
            sequence: entry.sequence,
            task_id: spec.task_id(sign.task).to_owned(),
            kind: convert::record_kind(sign.kind).into(),
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
        | Event::ProducerAdvanced(_)
        | Event::RecordQuarantined(_)
        | Event::QuarantineResolved { .. }
        | Event::PlanEnded { .. } => None,
    }
}

fn result_of(held: &Held, spec: &Spec, payload: bool) -> proto::Result {
    proto::Result {
        sequence: held.sequence,
        task_id: spec.task_id(held.task).to_owned(),
        group_key: spec.group_key_text(held.task).into_owned(),
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
