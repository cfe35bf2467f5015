//! Plans that do not fit one message: a header, chunks of items, a commit; and nothing visible before it.

use std::fmt::Write;
use std::time::Duration;

use fanout::proto::plan_request::Source;
use fanout::proto::plan_stream_request::Part;
use fanout::proto::{
    GetPlanRequest, PlanCommit, PlanRequest, PlanResponse, PlanStreamRequest, PlanStreamResponse,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

use crate::arbitrary::{cases, text};
use crate::harness::{TestServer, plan_request, refusal};

/// A plan's header: the request without its items.
fn header(plan_id: &str) -> PlanRequest {
    PlanRequest {
        source: None,
        ..plan_request(plan_id, &[])
    }
}

fn commit_of(item_count: u64, chunks: &[&str]) -> PlanCommit {
    let mut digest = Sha256::new();
    chunks.iter().for_each(|chunk| digest.update(chunk));
    let digest = digest
        .finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
    PlanCommit { item_count, digest }
}

fn parts(header: PlanRequest, chunks: &[&str], item_count: u64) -> Vec<Part> {
    let items = chunks
        .iter()
        .map(|chunk| Part::Items((*chunk).to_owned().into()));
    let mut parts = vec![Part::Header(header)];
    parts.extend(items);
    parts.push(Part::Commit(commit_of(item_count, chunks)));
    parts
}

async fn send(server: &mut TestServer, parts: Vec<Part>) -> Result<PlanStreamResponse, Status> {
    let messages = parts
        .into_iter()
        .map(|part| PlanStreamRequest { part: Some(part) });
    let messages: Vec<_> = messages.collect();
    let answer = server.plan_stream(tokio_stream::iter(messages)).await;
    answer.map(Response::into_inner)
}

async fn is_known(server: &mut TestServer, plan_id: &str) -> bool {
    let request = GetPlanRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    };
    server.get_plan(request).await.is_ok()
}

type Answer = Result<Response<PlanStreamResponse>, Status>;

/// Opens a stream for the plan `p` and sends two empty chunks; when this returns, the server has its header.
async fn open(server: &mut TestServer) -> (mpsc::Sender<PlanStreamRequest>, JoinHandle<Answer>) {
    let (messages, stream) = mpsc::channel(1);
    let mut sender = server.connect().await;
    let mut behind = sender.clone();
    let answer = tokio::spawn(async move { sender.plan_stream(ReceiverStream::new(stream)).await });
    let empty = || Part::Items("[]".into());
    for part in [Part::Header(header("p")), empty(), empty()] {
        let part = Some(part);
        messages.send(PlanStreamRequest { part }).await.unwrap();
    }
    // What is sent on the same connection after the header, is answered after it.
    let request = GetPlanRequest {
        plan_id: "p".into(),
        ..Default::default()
    };
    let status = behind.get_plan(request).await.unwrap_err();
    assert_eq!(refusal(&status).1, "PLAN_NOT_FOUND");
    (messages, answer)
}

const CHUNKS: [&str; 4] = [
    r#"[{"k":"a"},{"k":"b"}]"#,
    "[]",
    "",
    r#" [ {"k" : "a", "n" : 1.0} ] "#,
];
const WHOLE: &str = r#"[{"k":"a"},{"k":"b"},{"k":"a","n":1}]"#;

#[tokio::test]
async fn a_streamed_plan_is_the_plan_of_all_its_items() {
    let mut server = TestServer::start().await;
    let streamed = send(&mut server, parts(header("streamed"), &CHUNKS, 3))
        .await
        .unwrap();
    let request = PlanRequest {
        source: Some(Source::Items(WHOLE.into())),
        ..header("at-once")
    };
    let at_once = server.plan(request).await.unwrap().into_inner();
    let PlanResponse {
        plan,
        created,
        document,
        task_requests,
        next_page_token,
    } = at_once;
    let (plan, streamed_plan) = (plan.unwrap(), streamed.plan.unwrap());
    assert_eq!(streamed_plan.plan_id, "streamed");
    assert_eq!(streamed_plan.digest, plan.digest);
    assert_eq!(streamed_plan.counts, plan.counts);
    assert_eq!(streamed.created, created);
    assert_eq!(streamed.document, document);
    assert_eq!(streamed.task_requests, task_requests);
    assert_eq!(streamed.next_page_token, next_page_token);
}

#[tokio::test]
async fn the_same_plan_again_is_the_one_that_is_there_however_it_is_sent() {
    let mut server = TestServer::start().await;
    let first = send(&mut server, parts(header("p"), &CHUNKS, 3))
        .await
        .unwrap();
    assert!(first.created);
    let again = send(&mut server, parts(header("p"), &[WHOLE], 3))
        .await
        .unwrap();
    assert!(!again.created);
    let request = PlanRequest {
        source: Some(Source::Items(WHOLE.into())),
        ..header("p")
    };
    assert!(!server.plan(request).await.unwrap().into_inner().created);

    let other = send(&mut server, parts(header("p"), &["[1]"], 1)).await;
    let status = other.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::AlreadyExists, "PLAN_EXISTS".into(), String::new())
    );
}

#[tokio::test]
async fn a_request_id_makes_a_stream_repeatable() {
    let mut server = TestServer::start().await;
    let header = || PlanRequest {
        request_id: "once".into(),
        ..header("")
    };
    let plan_id = |answer: PlanStreamResponse| answer.plan.unwrap().plan_id;
    let first = send(&mut server, parts(header(), &["[1,2]"], 2))
        .await
        .unwrap();
    let again = send(&mut server, parts(header(), &["[1]", "[2]"], 2))
        .await
        .unwrap();
    assert!(first.created && !again.created);
    assert_eq!(plan_id(first), plan_id(again));
    let other = send(&mut server, parts(header(), &["[3]"], 1)).await;
    let status = other.unwrap_err();
    assert_eq!(refusal(&status).1, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_stream_of_no_items_plans_no_tasks_and_the_digest_of_no_chunk_is_that_of_no_bytes() {
    let mut server = TestServer::start().await;
    let commit = PlanCommit {
        item_count: 0,
        digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".into(),
    };
    let stream = vec![Part::Header(header("empty")), Part::Commit(commit)];
    let answer = send(&mut server, stream).await.unwrap();
    assert_eq!(answer.plan.unwrap().counts.unwrap().tasks, 0);
}

#[tokio::test]
async fn validate_only_plans_and_registers_nothing() {
    let mut server = TestServer::start().await;
    let header = PlanRequest {
        validate_only: true,
        ..header("p")
    };
    let answer = send(&mut server, parts(header, &CHUNKS, 3)).await.unwrap();
    assert_eq!(
        (answer.created, answer.plan.unwrap().counts.unwrap().tasks),
        (false, 2)
    );
    assert!(!is_known(&mut server, "p").await);
}

#[tokio::test]
async fn nothing_is_visible_before_the_commit_and_nothing_is_left_of_a_stream_that_breaks_off() {
    let mut server = TestServer::start().await;
    let (messages, answer) = open(&mut server).await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    drop(messages);

    // The name is free, and all places for streams are, too.
    for _ in 0..20 {
        let stream = vec![
            Part::Header(header("p")),
            Part::Items(r#"[{"k":"a"}]"#.into()),
        ];
        let status = send(&mut server, stream).await.unwrap_err();
        let expected = (
            Code::InvalidArgument,
            "FIELD_REQUIRED".into(),
            "commit".into(),
        );
        assert_eq!(refusal(&status), expected);
    }
    assert!(!is_known(&mut server, "p").await);
    let other = send(&mut server, parts(header("p"), &["[1]"], 1)).await;
    assert!(other.unwrap().created);
}

#[tokio::test]
async fn a_stream_that_is_misused_is_refused_with_its_reason_and_plans_nothing() {
    let mut server = TestServer::start().await;
    let items = |text: &'static str| Part::Items(text.into());
    let head = || Part::Header(header("p"));
    let commit = |count, chunks: &[&str]| Part::Commit(commit_of(count, chunks));
    let with_items = Part::Header(plan_request("p", &["a"]));
    let wrong_config = Part::Header(PlanRequest {
        config: "[".into(),
        ..header("p")
    });
    let upper_case = PlanCommit {
        digest: commit_of(1, &["[1]"]).digest.to_uppercase(),
        item_count: 1,
    };
    let cases = [
        (vec![], "FIELD_REQUIRED", "header"),
        (vec![items("[1]")], "PART_OUT_OF_ORDER", "header"),
        (vec![commit(0, &[])], "PART_OUT_OF_ORDER", "header"),
        (vec![head(), head()], "PART_OUT_OF_ORDER", "header"),
        (
            vec![head(), items("[1]"), head()],
            "PART_OUT_OF_ORDER",
            "header",
        ),
        (vec![head()], "FIELD_REQUIRED", "commit"),
        (
            vec![with_items],
            "FIELDS_EXCLUDE_EACH_OTHER",
            "header.source",
        ),
        (vec![wrong_config], "INVALID_JSON", "config"),
        (vec![head(), items("{}")], "INVALID_DOCUMENT", "items"),
        (vec![head(), items("1")], "INVALID_DOCUMENT", "items"),
        (vec![head(), items("[1,]")], "INVALID_JSON", "items"),
        (vec![head(), items("[1][2]")], "INVALID_JSON", "items"),
        (
            vec![head(), items("[1]"), commit(2, &["[1]"])],
            "ITEM_COUNT_MISMATCH",
            "commit.item_count",
        ),
        (
            vec![head(), items("[1]"), commit(1, &["[2]"])],
            "DIGEST_MISMATCH",
            "commit.digest",
        ),
        (
            vec![head(), items("[1]"), Part::Commit(upper_case)],
            "DIGEST_MISMATCH",
            "commit.digest",
        ),
        (
            vec![
                head(),
                items("[1]"),
                items("[2]"),
                commit(2, &["[2]", "[1]"]),
            ],
            "DIGEST_MISMATCH",
            "commit.digest",
        ),
        (
            vec![head(), items("[1]"), Part::Commit(PlanCommit::default())],
            "ITEM_COUNT_MISMATCH",
            "commit.item_count",
        ),
    ];
    for (stream, reason, field) in cases {
        let what = format!("{stream:?}");
        let status = send(&mut server, stream).await.unwrap_err();
        let expected = (Code::InvalidArgument, reason.into(), field.into());
        assert_eq!(refusal(&status), expected, "{what}");
    }
    let no_part = tokio_stream::iter(vec![PlanStreamRequest { part: None }]);
    let status = server.plan_stream(no_part).await.unwrap_err();
    let expected = (
        Code::InvalidArgument,
        "FIELD_REQUIRED".into(),
        "part".into(),
    );
    assert_eq!(refusal(&status), expected);
    assert!(!is_known(&mut server, "p").await);
}

#[tokio::test]
async fn one_item_and_one_byte_past_the_limits_are_refused() {
    let mut server = TestServer::with(|config| {
        config.limits.items_per_plan_max = 4;
        config.limits.plan_stream_bytes_max = 13;
    })
    .await;
    let fits = ["[1,2]", "[3,4]", "[ ]"];
    let answer = send(&mut server, parts(header("fits"), &fits, 4)).await;
    assert!(answer.unwrap().created);
    let refused = [
        (&["[1,2]", "[3,4,5]"][..], "4"),
        (&["[1,2]", "[3 ,4]", "[ ]"][..], "13"),
    ];
    for (chunks, limit) in refused {
        let stream = parts(header("p"), chunks, 5);
        let status = send(&mut server, stream).await.unwrap_err();
        let expected = (
            Code::InvalidArgument,
            "LIMIT_EXCEEDED".into(),
            "items".into(),
        );
        assert_eq!(refusal(&status), expected);
        assert!(status.message().contains(limit), "{}", status.message());
    }
}

#[tokio::test]
async fn more_than_64_values_for_each_item_that_a_plan_may_have_are_refused() {
    let mut server = TestServer::with(|config| config.limits.items_per_plan_max = 2).await;
    // 128 with the list of each chunk.
    let chunks = |second: usize| {
        let item = |lists: usize| format!("[[{}{{}}]]", "[],".repeat(lists - 1));
        [item(62), item(second)]
    };
    let mut answers = Vec::new();
    for second in [62, 63] {
        let [first, second] = chunks(second);
        let stream = parts(header("p"), &[&first, &second], 2);
        answers.push(send(&mut server, stream).await.map(|answer| answer.created));
    }
    assert!(matches!(answers[0], Ok(true)));
    let status = answers.remove(1).unwrap_err();
    let expected = (
        Code::InvalidArgument,
        "LIMIT_EXCEEDED".into(),
        "items".into(),
    );
    assert_eq!(refusal(&status), expected);
    assert_eq!(status.message(), "items: more than 128 JSON values");
}

#[tokio::test]
async fn one_stream_more_than_there_are_places_is_refused_and_may_come_again() {
    let mut server = TestServer::with(|config| config.limits.plan_streams_max = 1).await;
    let (messages, first) = open(&mut server).await;
    let second = send(&mut server, parts(header("second"), &["[1]"], 1)).await;
    assert_eq!(
        refusal(&second.unwrap_err()),
        (
            Code::ResourceExhausted,
            "QUOTA_EXCEEDED".into(),
            String::new()
        )
    );
    let part = Some(Part::Commit(commit_of(0, &["[]", "[]"])));
    messages.send(PlanStreamRequest { part }).await.unwrap();
    assert!(first.await.unwrap().unwrap().into_inner().created);
    let third = send(&mut server, parts(header("third"), &["[1]"], 1)).await;
    assert!(third.unwrap().created);
}

#[tokio::test]
async fn a_sender_that_says_nothing_is_ended() {
    let mut server = TestServer::with(|config| {
        config.times.plan_stream_idle = Duration::from_millis(20);
    })
    .await;
    let (messages, stream) = mpsc::channel(4);
    let part = Some(Part::Header(header("p")));
    messages.send(PlanStreamRequest { part }).await.unwrap();
    let status = server
        .plan_stream(ReceiverStream::new(stream))
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::DeadlineExceeded, "STREAM_IDLE".into(), String::new())
    );
    drop(messages);
    assert!(!is_known(&mut server, "p").await);
}

#[tokio::test]
async fn a_sender_that_never_comes_to_its_end_is_ended_however_much_it_says() {
    let mut server = TestServer::with(|config| {
        config.times.plan_stream_time_max = Duration::from_millis(100);
    })
    .await;
    let (messages, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut part = Part::Header(header("p"));
        while let Ok(()) = messages.send(PlanStreamRequest { part: Some(part) }).await {
            part = Part::Items("[]".into());
        }
    });
    let status = server
        .plan_stream(ReceiverStream::new(stream))
        .await
        .unwrap_err();
    let expected = (
        Code::DeadlineExceeded,
        "STREAM_TOO_LONG".into(),
        String::new(),
    );
    assert_eq!(refusal(&status), expected);
    assert!(!is_known(&mut server, "p").await);
}

#[tokio::test]
async fn a_server_that_drains_ends_the_stream_and_says_so() {
    let mut server = TestServer::start().await;
    let (_messages, answer) = open(&mut server).await;
    server.begin_to_stop();
    let status = answer.await.unwrap().unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::Unavailable, "DRAINING".into(), String::new())
    );
}

/// Cuts a list's elements into chunks; a cut at 0 makes an empty one.
fn chunks(items: &[String], cuts: &[usize]) -> Vec<String> {
    let mut rest = items;
    let mut chunks = Vec::new();
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        chunks.push(format!("[{}]", now.join(",")));
        rest = later;
    }
    chunks.push(format!("[{}]", rest.join(",")));
    chunks
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn where_a_list_is_cut_changes_nothing(
        items in prop::collection::vec(text(), 0..12),
        cuts in prop::collection::vec(0..4_usize, 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut server = TestServer::start().await;
            let whole = format!("[{}]", items.join(","));
            let config = r#"{"task_request_template":{"all":"{{group.items}}"}}"#;
            let header = || PlanRequest { config: config.into(), ..header("p") };
            let request = PlanRequest { source: Some(Source::Items(whole.into())), ..header() };
            let at_once = server.plan(request).await;
            let cut = chunks(&items, &cuts);
            let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
            let streamed = send(&mut server, parts(header(), &cut, items.len() as u64)).await;
            match (at_once, streamed) {
                (Ok(at_once), Ok(streamed)) => {
                    assert!(!streamed.created);
                    assert_eq!(streamed.document, at_once.into_inner().document);
                }
                (Err(at_once), Err(streamed)) => {
                    assert_eq!(refusal(&streamed), refusal(&at_once));
                }
                (at_once, streamed) => panic!("{at_once:?} but {streamed:?}"),
            }
        });
    }
}
