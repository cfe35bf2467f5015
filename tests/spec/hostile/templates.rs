//! Small requests that would make much: refused before it is made, in bounded time and memory.

use std::time::{Duration, Instant};

use fanout::proto::plan_request::Source;
use fanout::proto::{
    DeletePlanRequest, FindingPackets, ListTasksRequest, PlanRequest, ReconcileDocuments,
    ReconcileRequest,
};

use super::Target;
use super::fields::call;
use super::wire::Call;
use crate::harness::plan_request;

/// Bytes of task requests that the plans of these tests may have: little, so that doing work up to the
/// limit is quick without optimisation, too.
const LIMIT: &str = "4194304";
/// Much longer than what is refused takes, much shorter than what was asked for.
const TIME: Duration = Duration::from_secs(20);
/// The most memory for a moment: the request, its documents as trees, and what fits the limit above.
const MEMORY_BYTES: u64 = 256 << 20;

fn items(items: &str) -> Option<Source> {
    Some(Source::Items(items.to_owned().into()))
}

fn plan(config: String, source: Option<Source>) -> Call {
    let request = PlanRequest {
        plan_id: "sound".into(),
        config: config.into(),
        source,
        validate_only: true,
        ..Default::default()
    };
    call("Plan", &request)
}

/// `part` so many times, with commas between.
fn many(part: &str, times: usize) -> String {
    let mut text = format!("{part},").repeat(times);
    text.pop();
    text
}

/// So many items, each a group of its own.
fn groups(count: usize) -> Option<Source> {
    let entries: Vec<String> = (0..count).map(|n| format!("{{\"id\":{n}}}")).collect();
    items(&format!("[{}]", entries.join(",")))
}

fn packets(packets: String, policy: String) -> Option<Source> {
    Some(Source::FindingPackets(FindingPackets {
        packets: packets.into(),
        policy: policy.into(),
    }))
}

#[tokio::test]
async fn a_small_request_for_much_is_refused_before_it_is_made() {
    let mut target = Target::start(&["--task-request-bytes-max", LIMIT]).await;
    let over_text = "InvalidArgument LIMIT_EXCEEDED config.task_request_template <= 4194304";
    let over_requests = "InvalidArgument LIMIT_EXCEEDED plan.task_requests <= 4194304";
    let over_packets = "InvalidArgument LIMIT_EXCEEDED packets <= 4194304";
    let template = |template: &str| format!("{{\"task_request_template\":{template}}}");
    let ones = format!("[{}]", many("1", 20_000));
    let long = "x".repeat(1 << 20);
    let names: Vec<String> = (0..20_000)
        .map(|n| format!("\"k{n}\":\"{{{{group.index}}}}\""))
        .collect();
    let none: Vec<String> = (0..40_000)
        .map(|n| format!("\"k{n}\":\"{{{{none}}}}\""))
        .collect();
    let constants: Vec<String> = (0..20_000).map(|n| format!("\"k{n}\":1")).collect();
    let cases = [
        (
            "a list of ids, 20,000 times",
            plan(
                template(&format!(
                    r#"{{"a":[{}]}}"#,
                    many(r#""{{group.item_ids}}""#, 20_000)
                )),
                items(&ones),
            ),
            over_requests,
        ),
        (
            "a list of ids in text, 20,000 times",
            plan(
                template(&format!(
                    r#"{{"a":"{}"}}"#,
                    many("{{group.finding_ids}}", 20_000)
                )),
                items(&ones),
            ),
            over_text,
        ),
        (
            "an empty list made of 20,000 items, 20,000 times",
            plan(
                template(&format!(
                    r#"{{"a":"{}"}}"#,
                    many("{{group.packet_ids}}", 20_000)
                )),
                items(&ones),
            ),
            "Ok +1",
        ),
        (
            "all items, 40,000 times",
            plan(
                template(&format!(
                    r#"{{"a":[{}]}}"#,
                    many(r#""{{group.items}}""#, 40_000)
                )),
                items(&ones),
            ),
            over_requests,
        ),
        (
            "the group, 40,000 times in each of 2,000 groups",
            plan(
                template(&format!(r#"{{"a":[{}]}}"#, many(r#""{{group}}""#, 40_000))),
                groups(2_000),
            ),
            over_text,
        ),
        (
            "a list of 100,000 in each of 2,000 groups",
            plan(
                template(&format!(r#"{{"a":["{{{{x}}}}",{}]}}"#, many("1", 100_000))),
                groups(2_000),
            ),
            over_text,
        ),
        (
            "20,000 members in each of 2,000 groups",
            plan(template(&format!("{{{}}}", names.join(","))), groups(2_000)),
            over_text,
        ),
        (
            "40,000 expressions that find nothing in each of 2,000 groups",
            plan(template(&format!("{{{}}}", none.join(","))), groups(2_000)),
            over_text,
        ),
        (
            "the config, 1,000 times",
            plan(
                format!(
                    r#"{{"big":"{long}","task_request_template":{{"a":[{}]}}}}"#,
                    many(r#""{{config}}""#, 1_000)
                ),
                items("[1]"),
            ),
            over_requests,
        ),
        (
            "a run id of 1 MiB in 2,000 ids",
            plan(
                format!(r#"{{"orchestrator":{{"run_id":"{long}"}}}}"#),
                groups(2_000),
            ),
            over_text,
        ),
        (
            "a run id that comes to nothing, in 2,000 ids",
            plan(
                format!(
                    r##"{{"orchestrator":{{"run_id":"{}"}}}}"##,
                    "#".repeat(1 << 20)
                ),
                groups(2_000),
            ),
            over_requests,
        ),
        (
            "an orchestrator of 20,000 members in 2,000 groups",
            plan(
                format!(r#"{{"orchestrator":{{{}}}}}"#, constants.join(",")),
                groups(2_000),
            ),
            over_text,
        ),
        (
            "an execution descriptor of 20,000 members in 2,000 groups",
            plan(
                format!(
                    r#"{{"runtime":{{"a":"{{{{x}}}}",{}}}}}"#,
                    constants.join(",")
                ),
                groups(2_000),
            ),
            over_text,
        ),
        (
            "a packet's id of 1 MiB for each of 20,000 findings",
            plan(
                String::new(),
                packets(
                    format!(r#"[{{"id":"{long}","findings":{ones}}}]"#),
                    String::new(),
                ),
            ),
            over_packets,
        ),
        (
            "a finding's text of 1 MiB, 20,000 times in its group's key",
            plan(
                String::new(),
                packets(
                    format!(r#"[{{"findings":[{{"a":"{long}"}}]}}]"#),
                    format!(r#"{{"group_by":[{}]}}"#, many(r#""finding.a""#, 20_000)),
                ),
            ),
            over_packets,
        ),
        (
            "20,000 paths that find nothing, for each of 20,000 findings",
            plan(
                String::new(),
                packets(
                    format!(r#"[{{"findings":{ones}}}]"#),
                    format!(r#"{{"group_by":[{}]}}"#, many(r#""finding.a""#, 20_000)),
                ),
            ),
            over_packets,
        ),
        (
            "a group key's template of 1 MiB for each of 20,000 findings",
            plan(
                String::new(),
                packets(
                    format!(r#"[{{"findings":{ones}}}]"#),
                    format!(r#"{{"group_key_template":"{{{{finding.value}}}}{long}"}}"#),
                ),
            ),
            over_packets,
        ),
        (
            "the same for documents that come with the call",
            call(
                "Reconcile",
                &ReconcileRequest {
                    documents: Some(ReconcileDocuments {
                        config: template(&format!(
                            r#"{{"a":["{{{{x}}}}",{}]}}"#,
                            many("1", 100_000)
                        ))
                        .into(),
                        items: format!(
                            "[{}]",
                            (0..2_000)
                                .map(|n| format!("{{\"id\":{n}}}"))
                                .collect::<Vec<_>>()
                                .join(",")
                        )
                        .into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            ),
            over_text,
        ),
    ];
    let peer = target.peer().await;
    let mut wrong = Vec::new();
    for (what, call, expected) in cases {
        let began = Instant::now();
        let said = peer.call(call).await.said();
        let time = began.elapsed();
        if said != expected || time > TIME {
            wrong.push(format!(
                "{what}: expected {expected}, found {said} after {time:?}"
            ));
        }
        target.is_well(what).await;
    }
    assert_eq!(wrong, Vec::<String>::new());
    let peak = target.served.program.resident_peak_bytes();
    assert!(peak < MEMORY_BYTES, "{} MiB were held", peak >> 20);
    target.ends_well().await;
}

#[tokio::test]
async fn braces_that_are_no_expression_stay_and_unknown_names_leave_their_member_out() {
    let mut target = Target::start(&[]).await;
    let cases = [
        (r#"{"id":"{{"}"#, r#"{"id":"{{""#),
        (r#"{"id":"{{group.key"}"#, r#"{"id":"{{group.key""#),
        (r#"{"id":"}}{{"}"#, r#"{"id":"}}{{""#),
        (r#"{"id":"{{}}"}"#, r#"{"id":"{{}}""#),
        (r#"{"id":"{{group.key}"}"#, r#"{"id":"{{group.key}""#),
        // Without an id of its own, one of its group's key.
        (r#"{"id":"{{unknown}}"}"#, r#"{"id":"fanout--group.key-""#),
        (
            r#"{"id":"{{group.unknown.deeper}}"}"#,
            r#"{"id":"fanout--group.key-""#,
        ),
        // What is inserted is not looked into again.
        (r#"{"id":"{{group.key}}!"}"#, r#"{"id":"{{group.key}}!""#),
    ];
    for (template, beginning) in cases {
        let request = PlanRequest {
            config: format!(r#"{{"task_request_template":{template}}}"#).into(),
            source: Some(Source::Groups(r#"[{"key":"{{group.key}}"}]"#.into())),
            validate_only: true,
            ..Default::default()
        };
        let planned = target.client.plan(request).await.unwrap().into_inner();
        let document = String::from_utf8(planned.task_requests[0].document.to_vec()).unwrap();
        assert!(document.starts_with(beginning), "{template}: {document}");
    }
    target.ends_well().await;
}

#[tokio::test]
async fn documents_as_deep_as_any_server_allows_do_not_end_it() {
    let mut target = Target::start(&["--json-depth-max", "1024"]).await;
    // A template as deep as allowed that holds the config at its bottom, which holds that template.
    let nested = |inner: &str, depth: usize| "[".repeat(depth) + inner + &"]".repeat(depth);
    let template = nested(r#""{{config}}""#, 1_021);
    let request = PlanRequest {
        plan_id: "deep".into(),
        config: format!(r#"{{"task_request_template":{{"id":"a","deep":{template}}}}}"#).into(),
        source: Some(Source::Groups(r#"[{"key":"a"}]"#.into())),
        ..Default::default()
    };
    let planned = target
        .client
        .plan(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(planned.created);
    let again = target
        .client
        .plan(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(!again.created);
    let documents = ReconcileDocuments {
        config: request.config,
        groups: r#"[{"key":"a"}]"#.into(),
        records: format!(r#"[{{"id":"a","outcome":{}}}]"#, nested("1", 1_022)).into(),
        ..Default::default()
    };
    let request = ReconcileRequest {
        documents: Some(documents),
        ..Default::default()
    };
    let result = target.client.reconcile(request).await.unwrap().into_inner();
    assert!(result.document.len() > 2_000);
    let mut deep = crate::harness::record(&format!(
        r#"{{"status":"failed","outcome":{}}}"#,
        nested("1", 1_023)
    ));
    deep.id = "a".into();
    // Twice, so that both are compared, and repeated keys, so that the tree is built.
    let mut other = crate::harness::record(&format!(
        r#"{{"status":1,"status":"failed","outcome":{}}}"#,
        nested("2", 1_023)
    ));
    other.id = "a".into();
    let request = fanout::proto::SubmitRecordsRequest {
        plan_id: "deep".into(),
        records: vec![deep.clone(), deep, other],
        ..Default::default()
    };
    let receipts = target
        .client
        .submit_records(request)
        .await
        .unwrap()
        .into_inner()
        .receipts;
    assert_eq!(receipts.len(), 3);
    let request = ReconcileRequest {
        plan_id: "deep".into(),
        ..Default::default()
    };
    let result = target.client.reconcile(request).await.unwrap().into_inner();
    assert!(result.document.len() > 2_000);
    target.ends_well().await;
}

#[tokio::test]
async fn a_filter_that_repeats_itself_is_as_quick_as_one_that_does_not() {
    let mut target = Target::start(&[]).await;
    let keys: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    target
        .client
        .plan(plan_request("large", &keys))
        .await
        .unwrap();
    let request = ListTasksRequest {
        plan_id: "large".into(),
        // Recorded, which none of them is.
        states: vec![3; 4_000_000],
        ..Default::default()
    };
    let began = Instant::now();
    let said = target
        .peer()
        .await
        .call(call("ListTasks", &request))
        .await
        .said();
    assert_eq!(said, "Ok +1");
    assert!(began.elapsed() < TIME, "{:?}", began.elapsed());
    let delete = DeletePlanRequest {
        plan_id: "large".into(),
        ..Default::default()
    };
    target.client.delete_plan(delete).await.unwrap();
    target.ends_well().await;
}

#[tokio::test]
async fn deleted_plans_leave_no_memory_behind_although_their_deletion_can_be_repeated() {
    let mut target = Target::start(&[]).await;
    let large = format!(r#"[{{"key":"a","items":["{}"]}}]"#, "x".repeat(6 << 20));
    target.client = target.client.max_decoding_message_size(16 << 20);
    for n in 0..20 {
        let request = PlanRequest {
            plan_id: "large".into(),
            config: r#"{"task_request_template":{"id":"a","items":"{{group.items}}"}}"#.into(),
            source: Some(Source::Groups(large.clone().into())),
            ..Default::default()
        };
        target.client.plan(request).await.unwrap();
        let delete = DeletePlanRequest {
            plan_id: "large".into(),
            request_id: format!("delete {n}"),
        };
        let deleted = target
            .client
            .delete_plan(delete.clone())
            .await
            .unwrap()
            .into_inner();
        let again = target
            .client
            .delete_plan(delete)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(again, deleted);
    }
    target.ends_well().await;
}
