//! A journal that takes its time, in the test's hand: nobody sees what it has not acknowledged, and it holds up nobody who
//! comes after.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use fanout::coordinator::{Clock, Coordinator, Error, JournalError, Standing};
use fanout::engine::{
    Completion, Disposition, EndReason, Entry, PlanStatus, Receipt, RecordKind, State, Submission,
};
use fanout::journal::{Answer, History, Journal, Memory};
use fanout::json;
use fanout::reconcile::record::{self, Rewrite, TypedFields};
use fanout::registry::LivePlan;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::{coordinator_limits, parse, plan_command};

type Waiting = Arc<Mutex<VecDeque<oneshot::Sender<Result<(), JournalError>>>>>;

/// Appends are kept in memory at once, and acknowledged when the test says so. One that is not taken takes those after it
/// with it.
#[derive(Default)]
struct Slow {
    memory: Memory,
    waiting: Waiting,
}

struct SlowHistory {
    history: Arc<dyn History>,
    waiting: Waiting,
}

impl Journal for Slow {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let Answer::Ready(Ok(history)) = self.memory.create(plan_id) else {
            panic!("memory has room");
        };
        Answer::Ready(Ok(Arc::new(SlowHistory {
            history,
            waiting: Arc::clone(&self.waiting),
        })))
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        self.memory.open(plan_id)
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        self.memory.plans()
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        self.memory.delete(plan_id)
    }
}

impl History for SlowHistory {
    fn append(&self, after: u64, entries: &[Arc<Entry>]) -> Answer<()> {
        let history = Arc::clone(&self.history);
        if after == 0 {
            return history.append(after, entries);
        }
        let (acknowledge, acknowledged) = oneshot::channel();
        self.waiting.lock().unwrap().push_back(acknowledge);
        let entries = entries.to_vec();
        Answer::Pending(Box::pin(async move {
            acknowledged.await.unwrap()?;
            history.append(after, &entries).wait().await
        }))
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        self.history.replay(after, limit)
    }

    fn latest(&self) -> Answer<u64> {
        self.history.latest()
    }
}

struct Running {
    coordinator: Arc<Coordinator>,
    plan: Arc<LivePlan>,
    waiting: Waiting,
}

type Submitted = JoinHandle<Result<(Vec<Receipt>, Standing), Error>>;

impl Running {
    /// One plan with the tasks `a`, `b` and `c`.
    async fn start() -> Self {
        let journal = Slow::default();
        let waiting = Arc::clone(&journal.waiting);
        let limits = coordinator_limits();
        let coordinator = Arc::new(Coordinator::new(Arc::new(journal), Clock::system(), limits));
        let config = r#"{"groups":[{"key":"a"},{"key":"b"},{"key":"c"}],"task_request_template":{"id":"{{group.key}}"}}"#;
        let command = plan_command("p", &parse(config), Completion::default());
        coordinator.register(command).await.unwrap();
        let plan = coordinator.plan("p").await.unwrap();
        Self {
            coordinator,
            plan,
            waiting,
        }
    }

    /// Begins to submit a record for a task, and lets it come as far as it can.
    async fn submit(&self, task: &str, payload: u32) -> Submitted {
        let (coordinator, plan) = (Arc::clone(&self.coordinator), Arc::clone(&self.plan));
        let body = format!(r#"{{"id":"{task}","status":"completed","payload":{payload}}}"#);
        let submitted = tokio::spawn(async move {
            let settings = &plan.spec().settings;
            let limits = json::Limits::default();
            let typed = TypedFields::default();
            let record = record::read(
                typed,
                body.as_bytes(),
                Rewrite::Reconciled,
                limits,
                settings,
            );
            let submission = Submission {
                kind: RecordKind::Result,
                record: Ok(record.unwrap()),
            };
            coordinator.submit(&plan, &[submission]).await
        });
        settle().await;
        submitted
    }

    /// Acknowledges the first append that waits, or says why it is not taken.
    async fn acknowledge(&self, how: Result<(), JournalError>) {
        let first = self.waiting.lock().unwrap().pop_front();
        first.unwrap().send(how).unwrap();
        settle().await;
    }

    async fn recorded(&self) -> (u64, u64) {
        let standing = self.coordinator.view("p").await.unwrap().standing;
        (standing.counts.recorded, standing.sequence)
    }

    fn assert_the_state_is_the_fold_of_its_history(&self) {
        let live = self.plan.read().unwrap();
        let folded = State::fold(live.history.iter().map(|entry| &**entry));
        assert_eq!(folded.as_ref(), Some(&live.state));
    }
}

/// Lets every task run until it waits for something; there is one thread.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn disposition(submitted: &Result<(Vec<Receipt>, Standing), Error>) -> (Disposition, u64) {
    let (receipts, _) = submitted.as_ref().unwrap();
    (receipts[0].disposition, receipts[0].sequence)
}

fn full() -> JournalError {
    JournalError::Full("of the test".into())
}

#[tokio::test]
async fn nobody_sees_what_is_not_acknowledged_and_then_everybody_does() {
    let running = Running::start().await;
    let submitted = running.submit("a", 1).await;
    assert!(!submitted.is_finished());
    assert_eq!(running.recorded().await, (0, 1));
    running.acknowledge(Ok(())).await;
    assert_eq!(running.recorded().await, (1, 2));
    let submitted = submitted.await.unwrap();
    assert_eq!(disposition(&submitted), (Disposition::Accepted, 2));
    running.assert_the_state_is_the_fold_of_its_history();
}

#[tokio::test]
async fn changes_that_come_meanwhile_are_decided_over_those_before_and_wait_for_them_only() {
    let running = Running::start().await;
    let first = running.submit("a", 1).await;
    let second = running.submit("a", 2).await;
    let third = running.submit("b", 1).await;
    assert_eq!(running.waiting.lock().unwrap().len(), 3);
    running.acknowledge(Ok(())).await;
    assert_eq!(running.recorded().await, (1, 2));
    assert!(first.is_finished() && !second.is_finished() && !third.is_finished());
    running.acknowledge(Ok(())).await;
    running.acknowledge(Ok(())).await;
    assert_eq!(running.recorded().await, (2, 4));
    let (second, third) = (second.await.unwrap(), third.await.unwrap());
    assert_eq!(disposition(&second), (Disposition::SupersededPrevious, 3));
    assert_eq!(second.unwrap().0[0].held.as_ref().unwrap().revision, 2);
    assert_eq!(disposition(&third), (Disposition::Accepted, 4));
    running.assert_the_state_is_the_fold_of_its_history();
}

#[tokio::test]
async fn a_repeated_record_waits_until_the_first_one_is_acknowledged() {
    let running = Running::start().await;
    let first = running.submit("a", 1).await;
    let repeated = running.submit("a", 1).await;
    assert_eq!(running.waiting.lock().unwrap().len(), 1);
    assert!(!repeated.is_finished());
    running.acknowledge(Ok(())).await;
    let repeated = repeated.await.unwrap();
    assert_eq!(disposition(&repeated), (Disposition::Duplicate, 2));
    assert_eq!(
        disposition(&first.await.unwrap()),
        (Disposition::Accepted, 2)
    );
}

#[tokio::test]
async fn what_is_not_taken_never_happened_and_nothing_that_builds_on_it_did() {
    let running = Running::start().await;
    let kept = running.submit("a", 1).await;
    let lost = running.submit("b", 1).await;
    let repeated = running.submit("b", 1).await;
    let after = running.submit("c", 1).await;
    // In the order in which their tasks happen to hear of it, the later one first.
    let (first, second, third) = {
        let mut waiting = running.waiting.lock().unwrap();
        let mut next = || waiting.pop_front().unwrap();
        (next(), next(), next())
    };
    third.send(Err(full())).unwrap();
    settle().await;
    second.send(Err(full())).unwrap();
    settle().await;
    first.send(Ok(())).unwrap();
    settle().await;
    assert_eq!(
        disposition(&kept.await.unwrap()),
        (Disposition::Accepted, 2)
    );
    for refused in [lost, after] {
        let refused = refused.await.unwrap();
        assert!(
            matches!(refused, Err(Error::Journal(JournalError::Full(_)))),
            "{refused:?}"
        );
    }
    let repeated = repeated.await.unwrap();
    assert!(
        matches!(repeated, Err(Error::Journal(JournalError::Failed(_)))),
        "{repeated:?}"
    );
    assert_eq!(running.recorded().await, (1, 2));
    running.assert_the_state_is_the_fold_of_its_history();

    // And it can happen later.
    let again = running.submit("b", 1).await;
    running.acknowledge(Ok(())).await;
    assert_eq!(
        disposition(&again.await.unwrap()),
        (Disposition::Accepted, 3)
    );
    assert_eq!(running.recorded().await, (2, 3));
    running.assert_the_state_is_the_fold_of_its_history();
}

#[tokio::test]
async fn what_came_in_place_of_what_was_not_taken_acknowledges_nothing_of_it() {
    let running = Running::start().await;
    let losses = running.plan.losses();
    let lost = running.submit("a", 1).await;
    running.acknowledge(Err(full())).await;
    assert!(lost.await.unwrap().is_err());
    let instead = running.submit("b", 1).await;
    running.acknowledge(Ok(())).await;
    assert_eq!(
        disposition(&instead.await.unwrap()),
        (Disposition::Accepted, 2)
    );
    assert!(!running.plan.wait_for(2, losses).await);
    assert!(running.plan.wait_for(2, losses + 1).await);
}

#[tokio::test]
async fn a_change_whose_caller_has_gone_is_applied_all_the_same() {
    let running = Running::start().await;
    let submitted = running.submit("a", 1).await;
    submitted.abort();
    assert!(submitted.await.unwrap_err().is_cancelled());
    running.acknowledge(Ok(())).await;
    assert_eq!(running.recorded().await, (1, 2));
    running.assert_the_state_is_the_fold_of_its_history();
}

#[tokio::test]
async fn what_is_acknowledged_after_its_plan_was_deleted_is_answered_as_gone() {
    let running = Running::start().await;
    let submitted = running.submit("a", 1).await;
    let repeated = running.submit("a", 1).await;
    let refused = running.submit("b", 1).await;
    running.coordinator.delete("p", "").await.unwrap();
    let after = running.submit("c", 1).await;
    assert_eq!(
        running.waiting.lock().unwrap().len(),
        2,
        "nothing is appended for a plan that was deleted"
    );
    running.acknowledge(Ok(())).await;
    running.acknowledge(Err(JournalError::NotFound)).await;
    for answered in [submitted, repeated, refused, after] {
        let answered = answered.await.unwrap();
        assert!(
            matches!(&answered, Err(Error::PlanNotFound { plan_id }) if plan_id == "p"),
            "{answered:?}"
        );
    }
}

#[tokio::test]
async fn a_plan_ends_when_its_end_is_acknowledged() {
    let running = Running::start().await;
    let coordinator = Arc::clone(&running.coordinator);
    let sealed = tokio::spawn(async move { coordinator.end("p", "", EndReason::Sealed, "").await });
    settle().await;
    let late = running.submit("a", 1).await;
    let status = async || running.coordinator.view("p").await.unwrap().standing.status;
    assert_eq!(status().await, PlanStatus::Incomplete);
    running.acknowledge(Ok(())).await;
    assert_eq!(status().await, PlanStatus::Failed);
    assert!(sealed.await.unwrap().is_ok());
    running.acknowledge(Ok(())).await;
    let late = late.await.unwrap();
    assert_eq!(disposition(&late), (Disposition::Late, 3));
}

#[tokio::test]
async fn appends_that_wait_for_the_journal_are_counted() {
    let running = Running::start().await;
    let counted = || running.coordinator.census().appends_waiting;
    assert_eq!(counted(), 0);
    let first = running.submit("a", 1).await;
    let second = running.submit("b", 1).await;
    assert_eq!(counted(), 2);
    running.acknowledge(Ok(())).await;
    assert_eq!(counted(), 1);
    running.acknowledge(Ok(())).await;
    assert_eq!(counted(), 0);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}
