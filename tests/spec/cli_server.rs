//! The commands that talk to a server: `fanout serve` as a process of its own, and its clients.

use std::net::TcpStream;
use std::process::Command;

use fanout::json;
use fanout::proto::{Plan, RecordKind, SubmitRecordsRequest};

use nix::sys::signal::Signal;

use crate::harness::{
    Program, Served, directory, document, fanout, plan_request, record, said, says,
};

/// A server with a plan `p` of the tasks `task-a` and `task-b`.
fn with_plan() -> (Served, Plan) {
    let server = Served::start(&[]);
    let plan = server.plan(plan_request("p", &["a", "b"]));
    (server, plan)
}

/// A plan as `--json` shows it; its times are what they are.
fn shown(server: &Served, plan_id: &str) -> json::Value {
    let said = server.said(&["get", plan_id, "--json"]);
    assert_eq!((said.code, &*said.stderr), (0, ""));
    assert_eq!(said.stdout.matches('\n').count(), 1);
    document(said.stdout.as_bytes())
}

fn text<'v>(value: &'v json::Value, field: &str) -> &'v str {
    value.get(field).unwrap().as_str().unwrap()
}

const EMPTY: &str = "0 of 2 tasks recorded: 0 successful, 0 failed, 2 missing";
const HALF: &str = "1 of 2 tasks recorded: 1 successful, 0 failed, 1 missing";
const WHOLE: &str = "2 of 2 tasks recorded: 2 successful, 0 failed, 0 missing";

#[test]
fn serve_announces_the_port_it_found_and_a_limit_that_was_set() {
    let mut program =
        Program::start(fanout().args(["serve", "--listen", "127.0.0.1:0", "--plans-max", "7"]));
    let line = program.stderr.line();
    assert!(
        line.contains(" INFO fanout::cli::serve: serving address=127.0.0.1:"),
        "{line}"
    );
    assert!(!line.contains("address=127.0.0.1:0 "), "{line}");
    let line = program.stderr.line_with(" setting plans-max ");
    assert!(line.contains("value=\"7\""), "{line}");
}

#[test]
fn every_setting_of_serve_is_in_the_operations_document() {
    let help = Program::start(fanout().args(["serve", "--help"]))
        .finish()
        .stdout;
    let document = std::fs::read_to_string(crate::harness::project("docs/operations.md")).unwrap();
    let mut settings = 0;
    for line in help.lines().map(str::trim) {
        let flag = line
            .strip_prefix("--")
            .and_then(|flag| flag.split(' ').next());
        let variable = line
            .strip_prefix("[env: ")
            .and_then(|name| name.split(['=', ']']).next());
        for name in flag
            .map(|flag| format!("--{flag}"))
            .into_iter()
            .chain(variable.map(str::to_owned))
        {
            assert!(
                document.contains(&format!("| `{name}` |")),
                "{name} is not in docs/operations.md"
            );
            settings += 1;
        }
    }
    assert!(settings >= 50, "{settings} flags and variables were found");
}

#[test]
fn serve_refuses_a_log_filter_that_it_cannot_understand() {
    let mut command = fanout();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("FANOUT_LOG", "fanout=???");
    let said = Program::start(&mut command).finish();
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.starts_with("error: FANOUT_LOG: "),
        "{}",
        said.stderr
    );
}

#[test]
fn serve_logs_one_json_object_a_line_if_asked_to() {
    let mut command = fanout();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("FANOUT_LOG_FORMAT", "json");
    let mut program = Program::start(&mut command);
    let line = document(program.stderr.line().as_bytes());
    let fields = line.get("fields").unwrap();
    assert_eq!(text(&line, "level"), "INFO");
    assert_eq!(text(fields, "message"), "serving");
    assert_eq!(text(fields, "journal"), "memory");
}

#[test]
fn every_step_of_a_change_is_timed_in_the_log_if_asked_to() {
    let mut command = fanout();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("FANOUT_LOG_FORMAT", "json")
        .env("FANOUT_LOG", "fanout=trace");
    let mut program = Program::start(&mut command);
    let serving = document(program.stderr.line().as_bytes());
    let address = text(serving.get("fields").unwrap(), "address").to_owned();
    let directory = directory(&[
        (
            "c.json",
            r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#,
        ),
        ("i.json", r#"[{"k":"a"},{"k":"b"}]"#),
        ("r.jsonl", "{\"id\":\"task-a\",\"success\":true}\n"),
    ]);
    for arguments in [
        &[
            "plan",
            "--config",
            "c.json",
            "--items",
            "i.json",
            "--register",
            "--plan-id",
            "p",
        ][..],
        &["submit", "--plan-id", "p", "r.jsonl"],
    ] {
        let mut command = fanout();
        command
            .env("FANOUT_SERVER", format!("http://{address}"))
            .current_dir(directory.path());
        assert_eq!(Program::start(command.args(arguments)).finish().code, 0);
    }
    for step in [
        "read", "turn", "decide", "append", "apply", "write", "change",
    ] {
        let line = program
            .stderr
            .line_with(&format!("\"name\":\"{step}\"}},\"spans\""));
        let line = document(line.as_bytes());
        let fields = line.get("fields").unwrap();
        assert_eq!(text(fields, "message"), "close");
        assert!(text(fields, "time.busy").ends_with('s'), "{line:?}");
    }
}

/// `fanout serve` on a free port, in a shell that has done this first.
fn serve_after(first: &str, arguments: &[&str]) -> Command {
    let fanout = fanout();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{first} && exec \"$0\" \"$@\"")])
        .arg(fanout.get_program())
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(arguments);
    for (name, value) in fanout.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[test]
fn serve_may_open_as_many_files_as_its_connections_need() {
    // What is allowed at first is low, and may be raised.
    let arguments = ["--connections-max", "100", "--first-bytes-timeout", "2m"];
    let server = Served::of(&mut serve_after("ulimit -S -n 40", &arguments));
    let connect = |_| TcpStream::connect(&server.address).unwrap();
    let held: Vec<_> = (0..60).map(connect).collect();
    assert_eq!(server.said(&["health"]).code, 0);
    drop(held);
}

#[test]
fn serve_warns_if_it_may_open_fewer_files_than_its_connections_need() {
    let mut serve = serve_after("ulimit -n 40", &["--connections-max", "100"]);
    let mut program = Program::start(&mut serve);
    let warning = program.stderr.line_with("fewer open files");
    for part in [
        " WARN ",
        "open_files=40 needed=356 connections_max=100",
        "--connections-max",
        "ulimit -n",
    ] {
        assert!(warning.contains(part), "{warning}");
    }
    program.stderr.line_with("serving address=");
}

#[test]
fn serve_warns_if_others_than_this_machine_can_reach_it_and_it_was_said_to_be_insecure() {
    let mut command = fanout();
    let mut program =
        Program::start(command.args(["serve", "--listen", "0.0.0.0:0", "--insecure"]));
    let line = program.stderr.line();
    let warning = " WARN fanout::cli::serve: insecure, as it was said to be address=0.0.0.0:";
    assert!(line.contains(warning), "{line}");
}

#[test]
fn a_config_with_packets_of_its_own_means_the_same_in_files_as_at_a_coordinator() {
    let server = Served::start(&[]);
    let config = r#"{"packets":[{"id":"p","findings":[{"id":"f"},{"id":"g"}]}],
        "finding_policy":{"group_by":["finding.id"]},
        "task_request_template":{"id":"task-{{group.key}}"}}"#;
    let record = "{\"id\":\"task-f\",\"success\":true}\n";
    let directory = directory(&[("c.json", config), ("r.jsonl", record)]);
    let said_of = |arguments: &[&str]| server.said_in(directory.path(), arguments);
    let plan = ["plan", "--config", "c.json"];
    let registered = said_of(&[&plan[..], &["--register", "--plan-id", "p"]].concat());
    assert_eq!(registered.stderr, "plan p is registered, 2 tasks\n");
    let written = document(registered.stdout.as_bytes());
    let ids = written.get("task_requests").unwrap().as_array().unwrap();
    let ids: Vec<_> = ids.iter().map(|request| text(request, "id")).collect();
    assert_eq!(ids, ["task-f", "task-g"]);
    let only_written = said_of(&plan);
    assert_eq!(only_written, says(0, &registered.stdout, ""));

    assert_eq!(said_of(&["submit", "--plan-id", "p", "r.jsonl"]).code, 0);
    let sealed = said_of(&["reconcile", "--plan-id", "p", "--seal"]);
    let from_files = said_of(&["reconcile", "--config", "c.json", "--records", "r.jsonl"]);
    assert_eq!(sealed, says(0, &from_files.stdout, ""));
}

#[test]
fn a_registered_plan_takes_records_and_its_result_is_that_of_the_files() {
    let server = Served::start(&[]);
    let directory = directory(&[
        (
            "c.json",
            r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#,
        ),
        ("i.json", r#"[{"k":"a"},{"k":"b"}]"#),
        ("r.jsonl", "{\"id\":\"task-a\",\"success\":true}\n"),
    ]);
    let files = ["--config", "c.json", "--items", "i.json"];
    let said_of = |arguments: &[&str]| server.said_in(directory.path(), arguments);
    let register = [&["plan"], &files[..], &["--register", "--plan-id", "p"]].concat();
    let planned = said_of(&[&["plan"], &files[..]].concat());
    assert_eq!(
        said_of(&register),
        says(0, &planned.stdout, "plan p is registered, 2 tasks\n")
    );
    assert_eq!(
        said_of(&register).stderr,
        "plan p was registered already, 2 tasks\n"
    );
    assert_eq!(said_of(&["submit", "--plan-id", "p", "r.jsonl"]).code, 0);

    let open = said_of(&[
        "reconcile",
        "--plan-id",
        "p",
        "--wait",
        "1ms",
        "--fail-on-failure",
    ]);
    assert_eq!(
        (open.code, text(&document(open.stdout.as_bytes()), "status")),
        (2, "incomplete")
    );
    let sealed = said_of(&["reconcile", "--plan-id", "p", "--seal"]);
    let from_files = said_of(&[&["reconcile"], &files[..], &["--records", "r.jsonl"]].concat());
    assert_eq!(sealed, says(0, &from_files.stdout, ""));
    let too_long = said_of(&["reconcile", "--plan-id", "p", "--wait", "6m"]);
    let refusal = "error: wait: is 360s, expected 0s to 5m (InvalidArgument, INVALID_DURATION)\n";
    assert_eq!(too_long, says(1, "", refusal));
}

#[test]
fn tasks_explain_and_quarantine_show_what_is_missing_and_repair_it() {
    let (server, _) = with_plan();
    let records =
        "{\"id\":\"task-a\",\"status\":\"failed\"}\n{\"id\":\"tsk-b\",\"status\":\"passed\"}\n";
    server.said_with(&["submit", "--plan-id", "p"], records);
    let table = "TASK    STATE     STATUS  REVISION  WHY MISSING\n\
                 task-a  recorded  failed  1         -\n\
                 task-b  pending   -       0         never_started\n";
    assert_eq!(server.said(&["tasks", "p"]), says(0, table, ""));
    let pending = server.said(&["tasks", "p", "--state", "pending", "--json"]);
    let task = document(pending.stdout.as_bytes());
    assert_eq!(
        (text(&task, "task_id"), text(&task, "missing_cause")),
        ("task-b", "never_started")
    );
    assert_eq!(text(task.get("request").unwrap(), "id"), "task-b");
    let why = "task-a: recorded\n  recorded_unsuccessful: its record is failed (not successful), matched by id\n";
    assert_eq!(server.said(&["explain", "p", "task-a"]), says(0, why, ""));
    let again = "{\"id\":\"task-a\",\"status\":\"passed\"}\n";
    server.said_with(&["submit", "--plan-id", "p"], again);
    let why = "task-a: recorded\n  \
               recorded_successful: its record is completed (successful), matched by id\n  \
               superseded_previous: it is record 2 of this task\n";
    assert_eq!(server.said(&["explain", "p", "task-a"]), says(0, why, ""));
    let why = "task-b: pending\n  never_started: nothing was heard of it\n";
    assert_eq!(server.said(&["explain", "p", "task-b"]), says(0, why, ""));
    let list = "ID  REASON     RESOLUTION  CANDIDATES  RECORD\n\
                1   unmatched  -           -           {\"id\":\"tsk-b\",\"status\":\"completed\"}\n";
    assert_eq!(server.said(&["quarantine", "list", "p"]), says(0, list, ""));
    let done = "record 1: accepted, task-b is completed\n";
    let rematch = [
        "quarantine",
        "rematch",
        "p",
        "1",
        "task-b",
        "--reason",
        "typo",
    ];
    assert_eq!(server.said(&rematch), says(0, done, ""));
    let refused = "error: record 1 in quarantine was applied to a task already (FailedPrecondition, QUARANTINED_RECORD_RESOLVED)\n";
    assert_eq!(
        server.said(&["quarantine", "discard", "p", "1"]),
        says(1, "", refused)
    );
    assert_eq!(
        server
            .said(&["quarantine", "list", "p"])
            .stdout
            .lines()
            .count(),
        1
    );
    let all = document(
        server
            .said(&["quarantine", "list", "p", "--all", "--json"])
            .stdout
            .as_bytes(),
    );
    assert_eq!(
        (text(&all, "resolution"), text(&all, "resolution_note")),
        ("rematched", "typo")
    );
    let json = document(
        server
            .said(&["explain", "p", "task-b", "--json"])
            .stdout
            .as_bytes(),
    );
    assert_eq!(
        (text(&json, "state"), text(&json, "matched_by")),
        ("recorded", "operator")
    );
    let said = server.said(&["explain", "p", "task-b"]).stdout;
    for reason in [
        "its record is completed (successful), matched by an operator\n",
        "plan_ended: the plan has ended: all_recorded\n",
    ] {
        assert!(said.contains(reason), "{said}");
    }
    let unknown = "error: plan \"p\" has no task \"x\" (NotFound, TASK_NOT_FOUND)\n";
    assert_eq!(server.said(&["explain", "p", "x"]), says(1, "", unknown));
}

#[test]
fn get_shows_a_plan_as_a_table_and_as_one_json_object() {
    let (server, plan) = with_plan();
    let created = plan.create_time.unwrap().to_string();
    let (digest, cursor) = (&plan.digest, &plan.cursor);
    let table = format!(
        "plan        p\nstatus      incomplete\ntasks       {EMPTY}\ncreated     {created}\ndeadline    -\n\
         ended       -\ndigest      {digest}\ncursor      {cursor}\n"
    );
    assert_eq!(server.said(&["get", "p"]), says(0, &table, ""));
    let json = format!(
        r#"{{"plan_id":"p","status":"incomplete","end_reason":"unspecified","end_note":"","counts":{{"items":2,"groups":2,"tasks":2,"recorded":0,"successful":0,"failed":0,"missing":2,"running":0,"outcomes":0,"quarantined":0}},"sequence":1,"cursor":"{cursor}","digest":"{digest}","labels":{{}},"create_time":"{created}","deadline":null,"end_time":null,"expire_time":null}}"#
    );
    assert_eq!(
        server.said(&["get", "p", "--json"]),
        says(0, &(json + "\n"), "")
    );
}

#[test]
fn every_command_says_which_plan_there_is_none_of() {
    let server = Served::start(&[]);
    let unknown = "error: there is no plan \"nope\" (NotFound, PLAN_NOT_FOUND)\n";
    for command in ["get", "watch", "seal", "cancel", "delete"] {
        assert_eq!(
            server.said(&[command, "nope"]),
            says(1, "", unknown),
            "{command}"
        );
    }
    let submit = server.said_with(&["submit", "--plan-id", "nope"], "{\"id\":\"x\"}\n");
    assert_eq!(submit, says(1, "", unknown));
}

#[test]
fn what_a_plan_is_called_cannot_steer_a_terminal() {
    let server = Served::start(&[]);
    server.plan(plan_request("\u{1b}[31mred", &["a"]));
    let said = server.said(&["get", "\u{1b}[31mred"]);
    assert!(
        said.stdout.starts_with("plan        \\u{1b}[31mred\n"),
        "{}",
        said.stdout
    );
    let said = server.said(&["get", "\u{1b}[32m"]);
    let unknown = "error: there is no plan \"\\u{1b}[32m\" (NotFound, PLAN_NOT_FOUND)\n";
    assert_eq!(said, says(1, "", unknown));
}

#[test]
fn list_shows_plans_oldest_first_and_only_those_with_every_label_asked_for() {
    let server = Served::start(&[]);
    assert_eq!(
        server.said(&["list"]),
        says(0, "PLAN  STATUS  RECORDED  FAILED  MISSING  CREATED\n", "")
    );
    assert_eq!(server.said(&["list", "--json"]), says(0, "", ""));
    let mut created = Vec::new();
    for (plan_id, labels) in [
        ("zebra", &[("team", "x"), ("stage", "1")][..]),
        ("ant", &[("team", "x")]),
        ("fly", &[]),
    ] {
        let mut request = plan_request(plan_id, &["a", "b"]);
        let labels = labels
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        request.labels = labels.collect();
        created.push(server.plan(request).create_time.unwrap().to_string());
    }
    let header = "PLAN   STATUS      RECORDED  FAILED  MISSING  CREATED\n";
    let row = |name: &str, at: usize| {
        format!(
            "{name:<5}  incomplete  0/2       0       2        {}\n",
            created[at]
        )
    };
    let (zebra, ant, fly) = (row("zebra", 0), row("ant", 1), row("fly", 2));
    assert_eq!(
        server.said(&["list"]),
        says(0, &format!("{header}{zebra}{ant}{fly}"), "")
    );
    let labelled = server.said(&["list", "--label", "team=x"]);
    assert_eq!(labelled, says(0, &format!("{header}{zebra}{ant}"), ""));
    let both = server.said(&["list", "--label", "team=x", "--label", "stage=1"]);
    assert_eq!(both, says(0, &format!("{header}{zebra}"), ""));
    assert_eq!(
        server
            .said(&["list", "--json", "--label", "stage=1"])
            .stdout,
        json::compact(&shown(&server, "zebra")) + "\n"
    );
    assert_eq!(
        json::compact(shown(&server, "zebra").get("labels").unwrap()),
        r#"{"stage":"1","team":"x"}"#
    );
}

#[test]
fn list_goes_on_after_a_full_page() {
    let server = Served::start(&[]);
    server.call(async |mut client| {
        for number in 0..1_001 {
            let request = plan_request(&format!("plan-{number}"), &["a"]);
            client.plan(request).await.unwrap();
        }
    });
    let said = server.said(&["list"]);
    assert_eq!(said.stdout.lines().count(), 1_002);
    assert!(
        said.stdout
            .lines()
            .last()
            .unwrap()
            .starts_with("plan-1000  incomplete  0/1 ")
    );
}

#[test]
fn submit_sends_a_file_as_a_list_or_as_lines_and_prints_nothing_but_counts_if_all_is_well() {
    let (server, _) = with_plan();
    let files = directory(&[
        ("list.json", r#"[{"id":"task-a","status":"completed"}]"#),
        (
            "lines.jsonl",
            "{\"id\":\"task-a\",\"status\":\"completed\"}\n\n{\"id\":\"task-b\",\"success\":true}\n",
        ),
    ]);
    let submit = |file: &str| {
        let path = files.path().join(file);
        server.said(&["submit", "--plan-id", "p", path.to_str().unwrap()])
    };
    assert_eq!(
        submit("list.json"),
        says(0, "", &format!("1 record: 1 accepted\nplan p: {HALF}\n"))
    );
    assert_eq!(
        submit("lines.jsonl"),
        says(
            0,
            "",
            &format!("2 records: 1 accepted, 1 duplicate\nplan p: {WHOLE}\n")
        )
    );
}

#[test]
fn submit_takes_standard_input_line_by_line_as_it_comes() {
    let (server, _) = with_plan();
    let mut program = Program::start(&mut server.client(&["submit", "--plan-id", "p", "--json"]));
    program.say("{\"id\":\"task-a\",\"status\":\"completed\"}\n");
    assert_eq!(
        program.stdout.line(),
        r#"{"record":0,"disposition":"accepted","code":0,"task_id":"task-a","matched_by":"id","revision":1,"sequence":2,"status":"completed"}"#
    );
    program.say("[{\"group_key\":\"b\",\"status\":\"broke\"}]\n");
    assert_eq!(
        program.stdout.line(),
        r#"{"record":1,"disposition":"accepted","code":0,"task_id":"task-b","matched_by":"group_key","revision":1,"sequence":4,"status":"failed"}"#
    );
    let said = program.finish();
    let counts = "2 of 2 tasks recorded: 1 successful, 1 failed, 0 missing";
    let stderr = format!("2 records: 2 accepted\nplan p: {counts}\n");
    assert_eq!((said.code, said.stderr), (0, stderr));
}

#[test]
fn submit_prints_each_record_that_was_not_applied_with_the_reason() {
    let server = Served::start(&["--record-body-bytes-max", "100"]);
    let mut request = plan_request("p", &["a", "b"]);
    request.config = r#"{"group_key_path":"k","task_request_template":{"id":"task-{{group.key}}","group_key":"both"}}"#.into();
    server.plan(request);
    let long = "x".repeat(100);
    let records = format!(
        "{{\"id\":\"task-a\",\"status\":\"completed\"}}\n{{\"id\":\"nobody\"}}\n{{\"group_key\":\"both\"}}\n5\n\
         {{\"id\":\"task-a\",\"text\":\"{long}\"}}\n"
    );
    let stdout = format!(
        "record 1: unmatched: no key names a planned task {{\"id\":\"nobody\"}}\n\
         record 2: ambiguous: it may be for task-a, task-b {{\"group_key\":\"both\"}}\n\
         record 3: invalid: body: 1:1: expected an object, found \"5\" 5\n\
         record 4: too_large: body: is 125 bytes long, at most 100 are allowed {{\"id\":\"task-a\",\"text\":\"{}…\n",
        "x".repeat(36)
    );
    let stderr = format!(
        "5 records: 1 accepted, 1 ambiguous, 1 invalid, 1 too_large, 1 unmatched\n\
         plan p: {HALF}; 2 records in quarantine\n"
    );
    let submit = ["submit", "--plan-id", "p"];
    assert_eq!(
        server.said_with(&submit, &records),
        says(0, &stdout, &stderr)
    );
    let code = |record: &str| {
        server
            .said_with(&[&submit[..], &["--fail-on-failure"]].concat(), record)
            .code
    };
    assert_eq!(code("{\"id\":\"nobody\"}"), 2);
    assert_eq!(code("{\"id\":\"task-a\",\"status\":\"completed\"}"), 0);
    let said = server.said_with(&["submit", "--plan-id", "p", "--json"], "\n7\n");
    assert_eq!(
        said.stdout,
        "{\"record\":0,\"disposition\":\"invalid\",\"code\":3,\"task_id\":\"\",\"matched_by\":\"unspecified\",\
         \"revision\":0,\"sequence\":0,\"status\":\"unspecified\",\"violation\":{\"field\":\"body\",\
         \"description\":\"1:1: expected an object, found \\\"7\\\"\",\"reason\":\"INVALID_JSON\",\"limit\":0}}\n"
    );
}

#[test]
fn submit_to_an_ended_plan_is_late_unless_it_is_the_same_again() {
    let (server, _) = with_plan();
    let submit = |records: &str| server.said_with(&["submit", "--plan-id", "p"], records);
    let record = "{\"id\":\"task-a\",\"status\":\"completed\"}\n";
    submit(record);
    server.said(&["seal", "p"]);
    assert_eq!(
        submit(record),
        says(0, "", &format!("1 record: 1 duplicate\nplan p: {HALF}\n"))
    );
    let other = "record 0: late: the plan has ended; task task-a keeps what it has {\"id\":\"task-a\",\"status\":\"broke\"}\n";
    let counts = format!("1 record: 1 late\nplan p: {HALF}; 1 record in quarantine\n");
    assert_eq!(
        submit("{\"id\":\"task-a\",\"status\":\"broke\"}"),
        says(0, other, &counts)
    );
}

#[test]
fn submit_names_the_place_of_a_broken_line_after_it_sent_the_lines_before() {
    let (server, _) = with_plan();
    let records = "{\"id\":\"task-a\",\"status\":\"completed\"}\n\n{\"id\":\n{\"id\":\"task-b\"}\n";
    let stderr = format!(
        "1 record: 1 accepted\nplan p: {HALF}\n\
         error: -:3:7: expected a value, found the end of the document; expected one record on each line\n"
    );
    assert_eq!(
        server.said_with(&["submit", "--plan-id", "p"], records),
        says(1, "", &stderr)
    );
    let missing = server.said(&["submit", "--plan-id", "p", "nope.json"]);
    let error = "error: nope.json: failed to read: No such file or directory (os error 2)\n";
    assert_eq!(missing, says(1, "", error));
    assert_eq!(
        server.said(&["submit", "--plan-id", "p"]),
        says(0, "", "no records\n")
    );
}

#[test]
fn submit_finds_its_plan_and_its_server_in_the_environment() {
    let (server, _) = with_plan();
    let mut command = server.client(&["submit"]);
    let mut program = Program::start(command.env("FANOUT_PLAN_ID", "p"));
    program.say("{\"id\":\"task-a\",\"status\":\"completed\"}");
    let stderr = format!("1 record: 1 accepted\nplan p: {HALF}\n");
    assert_eq!(program.finish(), says(0, "", &stderr));
}

#[test]
fn the_servers_address_may_be_a_flag_a_url_or_the_environment_and_the_flag_wins() {
    let (server, _) = with_plan();
    let url = format!("http://{}", server.address);
    let status = |environment: &str, arguments: &[&str]| {
        let mut command = fanout();
        command
            .args(["get", "p", "--json"])
            .args(arguments)
            .env("FANOUT_SERVER", environment);
        Program::start(&mut command).finish().code
    };
    assert_eq!(status(&url, &[]), 0);
    assert_eq!(status("127.0.0.1:1", &[]), 1);
    assert_eq!(status("127.0.0.1:1", &["--server", &server.address]), 0);
    assert_eq!(status(&url, &["--server", "127.0.0.1:1"]), 1);
}

#[test]
fn watch_follows_a_plan_until_its_end() {
    let (server, _) = with_plan();
    let mut watch = Program::start(&mut server.client(&["watch", "p"]));
    let submit = |records: &str| {
        assert_eq!(
            server
                .said_with(&["submit", "--plan-id", "p"], records)
                .code,
            0
        )
    };
    submit("{\"id\":\"task-b\",\"status\":\"broke\"}");
    assert_eq!(watch.stdout.line(), "failed       task-b");
    submit("{\"id\":\"task-b\",\"status\":\"completed\"}");
    assert_eq!(watch.stdout.line(), "completed    task-b  (revision 2)");
    server.call(async |mut client| {
        let mut started = record(r#"{"id":"task-a"}"#);
        started.kind = RecordKind::Started.into();
        let request = SubmitRecordsRequest {
            plan_id: "p".into(),
            records: vec![started],
            ..Default::default()
        };
        client.submit_records(request).await.unwrap();
    });
    assert_eq!(watch.stdout.line(), "started      task-a");
    submit("{\"id\":\"task-a\",\"status\":\"completed\"}");
    assert_eq!(watch.stdout.line(), "completed    task-a");
    assert_eq!(
        watch.stdout.line(),
        format!("end          completed (all_recorded): {WHOLE}")
    );
    let said = watch.finish();
    assert_eq!((said.code, &*said.stderr), (0, ""));
}

#[test]
fn watch_goes_on_after_a_cursor_with_nothing_missed_and_nothing_repeated() {
    let (server, _) = with_plan();
    // Each is numbered, which takes a sequence after its own.
    for record in [
        "{\"id\":\"task-a\",\"status\":\"completed\",\"n\":1.50}\n",
        "{\"id\":\"task-b\",\"status\":\"broke\"}\n",
    ] {
        server.said_with(&["submit", "--plan-id", "p"], record);
    }
    let said = server.said(&["watch", "p", "--json", "--payload"]);
    let lines: Vec<_> = said.stdout.lines().collect();
    let cursors: Vec<_> = lines
        .iter()
        .map(|line| text(&document(line.as_bytes()), "cursor").to_owned())
        .collect();
    assert_eq!(
        lines,
        [
            format!(
                r#"{{"frame":"result","cursor":"{}","sequence":2,"task_id":"task-a","group_key":"a","status":"completed","successful":true,"revision":1,"matched_by":"id","record":{{"id":"task-a","status":"completed","n":1.5}}}}"#,
                cursors[0]
            ),
            format!(
                r#"{{"frame":"result","cursor":"{}","sequence":4,"task_id":"task-b","group_key":"b","status":"failed","successful":false,"revision":1,"matched_by":"id","record":{{"id":"task-b","status":"failed"}}}}"#,
                cursors[1]
            ),
            format!(
                r#"{{"frame":"end","cursor":"{}","status":"failed","end_reason":"all_recorded","counts":{{"items":2,"groups":2,"tasks":2,"recorded":2,"successful":1,"failed":1,"missing":0,"running":0,"outcomes":0,"quarantined":0}}}}"#,
                cursors[2]
            ),
        ]
    );
    for (at, cursor) in cursors.iter().enumerate().take(2) {
        let rest: String = lines[at + 1..]
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        let said = server.said(&["watch", "p", "--json", "--payload", "--after", cursor]);
        assert_eq!(said, says(0, &rest, ""));
    }
    let wrong = "error: after: is not a cursor of this plan (InvalidArgument, INVALID_CURSOR)\n";
    assert_eq!(
        server.said(&["watch", "p", "--after", "nonsense"]),
        says(1, "", wrong)
    );
}

#[test]
fn watch_begins_with_a_snapshot_if_asked_to_and_shows_that_a_quiet_plan_is_alive() {
    let (server, _) = with_plan();
    server.said_with(
        &["submit", "--plan-id", "p"],
        "{\"id\":\"task-b\",\"status\":\"completed\"}",
    );
    let arguments = ["watch", "p", "--snapshot", "--heartbeat", "100ms"];
    let mut watch = Program::start(&mut server.client(&arguments));
    assert_eq!(watch.stdout.line(), "completed    task-b");
    assert_eq!(watch.stdout.line(), format!("now          {HALF}"));
    assert_eq!(watch.stdout.line(), format!("waiting      {HALF}"));
    assert_eq!(server.said(&["seal", "p"]).code, 0);
    let end = format!("end          failed (sealed): {HALF}");
    assert_eq!(watch.stdout.line_with("end"), end);
    assert_eq!(watch.finish().code, 0);
    let code = |arguments: &[&str]| server.said(arguments).code;
    assert_eq!(code(&["watch", "p"]), 0);
    assert_eq!(code(&["watch", "p", "--fail-on-failure"]), 2);
    let range = server.said(&["watch", "p", "--heartbeat", "1ms"]);
    assert_eq!(range.code, 1);
    assert!(
        range.stderr.starts_with("error: heartbeat_interval: "),
        "{}",
        range.stderr
    );
}

#[test]
fn watch_ends_when_its_reader_has_seen_enough() {
    let (server, _) = with_plan();
    let directory = directory(&[]);
    let mut command = Command::new("sh");
    command
        .current_dir(directory.path())
        .env("FANOUT", fanout().get_program());
    let line = r#"{ "$FANOUT" watch p --heartbeat 100ms --server "$1"; echo $? > code; } | head -n 1; cat code"#;
    command.args(["-c", line, "sh", &server.address]);
    let said = Program::start(&mut command).finish();
    assert_eq!(said, says(0, &format!("waiting      {EMPTY}\n0\n"), ""));
}

#[test]
fn seal_cancel_and_delete_end_a_plan_and_say_why() {
    let (server, plan) = with_plan();
    let table = |status: &str, reason: &str, note: &str| {
        let shown = shown(&server, "p");
        format!(
            "plan        p\nstatus      {status}\ntasks       {EMPTY}\ncreated     {}\ndeadline    -\n\
             ended       {}\ndigest      {}\ncursor      {}\nend reason  {reason}\nexpires     {}\nend note    {note}\n",
            plan.create_time.unwrap(),
            text(&shown, "end_time"),
            plan.digest,
            text(&shown, "cursor"),
            text(&shown, "expire_time"),
        )
    };
    let sealed = server.said(&["seal", "p", "--reason", "enough"]);
    assert_eq!(sealed, says(0, &table("failed", "sealed", "enough"), ""));
    assert_eq!(
        server.said(&["cancel", "p", "--reason", "too late"]),
        sealed
    );

    server.plan(plan_request("q", &["a"]));
    let cancelled = server.said(&["cancel", "q", "--reason", "no more", "--json"]);
    assert_eq!(
        cancelled,
        says(0, &(json::compact(&shown(&server, "q")) + "\n"), "")
    );
    let cancelled = document(cancelled.stdout.as_bytes());
    assert_eq!(text(&cancelled, "end_reason"), "cancelled");
    assert_eq!(text(&cancelled, "end_note"), "no more");

    let expected = json::compact(&shown(&server, "p")) + "\n";
    assert_eq!(
        server.said(&["delete", "p", "--json"]),
        says(0, &expected, "")
    );
    let gone = "error: there is no plan \"p\" (NotFound, PLAN_NOT_FOUND)\n";
    assert_eq!(server.said(&["get", "p"]), says(1, "", gone));
}

#[test]
fn a_watcher_is_told_that_its_plan_was_deleted() {
    let (server, _) = with_plan();
    let mut watch = Program::start(&mut server.client(&["watch", "p", "--snapshot"]));
    watch.stdout.line_with("now");
    assert_eq!(server.said(&["delete", "p"]).code, 0);
    let said = watch.finish();
    let error = "error: plan \"p\" was deleted or has expired (NotFound, PLAN_REMOVED)\n";
    assert_eq!((said.code, &*said.stderr), (1, error));
}

#[test]
fn health_is_0_only_if_the_server_is_ready() {
    let server = Served::start(&[]);
    let ready = says(0, &format!("{} is serving\n", server.address), "");
    assert_eq!(server.said(&["health"]), ready);
    assert_eq!(server.said(&["health", "--service", ""]), ready);
    assert_eq!(
        server.said(&["health", "--service", "fanout.v1.FanoutService"]),
        ready
    );
    assert_eq!(server.said(&["health", "--service", "liveness"]), ready);
    let unknown = "error: there is no health of \"nope\" (NotFound, HEALTH_NAME_NOT_FOUND)\n";
    assert_eq!(
        server.said(&["health", "--service", "nope"]),
        says(1, "", unknown)
    );
}

#[test]
fn health_is_1_of_a_server_that_drains_but_it_need_not_be_restarted() {
    let server = Served::start(&["--drain-delay", "1h"]);
    let mut log = server.program;
    log.signal(Signal::SIGTERM);
    log.stderr.line_with("draining");
    let ask = |name| {
        let ask = ["health", "--server", &server.address, "--service", name];
        said(std::path::Path::new("."), &ask)
    };
    let error = |name| {
        format!(
            "error: {} is not serving: {name} is NOT_SERVING\n",
            server.address
        )
    };
    assert_eq!(ask("readiness"), says(1, "", &error("readiness")));
    let service = "fanout.v1.FanoutService";
    assert_eq!(ask(service), says(1, "", &error(service)));
    let serving = format!("{} is serving\n", server.address);
    assert_eq!(ask("liveness"), says(0, &serving, ""));
}

#[test]
fn completions_are_scripts_that_know_every_command() {
    let directory = directory(&[]);
    for shell in ["bash", "zsh", "fish"] {
        let script = said(directory.path(), &["completions", shell]);
        assert_eq!((script.code, &*script.stderr), (0, ""));
        for command in [
            "run",
            "serve",
            "plan",
            "reconcile",
            "findings",
            "submit",
            "watch",
            "health",
            "completions",
        ] {
            assert!(script.stdout.contains(command), "{shell}: {command}");
        }
        assert!(script.stdout.contains("fail-on-failure"), "{shell}");
        if shell == "bash" {
            let mut bash = Program::start(Command::new("bash").arg("-n"));
            bash.say(&script.stdout);
            assert_eq!(bash.finish(), says(0, "", ""));
        }
    }
    let start = |shell| said(directory.path(), &["completions", shell]).stdout;
    assert!(start("zsh").starts_with("#compdef fanout\n"));
    assert!(start("fish").contains("\ncomplete -c fanout "));
}

#[test]
fn a_token_that_the_program_makes_is_one_that_its_server_believes() {
    let folder = directory(&[]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let run = |arguments: &[&str]| Program::start(fanout().args(arguments)).finish();
    let (key, keys) = (path("key"), path("keys"));
    let made = run(&["token", "key", "--key", &key, "--jwks", &keys]);
    assert_eq!((made.code, &*made.stdout, &*made.stderr), (0, "", ""));
    let again = run(&["token", "key", "--key", &key, "--jwks", &keys]);
    let error = format!(
        "error: {key}: File exists (os error 17); nothing is overwritten; name another file\n"
    );
    assert_eq!(again, says(1, "", &error));
    let issue = |more: &[&str]| {
        let issue = [
            "token", "issue", "--key", &key, "--issuer", "ci", "--name", "n",
        ];
        run(&[&issue, more].concat())
    };
    assert_eq!(
        issue(&["--role", "watch", "--plan", "p", "--task", "t"]).code,
        1
    );
    let signed = issue(&["--role", "watch,plan"]);
    let listed = run(&["token", "new", "--name", "listed", "--role", "watch"]);
    std::fs::write(folder.path().join("tokens"), &listed.stderr).unwrap();
    let server = Served::start(&[
        "--jwks",
        &keys,
        "--jwt-issuer",
        "ci",
        "--tokens",
        &path("tokens"),
    ]);
    for (token, expected) in [
        (&*signed.stdout, true),
        (&*listed.stdout, true),
        ("other", false),
    ] {
        let header = format!("Bearer {}", token.trim()).parse().unwrap();
        server.call(async |mut client| {
            let mut request = tonic::Request::new(fanout::proto::ListPlansRequest::default());
            request.metadata_mut().insert("authorization", header);
            assert_eq!(
                client.list_plans(request).await.is_ok(),
                expected,
                "{token}"
            );
        });
    }
}
