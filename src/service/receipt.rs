//! Receipts as they go out: written once, straight into the message that is sent.

use std::ops::Range;

use prost::Message as _;
use prost::bytes::Bytes;
use smallvec::SmallVec;
use tonic::{Code, Status};

use super::framing::{self, Framed};
use super::{convert, status};
use crate::config::Limits;
use crate::coordinator::Standing;
use crate::engine::{CANDIDATES_LISTED, Disposition, Receipt, Spec, Submission, Warning};
use crate::proto;
use crate::proto::records::PutFields;

/// What a receipt takes beside ids of tasks and its record's document: its numbers, and what is wrong with it.
const BYTES_BESIDE_TEXTS: usize = 256;
/// What an id takes in a list beside its text.
const BYTES_BESIDE_ID: usize = 4;

/// Answers that were very large do not keep their stream large.
const SENT_BYTES_KEPT: usize = 64 << 10;

/// What became of a change's records.
pub(super) struct Outcome {
    /// A receipt for each.
    pub(super) receipts: Vec<Receipt>,
    /// Where the plan stands then.
    pub(super) standing: Standing,
    /// How many of their producer's records the plan has then.
    pub(super) committed: Option<u64>,
    /// Whether their sender may know of no more than one task.
    pub(super) is_of_one_task: bool,
}

impl Outcome {
    /// Leaves out what tells of the plan, and of tasks that are not the sender's. A quota that grows with the plan's tasks
    /// would tell how many there are.
    pub(super) fn keep_to_its_own(&mut self) {
        self.is_of_one_task = true;
        for receipt in &mut self.receipts {
            receipt.sequence = 0;
            receipt.quarantine_id = 0;
            receipt.warnings.clear();
            receipt.candidates.clear();
            let violation = receipt.violation.as_deref_mut();
            if let Some(violation) = violation.filter(|violation| violation.quota) {
                "a quota of the plan is used up".clone_into(&mut violation.description);
                violation.limit = 0;
            }
        }
    }
}

/// Which receipts answer a message.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// They end before this one; they begin where those of the message before end.
    pub(super) end: usize,
    /// Whether they are to have their reconciled records.
    pub(super) is_full: bool,
}

/// Writes the answers to messages, in the order of these. `sent` are those of the stream before: where they were written,
/// these are, once they have gone.
///
/// # Errors
/// Records that are sent again are answered with what they were then, and a message would be larger than it may be.
pub(super) fn answers(
    sent: &mut Bytes,
    outcome: &Outcome,
    asked: &[Asked],
    spec: &Spec,
    limits: &Limits,
) -> Result<Framed, Status> {
    let standing = after_receipts(outcome);
    let any_is_full = asked.iter().any(|asked| asked.is_full);
    let mut out = memory(
        std::mem::take(sent),
        bytes(&outcome.receipts, any_is_full, spec),
    );
    let mut begin = 0;
    for &Asked { end, is_full } in asked {
        let receipts = &outcome.receipts[begin..end];
        begin = end;
        let most = limits.message_bytes_max;
        if receipts.iter().any(|receipt| receipt.is_remembered)
            && bytes(receipts, is_full, spec) > most
        {
            return Err(too_large(most));
        }
        framing::put_by(&mut out, |out| {
            for (position, receipt) in receipts.iter().enumerate() {
                let receipt = Written {
                    receipt,
                    position,
                    is_full,
                    spec,
                };
                out.put_message(1, |out| receipt.write(out));
            }
            out.extend_from_slice(&standing);
        });
    }
    let is_kept = out.capacity() <= SENT_BYTES_KEPT;
    let answers = Bytes::from(out);
    if is_kept {
        *sent = answers.clone();
    }
    Ok(Framed::of(answers))
}

/// Memory for so many bytes: that of answers that were sent, unless they are still on their way, or were smaller.
fn memory(mut sent: Bytes, bytes: usize) -> Vec<u8> {
    if sent.is_unique() {
        sent.clear();
        let memory = Vec::from(sent);
        if memory.capacity() >= bytes {
            return memory;
        }
    }
    Vec::with_capacity(bytes)
}

/// Why records are refused whose receipts would make a message larger than it may be.
pub(super) fn too_large(most: usize) -> Status {
    let problem = format!("their receipts would not fit {most} bytes; send fewer at a time");
    status::over_limit("records", &problem, "MESSAGE_TOO_LARGE", most)
}

/// What receipts of a plan take at most. The ids in them are the plan's own.
struct Most {
    /// Each, beside its record's document and the tasks that it lists.
    receipt: usize,
    /// Each task that it lists.
    candidate: usize,
}

impl Most {
    fn of(spec: &Spec) -> Self {
        let id = spec.index.longest_identity();
        Self {
            receipt: BYTES_BESIDE_TEXTS + id,
            candidate: BYTES_BESIDE_ID + id,
        }
    }
}

/// How many bytes receipts take at most.
fn bytes(receipts: &[Receipt], is_full: bool, spec: &Spec) -> usize {
    let most = Most::of(spec);
    let texts = receipts.iter().map(|receipt| {
        let document = match &receipt.held {
            Some(held) if is_full && has_record(receipt) => held.document.len(),
            _ => 0,
        };
        document + receipt.candidates.len() * most.candidate
    });
    receipts.len() * most.receipt + texts.sum::<usize>()
}

/// Checks, before records are applied, that their receipts can be sent. The documents that these are to have are as long as
/// `documents` says, one for each record; None if they are to have none.
///
/// # Errors
/// The receipts might be larger than a message may be.
pub(super) fn check(
    submissions: &[Submission<'_>],
    documents: Option<&[Range<usize>]>,
    spec: &Spec,
    limits: &Limits,
) -> Result<(), Status> {
    let (message, most) = (limits.message_bytes_max, Most::of(spec));
    let listed = CANDIDATES_LISTED * most.candidate;
    let document_bytes = match documents {
        Some([first, .., last]) => last.end - first.start,
        Some([only]) => only.len(),
        Some([]) | None => 0,
    };
    // Nearly always there is room for whatever becomes of them.
    if document_bytes + submissions.len() * (most.receipt + listed) <= message {
        return Ok(());
    }
    // A receipt has a document or a list, and no list if the record says whose it is and nothing else matters.
    let texts = submissions.iter().enumerate().map(|(n, submission)| {
        let document = documents.map_or(0, |documents| documents[n].len());
        match &submission.record {
            Ok(record)
                if spec.settings.strict_matching || spec.index.identify(&record.keys).is_none() =>
            {
                document.max(listed)
            }
            _ => document,
        }
    });
    if submissions.len() * most.receipt + texts.sum::<usize>() <= message {
        return Ok(());
    }
    Err(too_large(message))
}

/// Whether a receipt has its reconciled record, if its sender wants to have it.
fn has_record(receipt: &Receipt) -> bool {
    matches!(
        receipt.disposition,
        Disposition::Accepted | Disposition::SupersededPrevious
    )
}

/// A receipt by itself.
pub(super) fn message(receipt: &Receipt, spec: &Spec) -> proto::Receipt {
    let mut written = Vec::new();
    let whole = Written {
        receipt,
        position: 0,
        is_full: true,
        spec,
    };
    whole.write(&mut written);
    proto::Receipt::decode(&written[..]).unwrap_or_default()
}

/// What stands after the receipts in each `SubmitRecordResponse` and `SubmitRecordsResponse`: all say how the plan stands now,
/// unless that is not for the sender.
fn after_receipts(outcome: &Outcome) -> Vec<u8> {
    let mut out = Vec::new();
    if !outcome.is_of_one_task {
        let standing = &outcome.standing;
        let counts = convert::counts(&standing.counts);
        out.put_message(2, |out| counts.encode_raw(out));
        out.put_number(3, number(convert::plan_status(standing.status)));
        out.put_number(4, standing.sequence);
    }
    if let Some(committed) = outcome.committed {
        out.put_given_number(5, committed);
    }
    out
}

/// `Receipt` of the record at this position of its message.
struct Written<'a> {
    receipt: &'a Receipt,
    position: usize,
    /// With its reconciled record.
    is_full: bool,
    spec: &'a Spec,
}

impl Written<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let receipt = self.receipt;
        let (disposition, code) = disposition(receipt);
        let has_record = self.is_full && has_record(receipt);
        let task_id = |task: u32| self.spec.task_id(task).as_bytes();
        let held = receipt.held.as_ref();
        out.put_number(1, number(disposition));
        out.put_number(2, number(code));
        out.put_text(3, receipt.task.map_or(&[], task_id));
        out.put_number(4, number(convert::matched_by(receipt.matched_by)));
        out.put_number(5, held.map_or(0, |held| held.revision.into()));
        out.put_number(6, receipt.sequence);
        out.put_number(7, number(convert::task_status(receipt.status())));
        let is_successful = held.is_some_and(|held| held.verdict.successful);
        out.put_number(8, is_successful.into());
        if let Some(held) = held.filter(|_| has_record) {
            out.put_text(9, &held.document);
        }
        if !receipt.warnings.is_empty() {
            // A list of numbers, each of one byte.
            let warnings: SmallVec<[u8; 4]> = receipt.warnings.iter().map(warning).collect();
            out.put_text(10, &warnings);
        }
        for candidate in &receipt.candidates {
            out.put_text(11, task_id(*candidate));
        }
        if let Some(violation) = &receipt.violation {
            let field = format!("records[{}].{}", self.position, violation.field);
            out.put_message(12, |out| {
                out.put_text(1, field.as_bytes());
                out.put_text(2, violation.description.as_bytes());
                out.put_text(3, violation.reason.as_bytes());
                out.put_number(4, violation.limit);
            });
        }
        out.put_number(13, receipt.quarantine_id);
    }
}

/// An enum's number; none of those here is negative.
fn number(of: impl Into<i32>) -> u64 {
    u64::from(of.into().unsigned_abs())
}

fn disposition(receipt: &Receipt) -> (proto::Disposition, Code) {
    let over_quota = receipt
        .violation
        .as_deref()
        .is_some_and(|violation| violation.quota);
    match receipt.disposition {
        Disposition::Accepted => (proto::Disposition::Accepted, Code::Ok),
        Disposition::Duplicate => (proto::Disposition::Duplicate, Code::Ok),
        Disposition::SupersededPrevious => (proto::Disposition::SupersededPrevious, Code::Ok),
        Disposition::Unmatched => (proto::Disposition::Unmatched, Code::NotFound),
        Disposition::Ambiguous => (proto::Disposition::Ambiguous, Code::FailedPrecondition),
        Disposition::Late => (proto::Disposition::Late, Code::FailedPrecondition),
        Disposition::KeysDisagree => (proto::Disposition::KeysDisagree, Code::InvalidArgument),
        Disposition::Invalid => (proto::Disposition::Invalid, Code::InvalidArgument),
        Disposition::TooLarge if over_quota => {
            (proto::Disposition::TooLarge, Code::ResourceExhausted)
        }
        Disposition::TooLarge => (proto::Disposition::TooLarge, Code::InvalidArgument),
    }
}

fn warning(warning: &Warning) -> u8 {
    let warning = match warning {
        Warning::KeysDisagree => proto::Warning::KeysDisagree,
        Warning::FieldInBodyIgnored => proto::Warning::FieldInBodyIgnored,
        Warning::SessionNotLearnt => proto::Warning::SessionNotLearnt,
    };
    warning as u8
}
