//! What a live plan keeps of its tasks, packed: their ids, group keys and requests are those of the plan.

use std::sync::Arc;

use fanout::engine::{Spec, State, Terms};
use fanout::json::{self, Value};
use fanout::plan::{self, Input, Plan, canonical_id};
use fanout::reconcile::{MatchedBy, Named};
use proptest::prelude::*;

use crate::harness::parse;

/// A task for each group key, which is a JSON document.
fn planned(group_keys: &[String]) -> (Spec, Plan) {
    let groups: Vec<String> = (0..)
        .zip(group_keys)
        .map(|(n, key)| {
            let n: u32 = n;
            format!(r#"{{"key":"g{n}","items":[{{"g":{key}}}]}}"#)
        })
        .collect();
    let config = format!(
        r#"{{"groups":[{}],"task_request_template":{{"id":"t-{{{{group.index}}}}","group_key":"{{{{group.items.0.g}}}}"}}}}"#,
        groups.join(",")
    );
    let config = parse(&config);
    let config = config.as_object().unwrap();
    let input = Input {
        config: config.clone(),
        ..Input::default()
    };
    let plan = plan::plan(input, &plan::Limits::default()).unwrap();
    let spec = Spec::new(Terms::default(), config, &plan, usize::MAX).unwrap();
    (spec, plan)
}

/// The task of a record that has only a group key.
fn by_group_key(spec: Arc<Spec>, group_key: &str) -> Option<u32> {
    let keys = plan::Keys {
        group_key,
        ..plan::Keys::default()
    };
    let state = State::created(Arc::clone(&spec));
    match spec
        .index
        .resolve(spec.index.identify(&keys), &keys, &state)
    {
        Named::Matched {
            task,
            by: MatchedBy::GroupKey,
            ..
        } => Some(task),
        _ => None,
    }
}

#[test]
fn a_group_key_stays_what_the_task_request_has_and_is_found_by_its_text() {
    let given = [
        r#""a""#, "7", "0", r#"" x ""#, "1.50", r#""ä""#, "false", r#""""#,
    ];
    let (spec, _) = planned(&given.map(str::to_owned));
    let kept: Vec<String> = (0..8)
        .map(|task| json::compact(&spec.group_key(task)))
        .collect();
    // Zero does not count as given; what has no text gives way to the group's own key.
    assert_eq!(
        kept,
        [
            r#""a""#, "7", r#""""#, r#"" x ""#, "1.5", r#""ä""#, r#""g6""#, r#""g7""#
        ]
    );
    let texts: Vec<_> = (0..8).map(|task| spec.group_key_text(task)).collect();
    assert_eq!(texts, ["a", "7", "", "x", "1.5", "ä", "g6", "g7"]);
    let spec = Arc::new(spec);
    let found = ["a", "7", "0", "x", " x", "1.5", "ä", "g6", "g7", "g0", ""];
    let found = found.map(|key| by_group_key(Arc::clone(&spec), key));
    assert_eq!(
        found,
        [
            Some(0),
            Some(1),
            Some(2),
            Some(3),
            Some(3),
            Some(4),
            Some(5),
            Some(6),
            Some(7),
            None,
            None
        ]
    );
}

#[test]
fn tasks_past_the_last_are_not_counted() {
    let (spec, _) = planned(&["1".to_owned(), "2".to_owned()]);
    assert_eq!(spec.tasks.numbers(0..5), 0..2);
    assert_eq!(spec.tasks.numbers(1..2), 1..2);
    assert_eq!(spec.tasks.numbers(7..9), 2..2);
}

#[test]
fn two_tasks_with_one_identity_are_refused_with_both_named() {
    let config = parse(
        r#"{"groups":[{"key":"a","items":[1]},{"key":"b","items":[2]},{"key":"c","items":[3]}],
            "task_request_template":{"id":"same"}}"#,
    );
    let config = config.as_object().unwrap();
    let input = Input {
        config: config.clone(),
        ..Input::default()
    };
    let plan = plan::plan(input, &plan::Limits::default()).unwrap();
    let error = Spec::new(Terms::default(), config, &plan, usize::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"plan.task_requests[1]: has the same identity as task_requests[0]: "same""#
    );
}

proptest! {
    #[test]
    fn every_task_has_the_id_the_group_key_and_the_request_of_the_plan(
        texts in prop::collection::vec(
            prop_oneof![
                "[ab ä💡\u{a0}]{0,30}".prop_map(|text| json::compact(&text.as_str().into())),
                any::<i64>().prop_map(|number| number.to_string()),
                Just("0.0".to_owned()), Just("null".to_owned()), Just("[1]".to_owned()),
            ],
            0..40,
        ),
    ) {
        let (spec, plan) = planned(&texts);
        prop_assert_eq!(spec.tasks.len(), texts.len());
        for (task, request) in (0..).zip(plan.task_requests()) {
            let group_key = request.get("group_key").filter(|key| key.is_present());
            let group_key = group_key.cloned().unwrap_or_else(|| "".into());
            prop_assert_eq!(spec.group_key_text(task), group_key.text());
            prop_assert_eq!(spec.group_key(task), group_key);
            let id = canonical_id(request.as_object().unwrap()).map(Value::text);
            prop_assert_eq!(Some(spec.task_id(task)), id.as_deref());
            prop_assert_eq!(spec.index.task(spec.task_id(task)), Some(task));
            let text = json::compact(request);
            prop_assert_eq!(spec.request_bytes(task), text.len());
            prop_assert_eq!(spec.request(task), text);
        }
    }

    #[test]
    fn records_that_come_together_are_identified_as_each_is_alone(
        tasks in 1_u32..6,
        begins in prop::collection::vec((0_u32..7, 1_u32..4, prop::option::of(0_usize..3)), 0..8),
    ) {
        let keys_of = vec![r#""a""#.to_owned(); tasks as usize];
        let (spec, _) = planned(&keys_of);
        // Runs in the plan's order, now and then with one between them that is none.
        let records = begins.iter().flat_map(|(begin, length, none)| {
            let run = (*begin..begin + length).map(|task| Some(format!("t-{task}")));
            run.chain(none.map(|nth| [Some("t-".to_owned()), Some(String::new()), None][nth].clone()))
        });
        let keys: Vec<_> = records
            .zip([false, true, true].into_iter().cycle())
            .map(|(id, is_task_id)| {
                let (id, task_id) = if is_task_id { (None, id) } else { (id, None) };
                let [id, task_id] = [id, task_id].map(Option::unwrap_or_default);
                plan::Keys { id, task_id, ..plan::Keys::default() }
            })
            .collect();
        let given = |nth: usize| (nth % 5 != 3).then_some(&keys[nth]);
        let together: Vec<_> = spec.index.identify_all((0..keys.len()).map(given)).collect();
        let alone: Vec<_> = (0..keys.len()).map(|nth| spec.index.identify(given(nth)?)).collect();
        prop_assert_eq!(together, alone);
    }
}
