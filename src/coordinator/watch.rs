//! Watching: a cursor into a plan's history. Nothing is queued for a watcher, so a slow one costs nothing and loses
//! nothing; it reads on from where it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::{Coordinator, Error, PlanView, Standing};
use crate::engine::{Entry, Held, Spec};
use crate::registry::{Head, LivePlan, Part, Poisoned, WatcherPlace};

/// Events in one part of the history, and bytes of their documents after which it ends. Parts of what is long past are
/// the same for all watchers, wherever they began.
const PART_MAX: (u64, usize) = (256, 64 << 10);

/// A watcher.
pub struct Watch {
    plan: Arc<LivePlan>,
    head: Receiver<Head>,
    after: u64,
    place: WatcherPlace,
    /// When its peer has heard nothing for as long as it may; nothing if it has just heard something.
    quiet_until: Option<Instant>,
}

/// Events that follow each other.
#[derive(Debug)]
pub struct Entries {
    after: u64,
    last: u64,
}

impl Entries {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.last - self.after).unwrap_or(usize::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last == self.after
    }

    /// The event before the first.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }
}

/// Appends what watchers are shown of an event, with or without its document.
pub type Show = fn(&mut BytesMut, &Spec, &Entry, bool);

/// What a watcher sees next.
#[derive(Debug)]
pub enum Next {
    /// Events, in order.
    Entries(Entries),
    /// Nothing was shown for a while; the plan may be further than the watcher.
    Quiet(Standing),
    /// The plan has ended, and the watcher has seen everything up to there.
    Ended(Standing),
    /// The plan was deleted or has expired.
    Removed,
}

/// The position after a sequence of a plan, as text. It names the plan's creation, too, so that a cursor of an earlier
/// plan of the same name is not taken for one of this.
#[must_use]
pub fn cursor(spec: &Spec, sequence: u64) -> String {
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
    pub async fn watch(&self, plan_id: &str, after: &str) -> Result<Watch, Error> {
        let plan = self.current(plan_id).await?;
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
        place.taken(sequence);
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
            place,
            quiet_until: None,
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
        self.place.taken(self.after);
        Ok((view, held))
    }

    /// Waits for what comes next; at most `quiet` for nothing that is shown. What was handed out has been shown before.
    ///
    /// # Errors
    /// The plan is unusable.
    pub async fn next(&mut self, quiet: Duration) -> Result<Next, Error> {
        let quiet_until = Instant::now() + quiet;
        let quiet_until = *self.quiet_until.get_or_insert(quiet_until);
        loop {
            // Asked first: events of which nothing is shown may come all the time.
            if quiet_until <= Instant::now() {
                self.quiet_until = None;
                let live = self.plan.read();
                let live = live.map_err(|Poisoned| super::poisoned(&self.plan))?;
                return Ok(Next::Quiet(Standing::of(&live.state)));
            }
            let removed = self.head.borrow_and_update().removed;
            if let Some(next) = self.read()? {
                return Ok(next);
            }
            if removed {
                return Ok(Next::Removed);
            }
            match tokio::time::timeout_at(quiet_until, self.head.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return Ok(Next::Removed),
            }
        }
    }

    /// What is there already.
    fn read(&mut self) -> Result<Option<Next>, Error> {
        let plan = Arc::clone(&self.plan);
        let end = {
            let live = plan.read().map_err(|Poisoned| super::poisoned(&plan))?;
            let end = live.state.end().map(|end| end.sequence);
            if end.is_some_and(|end| end <= self.after) {
                return Ok(Some(Next::Ended(Standing::of(&live.state))));
            }
            // What comes after the end (late records, set aside) is not for watchers.
            end.unwrap_or(live.state.sequence())
        };
        let after = self.after;
        self.after = end.min((after / PART_MAX.0 + 1) * PART_MAX.0);
        let last = self.after;
        Ok((after < last).then_some(Next::Entries(Entries { after, last })))
    }

    /// What is shown of the first of these events, which are taken out; at least of one. All watchers of a plan are shown
    /// the same but for the documents, so it is made once.
    ///
    /// # Errors
    /// The plan is unusable.
    pub fn frames(
        &mut self,
        entries: &mut Entries,
        documents: bool,
        show: Show,
    ) -> Result<Bytes, Error> {
        let Entries { after, last } = *entries;
        let make = || self.part(after, last, documents, show);
        let part = self.plan.parts().after(after, documents, make)?;
        let frames = part.frames_between(after, last);
        entries.after = part.last().min(last);
        self.place.taken(entries.after);
        if !frames.is_empty() {
            self.quiet_until = None;
        }
        Ok(frames)
    }

    fn part(&self, after: u64, last: u64, documents: bool, show: Show) -> Result<Part, Error> {
        let at = |sequence: u64| usize::try_from(sequence).unwrap_or(usize::MAX);
        let entries = {
            let live = self.plan.read();
            let live = live.map_err(|Poisoned| super::poisoned(&self.plan))?;
            let entries = live.history.get(at(after)..at(last));
            entries.unwrap_or_default().to_vec()
        };
        let mut frames = BytesMut::new();
        let mut ends = Vec::with_capacity(entries.len());
        for entry in &entries {
            if frames.len() >= PART_MAX.1 {
                break;
            }
            show(&mut frames, self.plan.spec(), entry, documents);
            ends.push(frames.len());
        }
        Ok(Part {
            after,
            frames: frames.freeze(),
            ends,
        })
    }
}
