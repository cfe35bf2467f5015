//! A plan's state machine: whatever comes, in whatever order, its state is the fold of its history and its result that of
//! the stateless rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanout::coordinator::{Clock, Coordinator, Page};
use fanout::engine::{
    Command, Completion, Disposition, EndReason, Entry, Event, Limits, PlanStatus,
    QuarantineReason, Receipt, RecordKind, Refusal, Resolution, SealRule, Spec, State, Submission,
    Terms, Timestamp, Violation, Warning, decide,
};
use fanout::journal::Memory;
use fanout::json::{self, Value};
use fanout::plan::{self, Input, Plan};
use fanout::reconcile::record::{self, Rewrite, TypedFields};
use fanout::reconcile::{self, MatchedBy};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::arbitrary::cases;
use crate::harness::{coordinator_limits, parse, plan_command};

const NOW: Timestamp = Timestamp(1_000);

/// A plan with its state and the history that led there.
struct Machine {
    state: State,
    history: Vec<Arc<Entry>>,
    limits: Limits,
}

impl Machine {
    fn new(config: &str, terms: Terms) -> Self {
        let (spec, _) = spec(config, terms);
        Self::of(Arc::new(spec))
    }

    fn of(spec: Arc<Spec>) -> Self {
        let created = Entry {
            sequence: 1,
            at: NOW,
            event: Event::PlanCreated(Arc::clone(&spec)),
        };
        Self {
            state: State::created(spec),
            history: vec![Arc::new(created)],
            limits: Limits::default(),
        }
    }

    fn execute(&mut self, command: &Command<'_>) -> Vec<Receipt> {
        self.execute_at(NOW, command)
    }

    fn execute_at(&mut self, now: Timestamp, command: &Command<'_>) -> Vec<Receipt> {
        let decision = decide(&self.state, command, now, &self.limits);
        for entry in decision.entries {
            assert_eq!(
                entry.sequence,
                self.state.sequence() + 1,
                "sequences have no gaps"
            );
            self.state.apply(&entry);
            self.history.push(Arc::new(entry));
        }
        decision.receipts
    }

    fn submit(&mut self, bodies: &[&str]) -> Vec<Receipt> {
        let submissions: Vec<_> = bodies
            .iter()
            .map(|body| result(body, &self.state))
            .collect();
        self.execute(&Command::Submit(&submissions))
    }

    fn submit_one(&mut self, body: &str) -> Receipt {
        self.submit(&[body]).remove(0)
    }

    fn sign(&mut self, kind: RecordKind, body: &str) -> Receipt {
        let submission = Submission {
            kind,
            record: read(body, kind, &self.state),
        };
        self.execute(&Command::Submit(&[submission])).remove(0)
    }

    fn end(&mut self, reason: EndReason) {
        self.execute(&Command::End {
            reason,
            note: "".into(),
        });
    }

    fn events(&self) -> Vec<&'static str> {
        self.history
            .iter()
            .map(|entry| name(&entry.event))
            .collect()
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::PlanCreated(_) => "created",
        Event::RecordAccepted(_) => "accepted",
        Event::TaskProgressed(_) => "progressed",
        Event::SessionLearnt { .. } => "learnt",
        Event::RecordQuarantined(_) => "quarantined",
        Event::QuarantineResolved { .. } => "resolved",
        Event::ProducerAdvanced(_) => "advanced",
        Event::PlanEnded { .. } => "ended",
    }
}

fn read<'r>(
    body: &'r str,
    kind: RecordKind,
    state: &State,
) -> Result<record::ReadRecord<'r>, Violation> {
    let rewrite = match kind {
        RecordKind::Result => Rewrite::Reconciled,
        RecordKind::Started | RecordKind::Progress => Rewrite::AsSubmitted,
    };
    let limits = json::Limits::default();
    let settings = &state.spec().settings;
    record::read(
        TypedFields::default(),
        body.as_bytes(),
        rewrite,
        limits,
        settings,
    )
    .map_err(|error| Violation {
        field: "body",
        description: error.to_string(),
        reason: "INVALID_JSON",
        limit: 0,
        quota: false,
    })
}

fn result<'r>(body: &'r str, state: &State) -> Submission<'r> {
    Submission {
        kind: RecordKind::Result,
        record: read(body, RecordKind::Result, state),
    }
}

fn spec(config: &str, terms: Terms) -> (Spec, Plan) {
    let config = parse(config);
    let config = config.as_object().unwrap();
    let input = Input {
        config: config.clone(),
        items: None,
        groups: None,
    };
    let plan = plan::plan(input, &plan::Limits::default()).unwrap();
    (Spec::new(terms, config, &plan, usize::MAX).unwrap(), plan)
}

/// Three tasks, `task-a` to `task-c`.
const THREE: &str = r#"{"items":[{"k":"a"},{"k":"b"},{"k":"c"}],"group_key_path":"k",
    "task_request_template":{"id":"task-{{group.key}}"}}"#;

fn three() -> Machine {
    Machine::new(THREE, Terms::default())
}

fn explicit() -> Terms {
    Terms {
        completion: Completion {
            seal_rule: SealRule::Explicit,
            ..Completion::default()
        },
        ..Terms::default()
    }
}

#[test]
fn the_last_record_ends_the_plan_and_all_successful_is_completed() {
    let mut plan = three();
    plan.submit(&[
        r#"{"id":"task-a","status":"succeeded"}"#,
        r#"{"id":"task-b","success":true}"#,
    ]);
    assert_eq!(
        (plan.state.status(), plan.state.counts().missing),
        (PlanStatus::Incomplete, 1)
    );
    plan.submit_one(r#"{"id":"task-c","outcome":{"status":"accepted"}}"#);
    assert_eq!(plan.state.status(), PlanStatus::Completed);
    assert_eq!(plan.state.end().unwrap().reason, EndReason::AllRecorded);
    assert_eq!(
        plan.events(),
        ["created", "accepted", "accepted", "accepted", "ended"]
    );
}

#[test]
fn one_failed_record_makes_the_plan_failed_and_is_never_overlooked() {
    let mut plan = three();
    plan.submit(&[
        r#"{"id":"task-a","status":"completed"}"#,
        r#"{"id":"task-b","status":"failed","note":"completed"}"#,
        r#"{"id":"task-c","status":"completed"}"#,
    ]);
    assert_eq!(plan.state.status(), PlanStatus::Failed);
    assert_eq!(plan.state.counts().failed, 1);
}

#[test]
fn a_sealed_plan_with_a_missing_record_is_failed() {
    let mut plan = three();
    plan.submit(&[
        r#"{"id":"task-a","success":true}"#,
        r#"{"id":"task-b","success":true}"#,
    ]);
    plan.end(EndReason::Sealed);
    assert_eq!(plan.state.status(), PlanStatus::Failed);
    plan.end(EndReason::Cancelled);
    assert_eq!(
        plan.state.end().unwrap().reason,
        EndReason::Sealed,
        "an end is final"
    );
}

#[test]
fn a_cancelled_plan_is_failed_although_every_record_is_successful() {
    let mut plan = Machine::new(THREE, explicit());
    let records = ["a", "b", "c"].map(|key| format!(r#"{{"id":"task-{key}","success":true}}"#));
    plan.submit(&records.each_ref().map(String::as_str));
    assert_eq!(
        plan.state.status(),
        PlanStatus::Incomplete,
        "an explicit plan does not end by itself"
    );
    plan.end(EndReason::Cancelled);
    assert_eq!(plan.state.status(), PlanStatus::Failed);
}

#[test]
fn the_same_record_again_is_a_duplicate_and_another_one_supersedes() {
    let mut plan = three();
    let first = plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    let again = plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    let other = plan.submit_one(r#"{"id":"task-a","status":"completed"}"#);
    let receipt = |receipt: &Receipt| {
        (
            receipt.disposition,
            receipt.sequence,
            receipt.held.as_ref().unwrap().revision,
        )
    };
    assert_eq!(receipt(&first), (Disposition::Accepted, 2, 1));
    assert_eq!(receipt(&again), (Disposition::Duplicate, 2, 1));
    assert_eq!(receipt(&other), (Disposition::SupersededPrevious, 3, 2));
    assert_eq!(plan.state.counts().successful, 1);
    assert_eq!(plan.state.counts().failed, 0);
}

#[test]
fn layout_order_and_the_spelling_of_numbers_make_no_other_record() {
    let mut plan = three();
    plan.submit_one(r#"{"id":"task-a","n":[1,{"x":1,"y":2}],"status":"failed"}"#);
    let same =
        plan.submit_one(r#"{ "status":"failed", "n":[1.0,{"y":2,"x":1e0}], "id":"task-a" }"#);
    assert_eq!(same.disposition, Disposition::Duplicate);
    let other = plan.submit_one(r#"{"id":"task-a","n":[{"x":1,"y":2},1],"status":"failed"}"#);
    assert_eq!(
        other.disposition,
        Disposition::SupersededPrevious,
        "a list has an order"
    );
}

#[test]
fn after_the_end_another_record_is_late_and_the_same_one_still_a_duplicate() {
    let mut plan = three();
    plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    plan.end(EndReason::Sealed);
    let late = plan.submit_one(r#"{"id":"task-a","status":"completed"}"#);
    assert_eq!(
        (late.disposition, late.quarantine_id, late.task),
        (Disposition::Late, 1, Some(0))
    );
    assert_eq!(
        late.held.unwrap().revision,
        1,
        "a late record's receipt shows what holds"
    );
    let same = plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    assert_eq!(same.disposition, Disposition::Duplicate);
    assert_eq!(plan.state.counts().failed, 1);
    assert_eq!(
        plan.state.quarantine()[0].document,
        r#"{"id":"task-a","status":"completed"}"#
    );
}

#[test]
fn a_record_that_names_no_task_is_set_aside_and_changes_nothing() {
    let mut plan = three();
    let stray = plan.submit_one(r#"{"id":"task-z"}"#);
    assert_eq!(
        (stray.disposition, stray.task, stray.quarantine_id),
        (Disposition::Unmatched, None, 1)
    );
    assert_eq!(
        (
            plan.state.counts().recorded,
            plan.state.counts().quarantined
        ),
        (0, 1)
    );
}

#[test]
fn a_key_that_names_several_tasks_is_ambiguous_and_lists_them() {
    let mut plan = Machine::new(
        r#"{"groups":[{"key":"g","items":[1]},{"key":"g","items":[2]},{"key":"h","items":[3]}],
            "task_request_template":{"id":"task-{{group.index}}","group_key":"{{group.key}}"}}"#,
        Terms::default(),
    );
    let receipt = plan.submit_one(r#"{"group_key":"g"}"#);
    assert_eq!(
        (receipt.disposition, receipt.candidates),
        (Disposition::Ambiguous, vec![0, 1])
    );
    let receipt = plan.submit_one(r#"{"group_key":"h"}"#);
    assert_eq!(
        (receipt.task, receipt.matched_by),
        (Some(2), Some(MatchedBy::GroupKey))
    );
}

#[test]
fn a_record_is_matched_by_its_canonical_id_before_any_other_key() {
    let mut plan = Machine::new(
        r#"{"groups":[{"key":"a"},{"key":"b"},{"key":"task-0"}],
            "task_request_template":{"id":"task-{{group.index}}","sandbox_session_id":"box-{{group.key}}"}}"#,
        Terms::default(),
    );
    let matched = |plan: &mut Machine, body: &str| {
        let receipt = plan.submit_one(body);
        (receipt.task, receipt.matched_by, receipt.warnings)
    };
    assert_eq!(
        matched(&mut plan, r#"{"task_id":"task-1","group_key":"a"}"#),
        (
            Some(1),
            Some(MatchedBy::TaskId),
            vec![Warning::KeysDisagree]
        )
    );
    assert_eq!(
        matched(&mut plan, r#"{"id":"task-0"}"#),
        (Some(0), Some(MatchedBy::Id), vec![])
    );
    assert_eq!(
        matched(&mut plan, r#"{"id":"e-7","group_key":"b"}"#),
        (Some(1), Some(MatchedBy::GroupKey), vec![])
    );
    assert_eq!(
        matched(&mut plan, r#"{"id":"e-8","sandbox_session_id":"box-a"}"#),
        (Some(0), Some(MatchedBy::SandboxSessionId), vec![])
    );
}

#[test]
fn a_session_is_learnt_from_a_matched_record_and_then_names_its_task() {
    let mut plan = three();
    plan.sign(
        RecordKind::Started,
        r#"{"task_id":"task-b","sandbox_session_id":"box-1"}"#,
    );
    let receipt = plan.submit_one(r#"{"sandbox_session_id":"box-1","success":true}"#);
    assert_eq!(
        (receipt.task, receipt.matched_by),
        (Some(1), Some(MatchedBy::SandboxSessionId))
    );
    assert_eq!(
        plan.events(),
        ["created", "progressed", "learnt", "accepted"]
    );
}

#[test]
fn a_session_that_works_on_several_tasks_names_none_of_them() {
    let mut plan = three();
    plan.sign(
        RecordKind::Started,
        r#"{"task_id":"task-b","sandbox_session_id":"box-1"}"#,
    );
    plan.sign(
        RecordKind::Started,
        r#"{"task_id":"task-c","sandbox_session_id":"box-1"}"#,
    );
    let receipt = plan.submit_one(r#"{"sandbox_session_id":"box-1","success":true}"#);
    assert_eq!(
        (receipt.disposition, receipt.candidates),
        (Disposition::Ambiguous, vec![1, 2])
    );
}

#[test]
fn a_sign_of_life_counts_as_running_until_the_result_comes() {
    let mut plan = three();
    let started = plan.sign(RecordKind::Started, r#"{"task_id":"task-a"}"#);
    let again = plan.sign(RecordKind::Started, r#"{"task_id":"task-a","n":1}"#);
    let progress = plan.sign(RecordKind::Progress, r#"{"task_id":"task-a","done":1}"#);
    let dispositions = [&started, &again, &progress].map(|receipt| receipt.disposition);
    assert_eq!(
        dispositions,
        [
            Disposition::Accepted,
            Disposition::Duplicate,
            Disposition::Accepted
        ]
    );
    assert_eq!(plan.state.counts().running, 1);
    plan.submit_one(r#"{"task_id":"task-a","success":true}"#);
    assert_eq!(plan.state.counts().running, 0);
    let late = plan.sign(RecordKind::Progress, r#"{"task_id":"task-a","done":2}"#);
    assert_eq!(late.disposition, Disposition::Duplicate);
    assert_eq!(plan.state.counts().running, 0);
}

#[test]
fn a_record_beside_a_bad_one_in_the_same_message_is_applied() {
    let mut plan = three();
    let receipts = plan.submit(&[
        r#"{"id":"task-a","success":true}"#,
        "not json",
        r#"{"id":"task-b","success":true}"#,
    ]);
    let dispositions: Vec<_> = receipts.iter().map(|receipt| receipt.disposition).collect();
    assert_eq!(
        dispositions,
        [
            Disposition::Accepted,
            Disposition::Invalid,
            Disposition::Accepted
        ]
    );
    assert_eq!(plan.state.counts().recorded, 2);
}

#[test]
fn a_deadline_ends_the_plan_at_its_moment_and_not_before() {
    let deadline = Timestamp(5_000);
    let mut plan = Machine::new(
        THREE,
        Terms {
            deadline: Some(deadline),
            ..Terms::default()
        },
    );
    plan.execute_at(Timestamp(4_999), &Command::Tick);
    assert_eq!(plan.state.end(), None);
    let body = r#"{"id":"task-a","success":true}"#;
    let submission = result(body, &plan.state);
    let receipts = plan.execute_at(deadline, &Command::Submit(&[submission]));
    assert_eq!(
        receipts[0].disposition,
        Disposition::Late,
        "the deadline comes before the record of its moment"
    );
    assert_eq!(plan.state.end().unwrap().reason, EndReason::Deadline);
}

#[test]
fn one_past_each_limit_of_a_plan_is_refused_with_the_limit() {
    let quota = |receipt: Receipt| {
        assert_eq!(receipt.disposition, Disposition::TooLarge);
        let violation = receipt.violation.unwrap();
        assert_eq!(
            (violation.reason, violation.quota),
            ("PLAN_QUOTA_EXCEEDED", true)
        );
        (violation.field, violation.limit)
    };
    let mut plan = three();
    plan.limits.quarantined_records = 1;
    assert_eq!(
        plan.submit_one(r#"{"id":"x"}"#).disposition,
        Disposition::Unmatched
    );
    assert_eq!(quota(plan.submit_one(r#"{"id":"y"}"#)), ("body", 1));

    let mut plan = three();
    plan.limits.signs_of_life_per_task = 1;
    for n in 0..3 {
        let body = format!(r#"{{"task_id":"task-a","n":{n}}}"#);
        assert_eq!(
            plan.sign(RecordKind::Progress, &body).disposition,
            Disposition::Accepted
        );
    }
    assert_eq!(
        quota(plan.sign(RecordKind::Progress, r#"{"task_id":"task-a","n":3}"#)),
        ("kind", 3)
    );

    let mut plan = three();
    let body = r#"{"id":"task-a","status":"failed"}"#;
    plan.limits.document_bytes = body.len() as u64;
    assert_eq!(plan.submit_one(body).disposition, Disposition::Accepted);
    assert_eq!(quota(plan.submit_one(r#"{"id":"task-b"}"#)), ("body", 33));
    for (kind, body) in [
        (RecordKind::Result, r#"{"id":"stray"}"#),
        (RecordKind::Started, r#"{"id":"task-b"}"#),
    ] {
        assert_eq!(quota(plan.sign(kind, body)), ("body", 33));
    }
    assert_eq!(
        plan.submit_one(body).disposition,
        Disposition::Duplicate,
        "nothing of it is kept"
    );
    assert_eq!(
        plan.submit(&[body, r#"{"id":"task-b"}"#, body])
            .iter()
            .map(|receipt| receipt.disposition)
            .collect::<Vec<_>>(),
        [
            Disposition::Duplicate,
            Disposition::TooLarge,
            Disposition::Duplicate
        ]
    );

    let mut plan = three();
    plan.limits.sessions_per_task = 1;
    for n in 0..4 {
        let body = format!(r#"{{"task_id":"task-a","sandbox_session_id":"box-{n}","n":{n}}}"#);
        let expected: &[Warning] = if n < 3 {
            &[]
        } else {
            &[Warning::SessionNotLearnt]
        };
        assert_eq!(plan.submit_one(&body).warnings, expected);
    }
}

#[test]
fn a_rematched_record_counts_as_if_it_had_come_for_its_task() {
    let mut plan = three();
    let stray = r#"{"id":"stray","status":"passed","sandbox_session_id":"box-1"}"#;
    let same = r#"{"sandbox_session_id":"box-1","id":"stray","status":"passed"}"#;
    let other = r#"{"id":"stray","status":"failed"}"#;
    plan.submit(&[stray, same, other]);
    let mut rematch = |id| {
        let command = Command::Rematch {
            id,
            task: 0,
            note: "".into(),
        };
        let receipt = plan.execute(&command).remove(0);
        let held = receipt.held.unwrap();
        assert_eq!(
            (receipt.task, receipt.matched_by, receipt.sequence),
            (Some(0), Some(MatchedBy::Operator), held.sequence)
        );
        (receipt.disposition, held.revision)
    };
    assert_eq!(rematch(1), (Disposition::Accepted, 1));
    assert_eq!(rematch(2), (Disposition::Duplicate, 1));
    assert_eq!(rematch(2), (Disposition::Duplicate, 1));
    assert_eq!(rematch(3), (Disposition::SupersededPrevious, 2));
    assert_eq!(
        plan.events()[4..],
        [
            "accepted", "learnt", "resolved", "resolved", "accepted", "resolved"
        ]
    );
    let receipt = plan.submit_one(r#"{"sandbox_session_id":"box-1","status":"passed"}"#);
    assert_eq!(
        (receipt.task, receipt.matched_by),
        (Some(0), Some(MatchedBy::SandboxSessionId))
    );
}

#[test]
fn the_bytes_of_a_plan_have_the_sessions_it_was_told_and_what_was_wrong_with_refused_records() {
    let bytes_of = |told: &dyn Fn(&mut Machine)| {
        let mut plan = three();
        let before = plan.state.bytes();
        told(&mut plan);
        let again = State::fold(plan.history.iter().map(|entry| &**entry));
        assert_eq!(again.unwrap().bytes(), plan.state.bytes());
        plan.state.bytes() - before
    };
    let session = "s".repeat(1_000);
    let started = format!(r#"{{"task_id":"task-a","sandbox_session_id":"{session}"}}"#);
    // Two events, of which both have the session, and one has the document with it.
    assert_eq!(started.len(), 1_044);
    assert_eq!(
        bytes_of(&|plan| _ = plan.sign(RecordKind::Started, &started)),
        2 * 128 + 2 * 1_000 + 1_044
    );

    let refused = |records: usize| {
        bytes_of(&|plan| {
            let wrong = |_| Submission {
                kind: RecordKind::Result,
                record: Err(Violation {
                    field: "body",
                    description: "w".repeat(50),
                    reason: "INVALID_JSON",
                    limit: 0,
                    quota: false,
                }),
            };
            let sound = result(r#"{"id":"task-a"}"#, &plan.state);
            let submissions: Vec<_> = (0..records).map(wrong).chain([sound]).collect();
            let receipts = plan.execute(&Command::SubmitNumbered {
                producer: "worker",
                first_offset: Some(0),
                submissions: &submissions,
            });
            assert_eq!(receipts.len(), records + 1);
        })
    };
    assert_eq!(refused(3) - refused(1), 2 * (24 + 96 + 50));
}

/// Anything that may come over a stream to a plan of four tasks.
#[derive(Clone, Debug)]
enum Step {
    Submit(Vec<(RecordKind, String)>),
    End(EndReason),
    Rematch(u64, u32),
    Discard(u64),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![4 => Just(RecordKind::Result), 1 => Just(RecordKind::Started), 1 => Just(RecordKind::Progress)];
    let key = select(&["task_id", "id", "sandbox_session_id", "group_key"][..]);
    let text = select(
        &[
            "task-0", "task-1", "task-2", "task-3", "g", "h", "box-1", "box-2", "alias", "stray",
            " g ", "",
        ][..],
    );
    let rest = select(
        &[
            "",
            r#","status":"completed""#,
            r#","success":true"#,
            r#","outcome":{"status":"no_op"}"#,
        ][..],
    );
    let body = (prop::collection::vec((key, text), 0..3), rest).prop_map(|(keys, rest)| {
        let members: String = keys
            .iter()
            .map(|(key, text)| format!(r#","{key}":"{text}""#))
            .collect();
        format!("{{\"x\":0{members}{rest}}}")
    });
    let body = prop_oneof![12 => body, 1 => Just("{".to_owned())];
    prop_oneof![
        12 => prop::collection::vec((kind, body), 1..5).prop_map(Step::Submit),
        1 => select(&[EndReason::Sealed, EndReason::Cancelled][..]).prop_map(Step::End),
        2 => (0..6_u64, 0..4_u32).prop_map(|(id, task)| Step::Rematch(id, task)),
        1 => (0..6_u64).prop_map(Step::Discard),
        2 => (0..3_000_u64).prop_map(Step::Tick),
    ]
}

fn completion() -> impl Strategy<Value = Completion> {
    let rule = select(
        &[
            SealRule::WhenAllRecorded,
            SealRule::WhenAllRecorded,
            SealRule::Explicit,
        ][..],
    );
    let share = prop::option::of(select(&[0.0, 25.0, 49.9, 100.0][..]));
    let count = || prop::option::of(1..4_u64);
    (rule, count(), count(), share).prop_map(
        |(seal_rule, min_successful, tolerated_failure_count, share)| Completion {
            seal_rule,
            min_successful,
            tolerated_failure_count,
            tolerated_failure_percentage: share,
        },
    )
}

fn four(rules: &str, terms: Terms) -> Machine {
    let config = r#"{RULES"groups":[{"key":"g"},{"key":"g"},{"key":"h"},{"key":"i"}],
        "task_request_template":{"id":"task-{{group.index}}","sandbox_session_id":"box-{{group.key}}"}}"#;
    let config = config.replace("RULES", rules);
    let mut machine = Machine::new(&config, terms);
    machine.limits = Limits {
        quarantined_records: 6,
        signs_of_life_per_task: 2,
        sessions_per_task: 1,
        ..machine.limits
    };
    machine
}

fn run(machine: &mut Machine, step: &Step, one_by_one: bool) -> Vec<Receipt> {
    match step {
        Step::Submit(records) => {
            let submissions: Vec<_> = records
                .iter()
                .map(|(kind, body)| Submission {
                    kind: *kind,
                    record: read(body, *kind, &machine.state),
                })
                .collect();
            if one_by_one {
                let single = |submission| {
                    machine.execute(&Command::Submit(std::slice::from_ref(submission)))
                };
                submissions.iter().flat_map(single).collect()
            } else {
                machine.execute(&Command::Submit(&submissions))
            }
        }
        Step::Rematch(id, task) => {
            let note = "by hand".into();
            machine.execute(&Command::Rematch {
                id: *id,
                task: *task,
                note,
            })
        }
        Step::Discard(id) => machine.execute(&Command::Discard {
            id: *id,
            note: "".into(),
        }),
        Step::End(reason) => machine.execute(&Command::End {
            reason: *reason,
            note: "".into(),
        }),
        Step::Tick(later) => machine.execute_at(Timestamp(NOW.0 + later), &Command::Tick),
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn whatever_happens_the_state_is_sound_and_the_fold_of_the_history(
        steps in prop::collection::vec(step(), 1..25),
        completion in completion(),
        rules in select(&["", r#""matching":"strict","#, r#""duplicate_policy":"first","#][..]),
        deadline in prop::option::of(1_001..4_000_u64),
    ) {
        let mut machine = four(rules, Terms { completion, deadline: deadline.map(Timestamp), ..Terms::default() });
        let mut ended = None;
        for step in &steps {
            let receipts = run(&mut machine, step, false);
            if let Step::Submit(records) = step {
                prop_assert_eq!(receipts.len(), records.len());
            }
            prop_assert_eq!(machine.state.check(), Ok(()));
            let folded = State::fold(machine.history.iter().map(|entry| &**entry));
            prop_assert_eq!(folded.as_ref(), Some(&machine.state));
            let now = machine.state.end().map(|_| result_of(&machine));
            if ended.is_some() {
                prop_assert_eq!(&now, &ended, "an ended plan's result does not change");
            }
            ended = now;
        }
    }

    #[test]
    fn records_in_one_message_and_one_by_one_come_to_the_same(steps in prop::collection::vec(step(), 1..12)) {
        let spec = Arc::clone(four("", Terms::default()).state.spec());
        let limits = four("", Terms::default()).limits;
        let [mut together, mut single] = [(); 2].map(|()| Machine { limits, ..Machine::of(Arc::clone(&spec)) });
        for step in &steps {
            prop_assert_eq!(run(&mut together, step, false), run(&mut single, step, true));
        }
        prop_assert_eq!(&together.state, &single.state);
    }
}

/// What an ended plan must keep: status, counts of results, and each task's record.
fn result_of(machine: &Machine) -> (PlanStatus, u64, u64, Vec<Option<bytes::Bytes>>) {
    let state = &machine.state;
    let counts = state.counts();
    let held = (0..state.spec().tasks.len())
        .map(|task| state.held(task).map(|held| held.document.clone()));
    (
        state.status(),
        counts.successful,
        counts.outcomes,
        held.collect(),
    )
}

/// A record for one of a plan's tasks, by one of its names.
fn record_for(task: usize, name: &str, payload: &str) -> String {
    let key = match name {
        "group_key" => format!("g{task}"),
        "sandbox_session_id" => format!("box-{task}"),
        _ => format!("task-{task}"),
    };
    format!(r#"{{"{name}":"{key}",{payload}}}"#)
}

fn coordinator() -> Coordinator {
    let limits = coordinator_limits();
    Coordinator::new(Arc::new(Memory::default()), Clock::system(), limits)
}

/// Plans, submits one record after the other, seals, and answers the live result document.
async fn live_result(config: &Value, records: &[&String]) -> Value {
    let coordinator = coordinator();
    let completion = Completion {
        seal_rule: SealRule::Explicit,
        ..Completion::default()
    };
    let command = plan_command("p", config, completion);
    coordinator.register(command).await.unwrap();
    let plan = coordinator.plan("p").await.unwrap();
    for body in records {
        let submission = {
            let live = plan.read().unwrap();
            result(body, &live.state)
        };
        let (receipts, _) = coordinator.submit(&plan, &[submission]).await.unwrap();
        assert!(receipts[0].task.is_some(), "{body}: {receipts:?}");
    }
    coordinator
        .end("p", "", EndReason::Sealed, "")
        .await
        .unwrap();
    {
        let live = plan.read().unwrap();
        let folded = State::fold(live.history.iter().map(|entry| &**entry)).unwrap();
        assert_eq!(folded, live.state);
    }
    let page = coordinator.result(plan, Page::Whole).await.unwrap();
    parse(&page.document.unwrap())
}

#[test]
fn strict_matching_sets_a_record_aside_whose_keys_name_different_tasks() {
    let strict = THREE.replacen('{', r#"{"matching":"strict","#, 1);
    let mut plan = Machine::new(&strict, Terms::default());
    let torn = plan.submit_one(r#"{"id":"task-a","group_key":"b"}"#);
    assert_eq!(
        (torn.disposition, torn.candidates),
        (Disposition::KeysDisagree, vec![0, 1])
    );
    assert_eq!(
        plan.state.quarantine()[0].reason,
        QuarantineReason::KeysDisagree
    );
    let agreeing = plan.submit_one(r#"{"id":"task-a","group_key":"a"}"#);
    assert_eq!(
        (agreeing.disposition, agreeing.warnings),
        (Disposition::Accepted, vec![])
    );
}

#[test]
fn a_plan_that_keeps_the_first_record_sets_another_one_aside() {
    let first = THREE.replacen('{', r#"{"duplicate_policy":"first","#, 1);
    let mut plan = Machine::new(&first, Terms::default());
    plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    let other = plan.submit_one(r#"{"id":"task-a","status":"completed"}"#);
    assert_eq!(
        (other.disposition, other.held.unwrap().revision),
        (Disposition::Late, 1)
    );
    let same = plan.submit_one(r#"{"id":"task-a","status":"failed"}"#);
    assert_eq!(same.disposition, Disposition::Duplicate);
    assert_eq!(plan.state.counts().failed, 1);
}

#[test]
fn a_rematched_record_counts_as_if_it_had_named_its_task() {
    let mut plan = three();
    plan.submit(&[
        r#"{"id":"task-a","success":true}"#,
        r#"{"id":"task-b","success":true}"#,
        r#"{"id":"tsk-c","status":"passed"}"#,
    ]);
    let decided = |machine: &Machine, id, task| {
        decide(
            &machine.state,
            &Command::Rematch {
                id,
                task,
                note: "".into(),
            },
            NOW,
            &machine.limits,
        )
        .refusal
    };
    assert_eq!(decided(&plan, 2, 2), Some(Refusal::NotFound));
    let receipt = plan
        .execute(&Command::Rematch {
            id: 1,
            task: 2,
            note: "typo".into(),
        })
        .remove(0);
    assert_eq!(
        (receipt.disposition, receipt.matched_by),
        (Disposition::Accepted, Some(MatchedBy::Operator))
    );
    assert_eq!(plan.state.status(), PlanStatus::Completed);
    assert_eq!(plan.state.counts().quarantined, 0);
    assert_eq!(
        plan.events(),
        [
            "created",
            "accepted",
            "accepted",
            "quarantined",
            "accepted",
            "resolved",
            "ended"
        ]
    );
    // Said again, it changes nothing; said otherwise, it is refused.
    let again = plan
        .execute(&Command::Rematch {
            id: 1,
            task: 2,
            note: "".into(),
        })
        .remove(0);
    assert_eq!(again.disposition, Disposition::Duplicate);
    assert_eq!(
        decided(&plan, 1, 0),
        Some(Refusal::Resolved(Resolution::Rematched(2)))
    );
    let discard = decide(
        &plan.state,
        &Command::Discard {
            id: 1,
            note: "".into(),
        },
        NOW,
        &plan.limits,
    );
    assert_eq!(
        discard.refusal,
        Some(Refusal::Resolved(Resolution::Rematched(2)))
    );
}

#[test]
fn nothing_is_rematched_into_an_ended_plan_but_it_can_be_discarded() {
    let mut plan = three();
    plan.end(EndReason::Sealed);
    plan.submit_one(r#"{"id":"task-a","success":true}"#);
    let rematch = decide(
        &plan.state,
        &Command::Rematch {
            id: 1,
            task: 0,
            note: "".into(),
        },
        NOW,
        &plan.limits,
    );
    assert_eq!(
        (rematch.refusal, rematch.entries.len()),
        (Some(Refusal::PlanEnded), 0)
    );
    plan.execute(&Command::Discard {
        id: 1,
        note: "too late".into(),
    });
    assert_eq!(plan.state.counts().quarantined, 0);
    assert_eq!(&*plan.state.resolved(1).unwrap().note, "too late");
}

/// Submits so many successful and failed records, in this order, to a plan of ten tasks.
fn ten(completion: Completion, successful: usize, failed: usize) -> Machine {
    let groups: Vec<_> = (0..10).map(|n| format!(r#"{{"key":"{n}"}}"#)).collect();
    let config = format!(
        r#"{{"groups":[{}],"task_request_template":{{"id":"t{{{{group.key}}}}"}}}}"#,
        groups.join(",")
    );
    let mut plan = Machine::new(
        &config,
        Terms {
            completion,
            ..Terms::default()
        },
    );
    for n in 0..successful + failed {
        plan.submit_one(&format!(r#"{{"id":"t{n}","success":{}}}"#, n < successful));
    }
    plan
}

#[test]
fn a_tolerance_and_a_minimum_decide_when_a_plan_ends_and_how() {
    let count = |count| Completion {
        tolerated_failure_count: Some(count),
        ..Completion::default()
    };
    let share = |share| Completion {
        tolerated_failure_percentage: Some(share),
        ..Completion::default()
    };
    let least = |least| Completion {
        min_successful: Some(least),
        ..Completion::default()
    };
    let both = Completion {
        min_successful: Some(3),
        ..count(1)
    };
    let open = (PlanStatus::Incomplete, None);
    let completed = |reason| (PlanStatus::Completed, Some(reason));
    let failed = |reason| (PlanStatus::Failed, Some(reason));
    for (what, plan, expected) in [
        (
            "no tolerance waits for all",
            ten(Completion::default(), 0, 9),
            open,
        ),
        (
            "no tolerance tolerates none",
            ten(Completion::default(), 9, 1),
            failed(EndReason::AllRecorded),
        ),
        (
            "2 of 2 tolerated",
            ten(count(2), 8, 2),
            completed(EndReason::AllRecorded),
        ),
        ("2 of 2 tolerated, one to come", ten(count(2), 7, 2), open),
        (
            "3 of 2 tolerated",
            ten(count(2), 0, 3),
            failed(EndReason::ToleranceExceeded),
        ),
        (
            "20 % of 20 %",
            ten(share(20.0), 8, 2),
            completed(EndReason::AllRecorded),
        ),
        (
            "30 % of 29 %",
            ten(share(29.0), 0, 3),
            failed(EndReason::ToleranceExceeded),
        ),
        (
            "3 of at least 3",
            ten(least(3), 3, 0),
            completed(EndReason::MinimumReached),
        ),
        ("2 of at least 3", ten(least(3), 2, 5), open),
        (
            "all there, fewer than the minimum",
            ten(least(9), 8, 2),
            failed(EndReason::AllRecorded),
        ),
        (
            "exceeded comes before the minimum",
            ten(both, 2, 2),
            failed(EndReason::ToleranceExceeded),
        ),
        (
            "the minimum, with what is tolerated",
            ten(both, 3, 0),
            completed(EndReason::MinimumReached),
        ),
    ] {
        assert_eq!(
            (plan.state.status(), plan.state.end().map(|end| end.reason)),
            expected,
            "{what}"
        );
    }
    let mut sealed = ten(count(2), 8, 0);
    sealed.end(EndReason::Sealed);
    assert_eq!(
        sealed.state.status(),
        PlanStatus::Completed,
        "two missing are tolerated"
    );
    let mut sealed = ten(count(2), 7, 0);
    sealed.end(EndReason::Sealed);
    assert_eq!(
        sealed.state.status(),
        PlanStatus::Failed,
        "three missing are not"
    );
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn any_order_and_any_repetition_of_records_gives_the_stateless_reconcile_of_the_final_records(
        tasks in 1..7_usize,
        pool in prop::collection::vec((
            any::<Index>(),
            select(&["task_id", "id", "sandbox_session_id", "group_key"][..]),
            select(&[
                r#""status":"succeeded","outcome":{"changed":1}"#,
                r#""status":"failed","outcome":null"#,
                r#""success":true,"n":12345678901234567890"#,
                r#""state":"running","outcome":[]"#,
                r#""provider_status":"no_op","outcome":"x" "#,
                r#""status":"completed","a":{"b":[1.0,2]},"outcome":0"#,
            ][..]),
        ), 1..12),
        order in prop::collection::vec(any::<Index>(), 0..40),
        first in any::<bool>(),
        rules in select(&["", r#","matching":"strict""#, r#","outcome_path":"a.b""#, r#","success_statuses":["running","completed"]"#,
            r#","base_run":{"by":"x","status":"overridden"},"include_summary":false"#][..]),
    ) {
        let groups: Vec<_> = (0..tasks).map(|task| format!(r#"{{"key":"g{task}","items":[{task}]}}"#)).collect();
        let config = parse(&format!(
            r#"{{"groups":[{}],"orchestrator":{{"run_id":"r","plan_id":"p"}},"task_request_template":
                {{"id":"task-{{{{group.index}}}}","sandbox_session_id":"box-{{{{group.index}}}}"}}{rules}}}"#,
            groups.join(",")
        ));
        let pool: Vec<(usize, String)> = pool
            .iter()
            .map(|(task, name, payload)| {
                let task = task.index(tasks);
                (task, record_for(task, name, payload))
            })
            .collect();
        // Any order, any repetition; what was left out comes at the end.
        let chosen: Vec<usize> = order.iter().map(|at| at.index(pool.len())).chain(0..pool.len()).collect();
        let sent: Vec<&String> = chosen.iter().map(|at| &pool[*at].1).collect();
        let mut last: BTreeMap<usize, &String> = BTreeMap::new();
        for (task, body) in chosen.iter().map(|at| (pool[*at].0, &pool[*at].1)) {
            if first {
                last.entry(task).or_insert(body);
            } else {
                last.insert(task, body);
            }
        }
        let finals = last.values().map(|body| parse(body)).collect();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = config.as_object().unwrap().clone();
        config.set("duplicate_policy", if first { "first" } else { "last" });
        let config = Value::from(config);
        let live = runtime.block_on(live_result(&config, &sent));
        let planned = plan::plan(Input::from_document(&config), &plan::Limits::default()).unwrap().document();
        let stateless = reconcile::reconcile(config.as_object().unwrap(), &planned, finals).unwrap();
        prop_assert_eq!(json::pretty(&live), json::pretty(&stateless));
    }
}
