//! Fields that are sound on the wire and wrong in what they say: texts, documents, tokens, times, numbers.

use fanout::proto::plan_request::Source;
use fanout::proto::{
    CancelPlanRequest, CompletionPolicy, DeletePlanRequest, DiscardRecordRequest,
    ExplainTaskRequest, FindingPackets, GetPlanRequest, GetTaskRequest, ListPlansRequest,
    ListQuarantineRequest, ListTasksRequest, PlanRequest, ReconcileDocuments, ReconcileRequest,
    Record, RematchRecordRequest, SealPlanRequest, SubmitRecordRequest, SubmitRecordsRequest,
    SubmitRecordsResponse, WatchPlanRequest,
};
use prost::Message;

use super::Target;
use super::target::PLAN;
use super::wire::{Call, Peer, framed};
use crate::harness::{plan_request, record};

/// A call of a method of this service.
pub fn call(method: &str, request: &impl Message) -> Call {
    let path = format!("/fanout.v1.FanoutService/{method}");
    Call::of(&path, framed(&request.encode_to_vec()))
}

/// What is not answered as it should be, all of it.
pub async fn wrong_answers(peer: &Peer, cases: Vec<(String, Call, String)>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (what, call, expected) in cases {
        let said = peer.call(call).await.said();
        if said != expected {
            wrong.push(format!("{what}: expected {expected}, found {said}"));
        }
    }
    wrong
}

const NO_PLAN: &str = "NotFound PLAN_NOT_FOUND";
const NONE: Vec<String> = Vec::new();

/// A text field: method, name, longest, whether it must be given, what is answered if it is accepted, and the request.
type TextField = (
    &'static str,
    &'static str,
    usize,
    bool,
    &'static str,
    fn(String) -> Vec<u8>,
);

/// Every text field that is checked as such. The plan `unknown` does not exist, so that what is accepted changes nothing.
fn text_fields() -> Vec<TextField> {
    fn unknown() -> String {
        "unknown".into()
    }
    fn sound() -> PlanRequest {
        PlanRequest {
            validate_only: true,
            ..plan_request("sound", &["a"])
        }
    }
    vec![
        ("Plan", "plan_id", 1_024, false, "Ok +1", |plan_id| {
            PlanRequest { plan_id, ..sound() }.encode_to_vec()
        }),
        ("Plan", "request_id", 1_024, false, "Ok +1", |request_id| {
            PlanRequest {
                request_id,
                ..sound()
            }
            .encode_to_vec()
        }),
        ("Plan", "labels", 256, false, "Ok +1", |text| {
            let labels = [(text, "value".into())].into();
            PlanRequest { labels, ..sound() }.encode_to_vec()
        }),
        ("Plan", "labels", 256, false, "Ok +1", |text| {
            let labels = [("key".into(), text)].into();
            PlanRequest { labels, ..sound() }.encode_to_vec()
        }),
        ("SubmitRecord", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            SubmitRecordRequest {
                plan_id,
                records: vec![record("{}")],
                ..Default::default()
            }
            .encode_to_vec()
        }),
        (
            "SubmitRecords",
            "plan_id",
            1_024,
            true,
            NO_PLAN,
            |plan_id| {
                SubmitRecordsRequest {
                    plan_id,
                    records: vec![record("{}")],
                    ..Default::default()
                }
                .encode_to_vec()
            },
        ),
        ("Reconcile", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            ReconcileRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("WatchPlan", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            WatchPlanRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("GetPlan", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            GetPlanRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("GetTask", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            GetTaskRequest {
                plan_id,
                task_id: "t".into(),
                ..Default::default()
            }
            .encode_to_vec()
        }),
        (
            "GetTask",
            "task_id",
            1_024,
            true,
            "NotFound TASK_NOT_FOUND",
            |task_id| {
                GetTaskRequest {
                    plan_id: PLAN.into(),
                    task_id,
                    ..Default::default()
                }
                .encode_to_vec()
            },
        ),
        ("ListTasks", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            ListTasksRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("ExplainTask", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            ExplainTaskRequest {
                plan_id,
                task_id: "t".into(),
            }
            .encode_to_vec()
        }),
        (
            "ExplainTask",
            "task_id",
            1_024,
            true,
            "NotFound TASK_NOT_FOUND",
            |task_id| {
                ExplainTaskRequest {
                    plan_id: PLAN.into(),
                    task_id,
                }
                .encode_to_vec()
            },
        ),
        (
            "ListQuarantine",
            "plan_id",
            1_024,
            true,
            NO_PLAN,
            |plan_id| {
                ListQuarantineRequest {
                    plan_id,
                    ..Default::default()
                }
                .encode_to_vec()
            },
        ),
        (
            "RematchRecord",
            "plan_id",
            1_024,
            true,
            NO_PLAN,
            |plan_id| {
                let (task_id, reason) = ("t".into(), String::new());
                RematchRecordRequest {
                    plan_id,
                    quarantine_id: 1,
                    task_id,
                    reason,
                }
                .encode_to_vec()
            },
        ),
        (
            "RematchRecord",
            "task_id",
            1_024,
            true,
            NO_PLAN,
            |task_id| {
                let (plan_id, reason) = (unknown(), String::new());
                RematchRecordRequest {
                    plan_id,
                    quarantine_id: 1,
                    task_id,
                    reason,
                }
                .encode_to_vec()
            },
        ),
        ("RematchRecord", "reason", 1_024, false, NO_PLAN, |reason| {
            let (plan_id, task_id) = (unknown(), "t".into());
            RematchRecordRequest {
                plan_id,
                quarantine_id: 1,
                task_id,
                reason,
            }
            .encode_to_vec()
        }),
        (
            "DiscardRecord",
            "plan_id",
            1_024,
            true,
            NO_PLAN,
            |plan_id| {
                let reason = String::new();
                DiscardRecordRequest {
                    plan_id,
                    quarantine_id: 1,
                    reason,
                }
                .encode_to_vec()
            },
        ),
        ("DiscardRecord", "reason", 1_024, false, NO_PLAN, |reason| {
            DiscardRecordRequest {
                plan_id: unknown(),
                quarantine_id: 1,
                reason,
            }
            .encode_to_vec()
        }),
        ("SealPlan", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            SealPlanRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        (
            "SealPlan",
            "request_id",
            1_024,
            false,
            NO_PLAN,
            |request_id| {
                SealPlanRequest {
                    plan_id: unknown(),
                    request_id,
                    ..Default::default()
                }
                .encode_to_vec()
            },
        ),
        ("SealPlan", "reason", 1_024, false, NO_PLAN, |reason| {
            SealPlanRequest {
                plan_id: unknown(),
                reason,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("CancelPlan", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            CancelPlanRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        (
            "CancelPlan",
            "request_id",
            1_024,
            false,
            NO_PLAN,
            |request_id| {
                CancelPlanRequest {
                    plan_id: unknown(),
                    request_id,
                    ..Default::default()
                }
                .encode_to_vec()
            },
        ),
        ("CancelPlan", "reason", 1_024, false, NO_PLAN, |reason| {
            CancelPlanRequest {
                plan_id: unknown(),
                reason,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        ("DeletePlan", "plan_id", 1_024, true, NO_PLAN, |plan_id| {
            DeletePlanRequest {
                plan_id,
                ..Default::default()
            }
            .encode_to_vec()
        }),
        (
            "DeletePlan",
            "request_id",
            1_024,
            false,
            NO_PLAN,
            |request_id| {
                DeletePlanRequest {
                    plan_id: unknown(),
                    request_id,
                }
                .encode_to_vec()
            },
        ),
    ]
}

#[tokio::test]
async fn every_text_is_taken_at_its_limit_and_refused_past_it_or_with_a_nul() {
    let target = Target::start(&[]).await;
    let mut cases = Vec::new();
    for (method, name, limit, required, accepted, make) in text_fields() {
        let too_long = format!("InvalidArgument TEXT_TOO_LONG {name} <= {limit}");
        let nul = format!("InvalidArgument INVALID_TEXT {name}");
        let empty = if required {
            format!("InvalidArgument FIELD_REQUIRED {name}")
        } else {
            accepted.to_owned()
        };
        let texts = [
            ("nothing", String::new(), empty),
            ("as long as allowed", "x".repeat(limit), accepted.into()),
            ("a byte more", "x".repeat(limit + 1), too_long.clone()),
            // As many characters as allowed, and one byte more.
            (
                "a character more",
                "x".repeat(limit - 1) + "\u{e9}",
                too_long.clone(),
            ),
            ("200 KiB", "x".repeat(200 << 10), too_long),
            ("a NUL", "a\0b".into(), nul.clone()),
            ("only a NUL", "\0".into(), nul),
            ("white space", " \t\r\n".into(), accepted.into()),
            ("controls", "\u{1}\u{1b}[2J\u{7f}".into(), accepted.into()),
            (
                "directions",
                "a\u{202e}b\u{2066}c\u{200f}".into(),
                accepted.into(),
            ),
            ("a byte order mark", "\u{feff}".into(), accepted.into()),
            (
                "the last character",
                "\u{10ffff}e\u{301}".into(),
                accepted.into(),
            ),
            ("a path", "../../etc/passwd".into(), accepted.into()),
            ("a format", "%s%n{}{{group.key}}".into(), accepted.into()),
        ];
        for (text, given, expected) in texts {
            let what = format!("{method}, {name}: {text}");
            let path = format!("/fanout.v1.FanoutService/{method}");
            cases.push((what, Call::of(&path, framed(&make(given))), expected));
        }
    }
    let peer = target.peer().await;
    assert_eq!(wrong_answers(&peer, cases).await, NONE);
    target.ends_well().await;
}

/// Where a text stands in a record.
type Place = fn(&mut Record) -> &mut String;

/// A call for a page, of a size and with a token.
type MakePage = fn(i32, String) -> Call;

/// What became of a single record, in a line.
async fn became(target: &mut Target, given: Record) -> String {
    let request = SubmitRecordsRequest {
        plan_id: "records".into(),
        records: vec![given],
        ..Default::default()
    };
    let response: SubmitRecordsResponse = target
        .client
        .submit_records(request)
        .await
        .unwrap()
        .into_inner();
    let receipt = &response.receipts[0];
    let disposition = receipt.disposition().as_str_name();
    let disposition = disposition.trim_start_matches("DISPOSITION_");
    match &receipt.violation {
        None => disposition.to_owned(),
        Some(violation) => {
            assert!(!violation.description.is_empty());
            let said = format!("{disposition} {} {}", violation.reason, violation.field);
            if violation.limit == 0 {
                said
            } else {
                format!("{said} <= {}", violation.limit)
            }
        }
    }
}

#[tokio::test]
async fn a_records_keys_and_status_are_taken_at_their_limit_and_refused_past_it_or_with_a_nul() {
    let mut target = Target::start(&[]).await;
    target
        .client
        .plan(plan_request("records", &["a"]))
        .await
        .unwrap();
    let set: [(&str, Place); 5] = [
        ("id", |record| &mut record.id),
        ("task_id", |record| &mut record.task_id),
        ("sandbox_session_id", |record| {
            &mut record.sandbox_session_id
        }),
        ("group_key", |record| &mut record.group_key),
        ("status", |record| &mut record.status),
    ];
    let mut wrong = Vec::new();
    for (name, field) in set {
        let too_long = format!("TOO_LARGE KEY_TOO_LONG records[0].{name} <= 1024");
        let nul = format!("INVALID INVALID_TEXT records[0].{name}");
        let texts = [
            ("x".repeat(1_024), "UNMATCHED".to_owned()),
            ("x".repeat(1_025), too_long.clone()),
            ("x".repeat(15 << 20), too_long),
            ("a\0".into(), nul),
            ("\u{202e}\u{2066}".into(), "UNMATCHED".into()),
            ("\u{10ffff}".into(), "UNMATCHED".into()),
            ("\u{feff}".into(), "UNMATCHED".into()),
        ];
        for (text, expected) in texts {
            let mut typed = record("{}");
            *field(&mut typed) = text.clone();
            let mut ways = vec![("typed", typed)];
            // The status in a body is opaque, as everything else is there.
            if name != "status" && text.len() < 1 << 20 {
                let text = fanout::json::compact(&(&*text).into());
                ways.push(("in the body", record(&format!("{{\"{name}\":{text}}}"))));
            }
            for (way, given) in ways {
                let found = became(&mut target, given).await;
                if found != expected {
                    wrong.push(format!("{name} {way}, {} bytes: {found}", text.len()));
                }
            }
        }
    }
    assert_eq!(wrong, NONE);
    target.ends_well().await;
}

/// What is put into documents: what it is, the text, what is said of the document (empty: it is taken).
fn json_texts() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    const NO_JSON: &str = "INVALID_JSON";
    const DEEP: &str = "JSON_LIMIT_EXCEEDED <= 512";
    vec![
        ("no value", b"".into(), NO_JSON),
        ("a word", b"nope".into(), NO_JSON),
        ("not a number", b"NaN".into(), NO_JSON),
        ("infinity", b"-Infinity".into(), NO_JSON),
        ("a leading zero", b"01".into(), NO_JSON),
        ("a plus", b"+1".into(), NO_JSON),
        ("a number beyond doubles", b"1e999".into(), NO_JSON),
        (
            "1 MB of digits",
            b"1".repeat(1_000_000),
            "JSON_LIMIT_EXCEEDED <= 1024",
        ),
        (
            "an exponent of 1 MB",
            [b"1e", &b"9".repeat(1_000_000)[..]].concat(),
            "JSON_LIMIT_EXCEEDED <= 1024",
        ),
        ("one quote", b"\"".into(), NO_JSON),
        ("single quotes", b"'a'".into(), NO_JSON),
        ("a line break in a string", b"\"\n\"".into(), NO_JSON),
        ("a NUL in a string", b"\"\0\"".into(), NO_JSON),
        ("a NUL between", b"\0 1".into(), NO_JSON),
        ("bad UTF-8", b"\"\xff\"".into(), NO_JSON),
        ("overlong UTF-8", b"\"\xc0\x80\"".into(), NO_JSON),
        ("a surrogate in UTF-8", b"\"\xed\xa0\x80\"".into(), NO_JSON),
        ("a lone high surrogate", br#""\ud800""#.into(), NO_JSON),
        ("a lone low surrogate", br#""\udc00""#.into(), NO_JSON),
        (
            "surrogates the wrong way round",
            br#""\udc00\ud800""#.into(),
            NO_JSON,
        ),
        ("a cut escape", br#""\u12"#.into(), NO_JSON),
        ("an unknown escape", br#""\x41""#.into(), NO_JSON),
        ("a byte order mark", "\u{feff}1".into(), NO_JSON),
        ("a comment", b"1/**/".into(), NO_JSON),
        ("a comma too many", b"[1,]".into(), NO_JSON),
        ("a key without quotes", b"{a:1}".into(), NO_JSON),
        ("the wrong bracket", b"[1}".into(), NO_JSON),
        (
            "nesting one past the limit",
            [b"[".repeat(512), b"]".repeat(512)].concat(),
            DEEP,
        ),
        ("nesting 1,000,000 deep", b"[".repeat(1_000_000), DEEP),
        ("objects 150,000 deep", br#"{"a":"#.repeat(150_000), DEEP),
        (
            "nesting at the limit",
            [b"[".repeat(511), b"]".repeat(511)].concat(),
            "",
        ),
        ("1,024 digits", b"1".repeat(1_024), ""),
        ("an escaped NUL", br#""\u0000""#.into(), ""),
        ("a surrogate pair", br#""\ud83d\ude00""#.into(), ""),
        ("the last character", "\"\u{10ffff}\"".into(), ""),
        ("repeated keys", br#"{"a":1,"a":2,"a":{}}"#.into(), ""),
        (
            "serde_json's number",
            br#"{"$serde_json::private::Number":"1"}"#.into(),
            "",
        ),
        (
            "serde_json's raw value",
            br#"{"$serde_json::private::RawValue":"["}"#.into(),
            "",
        ),
        (
            "a prototype",
            br#"{"__proto__":{"a":1},"constructor":null}"#.into(),
            "",
        ),
        ("an empty key", br#"{"":{"":[]}}"#.into(), ""),
        ("an empty object", b"{}".into(), ""),
        ("an empty list", b"[]".into(), ""),
        ("white space all around", b" \r\n\t[ ] \n".into(), ""),
        (
            "100,000 keys",
            {
                let members: Vec<String> = (0..100_000).map(|n| format!("\"{n}\":0")).collect();
                format!("{{{}}}", members.join(",")).into()
            },
            "",
        ),
    ]
}

/// A document in a request: its field, what stands before and after the text in it, and the request.
type DocumentField = (
    &'static str,
    &'static str,
    &'static str,
    fn(Vec<u8>) -> Call,
);

fn document_fields() -> Vec<DocumentField> {
    fn plan(source: Option<Source>, config: Vec<u8>) -> Call {
        let request = PlanRequest {
            plan_id: "sound".into(),
            config: config.into(),
            source,
            validate_only: true,
            ..Default::default()
        };
        call("Plan", &request)
    }
    fn reconcile(documents: ReconcileDocuments) -> Call {
        let documents = Some(documents);
        call(
            "Reconcile",
            &ReconcileRequest {
                documents,
                ..Default::default()
            },
        )
    }
    vec![
        ("config", "{\"a\":", "}", |text| plan(None, text)),
        ("items", "[", "]", |text| {
            plan(Some(Source::Items(text.into())), Vec::new())
        }),
        ("groups", "[{\"key\":\"a\",\"items\":[]},", "]", |text| {
            plan(Some(Source::Groups(text.into())), Vec::new())
        }),
        ("finding_packets.packets", "[", "]", |text| {
            let (packets, policy) = (text.into(), Default::default());
            plan(
                Some(Source::FindingPackets(FindingPackets { packets, policy })),
                Vec::new(),
            )
        }),
        ("finding_packets.policy", "{\"a\":", "}", |text| {
            let (packets, policy) = ("[]".into(), text.into());
            plan(
                Some(Source::FindingPackets(FindingPackets { packets, policy })),
                Vec::new(),
            )
        }),
        ("documents.config", "{\"a\":", "}", |text| {
            reconcile(ReconcileDocuments {
                config: text.into(),
                ..Default::default()
            })
        }),
        (
            "documents.plan",
            "{\"task_requests\":[],\"a\":",
            "}",
            |text| {
                reconcile(ReconcileDocuments {
                    plan: text.into(),
                    ..Default::default()
                })
            },
        ),
        ("documents.records", "[", "]", |text| {
            reconcile(ReconcileDocuments {
                records: text.into(),
                ..Default::default()
            })
        }),
        ("documents.items", "[", "]", |text| {
            reconcile(ReconcileDocuments {
                items: text.into(),
                ..Default::default()
            })
        }),
        ("documents.groups", "[", "]", |text| {
            reconcile(ReconcileDocuments {
                groups: text.into(),
                ..Default::default()
            })
        }),
    ]
}

#[tokio::test]
async fn a_document_that_is_no_json_is_refused_with_its_field_and_odd_json_is_taken() {
    let mut target = Target::start(&[]).await;
    target
        .client
        .plan(plan_request("records", &["a"]))
        .await
        .unwrap();
    let mut cases = Vec::new();
    for (field, before, after, make) in document_fields() {
        let outcome = |reason: &str| match reason.split_once(' ') {
            _ if reason.is_empty() => "Ok +1".to_owned(),
            None => format!("InvalidArgument {reason} {field}"),
            Some((reason, limit)) => format!("InvalidArgument {reason} {field} {limit}"),
        };
        for (what, text, reason) in json_texts() {
            let text = [before.as_bytes(), &text, after.as_bytes()].concat();
            // Of nothing in brackets, some is a list and some is no object.
            if what == "no value" && after == "]" && !before.ends_with(',') {
                continue;
            }
            cases.push((format!("{field}: {what}"), make(text), outcome(reason)));
        }
        let sound = format!("{before}1{after}");
        for (what, text) in [
            ("a byte order mark in front", format!("\u{feff}{sound}")),
            ("something behind", format!("{sound} 1")),
            ("itself again", format!("{sound}{sound}")),
            ("a NUL behind", format!("{sound}\0")),
            ("only white space", " \n".into()),
            ("cut", sound[..sound.len() - 1].into()),
        ] {
            cases.push((
                format!("{field}: {what}"),
                make(text.into()),
                outcome("INVALID_JSON"),
            ));
        }
        for root in [
            "null",
            "7",
            "\"{}\"",
            "true",
            if after == "]" { "{}" } else { "[]" },
        ] {
            // A plan is whatever has a list of task requests.
            let expected = if field == "documents.plan" {
                "InvalidArgument INVALID_DOCUMENT plan.task_requests".to_owned()
            } else {
                outcome("INVALID_DOCUMENT")
            };
            cases.push((format!("{field}: {root}"), make(root.into()), expected));
        }
    }
    let peer = target.peer().await;
    let mut wrong = wrong_answers(&peer, cases).await;
    for (what, text, reason) in json_texts() {
        let body = [b"{\"a\":", &text[..], b"}"].concat();
        let expected = match reason.split_once(' ') {
            _ if reason.is_empty() => "UNMATCHED".to_owned(),
            None => format!("INVALID {reason} records[0].body"),
            Some((reason, limit)) => format!("TOO_LARGE {reason} records[0].body {limit}"),
        };
        let found = became(
            &mut target,
            Record {
                body: body.into(),
                ..Default::default()
            },
        )
        .await;
        if found != expected {
            wrong.push(format!(
                "a record's body: {what}: expected {expected}, found {found}"
            ));
        }
    }
    for root in [
        "null",
        "7",
        "\"{}\"",
        "true",
        "[]",
        "\u{feff}{}",
        "{}x",
        "{}{}",
        " ",
    ] {
        let found = became(&mut target, record(root)).await;
        if found != "INVALID INVALID_JSON records[0].body" {
            wrong.push(format!("a record's body: {root}: {found}"));
        }
    }
    assert_eq!(wrong, NONE);
    target.ends_well().await;
}

fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

#[tokio::test]
async fn a_time_that_is_none_is_refused_with_its_field() {
    let target = Target::start(&[]).await;
    let sound = || PlanRequest {
        validate_only: true,
        ..plan_request("sound", &["a"])
    };
    let mut cases = Vec::new();
    for (given_seconds, nanos) in [
        (-1, 0),
        (i64::MIN, 0),
        (i64::MAX, 0),
        (i64::MIN, i32::MIN),
        (i64::MAX, i32::MAX),
        (0, -1),
        (0, i32::MIN),
        (1, -1),
        (2, -1_000_000_000),
        (1, 1_000_000_000),
        (1, i32::MAX),
        (30 * 24 * 3_600, 1),
    ] {
        let given = || seconds(given_seconds, nanos);
        let requests = [
            (
                "timeout",
                call(
                    "Plan",
                    &PlanRequest {
                        timeout: given(),
                        ..sound()
                    },
                ),
            ),
            (
                "retention",
                call(
                    "Plan",
                    &PlanRequest {
                        retention: given(),
                        ..sound()
                    },
                ),
            ),
            (
                "wait",
                call(
                    "Reconcile",
                    &ReconcileRequest {
                        plan_id: PLAN.into(),
                        wait: given(),
                        ..Default::default()
                    },
                ),
            ),
            (
                "heartbeat_interval",
                call(
                    "WatchPlan",
                    &WatchPlanRequest {
                        plan_id: PLAN.into(),
                        heartbeat_interval: given(),
                        ..Default::default()
                    },
                ),
            ),
        ];
        for (field, call) in requests {
            let what = format!("{field} of {given_seconds} s and {nanos} ns");
            cases.push((
                what,
                call,
                format!("InvalidArgument INVALID_DURATION {field}"),
            ));
        }
    }
    for (given_seconds, nanos, reason) in [
        (-1, 0, "INVALID_TIMESTAMP"),
        (i64::MIN, 0, "INVALID_TIMESTAMP"),
        (i64::MAX, 0, "INVALID_TIMESTAMP"),
        // The year 10000, which no timestamp can say.
        (253_402_300_800, 0, "INVALID_TIMESTAMP"),
        (4_000_000_000, -1, "INVALID_TIMESTAMP"),
        (4_000_000_000, 1_000_000_000, "INVALID_TIMESTAMP"),
        (4_000_000_000, i32::MIN, "INVALID_TIMESTAMP"),
        (0, 0, "DEADLINE_PASSED"),
        (1_000_000_000, 999_999_999, "DEADLINE_PASSED"),
    ] {
        let deadline = Some(prost_types::Timestamp {
            seconds: given_seconds,
            nanos,
        });
        let what = format!("deadline of {given_seconds} s and {nanos} ns");
        let call = call(
            "Plan",
            &PlanRequest {
                deadline,
                ..sound()
            },
        );
        cases.push((what, call, format!("InvalidArgument {reason} deadline")));
    }
    let deadline = Some(prost_types::Timestamp {
        seconds: 253_402_300_799,
        nanos: 999_999_999,
    });
    let last = call(
        "Plan",
        &PlanRequest {
            deadline,
            ..sound()
        },
    );
    let expected = "InvalidArgument LIMIT_EXCEEDED deadline <= 2592000";
    cases.push(("the last deadline".into(), last, expected.into()));
    let peer = target.peer().await;
    assert_eq!(wrong_answers(&peer, cases).await, NONE);
    target.ends_well().await;
}

#[tokio::test]
async fn a_token_of_another_call_or_a_size_out_of_range_is_refused_with_its_field() {
    let mut target = Target::start(&[]).await;
    let other = target
        .client
        .plan(plan_request("other", &["a", "b"]))
        .await
        .unwrap();
    let other = other.into_inner().plan.unwrap().cursor;
    let get = GetPlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    let own = target
        .client
        .get_plan(get)
        .await
        .unwrap()
        .into_inner()
        .plan
        .unwrap()
        .cursor;
    let lists: [(&str, &str, MakePage); 5] = [
        ("GetPlan", "t.", |page_size, page_token| {
            let view = 2;
            call(
                "GetPlan",
                &GetPlanRequest {
                    plan_id: PLAN.into(),
                    view,
                    page_size,
                    page_token,
                },
            )
        }),
        ("ListPlans", "p.", |page_size, page_token| {
            call(
                "ListPlans",
                &ListPlansRequest {
                    page_size,
                    page_token,
                    ..Default::default()
                },
            )
        }),
        ("ListTasks", "t.", |page_size, page_token| {
            let plan_id = PLAN.into();
            call(
                "ListTasks",
                &ListTasksRequest {
                    plan_id,
                    page_size,
                    page_token,
                    ..Default::default()
                },
            )
        }),
        ("ListQuarantine", "q.", |page_size, page_token| {
            let plan_id = PLAN.into();
            call(
                "ListQuarantine",
                &ListQuarantineRequest {
                    plan_id,
                    page_size,
                    page_token,
                    ..Default::default()
                },
            )
        }),
        ("Reconcile", "t.", |page_size, page_token| {
            let plan_id = PLAN.into();
            // Without a size there are no pages.
            let page_size = if page_token.is_empty() { page_size } else { 1 };
            call(
                "Reconcile",
                &ReconcileRequest {
                    plan_id,
                    page_size,
                    page_token,
                    ..Default::default()
                },
            )
        }),
    ];
    let mut cases = Vec::new();
    for (method, prefix, make) in lists {
        for size in [i32::MIN, -1, 1_001, i32::MAX] {
            let expected = "InvalidArgument INVALID_PAGE_SIZE page_size <= 1000";
            cases.push((
                format!("{method}, {size}"),
                make(size, String::new()),
                expected.into(),
            ));
        }
        for size in [0, 1, 1_000] {
            cases.push((
                format!("{method}, {size}"),
                make(size, String::new()),
                "Ok +1".into(),
            ));
        }
        let of_others = ["t.1", "p.1.x", "q.1"]
            .into_iter()
            .filter(|token| !token.starts_with(prefix));
        let tokens = [
            "garbage",
            "\u{202e}",
            ".",
            "0",
            "1",
            "t.",
            "q.",
            "p.",
            "t.-1",
            "q.-1",
            "p.-1.x",
            "t.x",
            "q.x",
            "p.x.x",
            "t.1.5",
            "t.18446744073709551616",
            "q.18446744073709551616",
            "p.18446744073709551616.x",
            "t. 1",
            "t.+1",
            "t.01",
            "q.+1",
            "q.01",
            "p.+1.x",
            "p.01.x",
            "\0",
        ];
        let long = "x".repeat(15 << 20);
        for token in of_others.chain(tokens).chain([&*own, &*long]) {
            let expected = "InvalidArgument INVALID_PAGE_TOKEN page_token";
            let what = format!("{method}, {:?}", token.chars().take(30).collect::<String>());
            cases.push((what, make(0, token.into()), expected.into()));
        }
        // Past the last entry there is nothing more, which is no mistake: entries may have gone.
        for ahead in [format!("{prefix}1000000"), format!("{prefix}{}", u64::MAX)] {
            let ahead = if prefix == "p." { ahead + ".x" } else { ahead };
            cases.push((format!("{method}, {ahead}"), make(0, ahead), "Ok +1".into()));
        }
    }
    let (place, _) = own.rsplit_once('.').unwrap();
    for (after, expected) in [
        ("garbage".to_owned(), "InvalidArgument INVALID_CURSOR after"),
        (".".into(), "InvalidArgument INVALID_CURSOR after"),
        ("t.1".into(), "InvalidArgument INVALID_CURSOR after"),
        ("\0".into(), "InvalidArgument INVALID_CURSOR after"),
        ("x".repeat(15 << 20), "InvalidArgument INVALID_CURSOR after"),
        (other, "InvalidArgument INVALID_CURSOR after"),
        (format!("{place}."), "InvalidArgument INVALID_CURSOR after"),
        (
            format!("{place}.-1"),
            "InvalidArgument INVALID_CURSOR after",
        ),
        (
            format!("{place}.+1"),
            "InvalidArgument INVALID_CURSOR after",
        ),
        (
            format!("{place}.01"),
            "InvalidArgument INVALID_CURSOR after",
        ),
        (
            format!("{place}.18446744073709551616"),
            "InvalidArgument INVALID_CURSOR after",
        ),
        (
            format!("{place}.18446744073709551615"),
            "OutOfRange CURSOR_AHEAD after",
        ),
        (format!("{place}.2"), "OutOfRange CURSOR_AHEAD after"),
    ] {
        let what = format!(
            "WatchPlan, {:?}",
            after.chars().take(40).collect::<String>()
        );
        let request = WatchPlanRequest {
            plan_id: PLAN.into(),
            after,
            ..Default::default()
        };
        cases.push((what, call("WatchPlan", &request), expected.into()));
    }
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        after: own,
        include_snapshot: true,
        ..Default::default()
    };
    let expected = "InvalidArgument FIELDS_EXCLUDE_EACH_OTHER include_snapshot";
    cases.push((
        "WatchPlan, both".into(),
        call("WatchPlan", &request),
        expected.into(),
    ));
    let peer = target.peer().await;
    assert_eq!(wrong_answers(&peer, cases).await, NONE);
    target.ends_well().await;
}

#[tokio::test]
async fn an_unknown_enum_value_is_refused_where_it_would_change_the_meaning_and_tolerated_elsewhere()
 {
    let mut target = Target::start(&[]).await;
    target
        .client
        .plan(plan_request("records", &["a"]))
        .await
        .unwrap();
    let plan_id = || PLAN.to_owned();
    let policy = |completion_policy: CompletionPolicy| {
        let completion_policy = Some(completion_policy);
        call(
            "Plan",
            &PlanRequest {
                validate_only: true,
                completion_policy,
                ..plan_request("sound", &["a"])
            },
        )
    };
    let mut cases = Vec::new();
    for value in [99, -1, i32::MIN, i32::MAX] {
        let view = value;
        for (method, request) in [
            (
                "GetPlan",
                call(
                    "GetPlan",
                    &GetPlanRequest {
                        plan_id: plan_id(),
                        view,
                        ..Default::default()
                    },
                ),
            ),
            (
                "GetTask",
                call(
                    "GetTask",
                    &GetTaskRequest {
                        plan_id: plan_id(),
                        task_id: "task-a".into(),
                        view,
                    },
                ),
            ),
            (
                "ListTasks",
                call(
                    "ListTasks",
                    &ListTasksRequest {
                        plan_id: plan_id(),
                        view,
                        ..Default::default()
                    },
                ),
            ),
            (
                "Reconcile",
                call(
                    "Reconcile",
                    &ReconcileRequest {
                        plan_id: plan_id(),
                        view,
                        ..Default::default()
                    },
                ),
            ),
        ] {
            cases.push((
                format!("{method}, view {value}"),
                request,
                "Ok +1".to_owned(),
            ));
        }
        let unknown = |field: &str| format!("InvalidArgument UNKNOWN_ENUM_VALUE {field}");
        let list = ListPlansRequest {
            status: value,
            ..Default::default()
        };
        cases.push((
            format!("status {value}"),
            call("ListPlans", &list),
            unknown("status"),
        ));
        let list = ListTasksRequest {
            plan_id: plan_id(),
            states: vec![1, value],
            ..Default::default()
        };
        cases.push((
            format!("states {value}"),
            call("ListTasks", &list),
            unknown("states"),
        ));
        let list = ListTasksRequest {
            plan_id: plan_id(),
            statuses: vec![1, value],
            ..Default::default()
        };
        cases.push((
            format!("statuses {value}"),
            call("ListTasks", &list),
            unknown("statuses"),
        ));
        let rule = CompletionPolicy {
            seal_rule: value,
            ..Default::default()
        };
        cases.push((
            format!("rule {value}"),
            policy(rule),
            unknown("completion_policy.seal_rule"),
        ));
    }
    let share = |share| CompletionPolicy {
        tolerated_failure_percentage: Some(share),
        ..Default::default()
    };
    for value in [
        -0.1,
        100.000_001,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN,
        f64::MAX,
    ] {
        let field = "completion_policy.tolerated_failure_percentage";
        let expected = format!("InvalidArgument INVALID_COMPLETION_POLICY {field}");
        cases.push((format!("share {value}"), policy(share(value)), expected));
    }
    for value in [0.0, -0.0, f64::MIN_POSITIVE, 100.0] {
        cases.push((
            format!("share {value}"),
            policy(share(value)),
            "Ok +1".into(),
        ));
    }
    for (least, expected) in [
        (
            0,
            "InvalidArgument INVALID_COMPLETION_POLICY completion_policy.min_successful",
        ),
        (1, "Ok +1"),
        // More than there are tasks: 1.
        (
            2,
            "InvalidArgument INVALID_COMPLETION_POLICY completion_policy.min_successful",
        ),
        (
            u64::MAX,
            "InvalidArgument INVALID_COMPLETION_POLICY completion_policy.min_successful",
        ),
    ] {
        let rule = CompletionPolicy {
            min_successful: Some(least),
            ..Default::default()
        };
        cases.push((format!("at least {least}"), policy(rule), expected.into()));
    }
    let rule = CompletionPolicy {
        tolerated_failure_count: Some(u64::MAX),
        ..Default::default()
    };
    cases.push(("any failures".into(), policy(rule), "Ok +1".into()));
    let peer = target.peer().await;
    let mut wrong = wrong_answers(&peer, cases).await;
    for kind in [99, -1, i32::MIN, i32::MAX] {
        let found = became(
            &mut target,
            Record {
                kind,
                ..record("{}")
            },
        )
        .await;
        if found != "INVALID UNKNOWN_ENUM_VALUE records[0].kind" {
            wrong.push(format!("kind {kind}: {found}"));
        }
    }
    assert_eq!(wrong, NONE);
    target.ends_well().await;
}
