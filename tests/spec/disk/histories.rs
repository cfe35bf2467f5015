//! Arbitrary histories: every event, with every word there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout::engine::{
    Advance, Completion, Disposition, EndReason, Entry, Event, Held, MatchedBy, QuarantineReason,
    Quarantined, RecordKind, Remembered, Resolution, Resolved, SealRule, SignOfLife, Status, Terms,
    Timestamp, Verdict, Violation, Warning, Warnings,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::arbitrary;

fn document() -> impl Strategy<Value = Bytes> {
    arbitrary::object_text().prop_map(Bytes::from)
}

fn words() -> impl Strategy<Value = Arc<str>> {
    ".{0,9}".prop_map(Arc::from)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let status = select(&[Status::Completed, Status::Failed, Status::MissingRecord][..]);
    (status, any::<bool>()).prop_map(|(status, successful)| Verdict { status, successful })
}

fn kind() -> impl Strategy<Value = RecordKind> {
    select(
        &[
            RecordKind::Result,
            RecordKind::Started,
            RecordKind::Progress,
        ][..],
    )
}

fn event(sequence: u64, at: Timestamp) -> impl Strategy<Value = Event> {
    let matched_by = select(
        &[
            MatchedBy::TaskId,
            MatchedBy::Id,
            MatchedBy::SandboxSessionId,
            MatchedBy::GroupKey,
            MatchedBy::Operator,
        ][..],
    );
    let quarantine_reason = select(
        &[
            QuarantineReason::Unmatched,
            QuarantineReason::Ambiguous,
            QuarantineReason::Late,
            QuarantineReason::KeysDisagree,
            QuarantineReason::NotFirst,
        ][..],
    );
    let end_reason = select(
        &[
            EndReason::AllRecorded,
            EndReason::Sealed,
            EndReason::Deadline,
            EndReason::Cancelled,
            EndReason::ToleranceExceeded,
            EndReason::MinimumReached,
        ][..],
    );
    let accepted = (any::<(u32, u32, bool)>(), verdict(), matched_by, document());
    let accepted = accepted.prop_map(
        move |((task, revision, has_outcome), verdict, by, document)| {
            Event::RecordAccepted(Arc::new(Held {
                task,
                revision,
                sequence,
                at,
                verdict,
                has_outcome,
                matched_by: by,
                document,
            }))
        },
    );
    let progressed = (any::<u32>(), kind(), words(), document());
    let progressed = progressed.prop_map(move |(task, kind, session, document)| {
        Event::TaskProgressed(Arc::new(SignOfLife {
            task,
            sequence,
            at,
            kind,
            session: (*session).into(),
            document,
        }))
    });
    let learnt = (words(), any::<u32>());
    let learnt = learnt.prop_map(|(session, task)| Event::SessionLearnt { session, task });
    let numbers = any::<(u64, Vec<u32>, bool)>();
    let quarantined = (numbers, quarantine_reason, kind(), verdict(), document());
    let quarantined = quarantined.prop_map(
        move |((id, candidates, has_outcome), reason, kind, verdict, document)| {
            Event::RecordQuarantined(Arc::new(Quarantined {
                id,
                sequence,
                at,
                reason,
                candidates,
                kind,
                verdict,
                has_outcome,
                document,
            }))
        },
    );
    let resolved = (any::<(u64, Option<u32>)>(), words());
    let resolved = resolved.prop_map(|((id, rematched), note)| {
        let resolution = rematched.map_or(Resolution::Discarded, Resolution::Rematched);
        let resolved = Arc::new(Resolved { resolution, note });
        Event::QuarantineResolved { id, resolved }
    });
    let advanced = advance().prop_map(|advance| Event::ProducerAdvanced(Arc::new(advance)));
    let ended = (end_reason, words());
    let ended = ended.prop_map(|(reason, note)| Event::PlanEnded { reason, note });
    prop_oneof![
        accepted,
        progressed,
        learnt,
        quarantined,
        resolved,
        advanced,
        ended
    ]
}

fn advance() -> impl Strategy<Value = Advance> {
    let disposition = select(
        &[
            Disposition::Accepted,
            Disposition::Duplicate,
            Disposition::SupersededPrevious,
            Disposition::Unmatched,
            Disposition::Ambiguous,
            Disposition::Late,
            Disposition::KeysDisagree,
            Disposition::Invalid,
            Disposition::TooLarge,
        ][..],
    );
    let matched_by = prop::option::of(select(&[MatchedBy::TaskId, MatchedBy::GroupKey][..]));
    let warnings = prop::sample::subsequence(
        vec![
            Warning::KeysDisagree,
            Warning::FieldInBodyIgnored,
            Warning::SessionNotLearnt,
        ],
        0..=3,
    );
    let outcome = (
        any::<(u64, u64, Option<u32>)>(),
        disposition,
        matched_by,
        warnings,
    );
    let outcome = outcome.prop_map(
        |((sequence, held, task), disposition, matched_by, warnings)| Remembered {
            sequence,
            held,
            task,
            disposition,
            matched_by,
            warnings: Warnings::of(&warnings),
        },
    );
    let word = || select(&Violation::WORDS[..]);
    let violation = (any::<(u32, u64, bool)>(), word(), word(), ".{0,9}");
    let violation = violation.prop_map(|((position, limit, quota), field, reason, description)| {
        let violation = Violation {
            field,
            description,
            reason,
            limit,
            quota,
        };
        (position, violation)
    });
    let outcomes = prop::collection::vec(outcome, 0..4);
    let violations = prop::collection::vec(violation, 0..3);
    (words(), any::<u32>(), outcomes, violations).prop_map(
        |(producer, first_offset, outcomes, violations)| Advance {
            producer,
            first_offset: first_offset.into(),
            outcomes,
            violations,
        },
    )
}

pub(super) fn history() -> impl Strategy<Value = Vec<Arc<Entry>>> {
    let times = prop::collection::vec(any::<u64>().prop_map(Timestamp), 1..30);
    times.prop_flat_map(|times| {
        let entries = (2..).zip(times).map(|(sequence, at)| {
            event(sequence, at).prop_map(move |event| {
                Arc::new(Entry {
                    sequence,
                    at,
                    event,
                })
            })
        });
        entries.collect::<Vec<_>>()
    })
}

pub(super) fn terms() -> impl Strategy<Value = Terms> {
    let rules = any::<(bool, Option<u64>, Option<u64>, Option<f64>)>();
    let labels = prop::collection::btree_map(".{0,5}", ".{0,5}", 0..4);
    let times = any::<(Option<u64>, Duration, u64)>();
    (words(), ".{0,5}", labels, rules, times).prop_map(
        |(plan_id, digest, labels, rules, (deadline, retention, created_at))| {
            let completion = Completion {
                seal_rule: if rules.0 {
                    SealRule::Explicit
                } else {
                    SealRule::WhenAllRecorded
                },
                min_successful: rules.1,
                tolerated_failure_count: rules.2,
                tolerated_failure_percentage: rules.3.filter(|share| !share.is_nan()),
            };
            Terms {
                plan_id,
                digest,
                labels,
                completion,
                deadline: deadline.map(Timestamp),
                retention,
                created_at: Timestamp(created_at),
            }
        },
    )
}
