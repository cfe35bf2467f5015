//! A registered plan's result is written from the records' own text. It is the document that the tree gives, byte for byte.

use std::sync::Arc;

use fanout::json::{self, Form, Object, Value};
use fanout::plan::Reconciliation;
use fanout::proto::{ReconcileRequest, Record};
use fanout::reconcile::{self, Brought, Page, PageText, Reconciled, ResultHead, Settings};
use proptest::prelude::*;
use proptest::sample::select;
use tonic::Code;

use crate::arbitrary::{cases, object_text, text, value};
use crate::harness::{TestServer, document, parse, record, refusal};

fn recompacted(text: &str) -> Option<String> {
    let mut out = String::from("before");
    let whole = json::recompact(&mut out, text, |_, _| {});
    let after = out.strip_prefix("before").unwrap().to_owned();
    assert!(whole || after.is_empty(), "{text}");
    whole.then_some(after)
}

#[test]
fn a_text_is_printed_as_its_tree_is_without_one_if_no_key_repeats() {
    let cases = [
        ("{}", "{}"),
        (" [ ] ", "[]"),
        ("{\"a\":1}", "{\"a\":1}"),
        (
            "{ \"a\" : [ 1 , 2 ] ,\n\t\"b\" : { } }\r\n",
            "{\"a\":[1,2],\"b\":{}}",
        ),
        ("[true,false,null]", "[true,false,null]"),
        ("[ true , false , null ]", "[true,false,null]"),
        ("[1.0,1e2,-0,-0.0,0.50,1e21]", "[1,100,0,0,0.5,1e+21]"),
        (
            "[0.5,-0.25,12.125,0.000001,0.0000001,0.00000123]",
            "[0.5,-0.25,12.125,0.000001,1e-7,0.00000123]",
        ),
        (
            "[123456789012.345,1234567890.123456789,0.1000000000000000055]",
            "[123456789012.345,1234567890.1234567,0.1]",
        ),
        (
            "[123456789012345678901234567890,-7,0]",
            "[123456789012345678901234567890,-7,0]",
        ),
        (r#"["\"\\\n\r\t\b\f"]"#, r#"["\"\\\n\r\t\b\f"]"#),
        (r#"["\/\u0041\u00e9\ud83d\ude00"]"#, "[\"/Aé😀\"]"),
        (r#"["\u0001\u000a\u0022"]"#, r#"["\u0001\n\""]"#),
        (r#"{"кл":"日本 {,]"}"#, r#"{"кл":"日本 {,]"}"#),
        ("7", "7"),
        ("\"\"", "\"\""),
    ];
    for (text, expected) in cases {
        assert_eq!(recompacted(text).as_deref(), Some(expected), "{text}");
        assert_eq!(json::compact(&parse(text)), expected, "{text}");
    }
}

#[test]
fn what_only_a_tree_can_print_is_left_to_it() {
    let many: Vec<String> = (0..65).map(|n| format!("\"{n}\":0")).collect();
    let many = |n: usize| format!("{{{}}}", many[..n].join(","));
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(recompacted(&many(64)).is_some() && recompacted(&many(65)).is_none());
    assert!(recompacted(&deep(64)).is_some() && recompacted(&deep(65)).is_none());
    assert_eq!(recompacted(r#"{"a":1,"b":{"c":2,"c":3}}"#), None);
    assert_eq!(recompacted(r#"{"a":1,"\u0061":2}"#), None);
    // The same key in another object is another one.
    assert!(recompacted(r#"{"a":{"a":1,"b":{"a":2}},"b":[{"a":3}]}"#).is_some());
}

#[test]
fn each_member_is_told_with_its_place_in_what_was_printed() {
    let mut out = String::from("1,");
    let mut members = Vec::new();
    let text = r#"{ "a" : [1.0, {"x":2}], "b":"\/" , "c":null }"#;
    assert!(json::recompact(&mut out, text, |key, place| {
        members.push((key.to_owned(), place));
    }));
    let members: Vec<_> = members
        .iter()
        .map(|(key, place)| (key.as_str(), &out[place.clone()]))
        .collect();
    assert_eq!(
        members,
        [("a", r#"[1,{"x":2}]"#), ("b", "\"/\""), ("c", "null")]
    );
}

/// Texts of a few forms, some of which only a tree can print; mostly several of one form follow each other.
fn texts_of_forms() -> impl Strategy<Value = Vec<String>> {
    const FORMS: &[&str] = &[
        r#"{"a":_,"b":{"name":_,"c":[_,{}]},"name":_}"#,
        r#"{"name":{"x":_,"y":[_,_]},"z":_}"#,
        r#"{"name":[],"a":_}"#,
        r#"{ "a" : _ , "name": _ }"#,
        r#"{"a":_,"name":_,"a":_}"#,
        r#"{"a":_,"n\u0061me":_}"#,
        "[_,_]",
        "_",
    ];
    const VALUES: &[&str] = &[
        "true",
        "null",
        "0",
        "-0",
        "-7",
        "1.0",
        "1.5e1",
        "-0.25",
        "1e21",
        "1e-7",
        "0.1000000000000000055",
        "123456789012345678901234567890",
        r#""""#,
        r#""é, \"\\\n""#,
        r#""\/""#,
        r#""\u0041\u0001""#,
        r#""a longer text, with nothing in it that has to be changed""#,
    ];
    let value = select(VALUES);
    let of_one_form = (
        select(FORMS),
        prop::collection::vec(prop::array::uniform4(value), 1..5),
    );
    prop::collection::vec(of_one_form, 1..6).prop_map(|runs| {
        let texts = runs.into_iter().flat_map(|(form, texts)| {
            texts.into_iter().map(move |values| {
                let fill = |text: String, value| text.replacen('_', value, 1);
                values.into_iter().fold(form.to_owned(), fill)
            })
        });
        texts.collect()
    })
}

/// A config that reconciling reads, with paths that find something, nothing, or something of a task without a record.
fn config() -> impl Strategy<Value = String> {
    let path = select(
        &[
            "outcome",
            "outcome.status",
            "outcome.a.b",
            "a",
            "a.0",
            "a.length",
            "a.",
            ".",
            "",
            "id",
            "status",
            "group_key",
            "group_key.a",
            "group_key.",
            "records",
        ][..],
    );
    let statuses = select(&["null", r#"["completed"]"#, r#"["missing_record","failed"]"#][..]);
    (path, statuses, object_text(), any::<bool>()).prop_map(|(path, statuses, base_run, summary)| {
        let path = json::compact(&path.into());
        format!(
            r#"{{"outcome_path":{path},"success_statuses":{statuses},"base_run":{base_run},"include_summary":{summary}}}"#
        )
    })
}

/// The task's record, if it has one, and whether it counts as successful.
type Given = (Option<(String, bool)>, Value);

fn tasks() -> impl Strategy<Value = Vec<Given>> {
    let record = (object_text(), any::<bool>());
    prop::collection::vec((prop::option::weighted(0.7, record), value()), 0..6)
}

fn head(settings: &Settings, page: Page, failed_task_ids: Vec<Arc<str>>) -> Object {
    let counts = Reconciliation {
        task_count: 7,
        failed_task_ids,
        ..Reconciliation::default()
    };
    let plan = parse(r#"{"schema":"s","summary":{"n":1}}"#);
    let mut document = reconcile::document(
        settings,
        &ResultHead::of_plan(&plan),
        page,
        &counts,
        "failed",
    );
    document.set("completion_reason", "sealed");
    document
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_fraction_is_printed_as_its_double_is(whole in 0..1_000_000_u64, digits in "[0-9]{1,12}", minus in any::<bool>()) {
        let minus = if minus { "-" } else { "" };
        let text = format!("{minus}{whole}.{digits}");
        let small = format!("{minus}0.{digits}");
        for text in [text, small] {
            prop_assert_eq!(recompacted(&text), Some(json::compact(&parse(&text))));
        }
    }

    #[test]
    fn a_long_text_is_printed_as_its_tree_is(parts in prop::collection::vec("[a-zé\"\\\\/]{0,12}", 0..6)) {
        let list: Vec<Value> = parts.iter().map(|part| part.as_str().into()).collect();
        let text = json::compact(&Value::array(list));
        prop_assert_eq!(recompacted(&text), Some(text));
    }

    #[test]
    fn a_text_is_printed_as_its_tree_is(text in text()) {
        if let Some(printed) = recompacted(&text) {
            prop_assert_eq!(printed, json::compact(&parse(&text)));
        }
    }

    #[test]
    fn a_text_is_printed_alike_whatever_was_printed_before_it(texts in texts_of_forms()) {
        let mut form = Form::default();
        let mut out = String::from("before");
        for text in texts {
            let mut expected = out.clone();
            let mut member = None;
            let whole = json::recompact(&mut expected, &text, |key, place| {
                if key == "name" {
                    member = Some(place);
                }
            });
            let printed = json::recompact_alike(&mut form, &mut out, &text, "name");
            prop_assert_eq!(&out, &expected, "{}", text);
            prop_assert_eq!(printed, whole.then_some(member), "{}", text);
        }
    }

    #[test]
    fn the_result_that_is_written_from_texts_is_the_one_that_is_built(
        config in config(),
        tasks in tasks(),
    ) {
        let settings = Settings::read(parse(&config).as_object().unwrap()).unwrap();
        let mut built = Page::default();
        let mut written = PageText::default();
        for (nth, (record, group_key)) in tasks.iter().enumerate() {
            let task_id: Arc<str> = format!("task \"{nth}\"").into();
            let brought = match record {
                Some((text, successful)) => {
                    let record = parse(text);
                    built.push(&task_id, Reconciled::new(&settings, record, *successful));
                    Brought::Record(text.as_bytes(), *successful)
                }
                None => {
                    let missing = Reconciled::missing(&settings, &task_id, group_key.clone());
                    built.push(&task_id, missing);
                    Brought::Nothing(group_key)
                }
            };
            prop_assert!(written.push(&settings, &task_id, brought, usize::MAX));
        }
        let failed = built.failed_task_ids().to_vec();
        let expected = json::compact(&head(&settings, built, failed).into());
        let of_empty_page = head(&settings, Page::default(), Vec::new());
        prop_assert_eq!(written.into_document(&of_empty_page), expected);
    }

    #[test]
    fn a_task_that_does_not_fit_leaves_the_page_as_it_was(tasks in tasks(), most in 0..400_usize) {
        let settings = Settings::read(&Object::default()).unwrap();
        let of_empty_page = head(&settings, Page::default(), Vec::new());
        let beside = PageText::default().into_document(&of_empty_page).len();
        let (mut page, mut before) = (PageText::default(), PageText::default());
        for (record, group_key) in &tasks {
            let brought = match record {
                Some((text, successful)) => Brought::Record(text.as_bytes(), *successful),
                None => Brought::Nothing(group_key),
            };
            if page.push(&settings, "t", brought, most) {
                prop_assert!(before.push(&settings, "t", brought, usize::MAX));
            }
        }
        prop_assert_eq!(page.tasks(), before.tasks());
        let document = page.into_document(&of_empty_page);
        prop_assert!(document.len() <= beside + most);
        prop_assert_eq!(document, before.into_document(&of_empty_page));
    }
}

fn padded(key: &str, bytes: usize) -> Record {
    record(&format!(
        r#"{{"id":"task-{key}","outcome":"{}"}}"#,
        "x".repeat(bytes)
    ))
}

#[tokio::test]
async fn a_page_ends_where_the_next_record_would_not_fit_the_message() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 256 << 10).await;
    let keys = ["a", "b", "c", "d", "e"];
    server.register("p", &keys).await;
    for key in keys {
        // Twice in the document: in its record, and as its outcome.
        server.submit("p", vec![padded(key, 40_000)]).await;
    }
    let mut sizes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ReconcileRequest {
            plan_id: "p".into(),
            page_size: 1_000,
            page_token,
            ..Default::default()
        };
        let page = server.reconcile(request).await.unwrap().into_inner();
        let document = document(&page.document);
        sizes.push(document.get("records").unwrap().as_array().unwrap().len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
}

#[tokio::test]
async fn a_page_of_one_record_that_does_not_fit_is_refused() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 256 << 10).await;
    server.register("p", &["a"]).await;
    server.submit("p", vec![padded("a", 100_000)]).await;
    let request = ReconcileRequest {
        plan_id: "p".into(),
        page_size: 1,
        ..Default::default()
    };
    let status = server.reconcile(request).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::InvalidArgument,
            "DOCUMENT_TOO_LARGE".into(),
            "page_size".into()
        )
    );
}

#[tokio::test]
async fn a_whole_document_of_more_tasks_than_can_fit_is_refused_before_it_is_made() {
    let mut server = TestServer::with(|config| config.limits.message_bytes_max = 65 << 10).await;
    let keys: Vec<String> = (0..60).map(|key| key.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    server.register("p", &keys).await;
    let request = ReconcileRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let status = server.reconcile(request).await.unwrap_err();
    assert_eq!(refusal(&status).1, "DOCUMENT_TOO_LARGE");
}

#[tokio::test]
async fn outcomes_of_tasks_without_a_record_are_counted_where_the_path_finds_any() {
    let cases = [
        ("id", 3),
        ("status", 3),
        ("group_key", 3),
        ("group_key.length", 0),
        ("outcome", 1),
        ("nothing", 0),
    ];
    let mut server = TestServer::start().await;
    for (path, expected) in cases {
        let config = format!(
            r#"{{"group_key_path":"k","task_request_template":{{"id":"task-{{{{group.key}}}}"}},"outcome_path":"{path}"}}"#
        );
        server
            .register_with(path, &["a", "b", "c"], |request| {
                request.config = config.into();
            })
            .await;
        let body = r#"{"id":"task-b","status":"passed","group_key":"b","outcome":[1]}"#;
        server.submit(path, vec![record(body)]).await;
        let request = ReconcileRequest {
            plan_id: path.into(),
            page_size: 1,
            ..Default::default()
        };
        let page = server.reconcile(request).await.unwrap().into_inner();
        let document = document(&page.document);
        let count = document.get("reconciliation").unwrap().get("outcome_count");
        assert_eq!(count, Some(&Value::from(expected)), "{path}");
    }
}
