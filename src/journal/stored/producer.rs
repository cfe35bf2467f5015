//! What a plan remembers of a producer's records, stored and back.

use super::{Unreadable, generated, malformed, read_matched_by, store_matched_by};
use crate::engine::{Advance, Disposition, Remembered, Violation, Warning, Warnings};

words!(
    store_disposition,
    read_disposition,
    Disposition,
    [
        Accepted,
        Duplicate,
        SupersededPrevious,
        Unmatched,
        Ambiguous,
        Late,
        KeysDisagree,
        Invalid,
        TooLarge,
    ]
);
words!(
    store_warning,
    read_warning,
    Warning,
    [KeysDisagree, FieldInBodyIgnored, SessionNotLearnt]
);

pub(super) fn store(advance: &Advance) -> generated::ProducerAdvanced {
    let violation = |(position, violation): &(u32, Violation)| generated::Violation {
        position: *position,
        field: violation.field.to_owned(),
        description: violation.description.clone(),
        reason: violation.reason.to_owned(),
        limit: violation.limit,
        quota: violation.quota,
    };
    generated::ProducerAdvanced {
        producer: advance.producer.to_string(),
        first_offset: advance.first_offset,
        outcomes: advance.outcomes.iter().map(store_outcome).collect(),
        violations: advance.violations.iter().map(violation).collect(),
    }
}

fn store_outcome(outcome: &Remembered) -> generated::Remembered {
    generated::Remembered {
        sequence: outcome.sequence,
        held: outcome.held,
        task: outcome.task,
        disposition: store_disposition(outcome.disposition),
        matched_by: outcome.matched_by.map_or(0, store_matched_by),
        warnings: outcome.warnings.iter().map(store_warning).collect(),
    }
}

pub(super) fn read(stored: generated::ProducerAdvanced) -> Result<Advance, Unreadable> {
    let outcomes = stored.outcomes.into_iter().map(read_outcome);
    let violations = stored.violations.into_iter().map(read_violation);
    let advance = Advance {
        producer: stored.producer.into(),
        first_offset: stored.first_offset,
        outcomes: outcomes.collect::<Result<_, _>>()?,
        violations: violations.collect::<Result<_, _>>()?,
    };
    let end = advance
        .first_offset
        .checked_add(advance.outcomes.len() as u64);
    end.ok_or_else(|| malformed("a producer's offset is too large"))?;
    Ok(advance)
}

fn read_outcome(stored: generated::Remembered) -> Result<Remembered, Unreadable> {
    let warnings = stored.warnings.into_iter().map(read_warning);
    let warnings = warnings.collect::<Result<Vec<_>, _>>()?;
    let matched_by = (stored.matched_by != 0).then(|| read_matched_by(stored.matched_by));
    Ok(Remembered {
        sequence: stored.sequence,
        held: stored.held,
        task: stored.task,
        disposition: read_disposition(stored.disposition)?,
        matched_by: matched_by.transpose()?,
        warnings: Warnings::of(&warnings),
    })
}

fn read_violation(stored: generated::Violation) -> Result<(u32, Violation), Unreadable> {
    let word = |text: &str| {
        let unknown = || Unreadable::Later(format!("{text:?} is an unknown word of a violation"));
        Violation::word(text).ok_or_else(unknown)
    };
    let violation = Violation {
        field: word(&stored.field)?,
        description: stored.description,
        reason: word(&stored.reason)?,
        limit: stored.limit,
        quota: stored.quota,
    };
    Ok((stored.position, violation))
}
