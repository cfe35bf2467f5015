//! The use cases, without gRPC. The only place where effects are ordered: decide, append to the journal, apply, answer.
//!
//! Whoever changes a plan holds its turn from the decision to the end of apply, so that no decision is stale when it
//! becomes durable. A gRPC handler's future is dropped when its client goes away; a change that was begun is finished all
//! the same: a journal that takes a while is waited for by a task of its own, which then applies.

mod census;
mod change;
mod clock;
mod name;
mod quarantine;
mod quota;
mod recover;
mod register;
mod request_ids;
mod result;
mod shared;
mod tasks;
mod timers;
mod watch;

pub use crate::journal::Error as JournalError;
pub use clock::Clock;
pub use name::{plan_id_of, plan_name, request_id_of, request_name, tenant_of};
pub use quarantine::{QuarantineEntry, QuarantinePage};
pub use recover::Recovered;
pub use register::{Deadline, PlanCommand, Registered, Source};
pub use result::{Page, ResultPage};
pub use tasks::TaskPage;
pub use watch::{Entries, Next, Show, Watch, cursor};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engine::{
    self, Command, Counts, End, EndReason, PlanStatus, Receipt, Refusal, Resolution, Spec, State,
    Timestamp,
};
use crate::journal::{self, Journal};
use crate::plan;
use crate::registry::{Head, LivePlan, Poisoned, Registry};
use request_ids::RequestIds;
use shared::Shared;
use timers::Timers;

/// What the coordinator holds its callers to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of planning.
    pub plan: plan::Limits,
    /// Of a plan's state.
    pub engine: engine::Limits,
    /// Bytes of rendered task requests in one plan.
    pub task_request_bytes: usize,
    /// Bytes of one of them.
    pub one_task_request_bytes: usize,
    /// Bytes of a plan's id, and of a task's.
    pub id_bytes: usize,
    /// Live plans.
    pub plans: usize,
    /// Live plans of one tenant.
    pub tenant_plans: u64,
    /// Tasks in all live plans of one tenant.
    pub tenant_tasks: u64,
    /// Bytes that the plans of one tenant hold in memory, about.
    pub tenant_bytes: u64,
    /// Bytes that all plans hold in memory, about.
    pub memory_bytes: u64,
    /// Watchers of one plan.
    pub watchers_per_plan: usize,
    /// Request ids remembered.
    pub request_ids: usize,
    /// Those of one tenant.
    pub tenant_request_ids: usize,
    /// How long a request id is remembered.
    pub request_id_life: Duration,
    /// Longest time until a plan's deadline.
    pub deadline: Duration,
    /// How long an ended plan can be read, unless it says otherwise.
    pub retention: Duration,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// UPPER_SNAKE.
        reason: &'static str,
        /// The limit that was passed, if one was.
        limit: Option<u64>,
    },
    /// There is no such plan.
    #[error("there is no plan {:?}", plan_id_of(plan_id))]
    PlanNotFound {
        /// Its name.
        plan_id: String,
    },
    /// The plan that is meant is gone; another may have its name.
    #[error("plan {:?} was deleted or has expired", plan_id_of(plan_id))]
    PlanRemoved {
        /// Its name.
        plan_id: String,
    },
    /// There is no such task.
    #[error("plan {:?} has no task {task_id:?}", plan_id_of(plan_id))]
    TaskNotFound {
        /// Name of the plan.
        plan_id: String,
        /// Identity of the task.
        task_id: String,
    },
    /// Nothing is done about a record in quarantine.
    #[error("record {id} in quarantine {}", why(*refusal))]
    QuarantineRefused {
        /// Its number.
        id: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The name is taken by a plan of other content.
    #[error(
        "plan {:?} exists with other content: its digest is {existing}, this one's {requested}",
        plan_id_of(plan_id)
    )]
    PlanExists {
        /// Its name.
        plan_id: String,
        /// Digest of the plan that has the name.
        existing: String,
        /// Digest of the plan that was to get it.
        requested: String,
    },
    /// The request id was used for something else.
    #[error(
        "request id {:?} was used for another request",
        request_id_of(request_id)
    )]
    RequestIdReused {
        /// The id.
        request_id: String,
    },
    /// As many as there may be are there.
    #[error("there are {limit} {what} already, the limit ({setting})")]
    QuotaExceeded {
        /// What there are too many of.
        what: &'static str,
        /// The setting that says so.
        setting: &'static str,
        /// Its value.
        limit: u64,
    },
    /// Records of a producer before these have not come.
    #[error(
        "the first offset is {first_offset}, but the plan has {committed} records of this producer"
    )]
    OffsetAhead {
        /// Where the records begin.
        first_offset: u64,
        /// How many the plan has.
        committed: u64,
    },
    /// The cursor points behind the plan's last event.
    #[error("cursor is at sequence {cursor}, the plan at {sequence}")]
    CursorAhead {
        /// Where the cursor is.
        cursor: u64,
        /// Where the plan is.
        sequence: u64,
    },
    /// A panic left the plan in an unknown state.
    #[error("plan {:?} is unusable after an internal error", plan_id_of(plan_id))]
    PlanPoisoned {
        /// Its name.
        plan_id: String,
    },
    /// The journal's plans are not all live again yet.
    #[error("plans are being read from the journal")]
    Recovering,
    /// The journal did not take it.
    #[error("failed to append to the journal: {0}")]
    Journal(#[from] journal::Error),
}

fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "does not exist",
        Refusal::Resolved(Resolution::Rematched(_)) => "was applied to a task already",
        Refusal::Resolved(Resolution::Discarded) => "was discarded",
        Refusal::PlanEnded => "cannot be applied: the plan has ended",
        Refusal::NotAResult => "is no result",
    }
}

impl From<plan::Error> for Error {
    fn from(error: plan::Error) -> Self {
        Self::Invalid {
            reason: if error.limit.is_some() {
                "LIMIT_EXCEEDED"
            } else {
                "INVALID_DOCUMENT"
            },
            field: error.field,
            problem: error.problem,
            limit: error.limit.map(|limit| limit as u64),
        }
    }
}

/// A plan as it stands: everything small about it.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// What it is.
    pub spec: Arc<Spec>,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a plan stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its counts.
    pub counts: Counts,
    /// Its status.
    pub status: PlanStatus,
    /// Number of its last event.
    pub sequence: u64,
    /// Its end, if it has ended.
    pub end: Option<End>,
}

impl Standing {
    fn of(state: &State) -> Self {
        Self {
            counts: state.counts(),
            status: state.status(),
            sequence: state.sequence(),
            end: state.end().cloned(),
        }
    }
}

impl PlanView {
    fn of(state: &State) -> Self {
        Self {
            spec: Arc::clone(state.spec()),
            standing: Standing::of(state),
        }
    }

    /// Position after a sequence of this plan; another plan of the same name has other cursors.
    #[must_use]
    pub fn cursor(&self, sequence: u64) -> String {
        watch::cursor(&self.spec, sequence)
    }

    /// When the ended plan is forgotten.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        expires_at(&self.spec, self.standing.end.as_ref())
    }
}

fn expires_at(spec: &Spec, end: Option<&End>) -> Option<Timestamp> {
    end.map(|end| end.at.plus(spec.retention))
}

/// Owns the plans.
pub struct Coordinator {
    registry: Registry,
    journal: Arc<dyn Journal>,
    clock: Clock,
    limits: Limits,
    /// Held while a plan is registered or a request id is used, so that two equal requests make one plan.
    request_ids: tokio::sync::Mutex<RequestIds>,
    timers: Timers,
    /// Whether plans of the journal may still be missing.
    recovering: AtomicBool,
    /// What is needed where other processes have the journal, too.
    shared: Option<Shared>,
}

impl Coordinator {
    /// A coordinator without plans, of a journal without plans.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, clock: Clock, limits: Limits) -> Self {
        let coordinator = Self::before_recovery(journal, clock, limits);
        coordinator.recovering.store(false, Ordering::Release);
        coordinator
    }

    /// A coordinator that is to [recover](Self::recover) the journal's plans.
    #[must_use]
    pub fn before_recovery(journal: Arc<dyn Journal>, clock: Clock, limits: Limits) -> Self {
        Self {
            registry: Registry::new(limits.plans),
            shared: journal.others().map(Shared::new),
            journal,
            clock,
            limits,
            request_ids: tokio::sync::Mutex::new(RequestIds::new(
                limits.request_ids,
                limits.tenant_request_ids,
                limits.request_id_life,
            )),
            timers: Timers::default(),
            recovering: AtomicBool::new(true),
        }
    }

    fn check_recovered(&self) -> Result<(), Error> {
        match self.recovering.load(Ordering::Acquire) {
            true => Err(Error::Recovering),
            false => Ok(()),
        }
    }

    /// The plan. It may be one that others have changed since.
    ///
    /// # Errors
    /// There is no such plan, or the journal cannot say.
    pub async fn plan(&self, plan_id: &str) -> Result<Arc<LivePlan>, Error> {
        // Looked at first: what is not there then has not come either.
        let recovered = self.check_recovered();
        if let Some(plan) = self.live(plan_id) {
            return Ok(plan);
        }
        match &self.shared {
            Some(shared) => self.load(shared, plan_id).await,
            None => Err(recovered.err().unwrap_or_else(|| not_found(plan_id))),
        }
    }

    /// The plan, with all that anybody was told is done before this is called.
    ///
    /// # Errors
    /// There is no such plan, or the journal cannot say.
    pub async fn current(&self, plan_id: &str) -> Result<Arc<LivePlan>, Error> {
        let plan = self.plan(plan_id).await?;
        match self.catch_up(&plan).await {
            Ok(()) => Ok(plan),
            // It was forgotten elsewhere, and another may have its name since.
            Err(Error::PlanNotFound { .. }) => {
                let plan = self.plan(plan_id).await?;
                self.catch_up(&plan).await?;
                Ok(plan)
            }
            Err(error) => Err(error),
        }
    }

    /// The plan as it stands.
    ///
    /// # Errors
    /// There is no such plan, or the journal cannot say.
    pub async fn view(&self, plan_id: &str) -> Result<PlanView, Error> {
        view(&*self.current(plan_id).await?)
    }

    /// All plans of a tenant as they stand, oldest first. Plans that an internal error made unusable are left out.
    ///
    /// # Errors
    /// Not all plans are there yet, or the journal cannot say which there are.
    pub async fn views(&self, tenant: &str) -> Result<Vec<PlanView>, Error> {
        self.check_recovered()?;
        let mut live = self.registry.all();
        live.retain(|plan| tenant_of(plan.plan_id()) == tenant);
        let mut views: Vec<_> = live.iter().filter_map(|plan| view(plan).ok()).collect();
        if self.shared.is_some() {
            self.add_views_of_others(tenant, &mut views).await?;
        }
        views.sort_by(|a, b| {
            let key = |view: &PlanView| (view.spec.created_at, Arc::clone(&view.spec.plan_id));
            key(a).cmp(&key(b))
        });
        Ok(views)
    }

    /// Takes records.
    ///
    /// # Errors
    /// The plan was deleted or is unusable, or the journal did not take the records. What is wrong with a record is in its
    /// receipt.
    pub async fn submit(
        &self,
        plan: &Arc<LivePlan>,
        submissions: &[engine::Submission<'_>],
    ) -> Result<(Vec<Receipt>, Standing), Error> {
        self.check_memory(plan)?;
        let answer = self.change(plan, &Command::Submit(submissions)).await?;
        Ok((answer.receipts, answer.standing))
    }

    /// Takes records of a producer, unless they were taken before. `first_offset` is that of the first, and None if there
    /// are none. Answers, too, how many of its records the plan has then.
    ///
    /// # Errors
    /// As [`Coordinator::submit`]; or records before these have not come, or the plan has a limit's worth of them.
    pub async fn submit_numbered(
        &self,
        plan: &Arc<LivePlan>,
        producer: &str,
        first_offset: Option<u64>,
        submissions: &[engine::Submission<'_>],
    ) -> Result<(Vec<Receipt>, Standing, u64), Error> {
        if !submissions.is_empty() {
            self.check_memory(plan)?;
        }
        let command = Command::SubmitNumbered {
            producer,
            first_offset,
            submissions,
        };
        let answer = self.change(plan, &command).await?;
        Ok((
            answer.receipts,
            answer.standing,
            answer.committed.unwrap_or_default(),
        ))
    }

    /// Ends a plan; an ended one stays as it is.
    ///
    /// # Errors
    /// There is no such plan, or the request id was used for something else, or for an earlier plan of the name.
    pub async fn end(
        &self,
        plan_id: &str,
        request_id: &str,
        reason: EndReason,
        note: &str,
    ) -> Result<PlanView, Error> {
        let plan = self.current(plan_id).await?;
        if !request_id.is_empty() {
            let (spec, now) = (plan.spec(), self.clock.now());
            let fingerprint = request_ids::fingerprint(&format!("{reason:?}"), plan_id);
            let mut request_ids = self.request_ids.lock().await;
            match request_ids.known(request_id, fingerprint, now)? {
                Some(known) if !known.was_about(spec) => return Err(removed(plan_id)),
                // It was this very plan: if it has not ended after all, it does now.
                Some(_) => {}
                None => request_ids.claim(request_id, fingerprint, spec, None, now)?,
            }
        }
        self.end_this(&plan, reason, note).await
    }

    /// Ends this very plan; an ended one stays as it is.
    ///
    /// # Errors
    /// The plan is gone or unusable, or the journal did not take its end.
    pub async fn end_this(
        &self,
        plan: &Arc<LivePlan>,
        reason: EndReason,
        note: &str,
    ) -> Result<PlanView, Error> {
        let note = note.into();
        self.change(plan, &Command::End { reason, note }).await?;
        view(plan)
    }

    /// Forgets a plan and answers how it stood, if that is known: not of one that an internal error made unusable.
    /// Repeated with its request id, it answers the same.
    ///
    /// # Errors
    /// There is no such plan, or the request id was used for something else.
    pub async fn delete(
        &self,
        plan_id: &str,
        request_id: &str,
    ) -> Result<Option<Arc<PlanView>>, Error> {
        let fingerprint = request_ids::fingerprint("delete", plan_id);
        let mut request_ids = self.request_ids.lock().await;
        if let Some(known) = request_ids.known(request_id, fingerprint, self.clock.now())?
            && let Some(deleted) = &known.deleted
        {
            return Ok(Some(Arc::clone(deleted)));
        }
        let plan = match self.current(plan_id).await {
            Ok(plan) => Some(plan),
            // What cannot be read can be forgotten all the same.
            Err(Error::Journal(journal::Error::Damaged(_))) => None,
            Err(error) => return Err(error),
        };
        let _turn = match &plan {
            Some(plan) => Some(plan.turn().await),
            None => None,
        };
        let deleted = plan.as_ref().and_then(|plan| view(plan).ok());
        let deleted = deleted.map(Arc::new);
        if let Some(deleted) = deleted.as_ref().filter(|_| !request_id.is_empty()) {
            // The answer is kept for a day; the plan must not be.
            let kept = PlanView {
                spec: Arc::new(deleted.spec.without_tasks()),
                standing: deleted.standing.clone(),
            };
            let answer = Some(Arc::new(kept));
            request_ids.claim(
                request_id,
                fingerprint,
                &deleted.spec,
                answer,
                self.clock.now(),
            )?;
        }
        let forgotten = match &plan {
            Some(plan) => self.forget(plan).await,
            None => self.journal.delete(plan_id).wait().await,
        };
        if let Err(error) = forgotten {
            request_ids.give_back(request_id);
            return Err(error.into());
        }
        if let Some(deleted) = &deleted {
            self.timers.forget(deleted);
        }
        tracing::info!(plan.id = plan_id, "plan deleted");
        Ok(deleted)
    }

    /// Forgets this very plan, if nobody has: its name may be another's already.
    async fn forget(&self, plan: &LivePlan) -> Result<(), journal::Error> {
        if !self.registry.has_this(plan) {
            return Ok(());
        }
        let number = plan.journal().number();
        self.journal
            .delete_only(plan.plan_id(), number)
            .wait()
            .await?;
        self.registry.remove_this(plan);
        Ok(())
    }

    /// Waits until the plan has ended, is gone or unusable, at most so long. Answers where its history ends then.
    pub async fn wait_for_end(&self, plan: &LivePlan, at_most: Duration) -> Head {
        let mut head = plan.follow();
        let ended = head.wait_for(|head| head.ended || head.removed || plan.is_poisoned());
        // Out of time is an answer, too: the caller looks at the plan either way.
        drop(tokio::time::timeout(at_most, ended).await);
        *head.borrow()
    }
}

fn not_found(plan_id: &str) -> Error {
    Error::PlanNotFound {
        plan_id: plan_id.to_owned(),
    }
}

fn removed(plan_id: &str) -> Error {
    Error::PlanRemoved {
        plan_id: plan_id.to_owned(),
    }
}

fn poisoned(plan: &LivePlan) -> Error {
    Error::PlanPoisoned {
        plan_id: plan.plan_id().to_string(),
    }
}

fn view(plan: &LivePlan) -> Result<PlanView, Error> {
    match plan.read() {
        Ok(live) => Ok(PlanView::of(&live.state)),
        Err(Poisoned) => Err(Error::PlanPoisoned {
            plan_id: plan.plan_id().to_string(),
        }),
    }
}
