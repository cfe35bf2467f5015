//! A long list read from two places at once: from its beginning, and from somewhere in its middle by another thread.
//!
//! Where in the middle an element begins is guessed. The guess was right if whoever reads from the beginning comes to that
//! very place when an element begins; if it was not, that one reads on, and what the other read counts for nothing.

use super::build::Builder;
use super::parse::Reader;
use super::{Error, Limits, Value};

/// Shorter texts are read before another thread has begun.
const LENGTH_MIN: usize = 256 << 10;
/// How far from the middle to look for the beginning of an element.
const LOOKED_AT: usize = 64 << 10;

/// A text that begins as a list, and where in its middle an element may begin.
#[derive(Debug)]
pub struct Halves<'t> {
    text: &'t str,
    middle: usize,
    limits: Limits,
}

impl<'t> Halves<'t> {
    /// `None` if the text is not worth it: it is short, no list, no UTF-8, or its middle does not look like a list of
    /// objects.
    #[must_use]
    pub fn of(text: &'t [u8], limits: Limits) -> Option<Self> {
        if text.len() < LENGTH_MIN || !text.trim_ascii_start().starts_with(b"[") {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let half = text.len() / 2;
        let looked_at = &text.as_bytes()[half..text.len().min(half + LOOKED_AT)];
        // The end of an object, a comma, and the beginning of another.
        let mut before = (0, 0);
        let mut begins = looked_at.iter().enumerate();
        let (begin, _) = begins.find(|(_, byte)| {
            if byte.is_ascii_whitespace() {
                return false;
            }
            let is_one = before == (b'}', b',') && **byte == b'{';
            before = (before.1, **byte);
            is_one
        })?;
        Some(Self {
            text,
            middle: half + begin,
            limits,
        })
    }

    /// The elements from the middle on, if the guess was right and nothing is wrong there.
    #[must_use]
    pub fn second(&self) -> Option<Vec<Value>> {
        let mut reader = Reader::within_list(self.text, self.middle, self.limits);
        let mut elements = Vec::new();
        let mut builder = Builder::default();
        let read = reader.elements_until(usize::MAX, |reader| {
            elements.push(builder.value(reader)?);
            Ok(())
        });
        read.and_then(|()| reader.end()).ok()?;
        Some(elements)
    }

    /// The document. `second` waits for what [`Halves::second`] answers; it is called when all before the middle is read.
    ///
    /// # Errors
    /// As [`parse`](super::parse()).
    pub fn whole(&self, second: impl FnOnce() -> Option<Vec<Value>>) -> Result<Value, Error> {
        let mut reader = Reader::of_text(self.text, self.limits);
        let mut elements = Vec::new();
        let mut builder = Builder::default();
        let mut element = |reader: &mut Reader<'_>| {
            elements.push(builder.value(reader)?);
            Ok(())
        };
        if reader.begin_list()? {
            reader.elements_until(self.middle, &mut element)?;
            if reader.depth() > 0 {
                if let Some(second) = second() {
                    elements.extend(second);
                    return Ok(Value::array(elements));
                }
                reader.elements_until(usize::MAX, &mut element)?;
            }
        }
        reader.end()?;
        Ok(Value::array(elements))
    }
}
