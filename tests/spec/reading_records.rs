//! A record is read where it stands, and comes out as if a tree had been built of it.

use std::borrow::Cow;

use fanout::json::{self, Limits, Object, Value};
use fanout::plan::Keys;
use fanout::reconcile::record::{self, Form, ReadRecord, Rewrite, TypedFields};
use fanout::reconcile::{Facts, Settings, Status, classify};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::arbitrary::{cases, object_text};
use crate::harness::parse;

fn settings(config: &str) -> Settings {
    Settings::read(parse(config).as_object().unwrap()).unwrap()
}

fn read<'r>(typed: TypedFields<'r>, body: &'r str) -> ReadRecord<'r> {
    record::read(
        typed,
        body.as_bytes(),
        Rewrite::Reconciled,
        Limits::default(),
        &settings("{}"),
    )
    .unwrap()
}

fn printed(record: &ReadRecord<'_>) -> String {
    String::from_utf8(record.document.to_vec()).unwrap()
}

#[test]
fn a_body_keeps_its_bytes_and_gets_the_hosts_status_in_place_of_its_own() {
    let body = r#"{ "id" : "t", "status":"succeeded" , "n": 1.50 }"#;
    assert_eq!(
        printed(&read(TypedFields::default(), body)),
        r#"{ "id" : "t", "status":"completed" , "n": 1.50 }"#
    );
}

#[test]
fn a_body_without_status_gets_it_at_the_end() {
    let empty = read(TypedFields::default(), "");
    assert_eq!(printed(&empty), r#"{"status":"failed"}"#);
    let bare = read(TypedFields::default(), r#"{"success":true }"#);
    assert_eq!(printed(&bare), r#"{"success":true,"status":"completed"}"#);
}

#[test]
fn typed_fields_that_the_body_lacks_come_first() {
    let typed = TypedFields {
        id: "e-1",
        task_id: "t",
        group_key: "g",
        status: "passed",
        success: Some(true),
        ..TypedFields::default()
    };
    let read = read(typed, r#"{"task_id":"t","x":[]}"#);
    assert_eq!(
        printed(&read),
        r#"{"id":"e-1","group_key":"g","success":true,"task_id":"t","x":[],"status":"completed"}"#
    );
    assert!(!read.body_field_ignored);
    assert_eq!(read.keys.canonical_id(), "t");
}

#[test]
fn a_typed_field_wins_over_the_bodys_and_the_sender_is_told() {
    let typed = TypedFields {
        task_id: "typed",
        status: "failed",
        ..TypedFields::default()
    };
    let read = read(typed, r#"{"task_id":"body","status":"succeeded"}"#);
    assert_eq!(printed(&read), r#"{"task_id":"typed","status":"failed"}"#);
    assert!(read.body_field_ignored);
    assert_eq!(read.keys.task_id, "typed");
}

#[test]
fn what_the_body_says_with_other_white_space_stays_as_it_is_there_also_if_it_says_it_twice() {
    let typed = TypedFields {
        task_id: "t",
        ..TypedFields::default()
    };
    for body in [r#"{"task_id":" t "}"#, r#"{"task_id":1,"task_id":" t "}"#] {
        let read = read(typed, body);
        assert_eq!(printed(&read), r#"{"task_id":" t ","status":"failed"}"#);
        assert!(!read.body_field_ignored);
        assert_eq!(read.keys.task_id, "t");
    }
}

#[test]
fn a_sign_of_life_stays_as_it_was_sent() {
    let body = r#"{ "status" : "running", "done": 3 }"#;
    let typed = TypedFields {
        task_id: "t",
        ..TypedFields::default()
    };
    let read = record::read(
        typed,
        body.as_bytes(),
        Rewrite::AsSubmitted,
        Limits::default(),
        &settings("{}"),
    );
    let read = read.unwrap();
    assert_eq!(printed(&read), body);
    assert_eq!(read.keys.task_id, "t");
}

#[test]
fn a_sign_of_life_gets_its_typed_status_and_success_which_stand_nowhere_else() {
    for (body, expected) in [
        ("", r#"{"status":"cloning","success":true}"#),
        (
            r#"{"success":false,"done": 3}"#,
            r#"{"status":"cloning","success":true,"done":3}"#,
        ),
    ] {
        let typed = TypedFields {
            task_id: "t",
            status: "cloning",
            success: Some(true),
            ..TypedFields::default()
        };
        let limits = Limits::default();
        let settings = settings("{}");
        let read = record::read(
            typed,
            body.as_bytes(),
            Rewrite::AsSubmitted,
            limits,
            &settings,
        );
        assert_eq!(printed(&read.unwrap()), expected);
    }
}

#[test]
fn a_document_gets_the_keys_that_it_lacks_in_front() {
    let typed = TypedFields {
        task_id: "typed",
        sandbox_session_id: "box",
        ..TypedFields::default()
    };
    let read = read(typed, r#"{"id":"e-1","done":3}"#);
    let with_keys = |document| record::with_keys(parse(document).as_object().unwrap(), &read.keys);
    assert_eq!(
        with_keys(r#"{"id":" e-1 ","done": 3}"#),
        r#"{"task_id":"typed","sandbox_session_id":"box","id":" e-1 ","done":3}"#
    );
    assert_eq!(
        with_keys("{}"),
        r#"{"id":"e-1","task_id":"typed","sandbox_session_id":"box"}"#
    );
}

#[test]
fn what_is_not_one_object_is_refused_with_its_place() {
    for (body, expected) in [
        ("[1]", "1:1: expected an object, found \"[\""),
        (
            "{\"a\":1",
            "1:7: expected ',' or '}', found the end of the document",
        ),
        (
            "{} {}",
            "1:4: expected the end of the document, found \"{\"",
        ),
        ("{\"a\":\"\\ud800\"}", "1:7: lone surrogate in a string"),
        ("\u{feff}{}", "1:1: expected an object, found \"\u{feff}\""),
    ] {
        let typed = TypedFields::default();
        let read = record::read(
            typed,
            body.as_bytes(),
            Rewrite::Reconciled,
            Limits::default(),
            &settings("{}"),
        );
        assert_eq!(read.unwrap_err().to_string(), expected, "{body}");
    }
}

/// What [`record::read`] must come to, written with the tree.
struct Expected {
    document: Value,
    keys: Keys<String>,
    has_outcome: bool,
    body_field_ignored: bool,
}

fn by_the_tree(typed: TypedFields<'_>, body: &str, settings: &Settings) -> Expected {
    let body = parse(body);
    let body = body.as_object().unwrap();
    let text = |field: &str| body.get(field).map(Value::text).unwrap_or_default();
    let keys = [
        ("id", typed.id),
        ("task_id", typed.task_id),
        ("sandbox_session_id", typed.sandbox_session_id),
        ("group_key", typed.group_key),
    ];
    let mut given: Vec<(&str, Value)> = Vec::new();
    let mut ignored = false;
    for (field, typed) in keys.into_iter().filter(|(_, typed)| !typed.is_empty()) {
        ignored |= body.get(field).is_some() && text(field) != json::trim(typed);
        given.push((field, typed.into()));
    }
    if let Some(success) = typed.success {
        ignored |= body
            .get("success")
            .is_some_and(|own| *own != Value::Bool(success));
        given.push(("success", Value::Bool(success)));
    }
    if !typed.status.is_empty() {
        ignored |= body.get("status").is_some() && text("status") != json::trim(typed.status);
    }
    let mut merged = Object::default();
    for (field, value) in given.iter().filter(|(field, _)| body.get(field).is_none()) {
        merged.set(*field, value.clone());
    }
    merged.extend(body);
    if ignored {
        given
            .iter()
            .for_each(|(field, value)| merged.set(*field, value.clone()));
    }
    let mut judged = merged.clone();
    given
        .iter()
        .for_each(|(field, value)| judged.set(*field, value.clone()));
    if !json::trim(typed.status).is_empty() {
        judged.set("status", typed.status);
    }
    let verdict = classify(&Facts::of(&judged), success_statuses(settings).as_deref());
    let key = |field: &str, typed: &str| match json::trim(typed) {
        "" => text(field).into_owned(),
        typed => typed.to_owned(),
    };
    let document = record::with_status(merged.into(), verdict.status);
    Expected {
        has_outcome: settings.outcome(&document).is_some(),
        document,
        keys: Keys {
            id: key("id", typed.id),
            task_id: key("task_id", typed.task_id),
            sandbox_session_id: key("sandbox_session_id", typed.sandbox_session_id),
            group_key: key("group_key", typed.group_key),
        },
        body_field_ignored: ignored,
    }
}

/// The settings of the property below that have a list.
fn success_statuses(settings: &Settings) -> Option<Vec<std::sync::Arc<str>>> {
    settings
        .counts_missing_as_successful()
        .then(|| vec!["missing_record".into(), "accepted".into()])
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn reading_in_place_and_by_the_tree_agree(
        body in object_text(),
        typed in prop::collection::vec(select(&["", "", "", "a", " b ", "completed", "accepted", "failed"][..]), 5),
        success in any::<Option<bool>>(),
        config in select(&[
            "{}",
            r#"{"outcome_path":"outcome.status"}"#,
            r#"{"outcome_path":"status"}"#,
            r#"{"outcome_path":"task_id"}"#,
            r#"{"outcome_path":"items.0.id"}"#,
            r#"{"outcome_path":["a","b"]}"#,
            r#"{"outcome_path":[""]}"#,
            r#"{"success_statuses":["missing_record","accepted"]}"#,
        ][..]),
    ) {
        let settings = settings(config);
        let typed = TypedFields {
            id: typed[0],
            task_id: typed[1],
            sandbox_session_id: typed[2],
            group_key: typed[3],
            status: typed[4],
            success,
        };
        let read = record::read(typed, body.as_bytes(), Rewrite::Reconciled, Limits::default(), &settings).unwrap();
        let expected = by_the_tree(typed, &body, &settings);
        let document = json::parse(&read.document, Limits::default()).unwrap();
        prop_assert_eq!(json::compact(&document), json::compact(&expected.document));
        let keys = [&read.keys.id, &read.keys.task_id, &read.keys.sandbox_session_id, &read.keys.group_key];
        let keys = keys.map(Cow::as_ref);
        let wanted = &expected.keys;
        prop_assert_eq!(keys, [&*wanted.id, &*wanted.task_id, &*wanted.sandbox_session_id, &*wanted.group_key]);
        prop_assert_eq!(read.has_outcome, expected.has_outcome);
        prop_assert_eq!(read.body_field_ignored, expected.body_field_ignored);
        let status = document.get("status").and_then(Value::as_str);
        prop_assert_eq!(status, Some(read.verdict.status.name()));
        prop_assert!(read.verdict.status != Status::MissingRecord || body.contains("missing_record") || typed.status == "missing_record");
    }

    #[test]
    fn a_record_reads_the_same_whatever_came_before_it(
        bodies in prop::collection::vec((object_text(), prop::collection::vec(change(), 0..6)), 1..4),
        config in select(&["{}", r#"{"outcome_path":"a"}"#][..]),
    ) {
        let settings = settings(config);
        let mut form = Form::default();
        let bodies = bodies.iter().flat_map(|(body, changes)| {
            let changed = changes.iter().map(|change| change.of(body));
            std::iter::once(body.clone().into_bytes()).chain(changed)
        });
        for body in bodies {
            let (typed, limits) = (TypedFields::default(), Limits::default());
            let alone = record::read(typed, &body, Rewrite::Reconciled, limits, &settings);
            let mut documents = "before".to_owned();
            let after = record::read_into(
                &mut documents,
                &mut form,
                typed,
                &body,
                Rewrite::Reconciled,
                limits,
                &settings,
            );
            let after = after.map(|read| ReadRecord {
                document: documents.as_bytes()["before".len()..].into(),
                ..read
            });
            prop_assert_eq!(after, alone, "{}", String::from_utf8_lossy(&body));
        }
    }
}

/// What makes another body of one: mostly one of the same form.
#[derive(Clone, Debug)]
enum Change {
    /// Every digit but 0 becomes this one.
    Digits(u8),
    /// A byte becomes this one.
    Byte(Index, u8),
    /// It ends before this byte.
    End(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![any::<u8>(), select(&b"\"\\{}[],:0-.etn \n"[..])];
    prop_oneof![
        4 => (b'1'..=b'9').prop_map(Change::Digits),
        2 => (any::<Index>(), byte).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => any::<Index>().prop_map(Change::End),
    ]
}

impl Change {
    fn of(&self, body: &str) -> Vec<u8> {
        let mut body = body.as_bytes().to_vec();
        match self {
            Self::Digits(digit) => {
                let digits = body.iter_mut().filter(|byte| matches!(byte, b'1'..=b'9'));
                digits.for_each(|byte| *byte = *digit);
            }
            Self::Byte(at, byte) => {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            Self::End(at) => body.truncate(at.index(body.len())),
        }
        body
    }
}
