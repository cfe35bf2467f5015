//! A record that is sent to see how soon somebody takes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::proto::{Disposition, Record, SubmitRecordsRequest};
use tonic::Status;

use crate::client::{AGAIN_AFTER, Client, PATIENCE, Told, connect};
use crate::expected::name;
use crate::submitter::Applied;
use crate::tally::{Outcome, Tally};

/// A replica that has not answered by then is left for the next one.
const TRY_WITHIN: Duration = Duration::from_secs(1);

pub const PLAN: &str = "probes";

/// Sends one record after the other to a plan of its own, a task each.
pub struct Prober {
    pub addresses: Arc<[String]>,
    pub tally: Arc<Tally>,
    /// What was applied: as many records as were sent.
    pub applied: Vec<Applied>,
}

impl Prober {
    /// Sends one record to one replica after the other, beginning with this one, or to this one only, until somebody has
    /// acknowledged it. Answers how long that took.
    pub async fn probe(&mut self, begin: usize, only: bool) -> Outcome<Duration> {
        let since = Instant::now();
        let offset = self.applied.len() as u64;
        let request = SubmitRecordsRequest {
            plan_id: PLAN.into(),
            records: vec![Record {
                task_id: name(offset),
                body: format!(r#"{{"status":"succeeded","outcome":{{"payload":{offset}}}}}"#)
                    .into(),
                ..Default::default()
            }],
            producer_id: "prober".into(),
            first_offset: Some(offset),
            ..Default::default()
        };
        let mut at = begin;
        loop {
            match tokio::time::timeout(TRY_WITHIN, self.send(at, &request)).await {
                Ok(Ok(applied)) => {
                    self.applied.push(applied);
                    return Ok(since.elapsed());
                }
                Ok(Err(status)) => {
                    self.tally
                        .refused(format_args!("a probe of replica {at}"), &status);
                    if Told::by(&status) == Told::ToGiveUp {
                        self.tally.lose(self.applied.len());
                        return Err(status.into());
                    }
                }
                Err(_) => {}
            }
            if since.elapsed() > PATIENCE {
                return Err(
                    format!("nobody takes a record, beginning with replica {begin}").into(),
                );
            }
            if !only {
                at = (at + 1) % self.addresses.len();
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn send(&self, at: usize, request: &SubmitRecordsRequest) -> Result<Applied, Status> {
        let mut client: Client = connect(&self.addresses[at]).await?;
        let answer = client.submit_records(request.clone()).await?.into_inner();
        let receipt = answer.receipts.first();
        let receipt = receipt.ok_or_else(|| Status::internal("no receipt"))?;
        if receipt.disposition() != Disposition::Accepted || receipt.revision != 1 {
            let (found, revision) = (receipt.disposition(), receipt.revision);
            self.tally
                .wrong(format_args!("a probe was {found:?}, revision {revision}"));
        }
        Ok(Applied {
            sequence: receipt.sequence,
            task: self.applied.len() as u64,
            revision: receipt.revision,
        })
    }
}
