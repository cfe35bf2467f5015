//! Logs: no payload and no secret in any line, at any level, in either form; what is set is said at the start.

use fanout::proto::plan_request::Source;
use fanout::proto::{
    CancelPlanRequest, DiscardRecordRequest, ExplainTaskRequest, GetPlanRequest, GetTaskRequest,
    ListPlansRequest, ListQuarantineRequest, ListTasksRequest, PlanRequest, ReconcileRequest,
    Record, RematchRecordRequest, SealPlanRequest, SubmitRecordRequest, SubmitRecordsRequest,
    WatchPlanRequest,
};
use std::process::Command;
use tonic::Request;

use crate::harness::{Client, Program, Served, directory, document, fanout, plan_request};

/// What callers send that nobody may read in a log.
const CANARY: &str = "canary-51c7";

fn with_secrets<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    let token = format!("Bearer {CANARY}");
    metadata.insert("authorization", token.parse().unwrap());
    metadata.insert("cookie", format!("session={CANARY}").parse().unwrap());
    metadata.insert("x-api-key", CANARY.parse().unwrap());
    metadata.insert("traceparent", CANARY.parse().unwrap());
    request
}

/// A record with a canary wherever one can be.
fn record(task: &str) -> Record {
    Record {
        id: format!("{CANARY}-{task}"),
        task_id: format!("task-{task}"),
        sandbox_session_id: format!("{CANARY}-session"),
        group_key: CANARY.into(),
        status: CANARY.into(),
        body: format!(r#"{{"payload":"{CANARY}","{CANARY}":1}}"#).into(),
        ..Default::default()
    }
}

/// All kinds of calls, such as succeed and such as are refused.
async fn calls(mut client: Client) {
    let mut plan = plan_request("p", &["a", "b"]);
    plan.config = format!(r#"{{"group_key_path":"k","{CANARY}":"{CANARY}","task_request_template":{{"id":"task-{{{{group.key}}}}","secret":"{CANARY}"}}}}"#).into();
    plan.request_id = CANARY.into();
    plan.labels.insert(CANARY.into(), CANARY.into());
    client.plan(with_secrets(plan.clone())).await.unwrap();
    let mut other = plan.clone();
    other.source = Some(Source::Items(format!(r#"["{CANARY}"]"#).into()));
    client.plan(with_secrets(other)).await.unwrap_err();
    for config in [
        format!(r#"{{"{CANARY}"#),
        format!(r#"{{"group_key_path":"{CANARY}","task_request_template":"{{{{{CANARY}}}}}"}}"#),
        format!("\"{CANARY}\""),
    ] {
        let broken = PlanRequest {
            plan_id: "broken".into(),
            config: config.into(),
            source: Some(Source::Items(format!(r#"[{{"k":"{CANARY}"}}]"#).into())),
            ..Default::default()
        };
        let _ = client.plan(with_secrets(broken)).await;
    }

    let submit = |records: Vec<Record>| SubmitRecordsRequest {
        plan_id: "p".into(),
        records,
        ..Default::default()
    };
    let broken = Record {
        body: CANARY.into(),
        ..record("a")
    };
    let unmatched = Record {
        task_id: CANARY.into(),
        ..record("a")
    };
    let long = Record {
        task_id: CANARY.repeat(200),
        ..record("a")
    };
    let large = Record {
        body: CANARY.repeat(100_000).into(),
        ..record("a")
    };
    for records in [
        vec![record("a"), record("a"), broken, unmatched, long],
        vec![large],
    ] {
        client
            .submit_records(with_secrets(submit(records)))
            .await
            .unwrap();
    }
    let mut numbered = submit(vec![record("a")]);
    numbered.producer_id = CANARY.into();
    numbered.first_offset = Some(7);
    client
        .submit_records(with_secrets(numbered))
        .await
        .unwrap_err();
    let stream = ["p", CANARY].map(|plan_id| SubmitRecordRequest {
        plan_id: plan_id.into(),
        records: vec![record("a")],
        ..Default::default()
    });
    let stream = client
        .submit_record(with_secrets(tokio_stream::iter(stream)))
        .await;
    let mut receipts = stream.unwrap().into_inner();
    while let Ok(Some(_)) = receipts.message().await {}

    let plan_id = || "p".to_owned();
    let task_id = || CANARY.to_owned();
    let page_token = || CANARY.to_owned();
    let _ = client
        .get_plan(with_secrets(GetPlanRequest {
            plan_id: CANARY.into(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .list_plans(with_secrets(ListPlansRequest {
            page_token: page_token(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .get_task(with_secrets(GetTaskRequest {
            plan_id: plan_id(),
            task_id: task_id(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .explain_task(with_secrets(ExplainTaskRequest {
            plan_id: plan_id(),
            task_id: task_id(),
        }))
        .await;
    let _ = client
        .list_tasks(with_secrets(ListTasksRequest {
            plan_id: plan_id(),
            page_token: page_token(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .list_quarantine(with_secrets(ListQuarantineRequest {
            plan_id: plan_id(),
            page_token: page_token(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .rematch_record(with_secrets(RematchRecordRequest {
            plan_id: plan_id(),
            quarantine_id: 1,
            task_id: task_id(),
            reason: CANARY.into(),
        }))
        .await;
    let _ = client
        .discard_record(with_secrets(DiscardRecordRequest {
            plan_id: plan_id(),
            quarantine_id: 1,
            reason: CANARY.into(),
        }))
        .await;
    let _ = client
        .watch_plan(with_secrets(WatchPlanRequest {
            plan_id: plan_id(),
            after: CANARY.into(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .reconcile(with_secrets(ReconcileRequest {
            plan_id: plan_id(),
            ..Default::default()
        }))
        .await;
    let _ = client
        .seal_plan(with_secrets(SealPlanRequest {
            plan_id: plan_id(),
            reason: CANARY.into(),
            request_id: format!("{CANARY}-seal"),
        }))
        .await;
    let _ = client
        .cancel_plan(with_secrets(CancelPlanRequest {
            plan_id: plan_id(),
            reason: CANARY.into(),
            request_id: format!("{CANARY}-seal"),
        }))
        .await;
    let _ = client
        .submit_records(with_secrets(submit(vec![record("b")])))
        .await;
}

/// The program, with every line that there is.
fn talkative(format: &str, more: &[&str]) -> Command {
    let mut command = fanout();
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ])
        .args(more)
        .env("FANOUT_LOG", "trace")
        .env("FANOUT_LOG_FORMAT", format);
    command
}

#[test]
fn nothing_that_callers_send_but_names_of_plans_is_in_the_log() {
    for format in ["human", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let data = ["--data-dir", directory.path().to_str().unwrap()];
        // A collector that is not there, so that sending spans fails, too.
        let data = [&data[..], &["--otlp-endpoint", "http://127.0.0.1:9"]].concat();
        let mut program = Program::start(&mut talkative(format, &data));
        let line = program.stderr.line_with("serving");
        let address = match format {
            "json" => {
                let line = document(line.as_bytes());
                let fields = line.get("fields").unwrap();
                fields.get("address").unwrap().as_str().unwrap().to_owned()
            }
            _ => {
                let (_, rest) = line.split_once("address=").unwrap();
                rest.split(' ').next().unwrap().to_owned()
            }
        };
        let served = Served { program, address };
        served.call(calls);
        let said = served.stop();
        assert_eq!(said.code, 0);
        let lines = said.stderr.lines().count();
        assert!(lines > 200, "{lines} lines");
        for line in said.stderr.lines() {
            assert!(!line.contains(CANARY), "{format}: {line}");
        }
    }
}

#[test]
fn a_password_in_a_url_is_not_in_the_log_nor_in_the_error_nor_in_the_help() {
    let url = format!("nats://me:{CANARY}@127.0.0.1:9");
    let otlp = format!("http://me:{CANARY}@127.0.0.1:9/{CANARY}?key={CANARY}");
    let mut help = fanout();
    help.args(["serve", "--help"])
        .env("FANOUT_NATS", &url)
        .env("FANOUT_OTLP_ENDPOINT", &otlp);
    let help = Program::start(&mut help).finish();
    assert_eq!(help.code, 0);
    assert!(!help.stdout.contains(CANARY), "{}", help.stdout);
    for format in ["human", "json"] {
        let mut command = talkative(format, &["--nats", &url, "--otlp-endpoint", &otlp]);
        let mut program = Program::start(&mut command);
        program.stderr.line_with("setting");
        program.signal(nix::sys::signal::Signal::SIGTERM);
        let said = program.finish();
        assert!(!said.stderr.contains(CANARY), "{}", said.stderr);
        assert!(
            said.stderr.contains("nats://***@127.0.0.1:9"),
            "{}",
            said.stderr
        );
    }
}

#[test]
fn every_setting_is_said_at_the_start_with_its_value_and_who_said_so() {
    let settings = ["serve", "--listen", "127.0.0.1:0", "--plans-max", "7"];
    let mut command = fanout();
    command.args(settings).env("FANOUT_KEY_BYTES_MAX", "99");
    let mut program = Program::start(&mut command);
    for (name, value, from) in [
        ("listen", "127.0.0.1:0", "flag"),
        ("plans-max", "7", "flag"),
        ("key-bytes-max", "99", "environment"),
        ("log-format", "human", "default"),
    ] {
        let line = program.stderr.line_with(&format!(" setting {name} "));
        let said = format!("setting {name} value=\"{value}\" from=\"{from}\"");
        assert!(line.contains(&said), "{line}");
    }
    drop(program);

    command.env("FANOUT_LOG_FORMAT", "json");
    let mut program = Program::start(&mut command);
    let line = program.stderr.line_with("\"message\":\"settings\"");
    let line = document(line.as_bytes());
    let settings = line.get("fields").unwrap().get("settings").unwrap();
    let settings = document(settings.as_str().unwrap().as_bytes());
    let said = |name: &str, member: &str| {
        let setting = settings.get(name).unwrap();
        setting.get(member).unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(said("plans-max", "value"), "7");
    assert_eq!(said("plans-max", "from"), "flag");
    assert_eq!(said("key-bytes-max", "from"), "environment");
    assert_eq!(said("data-dir", "value"), "");
}

#[test]
fn who_registers_seals_cancels_and_deletes_a_plan_is_in_the_log() {
    let new = [
        "token", "new", "--name", "ci", "--role", "plan", "--tenant", "a",
    ];
    let listed = Program::start(fanout().args(new)).finish();
    let folder = directory(&[
        ("tokens", &*listed.stderr),
        ("c.json", r#"{"groups": [{"key": "a"}]}"#),
    ]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let server = Served::start(&["--tokens", &path("tokens")]);
    let config = path("c.json");
    let plan = |name| vec!["plan", "--config", &config, "--register", "--plan-id", name];
    for arguments in [
        plan("p"),
        plan("p"),
        plan("q"),
        vec!["seal", "p"],
        vec!["cancel", "q"],
        vec!["delete", "q"],
    ] {
        let mut command = server.client(&arguments);
        command.env("FANOUT_TOKEN", listed.stdout.trim());
        let said = Program::start(&mut command).finish();
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = server.stop().stderr;
    let done: Vec<_> = said
        .lines()
        .filter_map(|line| Some(line.split_once("done for a caller ")?.1))
        .collect();
    assert_eq!(
        done,
        [
            r#"plan.id="a\0p" caller="ci" done="registered""#,
            r#"plan.id="a\0q" caller="ci" done="registered""#,
            r#"plan.id="a\0p" caller="ci" done="sealed""#,
            r#"plan.id="a\0q" caller="ci" done="cancelled""#,
            r#"plan.id="a\0q" caller="ci" done="deleted""#,
        ]
    );
    assert!(!said.contains(listed.stdout.trim()), "{said}");
}

#[test]
fn the_version_names_the_commit_if_it_is_known() {
    let said = Program::start(fanout().arg("--version")).finish();
    let version = said.stdout.trim_end().strip_prefix("fanout ").unwrap();
    let (number, commit) = version.split_once(' ').unwrap_or((version, ""));
    assert_eq!(number, env!("CARGO_PKG_VERSION"));
    let commit = commit.trim_matches(['(', ')']);
    assert!(
        commit.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "{version}"
    );
}
