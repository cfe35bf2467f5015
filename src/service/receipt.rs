//! Receipts as they go out: written once, straight into the message that is sent.

use prost::Message as _;
use prost::bytes::BytesMut;
use smallvec::SmallVec;
use tonic::{Code, Status};

use super::framing::{self, Framed};
use super::{convert, status};
use crate::config::Limits;
use crate::coordinator::Standing;
use crate::engine::{Disposition, Receipt, Spec, Warning};
use crate::proto;
use crate::proto::records::PutFields;

/// What a receipt takes beside its record's document: its numbers, and ids of usual length.
pub(super) const BYTES_BESIDE_DOCUMENT: usize = 256;

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
    /// Leaves out what tells of the plan, and of tasks that are not the sender's.
    pub(super) fn keep_to_its_own(&mut self) {
        self.is_of_one_task = true;
        for receipt in &mut self.receipts {
            receipt.sequence = 0;
            receipt.quarantine_id = 0;
            receipt.warnings.clear();
            receipt.candidates.clear();
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

/// Writes the answers to messages, in the order of these. `room` is where they are written; nothing is left in it.
///
/// # Errors
/// Records that are sent again are answered with what they were then, and a message would be larger than it may be.
pub(super) fn answers(
    room: &mut BytesMut,
    outcome: &Outcome,
    asked: &[Asked],
    spec: &Spec,
    limits: &Limits,
) -> Result<Framed, Status> {
    // All say how the plan stands now.
    let counts = convert::counts(&outcome.standing.counts).encode_to_vec();
    let mut begin = 0;
    for &Asked { end, is_full } in asked {
        let receipts = &outcome.receipts[begin..end];
        begin = end;
        let bytes = receipts.iter().map(|receipt| bytes(receipt, is_full)).sum();
        let most = limits.message_bytes_max;
        if bytes > most && receipts.iter().any(|receipt| receipt.is_remembered) {
            room.clear();
            return Err(too_large(most));
        }
        let standing = (!outcome.is_of_one_task).then_some(&outcome.standing);
        room.reserve(bytes);
        let answer = Answer {
            receipts,
            is_full,
            standing: standing.map(|standing| (&counts[..], standing)),
            committed: outcome.committed,
            spec,
        };
        framing::put_by(room, |room| answer.write(room));
    }
    Ok(Framed::of(room.split().freeze()))
}

/// Why records are refused whose receipts would make a message larger than it may be.
pub(super) fn too_large(most: usize) -> Status {
    let problem = format!("their receipts would not fit {most} bytes; send fewer at a time");
    status::over_limit("records", &problem, "MESSAGE_TOO_LARGE", most)
}

/// About how many bytes a receipt takes.
fn bytes(receipt: &Receipt, is_full: bool) -> usize {
    let held = receipt.held.as_ref().filter(|_| is_full);
    BYTES_BESIDE_DOCUMENT + held.map_or(0, |held| held.document.len())
}

/// A receipt by itself.
pub(super) fn message(receipt: &Receipt, spec: &Spec) -> proto::Receipt {
    let mut written = BytesMut::new();
    let whole = Written {
        receipt,
        position: 0,
        is_full: true,
        spec,
    };
    whole.write(&mut written);
    proto::Receipt::decode(written).unwrap_or_default()
}

/// `SubmitRecordResponse` and `SubmitRecordsResponse`.
struct Answer<'a> {
    receipts: &'a [Receipt],
    is_full: bool,
    /// Where the plan stands, and its counts, encoded; unless that is not for the sender.
    standing: Option<(&'a [u8], &'a Standing)>,
    committed: Option<u64>,
    spec: &'a Spec,
}

impl Answer<'_> {
    fn write(&self, out: &mut BytesMut) {
        let (is_full, spec) = (self.is_full, self.spec);
        for (position, receipt) in self.receipts.iter().enumerate() {
            let receipt = Written {
                receipt,
                position,
                is_full,
                spec,
            };
            out.put_message(1, |out| receipt.write(out));
        }
        if let Some((counts, standing)) = self.standing {
            out.put_encoded(2, counts);
            out.put_number(3, number(convert::plan_status(standing.status)));
            out.put_number(4, standing.sequence);
        }
        if let Some(committed) = self.committed {
            out.put_given_number(5, committed);
        }
    }
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
    fn write(&self, out: &mut BytesMut) {
        let receipt = self.receipt;
        let (disposition, code) = disposition(receipt);
        let has_record = self.is_full
            && matches!(
                receipt.disposition,
                Disposition::Accepted | Disposition::SupersededPrevious
            );
        let task_id = |task: u32| self.spec.task_id(task).as_bytes();
        out.put_number(1, number(disposition));
        out.put_number(2, number(code));
        out.put_text(3, receipt.task.map_or(&[], task_id));
        out.put_number(4, number(convert::matched_by(receipt.matched_by)));
        if let Some(held) = &receipt.held {
            out.put_number(5, held.revision.into());
        }
        out.put_number(6, receipt.sequence);
        out.put_number(7, number(convert::task_status(receipt.status())));
        if let Some(held) = &receipt.held {
            out.put_number(8, held.verdict.successful.into());
            if has_record {
                out.put_text(9, &held.document);
            }
        }
        // A list of numbers, each of one byte.
        let warnings: SmallVec<[u8; 4]> = receipt.warnings.iter().map(warning).collect();
        out.put_text(10, &warnings);
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
