//! Names of subjects: `STREAM.plan.PLAN`, with a plan's name as a single token that can be read.

use crate::journal::Error;

/// Longest subject. A server takes lines of at most 4,096 bytes, and some have another name beside this.
const SUBJECT_BYTES_MAX: usize = 3_500;

/// What all subjects of a stream have.
pub(super) fn all(stream: &str) -> String {
    format!("{stream}.plan.*")
}

/// The subject of a plan: letters, digits and `-` as they are, all else as `_` and two hex digits for each byte.
///
/// # Errors
/// It would be too long.
pub(super) fn of(stream: &str, plan_id: &str) -> Result<String, Error> {
    let mut subject = format!("{stream}.plan.");
    for byte in plan_id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            subject.push('_');
            for digit in [byte >> 4, byte & 15] {
                subject.extend(char::from_digit(digit.into(), 16));
            }
        }
    }
    if subject.len() > SUBJECT_BYTES_MAX {
        return Err(Error::Full(format!(
            "the plan's subject would be {} bytes long, and the longest is {SUBJECT_BYTES_MAX}",
            subject.len()
        )));
    }
    Ok(subject)
}

/// The plan of a subject; `None` if it is none of ours.
pub(super) fn plan_of(stream: &str, subject: &str) -> Option<String> {
    let token = subject.strip_prefix(stream)?.strip_prefix(".plan.")?;
    let mut plan_id = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'_' {
            plan_id.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        plan_id.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(plan_id).ok()
}

#[cfg(test)]
mod tests {
    use super::{of, plan_of};

    #[test]
    fn a_subject_is_one_token_and_can_be_read() {
        let subject = of("fanout", "Nightly-7:a.b *>_ü");
        assert_eq!(
            subject.as_deref(),
            Ok("fanout.plan.Nightly-7_3aa_2eb_20_2a_3e_5f_c3_bc")
        );
        for plan_id in ["p", "Nightly-7:a.b *>_ü", "\u{202e}", "_", "__20"] {
            let back = of("s", plan_id)
                .ok()
                .and_then(|subject| plan_of("s", &subject));
            assert_eq!(back.as_deref(), Some(plan_id));
        }
    }

    #[test]
    fn what_is_no_subject_of_a_plan_is_not_taken_for_one() {
        for subject in [
            "other.plan.p",
            "fanout.p",
            "fanout.plan._2",
            "fanout.plan._zz",
            "fanout.plan._ff",
        ] {
            assert_eq!(plan_of("fanout", subject), None, "{subject}");
        }
    }

    #[test]
    fn a_name_that_would_make_too_long_a_subject_is_refused() {
        assert!(of("fanout", &" ".repeat(1_024)).is_ok());
        assert!(of("fanout", &" ".repeat(2_000)).is_err());
    }
}
