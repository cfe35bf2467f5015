//! Arbitrary documents for property tests: JSON that looks like ours often enough to reach every rule.

use fanout::json::{self, Value};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::Config;

/// Settings of every property test here.
pub fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Member names that mean something somewhere, and some that do not.
const NAMES: [&str; 44] = [
    "id",
    "task_id",
    "sandbox_session_id",
    "group_key",
    "groupKey",
    "status",
    "state",
    "success",
    "outcome",
    "outcome_status",
    "provider_status",
    "items",
    "groups",
    "key",
    "kind",
    "index",
    "config",
    "plan",
    "records",
    "task_requests",
    "task_request_template",
    "group_key_path",
    "orchestrator",
    "run_id",
    "plan_id",
    "summary",
    "schema",
    "success_statuses",
    "outcome_path",
    "base_run",
    "include_summary",
    "runtime",
    "packets",
    "findings",
    "finding_policy",
    "packet_id",
    "finding_id",
    "group_key_template",
    "severity",
    "path",
    "message",
    "a",
    "",
    "ключ",
];

/// Strings that mean something somewhere, and some that do not.
const STRINGS: [&str; 30] = [
    "",
    " ",
    "a",
    "b",
    "task-a",
    "completed",
    "failed",
    "missing_record",
    "succeeded",
    "no_op",
    "accepted",
    "running",
    "outcome",
    "outcome.status",
    "group_key",
    "a.b",
    "0",
    "length",
    "{{group.key}}",
    "{{ group.items }}",
    "{{group.item_ids}}",
    "x {{group.item_count}} y {{config.a}}",
    "{{orchestrator.run_id}}",
    "{{}}",
    "{{{a}}}",
    "\u{feff}a\u{a0}",
    "\u{85}",
    "日本",
    "e\u{301}",
    "\u{202e}\u{0}",
];

/// The JSON text of a number, in any spelling.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (0..4_i64).prop_map(|n| n.to_string()),
        any::<u128>().prop_map(|n| n.to_string()),
        select(
            &[
                "0.0",
                "-0",
                "-0.0",
                "1.0",
                "1e2",
                "2.50",
                "1E-7",
                "1e21",
                "123456789.125"
            ][..]
        )
        .prop_map(str::to_owned),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(&STRINGS[..]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
    .prop_map(|text| json::compact(&text.as_str().into()))
}

/// The JSON text of any value; objects may repeat a key.
pub fn text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => select(&["null", "true", "false"][..]).prop_map(str::to_owned),
        2 => number(),
        5 => string(),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            2 => object_of(inner.clone()),
            1 => prop::collection::vec(inner, 0..5).prop_map(|values| format!("[{}]", values.join(" , "))),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = String> {
    let name = select(&NAMES[..]).prop_map(|name| json::compact(&name.into()));
    prop::collection::vec((name, value), 0..7).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("{name} : {value}"))
            .collect();
        format!("{{ {} }}", members.join(","))
    })
}

/// The JSON text of any object.
pub fn object_text() -> impl Strategy<Value = String> {
    object_of(text().boxed())
}

/// Any value.
pub fn value() -> impl Strategy<Value = Value> {
    text().prop_map(|text| super::harness::parse(&text))
}
