//! Those who ask replicas for something in an exploration, as their protocols have it: from any of them, again and again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use fanout::coordinator::{Deadline, Entries, Error, Next, PlanCommand, Watch};
use fanout::engine::{
    Completion, Disposition, EndReason, Entry, Receipt, RecordKind, SealRule, Spec, Submission,
};
use fanout::json;
use fanout::reconcile::record::{self, Rewrite, TypedFields};
use fanout::registry::LivePlan;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::replica_set::{Replica, Replicas};
use super::truth::{Told, digest, life_of};
use crate::harness::{parse, plan_command};

/// Tasks whose records have producers, and those whose records come to two replicas at once.
const TASKS: (u64, u64) = (3, 3);

/// One run.
pub struct Run {
    pub replicas: Replicas,
    pub until: Instant,
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
        let completion = Completion {
            seal_rule: SealRule::Explicit,
            ..Completion::default()
        };
        let command = PlanCommand {
            request_id: format!("{name} {generation}"),
            deadline: match name {
                "deleted" => None,
                _ => Some(Deadline::After(Duration::from_secs(
                    3 + self.below(15, "deadline"),
                ))),
            },
            retention: (name == "expired")
                .then(|| Duration::from_millis(self.below(5_000, "retention"))),
            ..plan_command(name, &parse(&config), completion)
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
    pub async fn produce(&self, name: &str, who: &str) {
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
    pub async fn send_twice(&self, name: &str, who: &str) {
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
    pub async fn watch(&self, name: &str, who: &str, until: Instant) {
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
                            self.read(&mut watch, &mut entries, &mut at, who);
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

    fn read(&self, watch: &mut Watch, entries: &mut Entries, at: &mut u64, who: &str) {
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
    pub async fn read_now_and_then(&self, name: &str, who: &str) {
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
    pub async fn live(&self, name: &str, who: &str) {
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
