//! Streams of calls that are used in another way than they are meant to.

use std::time::Instant;

use fanout::proto::{GetPlanRequest, ReconcileRequest, SubmitRecordRequest, WatchPlanRequest};
use prost::Message;
use tonic::Status;

use super::Target;
use super::fields::wrong_answers;
use super::target::PLAN;
use super::wire::{Call, End, framed, framed_as};
use crate::harness::{PATIENCE, record};

const SUBMIT_RECORD: &str = "/fanout.v1.FanoutService/SubmitRecord";
const GET_PLAN: &str = "/fanout.v1.FanoutService/GetPlan";
const MALFORMED: &str = "InvalidArgument MALFORMED_MESSAGE message";

/// A frame with one record that names no task.
fn records(plan_id: &str) -> Vec<u8> {
    let request = SubmitRecordRequest {
        plan_id: plan_id.into(),
        records: vec![record(r#"{"id":"nobody"}"#)],
        ..Default::default()
    };
    framed(&request.encode_to_vec())
}

fn no_records(plan_id: &str) -> Vec<u8> {
    let request = SubmitRecordRequest {
        plan_id: plan_id.into(),
        records: Vec::new(),
        ..Default::default()
    };
    framed(&request.encode_to_vec())
}

#[tokio::test]
async fn a_record_stream_that_is_misused_ends_with_its_reason_after_the_receipts_before() {
    let target = Target::start(&[]).await;
    let submit = |frames: &[Vec<u8>]| Call::of(SUBMIT_RECORD, frames.concat());
    let get = framed(
        &GetPlanRequest {
            plan_id: PLAN.into(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let half = &records(PLAN)[..10];
    let cases = [
        ("closed at once", submit(&[]), "Ok"),
        ("trailers at once", submit(&[]).ending(End::Trailers), "Ok"),
        (
            "no plan",
            submit(&[records("")]),
            "InvalidArgument FIELD_REQUIRED plan_id",
        ),
        (
            "an unknown plan",
            submit(&[records("unknown")]),
            "NotFound PLAN_NOT_FOUND",
        ),
        (
            "no records",
            submit(&[no_records(PLAN)]),
            "InvalidArgument FIELD_REQUIRED records",
        ),
        (
            "no plan later",
            submit(&[records(PLAN), records("")]),
            "Ok +2",
        ),
        (
            "another plan later",
            submit(&[records(PLAN), records("unknown"), records(PLAN)]),
            "InvalidArgument PLAN_ID_CHANGED plan_id +1",
        ),
        (
            "no records later",
            submit(&[records(PLAN), no_records("")]),
            "InvalidArgument FIELD_REQUIRED records +1",
        ),
        (
            "an empty message later",
            submit(&[records(PLAN), framed(b"")]),
            "InvalidArgument FIELD_REQUIRED records +1",
        ),
        (
            "half a message later",
            submit(&[records(PLAN), half.into()]),
            "InvalidArgument MALFORMED_MESSAGE message +1",
        ),
        (
            "nonsense later",
            submit(&[records(PLAN), framed(b"\xff")]),
            "InvalidArgument MALFORMED_MESSAGE message +1",
        ),
        (
            "4 GiB later",
            submit(&[records(PLAN), framed_as(0, u32::MAX, b"")]),
            "InvalidArgument MESSAGE_TOO_LARGE message <= 16777216 +1",
        ),
        (
            "trailers",
            submit(&[records(PLAN)]).ending(End::Trailers),
            "Ok +1",
        ),
        (
            "wrong and left open",
            submit(&[framed(b"\xff")]).ending(End::Open),
            MALFORMED,
        ),
        (
            "cut in a message",
            submit(&[records(PLAN), half.into()]).ending(End::Reset),
            "broken: stream error sent by user: stream no longer needed",
        ),
        (
            "no message where there must be one",
            Call::of(GET_PLAN, Vec::new()),
            MALFORMED,
        ),
        (
            "trailers where there must be a message",
            Call::of(GET_PLAN, Vec::new()).ending(End::Trailers),
            MALFORMED,
        ),
        (
            "trailers after the message",
            Call::of(GET_PLAN, get.clone()).ending(End::Trailers),
            "Ok +1",
        ),
        (
            "nonsense after the message",
            Call::of(GET_PLAN, [&get[..], &framed(b"\xff")].concat()),
            MALFORMED,
        ),
        (
            "half a message after the message",
            Call::of(GET_PLAN, [&get[..], &[0, 0]].concat()),
            MALFORMED,
        ),
    ];
    let cases = cases.map(|(what, call, expected)| (what.to_owned(), call, expected.to_owned()));
    let peer = target.peer().await;
    assert_eq!(
        wrong_answers(&peer, cases.into()).await,
        Vec::<String>::new()
    );
    target.ends_well().await;
}

#[tokio::test]
async fn calls_that_are_left_alone_or_cut_leave_nothing_behind() {
    let mut target = Target::start(&[]).await;
    let wait = ReconcileRequest {
        plan_id: PLAN.into(),
        wait: Some(prost_types::Duration {
            seconds: 300,
            nanos: 0,
        }),
        ..Default::default()
    };
    let watch = WatchPlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    let cases = [
        ("SubmitRecord", records(PLAN)),
        ("SubmitRecord", vec![0, 0, 1]),
        ("Reconcile", framed(&wait.encode_to_vec())),
        ("WatchPlan", framed(&watch.encode_to_vec())),
    ];
    for (method, body) in cases {
        let path = format!("/fanout.v1.FanoutService/{method}");
        for end in [End::Open, End::HalfClose, End::Reset] {
            let peer = target.peer().await;
            let calls: Vec<_> = (0..200)
                .map(|_| {
                    let (peer, call) = (peer.clone(), Call::of(&path, body.clone()).ending(end));
                    tokio::spawn(async move { peer.call(call).await })
                })
                .collect();
            target.is_well(&format!("{method}, {end:?}")).await;
            for call in calls {
                call.abort();
            }
        }
    }
    target.ends_well().await;
}

#[tokio::test]
async fn every_watcher_and_every_wait_that_is_cut_gives_its_place_back() {
    let mut target = Target::start(&["--watchers-per-plan-max", "10"]).await;
    let watch = WatchPlanRequest {
        plan_id: PLAN.into(),
        include_snapshot: true,
        ..Default::default()
    };
    for _ in 0..5 {
        let mut watches = Vec::new();
        let began = Instant::now();
        while watches.len() < 10 {
            match target.client.watch_plan(watch.clone()).await {
                Ok(frames) => watches.push(frames),
                // Those of the round before are gone when the server has heard of it.
                Err(full) => assert_full(&full, began),
            }
        }
        let full = target.client.watch_plan(watch.clone()).await.unwrap_err();
        assert_full(&full, began);
    }
    target.ends_well().await;
}

fn assert_full(status: &Status, since: Instant) {
    let said = super::wire::said(status);
    assert_eq!(
        said,
        "ResourceExhausted QUOTA_EXCEEDED <= watchers_per_plan_max"
    );
    assert!(since.elapsed() < PATIENCE, "places are not given back");
}
