//! Reading JSON text, strictly after RFC 8259, with the place of the first error.
//!
//! [`Reader`] is the one grammar in this project: the tree parser and the member scan both stand on it.

use std::borrow::Cow;
use std::fmt;

use super::build::Builder;
use super::{Number, Value, compact};

/// What a document may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Lists and objects inside each other.
    pub depth: usize,
    /// Bytes of one number.
    pub number_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 512,
            number_bytes: 1024,
        }
    }
}

/// Why a text is not a JSON document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Offset in bytes, from 0.
    pub offset: usize,
    /// What is wrong there, for example `expected ',' or ']'`.
    pub problem: String,
    /// The limit that was passed, if that is what is wrong rather than the grammar.
    pub limit: Option<usize>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.problem)
    }
}

impl std::error::Error for Error {}

/// A document that may have been written as one value or as JSON Lines.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// One value.
    One(Value),
    /// One value on each line.
    Lines(Vec<Value>),
}

/// Reads one document.
///
/// # Errors
/// The text is not UTF-8, is not exactly one JSON value, or passes a limit.
pub fn parse(text: &[u8], limits: Limits) -> Result<Value, Error> {
    let mut reader = Reader::new(text, limits)?;
    let value = Builder::default().value(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Reads a document that is either one value or several, one after the other (JSON Lines). A single object counts as
/// one line, so that one record can be piped in as it is. Lists are no lines: several of them are most likely files that
/// were put together, whose elements must not be lost in what looks like a few odd values.
///
/// # Errors
/// As [`parse`]; the place is that in the whole text. A list among several values, and a value other than an object on the
/// line of another.
pub fn parse_lines(text: &[u8], limits: Limits) -> Result<Parsed, Error> {
    let mut reader = Reader::new(text, limits)?;
    let mut builder = Builder::default();
    let first = builder.value(&mut reader)?;
    if matches!(first, Value::Array(_)) {
        reader.end()?;
    }
    let mut end = reader.position();
    if reader.peek().is_none() && !matches!(first, Value::Object(_)) {
        return Ok(Parsed::One(first));
    }
    let mut lines = vec![first];
    while let Some(begin) = reader.peek() {
        let between = &reader.text[end..reader.position()];
        if begin == b'[' {
            return Err(reader.error("expected an object on each line"));
        }
        if begin != b'{' && !between.contains('\n') {
            return Err(reader.error("expected the end of the line"));
        }
        lines.push(builder.value(&mut reader)?);
        end = reader.position();
    }
    Ok(Parsed::Lines(lines))
}

/// A position in a JSON text, and the grammar's steps from it. Every step either consumes what it names or fails.
pub(super) struct Reader<'t> {
    text: &'t str,
    position: usize,
    depth: usize,
    limits: Limits,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t [u8], limits: Limits) -> Result<Self, Error> {
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Self::of_text(text, limits)),
            Err(error) => {
                let valid = String::from_utf8_lossy(&text[..error.valid_up_to()]);
                Err(error_in(&valid, valid.len(), "invalid UTF-8".into(), None))
            }
        }
    }

    /// A reader of a text.
    pub(super) fn of_text(text: &'t str, limits: Limits) -> Self {
        Self {
            text,
            position: 0,
            depth: 0,
            limits,
        }
    }

    /// A reader of a list's elements, from where one of them begins; there is nothing around the list.
    pub(super) fn within_list(text: &'t str, position: usize, limits: Limits) -> Self {
        Self {
            text,
            position,
            depth: 1,
            limits,
        }
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.position) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.position += 1;
        }
        None
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// How many lists and objects are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Requires that nothing but white space is left.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("expected the end of the document")),
        }
    }

    /// Reads an object, handing each key to `member`, which must consume the value.
    pub(super) fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'t, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.open(b'{', "expected an object")?;
        if self.peek() == Some(b'}') {
            return self.close();
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key in quotes"));
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.error("expected ':'"));
            }
            self.position += 1;
            member(self, key)?;
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => return self.close(),
                _ => return Err(self.error("expected ',' or '}'")),
            }
        }
    }

    /// Reads a list, calling `element` for each value, which must consume it.
    pub(super) fn elements(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.begin_list()? {
            self.elements_until(usize::MAX, &mut element)?;
        }
        Ok(())
    }

    /// Opens a list, and answers whether it has elements. One that has none is closed.
    pub(super) fn begin_list(&mut self) -> Result<bool, Error> {
        self.open(b'[', "expected a list")?;
        if self.peek() == Some(b']') {
            self.close()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads elements of a list to its end, or until one begins at `stop`.
    pub(super) fn elements_until(
        &mut self,
        stop: usize,
        mut element: impl FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => return self.close(),
                _ => return Err(self.error("expected ',' or ']'")),
            }
            self.peek();
            if self.position == stop {
                return Ok(());
            }
        }
    }

    fn open(&mut self, bracket: u8, expected: &str) -> Result<(), Error> {
        if self.peek() != Some(bracket) {
            return Err(self.error(expected));
        }
        if self.depth == self.limits.depth {
            let problem = format!("nested deeper than {} levels", self.limits.depth);
            let limit = Some(self.limits.depth);
            return Err(error_in(self.text, self.position, problem, limit));
        }
        self.depth += 1;
        self.position += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        self.depth -= 1;
        self.position += 1;
        Ok(())
    }

    /// Reads a string; borrowed if it holds no escapes.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Cow<'t, str>, Error> {
        let start = self.position + 1;
        self.position = start;
        if self.plain_run() == Some(b'"') {
            self.position += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.position - 1]));
        }
        self.rest_of_string(start).map(Cow::Owned)
    }

    /// Reads on where a string that begins at `start` is no longer plain.
    fn rest_of_string(&mut self, start: usize) -> Result<String, Error> {
        let mut text = String::new();
        let mut copied = start;
        loop {
            let stop = self.plain_run();
            text.push_str(&self.text[copied..self.position]);
            match stop {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    text.push(self.escape()?);
                    copied = self.position;
                }
                Some(_) => return Err(self.error("control character in a string; escape it")),
                None => return Err(self.error("expected '\"' at the end of a string")),
            }
        }
    }

    /// Moves to the next quote, backslash or control character and says which it is.
    fn plain_run(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.position..];
        let length = plain_length(rest);
        self.position += length;
        rest.get(length).copied()
    }

    fn escape(&mut self) -> Result<char, Error> {
        let start = self.position;
        let bytes = self.text.as_bytes();
        let escaped = bytes.get(start + 1).copied();
        self.position += 2;
        Ok(match escaped {
            Some(c @ (b'"' | b'\\' | b'/')) => c.into(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.code_unit(start)?;
                let code = match unit {
                    0xd800..=0xdbff if bytes[self.position..].starts_with(b"\\u") => {
                        self.position += 2;
                        let low = self.code_unit(start)?;
                        let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400);
                        low.map(|low| 0x1_0000 + ((unit - 0xd800) << 10) + low)
                    }
                    _ => Some(unit),
                };
                code.and_then(char::from_u32)
                    .ok_or_else(|| self.error_at(start, "lone surrogate in a string"))?
            }
            _ => return Err(self.error_at(start, "unknown escape in a string")),
        })
    }

    fn code_unit(&mut self, start: usize) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.position..self.position + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let unit = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.error_at(start, "expected four hex digits after \\u"))?;
        self.position += 4;
        Ok(unit)
    }

    /// Reads a number and answers its token.
    pub(super) fn number(&mut self) -> Result<&'t str, Error> {
        let start = self.position;
        if self.byte() == Some(b'-') {
            self.position += 1;
        }
        match self.byte() {
            Some(b'0') => self.position += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.position += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits()?;
        }
        if self.position - start > self.limits.number_bytes {
            let problem = format!("number longer than {} bytes", self.limits.number_bytes);
            let limit = Some(self.limits.number_bytes);
            return Err(error_in(self.text, start, problem, limit));
        }
        Ok(&self.text[start..self.position])
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.position;
        while self.byte().is_some_and(|b| b.is_ascii_digit()) {
            self.position += 1;
        }
        if self.position == start {
            Err(self.error("expected a digit"))
        } else {
            Ok(())
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    /// Reads `true`, `false` or `null`.
    pub(super) fn word(&mut self) -> Result<&'static str, Error> {
        self.peek();
        let rest = &self.text.as_bytes()[self.position..];
        for word in ["true", "false", "null"] {
            if rest.starts_with(word.as_bytes()) {
                self.position += word.len();
                return Ok(word);
            }
        }
        Err(self.error("expected a value"))
    }

    /// Reads any value and answers its text.
    pub(super) fn skip(&mut self) -> Result<&'t str, Error> {
        let first = self.peek();
        let start = self.position;
        match first {
            Some(b'{') => self.members(|reader, _| reader.skip().map(drop))?,
            Some(b'[') => self.elements(|reader| reader.skip().map(drop))?,
            Some(b'"') => drop(self.string()?),
            Some(b'-' | b'0'..=b'9') => {
                let token = self.number()?;
                if Number::from_token(token).is_none() {
                    return Err(self.error_at(start, "number is beyond the range of a double"));
                }
            }
            _ => drop(self.word()?),
        }
        Ok(&self.text[start..self.position])
    }

    fn error(&self, problem: &str) -> Error {
        self.error_at(self.position, problem)
    }

    pub(super) fn error_at(&self, offset: usize, problem: &str) -> Error {
        let found = match self.text[offset.min(self.text.len())..].chars().next() {
            None => ", found the end of the document".to_owned(),
            Some(c) if problem.starts_with("expected") => {
                format!(", found {}", compact(&Value::string(&c.to_string())))
            }
            Some(_) => String::new(),
        };
        error_in(self.text, offset, format!("{problem}{found}"), None)
    }
}

/// How many of the first bytes are neither a quote nor a backslash nor a control character. Most texts are short; of a long
/// one, sixteen at a time.
pub(super) fn plain_length(bytes: &[u8]) -> usize {
    let Some((first, rest)) = bytes.split_first_chunk::<16>() else {
        return plain_length_by_words(bytes);
    };
    let length = plain_length_by_words(first);
    if length < first.len() {
        return length;
    }
    let (chunks, _) = rest.as_chunks::<16>();
    let is_plain = |chunk: &&[u8; 16]| !chunk.iter().fold(false, |any, byte| any | is_stop(*byte));
    let plain = chunks.iter().take_while(is_plain).count();
    let length = length + 16 * plain;
    length + plain_length_by_words(&bytes[length..])
}

/// The same, eight at a time, the last of them perhaps once more.
#[inline]
fn plain_length_by_words(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (nth, word) in words.iter().enumerate() {
        let stops = stops(u64::from_le_bytes(*word));
        if stops != 0 {
            return nth * 8 + stops.trailing_zeros() as usize / 8;
        }
    }
    let rest_is_plain = match (
        bytes.last_chunk::<8>(),
        rest.first_chunk(),
        rest.last_chunk(),
    ) {
        (Some(last), ..) => stops(u64::from_le_bytes(*last)) == 0,
        (None, Some(first), Some(last)) => {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            stops(u64::from(first) | u64::from(last) << 32) == 0
        }
        _ => false,
    };
    if rest_is_plain {
        return bytes.len();
    }
    let place = rest.iter().position(|byte| is_stop(*byte));
    bytes.len() - rest.len() + place.unwrap_or(rest.len())
}

/// Whether it is a quote, a backslash or a control character. With one bit turned over, a quote comes right after the
/// control characters, and no other does.
fn is_stop(byte: u8) -> bool {
    (byte ^ 2 <= b' ') | (byte == b'\\')
}

/// Each byte of the word is a lane, whose highest bit is set if the byte is a [stop](is_stop). A borrow can set bits wrongly
/// only above a lane where one is set rightly, so the lowest is right, and so is none.
fn stops(word: u64) -> u64 {
    const LANES: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = LANES << 7;
    let (turned, backslash) = (word ^ (LANES * 2), word ^ (LANES * u64::from(b'\\')));
    let stops = (turned.wrapping_sub(LANES * u64::from(b' ' + 1)) & !turned)
        | (backslash.wrapping_sub(LANES) & !backslash);
    stops & HIGHEST
}

fn error_in(text: &str, offset: usize, problem: String, limit: Option<usize>) -> Error {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Error {
        line: 1 + before.bytes().filter(|b| *b == b'\n').count(),
        column: 1 + before[line_start..].chars().count(),
        offset,
        problem,
        limit,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::plain_length;

    /// Byte for byte.
    fn first_stop(bytes: &[u8]) -> usize {
        let is_stop = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
        bytes.iter().position(is_stop).unwrap_or(bytes.len())
    }

    #[test]
    fn any_byte_ends_what_is_plain_or_does_not_wherever_it_stands() {
        for length in 1..70 {
            for (place, byte) in
                (0..length).flat_map(|place| (0..=255).map(move |byte| (place, byte)))
            {
                let mut bytes = vec![b'!'; length];
                bytes[place] = byte;
                assert_eq!(
                    plain_length(&bytes),
                    first_stop(&bytes),
                    "{byte} at {place} of {length}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_text_is_plain_up_to_its_first_stop(
            bytes in prop::collection::vec(prop_oneof![30 => b'#'..=b'[', 1 => any::<u8>()], 0..200),
        ) {
            prop_assert_eq!(plain_length(&bytes), first_stop(&bytes));
        }
    }
}
