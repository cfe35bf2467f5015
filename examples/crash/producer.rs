//! A producer that loses its connection, comes back, and goes on where the plan is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fanout::proto::{Disposition, Receipt, SubmitRecordRequest, SubmitRecordResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::expected::{Draw, Expected};
use crate::server::connect;
use crate::{Outcome, PATIENCE, PLAN, Tally};

/// Records in one message, at most.
const BATCH_MAX: u64 = 64;
/// Messages without an answer, at most.
const UNANSWERED_MAX: usize = 16;
/// Between two attempts to connect.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// What a receipt of an accepted record says to those who watch: the task, and its revision.
pub type Seen = (String, u32);

/// How a connection ended.
enum Ended {
    Done,
    Broken,
}

struct Producer<'e> {
    expected: &'e Expected,
    tally: &'e Tally,
    draw: Draw,
    /// Records with a receipt: all before this offset.
    acknowledged: usize,
    /// The answer to the last message, and where that began.
    last: Option<(usize, Vec<Receipt>)>,
    /// What was accepted, by sequence.
    accepted: BTreeMap<u64, Seen>,
}

/// Sends everything. Answers which events its accepted records are.
pub async fn run(
    expected: &Expected,
    address: &str,
    tally: &Tally,
) -> Outcome<BTreeMap<u64, Seen>> {
    let mut producer = Producer {
        expected,
        tally,
        draw: Draw::of(expected.seed, 7),
        acknowledged: 0,
        last: None,
        accepted: BTreeMap::new(),
    };
    let mut since = (Instant::now(), 0);
    while producer.acknowledged < expected.sent.len() {
        if since.1 < producer.acknowledged {
            since = (Instant::now(), producer.acknowledged);
        }
        if since.0.elapsed() > PATIENCE {
            return Err(format!("{} does not get on", expected.producer).into());
        }
        if let Ok(Ended::Done) = producer.connection(address).await {
            break;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Ok(producer.accepted)
}

impl Producer<'_> {
    async fn connection(&mut self, address: &str) -> Outcome<Ended> {
        let mut client = connect(address).await?;
        let (requests, stream) = mpsc::channel(UNANSWERED_MAX + 2);
        requests.try_send(self.request(None, 0))?;
        let answers = client.submit_record(ReceiverStream::new(stream)).await?;
        let mut answers = answers.into_inner();
        let Some(answer) = self.next(&mut answers).await else {
            return Ok(Ended::Broken);
        };
        let committed = usize::try_from(answer.committed_offset.unwrap_or_default())?;
        if committed < self.acknowledged {
            let lost = (self.acknowledged - committed) as u64;
            self.tally.lost.fetch_add(lost, Ordering::Relaxed);
            return Err(format!("{} records of {} are lost", lost, self.expected.producer).into());
        }
        if let Some((first, receipts)) = self.last.take() {
            requests.try_send(self.request(Some(first), receipts.len()))?;
            self.last = Some((first, receipts));
            let Some(answer) = self.next(&mut answers).await else {
                return Ok(Ended::Broken);
            };
            if Some(&answer.receipts) != self.last.as_ref().map(|(_, receipts)| receipts) {
                self.tally
                    .wrong("a message that was sent again got other receipts");
            }
        }
        let mut unanswered = VecDeque::new();
        let mut next = self.acknowledged;
        let end = self.expected.sent.len();
        while next < end || !unanswered.is_empty() {
            while next < end && unanswered.len() < UNANSWERED_MAX {
                let count = 1 + self.draw.below(BATCH_MAX);
                let count = usize::try_from(count)?.min(end - next);
                requests.try_send(self.request(Some(next), count))?;
                unanswered.push_back((next, count));
                next += count;
            }
            let Some(answer) = self.next(&mut answers).await else {
                return Ok(Ended::Broken);
            };
            let Some((first, count)) = unanswered.pop_front() else {
                break;
            };
            if answer.receipts.len() != count {
                self.tally.wrong("an answer has another number of receipts");
            }
            self.check(first, &answer.receipts);
            self.acknowledged = first + count;
            let acknowledged = &self.tally.acknowledged;
            acknowledged.fetch_add(count as u64, Ordering::Relaxed);
            self.last = Some((first, answer.receipts));
        }
        Ok(Ended::Done)
    }

    /// The next answer; none if the connection is broken.
    async fn next(
        &self,
        answers: &mut Streaming<SubmitRecordResponse>,
    ) -> Option<SubmitRecordResponse> {
        match tokio::time::timeout(PATIENCE, answers.message()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => {
                if !may_be_tried_again(&status) {
                    self.tally.wrong(format_args!("{status:?}"));
                }
                None
            }
            Err(_) => None,
        }
    }

    /// Compares receipts with what the records must come to.
    fn check(&mut self, first: usize, receipts: &[Receipt]) {
        for (sent, receipt) in self.expected.sent[first..].iter().zip(receipts) {
            let found = (receipt.disposition(), receipt.revision);
            if found.1 > sent.revision {
                self.tally.doubled.fetch_add(1, Ordering::Relaxed);
            } else if found != (sent.disposition, sent.revision) {
                let expected = (sent.disposition, sent.revision);
                self.tally
                    .wrong(format_args!("{found:?}, expected {expected:?}"));
            }
            if receipt.disposition() != Disposition::Duplicate {
                let seen = (receipt.task_id.clone(), receipt.revision);
                if self.accepted.insert(receipt.sequence, seen).is_some() {
                    self.tally.wrong("two records have one sequence");
                }
            }
        }
    }

    fn request(&self, first_offset: Option<usize>, count: usize) -> SubmitRecordRequest {
        let first = first_offset.unwrap_or_default();
        let records = &self.expected.sent[first..first + count];
        SubmitRecordRequest {
            plan_id: PLAN.into(),
            records: records.iter().map(|sent| sent.record()).collect(),
            producer_id: self.expected.producer.clone(),
            first_offset: first_offset.map(|first| first as u64),
            ..Default::default()
        }
    }
}

/// Whether this is what a caller is told who may try again, or what it finds when the server is killed.
pub fn may_be_tried_again(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown
    ) || status.message().contains("h2 protocol error")
}
