//! What a tenant may do at a time: how many streams, and how many records a second.
//!
//! What it may have is looked at where plans are: by the coordinator.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::status;
use crate::config::Limits;
use crate::coordinator::Error;

/// Records that a tenant has not used for so long, it may send at once.
const BURST: Duration = Duration::from_secs(1);
/// So many tenants are remembered before it is looked who is still there.
const KNOWN_MIN: usize = 64;

/// The tenants that have something open, or have had a moment ago.
pub(super) struct Tenants {
    streams_max: usize,
    /// 0: there is no limit.
    records_per_second_max: u32,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
    /// With so many, those that are gone are forgotten.
    forget_at: usize,
}

/// What a tenant does at the moment.
pub(super) struct Tenant {
    streams: AtomicUsize,
    /// When the records that it has sent would all have come, had they come as slowly as they may.
    due: Mutex<Instant>,
}

impl Tenants {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            streams_max: limits.tenant_streams_max,
            records_per_second_max: limits.tenant_records_per_second_max,
            known: Mutex::default(),
        }
    }

    fn named(&self, name: &Arc<str>) -> Arc<Tenant> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = known.tenants.get(name) {
            return Arc::clone(tenant);
        }
        if known.tenants.len() >= known.forget_at {
            let now = Instant::now();
            known
                .tenants
                .retain(|_, tenant| Arc::strong_count(tenant) > 1 || *tenant.due() + BURST > now);
            known.forget_at = KNOWN_MIN.max(known.tenants.len() * 2);
        }
        let tenant = Arc::new(Tenant {
            streams: AtomicUsize::new(0),
            due: Mutex::new(Instant::now()),
        });
        known.tenants.insert(Arc::clone(name), Arc::clone(&tenant));
        tenant
    }

    /// A place for one more stream of this tenant.
    ///
    /// # Errors
    /// It has as many as it may.
    pub(super) fn open_stream(&self, tenant: &Arc<str>) -> Result<OpenStream, Status> {
        // Given back also if it is one too many.
        let open = OpenStream(self.named(tenant));
        let before = open.0.streams.fetch_add(1, Ordering::Relaxed);
        if before < self.streams_max {
            return Ok(open);
        }
        Err(status::of(&Error::QuotaExceeded {
            what: "open streams of the tenant",
            setting: "tenant_streams_max",
            limit: self.streams_max as u64,
        }))
    }

    /// How fast this tenant may send records; nothing where everybody may send as many as they can.
    pub(super) fn pace(&self, tenant: &Arc<str>) -> Option<Pace> {
        let records_per_second = self.records_per_second_max;
        (records_per_second > 0).then(|| Pace {
            tenant: self.named(tenant),
            records_per_second,
        })
    }
}

impl Tenant {
    fn due(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a stream; it is given back with this.
pub(super) struct OpenStream(Arc<Tenant>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How fast a tenant may send records, over all its calls.
pub(super) struct Pace {
    tenant: Arc<Tenant>,
    records_per_second: u32,
}

impl Pace {
    /// How long to wait before the next records may come; nothing if they may now.
    pub(super) fn wait(&self) -> Option<Duration> {
        let due = *self.tenant.due();
        let wait = due.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// So many records have come.
    pub(super) fn took(&self, records: usize) {
        let each = Duration::from_secs(1) / self.records_per_second;
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        let mut due = self.tenant.due();
        let earliest = Instant::now().checked_sub(BURST);
        *due = earliest.map_or(*due, |earliest| earliest.max(*due)) + each * records;
    }

    /// Refuses records that may not come yet.
    ///
    /// # Errors
    /// They may not; when they may, is said.
    pub(super) fn check(&self) -> Result<(), Status> {
        match self.wait() {
            None => Ok(()),
            Some(wait) => Err(status::too_fast(self.records_per_second, wait)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn tenants(streams: usize, records_per_second: u32) -> Tenants {
        let mut limits = Config::default().limits;
        limits.tenant_streams_max = streams;
        limits.tenant_records_per_second_max = records_per_second;
        Tenants::new(&limits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_may_come_at_once_and_then_no_more_than_the_time_brings() {
        let tenants = tenants(1, 100);
        let name: Arc<str> = "t".into();
        let pace = tenants.pace(&name).expect("there is a limit");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.wait(), None);
        pace.took(100);
        assert_eq!(pace.wait(), None);
        pace.took(50);
        assert_eq!(pace.wait(), Some(Duration::from_millis(500)));
        // The same tenant, in another call.
        let other = tenants.pace(&name).expect("there is a limit");
        tokio::time::advance(Duration::from_millis(499)).await;
        assert_eq!(other.wait(), Some(Duration::from_millis(1)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(other.wait(), None);
        assert!(
            tenants
                .pace(&"u".into())
                .is_some_and(|pace| pace.wait().is_none())
        );
    }

    #[test]
    fn without_a_limit_there_is_no_pace() {
        assert!(tenants(1, 0).pace(&"t".into()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_who_are_gone_are_forgotten_and_those_who_are_there_are_not() {
        let tenants = tenants(1, 1);
        let here: Arc<str> = "here".into();
        let open = tenants.open_stream(&here).expect("there is a place");
        for nth in 0..10 * KNOWN_MIN {
            tokio::time::advance(BURST).await;
            drop(tenants.open_stream(&format!("{nth}").into()));
        }
        let known = tenants.known.lock().expect("nobody has panicked");
        assert!(known.tenants.len() <= KNOWN_MIN);
        drop(known);
        assert!(tenants.open_stream(&here).is_err());
        drop(open);
        assert!(tenants.open_stream(&here).is_ok());
    }
}
