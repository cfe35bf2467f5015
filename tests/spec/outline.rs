//! A plan whose task requests are made one by one says what the whole plan says.

use std::fmt::Write as _;

use fanout::json::{self, Object, PrettyObject, Value, pretty_elements};
use fanout::plan::{self, Input, Limits, Outline};
use proptest::prelude::*;
use proptest::sample::select;

use crate::arbitrary::cases;
use crate::harness::{directory, parse, said, says};

fn input(config: &str) -> Input {
    Input {
        config: parse(config).as_object().unwrap().clone(),
        items: None,
        groups: None,
    }
}

/// The document, put together from parts of so many groups.
fn in_parts(outline: &Outline, size: usize) -> String {
    let count = outline.group_count();
    let parts = || {
        (0..count)
            .step_by(size)
            .map(|from| from..count.min(from + size))
    };
    let mut document = PrettyObject::default();
    let mut text = String::new();
    for (key, value) in outline.head().iter() {
        document.member(key, value);
    }
    document.begin_list("groups");
    text.push_str(&document.take());
    for part in parts() {
        let entries = outline
            .group_entries(part.clone())
            .map(Ok::<_, plan::Error>);
        // Taken piece by piece here, and not at all below.
        let mut piece = String::new();
        pretty_elements(&mut piece, part.start, entries, |piece| {
            text.push_str(&std::mem::take(piece));
            Ok(())
        })
        .unwrap();
        text.push_str(&piece);
    }
    document.end_list(count);
    document.begin_list("task_requests");
    text.push_str(&document.take());
    for part in parts() {
        let requests = outline.task_requests(part.clone());
        pretty_elements(&mut text, part.start, requests, |_| Ok(())).unwrap();
    }
    document.end_list(count);
    document.member("reconciliation", &outline.reconciliation());
    document.end();
    text.push_str(&document.take());
    text
}

#[test]
fn an_object_without_members_and_lists_without_elements_print_as_in_one_piece() {
    let mut document = PrettyObject::default();
    document.end();
    assert_eq!(document.take(), json::pretty(&Object::default().into()));
    let mut document = PrettyObject::default();
    document.begin_list("none");
    document.end_list(0);
    document.member("no", &parse("{}"));
    document.end();
    assert_eq!(document.take(), "{\n  \"none\": [],\n  \"no\": {}\n}\n");
}

#[test]
fn a_template_that_fails_for_the_last_of_many_groups_leaves_nothing_on_standard_output() {
    let mut items = String::new();
    for n in 0..2_000 {
        writeln!(items, r#"{{"k":"g-{n}","task":{{}}}}"#).unwrap();
    }
    let good = items.clone();
    writeln!(items, r#"{{"k":"last"}}"#).unwrap();
    let config = r#"{"group_key_path":"k","task_request_template":"{{group.items.0.task}}"}"#;
    let directory = directory(&[("c.json", config), ("good", &good), ("bad", &items)]);
    let plan = |items| {
        let arguments = ["plan", "--config", "c.json", "--items", items];
        said(directory.path(), &arguments)
    };
    assert_eq!(plan("good").code, 0);
    assert_eq!(
        plan("bad"),
        says(
            1,
            "",
            "error: config.task_request_template: must render to an object; \
             for group 2000 it renders to nothing\n"
        )
    );
}

#[test]
fn the_program_writes_what_the_whole_plan_prints_however_the_items_are_grouped() {
    for groups in [1, 2, 7, 700, 5_000] {
        let items: Vec<_> = (0..5_000)
            .map(|n| {
                format!(
                    r#"{{"id":"item-{n}","k":"group-{}","text":"a text of some length {n}"}}"#,
                    n % groups
                )
            })
            .collect();
        let items = format!("[{}]", items.join(","));
        let config = r#"{"group_key_path":"k","task_request_template":{"items":"{{group.items}}",
            "say":"{{group.key}} {{group.item_ids}}","gone":"{{group.items.0.gone}}"}}"#;
        let directory = directory(&[("c.json", config), ("i.json", &items)]);
        let plan = Input {
            items: Some(parse(&items)),
            ..input(config)
        };
        let expected = json::pretty(&plan::plan(plan, &Limits::default()).unwrap().document());
        let arguments = ["plan", "--config", "c.json", "--items", "i.json"];
        assert!(
            said(directory.path(), &arguments) == says(0, &expected, ""),
            "{groups} groups"
        );
    }
}

/// Parts of templates, with what they may cost.
fn template() -> impl Strategy<Value = String> {
    let leaf = select(
        &[
            r#""constant""#,
            r#""{{group.key}}""#,
            r#""{{group.index}}: {{group.key}}, {{group.item_count}} of {{group.key}}""#,
            r#""{{group.items}}""#,
            r#""all: {{group.items}}""#,
            r#""{{group.items.0.id}}""#,
            r#""{{nothing}}""#,
            r#""{{orchestrator.id}}""#,
            "{}",
        ][..],
    )
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = select(
            &[
                "id",
                "task_id",
                "group_key",
                "orchestrator",
                "runtime_execution",
                "a",
                "b",
            ][..],
        );
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec((key, inner), 0..5).prop_map(|all| {
                let all: Vec<_> = all
                    .iter()
                    .map(|(key, value)| format!(r#""{key}":{value}"#))
                    .collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn what_can_be_planned_whole_can_be_planned_in_parts_with_the_same_document(
        members in prop::collection::vec((select(&["id", "group_key", "a", "b", "orchestrator", "runtime_execution"][..]), template()), 0..5),
        runtime in prop::option::of(template()),
        keys in prop::collection::vec("[a-c é]{0,3}", 0..12),
        size in 1..5_usize,
        limit in prop_oneof![0..400_usize, Just(1 << 20)],
    ) {
        let members: Vec<_> = members.iter().map(|(key, value)| format!(r#""{key}":{value}"#)).collect();
        let items: Vec<_> = keys.iter().map(|key| format!(r#"{{"id":"i","k":"{key}"}}"#)).collect();
        let config = format!(
            r#"{{"group_key_path":"k","orchestrator":{{"id":"o"}},"task_request_template":{{{}}},"runtime":{},"items":[{}]}}"#,
            members.join(","), runtime.unwrap_or("null".into()), items.join(","),
        );
        let limits = Limits { template_text_bytes: limit, ..Limits::default() };
        match (plan::plan(input(&config), &limits), plan::outline(input(&config), &limits)) {
            (Ok(plan), Ok(outline)) => {
                prop_assert_eq!(json::pretty(&plan.document()), in_parts(&outline, size));
                let whole: Vec<Value> = plan.task_requests().to_vec();
                let last = outline.group_count().saturating_sub(1)..outline.group_count();
                let one = outline.task_requests(last.clone()).next().transpose().unwrap();
                prop_assert_eq!(one.as_ref(), whole.last());
            }
            (Err(whole), Err(parts)) => prop_assert_eq!(whole, parts),
            (whole, parts) => prop_assert!(false, "{:?} but {:?}", whole.map(drop), parts.map(drop)),
        }
    }
}
