//! Watching: a cursor into a plan's history. Nothing is queued for a watcher, so a slow one costs nothing and loses
//! nothing; it reads on from where it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;

use super::{Coordinator, Error, PlanView, Standing};
use crate::engine::{Entry, Held, Spec};
use crate::registry::{Head, LivePlan, Poisoned, WatcherPlace};

/// Events read from the history at a time.
const ENTRIES_AT_A_TIME: usize = 256;

/// A watcher.
pub struct Watch {
    plan: Arc<LivePlan>,
    head: Receiver<Head>,
    after: u64,
    _place: WatcherPlace,
}

/// What a watcher sees next.
#[derive(Debug)]
pub enum Next {
    /// Events, in order.
    Entries(Vec<Arc<Entry>>),
    /// Nothing happened for a while.
    Quiet(Standing),
    /// The plan has ended, and the watcher has seen everything up to there.
    Ended(Standing),
    /// The plan was deleted or has expired.
    Removed,
}

/// The position after a sequence of a plan, as text. It names the plan's creation, too, so that a cursor of an earlier
/// plan of the same name is not taken for one of this.
pub(super) fn cursor(spec: &Spec, sequence: u64) -> String {
    format!("{:x}-{}.{sequence}", spec.created_at.0, &spec.digest[..8])
}

/// Reads a cursor of this plan.
fn read_cursor(spec: &Spec, text: &str) -> Option<u64> {
    let (_, sequence) = text.rsplit_once('.')?;
    let sequence = sequence.parse().ok()?;
    (cursor(spec, sequence) == text).then_some(sequence)
}

impl Coordinator {
    /// Begins to watch after a cursor; from the beginning if it is empty.
    ///
    /// # Errors
    /// There is no such plan, the cursor is not one of it, or it has as many watchers as it may.
    pub fn watch(&self, plan_id: &str, after: &str) -> Result<Watch, Error> {
        let plan = self.plan(plan_id)?;
        let most = self.limits.watchers_per_plan;
        let place = plan.take_watcher_place(most).ok_or(Error::QuotaExceeded {
            what: "watchers of this plan",
            setting: "watchers_per_plan_max",
            limit: most as u64,
        })?;
        let sequence = match after {
            "" => 0,
            text => read_cursor(plan.spec(), text).ok_or_else(|| Error::Invalid {
                field: "after".into(),
                problem: "is not a cursor of this plan".into(),
                reason: "INVALID_CURSOR",
                limit: None,
            })?,
        };
        let head = plan.follow();
        let at = head.borrow().sequence;
        if sequence > at {
            return Err(Error::CursorAhead {
                cursor: sequence,
                sequence: at,
            });
        }
        Ok(Watch {
            plan,
            head,
            after: sequence,
            _place: place,
        })
    }
}

impl Watch {
    /// What the plan is.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        self.plan.spec()
    }

    /// Sequence of the last event that was handed out, or that the watch began after.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Position after what was seen so far.
    #[must_use]
    pub fn cursor(&self, sequence: u64) -> String {
        cursor(self.plan.spec(), sequence)
    }

    /// Skips to now, and answers what there is now.
    ///
    /// # Errors
    /// The plan is unusable.
    pub fn snapshot(&mut self) -> Result<(PlanView, Vec<Arc<Held>>), Error> {
        let plan = Arc::clone(&self.plan);
        let live = plan
            .read()
            .map_err(|Poisoned| super::poisoned(&self.plan))?;
        let view = PlanView::of(&live.state);
        let tasks = 0..view.spec.tasks.len();
        let held = tasks
            .filter_map(|task| live.state.held(task).cloned())
            .collect();
        self.after = view.standing.sequence;
        Ok((view, held))
    }

    /// Waits for what comes next; at most `quiet` for nothing.
    ///
    /// # Errors
    /// The plan is unusable.
    pub async fn next(&mut self, quiet: Duration) -> Result<Next, Error> {
        let quiet_until = tokio::time::Instant::now() + quiet;
        loop {
            let removed = self.head.borrow_and_update().removed;
            if let Some(next) = self.read()? {
                return Ok(next);
            }
            if removed {
                return Ok(Next::Removed);
            }
            match tokio::time::timeout_at(quiet_until, self.head.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(Next::Removed),
                Err(_) => {
                    let live = self
                        .plan
                        .read()
                        .map_err(|Poisoned| super::poisoned(&self.plan))?;
                    return Ok(Next::Quiet(Standing::of(&live.state)));
                }
            }
        }
    }

    /// What is there already.
    fn read(&mut self) -> Result<Option<Next>, Error> {
        let plan = Arc::clone(&self.plan);
        let live = plan
            .read()
            .map_err(|Poisoned| super::poisoned(&self.plan))?;
        let end = live.state.end().map(|end| end.sequence);
        if end.is_some_and(|end| end <= self.after) {
            return Ok(Some(Next::Ended(Standing::of(&live.state))));
        }
        let at = |sequence: u64| usize::try_from(sequence).unwrap_or(usize::MAX);
        // What comes after the end (late records, set aside) is not for watchers.
        let last = at(end.unwrap_or(live.state.sequence()))
            .min(at(self.after).saturating_add(ENTRIES_AT_A_TIME));
        let entries = live
            .history
            .get(at(self.after)..last)
            .unwrap_or_default()
            .to_vec();
        self.after += entries.len() as u64;
        Ok((!entries.is_empty()).then_some(Next::Entries(entries)))
    }
}
