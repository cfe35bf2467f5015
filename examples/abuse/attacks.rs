//! What the hostile tenant does, for as long as the honest one is measured, and how it has to be answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fanout::proto::{
    GetPlanRequest, ReconcileRequest, Record, SubmitRecordRequest, SubmitRecordsRequest,
    WatchPlanRequest,
};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, begun, call, frame,
    header, streams,
};
use crate::{BESIDE, Client, Outcome, connect, honest, tasks};

/// How many do it at a time.
const AT_A_TIME: usize = 4;
/// Connections of those who hold connections: more than the server has file descriptors for.
const CONNECTIONS: usize = 1_000;
/// How long who is not answered waits before it comes again.
const UNANSWERED: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECTED_WITHIN: Duration = Duration::from_millis(500);

/// What is told of a connection that the server has ended.
const CUT: &str = "cut";

/// How much longer than usual an attack may take to meet its refusal.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Attack {
    pub name: &'static str,
    /// The answer that it has to get, if it is one of calls, and beside it no other refusal.
    refused: Option<&'static str>,
}

pub const ATTACKS: [Attack; 17] = [
    Attack::of_bytes("pings"),
    Attack::of_bytes("settings"),
    Attack::of_bytes("resets"),
    Attack::of_bytes("continuations"),
    Attack::of_bytes("small-frames"),
    Attack::of_bytes("empty-frames"),
    Attack::of_bytes("open-streams"),
    Attack::of_bytes("slow"),
    Attack::of_bytes("silent"),
    Attack::of_calls("strangers", "Unauthenticated UNAUTHENTICATED"),
    Attack::of_calls("spies", "NotFound PLAN_NOT_FOUND"),
    Attack::of_calls("streams", "ResourceExhausted tenant_streams_max"),
    Attack::of_calls("watches", "ResourceExhausted tenant_streams_max"),
    Attack::of_calls("plans", "ResourceExhausted tenant_plans_max"),
    Attack::of_calls("tasks", "ResourceExhausted tenant_tasks_max"),
    Attack::of_calls("records", "ResourceExhausted tenant_bytes_max"),
    Attack::of_calls("hurry", "ResourceExhausted tenant_records_per_second_max"),
];

impl Attack {
    const fn of_bytes(name: &'static str) -> Self {
        Self {
            name,
            refused: None,
        }
    }

    const fn of_calls(name: &'static str, refused: &'static str) -> Self {
        Self {
            name,
            refused: Some(refused),
        }
    }

    /// What is wrong with what an attacker told.
    pub fn judge(&self, told: &str) -> Option<String> {
        let refused = self.refused?;
        let answers: Vec<&str> = told.trim_end().split(", ").collect();
        let is = |answer: &&str, what| {
            answer
                .split_once(": ")
                .is_some_and(|(name, _)| name == what)
        };
        if !answers.iter().any(|answer| is(answer, refused)) {
            return Some(format!("{}: expected {refused}, found {told:?}", self.name));
        }
        let other = answers
            .iter()
            .find(|answer| ![refused, "Ok", CUT].iter().any(|what| is(answer, what)));
        other.map(|other| format!("{}: {other}", self.name))
    }
}

/// What came of what was done, and how often.
#[derive(Default)]
struct Told(BTreeMap<String, u64>);

impl Told {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    fn answer<T>(&mut self, answer: Result<T, Status>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.count("Ok");
                Some(answer)
            }
            Err(status) => {
                self.count(named(&status));
                None
            }
        }
    }

    fn add(&mut self, other: Self) {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

/// A refusal by its code, and the limit that it names, or its reason; a connection that was cut, as those are whose calls are
/// refused by the thousand before they have been said to the end.
fn named(status: &Status) -> String {
    let details = status.get_error_details();
    if details.error_info().is_none() {
        return CUT.to_owned();
    }
    let quota = details
        .quota_failure()
        .and_then(|quota| quota.violations.first());
    let of_quota = quota.map(|violation| violation.subject.clone());
    let reason = details.error_info().map(|info| info.reason.clone());
    let why = of_quota.or(reason).unwrap_or_default();
    format!("{:?} {why}", status.code())
}

/// Attacks, and tells what came of it.
pub async fn attack(name: &str, address: &str, token: &str) -> Outcome<()> {
    let until = Instant::now() + BESIDE;
    let attackers = (0..AT_A_TIME).map(|_| one(name, address, token, until));
    let mut told = Told::default();
    for one in join_all(attackers).await {
        told.add(one?);
    }
    let told: Vec<String> = told
        .0
        .iter()
        .map(|(what, times)| format!("{what}: {times}"))
        .collect();
    println!("{}", told.join(", "));
    Ok(())
}

async fn one(name: &str, address: &str, token: &str, until: Instant) -> Outcome<Told> {
    let said = |method: &str, stream| frame(HEADERS, END_HEADERS, stream, &call(method, token));
    let mut told = Told::default();
    let flood = match name {
        "pings" => Some(frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
        "settings" => Some(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]).repeat(20_000)),
        "resets" => Some(each(10_000, |stream| {
            let cut = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            [said("ListPlans", stream), cut].concat()
        })),
        "continuations" => {
            let more = frame(
                CONTINUATION,
                0,
                1,
                &header("x", &"y".repeat(100)).repeat(100),
            );
            let first = frame(HEADERS, 0, 1, &call("ListPlans", token));
            Some([first, more.repeat(1_000)].concat())
        }
        "small-frames" => Some(with_data(&said("SubmitRecord", 1), &[0], 100_000)),
        "empty-frames" => Some(with_data(&said("SubmitRecord", 1), &[], 100_000)),
        "open-streams" => Some(each(5_000, |stream| said("SubmitRecord", stream))),
        _ => None,
    };
    if let Some(flood) = flood {
        let flood = begun(&flood);
        while Instant::now() < until {
            told.count(pour(address, &flood).await);
        }
        return Ok(told);
    }
    match name {
        "slow" | "silent" => hold(address, name == "slow", until, &mut told).await,
        "strangers" => {
            let mut client = connect(address, "nobody").await?;
            repeat(until, &mut told, async || {
                client.get_plan(GetPlanRequest::default()).await
            })
            .await;
        }
        "spies" => {
            let mut client = connect(address, token).await?;
            repeat(until, &mut told, async || {
                let plan_id = honest::PLAN.to_owned();
                let request = ReconcileRequest {
                    plan_id,
                    ..Default::default()
                };
                client.reconcile(request).await
            })
            .await;
        }
        "streams" => {
            let mut client = connect(address, token).await?;
            let mut open = Vec::new();
            while goes_on(name, until, &told) {
                let silent = tokio_stream::pending::<SubmitRecordRequest>();
                open.extend(told.answer(client.submit_record(silent).await));
            }
        }
        "watches" => {
            let mut client = connect(address, token).await?;
            client.plan(tasks::numbered("watched", 1_000)).await?;
            let mut open = Vec::new();
            while goes_on(name, until, &told) {
                let request = WatchPlanRequest {
                    plan_id: "watched".into(),
                    include_snapshot: true,
                    ..Default::default()
                };
                open.extend(told.answer(client.watch_plan(request).await));
            }
        }
        "plans" | "tasks" => {
            let tasks = if name == "plans" { 1 } else { 10_000 };
            let mut client = connect(address, token).await?;
            let mut ids = Vec::new();
            while goes_on(name, until, &told) {
                let id = uuid(ids.len());
                let planned = client.plan(tasks::numbered(&id, tasks)).await;
                if told.answer(planned).is_some() {
                    ids.push(id);
                }
            }
            forget(&mut client, ids).await?;
        }
        "records" => {
            let mut client = connect(address, token).await?;
            let id = uuid(0);
            client.plan(tasks::numbered(&id, 100)).await?;
            let mut sent = 0_usize;
            while goes_on(name, until, &told) {
                let body = format!("{{\"n\":{sent},\"text\":\"{}\"}}", "x".repeat(500_000));
                let record = Record {
                    id: format!("task-{}", sent % 100),
                    body: body.into(),
                    ..Default::default()
                };
                sent += 1;
                let request = SubmitRecordsRequest {
                    plan_id: id.clone(),
                    records: vec![record],
                    ..Default::default()
                };
                told.answer(client.submit_records(request).await);
            }
            forget(&mut client, vec![id]).await?;
        }
        "hurry" => {
            let mut client = connect(address, token).await?;
            let id = uuid(0);
            client.plan(tasks::numbered(&id, 100)).await?;
            let records = |sent: usize| {
                let record = |task: usize| Record {
                    id: format!("task-{task}"),
                    body: format!("{{\"outcome\":{}}}", sent % 2).into(),
                    ..Default::default()
                };
                (0..100).map(record).collect()
            };
            let mut sent = 0_usize;
            while goes_on(name, until, &told) {
                sent += 1;
                let request = SubmitRecordsRequest {
                    plan_id: id.clone(),
                    records: records(sent),
                    ..Default::default()
                };
                told.answer(client.submit_records(request).await);
            }
            forget(&mut client, vec![id]).await?;
        }
        _ => return Err(format!("{name:?} is no attack").into()),
    }
    Ok(told)
}

/// Whether an attack goes on: its time is not over, or it has not met what it has to meet, as where all is slow.
fn goes_on(name: &str, until: Instant, told: &Told) -> bool {
    let mut attacks = ATTACKS.iter();
    let refused = attacks
        .find(|attack| attack.name == name)
        .and_then(|attack| attack.refused);
    let has_met = refused.is_none_or(|refused| told.0.contains_key(refused));
    Instant::now() < if has_met { until } else { until + PATIENCE }
}

/// Asks again and again.
async fn repeat<T>(
    until: Instant,
    told: &mut Told,
    mut ask: impl AsyncFnMut() -> Result<T, Status>,
) {
    while Instant::now() < until {
        told.answer(ask().await);
    }
}

/// Something for each of so many streams.
fn each(streams_: usize, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    streams().take(streams_).flat_map(of).collect()
}

/// A call, and so many frames of its data.
fn with_data(call: &[u8], data: &[u8], times: usize) -> Vec<u8> {
    [call, &frame(DATA, 0, 1, data).repeat(times)].concat()
}

/// Says all of this on a connection, as far as the server listens; tells how it ended.
async fn pour(address: &str, said: &[u8]) -> &'static str {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return "not connected";
    };
    let (mut read, mut write) = stream.split();
    let pouring = async { write.write_all(said).await.is_ok() };
    let mut heard = [0; 16_384];
    let hearing = async { while read.read(&mut heard).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = hearing => CUT,
        // It may be heard a little later what the server thinks of it.
        () = async { pouring.await; tokio::time::sleep(UNANSWERED).await } => "poured",
    }
}

/// Holds as many connections as there are to be had: one byte now and then, or none at all.
async fn hold(address: &str, slowly: bool, until: Instant, told: &mut Told) {
    let mut held = Vec::new();
    let preface = begun(&[]);
    let mut said = 0;
    while Instant::now() < until {
        while held.len() < CONNECTIONS / AT_A_TIME {
            let connected =
                tokio::time::timeout(CONNECTED_WITHIN, TcpStream::connect(address)).await;
            let Ok(Ok(stream)) = connected else {
                told.count("not connected");
                break;
            };
            told.count("connected");
            held.push(stream);
        }
        if slowly {
            let byte = [preface[said % preface.len()]];
            said += 1;
            held.retain_mut(|stream| stream.try_write(&byte).is_ok());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A name of this attacker's own.
fn uuid(nth: usize) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:x}-{nth}", RandomState::new().hash_one(nth))
}

/// Deletes plans, so that the next attack finds room.
async fn forget(client: &mut Client, ids: Vec<String>) -> Outcome<()> {
    for plan_id in ids {
        let request = fanout::proto::DeletePlanRequest {
            plan_id,
            ..Default::default()
        };
        match client.delete_plan(request).await {
            Err(status) if status.code() != Code::NotFound => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}
