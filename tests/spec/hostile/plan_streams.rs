//! Plan streams whose messages are none, and plan streams that are cut with much in them.

use fanout::proto::plan_stream_request::Part;
use fanout::proto::{PlanRequest, PlanStreamRequest};
use prost::Message;

use super::Target;
use super::fields::wrong_answers;
use super::wire::{Call, End, framed, framed_as, gzip_of_zeros};

const PLAN_STREAM: &str = "/fanout.v1.FanoutService/PlanStream";
const MALFORMED: &str = "InvalidArgument MALFORMED_MESSAGE message";
const TOO_LARGE: &str = "InvalidArgument MESSAGE_TOO_LARGE message";
const NO_COMMIT: &str = "InvalidArgument FIELD_REQUIRED commit";

fn message(part: Part) -> Vec<u8> {
    framed(&PlanStreamRequest { part: Some(part) }.encode_to_vec())
}

fn header() -> Vec<u8> {
    message(Part::Header(PlanRequest::default()))
}

#[tokio::test]
async fn a_plan_stream_of_messages_that_are_none_ends_with_its_reason() {
    let target = Target::start(&[]).await;
    let call = |frames: &[&[u8]]| Call::of(PLAN_STREAM, frames.concat());
    let header = header();
    let chunk = message(Part::Items("[1]".into()));
    let bomb = gzip_of_zeros(512 << 20);
    let bomb = framed_as(1, bomb.len() as u32, &bomb);
    let cases = [
        (
            "nothing",
            call(&[]),
            "InvalidArgument FIELD_REQUIRED header",
        ),
        (
            "trailers",
            call(&[]).ending(End::Trailers),
            "InvalidArgument FIELD_REQUIRED header",
        ),
        (
            "an empty message",
            call(&[&framed(b"")]),
            "InvalidArgument FIELD_REQUIRED part",
        ),
        ("nonsense", call(&[&framed(b"\xff")]), MALFORMED),
        (
            "nonsense later",
            call(&[&header, &framed(b"\xff")]),
            MALFORMED,
        ),
        (
            "half a chunk",
            call(&[&header, &chunk[..chunk.len() - 1]]),
            MALFORMED,
        ),
        (
            "4 GiB",
            call(&[&header, &framed_as(0, u32::MAX, b"")]),
            TOO_LARGE,
        ),
        (
            "a small message that inflates to 512 MiB",
            call(&[&header, &bomb]).with("grpc-encoding", "gzip"),
            TOO_LARGE,
        ),
        ("no commit", call(&[&header, &chunk]), NO_COMMIT),
        (
            "trailers for a commit",
            call(&[&header, &chunk]).ending(End::Trailers),
            NO_COMMIT,
        ),
        (
            "wrong and left open",
            call(&[&header, &header]).ending(End::Open),
            "InvalidArgument PART_OUT_OF_ORDER header",
        ),
        (
            "cut",
            call(&[&header, &chunk]).ending(End::Reset),
            "broken: stream error sent by user: stream no longer needed",
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
async fn plan_streams_that_are_cut_or_refused_give_back_what_they_brought() {
    let mut target = Target::start(&[]).await;
    let header = header();
    // A million lists in a chunk.
    let lists = format!("[[{}[]]]", "[],".repeat(1_000_000));
    let chunk = message(Part::Items(lists.into()));
    let wrong = message(Part::Items("[1,]".into()));
    for end in [End::Reset, End::HalfClose] {
        for _ in 0..2 {
            let body = [&header[..], &chunk, &chunk, &wrong].concat();
            let call = Call::of(PLAN_STREAM, body).ending(end);
            target.peer().await.call(call).await;
        }
        target.is_well("plan streams that end early").await;
    }
    target.ends_well().await;
}
