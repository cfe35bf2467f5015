//! What time alone does, with time in the test's hand.

use std::sync::Arc;
use std::time::Duration;

use fanout::coordinator::{
    Clock, Coordinator, Deadline, Error, Limits, Next, PlanCommand, Registered,
};
use fanout::engine::{
    Completion, EndReason, Entry, Event, PlanStatus, RecordKind, SealRule, Spec, Submission,
};
use fanout::journal::{Journal, Memory};
use fanout::json;
use fanout::reconcile::record::{self, Rewrite, TypedFields};
use prost::bytes::BytesMut;

use crate::harness::{coordinator_limits, parse, plan_command};

const SECOND: Duration = Duration::from_secs(1);

fn command(plan_id: &str) -> PlanCommand {
    let config = parse(r#"{"items":[{"group_key":"a"}]}"#);
    plan_command(plan_id, &config, Completion::default())
}

struct Running {
    coordinator: Arc<Coordinator>,
    journal: Arc<Memory>,
}

impl Running {
    /// A coordinator whose timers run; plans are kept for an hour, request ids for a day.
    fn start() -> Self {
        let limits = Limits {
            plans: 10,
            request_ids: 2,
            request_id_life: 24 * 3_600 * SECOND,
            retention: 3_600 * SECOND,
            ..coordinator_limits()
        };
        let journal = Arc::new(Memory::default());
        let coordinator = Arc::new(Coordinator::new(
            Arc::clone(&journal) as _,
            Clock::system(),
            limits,
        ));
        let timers = Arc::clone(&coordinator);
        tokio::spawn(async move { timers.run_timers().await });
        Self {
            coordinator,
            journal,
        }
    }

    async fn register(&self, command: PlanCommand) -> Registered {
        self.coordinator.register(command).await.unwrap()
    }

    /// Submits a record of this group key to the plan `p`.
    async fn submit(&self, group_key: &str) {
        let plan = self.coordinator.plan("p").await.unwrap();
        let body = format!(r#"{{"group_key":"{group_key}","success":true}}"#);
        let record = record::read(
            TypedFields::default(),
            body.as_bytes(),
            Rewrite::Reconciled,
            json::Limits::default(),
            &plan.spec().settings,
        );
        let submission = Submission {
            kind: RecordKind::Result,
            record: Ok(record.unwrap()),
        };
        let submitted = self.coordinator.submit(&plan, &[submission]).await;
        assert_eq!(submitted.unwrap().0.len(), 1);
    }

    /// Status and reason of the plan's end; nothing if it is forgotten.
    async fn end(&self, plan_id: &str) -> Option<(PlanStatus, Option<EndReason>)> {
        let standing = self.coordinator.view(plan_id).await.ok()?.standing;
        Some((standing.status, standing.end.map(|end| end.reason)))
    }
}

/// Lets time pass, and everything happen that was due.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const OPEN: Option<(PlanStatus, Option<EndReason>)> = Some((PlanStatus::Incomplete, None));

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_plan_as_failed_when_it_is_over_and_not_before() {
    let running = Running::start();
    running
        .register(PlanCommand {
            deadline: Some(Deadline::After(10 * SECOND)),
            ..command("p")
        })
        .await;
    pass(9 * SECOND + Duration::from_millis(900)).await;
    assert_eq!(running.end("p").await, OPEN);
    pass(Duration::from_millis(200)).await;
    assert_eq!(
        running.end("p").await,
        Some((PlanStatus::Failed, Some(EndReason::Deadline)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_earlier_deadline_that_comes_later_is_not_missed() {
    let running = Running::start();
    running
        .register(PlanCommand {
            deadline: Some(Deadline::After(100 * SECOND)),
            ..command("slow")
        })
        .await;
    pass(SECOND).await;
    running
        .register(PlanCommand {
            deadline: Some(Deadline::After(5 * SECOND)),
            ..command("fast")
        })
        .await;
    pass(6 * SECOND).await;
    assert_eq!(running.end("slow").await, OPEN);
    assert_eq!(
        running.end("fast").await,
        Some((PlanStatus::Failed, Some(EndReason::Deadline)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_without_deadline_stays_open() {
    let running = Running::start();
    running.register(command("p")).await;
    pass(365 * 24 * 3_600 * SECOND).await;
    assert_eq!(running.end("p").await, OPEN);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_is_refused() {
    let running = Running::start();
    let now = Clock::system().now();
    let past = PlanCommand {
        deadline: Some(Deadline::At(now)),
        ..command("p")
    };
    pass(SECOND).await;
    let error = running.coordinator.register(past).await.unwrap_err();
    assert_eq!(error.to_string(), "deadline: is not in the future");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_one_past_the_limit_is_refused_with_the_limit() {
    let day = 24 * 3_600 * SECOND;
    let coordinator = Coordinator::new(
        Arc::new(Memory::default()),
        Clock::system(),
        Limits {
            deadline: day,
            ..coordinator_limits()
        },
    );
    let now = Clock::system().now();
    let at = |time: Duration| PlanCommand {
        deadline: Some(Deadline::At(now.plus(time))),
        ..command("p")
    };
    let past = at(day + Duration::from_millis(1));
    let error = coordinator.register(past).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Invalid {
                limit: Some(86_400),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "deadline: is more than 86400s from now");
    assert!(coordinator.register(at(day)).await.unwrap().created);
}

#[tokio::test(start_paused = true)]
async fn an_ended_plan_is_forgotten_when_its_retention_is_over_and_its_journal_with_it() {
    let running = Running::start();
    running
        .register(PlanCommand {
            retention: Some(60 * SECOND),
            ..command("short")
        })
        .await;
    running.register(command("default")).await;
    for plan_id in ["short", "default"] {
        running
            .coordinator
            .end(plan_id, "", EndReason::Sealed, "")
            .await
            .unwrap();
    }
    pass(59 * SECOND).await;
    assert!(running.end("short").await.is_some());
    pass(2 * SECOND).await;
    assert_eq!(running.end("short").await, None);
    assert_eq!(
        running.journal.plans().wait().await.unwrap(),
        ["default".into()]
    );
    pass(3_600 * SECOND).await;
    assert_eq!(running.end("default").await, None);
    // The name is free again.
    assert!(running.register(command("short")).await.created);
}

#[tokio::test(start_paused = true)]
async fn retention_counts_from_the_end_not_from_the_deadline_that_was_never_reached() {
    let running = Running::start();
    let terms = PlanCommand {
        deadline: Some(Deadline::After(100 * SECOND)),
        retention: Some(200 * SECOND),
        ..command("p")
    };
    running.register(terms).await;
    pass(50 * SECOND).await;
    running
        .coordinator
        .end("p", "", EndReason::Cancelled, "")
        .await
        .unwrap();
    pass(199 * SECOND).await;
    assert_eq!(
        running.end("p").await,
        Some((PlanStatus::Failed, Some(EndReason::Cancelled)))
    );
    pass(2 * SECOND).await;
    assert_eq!(running.end("p").await, None);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_end_is_over_when_the_plan_ends_or_the_time_is_up() {
    let running = Running::start();
    running
        .register(PlanCommand {
            deadline: Some(Deadline::After(30 * SECOND)),
            ..command("p")
        })
        .await;
    let plan = running.coordinator.plan("p").await.unwrap();
    let began = tokio::time::Instant::now();
    running.coordinator.wait_for_end(&plan, 20 * SECOND).await;
    assert_eq!(
        (began.elapsed().as_secs(), running.end("p").await),
        (20, OPEN)
    );
    running.coordinator.wait_for_end(&plan, 300 * SECOND).await;
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(
        running.end("p").await,
        Some((PlanStatus::Failed, Some(EndReason::Deadline)))
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_end_of_a_plan_that_is_deleted_is_over_at_once() {
    let running = Running::start();
    running.register(command("p")).await;
    let plan = running.coordinator.plan("p").await.unwrap();
    let began = tokio::time::Instant::now();
    let (head, deleted) = tokio::join!(
        running.coordinator.wait_for_end(&plan, 300 * SECOND),
        running.coordinator.delete("p", "")
    );
    assert!(deleted.is_ok());
    assert_eq!(
        (began.elapsed().as_secs(), head.removed, head.ended),
        (0, true, false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watcher_hears_a_heartbeat_at_its_interval() {
    let running = Running::start();
    running.register(command("p")).await;
    let mut watch = running.coordinator.watch("p", "").await.unwrap();
    assert!(
        matches!(watch.next(15 * SECOND).await.unwrap(), Next::Entries(entries) if entries.len() == 1)
    );
    for beat in 1..=2 {
        let began = tokio::time::Instant::now();
        let Next::Quiet(standing) = watch.next(15 * SECOND).await.unwrap() else {
            panic!("heartbeat {beat} is missing");
        };
        assert_eq!((began.elapsed(), standing.sequence), (15 * SECOND, 1));
    }
}

/// Shows results, and nothing of what is set aside.
fn show_results(to: &mut BytesMut, _: &Spec, entry: &Entry, _: bool) {
    if matches!(entry.event, Event::RecordAccepted(_)) {
        to.extend_from_slice(b"a result");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_heartbeats_while_nothing_comes_but_events_that_are_not_shown() {
    let running = Running::start();
    running.register(command("p")).await;
    let mut watch = running.coordinator.watch("p", "").await.unwrap();
    let began = tokio::time::Instant::now();
    let strays = async {
        for _ in 0..12 {
            tokio::time::sleep(3 * SECOND).await;
            running.submit("stray").await;
        }
    };
    let heard = async {
        let mut beats = Vec::new();
        while beats.len() < 2 {
            match watch.next(10 * SECOND).await.unwrap() {
                Next::Entries(mut entries) => {
                    let frames = watch.frames(&mut entries, false, show_results).unwrap();
                    assert!(frames.is_empty() && entries.is_empty());
                }
                Next::Quiet(_) => beats.push((began.elapsed(), watch.position())),
                other => panic!("unexpected {other:?}"),
            }
        }
        beats
    };
    let (beats, ()) = tokio::join!(heard, strays);
    assert_eq!(beats, [(10 * SECOND, 4), (20 * SECOND, 7)]);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_due_comes_first_and_from_before_the_result_that_came_meanwhile() {
    let running = Running::start();
    running.register(command("p")).await;
    let mut watch = running.coordinator.watch("p", "").await.unwrap();
    let Next::Entries(mut created) = watch.next(10 * SECOND).await.unwrap() else {
        panic!("expected the plan's creation");
    };
    let frames = watch.frames(&mut created, false, show_results).unwrap();
    assert!(frames.is_empty());
    tokio::time::advance(10 * SECOND).await;
    running.submit("a").await;
    assert!(matches!(
        watch.next(10 * SECOND).await.unwrap(),
        Next::Quiet(_)
    ));
    assert_eq!(watch.position(), 1, "the result was not seen");
    let Next::Entries(mut result) = watch.next(10 * SECOND).await.unwrap() else {
        panic!("expected the result");
    };
    assert_eq!(
        watch.frames(&mut result, false, show_results).unwrap(),
        "a result"
    );
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_was_shown_puts_off_the_heartbeat() {
    let running = Running::start();
    let keep_open = Completion {
        seal_rule: SealRule::Explicit,
        ..Completion::default()
    };
    running
        .register(PlanCommand {
            completion: keep_open,
            ..command("p")
        })
        .await;
    let mut watch = running.coordinator.watch("p", "").await.unwrap();
    assert!(matches!(
        watch.next(10 * SECOND).await.unwrap(),
        Next::Entries(_)
    ));
    tokio::time::advance(9 * SECOND).await;
    running.submit("a").await;
    let Next::Entries(mut result) = watch.next(10 * SECOND).await.unwrap() else {
        panic!("expected the result");
    };
    let frames = watch.frames(&mut result, false, show_results).unwrap();
    assert_eq!(frames, "a result");
    let shown = tokio::time::Instant::now();
    assert!(matches!(
        watch.next(10 * SECOND).await.unwrap(),
        Next::Quiet(_)
    ));
    assert_eq!(shown.elapsed(), 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_a_plan_that_expires_is_told() {
    let running = Running::start();
    running
        .register(PlanCommand {
            retention: Some(Duration::ZERO),
            ..command("p")
        })
        .await;
    let mut watch = running.coordinator.watch("p", "").await.unwrap();
    running
        .coordinator
        .end("p", "", EndReason::Sealed, "")
        .await
        .unwrap();
    pass(SECOND).await;
    assert_eq!(running.end("p").await, None);
    assert!(matches!(
        watch.next(SECOND).await.unwrap(),
        Next::Entries(_)
    ));
    // Its end was still seen: the history outlives the registration for whoever is reading it.
    assert!(
        matches!(watch.next(SECOND).await.unwrap(), Next::Ended(standing) if standing.status == PlanStatus::Failed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_id_is_remembered_for_its_time_and_one_past_the_limit_is_refused() {
    let running = Running::start();
    let with_id = |request_id: &str| PlanCommand {
        tenant: Arc::default(),
        request_id: request_id.into(),
        ..command("")
    };
    let first = running.register(with_id("r-1")).await;
    let again = running.register(with_id("r-1")).await;
    assert!(first.created && !again.created);
    assert_eq!(first.view.spec.plan_id, again.view.spec.plan_id);
    running.register(with_id("r-2")).await;
    let error = running
        .coordinator
        .register(with_id("r-3"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::QuotaExceeded {
                setting: "request_ids_max",
                limit: 2,
                ..
            }
        ),
        "{error}"
    );
    pass(24 * 3_600 * SECOND).await;
    assert!(running.register(with_id("r-3")).await.created);
    // The id of the plan is that of its request for as long as the plan is there.
    let after_a_day = running.register(with_id("r-1")).await;
    assert!(!after_a_day.created);
    assert_eq!(first.view.spec.plan_id, after_a_day.view.spec.plan_id);
}
