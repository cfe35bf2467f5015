//! The tenant that behaves, and how long its calls take.

use std::time::{Duration, Instant};

use fanout::proto::{
    Disposition, GetPlanRequest, Record, SubmitRecordRequest, SubmitRecordResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{Client, Outcome, connect, tasks};

pub const PLAN: &str = "honest";
const TASKS: u64 = 1_000;
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(1);
/// Longest time that a call may take at all.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Honest {
    address: String,
    token: String,
    client: Client,
    requests: mpsc::Sender<SubmitRecordRequest>,
    answers: Streaming<SubmitRecordResponse>,
    sent: u64,
}

/// What came of calls, all of which were answered.
pub struct Calls {
    pub calls: usize,
    pub p99: Duration,
}

impl Honest {
    pub async fn start(address: &str, token: &str) -> Outcome<Self> {
        let mut client = connect(address, token).await?;
        client.plan(tasks::numbered(PLAN, TASKS)).await?;
        let (requests, answers) = open(&mut client).await?;
        Ok(Self {
            address: address.into(),
            token: token.into(),
            client,
            requests,
            answers,
            sent: 0,
        })
    }

    /// The same over a new connection.
    pub async fn reconnect(&mut self) -> Outcome<()> {
        let reconnected = async {
            self.client = connect(&self.address, &self.token).await?;
            (self.requests, self.answers) = open(&mut self.client).await?;
            Outcome::Ok(())
        };
        tokio::time::timeout(PATIENCE, reconnected).await?
    }

    /// Calls for so long, one call after the other.
    pub async fn calls(&mut self, time: Duration) -> Outcome<Calls> {
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            let call = Instant::now();
            tokio::time::timeout(PATIENCE, self.call()).await??;
            took.push(call.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        took.sort_unstable();
        Ok(Calls {
            calls: took.len(),
            p99: took[took.len() * 99 / 100],
        })
    }

    async fn call(&mut self) -> Outcome<()> {
        self.sent += 1;
        if self.sent.is_multiple_of(10) {
            let request = GetPlanRequest {
                plan_id: PLAN.into(),
                ..Default::default()
            };
            self.client.get_plan(request).await?;
            return Ok(());
        }
        // A few results differ, the rest are duplicates: the plan does not grow.
        let record = Record {
            id: format!("task-{}", self.sent % TASKS),
            success: Some(true),
            body: format!("{{\"outcome\":{}}}", self.sent / TASKS % 2).into(),
            ..Default::default()
        };
        let message = SubmitRecordRequest {
            plan_id: PLAN.into(),
            records: vec![record],
            ..Default::default()
        };
        self.requests.send(message).await?;
        let answer = self.answers.message().await?.ok_or("no receipt")?;
        match answer.receipts[0].disposition() {
            Disposition::Accepted | Disposition::Duplicate | Disposition::SupersededPrevious => {
                Ok(())
            }
            other => Err(format!("{other:?}").into()),
        }
    }
}

async fn open(
    client: &mut Client,
) -> Outcome<(
    mpsc::Sender<SubmitRecordRequest>,
    Streaming<SubmitRecordResponse>,
)> {
    let (requests, stream) = mpsc::channel(1);
    let answers = client.submit_record(ReceiverStream::new(stream)).await?;
    Ok((requests, answers.into_inner()))
}
