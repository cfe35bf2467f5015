//! Explores what replicas do over a stream whose network fails in every way that it may, from seeds.
//!
//! Each run draws everything from its seed: what is asked where and when, and what goes wrong. `FANOUT_SEEDS` says which
//! seeds are run instead of the usual ones: `FROM..TO`, or a single one; it then says of each how it went. A seed mostly
//! goes the same way again. Where it does not (registrations plan on another thread), run it a few times.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use fanout::coordinator::{
    Clock, Coordinator, Deadline, Error, Next, Page, PlanCommand, Source, Watch,
};
use fanout::engine::{
    Completion, Disposition, EndReason, Entry, Event, Receipt, RecordKind, SealRule, Spec, State,
    Submission,
};
use fanout::json;
use fanout::reconcile::record::{self, Rewrite, TypedFields};
use fanout::registry::LivePlan;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::{Instant, sleep};

use super::network::{Network, ON_ITS_WAY};
use super::replica_set::{Replica, Replicas, SKEW, Seen};
use super::simulated::{Fault, Simulated};
use super::truth::{Told, digest, life_of};
use crate::harness::parse;

const NAMES: [&str; 3] = ["ended", "deleted", "expired"];
/// Tasks whose records have producers, and those whose records come to two replicas at once.
const TASKS: (u64, u64) = (3, 3);
/// So long something is done, and things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// After this, without trouble, everything is as it has to be.
const SETTLED: Duration = Duration::from_secs(100);

/// One run.
struct Run {
    replicas: Replicas,
    until: Instant,
}

impl Run {
    fn below(&self, most: u64, purpose: &str) -> u64 {
        self.replicas.network.chance.below(most, purpose)
    }

    async fn pause(&self, most: u64, who: &str) {
        let time = self
            .replicas
            .network
            .chance
            .time(most, &format!("{who} pauses"));
        sleep(time).await;
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Registers a plan under this name, until it is there.
    async fn register(&self, name: &str, generation: u64, who: &str) {
        let groups: Vec<String> = (0..TASKS.0 + TASKS.1)
            .map(|task| format!(r#"{{"key":"t{task}","generation":{generation}}}"#))
            .collect();
        let config = format!(
            r#"{{"groups":[{}],"task_request_template":{{"id":"{{{{group.key}}}}"}}}}"#,
            groups.join(",")
        );
        let command = PlanCommand {
            tenant: Arc::default(),
            request_id: format!("{name} {generation}"),
            plan_id: name.into(),
            config: parse(&config).as_object().unwrap().clone(),
            source: Source::Config,
            completion: Completion {
                seal_rule: SealRule::Explicit,
                ..Completion::default()
            },
            deadline: match name {
                "deleted" => None,
                _ => Some(Deadline::After(Duration::from_secs(
                    3 + self.below(15, "deadline"),
                ))),
            },
            retention: (name == "expired")
                .then(|| Duration::from_millis(self.below(5_000, "retention"))),
            labels: BTreeMap::new(),
            validate_only: false,
            document_bytes_max: 0,
        };
        while !self.is_over() {
            let replica = self.replicas.any(who);
            let before = self.replicas.truth.before();
            let asked = InTurn(Box::pin(replica.coordinator.register(command.clone())));
            match self.replicas.ask(&replica, who, asked).await {
                Some(Ok(registered)) => {
                    let view = registered.view;
                    let life = life_of(&view.spec);
                    self.replicas.truth.registered(&view.spec);
                    let sequence = view.standing.sequence;
                    self.replicas.truth.is_at(&life, sequence, &before, who);
                    return;
                }
                // Its name is wanted as soon as it is free.
                Some(Err(Error::PlanExists { .. })) if name == "expired" => {
                    sleep(Duration::from_millis(self.below(40, who))).await;
                }
                Some(Err(Error::PlanExists { .. } | Error::RequestIdReused { .. })) => return,
                Some(Err(_)) | None => self.pause(2_000, who).await,
            }
        }
    }

    /// Finds the plan of this name, at any replica.
    async fn find(&self, name: &str, who: &str) -> Option<(Arc<Replica>, Arc<LivePlan>)> {
        let replica = self.replicas.any(who);
        let asked = replica.coordinator.plan(name);
        let plan = self.replicas.ask(&replica, who, asked).await?.ok()?;
        Some((replica, plan))
    }

    /// Sends records with offsets to whoever answers, again and again, and some of them again later.
    async fn produce(&self, name: &str, who: &str) {
        let (mut life, mut committed, mut sent) = (String::new(), 0, Vec::new());
        while !self.is_over() {
            self.pause(4_000, who).await;
            let before = self.replicas.truth.before();
            let Some((replica, plan)) = self.find(name, who).await else {
                continue;
            };
            if life_of(plan.spec()) != life {
                life = life_of(plan.spec());
                (committed, sent) = (0, Vec::new());
            }
            let first = committed - self.below(4, who).min(committed);
            let last = first + 1 + self.below(4, who);
            if last > 40 {
                continue;
            }
            while (sent.len() as u64) < last {
                let mark = format!("{who} {}", sent.len());
                sent.push((mark, self.below(TASKS.0, who)));
            }
            let part = &sent[first as usize..last as usize];
            let bodies: Vec<String> = part.iter().map(|(mark, task)| body(mark, *task)).collect();
            let submissions = submissions(&bodies, &plan);
            let coordinator = &replica.coordinator;
            let asked = coordinator.submit_numbered(&plan, who, Some(first), &submissions);
            match self.replicas.ask(&replica, who, asked).await {
                Some(Ok((receipts, standing, now_committed))) => {
                    if now_committed < last.max(committed) {
                        let what = format!("{who}: {now_committed} of {last} are committed");
                        self.replicas.truth.violated(what);
                    }
                    committed = now_committed;
                    self.replicas
                        .truth
                        .is_at(&life, standing.sequence, &before, who);
                    for ((mark, _), receipt) in part.iter().zip(&receipts) {
                        self.replicas.truth.receipt(&life, mark, Told::of(receipt));
                    }
                    self.replicas.show(&replica, &plan, who);
                }
                Some(Err(error @ Error::OffsetAhead { .. })) => {
                    self.replicas.truth.violated(format!("{who}: {error}"));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Sends the same records to two replicas at the same time.
    async fn send_twice(&self, name: &str, who: &str) {
        for nth in 0.. {
            self.pause(5_000, who).await;
            if self.is_over() {
                return;
            }
            let task = TASKS.0 + nth % TASKS.1;
            let mark = format!("{who} {nth}");
            let body = [body(&mark, task)];
            let (one, other) = (format!("{who} one"), format!("{who} other"));
            let both = [&one, &other].map(|who| self.send(name, who, &body));
            let [one, other] = both;
            let (one, other) = tokio::join!(one, other);
            let told: Vec<_> = [one, other].into_iter().flatten().collect();
            let accepted = told.iter().filter(|(_, receipt)| {
                use Disposition::{Accepted, SupersededPrevious};
                matches!(receipt.disposition, Accepted | SupersededPrevious)
            });
            if accepted.count() > 1 && told[0].0 == told[1].0 {
                self.replicas
                    .truth
                    .violated(format!("{mark} was accepted twice: {told:?}"));
            }
            for (life, receipt) in &told {
                let disposition = match receipt.disposition {
                    Disposition::Late => continue,
                    _ => Disposition::Accepted,
                };
                let told = Told {
                    disposition,
                    ..Told::of(receipt)
                };
                self.replicas.truth.receipt(life, &mark, told);
            }
        }
    }

    async fn send(&self, name: &str, who: &str, body: &[String]) -> Option<(String, Receipt)> {
        let before = self.replicas.truth.before();
        let (replica, plan) = self.find(name, who).await?;
        let life = life_of(plan.spec());
        let submissions = submissions(body, &plan);
        let asked = replica.coordinator.submit(&plan, &submissions);
        let (mut receipts, standing) = self.replicas.ask(&replica, who, asked).await?.ok()?;
        self.replicas
            .truth
            .is_at(&life, standing.sequence, &before, who);
        Some((life, receipts.pop()?))
    }

    /// Watches from the beginning to the end, now at this replica, now at that.
    async fn watch(&self, name: &str, who: &str, until: Instant) {
        let (mut life, mut at, mut cursor) = (String::new(), 0, String::new());
        while Instant::now() < until {
            self.replicas.truth.watched(who, &life, at);
            let replica = self.replicas.any(who);
            let asked = replica.coordinator.watch(name, &cursor);
            let mut watch = match self.replicas.ask(&replica, who, asked).await {
                Some(Ok(watch)) => watch,
                Some(Err(Error::Invalid { .. } | Error::PlanNotFound { .. })) => {
                    if !life.is_empty() {
                        self.replicas.truth.is_not_there(&life, who);
                    }
                    (life, at, cursor) = (String::new(), 0, String::new());
                    self.pause(2_000, who).await;
                    continue;
                }
                Some(Err(error @ Error::CursorAhead { .. })) => {
                    self.replicas.truth.violated(format!("{who}: {error}"));
                    continue;
                }
                Some(Err(_)) | None => {
                    self.pause(1_000, who).await;
                    continue;
                }
            };
            life = life_of(watch.spec());
            let leaves = Instant::now() + Duration::from_millis(self.below(8_000, who));
            while Instant::now() < leaves.min(until) {
                match watch.next(Duration::from_millis(700)).await {
                    Ok(Next::Entries(mut entries)) => {
                        while !entries.is_empty() {
                            self.read(&watch, &mut entries, &mut at, who);
                        }
                        cursor = watch.cursor(at);
                    }
                    Ok(Next::Quiet(_)) => {}
                    Ok(Next::Ended(_)) => {
                        self.pause(3_000, who).await;
                        break;
                    }
                    Ok(Next::Removed) => break,
                    Err(error) => {
                        self.replicas.truth.violated(format!("{who}: {error}"));
                        return;
                    }
                }
            }
        }
    }

    fn read(
        &self,
        watch: &Watch,
        entries: &mut fanout::coordinator::Entries,
        at: &mut u64,
        who: &str,
    ) {
        let life = life_of(watch.spec());
        let frames = watch.frames(entries, true, show).unwrap();
        for frame in frames.chunks_exact(16) {
            let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().unwrap());
            let (sequence, digest) = (number(0), number(8));
            if sequence != *at + 1 {
                let what = format!("{who}: {life}: after event {at} comes {sequence}");
                self.replicas.truth.violated(what);
            }
            *at = sequence;
            self.replicas.truth.show(&life, sequence, digest, who);
            self.replicas.truth.tell(&life, sequence);
        }
    }

    /// Asks now and then how a plan stands, and which there are.
    async fn read_now_and_then(&self, name: &str, who: &str) {
        while !self.is_over() {
            self.pause(6_000, who).await;
            let replica = self.replicas.any(who);
            if self.below(4, who) == 0 {
                let asked = replica.coordinator.views("");
                drop(self.replicas.ask(&replica, who, asked).await);
            } else {
                self.replicas.look(&replica, name, who).await;
            }
        }
    }

    /// Registers plans of this name, and ends or forgets them.
    async fn live(&self, name: &str, who: &str) {
        if name == "deleted" {
            self.replicas.truth.may_be_forgotten(name);
        }
        for generation in 0.. {
            // Two ask for the same, and sometimes for something else.
            let other = generation + self.below(8, who) / 7;
            let also = format!("{who}, too");
            tokio::join!(
                self.register(name, generation, who),
                self.register(name, other, &also)
            );
            sleep(Duration::from_millis(self.below(8_000, who))).await;
            if self.is_over() {
                return;
            }
            match name {
                "deleted" => self.delete(name, generation, who).await,
                "ended" => {
                    let reason = match self.below(2, who) {
                        0 => EndReason::Sealed,
                        _ => EndReason::Cancelled,
                    };
                    let replica = self.replicas.any(who);
                    let asked = replica.coordinator.end(name, "", reason, "so");
                    drop(self.replicas.ask(&replica, who, asked).await);
                    return;
                }
                // It is forgotten by itself.
                _ => {}
            }
        }
    }

    async fn delete(&self, name: &str, generation: u64, who: &str) {
        for attempt in 0.. {
            if self.is_over() {
                return;
            }
            let replica = self.replicas.any(who);
            let request_id = format!("delete {name} {generation} {attempt}");
            let asked = replica.coordinator.delete(name, &request_id);
            match self.replicas.ask(&replica, who, asked).await {
                Some(Ok(deleted)) => {
                    if let Some(deleted) = deleted {
                        self.replicas.truth.forgotten(&life_of(&deleted.spec));
                    }
                    return;
                }
                Some(Err(Error::PlanNotFound { .. })) => return,
                Some(Err(_)) | None => self.pause(500, who).await,
            }
        }
    }

    /// In the end all replicas say the same, which is what the stream has.
    async fn check(&self) {
        let fresh = self.replicas.fresh();
        let mut histories = BTreeMap::new();
        for name in NAMES {
            let mut documents = BTreeMap::new();
            let all = [self.replicas.all(), vec![Arc::clone(&fresh)]].concat();
            for replica in all {
                let who = "in the end";
                let said = match settled(&self.replicas, &replica, name).await {
                    Some(Seen::Nothing) => "nothing".to_owned(),
                    Some(Seen::Plan(life, plan)) => {
                        if Arc::ptr_eq(&replica, &fresh) {
                            let live = plan.read().unwrap();
                            histories.insert(life, live.history.clone());
                        }
                        self.answer(&replica.coordinator, &plan).await
                    }
                    None => {
                        self.replicas
                            .truth
                            .violated(format!("{who}: {name} is not answered"));
                        continue;
                    }
                };
                documents.insert(said, ());
            }
            if documents.len() > 1 {
                let what = format!("in the end: {name} differs: {documents:?}");
                self.replicas.truth.violated(what);
            }
        }
        self.replicas.truth.check(&histories);
        for (life, history) in &histories {
            let has_ended = history
                .iter()
                .any(|entry| matches!(entry.event, Event::PlanEnded { .. }));
            let Event::PlanCreated(spec) = &history[0].event else {
                self.replicas
                    .truth
                    .violated(format!("{life} begins otherwise"));
                continue;
            };
            if !has_ended && spec.deadline.is_some() {
                self.replicas
                    .truth
                    .violated(format!("{life} is past its deadline and goes on"));
            }
        }
    }

    /// All that a replica says of a plan.
    async fn answer(&self, coordinator: &Arc<Coordinator>, plan: &Arc<LivePlan>) -> String {
        let result = coordinator
            .result(Arc::clone(plan), Page::Whole)
            .await
            .unwrap();
        let live = plan.read().unwrap();
        let folded = State::fold(live.history.iter().map(|entry| &**entry));
        if folded.as_ref() != Some(&live.state) {
            let what = format!("{} is not the fold of its history", life_of(plan.spec()));
            self.replicas.truth.violated(what);
        }
        format!("{:?} {}", result.view.standing, result.document.unwrap())
    }
}

/// Asks until somebody answers.
async fn settled(replicas: &Replicas, replica: &Arc<Replica>, name: &str) -> Option<Seen> {
    for _ in 0..10 {
        let seen = replicas.look(replica, name, "in the end").await;
        if seen.is_some() {
            return seen;
        }
        sleep(Duration::from_secs(1)).await;
    }
    None
}

fn body(mark: &str, task: u64) -> String {
    format!(r#"{{"id":"t{task}","status":"completed","mark":"{mark}"}}"#)
}

fn submissions<'b>(bodies: &'b [String], plan: &LivePlan) -> Vec<Submission<'b>> {
    let read = |body: &'b String| {
        let (typed, limits) = (TypedFields::default(), json::Limits::default());
        let settings = &plan.spec().settings;
        let record = record::read(
            typed,
            body.as_bytes(),
            Rewrite::Reconciled,
            limits,
            settings,
        );
        Submission {
            kind: RecordKind::Result,
            record: Ok(record.unwrap()),
        }
    };
    bodies.iter().map(read).collect()
}

fn show(frames: &mut BytesMut, _: &Spec, entry: &Entry, _: bool) {
    frames.put_u64_le(entry.sequence);
    frames.put_u64_le(digest(entry));
}

/// Something that has work done by another thread, which is waited for at once: nothing happens meanwhile, and so in the
/// same order each time. The runtime has a single thread for such work, which does one thing after the other.
struct InTurn<'f, T>(BoxFuture<'f, T>);

impl<T> Future for InTurn<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let polled = self.0.as_mut().poll(context);
        if polled.is_pending() {
            let (done, all_done) = std::sync::mpsc::channel();
            drop(tokio::task::spawn_blocking(move || done.send(())));
            all_done.recv().unwrap();
        }
        polled
    }
}

/// How a run went.
struct Explored {
    /// What was not as it has to be.
    violations: Vec<String>,
    /// The longest that somebody waited for an answer.
    longest: Duration,
    /// Another number, if it went another way.
    trace: u64,
}

async fn explore(seed: u64, fault: Fault) -> Explored {
    let network = Network::new(seed, Simulated::with(fault));
    let clocks = clocks(&network).await;
    let run = Run {
        replicas: Replicas::start(network, clocks),
        until: Instant::now() + TROUBLE,
    };
    let settled = run.until + SETTLED;
    let names: Vec<[String; 6]> = NAMES
        .iter()
        .map(|name| {
            let kinds = ["one", "two", "twice", "watcher", "reader", "owner"];
            kinds.map(|kind| format!("{kind} of {name}"))
        })
        .collect();
    let mut doing: Vec<BoxFuture<'_, ()>> = vec![run.replicas.trouble(run.until).boxed()];
    for (name, who) in NAMES.iter().zip(&names) {
        doing.push(run.live(name, &who[5]).boxed());
        doing.push(run.produce(name, &who[0]).boxed());
        doing.push(run.produce(name, &who[1]).boxed());
        doing.push(run.send_twice(name, &who[2]).boxed());
        doing.push(run.watch(name, &who[3], settled).boxed());
        doing.push(run.read_now_and_then(name, &who[4]).boxed());
    }
    let calming = async {
        tokio::time::sleep_until(run.until).await;
        run.replicas.network.calm();
    };
    tokio::join!(calming, join_all(doing));
    assert!(SETTLED > Duration::from_millis(ON_ITS_WAY));
    run.check().await;
    let longest = *run.replicas.longest.lock().unwrap();
    Explored {
        violations: run.replicas.truth.violations(),
        longest,
        trace: run.replicas.network.trace(),
    }
}

/// The clocks of two or three replicas, of which one may be late.
async fn clocks(network: &Network) -> Vec<Clock> {
    let count = 2 + network.chance.below(2, "replicas") as usize;
    let late = network.chance.below(SKEW.as_millis() as u64, "clock");
    loop {
        let mut clocks = vec![Clock::system(); count];
        tokio::time::advance(Duration::from_millis(late)).await;
        clocks[1] = Clock::system();
        // Real time passes, too, but rarely a millisecond.
        if clocks[0].now() == clocks[1].now().plus(Duration::from_millis(late)) {
            return clocks;
        }
    }
}

/// Runs a seed.
fn run(seed: u64, fault: Fault) -> Explored {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(explore(seed, fault))
}

/// Runs these seeds; answers those that saw something that may not be, with what.
fn violations(seeds: Range<u64>, fault: Fault) -> Vec<(u64, Vec<String>)> {
    let mut found = Vec::new();
    for seed in seeds {
        let Explored {
            violations,
            longest,
            trace,
        } = run(seed, fault);
        if std::env::var("FANOUT_SEEDS").is_ok() {
            println!("seed {seed}: went {trace:016x}, longest wait {longest:?}");
        }
        if !violations.is_empty() {
            println!("seed {seed}: {violations:#?}");
            found.push((seed, violations));
        }
    }
    found
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(said) = std::env::var("FANOUT_SEEDS") else {
        return usual;
    };
    match said.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => {
            let seed = said.parse().unwrap();
            seed..seed + 1
        }
    }
}

#[test]
fn replicas_say_the_same_and_lose_nothing_whatever_the_network_does() {
    let found = violations(seeds(0..60), Fault::None);
    assert!(found.is_empty(), "{} seeds found something", found.len());
}

#[test]
fn over_a_stream_that_compares_nothing_they_would_not() {
    assert!(!violations(0..4, Fault::ComparesNothing).is_empty());
}

#[test]
fn over_a_stream_that_forgets_what_it_acknowledged_they_would_not() {
    assert!(!violations(0..4, Fault::Forgets).is_empty());
}
