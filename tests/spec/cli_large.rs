//! Plans and results that do not fit one message, through the command line: the documents are those of the files.

use std::fmt::Write;

use crate::harness::{Served, directory, says};

/// More than the command line sends in one message, and many pages.
const TASKS: usize = 12_000;

fn items() -> String {
    let pad = "x".repeat(380);
    let items: Vec<String> = (0..TASKS)
        .map(|key| format!(r#"{{"k":"{key}","pad":"{pad}"}}"#))
        .collect();
    format!("[{}]", items.join(","))
}

/// A record for all tasks but every seventh; every third has failed.
fn records() -> String {
    let pad = "é\\n".repeat(60);
    (0..TASKS)
        .filter(|key| key % 7 > 0)
        .fold(String::new(), |mut lines, key| {
            let success = key % 3 > 0;
            let outcome = format!(r#"{{ "key": [{key}.0, {{}}, []], "pad": "{pad}" }}"#);
            writeln!(
                lines,
                r#"{{"id": "task-{key}", "success": {success}, "outcome": {outcome}}}"#
            )
            .unwrap();
            lines
        })
}

#[test]
fn a_plan_of_many_messages_is_registered_and_its_result_fetched_as_the_files_say() {
    let config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"},
        "base_run":{"run":{"a":[1,{"b":[]}]},"outcomes":7,"records":{},"note":"as it is"}}"#;
    let directory = directory(&[
        ("c.json", config),
        ("i.json", &items()),
        ("r.jsonl", &records()),
    ]);
    // The items are more than twice as long.
    let server = Served::start(&["--message-bytes-max", "2000000"]);
    let said = |arguments: &[&str]| server.said_in(directory.path(), arguments);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let files = ["--config", "c.json", "--items", "i.json"];

    let register = ["--register", "--plan-id", "p", "--output", "plan.json"];
    let registered = said(&[&["plan"], &files[..], &register].concat());
    assert_eq!(
        registered,
        says(0, "", "plan p is registered, 12000 tasks\n")
    );
    let again = said(&[&["plan"], &files[..], &register].concat());
    assert_eq!(
        again,
        says(0, "", "plan p was registered already, 12000 tasks\n")
    );
    let submitted = said(&["submit", "--plan-id", "p", "r.jsonl"]);
    assert_eq!(submitted.code, 0, "{}", submitted.stderr);

    let from_plan = ["--plan-id", "p", "--seal", "--output", "fetched.json"];
    assert_eq!(
        said(&[&["reconcile"], &from_plan[..]].concat()),
        says(0, "", "")
    );
    let from_files = ["--records", "r.jsonl", "--output", "made.json"];
    assert_eq!(
        said(&[&["reconcile"], &files[..], &from_files].concat()),
        says(0, "", "")
    );
    let (fetched, made) = (read("fetched.json"), read("made.json"));
    assert!(fetched == made, "the documents differ");
    assert!(fetched.len() > 5 << 20, "{} bytes", fetched.len());

    let out = said(&["reconcile", "--plan-id", "p", "--fail-on-failure"]);
    assert_eq!((out.code, out.stdout == made), (2, true));
}

#[test]
fn a_result_of_nothing_is_fetched_as_the_files_say() {
    let directory = directory(&[
        ("c.json", r#"{"base_run":{"reconciliation":1}}"#),
        ("e.json", "[]"),
    ]);
    let server = Served::start(&[]);
    let said = |arguments: &[&str]| server.said_in(directory.path(), arguments);
    let files = ["--config", "c.json", "--items", "e.json"];
    said(&[&["plan"], &files[..], &["--register", "--plan-id", "p"]].concat());
    let fetched = said(&["reconcile", "--plan-id", "p"]);
    let made = said(&[&["reconcile"], &files[..], &["--records", "e.json"]].concat());
    assert_eq!(made.code, 0);
    assert_eq!(fetched, made);
}
