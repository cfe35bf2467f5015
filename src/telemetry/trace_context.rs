//! W3C Trace Context's `traceparent`: which trace something belongs to, and which span it follows from.
//!
//! `tracestate` is what vendors add for themselves; it is not kept.

use std::fmt;
use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// A `traceparent`, as <https://www.w3.org/TR/trace-context/> has it: `00-TRACE-SPAN-FLAGS`, in lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace: u128,
    /// The span that is the parent; never 0.
    pub span: u64,
    /// Whether the parent is recorded.
    pub is_sampled: bool,
}

/// It is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 00-TRACE-SPAN-FLAGS with 32, 16 and 2 lower-case hex digits")]
pub struct NoTraceparent;

/// Lengths of version, trace, span and flags.
const DIGITS: [usize; 4] = [2, 32, 16, 2];

impl FromStr for TraceContext {
    type Err = NoTraceparent;

    /// Reads version 00; of later versions what is the same, as the recommendation has it.
    fn from_str(text: &str) -> Result<Self, NoTraceparent> {
        let mut parts = text.split('-');
        let mut numbers = [0; DIGITS.len()];
        for (number, digits) in numbers.iter_mut().zip(DIGITS) {
            let part = parts.next().ok_or(NoTraceparent)?;
            let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
            if part.len() != digits || !part.bytes().all(is_hex) {
                return Err(NoTraceparent);
            }
            *number = u128::from_str_radix(part, 16).map_err(|_| NoTraceparent)?;
        }
        let [version, trace, span, flags] = numbers;
        let is_known = version == 0 && parts.next().is_none();
        let is_later = (1..0xff).contains(&version);
        let span = u64::try_from(span).map_err(|_| NoTraceparent)?;
        if trace == 0 || span == 0 || !(is_known || is_later) {
            return Err(NoTraceparent);
        }
        Ok(Self {
            trace,
            span,
            is_sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

impl TraceContext {
    /// The context of a span; nothing for the one that stands for none.
    pub(super) fn of(span: &SpanContext) -> Option<Self> {
        span.is_valid().then(|| Self {
            trace: u128::from_be_bytes(span.trace_id().to_bytes()),
            span: u64::from_be_bytes(span.span_id().to_bytes()),
            is_sampled: span.is_sampled(),
        })
    }

    pub(super) fn remote(self) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.is_sampled);
        let (trace, span) = (self.trace.to_be_bytes(), self.span.to_be_bytes());
        let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
        SpanContext::new(trace, span, flags, true, TraceState::NONE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NoTraceparent, TraceContext};

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        let read = TraceContext {
            trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0xb7ad_6b71_6920_3331,
            is_sampled: true,
        };
        assert_eq!(TEXT.parse(), Ok(read));
        assert_eq!(read.to_string(), TEXT);
        let later = TEXT.replacen("00", "cc", 1) + "-what-will-be";
        assert_eq!(later.parse(), Ok(read));
        assert_eq!(TraceContext::of(&read.remote()), Some(read));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NoTraceparent), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_context_is_read_back(trace in 1_u128.., span in 1_u64.., is_sampled: bool) {
            let context = TraceContext { trace, span, is_sampled };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }

        #[test]
        fn no_text_is_too_strange(text in any::<String>()) {
            let _ = text.parse::<TraceContext>();
        }
    }
}
