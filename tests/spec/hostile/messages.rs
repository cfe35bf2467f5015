//! Messages that are none, for every method.

use fanout::proto::{PlanRequest, SubmitRecordsRequest};
use prost::Message;

use super::Target;
use super::target::PLAN;
use super::wire::{
    Call, End, LENGTH, VARINT, field, framed, framed_as, gzip_of_zeros, tag, varint,
};
use crate::harness::{plan_request, record};

const MALFORMED: &str = "InvalidArgument MALFORMED_MESSAGE message";
const TOO_LARGE: &str = "InvalidArgument MESSAGE_TOO_LARGE message";
const NO_PLAN_ID: &str = "InvalidArgument FIELD_REQUIRED plan_id";
const UNSUPPORTED: &str = "Unimplemented UNSUPPORTED_COMPRESSION";

/// A method.
#[derive(Clone, Copy)]
struct Method {
    path: &'static str,
    /// What a message without any field is answered; empty if the answer does not end.
    empty: &'static str,
    /// Its first text field.
    text: u32,
    /// Whether its requests are a stream.
    streams: bool,
    /// Whether it takes compressed messages.
    inflates: bool,
    /// Bytes of its largest message.
    most: usize,
}

const fn of(path: &'static str, empty: &'static str) -> Method {
    Method {
        path,
        empty,
        text: 1,
        streams: false,
        inflates: true,
        most: 16 << 20,
    }
}

/// Every method of this service and of health. Reflection, which answers in its own way, is below.
const METHODS: [Method; 18] = [
    of("/fanout.v1.FanoutService/Plan", "Ok +1"),
    Method {
        streams: true,
        ..of("/fanout.v1.FanoutService/SubmitRecord", NO_PLAN_ID)
    },
    of("/fanout.v1.FanoutService/SubmitRecords", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/Reconcile", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/WatchPlan", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/GetPlan", NO_PLAN_ID),
    Method {
        text: 2,
        ..of("/fanout.v1.FanoutService/ListPlans", "Ok +1")
    },
    of("/fanout.v1.FanoutService/GetTask", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/ListTasks", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/ExplainTask", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/ListQuarantine", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/RematchRecord", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/DiscardRecord", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/SealPlan", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/CancelPlan", NO_PLAN_ID),
    of("/fanout.v1.FanoutService/DeletePlan", NO_PLAN_ID),
    Method {
        inflates: false,
        most: 4 << 10,
        ..of("/grpc.health.v1.Health/Check", "Ok +1")
    },
    Method {
        inflates: false,
        most: 4 << 10,
        ..of("/grpc.health.v1.Health/Watch", "")
    },
];

const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Wire types of groups.
const GROUP: u32 = 3;
const GROUP_END: u32 = 4;
/// A field that no message has.
const UNKNOWN: u32 = 1_000;

/// Messages that are no protobuf, whatever the method. `text` is one of its text fields.
fn no_messages(text: u32) -> Vec<(&'static str, Vec<u8>)> {
    let unknown = |wire_type: u32, rest: &[u8]| [&tag(UNKNOWN, wire_type)[..], rest].concat();
    vec![
        (
            "a varint where text is expected",
            [&tag(text, VARINT)[..], &[1]].concat(),
        ),
        (
            "4 bytes where text is expected",
            [&tag(text, 5)[..], b"1234"].concat(),
        ),
        (
            "a group where text is expected",
            [tag(text, GROUP), tag(text, GROUP_END)].concat(),
        ),
        ("text that is no UTF-8", field(text, b"a\xff")),
        ("text with a surrogate", field(text, b"\xed\xa0\x80")),
        (
            "text longer than the message",
            [&tag(text, LENGTH)[..], &varint(1_000), b"a"].concat(),
        ),
        ("half a tag", vec![0x80]),
        ("a tag over 32 bits", varint(1 << 35)),
        ("field number 0", vec![0, 1]),
        ("half a varint", unknown(VARINT, &[0x80])),
        ("a varint of 11 bytes", unknown(VARINT, &[0xff; 11])),
        ("half of 8 bytes", unknown(1, b"1234")),
        ("half of 4 bytes", unknown(5, b"12")),
        ("wire type 6", unknown(6, b"1")),
        ("wire type 7", unknown(7, b"1")),
        (
            "the end of a group that has not begun",
            tag(UNKNOWN, GROUP_END),
        ),
        ("a group without an end", tag(UNKNOWN, GROUP)),
        (
            "the end of another group",
            [tag(UNKNOWN, GROUP), tag(UNKNOWN + 1, GROUP_END)].concat(),
        ),
        (
            "100,000 groups in each other",
            tag(UNKNOWN, GROUP).repeat(100_000),
        ),
        (
            "a length beyond the message",
            unknown(LENGTH, &varint(1_000_000)),
        ),
        ("a length of all bits", unknown(LENGTH, &varint(u64::MAX))),
    ]
}

/// Frames that hold no message.
fn no_frames() -> Vec<(&'static str, Call, &'static str)> {
    let call = |body: Vec<u8>| Call::of("", body);
    let gzip = |call: Call| call.with("grpc-encoding", "gzip");
    let mut cut = gzip_of_zeros(1 << 20);
    cut.truncate(cut.len() / 2);
    let cut_length = cut.len() as u32;
    vec![
        ("half a frame's head", call(vec![0, 0, 0]), MALFORMED),
        (
            "a frame longer than the body",
            call(framed_as(0, 1 << 10, b"abcde")),
            MALFORMED,
        ),
        (
            "a frame of 4 GiB",
            call(framed_as(0, u32::MAX, b"abcde")),
            TOO_LARGE,
        ),
        (
            "a frame a byte over 16 MiB",
            call(framed_as(0, (16 << 20) + 1, b"")),
            TOO_LARGE,
        ),
        (
            "compressed without a compression",
            call(framed_as(1, 0, b"")),
            MALFORMED,
        ),
        ("an unknown flag", call(framed_as(2, 0, b"")), MALFORMED),
        ("all flags", call(framed_as(255, 0, b"")), MALFORMED),
        (
            "an unknown compression",
            call(framed(b"")).with("grpc-encoding", "br"),
            UNSUPPORTED,
        ),
        (
            "a compression of no name",
            call(framed(b"")).with("grpc-encoding", ""),
            UNSUPPORTED,
        ),
        (
            "gzip that is none",
            gzip(call(framed_as(1, 5, b"abcde"))),
            MALFORMED,
        ),
        (
            "gzip of nothing",
            gzip(call(framed_as(1, 0, b""))),
            MALFORMED,
        ),
        (
            "gzip that is cut",
            gzip(call(framed_as(1, cut_length, &cut))),
            MALFORMED,
        ),
    ]
}

#[tokio::test]
async fn a_message_that_is_none_is_refused_by_every_method() {
    let mut target = Target::start(&[]).await;
    let mut wrong = Vec::new();
    for method in METHODS {
        let peer = target.peer().await;
        let mut cases: Vec<(&str, Call, String)> = no_messages(method.text)
            .into_iter()
            .map(|(what, message)| {
                let fits = message.len() <= method.most;
                let expected = if fits { MALFORMED } else { TOO_LARGE };
                (what, Call::of("", framed(&message)), expected.into())
            })
            .collect();
        for (what, call, expected) in no_frames() {
            let compressed = call
                .headers
                .iter()
                .any(|(name, _)| *name == "grpc-encoding");
            let expected = if compressed && !method.inflates {
                UNSUPPORTED
            } else {
                expected
            };
            let limit = if expected == TOO_LARGE && method.streams {
                " <= 16777216"
            } else {
                ""
            };
            cases.push((what, call, format!("{expected}{limit}")));
        }
        let none = if method.streams { "Ok" } else { MALFORMED };
        cases.push(("no message at all", Call::of("", Vec::new()), none.into()));
        if !method.empty.is_empty() {
            let unknown = [
                [&tag(UNKNOWN, VARINT)[..], &[1]].concat(),
                [&tag(UNKNOWN, 1)[..], &[0; 8]].concat(),
                field(UNKNOWN, b"\xff"),
                [tag(UNKNOWN, GROUP), tag(UNKNOWN, GROUP_END)].concat(),
                [&tag(UNKNOWN, 5)[..], &[0; 4]].concat(),
            ];
            cases.push((
                "an empty message",
                Call::of("", framed(b"")),
                method.empty.into(),
            ));
            cases.push((
                "unknown fields",
                Call::of("", framed(&unknown.concat())),
                method.empty.into(),
            ));
            let named = Call::of("", framed(b"")).with("grpc-encoding", "identity");
            cases.push(("no compression by name", named, method.empty.into()));
            let trailers = Call::of("", framed(b"")).ending(End::Trailers);
            cases.push(("trailers", trailers, method.empty.into()));
        }
        for (what, mut call, expected) in cases {
            call.path = method.path.into();
            let said = peer.call(call).await.said();
            if said != expected {
                wrong.push(format!(
                    "{}, {what}: expected {expected}, found {said}",
                    method.path
                ));
            }
        }
        target.is_well(method.path).await;
    }
    assert_eq!(wrong, Vec::<String>::new());
    target.ends_well().await;
}

/// The reflection service ends its stream, with or without an error, as its library does.
#[tokio::test]
async fn a_message_that_is_none_ends_a_stream_of_reflection() {
    let mut target = Target::start(&[]).await;
    for path in REFLECTION {
        let peer = target.peer().await;
        let frames = no_frames().into_iter().map(|(what, call, _)| (what, call));
        let messages = no_messages(1).into_iter();
        let messages = messages.map(|(what, message)| (what, Call::of("", framed(&message))));
        for (what, mut call) in frames.chain(messages) {
            call.path = path.into();
            let answer = peer.call(call).await;
            assert!(answer.status.is_some(), "{path}, {what}: {}", answer.said());
            assert_eq!(answer.body, b"", "{path}, {what}");
        }
        target.is_well(path).await;
    }
    target.ends_well().await;
}

/// Anybody may send them, and what has come of one is kept until it is whole.
#[tokio::test]
async fn a_request_of_health_or_reflection_is_taken_up_to_4_kib_and_refused_a_byte_past_it() {
    let target = Target::start(&[]).await;
    let health = [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
    ];
    // The field of a name, or of what is asked, and one that nobody knows.
    let of = |asked: &[u8], bytes: usize| {
        [asked, &field(1_000, &vec![0; bytes - asked.len() - 4])].concat()
    };
    let peer = target.peer().await;
    let said = async |path: &str, asked: &[u8], bytes: usize| {
        let message = of(asked, bytes);
        assert_eq!(message.len(), bytes);
        peer.call(Call::of(path, framed(&message))).await.said()
    };
    for path in health {
        assert_eq!(said(path, b"", 4_096).await, "Ok +1", "{path}");
        assert_eq!(said(path, b"", 4_097).await, TOO_LARGE, "{path}");
    }
    let watch = "/grpc.health.v1.Health/Watch";
    assert_eq!(said(watch, b"", 4_097).await, TOO_LARGE);
    let list = field(7, b"*");
    for path in REFLECTION {
        assert_eq!(said(path, &list, 4_096).await, "Ok +1", "{path}");
        // Its library ends the stream without a word.
        assert_eq!(said(path, &list, 4_097).await, "Ok", "{path}");
    }
    target.ends_well().await;
}

#[tokio::test]
async fn a_small_message_that_inflates_to_512_mib_is_refused_as_too_large() {
    let mut target = Target::start(&[]).await;
    let bomb = gzip_of_zeros(512 << 20);
    assert!(
        bomb.len() < 600_000,
        "{} bytes are no small message",
        bomb.len()
    );
    let body = framed_as(1, bomb.len() as u32, &bomb);
    for (method, expected) in [
        ("Plan", TOO_LARGE),
        ("Reconcile", TOO_LARGE),
        ("SubmitRecords", TOO_LARGE),
        (
            "SubmitRecord",
            "InvalidArgument MESSAGE_TOO_LARGE message <= 16777216",
        ),
    ] {
        let path = format!("/fanout.v1.FanoutService/{method}");
        let call = Call::of(&path, body.clone()).with("grpc-encoding", "gzip");
        assert_eq!(
            target.peer().await.call(call).await.said(),
            expected,
            "{method}"
        );
        target.is_well(method).await;
    }
    let peak = target.served.program.resident_peak_bytes();
    assert!(peak < 200 << 20, "{} MiB were held", peak >> 20);
    target.ends_well().await;
}

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[tokio::test]
async fn whatever_bytes_come_the_answer_is_a_message_or_an_error_with_its_reason() {
    let mut target = Target::start(&[]).await;
    let sound = [
        plan_request("chance", &["a"]).encode_to_vec(),
        SubmitRecordsRequest {
            plan_id: "chance".into(),
            records: vec![record(r#"{"id":"nobody"}"#)],
            ..Default::default()
        }
        .encode_to_vec(),
    ];
    for (number, method) in METHODS
        .iter()
        .filter(|method| !method.empty.is_empty())
        .enumerate()
    {
        let peer = target.peer().await;
        let mut chance = Chance(number as u64);
        for round in 0..60 {
            let mut message = match round % 3 {
                0 => chance.bytes(64),
                // Sound but for a few bytes.
                _ => sound[round % sound.len()].clone(),
            };
            for _ in 0..chance.below(4) {
                if !message.is_empty() {
                    let at = chance.below(message.len());
                    message[at] = chance.next() as u8;
                }
            }
            let body = if round % 5 == 0 {
                chance.bytes(64)
            } else {
                framed(&message)
            };
            let answer = peer.call(Call::of(method.path, body.clone())).await;
            let said = answer.said();
            // That there is no service of a name is said as health's own protocol does.
            let explained =
                !said.ends_with('-') || said == "NotFound -" && method.path.contains("Health");
            assert!(
                answer.http == 200 && explained,
                "{}, {body:?}: {said}",
                method.path
            );
            assert!(
                !said.starts_with("Internal"),
                "{}, {body:?}: {said}",
                method.path
            );
        }
        target.is_well(method.path).await;
    }
    target.ends_well().await;
}

#[tokio::test]
async fn a_message_with_more_fields_than_there_is_room_for_is_refused_before_it_is_made() {
    for (fields, too_many) in [(99_990, false), (100_001, true), (2_000_000, true)] {
        send_many(fields, too_many).await;
    }
}

/// Sends messages of so many empty parts.
async fn send_many(fields: usize, are_too_many: bool) {
    let mut target = Target::start(&[]).await;
    let many = |number: u32| field(number, b"").repeat(fields);
    let submit = [field(1, PLAN.as_bytes()), many(2)].concat();
    let plan = PlanRequest {
        validate_only: true,
        ..plan_request("sound", &["a"])
    };
    let there = |number: u32| [field(1, PLAN.as_bytes()), many(number)].concat();
    let too_many = "InvalidArgument TOO_MANY_RECORDS records <= 1000";
    for (method, what, message, expected) in [
        ("SubmitRecord", "records", submit.clone(), too_many),
        ("SubmitRecords", "records", submit, too_many),
        // All have the same key, the empty one.
        (
            "Plan",
            "labels",
            [plan.encode_to_vec(), many(11)].concat(),
            "Ok +1",
        ),
        // Packets, again and again instead of the items: the last ones count.
        (
            "Plan",
            "sources",
            [plan.encode_to_vec(), many(6)].concat(),
            "Ok +1",
        ),
        (
            "Plan",
            "policies",
            [plan.encode_to_vec(), many(7)].concat(),
            "Ok +1",
        ),
        ("ListPlans", "labels", many(4), "Ok +1"),
        ("Reconcile", "waits", there(2), "Ok +1"),
        (
            "Reconcile",
            "documents",
            there(7),
            "InvalidArgument FIELDS_EXCLUDE_EACH_OTHER documents",
        ),
        ("ListTasks", "states", there(5), "Ok +1"),
        ("GetPlan", "unknown fields", there(UNKNOWN), "Ok +1"),
    ] {
        let path = format!("/fanout.v1.FanoutService/{method}");
        let said = target
            .peer()
            .await
            .call(Call::of(&path, framed(&message)))
            .await
            .said();
        let expected = if are_too_many {
            "InvalidArgument MALFORMED_MESSAGE message"
        } else {
            expected
        };
        assert_eq!(said, expected, "{method}, {fields} {what}");
        target.is_well(&format!("{method}, {fields} {what}")).await;
    }
    target.ends_well().await;
}
