//! The record stream: take the messages that are there, have their records applied, send the receipts, take the next.
//!
//! There is no task and no queue between the two directions: the next messages are read when there is room to send their
//! receipts, so a peer that does not read them is not read itself, and stalls nobody else. Half-close ends the stream
//! with OK after the last receipts; a peer that vanishes ends it between two changes, one that was begun being finished by
//! the coordinator; a server that drains ends it between two messages, so that every receipt sent is true.
//!
//! Messages that came together are one change of their plan. A stream that is sent one record after the other then costs
//! others, who have the same plan, no more than one that sends them in one message.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use prost::bytes::Bytes;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};
use tracing::Instrument;

use super::admission::check_bound;
use super::framing::{Framed, FramedStream};
use super::receipt::{Asked, Outcome};
use super::record_source::Source;
use super::tenants::Pace;
use super::{Fanout, receipt, record, status};
use crate::config::Limits;
use crate::coordinator::Error;
use crate::engine::Submission;
use crate::identity::Caller;
use crate::proto::records::{RecordsMessage, WrittenMessage};
use crate::reconcile::record::Form;
use crate::registry::LivePlan;
use crate::telemetry::{metrics, traces};

/// So many messages are answered together at most, and no more are taken after so many bytes.
const TOGETHER_MAX: (usize, usize) = (64, 64 << 10);

/// What a stream uses again for all of its messages.
#[derive(Default)]
struct Room {
    /// The form of the records that came.
    form: Form,
    /// Where documents are made.
    documents: String,
    /// The answers that were sent last.
    sent: Bytes,
}

/// A message that was very large does not keep its stream large.
const ROOM_KEPT_BYTES: usize = 64 << 10;

impl Room {
    fn tidy(&mut self) {
        self.documents.clear();
        self.documents.shrink_to(ROOM_KEPT_BYTES);
    }
}

/// Messages, as they come.
pub(super) trait Requests:
    Stream<Item = Result<RecordsMessage, Status>> + Send + Unpin
{
}

impl<R: Stream<Item = Result<RecordsMessage, Status>> + Send + Unpin> Requests for R {}

/// What comes after the messages that were taken.
enum After {
    /// Perhaps others.
    More,
    /// Nothing: the peer has sent everything.
    Nothing,
    /// Something that is no message.
    Broken(Status),
    /// Whatever it is, the connection is about to be closed.
    Closing,
}

pub(super) fn serve(
    fanout: Fanout,
    caller: Arc<Caller>,
    mut requests: impl Requests + 'static,
    closing: CancellationToken,
) -> FramedStream {
    Box::pin(async_stream::stream! {
        let pace = fanout.tenants.pace(&caller.tenant);
        let mut source = Source::of(caller);
        let mut room = Room::default();
        let mut messages = Vec::new();
        let mut receipts = 0;
        let mut closing = pin!(closing.cancelled_owned());
        loop {
            messages.clear();
            let after = poll_fn(|context| take(&mut messages, &mut requests, closing.as_mut(), context));
            let mut after = after.await;
            let (mut rest, mut failed) = (&messages[..], None);
            // So many of the rest may come by now.
            let mut due = 0;
            while !rest.is_empty() && failed.is_none() {
                if due == 0 {
                    let Some(some) = wait(pace.as_ref(), rest, closing.as_mut()).await else {
                        after = After::Closing;
                        break;
                    };
                    due = some;
                }
                let answered = answer(&fanout, &mut source, &rest[..due], &mut room).await;
                room.tidy();
                rest = rest.get(answered.messages..).unwrap_or_default();
                due -= answered.messages;
                failed = answered.failed;
                if let Some((answers, answered)) = answered.answers {
                    receipts += answered;
                    yield Ok(answers);
                }
            }
            let end = match (failed, after) {
                (Some(failed), _) => failed,
                (None, After::More) => continue,
                (None, After::Nothing) => return,
                (None, After::Broken(broken)) => broken_message(&broken, &fanout.config.limits),
                (None, After::Closing) => status::draining_at([("receipts", receipts.to_string())]),
            };
            yield Err(end);
            return;
        }
    })
}

/// Waits for a message, and takes what came with it.
fn take(
    messages: &mut Vec<RecordsMessage>,
    requests: &mut impl Requests,
    closing: Pin<&mut WaitForCancellationFutureOwned>,
    context: &mut Context<'_>,
) -> Poll<After> {
    if closing.poll(context).is_ready() {
        return Poll::Ready(After::Closing);
    }
    let mut bytes = 0;
    while messages.len() < TOGETHER_MAX.0 && bytes < TOGETHER_MAX.1 {
        match Pin::new(&mut *requests).poll_next(context) {
            Poll::Ready(Some(Ok(message))) => {
                bytes += message.length();
                messages.push(message);
            }
            Poll::Ready(Some(Err(broken))) => return Poll::Ready(After::Broken(broken)),
            Poll::Ready(None) => return Poll::Ready(After::Nothing),
            Poll::Pending if messages.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(After::More)
}

/// How many of these messages may come, once the first of them may; until then their peer is not read. Nothing if the
/// connection is about to be closed before.
async fn wait(
    pace: Option<&Pace>,
    messages: &[RecordsMessage],
    closing: Pin<&mut WaitForCancellationFutureOwned>,
) -> Option<usize> {
    let Some(pace) = pace else {
        return Some(messages.len());
    };
    tokio::select! {
        biased;
        () = closing => None,
        due = pace.wait(messages) => Some(due),
    }
}

/// Applies the records of a message by itself.
pub(super) async fn once(
    fanout: &Fanout,
    caller: Arc<Caller>,
    message: &RecordsMessage,
) -> Result<WrittenMessage, Status> {
    let pace = fanout.tenants.pace(&caller.tenant);
    pace.map_or(Ok(()), |pace| pace.check(message))?;
    let messages = std::slice::from_ref(message);
    let mut source = Source::of(caller);
    let answered = answer(fanout, &mut source, messages, &mut Room::default()).await;
    let answer = answered
        .answers
        .and_then(|(answers, _)| answers.messages().next());
    answer.ok_or_else(|| answered.failed.unwrap_or_else(status::panicked))
}

/// What became of messages.
#[derive(Default)]
struct Answered {
    /// How many of them this is about.
    messages: usize,
    /// The answers, and how many receipts are in them.
    answers: Option<(Framed, usize)>,
    /// Why the one after them ends the stream.
    failed: Option<Status>,
}

/// Applies the records of messages, as many as can be one change: those of a producer must follow each other. One that is
/// wrong ends them; those before it are applied, and answered.
async fn answer(
    fanout: &Fanout,
    source: &mut Source,
    messages: &[RecordsMessage],
    room: &mut Room,
) -> Answered {
    let begun = Instant::now();
    if let Some(first) = messages.first() {
        source.find(fanout, first).await;
    }
    let change = tracing::trace_span!("change", messages = messages.len());
    let reading = tracing::trace_span!(parent: &change, "read").entered();
    let limits = &fanout.config.limits;
    let bound = source.bound_task().cloned();
    let mut answered = Answered::default();
    // As many of each, if a message has one record.
    let many = messages.len();
    let (mut records, mut asked) = (Vec::with_capacity(1), Vec::with_capacity(many));
    let (mut submissions, mut documents) = (Vec::with_capacity(many), Vec::with_capacity(many));
    // The offsets of the change's first record, and of the one after the last so far, if they have any.
    let mut run: Option<[Option<u64>; 2]> = None;
    for message in messages {
        records.clear();
        let begin = submissions.len();
        let message = source.read(fanout, message, &mut records);
        let sound = message.and_then(|said| {
            let spec = said.plan.spec();
            for record in &records {
                let document = room.documents.len();
                let (form, made) = (&mut room.form, &mut room.documents);
                let mut read = record::read(record, spec, limits, form, made);
                if let (Some(bound), Ok(fields)) = (&bound, &read.record)
                    && let Err(violation) = check_bound(bound, spec, fields)
                {
                    room.documents.truncate(document);
                    read.record = Err(violation);
                }
                submissions.push(read);
                documents.push(document..room.documents.len());
            }
            let sent_back = said.is_full.then_some(&documents[begin..]);
            receipt::check(&submissions[begin..], sent_back, spec, limits)?;
            Ok((said.first_offset, said.is_full))
        });
        let (first, is_full) = match sound {
            Ok(said) => said,
            Err(wrong) => {
                submissions.truncate(begin);
                answered.failed = Some(wrong);
                break;
            }
        };
        let end = first.map(|first| first + records.len() as u64);
        match &mut run {
            None => run = Some([first, end]),
            Some([_, next]) if first == *next => *next = end,
            // To be read again, by itself.
            Some(_) => {
                submissions.truncate(begin);
                break;
            }
        }
        asked.push(Asked {
            end: submissions.len(),
            is_full,
        });
        answered.messages += 1;
        // A question about a producer is a change by itself.
        if submissions.is_empty() {
            break;
        }
    }
    let (Some([first_offset, _]), Some(plan)) = (run, source.plan()) else {
        return answered;
    };
    for (submission, place) in submissions.iter_mut().zip(documents) {
        if let Ok(record) = &mut submission.record {
            record.document = Cow::Borrowed(room.documents[place].as_bytes());
        }
    }
    drop(reading);
    let traced = traces::begin_change(plan.plan_id());
    let submitting = submit(fanout, plan, source.producer(), first_offset, &submissions);
    let submitting = traces::within(traced.as_ref(), submitting);
    match submitting.instrument(change.clone()).await {
        Ok(mut outcome) => {
            let _writing = tracing::trace_span!(parent: &change, "write").entered();
            if bound.is_some() {
                outcome.keep_to_its_own();
            }
            match receipt::answers(&mut room.sent, &outcome, &asked, plan.spec(), limits) {
                Ok(answers) => answered.answers = Some((answers, outcome.receipts.len())),
                Err(too_large) => answered.failed = Some(too_large),
            }
            metrics::records_answered(&outcome.receipts, begun.elapsed());
            if let Some(traced) = traced {
                traces::end_change(&traced, &outcome.receipts);
            }
        }
        Err(error) => answered.failed = Some(status::of(&error)),
    }
    answered
}

async fn submit(
    fanout: &Fanout,
    plan: &Arc<LivePlan>,
    producer: Option<&str>,
    first_offset: Option<u64>,
    submissions: &[Submission<'_>],
) -> Result<Outcome, Error> {
    let coordinator = &fanout.coordinator;
    let Some(producer) = producer else {
        let (receipts, standing) = coordinator.submit(plan, submissions).await?;
        return Ok(Outcome {
            receipts,
            standing,
            committed: None,
            is_of_one_task: false,
        });
    };
    let submitted = coordinator.submit_numbered(plan, producer, first_offset, submissions);
    let (receipts, standing, committed) = submitted.await?;
    Ok(Outcome {
        receipts,
        standing,
        committed: Some(committed),
        is_of_one_task: false,
    })
}

/// A message that could not be read is the end of its stream. Sizes are never worth retrying, so not OUT_OF_RANGE.
fn broken_message(broken: &Status, limits: &Limits) -> Status {
    match broken.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let most = limits.message_bytes_max;
            let problem = format!("is larger than {most} bytes");
            status::over_limit("message", &problem, "MESSAGE_TOO_LARGE", most)
        }
        Code::Internal => status::invalid("message", broken.message(), "MALFORMED_MESSAGE"),
        _ => broken.clone(),
    }
}
