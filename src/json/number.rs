//! Numbers: exact integers of any length, doubles otherwise.

use std::fmt;
use std::sync::Arc;

/// A JSON number. Integers written without fraction or exponent stay exact; everything else is a double.
#[derive(Clone, Debug)]
pub enum Number {
    /// An integer of at most 64 bits.
    Int(i64),
    /// An integer above `i64::MAX` of at most 64 bits.
    UInt(u64),
    /// A longer integer: its digits, with a minus sign if it is negative. Rare, so it must not make all others large.
    Digits(Arc<String>),
    /// Anything written with a fraction or an exponent. Always finite.
    Float(f64),
}

impl Number {
    /// Reads a number token that the grammar has already accepted. `None`: beyond the range of a double.
    pub(super) fn from_token(token: &str) -> Option<Self> {
        if token.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
            let value: f64 = token.parse().ok()?;
            return value.is_finite().then_some(Self::Float(value));
        }
        Some(match (token.parse::<i64>(), token.parse::<u64>()) {
            (Ok(value), _) => Self::Int(value),
            (_, Ok(value)) => Self::UInt(value),
            _ => Self::Digits(Arc::new(token.to_owned())),
        })
    }

    /// Whether the number is zero; `-0` and `0.0` are.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Int(value) => *value == 0,
            Self::UInt(_) | Self::Digits(_) => false,
            Self::Float(value) => *value == 0.0,
        }
    }

    /// Appends the number as it prints.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Int(value) => out.push_str(itoa::Buffer::new().format(*value)),
            Self::UInt(value) => out.push_str(itoa::Buffer::new().format(*value)),
            Self::Digits(digits) => out.push_str(digits),
            Self::Float(value) => out.push_str(ryu_js::Buffer::new().format_finite(*value)),
        }
    }

    /// The number as a double, rounded if it is a long integer.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rounding is what is asked for")]
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::Int(value) => *value as f64,
            Self::UInt(value) => *value as f64,
            Self::Digits(digits) => digits.parse().unwrap_or(f64::INFINITY),
            Self::Float(value) => *value,
        }
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        i64::try_from(value).map_or(Self::UInt(value as u64), Self::Int)
    }
}

/// The number as JSON prints it, after ECMAScript: `1.0` is `1`, `1e21` is `1e+21`, `-0` is `0`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

/// Numbers are equal if they print the same.
impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::UInt(a), Self::UInt(b)) => a == b,
            (Self::Digits(a), Self::Digits(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            _ => self.to_string() == other.to_string(),
        }
    }
}
