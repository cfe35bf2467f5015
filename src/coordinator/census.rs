//! How many of what there is: looked at when somebody asks for metrics, so that changes cost nothing more.

use super::{Coordinator, Standing, view};
use crate::engine::PlanStatus;
use crate::telemetry::Census;

impl Coordinator {
    /// What the plans come to that are live here, or were read here and have not changed since. Those that an internal error
    /// made unusable are left out.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for plan in self.registry.all() {
            let Ok(view) = view(&plan) else { continue };
            count(&mut census, &view.standing);
            census.appends_waiting += plan.appends_waiting() as u64;
            let watchers = plan.watchers();
            census.watchers += watchers.count() as u64;
            let taken = watchers.furthest_behind();
            let lag = taken.map(|taken| view.standing.sequence.saturating_sub(taken));
            census.watch_lag = census.watch_lag.max(lag.unwrap_or_default());
        }
        for standing in self.let_go_standings() {
            count(&mut census, &standing);
        }
        census
    }
}

/// Counts a plan that stands so.
fn count(census: &mut Census, standing: &Standing) {
    let counts = &standing.counts;
    match standing.status {
        PlanStatus::Incomplete => census.incomplete_plans += 1,
        PlanStatus::Completed => census.completed_plans += 1,
        PlanStatus::Failed => census.failed_plans += 1,
    }
    census.successful_tasks += counts.successful;
    census.failed_tasks += counts.failed;
    // Of an ended plan nothing is awaited any more.
    if standing.status == PlanStatus::Incomplete {
        census.running_tasks += counts.running;
        census.waiting_tasks += counts.missing.saturating_sub(counts.running);
    }
    census.quarantined_records += counts.quarantined;
}
