//! A producer that goes to any replica, leaves it when it fails or at random, and goes on where the plan is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use fanout::proto::{
    Disposition, Receipt, ReconcileRequest, SubmitRecordRequest, SubmitRecordResponse,
    SubmitRecordsRequest, View,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{AGAIN_AFTER, PATIENCE, Told, connect, soon};
use crate::expected::{Draw, Expected};
use crate::tally::{Outcome, Tally};

/// Records in one message, at most.
const BATCH_MAX: u64 = 64;
/// Messages without an answer, at most.
const UNANSWERED_MAX: usize = 16;
/// Messages to one replica before it goes to another one, on average.
const STAY: u64 = 60;

/// So often in a row may replicas say what must not be before this is the end.
const STRIKES_MAX: u32 = 20;

/// How many of so many parts of the records may be sent by now.
pub type Released = watch::Receiver<(u64, u64)>;

/// What a receipt says of a record that changed its task.
pub struct Applied {
    pub sequence: u64,
    pub task: u64,
    pub revision: u32,
}

/// Why it leaves a replica.
enum Left {
    Done,
    AtRandom,
    Failed,
}

pub struct Submitter {
    pub plan_id: String,
    pub expected: Expected,
    pub addresses: Arc<[String]>,
    pub tally: Arc<Tally>,
    pub released: Released,
}

struct Submitting {
    own: Submitter,
    draw: Draw,
    /// The replica it is at.
    at: usize,
    /// Records with a receipt: all before this offset.
    acknowledged: usize,
    /// The answer to the last message, and where that began.
    last: Option<(usize, Vec<Receipt>)>,
    /// How many of its records the plan has, as a replica has just said.
    committed: usize,
    strikes: u32,
    /// The plan's last event, as far as any replica has shown it.
    sequence: u64,
    applied: Vec<Applied>,
}

impl Submitter {
    /// Sends everything. Answers what was applied.
    pub async fn run(self) -> Outcome<Vec<Applied>> {
        let mut draw = Draw::of(self.expected.seed, 7);
        let at = draw.below(self.addresses.len() as u64);
        let mut submitting = Submitting {
            at: usize::try_from(at)?,
            draw,
            acknowledged: 0,
            last: None,
            committed: 0,
            strikes: 0,
            sequence: 0,
            applied: Vec::new(),
            own: self,
        };
        submitting.run().await?;
        Ok(submitting.applied)
    }
}

impl Submitting {
    async fn run(&mut self) -> Outcome<()> {
        let mut since = (Instant::now(), 0);
        loop {
            if since.1 < self.acknowledged || self.end() <= self.acknowledged {
                since = (Instant::now(), self.acknowledged);
            }
            if since.0.elapsed() > PATIENCE {
                return Err(format!("{} does not get on", self.name()).into());
            }
            match self.stay().await {
                Ok(Left::Done) => return Ok(()),
                Ok(Left::AtRandom) => {
                    self.go_elsewhere();
                    self.look().await;
                    self.send_to_two().await?;
                }
                Ok(Left::Failed) => {
                    self.go_elsewhere();
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(status) => {
                    self.own.tally.refused(self.name(), &status);
                    self.strike(&status)?;
                    self.go_elsewhere();
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// One that is told again and again that its records are not there gives up.
    fn strike(&mut self, status: &Status) -> Outcome<()> {
        if Told::by(status) != Told::ToGiveUp {
            return Ok(());
        }
        self.strikes += 1;
        if self.strikes < STRIKES_MAX {
            return Ok(());
        }
        self.own
            .tally
            .lose(self.acknowledged.saturating_sub(self.committed));
        Err(format!("{} has given up", self.name()).into())
    }

    fn name(&self) -> String {
        let (plan, producer) = (&self.own.plan_id, &self.own.expected.producer);
        format!("{producer} of {plan} at replica {}", self.at)
    }

    fn go_elsewhere(&mut self) {
        self.at = (self.at + 1) % self.own.addresses.len();
    }

    fn address(&self) -> String {
        self.own.addresses[self.at].clone()
    }

    /// Where the records end that may be sent by now.
    fn end(&self) -> usize {
        let (part, parts) = *self.own.released.borrow();
        let all = self.own.expected.sent.len();
        usize::try_from(all as u64 * part / parts).unwrap_or(all)
    }

    /// Sends records to one replica, until there are no more, or it is left.
    async fn stay(&mut self) -> Result<Left, Status> {
        let mut client = soon(connect(&self.address())).await?;
        let (requests, stream) = mpsc::channel(UNANSWERED_MAX + 2);
        // The channel has room for all that is ever without an answer.
        let _ = requests.try_send(self.request(None, 0));
        let stream = client.submit_record(ReceiverStream::new(stream));
        let mut answers = soon(stream).await?.into_inner();
        let Some(answer) = self.next(&mut answers).await? else {
            return Ok(Left::Failed);
        };
        self.has(answer.committed_offset.unwrap_or_default())?;
        if let Some((first, receipts)) = self.last.take() {
            let _ = requests.try_send(self.request(Some(first), receipts.len()));
            self.last = Some((first, receipts));
            let Some(answer) = self.next(&mut answers).await? else {
                return Ok(Left::Failed);
            };
            if Some(&answer.receipts) != self.last.as_ref().map(|(_, receipts)| receipts) {
                let name = self.name();
                self.own
                    .tally
                    .wrong(format_args!("{name}: other receipts for the same message"));
            }
        }
        let mut unanswered = VecDeque::new();
        let mut next = self.acknowledged;
        let mut messages = 1 + self.draw.below(2 * STAY);
        loop {
            let end = self.end();
            while next < end && unanswered.len() < UNANSWERED_MAX && messages > 0 {
                let count = self.some(next, end);
                let _ = requests.try_send(self.request(Some(next), count));
                unanswered.push_back((next, count));
                next += count;
                messages -= 1;
            }
            if unanswered.is_empty() {
                if next == self.own.expected.sent.len() {
                    return Ok(Left::Done);
                }
                if messages == 0 {
                    return Ok(Left::AtRandom);
                }
                let mut released = self.own.released.clone();
                tokio::select! {
                    changed = released.wait_for(|(part, parts)| *part == *parts || end < self.end()) => {
                        if changed.is_err() {
                            return Err(Status::internal("no more records are released"));
                        }
                    }
                    broken = answers.message() => return broken.map(|_| Left::Failed),
                }
                continue;
            }
            let Some(answer) = self.next(&mut answers).await? else {
                return Ok(Left::Failed);
            };
            if let Some((first, count)) = unanswered.pop_front() {
                self.take(first, count, answer.receipts);
            }
        }
    }

    /// The next answer; none if the stream has ended without one.
    async fn next(
        &mut self,
        answers: &mut Streaming<SubmitRecordResponse>,
    ) -> Result<Option<SubmitRecordResponse>, Status> {
        let answer = soon(answers.message()).await?;
        if let Some(answer) = &answer {
            self.shows(answer.sequence);
        }
        Ok(answer)
    }

    /// The same message to two replicas at the same time: both may answer, and then they say the same.
    async fn send_to_two(&mut self) -> Outcome<()> {
        let (first, end) = (self.acknowledged, self.end());
        if first == end || self.own.addresses.len() < 2 {
            return Ok(());
        }
        let count = self.some(first, end);
        let message = self.request(Some(first), count);
        let request = SubmitRecordsRequest {
            plan_id: message.plan_id,
            records: message.records,
            producer_id: message.producer_id,
            first_offset: message.first_offset,
            ..Default::default()
        };
        let one = self.address();
        self.go_elsewhere();
        let other = self.address();
        let send = async |address: String| {
            let mut client = connect(&address).await?;
            client.submit_records(request.clone()).await
        };
        let answers = tokio::join!(soon(send(one)), soon(send(other)));
        let mut receipts: Option<Vec<Receipt>> = None;
        for answer in [answers.0, answers.1] {
            match (answer.map(|answer| answer.into_inner().receipts), &receipts) {
                (Err(status), _) => self.own.tally.refused(self.name(), &status),
                (Ok(found), None) => receipts = Some(found),
                (Ok(found), Some(other)) if found != *other => {
                    let name = self.name();
                    self.own.tally.wrong(format_args!(
                        "{name}: two replicas answer one message differently"
                    ));
                }
                (Ok(_), Some(_)) => {}
            }
        }
        if let Some(receipts) = receipts {
            self.take(first, count, receipts);
        }
        Ok(())
    }

    /// A result that is read after a receipt, at another replica, is not older than the receipt.
    async fn look(&mut self) {
        let request = ReconcileRequest {
            plan_id: self.own.plan_id.clone(),
            view: View::Basic.into(),
            ..Default::default()
        };
        let address = self.address();
        let look = async {
            let mut client = connect(&address).await?;
            client.reconcile(request).await
        };
        match soon(look).await {
            Ok(answer) => self.shows(answer.into_inner().sequence),
            Err(status) => self.own.tally.refused(self.name(), &status),
        }
    }

    /// A replica shows the plan with this last event.
    fn shows(&mut self, sequence: u64) {
        if sequence < self.sequence {
            let (name, known) = (self.name(), self.sequence);
            self.own.tally.wrong(format_args!(
                "{name} is shown event {sequence} as the last after it was shown {known}"
            ));
        }
        self.sequence = self.sequence.max(sequence);
    }

    /// A replica says how many records the plan has.
    fn has(&mut self, committed: u64) -> Result<(), Status> {
        self.committed = usize::try_from(committed).unwrap_or_default();
        if self.committed < self.acknowledged {
            return Err(Status::data_loss(format!(
                "the plan has {committed} records, and acknowledged {}",
                self.acknowledged
            )));
        }
        Ok(())
    }

    /// Takes the receipts of a message, after comparing them with what its records must come to.
    fn take(&mut self, first: usize, count: usize, receipts: Vec<Receipt>) {
        let name = self.name();
        let tally = &self.own.tally;
        if receipts.len() != count {
            tally.wrong(format_args!(
                "{name}: {} receipts for {count} records",
                receipts.len()
            ));
        }
        let sent = &self.own.expected.sent[first..first + count];
        for (sent, receipt) in sent.iter().zip(&receipts) {
            let found = (receipt.disposition(), receipt.revision);
            if receipt.revision > sent.revision {
                tally.double(1);
            } else if found != (sent.disposition, sent.revision) {
                let expected = (sent.disposition, sent.revision);
                tally.wrong(format_args!("{name}: {found:?}, expected {expected:?}"));
            }
            if receipt.disposition() != Disposition::Duplicate {
                self.applied.push(Applied {
                    sequence: receipt.sequence,
                    task: sent.task,
                    revision: receipt.revision,
                });
            }
        }
        tally.acknowledge(count);
        self.strikes = 0;
        self.acknowledged = first + count;
        self.last = Some((first, receipts));
    }

    /// So many records for the next message.
    fn some(&mut self, next: usize, end: usize) -> usize {
        let count = 1 + self.draw.below(BATCH_MAX);
        usize::try_from(count).unwrap_or(1).min(end - next)
    }

    fn request(&self, first_offset: Option<usize>, count: usize) -> SubmitRecordRequest {
        let first = first_offset.unwrap_or_default();
        let records = &self.own.expected.sent[first..first + count];
        SubmitRecordRequest {
            plan_id: self.own.plan_id.clone(),
            records: records.iter().map(|sent| sent.record()).collect(),
            producer_id: self.own.expected.producer.clone(),
            first_offset: first_offset.map(|first| first as u64),
            ..Default::default()
        }
    }
}
