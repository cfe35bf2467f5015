//! The commands on JSON files: `plan`, `reconcile`, `findings` and the single form of the existing tool.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use fanout::json::{self, Value};

use crate::harness::{
    Program, Said, directory, document, fanout, names_in, parse, project, said, said_with, says,
};

const CONFIG: &str = r#"{"group_key_path":"c","task_request_template":{"id":"t-{{group.key}}"}}"#;
const ITEMS: &str = r#"[{"c":"a"},{"c":"b"}]"#;
const RECORDS: &str = r#"[{"id":"t-a","status":"completed"}]"#;
const BROKEN: &str = "[{\"c\":\n  oops}]";
const FILES: [(&str, &str); 4] = [
    ("c.json", CONFIG),
    ("i.json", ITEMS),
    ("r.json", RECORDS),
    ("broken.json", BROKEN),
];

/// Checks that arguments are refused with this, and nothing else is left behind than there was.
#[track_caller]
fn refused(arguments: &str, stderr: &str) {
    let directory = directory(&FILES);
    let before = names_in(directory.path());
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    assert_eq!(said(directory.path(), &arguments), says(1, "", stderr));
    assert_eq!(names_in(directory.path()), before);
}

/// The document that arguments give, in one line.
#[track_caller]
fn given(files: &[(&str, &str)], arguments: &str, input: &str) -> Value {
    let directory = directory(files);
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let said = said_with(directory.path(), &arguments, input);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    assert!(said.stdout.ends_with("}\n") || said.stdout.ends_with("]\n"));
    document(said.stdout.as_bytes())
}

fn at<'v>(document: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(document, |value, key| {
        value.get(key).unwrap_or_else(|| panic!("no {path}"))
    })
}

fn compact_at(document: &Value, path: &str) -> String {
    json::compact(at(document, path))
}

#[test]
fn the_six_example_directories_are_reproduced_byte_for_byte_in_every_spelling() {
    let directories = names_in(&project("tests/vectors/cli"));
    assert_eq!(directories.len(), 6);
    let outputs = tempfile::tempdir().unwrap();
    for name in directories {
        let here = project("tests/vectors/cli").join(&name);
        let plan = fs::read_to_string(here.join("expected-plan.json")).unwrap();
        let result = fs::read_to_string(here.join("expected-result.json")).unwrap();
        let inputs = "--config config.json --items items.json";
        let with_plan = "--config config.json --plan expected-plan.json --records records.json";
        for (arguments, expected) in [
            (format!("plan {inputs}"), &plan),
            (inputs.to_owned(), &plan),
            (format!("reconcile {with_plan}"), &result),
            (with_plan.to_owned(), &result),
            (
                format!("reconcile {inputs} --records records.json"),
                &result,
            ),
            (format!("{inputs} --records records.json"), &result),
        ] {
            let arguments: Vec<_> = arguments.split(' ').collect();
            let to_stdout = said(&here, &arguments);
            assert_eq!(to_stdout, says(0, expected, ""), "{name}: {arguments:?}");

            let output = outputs.path().join(&name);
            let mut arguments = arguments;
            arguments.extend(["--output", output.to_str().unwrap()]);
            assert_eq!(
                said(&here, &arguments),
                says(0, "", ""),
                "{name}: {arguments:?}"
            );
            assert_eq!(
                &fs::read_to_string(&output).unwrap(),
                expected,
                "{name}: {arguments:?}"
            );
            fs::remove_file(&output).unwrap();
        }
    }
}

/// Every file below a directory with its text.
fn files_below(directory: &Path, prefix: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for name in names_in(directory) {
        let path = directory.join(&name);
        let relative = format!("{prefix}{name}");
        if path.is_dir() {
            files.extend(files_below(&path, &format!("{relative}/")));
        } else {
            files.insert(relative, fs::read_to_string(path).unwrap());
        }
    }
    files
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().unwrap().iter();
    members
        .map(|(name, text)| (name.to_string(), text.as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn the_existing_tools_command_line_behaves_as_it_did_but_help_is_no_failure() {
    let rows = fs::read_to_string(project("tests/vectors/cli-behaviour.jsonl")).unwrap();
    let mut names = Vec::new();
    for row in rows.lines().map(parse) {
        let name = row.get("name").unwrap().as_str().unwrap();
        let files = texts(row.get("files").unwrap());
        let listed: Vec<_> = files
            .iter()
            .map(|(name, text)| (&**name, &**text))
            .collect();
        let directory = directory(&listed);
        let arguments = row.get("args").unwrap().as_array().unwrap();
        let arguments: Vec<_> = arguments
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect();
        let said = said(directory.path(), &arguments);

        if name == "help-prints-usage-and-fails" {
            assert_eq!((said.code, &*said.stderr), (0, ""), "{name}");
            assert!(
                said.stdout
                    .contains("\nUsage: fanout [OPTIONS] --config <FILE>\n"),
                "{name}"
            );
        } else {
            let exit: i32 = row.get("exit").unwrap().text().parse().unwrap();
            let stderr_empty = row.get("stderr_empty") == Some(&Value::Bool(true));
            assert_eq!(said.code, exit, "{name}");
            assert_eq!(
                Some(&*said.stdout),
                row.get("stdout").unwrap().as_str(),
                "{name}"
            );
            assert_eq!(
                said.stderr.is_empty(),
                stderr_empty,
                "{name}: {}",
                said.stderr
            );
        }
        let mut expected = files.clone();
        expected.extend(texts(row.get("outputs").unwrap()));
        assert_eq!(files_below(directory.path(), ""), expected, "{name}");
        names.push(name.to_owned());
    }
    assert_eq!(
        names,
        [
            "no-arguments-prints-usage",
            "help-prints-usage-and-fails",
            "plan-to-stdout",
            "plan-to-output-in-new-directory",
            "plan-flag-is-the-output-when-planning",
            "items-from-config",
            "records-without-plan-computes-plan",
            "records-to-stdout",
            "duplicate-task-ids-fail-without-output",
            "missing-config-file-fails",
            "invalid-json-fails",
        ]
    );
}

#[test]
fn no_arguments_are_a_failure_that_shows_the_usage_on_standard_error() {
    let directory = directory(&[]);
    let said = said(directory.path(), &[]);
    assert_eq!((said.code, &*said.stdout), (1, ""));
    let usage =
        "\n\nUsage: fanout [OPTIONS] --config <FILE>\n       fanout <COMMAND>\n\nCommands:\n";
    assert!(said.stderr.contains(usage), "{}", said.stderr);
}

#[test]
fn every_command_has_help_that_exits_with_0() {
    let commands = [
        "run",
        "serve",
        "plan",
        "reconcile",
        "findings",
        "submit",
        "watch",
        "get",
        "list",
        "seal",
        "cancel",
        "delete",
        "health",
        "completions",
    ];
    let directory = directory(&[]);
    for command in commands {
        let said = said(directory.path(), &[command, "--help"]);
        assert_eq!((said.code, &*said.stderr), (0, ""), "{command}");
        assert!(
            said.stdout.contains(&format!("\nUsage: fanout {command} ")),
            "{}",
            said.stdout
        );
    }
    assert_eq!(
        said(directory.path(), &["--version"]),
        says(0, &format!("fanout {}\n", env!("CARGO_PKG_VERSION")), "")
    );
}

#[test]
fn malformed_json_is_refused_with_file_line_and_column() {
    let broken = "error: broken.json:2:3: expected a value, found \"o\"\n";
    refused(
        "plan --config broken.json --items i.json --output o.json",
        broken,
    );
    refused(
        "plan --config c.json --items broken.json --output o.json",
        broken,
    );
    refused("--config c.json --items broken.json --plan o.json", broken);
    refused(
        "reconcile --config c.json --items i.json --records broken.json --output o.json",
        broken,
    );
    refused(
        "reconcile --config c.json --plan broken.json --records r.json --output o.json",
        broken,
    );
    refused(
        "--config c.json --items i.json --records broken.json --output o.json",
        broken,
    );
    refused("findings --packets broken.json --output o.json", broken);
    refused(
        "findings --packets i.json --policy broken.json --output o.json",
        broken,
    );
    refused(
        "findings --packets i.json --config broken.json --output o.json",
        broken,
    );
    refused(
        "findings --packets i.json --records broken.json --output o.json",
        broken,
    );
}

#[test]
fn a_broken_line_of_json_lines_is_refused_with_its_number() {
    let directory = directory(&[("c.json", CONFIG), ("i.jsonl", "{\"c\":1}\n\n{\"c\":}\n")]);
    let said = said(
        directory.path(),
        &["plan", "--config", "c.json", "--items", "i.jsonl"],
    );
    assert_eq!(
        said,
        says(1, "", "error: i.jsonl:3:6: expected a value, found \"}\"\n")
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let missing = "error: nope.json: failed to read: No such file or directory (os error 2)\n";
    refused("plan --config nope.json", missing);
    refused("plan --config c.json --items nope.json", missing);
    refused(
        "reconcile --config c.json --plan nope.json --records r.json",
        missing,
    );
    refused("reconcile --config c.json --records nope.json", missing);
    refused("findings --packets nope.json", missing);
    refused("--config nope.json", missing);
}

#[test]
fn an_input_that_is_no_list_is_refused() {
    let directory = directory(&[("c.json", CONFIG), ("i.json", "5")]);
    let said = said(
        directory.path(),
        &["plan", "--config", "c.json", "--items", "i.json"],
    );
    let problem =
        "error: i.json:1:1: expected a list, or one JSON object on each line, found a number\n";
    assert_eq!(said, says(1, "", problem));
}

#[test]
fn lists_that_were_put_together_in_one_file_are_refused_and_not_taken_for_records() {
    let directory = directory(&[
        ("c.json", "{}"),
        ("i.json", r#"[{"id":"a"},{"id":"b"}]"#),
        (
            "r.json",
            "[{\"id\":\"fanout-a\",\"status\":\"completed\"}]\n[{\"id\":\"fanout-b\",\"status\":\"completed\"}]\n",
        ),
    ]);
    let said = said(
        directory.path(),
        &[
            "reconcile",
            "--config",
            "c.json",
            "--items",
            "i.json",
            "--records",
            "r.json",
        ],
    );
    let problem = "error: r.json:2:1: expected the end of the document, found \"[\"\n";
    assert_eq!(said, says(1, "", problem));
}

#[test]
fn items_that_count_as_nothing_leave_those_of_the_config() {
    let config = r#"{"items":[{"id":"own"}]}"#;
    for nothing in ["null", "false", "0", "\"\""] {
        let files = [("c.json", config), ("i.json", nothing)];
        let plan = given(&files, "plan --config c.json --items i.json", "");
        assert_eq!(compact_at(&plan, "summary.item_count"), "1", "{nothing}");
    }
}

#[test]
fn a_plan_is_read_again_however_deep_the_items_in_its_task_requests_are() {
    let deep = format!("{}{}", "[".repeat(510), "]".repeat(510));
    let template = format!(
        r#"{}{{"at":"{{{{group.items}}}}"}}{}"#,
        "[".repeat(505),
        "]".repeat(505)
    );
    let config =
        format!(r#"{{"task_request_template":{{"id":"t","inputs":{{"deep":{template}}}}}}}"#);
    let directory = directory(&[
        ("c.json", &config),
        ("i.json", &format!(r#"[{{"d":{deep}}}]"#)),
        ("r.json", r#"[{"id":"t","success":true}]"#),
    ]);
    let plan = "plan --config c.json --items i.json --output p.json";
    let plan: Vec<_> = plan.split(' ').collect();
    assert_eq!(said(directory.path(), &plan), says(0, "", ""));
    let reconcile = "reconcile --config c.json --plan p.json --records r.json";
    let reconcile: Vec<_> = reconcile.split(' ').collect();
    let result = said(directory.path(), &reconcile);
    assert_eq!((result.code, &*result.stderr), (0, ""));
    let result = document(result.stdout.as_bytes());
    assert_eq!(compact_at(&result, "status"), r#""completed""#);
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_fails() {
    let plan = "plan --config c.json --items i.json --output";
    refused(
        &format!("{plan} ."),
        "error: .: failed to write: Is a directory (os error 21)\n",
    );
    refused(
        &format!("{plan} c.json/o.json"),
        "error: c.json/o.json: failed to write: File exists (os error 17)\n",
    );
    refused(
        &format!("{plan} /dev/full"),
        "error: /dev/full: failed to write: No space left on device (os error 28)\n",
    );
}

/// Runs a shell line in which `$FANOUT` is the program.
fn shell(directory: &Path, line: &str) -> Said {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(directory);
    command.env("FANOUT", fanout().get_program());
    Program::start(&mut command).finish()
}

#[test]
fn a_plan_that_several_threads_make_ends_where_its_output_does() {
    let items: Vec<_> = (0..20_000)
        .map(|n| format!(r#"{{"kind":"{n}"}}"#))
        .collect();
    let config = r#"{"task_request_template":{"id":"{{group.key}}"}}"#;
    let items = format!("[{}]", items.join(","));
    let directory = directory(&[("c.json", config), ("i.json", &items)]);
    let plan = "\"$FANOUT\" plan --config c.json --items i.json";
    let full = "error: failed to write to standard output: No space left on device (os error 28)\n";
    assert_eq!(
        shell(directory.path(), &format!("{plan} > /dev/full")),
        says(1, "", full)
    );
    let line = format!("{{ {plan}; echo $? > code; }} | head -n 1; cat code");
    assert_eq!(shell(directory.path(), &line), says(0, "{\n0\n", ""));
}

#[test]
fn a_full_standard_output_fails_but_a_reader_that_has_seen_enough_does_not() {
    let directory = directory(&FILES);
    assert_eq!(
        shell(
            directory.path(),
            "\"$FANOUT\" plan --config c.json --items i.json > /dev/full"
        ),
        says(
            1,
            "",
            "error: failed to write to standard output: No space left on device (os error 28)\n"
        )
    );
    // The reader closes its end before the program starts.
    let line = "mkfifo closed; { read -r _ < closed; \"$FANOUT\" plan --config c.json --items i.json; echo $? > code; } \
        | { exec <&-; echo > closed; }; cat code";
    assert_eq!(shell(directory.path(), line), says(0, "0\n", ""));
}

#[test]
fn an_earlier_output_stays_as_it_was_when_the_command_fails() {
    let directory = directory(&FILES);
    fs::write(directory.path().join("o.json"), "earlier").unwrap();
    let arguments = ["plan", "--config", "broken.json", "--output", "o.json"];
    assert_eq!(said(directory.path(), &arguments).code, 1);
    assert_eq!(
        fs::read_to_string(directory.path().join("o.json")).unwrap(),
        "earlier"
    );
}

#[test]
fn an_output_is_replaced_through_its_link_and_keeps_its_mode() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = directory(&FILES);
    let target = directory.path().join("target.json");
    fs::write(
        &target,
        "earlier and much longer than what comes now".repeat(100),
    )
    .unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("target.json", directory.path().join("o.json")).unwrap();
    let arguments = [
        "plan", "--config", "c.json", "--items", "i.json", "--output",
    ];
    let to_stdout = said(directory.path(), &arguments[..5]);
    assert_eq!(
        said(directory.path(), &[&arguments[..], &["o.json"]].concat()),
        says(0, "", "")
    );
    assert_eq!(fs::read_to_string(&target).unwrap(), to_stdout.stdout);
    assert_eq!(
        fs::metadata(&target).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(directory.path().join("o.json").is_symlink());
    let names = [
        "broken.json",
        "c.json",
        "i.json",
        "o.json",
        "r.json",
        "target.json",
    ];
    assert_eq!(names_in(directory.path()), names);
}

#[test]
fn an_output_is_written_where_its_link_points_also_if_nothing_is_there_yet() {
    let directory = directory(&FILES);
    let link = directory.path().join("o.json");
    std::os::unix::fs::symlink("target.json", &link).unwrap();
    let plan = "plan --config c.json --items i.json --output o.json";
    let plan: Vec<_> = plan.split(' ').collect();
    assert_eq!(said(directory.path(), &plan), says(0, "", ""));
    assert!(link.is_symlink());
    let written = fs::read(directory.path().join("target.json")).unwrap();
    assert_eq!(compact_at(&document(&written), "summary.task_count"), "2");
}

#[test]
fn a_dash_is_standard_output_or_standard_input() {
    let directory = directory(&FILES);
    let plan = ["plan", "--config", "c.json", "--items", "i.json"];
    let expected = said(directory.path(), &plan);
    assert_eq!(
        said(directory.path(), &[&plan[..], &["--output", "-"]].concat()),
        expected
    );
    let items = ["plan", "--config", "c.json", "--items", "-"];
    assert_eq!(said_with(directory.path(), &items, ITEMS), expected);
    let config = ["plan", "--config", "-", "--items", "i.json"];
    assert_eq!(said_with(directory.path(), &config, CONFIG), expected);
    let nothing = said_with(directory.path(), &items, "");
    let problem = "error: -:1:1: expected a value, found the end of the document\n";
    assert_eq!(nothing, says(1, "", problem));
}

#[test]
fn standard_input_cannot_be_two_inputs() {
    let problem = "error: -: standard input can be read only once, but two inputs are `-`\n";
    let directory = directory(&FILES);
    for arguments in [
        "reconcile --config c.json --items - --records -",
        "--config c.json --items - --records -",
        "findings --packets - --records -",
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        assert_eq!(
            said_with(directory.path(), &arguments, ITEMS),
            says(1, "", problem)
        );
    }
}

#[test]
fn items_and_records_may_be_json_lines_and_a_plan_counts_more_than_items() {
    let files = [
        ("c.json", CONFIG),
        ("i.jsonl", "{\"c\":\"a\"}\n\n{\"c\":\"b\"}"),
        ("one.jsonl", "{\"c\":\"x\"}\n"),
    ];
    let records = "{\"id\":\"t-a\",\"success\":true}\n{\"id\":\"t-b\",\"status\":\"passed\"}\n";
    let result = given(
        &files,
        "reconcile --config c.json --items i.jsonl --records -",
        records,
    );
    assert_eq!(compact_at(&result, "status"), r#""completed""#);
    assert_eq!(
        compact_at(&result, "records"),
        r#"[{"id":"t-a","success":true,"status":"completed"},{"id":"t-b","status":"completed"}]"#
    );
    let plan = given(&files, "plan --config c.json --items one.jsonl", "");
    assert_eq!(
        compact_at(&plan, "task_requests"),
        r#"[{"id":"t-x","group_key":"x","orchestrator":{"group_index":0}}]"#
    );
    let files = [
        ("c.json", CONFIG),
        ("i.json", ITEMS),
        ("p.json", &*json::compact(&plan)),
        ("r.json", "[]"),
    ];
    let arguments = "--config c.json --plan p.json --items i.json --records r.json";
    for arguments in [arguments.to_owned(), format!("reconcile {arguments}")] {
        let result = given(&files, &arguments, "");
        assert_eq!(
            compact_at(&result, "records"),
            r#"[{"id":"t-x","group_key":"x","status":"missing_record"}]"#
        );
    }
}

#[test]
fn a_wrong_field_of_the_config_or_the_plan_is_named() {
    let wrong = |config: &str, arguments: &str, stderr: &str| {
        let directory = directory(&[("c.json", config), ("i.json", ITEMS), ("r.json", RECORDS)]);
        let arguments: Vec<_> = arguments.split(' ').collect();
        assert_eq!(said(directory.path(), &arguments), says(1, "", stderr));
    };
    wrong(
        r#"{"task_request_template":[]}"#,
        "plan --config c.json --items i.json",
        "error: config.task_request_template: must render to an object; for group 0 it renders to a list\n",
    );
    wrong(
        r#"{"matching":"x"}"#,
        "reconcile --config c.json --items i.json --records r.json",
        "error: config.matching: expected \"first_key\" or \"strict\", found \"x\"\n",
    );
    wrong(
        CONFIG,
        "reconcile --config c.json --plan c.json --records r.json",
        "error: plan.task_requests: expected a list of task requests, found nothing\n",
    );
}

#[test]
fn two_is_the_exit_code_of_a_result_that_is_not_completed_only_if_asked_for() {
    let directory = directory(&FILES);
    let inputs = ["--config", "c.json", "--items", "i.json", "--records"];
    for command in [&["reconcile"][..], &[]] {
        let code = |more: &[&str], input: &str| {
            let arguments = [command, &inputs, more].concat();
            said_with(directory.path(), &arguments, input).code
        };
        assert_eq!(code(&["r.json"], ""), 0);
        assert_eq!(code(&["r.json", "--fail-on-failure"], ""), 2);
        let all = r#"[{"id":"t-a","success":true},{"id":"t-b","success":true}]"#;
        assert_eq!(code(&["-", "--fail-on-failure"], all), 0);
    }
    let plan = [
        "--config",
        "c.json",
        "--items",
        "i.json",
        "--fail-on-failure",
    ];
    assert_eq!(said(directory.path(), &plan).code, 0);
    let to_file = [
        &["reconcile"],
        &inputs[..],
        &["r.json", "--fail-on-failure", "--output", "o.json"],
    ]
    .concat();
    assert_eq!(said(directory.path(), &to_file), says(2, "", ""));
    let result = fs::read(directory.path().join("o.json")).unwrap();
    assert_eq!(compact_at(&document(&result), "status"), r#""failed""#);
}

const PACKETS: &str =
    r#"[{"id":"p","findings":[{"id":"f1","type":"x","severity":"low"},{"id":"f2","type":"y"}]}]"#;
const POLICY: &str = r#"{"group_by":["finding.type"],"include_packet":false}"#;

#[test]
fn findings_are_grouped_by_a_member_without_a_name_if_the_path_ends_in_a_dot() {
    let packets = r#"[{"id":"p","findings":[{"id":"f","":"x"}]}]"#;
    for policy in [
        r#"{"group_by":["finding."]}"#,
        r#"{"group_key_template":"{{finding.}}"}"#,
    ] {
        let files = [("p.json", packets), ("policy.json", policy)];
        let plan = given(&files, "findings --packets p.json --policy policy.json", "");
        assert_eq!(
            compact_at(&plan, "groups"),
            r#"[{"key":"x","index":0,"item_count":1}]"#,
            "{policy}"
        );
    }
}

#[test]
fn findings_become_items_a_config_a_plan_or_a_result() {
    let records = r#"[{"id":"finding-packet-x","success":true}]"#;
    let files = [
        ("p.json", PACKETS),
        ("policy.json", POLICY),
        ("r.json", records),
    ];
    let findings = "findings --packets p.json --policy policy.json";
    let item = r#"{"id":"p:f1","packet_id":"p","finding_id":"f1","index":0,"packet_index":0,"group_key":"x","type":"x","severity":"low","path":"","message":"","finding":{"id":"f1","type":"x","severity":"low"}}"#;
    let other = r#"{"id":"p:f2","packet_id":"p","finding_id":"f2","index":1,"packet_index":0,"group_key":"y","type":"y","severity":"","path":"","message":"","finding":{"id":"f2","type":"y"}}"#;

    let items = given(&files, &format!("{findings} --emit items"), "");
    assert_eq!(json::compact(&items), format!("[{item},{other}]"));

    let config = given(&files, &format!("{findings} --emit config"), "");
    assert_eq!(compact_at(&config, "items"), format!("[{item},{other}]"));
    assert_eq!(
        compact_at(&config, "config.finding_policy.group_by"),
        r#"["finding.type"]"#
    );
    let groups = at(&config, "groups").as_array().unwrap();
    assert_eq!(
        json::compact(&groups[0]),
        format!(r#"{{"key":"x","index":0,"items":[{item}]}}"#)
    );

    let plan = given(&files, findings, "");
    assert_eq!(plan, given(&files, &format!("{findings} --emit plan"), ""));
    assert_eq!(
        compact_at(&plan, "groups"),
        r#"[{"key":"x","index":0,"item_count":1},{"key":"y","index":1,"item_count":1}]"#
    );

    let result = given(&files, &format!("{findings} --records r.json"), "");
    assert_eq!(
        result,
        given(
            &files,
            &format!("{findings} --records r.json --emit result"),
            ""
        )
    );
    assert_eq!(
        compact_at(&result, "records"),
        r#"[{"id":"finding-packet-x","success":true,"group_key":"","status":"completed"},{"id":"finding-packet-y","group_key":"y","status":"missing_record"}]"#
    );

    let input = given(
        &files,
        &format!("{findings} --records r.json --emit reconcile-input"),
        "",
    );
    assert_eq!(at(&input, "plan"), &plan);
    assert_eq!(
        compact_at(&input, "records"),
        r#"[{"id":"finding-packet-x","success":true,"group_key":""}]"#
    );
}

#[test]
fn findings_are_planned_with_the_given_config_and_fail_on_failure_if_asked_to() {
    let config = r#"{"orchestrator":{"run_id":"nightly"}}"#;
    let files = [("p.json", PACKETS), ("c.json", config), ("r.json", "[]")];
    let plan = given(&files, "findings --packets p.json --config c.json", "");
    assert_eq!(compact_at(&plan, "orchestrator"), r#"{"run_id":"nightly"}"#);
    assert_eq!(
        plan,
        given(&files, "findings --packets - --config c.json", PACKETS)
    );
    let directory = directory(&files);
    let arguments = [
        "findings",
        "--packets",
        "p.json",
        "--records",
        "r.json",
        "--fail-on-failure",
    ];
    assert_eq!(said(directory.path(), &arguments).code, 2);
    assert_eq!(said(directory.path(), &arguments[..5]).code, 0);
}
