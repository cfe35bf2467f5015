//! `fanout run`: a command for each task, and a record for each task whatever becomes of the command.

use std::fs;
use std::path::Path;

use fanout::json::{self, Value};
use nix::sys::signal::Signal;

use crate::harness::{
    Output, Program, Said, Served, directory, document, fanout, names_in, pipe, project, said,
    says, tell,
};
use crate::run_interrupted::lives;

const CONFIG: &str = r#"{"orchestrator":{"run_id":"r","plan_id":"p"},"group_key_path":"c","task_request_template":{"id":"t-{{group.key}}"}}"#;

/// A directory with a config and an item for each key.
pub fn tasks(keys: &[&str]) -> tempfile::TempDir {
    let items: String = keys
        .iter()
        .map(|key| format!("{{\"c\":\"{key}\"}}\n"))
        .collect();
    directory(&[("c.json", CONFIG), ("i.json", &items)])
}

pub fn command(directory: &Path, flags: &[&str], script: &str) -> std::process::Command {
    let mut command = fanout();
    command
        .current_dir(directory)
        .env("FANOUT", fanout().get_program());
    command.args(["run", "--config", "c.json", "--items", "i.json"]);
    command.args(flags).args(["--", "sh", "-c", script]);
    command
}

pub fn run(directory: &Path, flags: &[&str], script: &str) -> Said {
    Program::start(&mut command(directory, flags, script)).finish()
}

pub fn compact_at(document: &Value, field: &str) -> String {
    json::compact(document.get(field).unwrap())
}

/// The record of the only task, `t-a`.
#[track_caller]
fn record_of(flags: &[&str], script: &str) -> String {
    let directory = tasks(&["a"]);
    let said = run(directory.path(), &[&["-q"], flags].concat(), script);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let result = document(said.stdout.as_bytes());
    let records = result.get("records").unwrap().as_array().unwrap();
    assert_eq!(records.len(), 1);
    json::compact(&records[0])
}

/// The failed record of the only task, with this as its `executor_error`.
fn failed(error: &str) -> String {
    format!(r#"{{"task_id":"t-a","status":"failed","executor_error":{error}}}"#)
}

#[test]
fn every_task_is_run_and_its_record_is_in_the_result_document() {
    let directory = tasks(&["a", "b"]);
    let script = r#"printf '{"status":"completed","outcome":"done %s"}' "$FANOUT_GROUP_KEY""#;
    let said = run(
        directory.path(),
        &["--output", "new/result.json", "--concurrency", "1"],
        script,
    );
    assert_eq!((said.code, &*said.stdout), (0, ""));
    let lines: Vec<_> = said.stderr.lines().collect();
    assert!(
        lines[0].starts_with("completed    t-a  ") && lines[0].ends_with(" s"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("completed    t-b  ") && lines[1].ends_with(" s"),
        "{lines:?}"
    );
    assert_eq!(
        lines[2..],
        ["completed: 2 of 2 tasks recorded: 2 successful, 0 failed, 0 missing"]
    );
    let result = fs::read(directory.path().join("new/result.json")).unwrap();
    assert_eq!(
        json::compact(&document(&result)),
        concat!(
            r#"{"schema":"homeboy/generic-fanout-reconcile-result/v1","plan_schema":"homeboy/fanout-reconcile-plan/v1","#,
            r#""orchestrator":{"run_id":"r","plan_id":"p"},"#,
            r#""summary":{"item_count":2,"group_count":2,"task_count":2,"config_schema":"homeboy/generic-fanout-reconcile-config/v1"},"#,
            r#""records":[{"task_id":"t-a","status":"completed","outcome":"done a"},{"task_id":"t-b","status":"completed","outcome":"done b"}],"#,
            r#""outcomes":["done a","done b"],"#,
            r#""reconciliation":{"schema":"homeboy/generic-fanout-reconcile-reconciliation/v1","group_count":2,"task_count":2,"#,
            r#""record_count":2,"success_count":2,"failure_count":0,"outcome_count":2,"failed_task_ids":[]},"status":"completed"}"#
        )
    );
    let pretty = "{\n  \"schema\": \"homeboy/generic-fanout-reconcile-result/v1\",\n";
    assert!(result.starts_with(pretty.as_bytes()) && result.ends_with(b"\n}\n"));
}

#[test]
fn an_exit_code_is_in_the_failed_record_with_what_was_printed_and_the_end_of_standard_error() {
    let script =
        r#"echo '{"status":"completed","success":true,"n":1}'; echo 'disk full' >&2; exit 3"#;
    assert_eq!(
        record_of(&[], script),
        r#"{"task_id":"t-a","status":"failed","n":1,"executor_error":{"kind":"exit_code","message":"the executor exited with 3","exit_code":3,"stderr_tail":"disk full"}}"#
    );
}

#[test]
fn a_signal_is_in_the_failed_record_by_its_name() {
    assert_eq!(
        record_of(&[], "echo cut >&2; kill -KILL $$"),
        failed(
            r#"{"kind":"signal","message":"the executor was ended by SIGKILL","signal":9,"stderr_tail":"cut"}"#
        )
    );
}

#[test]
fn a_timeout_is_in_the_failed_record_and_ends_what_runs() {
    let directory = tasks(&["a"]);
    pipe(&directory.path().join("never"));
    let said = run(
        directory.path(),
        &["-q", "--timeout", "300ms"],
        "read -r _ < never",
    );
    let records = compact_at(&document(said.stdout.as_bytes()), "records");
    let error =
        r#"{"kind":"timeout","message":"the executor did not end within 0.3 s","timeout_ms":300}"#;
    assert_eq!(records, format!("[{}]", failed(error)));
    let counts = "failed: 1 of 1 tasks recorded: 0 successful, 1 failed, 0 missing\n";
    assert_eq!((said.code, &*said.stderr), (0, counts));
}

#[test]
fn an_output_that_is_no_record_is_in_the_failed_record_with_the_place() {
    assert_eq!(
        record_of(&[], "echo 'all good'; echo 'I am sure' >&2"),
        failed(concat!(
            r#"{"kind":"unreadable_record","message":"standard output is not one JSON object: 1:1: expected a value, found \"a\"","#,
            r#""stderr_tail":"I am sure"}"#
        ))
    );
    assert_eq!(
        record_of(&[], "echo '[1]'"),
        failed(
            r#"{"kind":"unreadable_record","message":"expected a JSON object on standard output, found a list"}"#
        )
    );
    assert_eq!(
        record_of(&[], "echo '{}'; echo '{}'"),
        failed(concat!(
            r#"{"kind":"unreadable_record","#,
            r#""message":"standard output is not one JSON object: 2:1: expected the end of the document, found \"{\""}"#
        ))
    );
}

#[test]
fn no_output_is_in_the_failed_record() {
    assert_eq!(
        record_of(&[], "cat > request; echo ' '; echo nothing to say >&2"),
        failed(
            r#"{"kind":"no_record","message":"the executor printed no record","stderr_tail":"nothing to say"}"#
        )
    );
}

#[test]
fn an_output_over_the_limit_is_in_the_failed_record_and_one_at_the_limit_is_not() {
    let text = |length: usize| {
        format!(
            "printf '{{\"status\":\"completed\",\"text\":\"'; head -c {length} /dev/zero | tr '\\0' x; printf '\"}}'"
        )
    };
    let around = r#"{"status":"completed","text":""}"#.len();
    assert_eq!(
        record_of(&[], &text((1 << 20) - around + 1)),
        failed(
            r#"{"kind":"record_too_large","message":"the executor printed more than 1048576 bytes","limit":1048576}"#
        )
    );
    let record = record_of(&[], &text((1 << 20) - around));
    assert!(record.starts_with(r#"{"task_id":"t-a","status":"completed","text":"xxx"#));
}

#[test]
fn only_the_last_4_kib_of_standard_error_are_kept() {
    let script = "echo begin >&2; head -c 10000 /dev/zero | tr '\\0' e >&2; exit 1";
    let tail = "e".repeat(4 << 10);
    let error = format!(
        r#"{{"kind":"exit_code","message":"the executor exited with 1","exit_code":1,"stderr_tail":"{tail}"}}"#
    );
    assert_eq!(record_of(&[], script), failed(&error));
}

#[test]
fn a_command_that_cannot_be_started_is_a_failed_record_of_every_task() {
    let directory = tasks(&["a"]);
    let arguments = [
        "run", "-q", "--config", "c.json", "--items", "i.json", "--", "./nope", "x",
    ];
    let said = said(directory.path(), &arguments);
    let error = r#"{"kind":"spawn_failed","message":"failed to start ./nope: No such file or directory (os error 2)"}"#;
    assert_eq!(said.code, 0);
    assert_eq!(
        compact_at(&document(said.stdout.as_bytes()), "records"),
        format!("[{}]", failed(error))
    );
}

#[test]
fn a_failed_task_is_shown_with_its_reason_and_is_exit_code_2_only_if_asked_for() {
    let directory = tasks(&["a"]);
    let said = run(directory.path(), &["--output", "o.json"], "exit 7");
    assert_eq!(said.code, 0);
    let lines: Vec<_> = said.stderr.lines().collect();
    assert!(lines[0].starts_with("failed       t-a  "), "{lines:?}");
    assert!(
        lines[0].ends_with(" s  (the executor exited with 7)"),
        "{lines:?}"
    );
    assert_eq!(
        lines[1..],
        ["failed: 1 of 1 tasks recorded: 0 successful, 1 failed, 0 missing"]
    );
    assert_eq!(
        run(directory.path(), &["--fail-on-failure"], "exit 7").code,
        2
    );
    let good = r#"echo '{"status":"completed"}'"#;
    assert_eq!(run(directory.path(), &["--fail-on-failure"], good).code, 0);
}

#[test]
fn a_result_that_cannot_be_written_where_it_should_is_printed() {
    let directory = tasks(&["a"]);
    let script = r#"echo '{"success":true}'"#;
    let printed = run(directory.path(), &["-q"], script);
    assert_eq!(printed.code, 0);
    let error = "error: c.json/o.json: failed to write: File exists (os error 17)\n";
    let lost = run(
        directory.path(),
        &["-q", "--output", "c.json/o.json"],
        script,
    );
    assert_eq!(lost, says(1, &printed.stdout, error));
}

#[test]
fn an_executor_gets_its_request_as_one_line_and_finds_its_plan_and_its_server() {
    let directory = tasks(&["a"]);
    let script = r#"
        cat > request
        "$FANOUT" get "$FANOUT_PLAN_ID" > plan
        printf '{"status":"completed","outcome":["%s","%s","%s"]}' "$FANOUT_PLAN_ID" "$FANOUT_TASK_ID" "$FANOUT_GROUP_KEY""#;
    let said = run(directory.path(), &["-q"], script);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let result = document(said.stdout.as_bytes());
    assert_eq!(compact_at(&result, "outcomes"), r#"[["r:p","t-a","a"]]"#);
    let request = fs::read_to_string(directory.path().join("request")).unwrap();
    assert_eq!(
        request,
        "{\"id\":\"t-a\",\"group_key\":\"a\",\"orchestrator\":{\"run_id\":\"r\",\"plan_id\":\"p\",\"group_index\":0}}\n"
    );
    let plan = fs::read_to_string(directory.path().join("plan")).unwrap();
    assert!(
        plan.starts_with("plan        r:p\nstatus      incomplete\n"),
        "{plan}"
    );
}

#[test]
fn a_group_key_that_no_environment_holds_is_left_out_of_it_and_its_task_runs() {
    let long = "x".repeat(32 << 10);
    let keys = [long.as_str(), &format!("{long}y"), "a\\u0000b", "c"];
    let items = keys.map(|key| format!(r#"{{"c":"{key}"}}"#)).join(",");
    let config = r#"{"group_key_path":"c","task_request_template":{"id":"t-{{group.index}}"}}"#;
    let directory = directory(&[("c.json", config), ("i.json", &format!("[{items}]"))]);
    // As if this were in an executor itself.
    let script = r#"
        [ -z "${FANOUT_GROUP_KEY+x}" ] && length='"none"' || length=${#FANOUT_GROUP_KEY}
        printf '{"status":"completed","outcome":%s}' "$length""#;
    let mut command = fanout();
    command
        .current_dir(directory.path())
        .env("FANOUT_GROUP_KEY", "of the executor outside")
        .args(["run", "--config", "c.json", "--items", "i.json", "-q"])
        .args(["--fail-on-failure", "--", "sh", "-c", script]);
    let said = Program::start(&mut command).finish();
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let result = document(said.stdout.as_bytes());
    assert_eq!(
        compact_at(&result, "outcomes"),
        r#"[32768,"none","none",1]"#
    );
}

#[test]
fn an_executor_need_not_read_its_request_however_long_it_is() {
    let items = format!("{{\"c\":\"a\",\"text\":\"{}\"}}", "x".repeat(1 << 20));
    let config =
        r#"{"group_key_path":"c","task_request_template":{"id":"t-a","items":"{{group.items}}"}}"#;
    let directory = directory(&[("c.json", config), ("i.json", &items)]);
    let said = run(
        directory.path(),
        &["-q", "--fail-on-failure"],
        r#"echo '{"success":true}'"#,
    );
    assert_eq!((said.code, &*said.stderr), (0, ""));
}

#[test]
fn as_many_tasks_run_at_the_same_time_as_was_asked_for_and_no_more() {
    let keys = ["a", "b", "c", "d", "e"];
    let directory = tasks(&keys);
    fs::create_dir(directory.path().join("running")).unwrap();
    for key in keys {
        pipe(&directory.path().join(format!("go-{key}")));
    }
    let mut started = Output::of_pipe(directory.path().join("started"));
    // Held open, so that its end is not the end of the first executor.
    let hold = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(directory.path().join("started"))
        .unwrap();
    let script = r#"
        mkdir "running/$FANOUT_GROUP_KEY"
        count=$(ls running | wc -l)
        echo "$FANOUT_GROUP_KEY" > started
        read -r _ < "go-$FANOUT_GROUP_KEY"
        rmdir "running/$FANOUT_GROUP_KEY"
        echo "{\"success\":true,\"outcome\":$count}""#;
    let flags = ["-q", "--concurrency", "2"];
    let program = Program::start(&mut command(directory.path(), &flags, script));
    let mut running = vec![started.line(), started.line()];
    for more in (0..keys.len()).rev() {
        let key = running.remove(0);
        tell(&directory.path().join(format!("go-{key}")), "go\n");
        if more >= 2 {
            running.push(started.line());
        }
    }
    drop(hold);
    let said = program.finish();
    let result = document(said.stdout.as_bytes());
    let counts = result.get("outcomes").unwrap().as_array().unwrap();
    let mut counts: Vec<_> = counts
        .iter()
        .map(|count| count.text().into_owned())
        .collect();
    counts.sort();
    assert_eq!(counts.len(), keys.len());
    assert_eq!(counts.last().map(String::as_str), Some("2"), "{counts:?}");
}

#[test]
fn the_config_may_ask_for_concurrency_but_not_for_more_than_the_limit() {
    let directory = tasks(&["a", "b", "c"]);
    for asked in ["100", "5000000000"] {
        let config = CONFIG.replacen('{', &format!("{{\"concurrency\":{asked},"), 1);
        fs::write(directory.path().join("c.json"), config).unwrap();
        // Two at the same time could not both make it.
        let script = r#"mkdir alone && "$FANOUT" --version > version && rmdir alone && echo '{"success":true}'"#;
        let said = run(
            directory.path(),
            &["-q", "--max-concurrency", "1", "--fail-on-failure"],
            script,
        );
        assert_eq!((said.code, &*said.stderr), (0, ""), "{asked}");
    }
}

#[test]
fn the_runs_own_coordinator_has_the_settings_of_the_environment() {
    let directory = tasks(&["a", "b"]);
    let with = |name: &str, value: &str| {
        let mut command = command(directory.path(), &["-q"], "touch ran");
        Program::start(command.env(name, value)).finish()
    };
    let error = "error: groups: more than 1 groups (InvalidArgument, LIMIT_EXCEEDED)\n";
    assert_eq!(with("FANOUT_TASKS_PER_PLAN_MAX", "1"), says(1, "", error));
    let error = "error: a setting in the environment: invalid value 'many' for '--plans-max <N>': \
                 invalid digit found in string\n";
    assert_eq!(with("FANOUT_PLANS_MAX", "many"), says(1, "", error));
    assert_eq!(names_in(directory.path()), ["c.json", "i.json"]);
}

#[test]
fn a_server_that_runs_already_is_used_and_keeps_the_plan() {
    let server = Served::start(&[]);
    let directory = tasks(&["a"]);
    let script = r#"printf '{"success":true,"outcome":"%s"}' "$FANOUT_SERVER""#;
    let said = run(
        directory.path(),
        &["-q", "--server", &server.address],
        script,
    );
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let outcomes = compact_at(&document(said.stdout.as_bytes()), "outcomes");
    assert_eq!(outcomes, format!("[{:?}]", server.address));
    let plan = document(server.said(&["get", "r:p", "--json"]).stdout.as_bytes());
    assert_eq!(compact_at(&plan, "status"), r#""completed""#);
}

#[test]
fn a_record_that_the_server_refuses_is_replaced_by_one_that_says_so() {
    let server = Served::start(&["--record-body-bytes-max", "2000"]);
    let script =
        "printf '{\"success\":true,\"text\":\"'; head -c 3000 /dev/zero | tr '\\0' x; printf '\"}'";
    assert_eq!(
        record_of(&["--server", &server.address], script),
        failed(
            r#"{"kind":"record_refused","message":"is 3026 bytes long, at most 2000 are allowed"}"#
        )
    );
}

#[test]
fn a_task_whose_record_is_refused_again_is_missing_and_the_run_says_so_and_fails() {
    let server = Served::start(&["--record-body-bytes-max", "16"]);
    let directory = tasks(&["a"]);
    let said = run(
        directory.path(),
        &["--server", &server.address],
        r#"echo '{"success":true,"text":"long"}'"#,
    );
    assert_eq!(said.code, 1);
    let line = "t-a: the coordinator takes no record of this task: is ";
    assert!(said.stderr.contains(line), "{}", said.stderr);
    let result = document(said.stdout.as_bytes());
    assert_eq!(compact_at(&result, "status"), r#""failed""#);
    assert_eq!(
        compact_at(&result, "records"),
        r#"[{"id":"t-a","group_key":"a","status":"missing_record"}]"#
    );
}

#[test]
fn run_again_only_tasks_without_a_record_are_run() {
    let server = Served::start(&[]);
    let directory = tasks(&["a", "b"]);
    let mut started = Output::of_pipe(directory.path().join("started"));
    pipe(&directory.path().join("never"));
    let record = r#"echo "$FANOUT_GROUP_KEY" >> ran; echo '{"success":true}'"#;
    let stuck =
        r#"[ "$FANOUT_GROUP_KEY" = a ] || { echo b > started; read -r _ < never; exit; }; "#;
    let flags = ["--server", &server.address, "--concurrency", "1"];
    let mut first = Program::start(&mut command(
        directory.path(),
        &flags,
        &format!("{stuck}{record}"),
    ));
    first.stderr.line_with("completed    t-a");
    assert_eq!(started.line(), "b");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.finish().code, -9);
    // Nobody else ends what it left behind.
    tell(&directory.path().join("never"), "");

    let again = run(
        directory.path(),
        &["-q", "--server", &server.address],
        record,
    );
    let there = "plan r:p is there already, with 1 of 2 tasks recorded; running the rest\n";
    assert_eq!((again.code, &*again.stderr), (0, there));
    let records = compact_at(&document(again.stdout.as_bytes()), "records");
    assert_eq!(
        records,
        r#"[{"task_id":"t-a","success":true,"status":"completed"},{"task_id":"t-b","success":true,"status":"completed"}]"#
    );
    assert_eq!(
        fs::read_to_string(directory.path().join("ran")).unwrap(),
        "a\nb\n"
    );

    let ended = "plan r:p has ended already (all_recorded); nothing is run\n\
                 completed: 2 of 2 tasks recorded: 2 successful, 0 failed, 0 missing\n";
    let third = run(directory.path(), &["--server", &server.address], record);
    assert_eq!(third, says(0, &again.stdout, ended));
    assert_eq!(
        fs::read_to_string(directory.path().join("ran")).unwrap(),
        "a\nb\n"
    );
}

#[test]
fn what_an_executor_leaves_behind_is_ended_once_it_has_exited() {
    let directory = tasks(&["a"]);
    pipe(&directory.path().join("never"));
    let mut alive = Output::of_pipe(directory.path().join("alive"));
    let script = r#"
        mkfifo ready
        sh -c 'exec 3> alive; echo $$ >&3; echo > ready; read -r _ < never' &
        read -r _ < ready
        echo '{"success":true}'"#;
    let said = run(directory.path(), &["-q"], script);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let pid = alive.rest();
    assert!(!pid.is_empty());
    assert!(!lives(pid.trim()));
}

#[test]
fn the_lint_triage_example_gives_its_14_outcomes() {
    let example = |name: &str| {
        project("examples/lint-triage")
            .join(name)
            .display()
            .to_string()
    };
    let arguments = [
        "run",
        "-q",
        "--fail-on-failure",
        "--config",
        &example("config.json"),
        "--packets",
        &example("packets.json"),
        "--policy",
        &example("policy.json"),
        "--",
        "sh",
        &example("triage.sh"),
    ];
    let said = said(&project(""), &arguments);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let result = document(said.stdout.as_bytes());
    let outcomes = result.get("outcomes").unwrap().as_array().unwrap();
    let outcomes: Vec<_> = outcomes.iter().map(json::compact).collect();
    assert_eq!(
        outcomes,
        [
            r#"{"rule":"B028","verdict":"fix-first","findings":9,"fixable":0,"files":4,"worst_file":"src/requests/__init__.py"}"#,
            r#"{"rule":"UP032","verdict":"autofix","findings":5,"fixable":5,"files":3,"worst_file":"src/requests/__init__.py"}"#,
            r#"{"rule":"E501","verdict":"review","findings":38,"fixable":0,"files":7,"worst_file":"src/requests/api.py"}"#,
            r#"{"rule":"E402","verdict":"review","findings":17,"fixable":0,"files":2,"worst_file":"src/requests/__init__.py"}"#,
            r#"{"rule":"F401","verdict":"fix-first","findings":59,"fixable":24,"files":2,"worst_file":"src/requests/__init__.py"}"#,
            r#"{"rule":"UP006","verdict":"autofix","findings":3,"fixable":3,"files":1,"worst_file":"src/requests/adapters.py"}"#,
            r#"{"rule":"RUF012","verdict":"review","findings":3,"fixable":0,"files":3,"worst_file":"src/requests/adapters.py"}"#,
            r#"{"rule":"B904","verdict":"fix-first","findings":27,"fixable":0,"files":4,"worst_file":"src/requests/adapters.py"}"#,
            r#"{"rule":"B018","verdict":"fix-first","findings":4,"fixable":0,"files":3,"worst_file":"src/requests/sessions.py"}"#,
            r#"{"rule":"B004","verdict":"fix-first","findings":1,"fixable":0,"files":1,"worst_file":"src/requests/hooks.py"}"#,
            r#"{"rule":"B010","verdict":"autofix","findings":2,"fixable":2,"files":1,"worst_file":"src/requests/models.py"}"#,
            r#"{"rule":"UP031","verdict":"review","findings":1,"fixable":0,"files":1,"worst_file":"src/requests/status_codes.py"}"#,
            r#"{"rule":"RUF100","verdict":"autofix","findings":1,"fixable":1,"files":1,"worst_file":"src/requests/utils.py"}"#,
            r#"{"rule":"RUF059","verdict":"review","findings":3,"fixable":0,"files":1,"worst_file":"src/requests/utils.py"}"#,
        ]
    );
}

/// The ids of the tasks without a record, and the document's `completion_reason`.
fn missing(result: &Value) -> (Vec<String>, String) {
    let records = result.get("records").unwrap().as_array().unwrap();
    let missing = records
        .iter()
        .filter(|record| record.get("status").and_then(Value::as_str) == Some("missing_record"));
    let ids = missing.map(|record| record.get("id").unwrap().as_str().unwrap().to_owned());
    let reason = result.get("completion_reason").map(json::compact);
    (ids.collect(), reason.unwrap_or_default())
}

#[test]
fn one_failure_more_than_is_tolerated_ends_the_run_and_what_was_not_begun_is_missing() {
    let directory = tasks(&["a", "b", "c", "d"]);
    let script = r#"[ "$FANOUT_GROUP_KEY" = a ] && exec printf '{"status":"completed"}'; exit 1"#;
    let flags = ["--concurrency", "1", "--tolerate-failures", "1"];
    let said = run(directory.path(), &flags, script);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let result = document(said.stdout.as_bytes());
    assert_eq!(
        missing(&result),
        (vec!["t-d".to_owned()], r#""tolerance_exceeded""#.to_owned())
    );
    let lines: Vec<_> = said.stderr.lines().collect();
    assert!(
        lines.contains(&"the plan has ended: tolerance_exceeded"),
        "{lines:?}"
    );
    let failing = [&flags[..], &["-q", "--fail-on-failure"]].concat();
    assert_eq!(run(directory.path(), &failing, script).code, 2);
}

#[test]
fn failures_that_are_tolerated_leave_the_run_completed() {
    let directory = tasks(&["a", "b", "c", "d"]);
    let script = r#"[ "$FANOUT_GROUP_KEY" = a ] && exit 1; printf '{"status":"completed"}'"#;
    let flags = [
        "-q",
        "--tolerate-failure-percentage",
        "25",
        "--fail-on-failure",
    ];
    let said = run(directory.path(), &flags, script);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    let result = document(said.stdout.as_bytes());
    assert_eq!(missing(&result), (vec![], r#""all_recorded""#.to_owned()));
}

#[test]
fn enough_successful_tasks_end_the_run_and_those_that_still_run() {
    let directory = tasks(&["a", "b", "c"]);
    pipe(&directory.path().join("begun"));
    let script = r#"
        case $FANOUT_GROUP_KEY in
        a) echo > begun; exec sleep 600 ;;
        b) read -r _ < begun; printf '{"status":"completed"}' ;;
        *) touch in-vain ;;
        esac"#;
    let flags = ["-q", "--concurrency", "2", "--min-successful", "1"];
    let said = run(directory.path(), &flags, script);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let result = document(said.stdout.as_bytes());
    assert_eq!(
        (missing(&result), compact_at(&result, "status")),
        (
            (
                vec!["t-a".to_owned(), "t-c".to_owned()],
                r#""minimum_reached""#.to_owned()
            ),
            r#""completed""#.to_owned()
        )
    );
}

#[test]
fn a_run_is_over_at_its_deadline_whatever_its_executors_do() {
    let directory = tasks(&["a", "b"]);
    let script =
        r#"[ "$FANOUT_GROUP_KEY" = a ] && exec printf '{"status":"completed"}'; exec sleep 600"#;
    let said = run(directory.path(), &["--deadline", "2s"], script);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let result = document(said.stdout.as_bytes());
    assert_eq!(missing(&result).0, ["t-b"]);
    assert_eq!(compact_at(&result, "status"), r#""failed""#);
    let lines: Vec<_> = said.stderr.lines().collect();
    assert_eq!(
        lines[1..],
        [
            "the plan has ended: deadline",
            "failed: 1 of 2 tasks recorded: 1 successful, 0 failed, 1 missing"
        ]
    );
}

#[test]
fn a_deadline_that_the_coordinator_does_not_take_is_refused_with_its_reason() {
    let directory = tasks(&["a"]);
    let said = run(directory.path(), &["--deadline", "31d"], "true");
    let error =
        "error: timeout: is 2678400s, expected 1ms to 30d (InvalidArgument, INVALID_DURATION)\n";
    assert_eq!(said, says(1, "", error));
}
