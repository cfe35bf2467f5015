//! Whatever is planned, no item is lost or doubled; whatever comes, nothing panics.

use std::collections::BTreeMap;

use fanout::json::{self, Limits, Object, Value, scan};
use fanout::plan::{self, FindingsInput, Input};
use fanout::reconcile;
use proptest::prelude::*;
use proptest::sample::select;

use crate::arbitrary::{cases, text, value};
use crate::harness::parse;

fn planned(
    config: &Object,
    items: Option<Value>,
    limits: &plan::Limits,
) -> Result<Value, plan::Error> {
    let input = Input {
        config: config.clone(),
        items,
        groups: None,
    };
    plan::plan(input, limits).map(|plan| plan.document())
}

fn object(text: &str) -> Object {
    parse(text).as_object().unwrap().clone()
}

/// The error of planning this, as it prints.
fn refused(config: &str, limits: &plan::Limits) -> String {
    let error = planned(&object(config), None, limits).unwrap_err();
    error.to_string()
}

/// The only task request of a plan of one item, with this template, as it prints.
fn request(template: &str, runtime_execution: &str) -> String {
    let config = format!(
        r#"{{"items":[{{"kind":"k"}}],"orchestrator":{{"run_id":"r"}},
            "task_request_template":{template},"runtime_execution":{runtime_execution}}}"#
    );
    let plan = planned(&object(&config), None, &plan::Limits::default()).unwrap();
    json::compact(&plan.lookup("task_requests.0").unwrap())
}

#[test]
fn what_a_template_finds_keeps_its_place_and_what_it_does_not_find_comes_last() {
    let found = r#"{"runtime_execution":1,"orchestrator":{"by":"me"},"task_id":"t"}"#;
    assert_eq!(
        request(found, r#""{{group.key}}""#),
        r#"{"id":"t","group_key":"k","runtime_execution":"k","orchestrator":{"run_id":"r","group_index":0,"by":"me"},"task_id":"t"}"#
    );
    let not_found = r#"{"runtime_execution":"{{no}}","orchestrator":"{{no}}","x":"{{no}}","y":2}"#;
    assert_eq!(
        request(not_found, r#""run""#),
        r#"{"id":"r-k","group_key":"k","y":2,"orchestrator":{"run_id":"r","group_index":0},"runtime_execution":"run"}"#
    );
    let one_found = r#"{"orchestrator":"{{no}}","runtime_execution":1,"y":2}"#;
    assert_eq!(
        request(one_found, r#""run""#),
        r#"{"id":"r-k","group_key":"k","runtime_execution":"run","y":2,"orchestrator":{"run_id":"r","group_index":0}}"#
    );
    let only_orchestrator = r#"{"orchestrator":"{{no}}","y":2}"#;
    assert_eq!(
        request(only_orchestrator, r#""run""#),
        r#"{"id":"r-k","group_key":"k","y":2,"orchestrator":{"run_id":"r","group_index":0},"runtime_execution":"run"}"#
    );
    let not_in_the_end = r#"{"runtime_execution":1,"y":2}"#;
    assert_eq!(
        request(not_in_the_end, r#""{{no}}""#),
        r#"{"id":"r-k","group_key":"k","y":2,"orchestrator":{"run_id":"r","group_index":0}}"#
    );
}

#[test]
fn one_past_each_limit_of_planning_is_refused_with_the_field() {
    let two = plan::Limits {
        items: 2,
        tasks: 2,
        template_text_bytes: 8,
    };
    let three_items = r#"{"items":[1,2,3]}"#;
    assert_eq!(refused(three_items, &two), "items: more than 2 items");
    let three_groups = r#"{"groups":[{"key":"a"},{"key":"b"},{"key":"c"}]}"#;
    assert_eq!(refused(three_groups, &two), "groups: more than 2 groups");
    let three_in_groups = r#"{"groups":[{"key":"a","items":[1,2,3]}]}"#;
    assert_eq!(
        refused(three_in_groups, &two),
        "groups: more than 2 items in all groups"
    );
    let amplified =
        r#"{"items":["a long text"],"task_request_template":{"id":"x {{group.items}}"}}"#;
    assert_eq!(
        refused(amplified, &two),
        "config.task_request_template: more than 8 bytes of text from templates"
    );
    let limit = planned(&object(three_items), None, &two).unwrap_err().limit;
    assert_eq!(limit, Some(2));
}

#[test]
fn what_the_existing_tool_guesses_is_an_error_that_names_the_field() {
    let limits = plan::Limits::default();
    let items = r#""items":[{"group_key":"a"},{"group_key":"b"}]"#;
    for (config, expected) in [
        (
            r#""group_key_path":{}"#,
            "config.group_key_path: expected one path, found an object",
        ),
        (
            r#""group_key_path":["a","b"]"#,
            "config.group_key_path: expected one path, found a list",
        ),
        (
            r#""task_request_template":"{{config.nothing}}""#,
            "config.task_request_template: must render to an object; for group 0 it renders to nothing",
        ),
        (
            r#""task_request_template":[1]"#,
            "config.task_request_template: must render to an object; for group 0 it renders to a list",
        ),
    ] {
        assert_eq!(refused(&format!("{{{items},{config}}}"), &limits), expected);
    }
}

#[test]
fn task_requests_with_one_identity_are_refused_where_they_are_to_be_told_apart() {
    let config = object(
        r#"{"items":[{"group_key":"a"},{"group_key":"b"}],"task_request_template":{"id":"same"}}"#,
    );
    let input = Input {
        config,
        items: None,
        groups: None,
    };
    let plan = plan::plan(input, &plan::Limits::default()).unwrap();
    let error = plan.identities().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"plan.task_requests[1]: has the same identity as task_requests[0]: "same""#
    );
}

/// The ids of the records that a document's tasks got.
fn reconciled(rules: &str, records: &str) -> String {
    let config = format!(
        r#"{{{rules}"groups":[{{"key":"a"}},{{"key":"b"}}],"task_request_template":{{"id":"t-{{{{group.key}}}}"}}}}"#
    );
    let config = object(&config);
    let plan = planned(&config, None, &plan::Limits::default()).unwrap();
    let result = reconcile::reconcile(&config, &plan, parse(records).into_list()).unwrap();
    json::compact(result.get("records").unwrap())
}

#[test]
fn a_document_can_keep_the_first_record_of_a_task() {
    let records = r#"[{"id":"t-a","n":1},{"id":"t-a","n":2},{"group_key":"b","n":3},{"group_key":"b","n":4}]"#;
    let last =
        r#"[{"id":"t-a","n":2,"status":"failed"},{"group_key":"b","n":4,"status":"failed"}]"#;
    let first =
        r#"[{"id":"t-a","n":1,"status":"failed"},{"group_key":"b","n":3,"status":"failed"}]"#;
    assert_eq!(reconciled("", records), last);
    assert_eq!(reconciled(r#""duplicate_policy":"last","#, records), last);
    assert_eq!(reconciled(r#""duplicate_policy":"first","#, records), first);
}

#[test]
fn strict_matching_takes_no_record_whose_keys_name_different_tasks() {
    let records = r#"[{"id":"t-a","group_key":"b","n":1},{"id":"t-b","group_key":"b","n":2}]"#;
    let missing = r#"{"id":"t-a","group_key":"a","status":"missing_record"}"#;
    let strict = reconciled(r#""matching":"strict","#, records);
    assert_eq!(
        strict,
        format!(r#"[{missing},{{"id":"t-b","group_key":"b","n":2,"status":"failed"}}]"#)
    );
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn every_item_is_in_exactly_one_group_and_in_order(
        keys in prop::collection::vec(select(&[
            r#""k":"a""#, r#""k":" a ""#, r#""k":"b""#, r#""k":1"#, r#""k":1.0"#, r#""k":"""#, r#""k":null"#,
            r#""k":{"a":1}"#, r#""kind":"a""#, r#""groupKey":"c""#, r#""id":"d""#, r#""other":0"#, r#""index":"x""#,
        ][..]), 0..60),
    ) {
        let items: Vec<_> = keys.iter().enumerate().map(|(at, key)| format!(r#"{{"tag":{at},{key}}}"#)).collect();
        let items = parse(&format!("[{}]", items.join(",")));
        let config = object(r#"{"group_key_path":"k","task_request_template":{"items":"{{group.items}}"}}"#);
        let plan = planned(&config, Some(items), &plan::Limits::default()).unwrap();
        let list = |name: &str| plan.get(name).and_then(Value::as_array).unwrap().to_vec();
        let (groups, requests) = (list("groups"), list("task_requests"));
        prop_assert_eq!(groups.len(), requests.len());
        let mut seen = BTreeMap::new();
        let mut first_tags = Vec::new();
        for (position, (group, request)) in groups.iter().zip(&requests).enumerate() {
            let items = request.get("items").and_then(Value::as_array).unwrap();
            prop_assert_eq!(group.get("item_count"), Some(&items.len().into()));
            prop_assert_eq!(group.get("index"), Some(&position.into()));
            let number = |item: &Value, field: &str| item.get(field).unwrap().text().parse::<usize>().unwrap();
            let tags: Vec<_> = items.iter().map(|item| number(item, "tag")).collect();
            prop_assert!(tags.is_sorted(), "items keep their order");
            prop_assert!(items.iter().all(|item| number(item, "index") == number(item, "tag")));
            first_tags.push(tags[0]);
            for tag in tags {
                prop_assert_eq!(seen.insert(tag, position), None, "item {} is in two groups", tag);
            }
        }
        prop_assert!(first_tags.is_sorted(), "groups come in order of their first item");
        prop_assert_eq!(seen.len(), keys.len());
        let keys: Vec<_> = groups.iter().map(|group| group.get("key").unwrap().text().into_owned()).collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        prop_assert_eq!(distinct.len(), keys.len(), "no two groups have the same key");
    }

    #[test]
    fn no_document_panics(config in value(), items in value(), records in value(), packets in value(), policy in value()) {
        let limits = plan::Limits { items: 1_000, tasks: 1_000, template_text_bytes: 1 << 20 };
        let input = Input::from_document(&config);
        let settings = input.config.clone();
        if let Ok(plan) = plan::plan(input, &limits) {
            let document = plan.document();
            let _ = reconcile::reconcile(&settings, &document, records.clone().into_list());
        }
        let _ = planned(&settings, Some(items), &limits);
        let _ = reconcile::reconcile(&settings, &config, records.clone().into_list());
        let findings = FindingsInput::new(Some(packets), Some(policy), settings);
        let _ = plan::plan_findings(&findings, &limits);
        let _ = plan::materialize_config(&findings, &limits).map(|materialized| materialized.document());
        let _ = plan::reconcile_input(&findings, None, &records.into_list(), &limits);
    }

    #[test]
    fn no_bytes_panic_and_what_is_read_prints_to_what_reads_the_same(
        text in text(),
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let value = parse(&text);
        for printed in [json::compact(&value), json::pretty(&value)] {
            prop_assert_eq!(&parse(&printed), &value);
        }
        let mut bytes = text.into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let limits = Limits { depth: 8, ..Limits::default() };
        for bytes in [&bytes[..], &bytes[..at]] {
            let read = json::parse(bytes, limits);
            let _ = json::parse_lines(bytes, limits);
            let scanned = scan::members(bytes, limits, |_| {});
            if matches!(read, Ok(Value::Object(_))) {
                prop_assert!(scanned.is_ok());
            } else {
                prop_assert!(scanned.is_err());
            }
        }
    }
}
