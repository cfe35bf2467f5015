//! The time, as commands carry it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::engine::Timestamp;

/// Wall time that runs with the runtime's clock: it never goes back while the process lives, and stands still where a
/// test has paused that clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that shows the system's time now.
    #[must_use]
    pub fn system() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started_at: Timestamp::default().plus(since_epoch),
            started: Instant::now(),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.started_at.plus(self.started.elapsed())
    }

    /// How long it is until then; zero if that has passed.
    #[must_use]
    pub fn until(&self, then: Timestamp) -> Duration {
        Duration::from_millis(then.0.saturating_sub(self.now().0))
    }
}
