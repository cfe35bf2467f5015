//! How long the client commands go on when the coordinator is away: it may be started again, or on another machine.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Without an answer for so long, the coordinator counts as lost.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// The first wait before a call is made again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is left of it.
#[derive(Default)]
pub(super) struct Patience {
    /// When the first call failed after the last answer.
    since: Option<Instant>,
    failures: u32,
}

impl Patience {
    /// The coordinator has answered: what failed before no longer counts.
    pub(super) fn renew(&mut self) {
        *self = Self::default();
    }

    /// How long to wait before a call that failed is made again; nothing if that is in vain.
    pub(super) fn wait_after(&mut self, status: &Status) -> Option<Duration> {
        let wait = (BACKOFF.0 * 2u32.saturating_pow(self.failures)).min(BACKOFF.1);
        self.failures += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let passing = is_passing(status) && since.elapsed() < AWAY_MAX;
        passing.then(|| wait.max(told(status).unwrap_or_default()))
    }
}

/// When the coordinator says that the call may be made again.
fn told(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info()?.retry_delay
}

/// Whether the same call may succeed later: the server says so, or is away, or the connection broke. An error that is not
/// the server's own has no details; then it comes from the transport, which calls some breaks internal.
pub(super) fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown => true,
        Code::Internal => status.get_error_details().error_info().is_none(),
        _ => told(status).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn milliseconds(waits: impl IntoIterator<Item = Option<Duration>>) -> Vec<Option<u128>> {
        let waits = waits.into_iter();
        waits.map(|wait| Some(wait?.as_millis())).collect()
    }

    #[test]
    fn the_waits_double_up_to_5_s_and_begin_anew_after_an_answer() {
        let away = Status::unavailable("away");
        let mut patience = Patience::default();
        let waits: Vec<_> = (0..8).map(|_| patience.wait_after(&away)).collect();
        assert_eq!(
            milliseconds(waits),
            [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].map(Some)
        );
        patience.renew();
        assert_eq!(milliseconds([patience.wait_after(&away)]), [Some(100)]);
    }

    #[test]
    fn what_says_when_to_try_again_is_tried_again_no_sooner_whatever_its_code() {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_millis(700)));
        let mut patience = Patience::default();
        let mut wait = |code, details| {
            let status = Status::with_error_details(code, "why", details);
            milliseconds([patience.wait_after(&status)])
        };
        assert_eq!(wait(Code::Aborted, details.clone()), [Some(700)]);
        assert_eq!(wait(Code::ResourceExhausted, details), [Some(700)]);
        assert_eq!(wait(Code::Aborted, ErrorDetails::new()), [None]);
        assert_eq!(wait(Code::NotFound, ErrorDetails::new()), [None]);
    }

    #[test]
    fn an_internal_error_is_the_transports_unless_it_says_that_it_is_the_servers() {
        let ours = ErrorDetails::with_error_info("INTERNAL", "fanout.v1", []);
        let broken = Status::internal("h2 protocol error: http2 error");
        assert!(is_passing(&broken));
        assert!(!is_passing(&Status::with_error_details(
            Code::Internal,
            "a defect",
            ours
        )));
    }
}
