//! The sending end of SubmitRecord: batches in, answers out in the same order, across broken connections.
//!
//! What has no answer yet is sent again on the next connection. That is safe: the records are numbered, and one that was
//! applied before the connection broke gets the receipt that it got, whatever happened to its task since.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::Failure;
use super::client::{Client, explain};
use super::patience::Patience;
use super::print::printable;
use super::trace_context::carrying;
use crate::proto::{Record, SubmitRecordRequest, SubmitRecordResponse, View};

/// Batches that may be without an answer; the next one waits.
const UNANSWERED_MAX: usize = 16;

/// A batch with its answer.
pub(super) struct Answered {
    pub(super) records: Vec<Record>,
    pub(super) response: SubmitRecordResponse,
}

/// Where batches go in. Dropping it ends the stream once all are answered.
pub(super) type Batches = mpsc::Sender<Vec<Record>>;
/// Where answers come out. Ends after the last one, or with a failure.
pub(super) type Answers = mpsc::Receiver<Result<Answered, Failure>>;

/// Opens a stream to a plan, with the receipts in this view.
pub(super) fn open(client: Client, plan_id: &str, view: View) -> (Batches, Answers) {
    let (batches, incoming) = mpsc::channel(UNANSWERED_MAX);
    let (outgoing, answers) = mpsc::channel(UNANSWERED_MAX);
    let sender = Sender {
        client,
        plan_id: plan_id.to_owned(),
        view,
        producer_id: Uuid::now_v7().to_string(),
        unanswered: VecDeque::new(),
        next_offset: 0,
        patience: Patience::default(),
        answers: outgoing,
    };
    tokio::spawn(sender.run(incoming));
    (batches, answers)
}

/// Records that go in one message.
struct Batch {
    first_offset: u64,
    records: Vec<Record>,
}

struct Sender {
    client: Client,
    plan_id: String,
    view: View,
    /// This run of the program, as one of the plan's producers.
    producer_id: String,
    unanswered: VecDeque<Batch>,
    /// Offset of the next record.
    next_offset: u64,
    patience: Patience,
    answers: mpsc::Sender<Result<Answered, Failure>>,
}

/// How one connection ended.
enum Ended {
    AllAnswered,
    Broken(Status),
    NobodyListens,
}

impl Sender {
    async fn run(mut self, mut batches: mpsc::Receiver<Vec<Record>>) {
        loop {
            let status = match self.connection(&mut batches).await {
                Ended::AllAnswered | Ended::NobodyListens => return,
                Ended::Broken(status) => status,
            };
            let Some(wait) = self.patience.wait_after(&status) else {
                // Nobody is left to tell if the other end is gone.
                let _ = self.answers.send(Err(explain(&status))).await;
                return;
            };
            eprintln!(
                "connection lost ({}); trying again in {} ms",
                printable(status.message()),
                wait.as_millis()
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn connection(&mut self, batches: &mut mpsc::Receiver<Vec<Record>>) -> Ended {
        let (requests, stream) = mpsc::channel(UNANSWERED_MAX + 1);
        for batch in &self.unanswered {
            // The channel has room for all of them.
            let _ = requests.try_send(self.request(batch));
        }
        let mut responses = match self
            .client
            .submit_record(carrying(ReceiverStream::new(stream)))
            .await
        {
            Ok(responses) => responses.into_inner(),
            Err(status) => return Ended::Broken(status),
        };
        let mut requests = Some(requests);
        loop {
            let room = self.unanswered.len() < UNANSWERED_MAX;
            tokio::select! {
                batch = batches.recv(), if requests.is_some() && room => match batch {
                    Some(records) => {
                        let first_offset = self.next_offset;
                        self.next_offset += records.len() as u64;
                        let batch = Batch { first_offset, records };
                        let request = self.request(&batch);
                        self.unanswered.push_back(batch);
                        if let Some(requests) = &requests {
                            // A connection that is gone shows at its other end, too.
                            let _ = requests.try_send(request);
                        }
                    }
                    None => requests = None,
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        self.patience.renew();
                        let Some(Batch { records, .. }) = self.unanswered.pop_front() else {
                            return Ended::Broken(Status::internal("an answer without a question"));
                        };
                        if self.answers.send(Ok(Answered { records, response })).await.is_err() {
                            return Ended::NobodyListens;
                        }
                    }
                    // However it ended: there is nothing more to send.
                    Ok(None) | Err(_) if self.unanswered.is_empty() && requests.is_none() => {
                        return Ended::AllAnswered;
                    }
                    Ok(None) => return Ended::Broken(Status::unavailable("the stream ended early")),
                    Err(status) => return Ended::Broken(status),
                },
            }
        }
    }

    fn request(&self, batch: &Batch) -> SubmitRecordRequest {
        SubmitRecordRequest {
            plan_id: self.plan_id.clone(),
            records: batch.records.clone(),
            producer_id: self.producer_id.clone(),
            first_offset: Some(batch.first_offset),
            view: self.view.into(),
        }
    }
}
