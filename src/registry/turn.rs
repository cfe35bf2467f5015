//! The right to decide for a plan, and what decisions are made with.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::engine::{Documents, State};

/// The right to decide for a plan; asynchronous, because a journal's append happens under it.
///
/// Whoever comes first when it is free gets it, waiting or not: a lock that is handed to the longest waiter stays taken
/// until that one is scheduled, and with many streams at one plan that is most of the time.
#[derive(Debug, Default)]
pub(super) struct Turn {
    taken: AtomicBool,
    given_back: Notify,
    /// Nobody waits for it who has the turn.
    deciding: Mutex<Deciding>,
}

/// What decisions are made with.
#[derive(Debug, Default)]
pub struct Deciding {
    /// Where the plan keeps its documents.
    pub documents: Documents,
    /// The plan's state with all that was appended, once anything was that the journal did not acknowledge at once.
    pub ahead: Option<State>,
}

/// How often to look again before going to sleep: with a journal in memory, a turn is over in about a microsecond.
const TURN_SPINS: usize = 100;

impl Turn {
    pub(super) async fn take(self: Arc<Self>) -> TurnHeld {
        for _ in 0..TURN_SPINS {
            if self.try_take() {
                return TurnHeld(self);
            }
            std::hint::spin_loop();
        }
        loop {
            let mut given_back = pin!(self.given_back.notified());
            // From here on, no giving back is missed.
            given_back.as_mut().enable();
            if self.try_take() {
                break;
            }
            given_back.await;
        }
        TurnHeld(self)
    }

    fn try_take(&self) -> bool {
        !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire)
    }
}

/// A turn; given back when dropped.
#[derive(Debug)]
pub struct TurnHeld(Arc<Turn>);

impl TurnHeld {
    /// What decisions are made with.
    pub fn deciding(&self) -> MutexGuard<'_, Deciding> {
        // A plan for which a decision panicked is not decided for again; and where none was appended, nothing has changed.
        let deciding = self.0.deciding.lock();
        deciding.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TurnHeld {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
        self.0.given_back.notify_one();
    }
}
