//! The second port: every metric that the document names is there and moves, and probes say what the health service says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fanout::proto::plan_request::Source;
use fanout::proto::{GetPlanRequest, SealPlanRequest, SubmitRecordsRequest, WatchPlanRequest};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::harness::{Client, PATIENCE, Served, plan_request, project, record};

/// What stands nowhere else, to be looked for.
const CANARY: &str = "canary-7f3a";

/// Starts a server with a second port, and answers that port's address.
pub fn observed(arguments: &[&str]) -> (Served, String) {
    let second = ["--metrics-listen", "127.0.0.1:0"];
    let mut server = Served::start(&[arguments, &second].concat());
    let line = server
        .program
        .stderr
        .line_with("metrics and probes are open");
    let (_, address) = line.split_once("address=").unwrap();
    let address = address.trim().to_owned();
    (server, address)
}

/// What HTTP answers: status, and everything after the head.
fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.to_owned(), body.to_owned())
}

/// Every sample with its labels.
type Page = BTreeMap<String, f64>;

fn scrape(address: &str) -> Page {
    let (status, text) = get(address, "GET /metrics");
    assert_eq!(status, "200");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// Scrapes until a sample is as it should be.
fn scrape_until(address: &str, sample: &str, is_so: impl Fn(f64) -> bool) -> Page {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = scrape(address);
        if page.get(sample).copied().is_some_and(&is_so) {
            return page;
        }
        assert!(Instant::now() < end, "{sample} is {:?}", page.get(sample));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The rows of the document's table: name, type, labels.
pub fn documented() -> Vec<(String, String, Vec<String>)> {
    let document = std::fs::read_to_string(project("docs/operations.md")).unwrap();
    let (_, table) = document.split_once("## Metrics and probes").unwrap();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `fanout_"));
    let rows = rows.map(|row| {
        let (name, rest) = row.split_once("` | ").unwrap();
        let mut cells = rest.split('|').map(str::trim);
        let kind = cells.next().unwrap().to_owned();
        let labels = cells.next().unwrap().split('`').skip(1).step_by(2);
        let labels = labels.map(str::to_owned).collect();
        (format!("fanout_{name}"), kind, labels)
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 20, "{rows:?}");
    rows
}

/// A sample's metric, without what is appended to the name of a part of it.
fn metric(sample: &str) -> &str {
    let name = sample.split('{').next().unwrap();
    ["_bucket", "_count", "_sum"]
        .iter()
        .find_map(|part| {
            name.strip_suffix(part)
                .filter(|name| name.ends_with("_seconds"))
        })
        .unwrap_or(name)
}

fn labels(sample: &str) -> Vec<&str> {
    let Some((_, labels)) = sample.split_once('{') else {
        return Vec::new();
    };
    labels
        .split("=\"")
        .map(|part| part.rsplit(['"', ',']).next().unwrap())
        .filter(|label| !label.is_empty() && *label != "}")
        .collect()
}

#[test]
fn every_metric_of_the_document_exists_and_moves() {
    let directory = tempfile::tempdir().unwrap();
    let data = ["--data-dir", directory.path().to_str().unwrap()];
    let limits = ["--connections-max", "8", "--drain-delay", "60s"];
    let (mut server, port) = observed(&[&data[..], &limits].concat());
    let mut pages = vec![scrape(&port)];

    let groups = format!(r#"[{{"key":"g"}},{{"key":"g"}},{{"key":"{CANARY}"}}]"#);
    let mut request = plan_request(CANARY, &[]);
    request.config = r#"{"task_request_template":{"id":"task-{{group.index}}"}}"#.into();
    request.source = Some(Source::Groups(groups.into()));
    server.plan(request);
    let mut strict = plan_request("strict", &["a", "b"]);
    strict.config = r#"{"matching":"strict","group_key_path":"k","task_request_template":{"id":"task-{{group.key}}"}}"#.into();
    server.plan(strict);

    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(1_025));
    let bodies = [
        r#"{"id":"task-0","status":"failed"}"#,
        r#"{"id":"task-0","status":"failed"}"#,
        r#"{"id":"task-0","status":"passed"}"#,
        r#"{"id":"stray"}"#,
        r#"{"group_key":"g"}"#,
        "[]",
        &long,
    ];
    submit(&server, CANARY, &bodies);
    submit(&server, "strict", &[r#"{"id":"task-a","group_key":"b"}"#]);
    let page = scrape(&port);
    for (disposition, count) in [
        ("accepted", 1.0),
        ("duplicate", 1.0),
        ("superseded_previous", 1.0),
        ("unmatched", 1.0),
        ("ambiguous", 1.0),
        ("late", 0.0),
        ("keys_disagree", 1.0),
        ("invalid", 1.0),
        ("too_large", 1.0),
    ] {
        let sample = format!("fanout_records_total{{disposition=\"{disposition}\"}}");
        assert_eq!(page[&sample], count, "{sample}");
    }
    assert_eq!(page["fanout_receipt_seconds_count"], 8.0);
    assert_eq!(page["fanout_receipt_seconds_bucket{le=\"+Inf\"}"], 8.0);
    assert_eq!(page["fanout_plans{state=\"incomplete\"}"], 2.0);
    assert_eq!(page["fanout_tasks{state=\"successful\"}"], 1.0);
    assert_eq!(page["fanout_tasks{state=\"waiting\"}"], 4.0);
    assert_eq!(page["fanout_quarantined_records"], 3.0);
    assert_eq!(page["fanout_plans_registered_total"], 2.0);
    assert_eq!(page["fanout_ready"], 1.0);
    assert_eq!(
        page["fanout_calls_total{method=\"SubmitRecords\",code=\"OK\"}"],
        2.0
    );
    assert!(page["fanout_journal_append_seconds_count"] >= 2.0);
    assert!(page["fanout_journal_written_bytes_total"] > 500.0);
    // Two plans, and two calls with records.
    assert!(page["fanout_journal_writes_total"] >= 4.0);
    pages.push(page);

    pages.extend(with_streams_open(&server, &port));

    let sealed = server.call(async |mut client| {
        let plan_id = CANARY.to_owned();
        let unknown = GetPlanRequest {
            plan_id: format!("not-{CANARY}"),
            ..Default::default()
        };
        client.get_plan(unknown).await.unwrap_err();
        let request = SealPlanRequest {
            plan_id,
            ..Default::default()
        };
        client.seal_plan(request).await
    });
    sealed.unwrap();
    submit(&server, CANARY, &[r#"{"id":"task-2"}"#]);
    let page = scrape(&port);
    assert_eq!(page["fanout_records_total{disposition=\"late\"}"], 1.0);
    // The one that was sealed, and the one whose records were no successes.
    assert_eq!(page["fanout_plans{state=\"failed\"}"], 2.0);
    // The two of the strict plan. Nothing waits in a plan that has ended, although two tasks of it have no record.
    assert_eq!(page["fanout_tasks{state=\"waiting\"}"], 2.0);
    assert_eq!(page["fanout_plans_ended_total{reason=\"sealed\"}"], 1.0);
    assert_eq!(
        page["fanout_calls_total{method=\"GetPlan\",code=\"NOT_FOUND\"}"],
        1.0
    );
    pages.push(page);

    // More connections than there may be.
    let held: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(&server.address))
        .collect();
    let refused = "fanout_connections_refused_total";
    pages.push(scrape_until(&port, refused, |count| count > 0.0));
    drop(held);

    // Probes say that it ends; it is alive to its end.
    assert_eq!(get(&port, "GET /readyz"), ("200".into(), "ready\n".into()));
    server.program.signal(Signal::SIGTERM);
    server.program.stderr.line_with("draining");
    pages.push(scrape_until(&port, "fanout_ready", |is_ready| {
        is_ready == 0.0
    }));
    assert_eq!(
        get(&port, "GET /readyz"),
        ("503".into(), "not ready\n".into())
    );
    assert_eq!(get(&port, "GET /livez"), ("200".into(), "alive\n".into()));
    server.program.signal(Signal::SIGKILL);
    server.program.finish();

    let (again, port) = observed(&data);
    let page = scrape_until(&port, "fanout_ready", |is_ready| is_ready == 1.0);
    assert_eq!(page["fanout_journal_replays_total"], 3.0);
    pages.push(page);
    drop(again);

    assert_all_are_documented_and_move(&pages);
}

/// What there is while streams are open, one of them a watch that nobody reads.
fn with_streams_open(server: &Served, port: &str) -> Vec<Page> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
        // What a client takes that does not read.
        let endpoint = endpoint.initial_stream_window_size(1 << 16);
        let mut client = Client::new(endpoint.connect().await.unwrap());
        let keys: Vec<String> = (0..200).map(|key| key.to_string()).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        client.plan(plan_request("watched", &keys)).await.unwrap();
        let watch = WatchPlanRequest {
            plan_id: "watched".into(),
            include_payload: true,
            ..Default::default()
        };
        let unread = client.watch_plan(watch).await.unwrap();
        let (requests, stream) = mpsc::channel(1);
        let receipts = client
            .submit_record(ReceiverStream::new(stream))
            .await
            .unwrap();
        let both_open = scrape_until(port, "fanout_streams{kind=\"record\"}", |open| open == 1.0);
        assert_eq!(both_open["fanout_streams{kind=\"watch\"}"], 1.0);
        assert_eq!(both_open["fanout_watchers"], 1.0);
        assert_eq!(both_open["fanout_connections"], 1.0);
        let padding = "x".repeat(4_096);
        let records = keys
            .iter()
            .map(|key| record(&format!(r#"{{"id":"task-{key}","padding":"{padding}"}}"#)));
        for records in records.collect::<Vec<_>>().chunks(50) {
            let request = SubmitRecordsRequest {
                plan_id: "watched".into(),
                records: records.to_vec(),
                ..Default::default()
            };
            client.submit_records(request).await.unwrap();
        }
        // 800 KB were not read, of which at most a few windows are on their way.
        let behind = scrape(port);
        assert!(behind["fanout_watch_lag_events"] >= 50.0, "{behind:?}");
        drop((requests, receipts, unread));
        let gone = scrape_until(port, "fanout_watchers", |watchers| watchers == 0.0);
        assert_eq!(gone["fanout_watch_lag_events"], 0.0);
        vec![both_open, behind, gone]
    })
}

fn submit(server: &Served, plan_id: &str, bodies: &[&str]) {
    server.call(async |mut client| {
        let request = SubmitRecordsRequest {
            plan_id: plan_id.into(),
            records: bodies.iter().map(|body| record(body)).collect(),
            ..Default::default()
        };
        client.submit_records(request).await.unwrap();
    });
}

fn assert_all_are_documented_and_move(pages: &[Page]) {
    let documented = documented();
    for page in pages {
        for sample in page.keys() {
            assert!(!sample.contains(CANARY), "{sample}");
            let row = documented.iter().find(|(name, ..)| name == metric(sample));
            let (_, _, expected) = row.unwrap_or_else(|| panic!("{sample} is not documented"));
            let found: BTreeSet<_> = labels(sample)
                .into_iter()
                .filter(|label| *label != "le")
                .collect();
            assert_eq!(
                found,
                expected.iter().map(String::as_str).collect(),
                "{sample}"
            );
        }
    }
    for (name, kind, _) in &documented {
        let values = pages.iter().map(|page| {
            let samples = page.iter().filter(|(sample, _)| metric(sample) == name);
            samples
                .map(|(_, value)| value.to_bits())
                .collect::<Vec<_>>()
        });
        let values: BTreeSet<_> = values.collect();
        assert!(
            values.iter().any(|values| !values.is_empty()),
            "{name} does not exist"
        );
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        // What was built stays as it is; and a moment in which an append waits cannot be caught from outside: see
        // `appends_that_wait_for_the_journal_are_counted`.
        let stays = ["fanout_build_info", "fanout_journal_appends_waiting"];
        assert!(
            stays.contains(&&**name) || values.len() > 1,
            "{name} does not move"
        );
    }
}

#[test]
fn the_second_port_has_three_pages_and_is_only_read() {
    let (_server, port) = observed(&[]);
    assert_eq!(get(&port, "GET /").0, "404");
    assert_eq!(get(&port, "GET /livez/").0, "404");
    assert_eq!(get(&port, "POST /metrics").0, "405");
    assert_eq!(get(&port, "HEAD /metrics"), ("200".into(), String::new()));
    assert_eq!(get(&port, "GET /livez?x=y").0, "200");
}

#[test]
fn a_second_port_that_is_taken_is_an_error_that_names_it() {
    let (server, port) = observed(&[]);
    let taken = Served::start(&["--metrics-listen", &port]).program.finish();
    assert_eq!(taken.code, 1);
    let expected = format!("error: --metrics-listen {port}: failed to bind: ");
    assert!(taken.stderr.contains(&expected), "{}", taken.stderr);
    drop(server);
}

#[test]
fn the_dashboard_and_the_alerts_name_only_metrics_that_are_there() {
    let documented: BTreeSet<_> = documented().into_iter().map(|(name, ..)| name).collect();
    for (file, least) in [
        ("deploy/grafana/fanout.json", 15),
        ("deploy/prometheus/alerts.yaml", 8),
    ] {
        let text = std::fs::read_to_string(project(file)).unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = text
            .split(|c| !is_name(c))
            .filter(|word| word.starts_with("fanout_"));
        let names: BTreeSet<_> = names.map(metric).collect();
        for name in &names {
            assert!(documented.contains(*name), "{file}: {name} is not a metric");
        }
        assert!(names.len() >= least, "{file}: {names:?}");
    }
    let dashboard = std::fs::read_to_string(project("deploy/grafana/fanout.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let titles: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles.len(), panels.len(), "two panels of one title");
}
