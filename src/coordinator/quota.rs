//! What tenants may have, and all together: looked at before a plan is registered or records are taken, so that the process
//! refuses before the system ends it.

use super::name::tenant_of;
use super::{Coordinator, Error};
use crate::engine::Spec;
use crate::registry::LivePlan;

/// How much there would be of what, and the limit that a setting puts on it.
type Quota = (u64, &'static str, &'static str, u64);

impl Coordinator {
    /// Checks that there is room for a plan, of its tenant's and of all.
    pub(super) fn check_quota(&self, spec: &Spec) -> Result<(), Error> {
        let tenant = tenant_of(&spec.plan_id);
        let (plans, tasks) = self.registry.count_of(|name| tenant_of(name) == tenant);
        let of_tenant = self.registry.usage_of(tenant).bytes();
        let limits = &self.limits;
        hold([
            (
                plans + 1,
                "live plans of the tenant",
                "tenant_plans_max",
                limits.tenant_plans,
            ),
            (
                tasks + spec.tasks.len() as u64,
                "tasks in the tenant's live plans",
                "tenant_tasks_max",
                limits.tenant_tasks,
            ),
        ])?;
        hold(self.quotas_of_bytes(of_tenant, spec.bytes()))
    }

    /// Checks that there is room for records. Those that are under way are taken all the same: as many as there are streams,
    /// a message each.
    pub(super) fn check_memory(&self, plan: &LivePlan) -> Result<(), Error> {
        hold(self.quotas_of_bytes(plan.bytes_of_tenant(), 1))
    }

    fn quotas_of_bytes(&self, of_tenant: u64, more: u64) -> [Quota; 2] {
        [
            (
                of_tenant.saturating_add(more),
                "bytes in the tenant's plans",
                "tenant_bytes_max",
                self.limits.tenant_bytes,
            ),
            (
                self.registry.usage().bytes().saturating_add(more),
                "bytes in plans",
                "memory_bytes_max",
                self.limits.memory_bytes,
            ),
        ]
    }

    /// That as many plans are live as may be.
    pub(super) fn plans_are_full(&self) -> Error {
        Error::QuotaExceeded {
            what: "live plans",
            setting: "plans_max",
            limit: self.registry.plans_max() as u64,
        }
    }
}

fn hold<const N: usize>(quotas: [Quota; N]) -> Result<(), Error> {
    match quotas.into_iter().find(|(has, _, _, limit)| has > limit) {
        None => Ok(()),
        Some((_, what, setting, limit)) => Err(Error::QuotaExceeded {
            what,
            setting,
            limit,
        }),
    }
}
