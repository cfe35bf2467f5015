//! What tenants may have, and all together: looked at before a plan is registered or records are taken, so that the process
//! refuses before the system ends it.

use super::name::tenant_of;
use super::{Coordinator, Error};
use crate::engine::Spec;
use crate::registry::LivePlan;

impl Coordinator {
    /// Checks that there is room for a plan, of its tenant's and of all.
    pub(super) fn check_quota(&self, spec: &Spec) -> Result<(), Error> {
        let tenant = tenant_of(&spec.plan_id);
        let (plans, tasks) = self.registry.count_of(|name| tenant_of(name) == tenant);
        let (bytes, limits) = (spec.bytes(), &self.limits);
        let of_tenant = self.registry.usage_of(tenant).bytes();
        for (has, what, setting, limit) in [
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
            (
                of_tenant + bytes,
                "bytes in the tenant's plans",
                "tenant_bytes_max",
                limits.tenant_bytes,
            ),
            (
                self.registry.usage().bytes() + bytes,
                "bytes in plans",
                "memory_bytes_max",
                limits.memory_bytes,
            ),
        ] {
            if has > limit {
                return Err(Error::QuotaExceeded {
                    what,
                    setting,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Checks that there is room for records. Those that are under way are taken all the same: as many as there are streams,
    /// a message each.
    pub(super) fn check_memory(&self, plan: &LivePlan) -> Result<(), Error> {
        let limits = &self.limits;
        for (has, what, setting, limit) in [
            (
                plan.bytes_of_tenant(),
                "bytes in the tenant's plans",
                "tenant_bytes_max",
                limits.tenant_bytes,
            ),
            (
                self.registry.usage().bytes(),
                "bytes in plans",
                "memory_bytes_max",
                limits.memory_bytes,
            ),
        ] {
            if has >= limit {
                return Err(Error::QuotaExceeded {
                    what,
                    setting,
                    limit,
                });
            }
        }
        Ok(())
    }
}
