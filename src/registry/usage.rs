//! What plans hold in memory, about: those of a tenant, and all together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that plans hold.
#[derive(Debug, Default)]
pub struct Usage(AtomicU64);

impl Usage {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn change(&self, from: u64, to: u64) {
        // Wraps as the difference does.
        self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }
}

/// What the plans of each tenant hold. There is an entry for each tenant that ever had a plan here, as long as the process
/// lives.
#[derive(Debug, Default)]
pub(super) struct Usages {
    all: Arc<Usage>,
    tenants: Mutex<HashMap<Arc<str>, Arc<Usage>>>,
}

impl Usages {
    /// What all plans hold.
    pub(super) fn all(&self) -> &Usage {
        &self.all
    }

    /// What the plans of a tenant hold.
    pub(super) fn of(&self, tenant: &str) -> Arc<Usage> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = tenants.get(tenant) {
            return Arc::clone(usage);
        }
        Arc::clone(tenants.entry(tenant.into()).or_default())
    }

    /// A plan's part in both.
    pub(super) fn share(&self, tenant: &str) -> Share {
        Share {
            tenant: self.of(tenant),
            all: Arc::clone(&self.all),
            bytes: AtomicU64::new(0),
        }
    }
}

/// A plan's part in what its tenant's plans hold, and all; over when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    tenant: Arc<Usage>,
    all: Arc<Usage>,
    bytes: AtomicU64,
}

impl Share {
    /// The plan holds so many bytes now.
    pub(super) fn hold(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        for usage in [&self.tenant, &self.all] {
            usage.change(before, bytes);
        }
    }

    /// What the plans of its tenant hold.
    pub(super) fn of_tenant(&self) -> u64 {
        self.tenant.bytes()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Usages;

    #[test]
    fn what_a_plan_holds_is_its_tenants_and_alls_until_it_is_dropped() {
        let usages = Usages::default();
        let held = || {
            (
                usages.all().bytes(),
                usages.of("a").bytes(),
                usages.of("b").bytes(),
            )
        };
        let (one, other) = (usages.share("a"), usages.share("b"));
        one.hold(100);
        other.hold(7);
        assert_eq!(held(), (107, 100, 7));
        one.hold(30);
        assert_eq!(held(), (37, 30, 7));
        drop(one);
        assert_eq!(held(), (7, 0, 7));
    }
}
