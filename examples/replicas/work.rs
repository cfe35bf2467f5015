//! The plans that are worked on: their submitters, their watchers, and what must have come of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::client;
use crate::compare::{self, Ending};
use crate::expected::{Draw, Expected};
use crate::shown::Shown;
use crate::submitter::{Applied, Released, Submitter};
use crate::tally::{Outcome, Tally};
use crate::watcher::Watcher;

pub const PLANS: u64 = 4;
/// Of each plan.
pub const SUBMITTERS: u64 = 3;
/// Records for each task, on average.
const RECORDS_PER_TASK: u64 = 10;

pub struct Work {
    addresses: Arc<[String]>,
    tally: Arc<Tally>,
    plans: Vec<Plan>,
    submitting: JoinSet<Outcome<(usize, Vec<Applied>)>>,
    watching: JoinSet<Outcome<(usize, Vec<u64>)>>,
}

struct Plan {
    shown: Arc<Shown>,
    /// What every task has at last.
    finally: BTreeMap<String, u64>,
    applied: Vec<Applied>,
    seen: Vec<Vec<u64>>,
    /// What the first replica that was asked shows.
    ending: Option<Ending>,
}

impl Work {
    /// Registers the plans, and begins to send and to watch: one watcher of each plan for each replica.
    pub async fn start(
        records: u64,
        seed: u64,
        addresses: &Arc<[String]>,
        tally: &Arc<Tally>,
        released: &Released,
    ) -> Outcome<Self> {
        let mut work = Self {
            addresses: Arc::clone(addresses),
            tally: Arc::clone(tally),
            plans: Vec::new(),
            submitting: JoinSet::new(),
            watching: JoinSet::new(),
        };
        let each = records.div_ceil(PLANS * SUBMITTERS);
        let tasks = (each * SUBMITTERS / RECORDS_PER_TASK).max(SUBMITTERS);
        for nth in 0..PLANS {
            let plan_id = format!("plan {nth}");
            client::plan(addresses, &plan_id, tasks).await?;
            work.start_plan(usize::try_from(nth)?, &plan_id, seed, tasks, each, released);
        }
        Ok(work)
    }

    fn start_plan(
        &mut self,
        nth: usize,
        plan_id: &str,
        seed: u64,
        tasks: u64,
        each: u64,
        released: &Released,
    ) {
        let shown = Arc::new(Shown::of(plan_id));
        let mut finally = BTreeMap::new();
        let seed = Draw::of(seed, nth as u64).next();
        for own in 0..SUBMITTERS {
            let expected = Expected::of(seed, own, SUBMITTERS, tasks, each);
            finally.extend(expected.finally());
            let submitter = Submitter {
                plan_id: plan_id.to_owned(),
                expected,
                addresses: Arc::clone(&self.addresses),
                tally: Arc::clone(&self.tally),
                released: released.clone(),
            };
            self.submitting
                .spawn(async move { Ok((nth, submitter.run().await?)) });
        }
        for own in 0..self.addresses.len() {
            let watcher = Watcher {
                nth: own,
                shown: Arc::clone(&shown),
                addresses: Arc::clone(&self.addresses),
                tally: Arc::clone(&self.tally),
                draw: Draw::of(seed, own as u64 + SUBMITTERS),
            };
            self.watching
                .spawn(async move { Ok((nth, watcher.run().await?)) });
        }
        self.plans.push(Plan {
            shown,
            finally,
            applied: Vec::new(),
            seen: Vec::new(),
            ending: None,
        });
    }

    /// Waits until every record has its receipt.
    pub async fn submitted(&mut self) -> Outcome<()> {
        while let Some(ended) = self.submitting.join_next().await {
            let (nth, applied) = ended??;
            self.plans[nth].applied.extend(applied);
        }
        Ok(())
    }

    /// Ends the plans.
    pub async fn seal(&self) -> Outcome<()> {
        for plan in &self.plans {
            client::seal(&self.addresses, plan.shown.plan_id()).await?;
        }
        Ok(())
    }

    /// Waits until every watcher has seen its plan's end.
    pub async fn watched(&mut self) -> Outcome<()> {
        while let Some(ended) = self.watching.join_next().await {
            let (nth, seen) = ended??;
            self.plans[nth].seen.push(seen);
        }
        Ok(())
    }

    /// Compares what a replica shows with what the first one showed, and that with receipts and watchers.
    pub async fn compare(&mut self, replica: usize) -> Outcome<()> {
        let (addresses, tally) = (Arc::clone(&self.addresses), Arc::clone(&self.tally));
        for plan in &mut self.plans {
            let ending = compare::ending(&addresses, replica, &plan.shown, &tally).await?;
            let plan_id = plan.shown.plan_id();
            if let Some(first) = &plan.ending {
                first.is_shown_by(replica, &ending, plan_id, &tally);
                continue;
            }
            ending.is_of(&plan.applied, &plan.finally, plan_id, &tally);
            for (nth, seen) in plan.seen.iter().enumerate() {
                ending.was_seen(seen, &format!("a watcher of {plan_id} ({nth})"), &tally);
            }
            if plan.shown.sequences() != ending.results.keys().copied().collect::<Vec<_>>() {
                tally.wrong(format_args!(
                    "{plan_id}: something was shown that is not there"
                ));
            }
            plan.ending = Some(ending);
        }
        Ok(())
    }
}
