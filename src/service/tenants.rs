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
use crate::proto::records::RecordsMessage;

/// Records that a tenant has not used for so long, it may send at once.
const BURST: Duration = Duration::from_secs(1);
/// So many tenants are remembered before it is looked who is still there.
const KNOWN_MIN: usize = 64;

/// The tenants that have something open, or have had a moment ago.
pub(super) struct Tenants {
    streams_max: usize,
    plan_streams_max: usize,
    /// 0: there is no limit.
    records_per_second_max: u32,
    records_per_message_max: usize,
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
    plan_streams: AtomicUsize,
    /// When the records that it has sent would all have come, had they come as slowly as they may.
    due: Mutex<Instant>,
    /// Held by the stream that waits for this; the others wait behind it.
    turn: tokio::sync::Mutex<()>,
}

impl Tenants {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            streams_max: limits.tenant_streams_max,
            plan_streams_max: limits.tenant_plan_streams_max,
            records_per_second_max: limits.tenant_records_per_second_max,
            records_per_message_max: limits.records_per_message_max,
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
            plan_streams: AtomicUsize::new(0),
            due: Mutex::new(Instant::now()),
            turn: tokio::sync::Mutex::default(),
        });
        known.tenants.insert(Arc::clone(name), Arc::clone(&tenant));
        tenant
    }

    /// A place for one more stream of this tenant.
    ///
    /// # Errors
    /// It has as many as it may.
    pub(super) fn open_stream(&self, tenant: &Arc<str>) -> Result<OpenStream, Status> {
        let (what, setting) = ("open streams of the tenant", "tenant_streams_max");
        self.open(tenant, |of| &of.streams, what, setting, self.streams_max)
    }

    /// A place for one more plan stream of this tenant, beside its place among all streams.
    ///
    /// # Errors
    /// It has as many as it may.
    pub(super) fn open_plan_stream(&self, tenant: &Arc<str>) -> Result<OpenStream, Status> {
        let (what, setting) = ("plan streams of the tenant", "tenant_plan_streams_max");
        let most = self.plan_streams_max;
        self.open(tenant, |of| &of.plan_streams, what, setting, most)
    }

    fn open(
        &self,
        tenant: &Arc<str>,
        open: fn(&Tenant) -> &AtomicUsize,
        what: &'static str,
        setting: &'static str,
        most: usize,
    ) -> Result<OpenStream, Status> {
        let tenant = self.named(tenant);
        let before = open(&tenant).fetch_add(1, Ordering::Relaxed);
        // Given back also if it is one too many.
        let place = OpenStream { tenant, open };
        if before < most {
            return Ok(place);
        }
        Err(status::of(&Error::QuotaExceeded {
            what,
            setting,
            limit: most as u64,
        }))
    }

    /// How fast this tenant may send records; nothing where everybody may send as many as they can.
    pub(super) fn pace(&self, tenant: &Arc<str>) -> Option<Pace> {
        let records_per_second = self.records_per_second_max;
        (records_per_second > 0).then(|| Pace {
            tenant: self.named(tenant),
            records_per_second,
            records_per_message_max: self.records_per_message_max,
        })
    }
}

impl Tenant {
    fn due(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a stream; it is given back with this.
pub(super) struct OpenStream {
    tenant: Arc<Tenant>,
    /// Those that it is one of.
    open: fn(&Tenant) -> &AtomicUsize,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        (self.open)(&self.tenant).fetch_sub(1, Ordering::Relaxed);
    }
}

/// How fast a tenant may send records, over all its calls.
pub(super) struct Pace {
    tenant: Arc<Tenant>,
    records_per_second: u32,
    records_per_message_max: usize,
}

impl Pace {
    /// Waits until the first of these messages may come, after the streams that wait already, and takes those that may come
    /// then. Answers how many those are.
    pub(super) async fn wait(&self, messages: &[RecordsMessage]) -> usize {
        let _turn = self.tenant.turn.lock().await;
        loop {
            match self.take(messages) {
                Ok(taken) => return taken,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Takes a message by itself.
    ///
    /// # Errors
    /// It may not come yet; when it may, is said.
    pub(super) fn check(&self, message: &RecordsMessage) -> Result<(), Status> {
        match self.take(std::slice::from_ref(message)) {
            Ok(_) => Ok(()),
            Err(wait) => Err(status::too_fast(self.records_per_second, wait)),
        }
    }

    /// Takes the first of these messages, and as many more as may come with it, or answers when the first may come. Only that
    /// one is taken ahead of its time, so nobody waits for more than it may hold.
    fn take(&self, messages: &[RecordsMessage]) -> Result<usize, Duration> {
        let each = Duration::from_secs(1) / self.records_per_second;
        let now = Instant::now();
        let mut due = self.tenant.due();
        let wait = due.saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        let earliest = now.checked_sub(BURST);
        *due = earliest.map_or(*due, |earliest| earliest.max(*due));
        let mut taken = 0;
        for message in messages {
            // One with more is refused.
            let records = message.count().min(self.records_per_message_max);
            let then = *due + each * u32::try_from(records).unwrap_or(u32::MAX);
            if taken > 0 && then > now {
                break;
            }
            *due = then;
            taken += 1;
        }
        Ok(taken)
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

    /// A message of so many records, with nothing in them.
    fn message(records: usize) -> RecordsMessage {
        RecordsMessage::of([0x12, 0].repeat(records).into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_may_come_at_once_and_then_no_more_than_the_time_brings() {
        let tenants = tenants(1, 100);
        let name: Arc<str> = "t".into();
        let pace = tenants.pace(&name).expect("there is a limit");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.take(&[60, 40, 1].map(message)), Ok(2));
        assert_eq!(pace.take(&[50, 1].map(message)), Ok(1));
        let wait = |milliseconds| Err(Duration::from_millis(milliseconds));
        assert_eq!(pace.take(&[message(1)]), wait(500));
        // The same tenant, in another call.
        let other = tenants.pace(&name).expect("there is a limit");
        tokio::time::advance(Duration::from_millis(499)).await;
        assert_eq!(other.take(&[message(1)]), wait(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(other.take(&[message(1)]), Ok(1));
        let stranger = tenants.pace(&"u".into()).expect("there is a limit");
        assert_eq!(stranger.take(&[message(1)]), Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_streams_wait_nobody_is_told_to_wait_longer_than_a_message_takes() {
        let tenants = Arc::new(tenants(100, 100));
        let name: Arc<str> = "t".into();
        let pace = tenants.pace(&name).expect("there is a limit");
        let most = Config::default().limits.records_per_message_max;
        for _ in 0..60 {
            let pace = tenants.pace(&name).expect("there is a limit");
            // More than a message may have, so that it is not for nothing that it is refused.
            let messages = [message(most + 1), message(most)];
            tokio::spawn(async move { pace.wait(&messages).await });
        }
        let began = Instant::now();
        let takes = Duration::from_secs(10);
        assert_eq!(Duration::from_secs(1) / 100 * most as u32, takes);
        for nth in 1..=60 {
            // Each stream has its turn, a message at a time.
            tokio::time::sleep_until(began + takes * nth - Duration::from_secs(1)).await;
            assert_eq!(pace.take(&[message(1)]), Err(Duration::from_secs(1)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pace.take(&[message(1)]), Ok(1));
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
