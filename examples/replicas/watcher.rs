//! A watcher that goes from replica to replica with its cursor, and sees every event once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::proto::WatchPlanRequest;
use fanout::proto::watch_plan_response::Frame;
use tonic::Status;

use crate::client::{AGAIN_AFTER, PATIENCE, connect, soon};
use crate::expected::Draw;
use crate::shown::Shown;
use crate::tally::{Outcome, Tally};

/// A replica that has nothing to say says so, so often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Frames from one replica before it goes to another one, on average.
const STAY: u64 = 5_000;

pub struct Watcher {
    pub nth: usize,
    pub shown: Arc<Shown>,
    pub addresses: Arc<[String]>,
    pub tally: Arc<Tally>,
    pub draw: Draw,
}

impl Watcher {
    /// Follows the plan until it ends. Answers which results it saw.
    pub async fn run(mut self) -> Outcome<Vec<u64>> {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        let mut at = self.nth;
        let mut since = (Instant::now(), String::new());
        loop {
            if since.1 != cursor {
                since = (Instant::now(), cursor.clone());
            }
            at = (at + 1) % self.addresses.len();
            match self.follow(at, &mut cursor, &mut seen).await {
                Ok(true) => return Ok(seen),
                Ok(false) => {}
                Err(status) => self.tally.refused(self.name(at), &status),
            }
            // A plan that nobody writes to shows nothing; its submitters' patience is bounded, too.
            if since.0.elapsed() > 2 * PATIENCE {
                return Err(format!("{} sees nothing any more", self.name(at)).into());
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn name(&self, at: usize) -> String {
        let (nth, plan) = (self.nth, self.shown.plan_id());
        format!("watcher {nth} of {plan} at replica {at}")
    }

    /// Whether the plan has ended.
    async fn follow(
        &mut self,
        at: usize,
        cursor: &mut String,
        seen: &mut Vec<u64>,
    ) -> Result<bool, Status> {
        let mut client = soon(connect(&self.addresses[at])).await?;
        let request = WatchPlanRequest {
            plan_id: self.shown.plan_id().to_owned(),
            after: cursor.clone(),
            include_payload: true,
            heartbeat_interval: Some(prost_types::Duration {
                seconds: 0,
                nanos: i32::try_from(HEARTBEAT.as_nanos()).unwrap_or_default(),
            }),
            ..Default::default()
        };
        let mut frames = soon(client.watch_plan(request)).await?.into_inner();
        for _ in 0..=self.draw.below(2 * STAY) {
            let Some(frame) = soon(frames.message()).await? else {
                return Ok(false);
            };
            *cursor = frame.cursor;
            match frame.frame {
                Some(Frame::Result(result)) => {
                    let last = seen.last().copied().unwrap_or_default();
                    if result.sequence <= last {
                        let (name, sequence) = (self.name(at), result.sequence);
                        let tally = &self.tally;
                        tally.wrong(format_args!("{name} sees {sequence} after {last}"));
                    }
                    seen.push(result.sequence);
                    self.shown.show(at, &result, &self.tally);
                }
                Some(Frame::End(_)) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }
}
