//! How a server ends: SIGTERM, a second signal, SIGKILL; what its clients are told, and how long they can hold it.

use std::fmt::Debug;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{
    Disposition, SubmitRecordRequest, SubmitRecordsRequest, WatchPlanRequest, WatchPlanResponse,
};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::harness::{
    Client, PATIENCE, Program, Said, Served, plan_request, record, refusal, says,
};

/// Log lines without their times.
fn logged(said: &Said) -> Vec<&str> {
    let lines = said.stderr.lines();
    lines
        .map(|line| {
            line.split_once("Z ")
                .map_or(line, |(_, rest)| rest.trim_start())
        })
        .collect()
}

/// Checks that a server ended by itself, all its calls being over.
#[track_caller]
fn check_drained(said: &Said, grace: &str) {
    assert_eq!((said.code, &*said.stdout), (0, ""), "{}", said.stderr);
    let lines = logged(said);
    let end = [
        format!("INFO fanout::server: draining delay_ms=0 grace_ms={grace}"),
        "INFO fanout::cli::serve: drained; bye".to_owned(),
    ];
    assert_eq!(lines[lines.len() - 2..], end);
}

/// Checks that a server cut what was still open.
#[track_caller]
fn check_cut(said: &Said, grace: &str) {
    assert_eq!((said.code, &*said.stdout), (0, ""), "{}", said.stderr);
    let lines = logged(said);
    let end = [
        format!("INFO fanout::server: draining delay_ms=0 grace_ms={grace}"),
        "WARN fanout::server: drain grace is over; cutting what is still open".to_owned(),
        "WARN fanout::cli::serve: some calls were cut; bye".to_owned(),
    ];
    assert_eq!(lines[lines.len() - 3..], end);
}

/// The next message of a stream.
async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(PATIENCE, stream.message())
        .await
        .expect("the stream says nothing")
}

/// Answers how far the stream got, as the status says it.
#[track_caller]
fn check_draining<T: Debug>(answer: Result<Option<T>, Status>) -> Vec<(String, String)> {
    let status = answer.unwrap_err();
    let (code, reason, _) = refusal(&status);
    assert_eq!((code, &*reason), (Code::Unavailable, "DRAINING"));
    assert_eq!(
        status.message(),
        "the server is closing this connection; reconnect and go on"
    );
    let retry = status.get_error_details().retry_info().unwrap().retry_delay;
    assert_eq!(retry, Some(Duration::from_secs(1)));
    let details = status.get_error_details();
    let position = details.error_info().unwrap().metadata.clone();
    position.into_iter().collect()
}

/// Opens a watch of a plan.
async fn watch(client: &mut Client, plan_id: &str, payload: bool) -> Streaming<WatchPlanResponse> {
    let request = WatchPlanRequest {
        plan_id: plan_id.into(),
        include_snapshot: !payload,
        include_payload: payload,
        ..Default::default()
    };
    client.watch_plan(request).await.unwrap().into_inner()
}

/// A `fanout watch` that has shown its first line.
fn watching(server: &Served) -> Program {
    let mut watch = Program::start(&mut server.client(&["watch", "p", "--snapshot"]));
    watch.stdout.line_with("now");
    watch
}

#[test]
fn a_server_without_clients_ends_with_0_at_sigterm_and_at_ctrl_c() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Served::start(&[]);
        server.program.signal(signal);
        check_drained(&server.program.finish(), "30000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_open_stream_is_told_that_the_server_drains_and_then_it_ends() {
    let server = Served::start(&[]);
    let address = format!("http://{}", server.address);
    let mut client = Client::connect(address.clone()).await.unwrap();
    client.plan(plan_request("p", &["a", "b"])).await.unwrap();

    let (requests, stream) = mpsc::channel(4);
    let mut receipts = client
        .submit_record(ReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    let request = SubmitRecordRequest {
        plan_id: "p".into(),
        records: vec![record(r#"{"id":"task-a","status":"completed"}"#)],
        ..Default::default()
    };
    requests.send(request).await.unwrap();
    let answer = next(&mut receipts).await.unwrap().unwrap();
    assert_eq!(answer.receipts[0].disposition(), Disposition::Accepted);

    let mut frames = watch(&mut client, "p", false).await;
    let snapshot = next(&mut frames).await.unwrap().unwrap();
    let is_snapshot = matches!(snapshot.frame, Some(Frame::Snapshot(_)));
    assert!(is_snapshot, "{snapshot:?}");

    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = HealthCheckRequest {
        service: "readiness".into(),
    };
    let mut health = HealthClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    let status = next(&mut health).await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);

    server.program.signal(Signal::SIGTERM);
    let position = check_draining(next(&mut receipts).await);
    assert_eq!(position, [("receipts".to_owned(), "1".to_owned())]);
    let position = check_draining(next(&mut frames).await);
    assert_eq!(position, [("cursor".to_owned(), snapshot.cursor)]);
    let status = next(&mut health).await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::NotServing);
    // The clients and their streams are still there.
    check_drained(&server.program.finish(), "30000");
    check_draining(next(&mut health).await);
    drop((client, requests));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watching_program_says_why_it_was_cut_and_a_call_after_the_end_is_unavailable() {
    let server = Served::start(&[]);
    let mut client = Client::connect(format!("http://{}", server.address))
        .await
        .unwrap();
    client.plan(plan_request("p", &["a", "b"])).await.unwrap();
    let mut hold = watching(&server);
    server.program.signal(Signal::SIGTERM);
    let cut = hold.stderr.line();
    assert_eq!(
        cut,
        "watch was cut (the server is closing this connection; reconnect and go on); going on in 1 s"
    );
    drop(hold);
    check_drained(&server.program.finish(), "30000");
    let request = SubmitRecordsRequest {
        plan_id: "p".into(),
        records: vec![record("{}")],
        ..Default::default()
    };
    let status = timeout(PATIENCE, client.submit_records(request))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[test]
fn a_second_signal_ends_a_server_that_drains_at_once_with_1() {
    for (first, second) in [
        (Signal::SIGTERM, Signal::SIGTERM),
        (Signal::SIGINT, Signal::SIGTERM),
    ] {
        let mut server = Served::start(&["--drain-grace", "1h"]);
        server.plan(plan_request("p", &["a"]));
        let frozen = watching(&server);
        frozen.signal(Signal::SIGSTOP);
        server.program.signal(first);
        server
            .program
            .stderr
            .line_with("draining delay_ms=0 grace_ms=3600000");
        server.program.signal(second);
        let said = server.program.finish();
        assert_eq!(said.code, 1);
        assert_eq!(
            logged(&said).last(),
            Some(&"WARN fanout::cli::serve: second signal; exiting at once")
        );
    }
}

#[test]
fn a_server_that_drains_takes_no_new_connections() {
    let mut server = Served::start(&["--drain-grace", "1h"]);
    server.plan(plan_request("p", &["a"]));
    let frozen = watching(&server);
    frozen.signal(Signal::SIGSTOP);
    server.program.signal(Signal::SIGTERM);
    server.program.stderr.line_with("draining");
    let refused = format!(
        "error: no coordinator answers at {} (Connection refused (os error 111)); \
         start one with `fanout serve`, or give --server\n",
        server.address
    );
    // The listener is closed a moment after the line is logged.
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(&server.address).is_ok() {
        assert!(Instant::now() < end, "connections are still taken");
    }
    assert_eq!(server.said(&["health"]), says(1, "", &refused));
}

/// What ends a server of which this client takes up the whole grace, half a second; the default would be 30.
fn held_by<T>(hold: impl FnOnce(&Served) -> T) -> Said {
    let server = Served::start(&["--drain-grace", "500ms"]);
    server.plan(plan_request("p", &["a"]));
    let held = hold(&server);
    let begin = Instant::now();
    server.program.signal(Signal::SIGTERM);
    let said = server.program.finish();
    assert!(
        begin.elapsed() < Duration::from_secs(25),
        "{:?}",
        begin.elapsed()
    );
    drop(held);
    said
}

#[test]
fn a_frozen_client_holds_the_server_no_longer_than_the_grace() {
    let said = held_by(|server| {
        let frozen = watching(server);
        frozen.signal(Signal::SIGSTOP);
        frozen
    });
    check_cut(&said, "500");
}

/// A watch of which the first frame is read, and which has far more of them to come than this client takes unread.
async fn lagging_watch(server: &Served) -> Streaming<WatchPlanResponse> {
    let address = format!("http://{}", server.address);
    let endpoint = Channel::from_shared(address).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535);
    let mut client = Client::new(endpoint.connect().await.unwrap());
    client.plan(plan_request("q", &["a", "b"])).await.unwrap();
    for number in 0..64 {
        let text = "x".repeat(100_000);
        let body = format!(r#"{{"id":"task-a","number":{number},"text":"{text}"}}"#);
        let request = SubmitRecordsRequest {
            plan_id: "q".into(),
            records: vec![record(&body)],
            ..Default::default()
        };
        client.submit_records(request).await.unwrap();
    }
    let mut frames = watch(&mut client, "q", true).await;
    next(&mut frames).await.unwrap().unwrap();
    frames
}

#[test]
fn a_client_that_never_reads_its_frames_holds_the_server_no_longer_than_the_grace() {
    let said = held_by(|server| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        (runtime.block_on(lagging_watch(server)), runtime)
    });
    check_cut(&said, "500");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_lags_is_told_too_once_it_has_read_what_was_sent_before() {
    let mut server = Served::start(&[]);
    let mut frames = lagging_watch(&server).await;
    server.program.signal(Signal::SIGTERM);
    server.program.stderr.line_with("draining");
    let mut sequence = 2;
    let end = loop {
        match next(&mut frames).await {
            Ok(Some(response)) => {
                let Some(Frame::Result(result)) = response.frame else {
                    panic!("{response:?}")
                };
                sequence += 1;
                assert_eq!(result.sequence, sequence);
            }
            end => break end,
        }
    };
    check_draining(end);
    check_drained(&server.program.finish(), "30000");
}

#[test]
fn a_connection_that_says_nothing_or_not_all_does_not_hold_the_server() {
    let silent = |hello: &'static [u8]| {
        held_by(move |server| {
            let mut connection = TcpStream::connect(&server.address).unwrap();
            connection.write_all(hello).unwrap();
            // Accepted after that one, so that one was accepted.
            assert_eq!(server.said(&["health"]).code, 0);
            connection
        })
    };
    for hello in [&b""[..], b"PRI * HTTP"] {
        let said = silent(hello);
        check_drained(&said, "500");
    }
    // One that greets and never answers the goodbye.
    let said = silent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    check_cut(&said, "500");
}

#[test]
fn after_sigkill_the_same_port_serves_anew_and_says_that_the_plans_are_gone() {
    let server = Served::start(&[]);
    server.plan(plan_request("p", &["a"]));
    let mut watch = watching(&server);
    let address = server.address.clone();
    server.program.signal(Signal::SIGKILL);
    assert_eq!(server.program.finish().code, -9);
    let line = watch.stderr.line();
    assert!(
        line.starts_with("watch was cut (") && line.ends_with("); going on in 1 s"),
        "{line}"
    );

    let server = Served::at(&address, &[]);
    assert_eq!(server.address, address);
    let gone = "error: there is no plan \"p\" (NotFound, PLAN_NOT_FOUND)\n";
    assert_eq!(server.said(&["get", "p"]), says(1, "", gone));
    // The watcher has found the new server by itself, and is told the same.
    let said = watch.finish();
    assert_eq!(said.code, 1);
    assert!(said.stderr.ends_with(gone), "{}", said.stderr);
    assert_eq!(server.said(&["list"]).stdout.lines().count(), 1);
    check_drained(&server.stop(), "30000");
}
