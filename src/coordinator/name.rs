//! The name of a plan among those of all tenants: what its tenant calls it, after the tenant's name and a NUL, which is in
//! neither. The empty tenant's plans have no such beginning. Request ids have names of the same kind.

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

/// The name of a tenant's request id. Those who may do something to one plan only have ids of their own, so that they neither
/// learn of others' nor take them first.
#[must_use]
pub fn request_name(tenant: &str, bound_to: Option<&str>, request_id: &str) -> String {
    match bound_to {
        Some(plan_id) => format!("{tenant}\0{plan_id}\0{request_id}"),
        None => plan_name(tenant, request_id).into_owned(),
    }
}

/// What its tenant calls a request id of this name.
#[must_use]
pub fn request_id_of(name: &str) -> &str {
    name.rsplit_once('\0')
        .map_or(name, |(_, request_id)| request_id)
}

#[cfg(test)]
mod tests {
    use super::{plan_id_of, plan_name, request_id_of, request_name, tenant_of};

    #[test]
    fn request_ids_of_those_who_are_bound_to_a_plan_are_no_others() {
        let all = [
            ("", None, "r"),
            ("", Some("p"), "r"),
            ("", Some("q"), "r"),
            ("p", None, "r"),
            ("p", Some("p"), "r"),
        ];
        let names = all.map(|(tenant, bound_to, id)| request_name(tenant, bound_to, id));
        assert_eq!(names, ["r", "\0p\0r", "\0q\0r", "p\0r", "p\0p\0r"]);
        for (name, (tenant, _, id)) in names.iter().zip(all) {
            assert_eq!((tenant_of(name), request_id_of(name)), (tenant, id));
        }
    }

    #[test]
    fn a_name_tells_the_tenant_and_what_it_calls_the_plan() {
        for (tenant, plan_id, name) in [("", "a/b", "a/b"), ("a", "b", "a\0b"), ("t", "", "t\0")] {
            assert_eq!(plan_name(tenant, plan_id), name);
            assert_eq!((tenant_of(name), plan_id_of(name)), (tenant, plan_id));
        }
    }
}
