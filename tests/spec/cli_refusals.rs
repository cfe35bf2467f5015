//! What every command says to arguments and inputs that are wrong: exit code 1, one error, nothing on standard output.

use crate::harness::{directory, names_in, said, says};

const FILES: [(&str, &str); 4] = [
    (
        "c.json",
        r#"{"group_key_path":"c","task_request_template":{"id":"t-{{group.key}}"}}"#,
    ),
    ("i.json", r#"[{"c":"a"},{"c":"b"}]"#),
    ("r.json", "[]"),
    ("broken.json", "["),
];
const NOBODY: &str = "error: no coordinator answers at 127.0.0.1:1 (Connection refused (os error 111)); start one with `fanout serve`, or give --server\n";

/// Checks that arguments are refused with this error, and that no file appears.
#[track_caller]
fn refused(arguments: &[&str], error: &str) {
    let directory = directory(&FILES);
    let before = names_in(directory.path());
    assert_eq!(said(directory.path(), arguments), says(1, "", error));
    assert_eq!(names_in(directory.path()), before);
}

/// Checks that arguments are refused with this error and a hint at the help.
#[track_caller]
fn misused(arguments: &[&str], error: &str) {
    let error = format!("error: {error}\n\nFor more information, try '--help'.\n");
    refused(arguments, &error);
}

#[track_caller]
fn lacks(arguments: &[&str], what: &str, usage: &str) {
    let missing = format!(
        "the following required arguments were not provided:\n{what}\n\nUsage: fanout {usage}"
    );
    misused(arguments, &missing);
}

#[track_caller]
fn unexpected(arguments: &[&str], what: &str, usage: &str) {
    misused(
        arguments,
        &format!("unexpected argument '{what}' found\n\nUsage: fanout {usage}"),
    );
}

const NO_PLAN: &str = "  <PLAN_ID>";

#[test]
fn the_program_refuses_unknown_commands_and_flags() {
    let usage = "Usage: fanout [OPTIONS] --config <FILE>\n       fanout <COMMAND>";
    misused(
        &["nonsense"],
        &format!("unrecognized subcommand 'nonsense'\n\n{usage}"),
    );
    misused(
        &["--bogus"],
        &format!("unexpected argument '--bogus' found\n\n{usage}"),
    );
    misused(
        &["--config", "c.json", "plan", "--config", "c.json"],
        &format!("the subcommand 'plan' cannot be used with '--config <FILE>'\n\n{usage}"),
    );
    lacks(
        &["--items", "i.json"],
        "  --config <FILE>",
        "--config <FILE> --items <FILE>",
    );
}

#[test]
fn plan_refuses_to_go_without_a_config_or_with_two() {
    lacks(
        &["plan", "--items", "i.json"],
        "  --config <FILE>",
        "plan --config <FILE> --items <FILE>",
    );
    misused(
        &["plan", "--config"],
        "a value is required for '--config <FILE>' but none was supplied",
    );
    misused(
        &["plan", "--config", "c.json", "--config", "c.json"],
        "the argument '--config <FILE>' cannot be used multiple times\n\nUsage: fanout plan [OPTIONS] --config <FILE>",
    );
    unexpected(
        &["plan", "--config", "c.json", "--records", "r.json"],
        "--records",
        "plan --config <FILE>",
    );
}

#[test]
fn reconcile_refuses_to_go_without_config_or_records() {
    let usage = "reconcile --config <FILE> --records <FILE> [OPTIONS]\n       \
                 fanout reconcile --plan-id <PLAN> [OPTIONS]";
    lacks(
        &["reconcile", "--config", "c.json", "--items", "i.json"],
        "  --records <FILE>",
        usage,
    );
    lacks(
        &["reconcile", "--plan", "c.json", "--records", "r.json"],
        "  --config <FILE>",
        usage,
    );
    lacks(
        &["reconcile"],
        "  --config <FILE>\n  --records <FILE>",
        usage,
    );
    unexpected(
        &[
            "reconcile",
            "--config",
            "c.json",
            "--records",
            "r.json",
            "--packets",
            "i.json",
        ],
        "--packets",
        usage,
    );
}

#[test]
fn findings_refuse_to_go_without_packets_and_to_reconcile_without_records() {
    lacks(
        &["findings"],
        "  --packets <FILE>",
        "findings --packets <FILE>",
    );
    for emit in ["result", "reconcile-input"] {
        refused(
            &["findings", "--packets", "i.json", "--emit", emit],
            "error: --emit reconcile-input and --emit result need --records\n",
        );
    }
    misused(
        &["findings", "--packets", "i.json", "--emit", "bogus"],
        "invalid value 'bogus' for '--emit <EMIT>'\n  [possible values: items, config, plan, reconcile-input, result]",
    );
}

#[test]
fn run_refuses_what_it_cannot_run_before_it_runs_anything() {
    let run = |more: &[&'static str]| {
        let mut arguments = vec!["run", "--config", "c.json"];
        arguments.extend(more);
        // Anything that runs would leave a file, and `refused` looks for it.
        arguments.extend(["--", "touch", "ran"]);
        arguments
    };
    lacks(
        &["run", "--config", "c.json"],
        "  <CMD>...",
        "run --config <FILE> -- <CMD>...",
    );
    lacks(
        &run(&["--policy", "c.json"]),
        "  --packets <FILE>",
        "run --config <FILE> --packets <FILE> --policy <FILE> -- <CMD>...",
    );
    misused(
        &run(&["--items", "i.json", "--packets", "i.json"]),
        "the argument '--items <FILE>' cannot be used with '--packets <FILE>'\n\n\
         Usage: fanout run --config <FILE> --items <FILE> -- <CMD>...",
    );
    misused(
        &run(&["--concurrency", "0"]),
        "invalid value '0' for '--concurrency <N>': 0 is not in 1..=4294967295",
    );
    misused(
        &run(&["--timeout", "soon"]),
        "invalid value 'soon' for '--timeout <TIME>': unknown unit \"soon\"; expected ms, s, m, h or d",
    );
    refused(
        &run(&["--items", "i.json", "--concurrency", "17"]),
        "error: --concurrency 17 is above the limit of 16; raise it with --max-concurrency\n",
    );
    refused(
        &run(&[
            "--items",
            "i.json",
            "--concurrency",
            "3",
            "--max-concurrency",
            "2",
        ]),
        "error: --concurrency 3 is above the limit of 2; raise it with --max-concurrency\n",
    );
    refused(
        &run(&["--items", "broken.json"]),
        "error: broken.json:1:2: expected a value, found the end of the document\n",
    );
    refused(
        &run(&["--items", "i.json", "--server", "127.0.0.1:1"]),
        NOBODY,
    );
    refused(
        &run(&["--items", "i.json", "--server", "not an address"]),
        "error: --server not an address: invalid URI; expected host:port\n",
    );
}

#[test]
fn run_names_a_concurrency_of_the_config_that_is_none() {
    let directory = directory(&[("c.json", r#"{"concurrency":"many"}"#)]);
    let arguments = ["run", "--config", "c.json", "--", "touch", "ran"];
    let error = "error: config.concurrency: expected a whole number from 1, found \"many\"\n";
    assert_eq!(said(directory.path(), &arguments), says(1, "", error));
    assert_eq!(names_in(directory.path()), ["c.json"]);
}

#[test]
fn submit_refuses_to_go_without_a_plan_or_with_two_files() {
    lacks(
        &["submit", "r.json"],
        "  --plan-id <PLAN>",
        "submit --plan-id <PLAN> <FILE>",
    );
    unexpected(
        &["submit", "--plan-id", "p", "r.json", "i.json"],
        "i.json",
        "submit [OPTIONS] --plan-id <PLAN> [FILE]",
    );
}

#[test]
fn watch_refuses_a_cursor_beside_a_snapshot_and_a_heartbeat_that_is_no_time() {
    lacks(&["watch"], NO_PLAN, "watch <PLAN_ID>");
    misused(
        &["watch", "p", "--after", "x", "--snapshot"],
        "the argument '--after <CURSOR>' cannot be used with '--snapshot'\n\n\
         Usage: fanout watch --after <CURSOR> <PLAN_ID>",
    );
    misused(
        &["watch", "p", "--heartbeat", "1w"],
        "invalid value '1w' for '--heartbeat <TIME>': unknown unit \"w\"; expected ms, s, m, h or d",
    );
}

#[test]
fn get_seal_cancel_and_delete_refuse_to_go_without_a_plan() {
    lacks(&["get"], NO_PLAN, "get <PLAN_ID>");
    lacks(&["seal"], NO_PLAN, "seal <PLAN_ID>");
    lacks(&["cancel"], NO_PLAN, "cancel <PLAN_ID>");
    lacks(&["delete"], NO_PLAN, "delete <PLAN_ID>");
    unexpected(&["get", "p", "q"], "q", "get [OPTIONS] <PLAN_ID>");
    unexpected(&["delete", "p", "q"], "q", "delete [OPTIONS] <PLAN_ID>");
}

#[test]
fn quarantine_refuses_a_number_that_no_record_has() {
    misused(
        &["quarantine", "rematch", "p", "0", "t"],
        "invalid value '0' for '<QUARANTINE_ID>': numbers begin at 1",
    );
    misused(
        &["quarantine", "discard", "p", "first"],
        "invalid value 'first' for '<QUARANTINE_ID>': expected a whole number",
    );
}

#[test]
fn a_token_is_not_made_of_nothing_nor_for_no_time() {
    // Standard input is empty.
    refused(
        &["token", "hash"],
        "error: standard input: there is no token\n",
    );
    let issue = [
        "token", "issue", "--key", "k", "--issuer", "i", "--name", "n",
    ];
    for life in ["0s", "999ms"] {
        misused(
            &[&issue[..], &["--role", "watch", "--life", life]].concat(),
            &format!("invalid value '{life}' for '--life <TIME>': is less than 1s"),
        );
    }
}

#[test]
fn list_refuses_a_label_without_a_value() {
    misused(
        &["list", "--label", "team"],
        "invalid value 'team' for '--label <KEY=VALUE>': expected KEY=VALUE",
    );
    unexpected(&["list", "p"], "p", "list [OPTIONS]");
}

#[test]
fn health_and_completions_refuse_what_they_do_not_know() {
    unexpected(&["health", "--bogus"], "--bogus", "health [OPTIONS]");
    lacks(&["completions"], "  <SHELL>", "completions <SHELL>");
    misused(
        &["completions", "cmd"],
        "invalid value 'cmd' for '<SHELL>'\n  [possible values: bash, elvish, fish, powershell, zsh]",
    );
}

#[test]
fn serve_refuses_settings_that_are_none() {
    misused(
        &["serve", "--listen", "localhost"],
        "invalid value 'localhost' for '--listen <ADDRESS:PORT>': invalid socket address syntax",
    );
    misused(
        &["serve", "--drain-grace", "soon"],
        "invalid value 'soon' for '--drain-grace <TIME>': unknown unit \"soon\"; expected ms, s, m, h or d",
    );
    misused(
        &["serve", "--json-depth-max", "1025"],
        "invalid value '1025' for '--json-depth-max <LEVELS>': expected 1 to 1024",
    );
    misused(
        &["serve", "--message-bytes-max", "0"],
        "invalid value '0' for '--message-bytes-max <BYTES>': expected 98304 to 4294967295",
    );
    for time in ["99ms", "301s"] {
        misused(
            &["serve", "--heartbeat-interval", time],
            &format!(
                "invalid value '{time}' for '--heartbeat-interval <TIME>': expected 100ms to 5m"
            ),
        );
    }
    misused(
        &["serve", "--log-format", "xml"],
        "invalid value 'xml' for '--log-format <LOG_FORMAT>'\n  [possible values: human, json]",
    );
}

#[test]
fn serve_says_which_address_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = format!(
        "error: --listen {address}: failed to bind: Address already in use (os error 98)\n"
    );
    refused(&["serve", "--listen", &address], &error);
}

#[test]
fn every_client_says_that_no_coordinator_answers() {
    let clients: [&[&str]; 8] = [
        &["submit", "--plan-id", "p", "r.json"],
        &["watch", "p"],
        &["get", "p"],
        &["list"],
        &["seal", "p"],
        &["cancel", "p"],
        &["delete", "p"],
        &["health"],
    ];
    for client in clients {
        // Nobody listens on port 1.
        refused(&[client, &["--server", "127.0.0.1:1"]].concat(), NOBODY);
        refused(
            &[client, &["--server", "a b"]].concat(),
            "error: --server a b: invalid URI; expected host:port\n",
        );
        refused(
            &[client, &["--server", "127.0.0.1"]].concat(),
            "error: --server 127.0.0.1: names no port; expected host:port\n",
        );
    }
}
