//! The name of a plan among those of all tenants: what its tenant calls it, after the tenant's name and a NUL, which is in
//! neither. The empty tenant's plans have no such beginning.

use std::borrow::Cow;

/// The name of a tenant's plan.
#[must_use]
pub fn plan_name<'n>(tenant: &str, plan_id: &'n str) -> Cow<'n, str> {
    if tenant.is_empty() {
        Cow::Borrowed(plan_id)
    } else {
        Cow::Owned(format!("{tenant}\0{plan_id}"))
    }
}

/// What its tenant calls a plan of this name.
#[must_use]
pub fn plan_id_of(name: &str) -> &str {
    name.split_once('\0').map_or(name, |(_, plan_id)| plan_id)
}

/// Whose plan it is.
#[must_use]
pub fn tenant_of(name: &str) -> &str {
    name.split_once('\0').map_or("", |(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use super::{plan_id_of, plan_name, tenant_of};

    #[test]
    fn a_name_tells_the_tenant_and_what_it_calls_the_plan() {
        for (tenant, plan_id, name) in [("", "a/b", "a/b"), ("a", "b", "a\0b"), ("t", "", "t\0")] {
            assert_eq!(plan_name(tenant, plan_id), name);
            assert_eq!((tenant_of(name), plan_id_of(name)), (tenant, plan_id));
        }
    }
}
