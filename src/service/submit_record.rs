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

use prost::bytes::BytesMut;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};
use tracing::Instrument;

use super::framing::{Framed, FramedStream};
use super::{Fanout, convert, receipt, record, status};
use crate::config::Limits;
use crate::proto::records::{RecordFields, RecordsMessage, WrittenMessage};
use crate::registry::LivePlan;

/// So many messages are answered together at most, and no more are taken after so many bytes.
const TOGETHER_MAX: (usize, usize) = (64, 64 << 10);

/// What a stream uses again for all of its messages.
#[derive(Default)]
struct Room {
    /// Where documents are made.
    documents: String,
    /// Where answers are written.
    answers: BytesMut,
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
    mut requests: impl Requests + 'static,
    closing: CancellationToken,
) -> FramedStream {
    Box::pin(async_stream::stream! {
        let mut plan: Option<Arc<LivePlan>> = None;
        let mut room = Room::default();
        let mut messages = Vec::new();
        let mut receipts = 0;
        let mut closing = pin!(closing.cancelled_owned());
        loop {
            messages.clear();
            let after = poll_fn(|context| take(&mut messages, &mut requests, closing.as_mut(), context));
            let after = after.await;
            let (answers, failed) = answer(&fanout, &mut plan, &messages, &mut room).await;
            room.tidy();
            if let Some((answers, answered)) = answers {
                receipts += answered;
                yield Ok(answers);
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

/// Applies the records of a message by itself.
pub(super) async fn once(
    fanout: &Fanout,
    message: &RecordsMessage,
) -> Result<WrittenMessage, Status> {
    let messages = std::slice::from_ref(message);
    let (answers, failed) = answer(fanout, &mut None, messages, &mut Room::default()).await;
    let answer = answers.and_then(|(answers, _)| answers.messages().next());
    answer.ok_or_else(|| failed.unwrap_or_else(status::panicked))
}

/// Applies the records of messages. One that is wrong ends them, and is why there is no answer to it; those before it are
/// applied, and their answers come with the number of their receipts.
async fn answer(
    fanout: &Fanout,
    plan: &mut Option<Arc<LivePlan>>,
    messages: &[RecordsMessage],
    room: &mut Room,
) -> (Option<(Framed, usize)>, Option<Status>) {
    let change = tracing::trace_span!("change", messages = messages.len());
    let reading = tracing::trace_span!(parent: &change, "read").entered();
    let limits = &fanout.config.limits;
    let mut failed = None;
    let (mut records, mut submissions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let mut documents = Vec::new();
    for message in messages {
        records.clear();
        let begin = (submissions.len(), room.documents.len());
        let sound = read_message(fanout, plan, message, &mut records).and_then(|plan| {
            for record in &records {
                let document = room.documents.len();
                let read = record::read(record, plan.spec(), limits, &mut room.documents);
                submissions.push(read);
                documents.push(document..room.documents.len());
            }
            check_answer(room.documents.len() - begin.1, records.len(), limits)
        });
        if let Err(wrong) = sound {
            submissions.truncate(begin.0);
            failed = Some(wrong);
            break;
        }
        ends.push(submissions.len());
    }
    let Some(plan) = plan.as_ref().filter(|_| !submissions.is_empty()) else {
        return (None, failed);
    };
    for (submission, place) in submissions.iter_mut().zip(documents) {
        if let Ok(record) = &mut submission.record {
            record.document = Cow::Borrowed(room.documents[place].as_bytes());
        }
    }
    drop(reading);
    let submitted = fanout.coordinator.submit(plan, &submissions);
    match submitted.instrument(change.clone()).await {
        Ok((receipts, standing)) => {
            let _writing = tracing::trace_span!(parent: &change, "write").entered();
            let answers =
                receipt::answers(&mut room.answers, &receipts, &ends, &standing, plan.spec());
            (Some((answers, receipts.len())), failed)
        }
        Err(error) => (None, Some(status::of(&error))),
    }
}

/// Appends a message's records, and answers the plan that they are for.
fn read_message<'m, 'p>(
    fanout: &Fanout,
    plan: &'p mut Option<Arc<LivePlan>>,
    message: &'m RecordsMessage,
    records: &mut Vec<RecordFields<'m>>,
) -> Result<&'p Arc<LivePlan>, Status> {
    let limits = &fanout.config.limits;
    let begin = records.len();
    let malformed = |problem: String| status::invalid("message", &problem, "MALFORMED_MESSAGE");
    let plan_id = message.read(records).map_err(malformed)?;
    let found = match plan.take() {
        Some(plan) => plan,
        None => {
            let plan_id = convert::required_plan_id(plan_id, limits)?;
            let found = fanout.coordinator.plan(plan_id);
            found.map_err(|error| status::of(&error))?
        }
    };
    let plan = plan.insert(found);
    let own = plan.plan_id();
    if !plan_id.is_empty() && *plan_id != **own {
        let problem = format!("is {plan_id:?}, but this stream is for {own:?}");
        return Err(status::invalid("plan_id", &problem, "PLAN_ID_CHANGED"));
    }
    let most = limits.records_per_message_max;
    match records.len() - begin {
        0 => Err(status::invalid(
            "records",
            "expected at least one record",
            "FIELD_REQUIRED",
        )),
        count if count > most => {
            let problem = format!("{count} records, at most {most} are allowed");
            Err(status::over_limit(
                "records",
                &problem,
                "TOO_MANY_RECORDS",
                most,
            ))
        }
        _ => Ok(plan),
    }
}

/// Said before they are applied: records whose receipts cannot be sent must not be.
fn check_answer(document_bytes: usize, records: usize, limits: &Limits) -> Result<(), Status> {
    let most = limits.message_bytes_max;
    if document_bytes + records * receipt::BYTES_BESIDE_DOCUMENT <= most {
        return Ok(());
    }
    let problem = format!("their receipts would not fit {most} bytes; send fewer at a time");
    Err(status::over_limit(
        "records",
        &problem,
        "MESSAGE_TOO_LARGE",
        most,
    ))
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
