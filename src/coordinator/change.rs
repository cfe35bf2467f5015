//! One change of a plan: decide, append to the journal, apply, answer.
//!
//! A journal may take a while to acknowledge what it has given a place. The next change of the plan is decided meanwhile,
//! over the state as it will be, and follows it in the journal; so changes that come together are acknowledged together.
//! What was not acknowledged is seen by nobody: it is not applied to the state that readers and watchers have, and no
//! answer that shows it leaves. If the journal does not take it after all, it is as if it had never been decided.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{Coordinator, Error, Standing, not_found, poisoned, view};
use crate::engine::{self, Command, Decision, Entry, ProducerRefusal, Receipt};
use crate::journal::{self, Answer};
use crate::registry::{Deciding, LivePlan, Poisoned, TurnHeld};
use crate::telemetry;

/// How often it is decided again, when others append first.
const ATTEMPTS: usize = 16;

impl Coordinator {
    /// Decides, appends, applies. A refusal is an error, after what happened all the same (a deadline) was applied.
    ///
    /// Where others have the journal, too, what they have appended meanwhile is read, and it is decided again.
    pub(super) async fn change(
        &self,
        plan: &Arc<LivePlan>,
        command: &Command<'_>,
    ) -> Result<Changed, Error> {
        if self.shared.is_none() {
            return match self.change_once(plan, command).await {
                Ok((changed, _)) => changed,
                // What had its place was still to be written when the plan was forgotten.
                Err(Error::Journal(journal::Error::NotFound)) => Err(not_found(plan.plan_id())),
                Err(error) => Err(error),
            };
        }
        let mut is_current = false;
        let mut refused = journal::Error::Conflict { at: 0 };
        for _ in 0..ATTEMPTS {
            let before = plan.sequence();
            match self.change_once(plan, command).await {
                Ok((changed, appended)) if appended || is_current => return changed,
                Ok((changed, _)) => {
                    // It was decided that nothing happens, over what may be old.
                    self.catch_up(plan).await?;
                    if plan.sequence() == before {
                        return changed;
                    }
                    is_current = true;
                }
                Err(Error::Journal(error @ journal::Error::Conflict { .. })) => {
                    refused = error;
                    is_current = false;
                    self.read_on(plan).await?;
                }
                Err(Error::Journal(error)) => return Err(self.lost(plan, error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.into())
    }

    /// Decides, appends, applies; answers, too, whether anything was appended. What the answer is if the command was
    /// refused, is the inner error.
    async fn change_once(
        &self,
        plan: &Arc<LivePlan>,
        command: &Command<'_>,
    ) -> Result<(Result<Changed, Error>, bool), Error> {
        let turn = plan.turn().instrument(tracing::trace_span!("turn")).await;
        self.check_not_removed(plan)?;
        let Decided {
            mut answer,
            refused,
            had_ended,
            acknowledged,
        } = self.decide_and_append(plan, command, turn)?;
        let appended = !matches!(
            acknowledged,
            Acknowledged::NothingToDo | Acknowledged::WithOthers { .. }
        );
        match acknowledged {
            Acknowledged::NothingToDo | Acknowledged::Yes => {}
            Acknowledged::WithOthers { losses } => {
                // What is answered shows what others have appended.
                if !plan.wait_for(answer.standing.sequence, losses).await {
                    view(plan)?;
                    self.check_not_removed(plan)?;
                    return Err(match self.shared {
                        Some(_) => journal::Error::Conflict {
                            at: plan.sequence(),
                        },
                        None => {
                            journal::Error::Failed("what was appended before was not taken".into())
                        }
                    }
                    .into());
                }
                self.check_not_removed(plan)?;
            }
            Acknowledged::Later(finished) => {
                finished.await.unwrap_or_else(|_| Err(poisoned(plan)))?;
                self.check_not_removed(plan)?;
            }
        }
        let ended = answer.standing.end.as_ref().filter(|_| !had_ended);
        if let Some(end) = ended {
            telemetry::metrics::plan_ended(end.reason);
            tracing::info!(
                plan.id = &**plan.plan_id(),
                plan.status = answer.standing.status.name(),
                plan.end_reason = end.reason.name(),
                "plan ended"
            );
        }
        recall(plan, &mut answer.receipts)?;
        Ok((refused.map_or(Ok(answer), Err), appended))
    }

    /// Whoever still has a deleted plan is not told that it takes anything: another may have its name by now. Where others
    /// have the journal, too, that says so.
    fn check_not_removed(&self, plan: &LivePlan) -> Result<(), Error> {
        match self.shared {
            None if plan.is_removed() => Err(not_found(plan.plan_id())),
            _ => Ok(()),
        }
    }

    /// What is done of a change while its turn is held.
    fn decide_and_append(
        &self,
        plan: &Arc<LivePlan>,
        command: &Command<'_>,
        turn: TurnHeld,
    ) -> Result<Decided, Error> {
        let mut deciding = turn.deciding();
        let deciding = &mut *deciding;
        let Deciding { documents, ahead } = deciding;
        let (decision, before, had_ended) = {
            let _deciding = tracing::trace_span!("decide").entered();
            let live = plan.read().map_err(|Poisoned| poisoned(plan))?;
            let state = ahead.as_ref().unwrap_or(&live.state);
            let (now, limits) = (self.clock.now(), &self.limits.engine);
            let decision = engine::decide_keeping(state, command, now, limits, documents);
            if decision.entries.is_empty() {
                return Ok(Decided {
                    refused: refused(command, &decision),
                    answer: Changed {
                        receipts: decision.receipts,
                        standing: Standing::of(state),
                        committed: decision.committed,
                    },
                    had_ended: true,
                    acknowledged: match ahead {
                        None => Acknowledged::NothingToDo,
                        Some(_) => Acknowledged::WithOthers {
                            losses: plan.losses(),
                        },
                    },
                });
            }
            (decision, state.sequence(), state.end().is_some())
        };
        let refused = refused(command, &decision);
        let entries: Vec<Arc<Entry>> = decision.entries.into_iter().map(Arc::new).collect();
        let last = before + entries.len() as u64;
        telemetry::traces::brings(plan.plan_id(), before + 1, last);
        let changing = plan.changing();
        let appending = tracing::trace_span!("append");
        let appended = appending.in_scope(|| plan.journal().append(before, &entries));
        let applying = tracing::trace_span!("apply");
        let (standing, acknowledged) = match appended {
            Answer::Ready(Err(error)) => return Err(error.into()),
            Answer::Ready(Ok(())) if ahead.is_none() => {
                drop(appending);
                let applied = applying.in_scope(|| plan.apply(entries, Standing::of));
                let standing = applied.map_err(|Poisoned| poisoned(plan))?;
                (standing, Acknowledged::Yes)
            }
            Answer::Ready(Ok(())) => {
                drop(appending);
                let standing = plan.appended(entries, deciding, Standing::of);
                let standing = standing.map_err(|Poisoned| poisoned(plan))?;
                let applied = applying.in_scope(|| plan.acknowledged(last));
                applied.map_err(|Poisoned| poisoned(plan))?;
                (standing, Acknowledged::Yes)
            }
            Answer::Pending(appended) => {
                let first = Arc::clone(&entries[0]);
                let standing = plan.appended(entries, deciding, Standing::of);
                let standing = standing.map_err(|Poisoned| poisoned(plan))?;
                let (finisher, begun) = (Arc::clone(plan), Instant::now());
                let finished = tokio::spawn(async move {
                    let _changing = changing;
                    let appended = appended.instrument(appending).await;
                    telemetry::metrics::append_answered(begun.elapsed());
                    let finishing = finish(&finisher, &first, last, appended);
                    finishing.instrument(applying).await
                });
                (standing, Acknowledged::Later(finished))
            }
        };
        if let Some(end) = standing.end.as_ref().filter(|_| !had_ended) {
            self.timers
                .add(end.at.plus(plan.spec().retention), plan.plan_id());
        }
        Ok(Decided {
            answer: Changed {
                receipts: decision.receipts,
                standing,
                committed: decision.committed,
            },
            refused,
            had_ended,
            acknowledged,
        })
    }
}

/// What a change answers.
pub(super) struct Changed {
    pub(super) receipts: Vec<Receipt>,
    /// Where the plan stands then.
    pub(super) standing: Standing,
    /// How many records of the command's producer the plan has then.
    pub(super) committed: Option<u64>,
}

/// A change that was decided and appended.
struct Decided {
    /// To be given when all is acknowledged.
    answer: Changed,
    refused: Option<Error>,
    had_ended: bool,
    acknowledged: Acknowledged,
}

/// Whether the journal has acknowledged all that an answer shows.
enum Acknowledged {
    /// Nothing was appended, by others neither.
    NothingToDo,
    Yes,
    /// When it has acknowledged what others have appended, if it loses none of it.
    WithOthers {
        losses: u64,
    },
    /// When this has ended.
    Later(JoinHandle<Result<(), Error>>),
}

/// Applies what the journal has acknowledged, or takes back what it has not taken.
async fn finish(
    plan: &Arc<LivePlan>,
    first: &Arc<Entry>,
    last: u64,
    appended: Result<(), journal::Error>,
) -> Result<(), Error> {
    let done = match &appended {
        Ok(()) => plan.acknowledged(last),
        Err(_) => {
            let turn = plan.turn().await;
            plan.lost(first, &mut turn.deciding())
        }
    };
    done.map_err(|Poisoned| poisoned(plan))?;
    Ok(appended?)
}

/// Completes receipts of records that were taken before, from the plan's history.
fn recall(plan: &LivePlan, receipts: &mut [Receipt]) -> Result<(), Error> {
    if !receipts.iter().any(|receipt| receipt.is_remembered) {
        return Ok(());
    }
    let live = plan.read().map_err(|Poisoned| poisoned(plan))?;
    let event = |sequence: u64| {
        let position = usize::try_from(sequence.checked_sub(1)?).ok()?;
        live.history.get(position).map(|entry| &entry.event)
    };
    let remembered = receipts.iter_mut().filter(|receipt| receipt.is_remembered);
    remembered.for_each(|receipt| receipt.recall(event));
    Ok(())
}

/// Why what is wanted is not done, if it is not.
fn refused(command: &Command<'_>, decision: &Decision) -> Option<Error> {
    let quota = |what, setting, limit| Error::QuotaExceeded {
        what,
        setting,
        limit,
    };
    match (decision.refusal, decision.producer_refusal, command) {
        (Some(refusal), _, Command::Rematch { id, .. } | Command::Discard { id, .. }) => {
            Some(Error::QuarantineRefused { id: *id, refusal })
        }
        (
            _,
            Some(ProducerRefusal::OffsetAhead { committed }),
            Command::SubmitNumbered { first_offset, .. },
        ) => Some(Error::OffsetAhead {
            first_offset: first_offset.unwrap_or_default(),
            committed,
        }),
        (_, Some(ProducerRefusal::TooManyProducers { limit }), _) => Some(quota(
            "producers in the plan",
            "producers_per_plan_max",
            limit,
        )),
        (_, Some(ProducerRefusal::TooManyProducersOfTask { limit }), _) => Some(quota(
            "producers in the plan that are for this task only",
            "producers_per_task_max",
            limit,
        )),
        (_, Some(ProducerRefusal::TooManyNumbered { limit }), _) => Some(quota(
            "records with offsets in the plan",
            "numbered_records_max",
            limit,
        )),
        _ => None,
    }
}
