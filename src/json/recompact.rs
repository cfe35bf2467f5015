//! Printing a document from its text: what is compact already is copied as it stands, the rest is put right on the way.

use std::fmt::Write;
use std::ops::Range;

use super::parse::plain_length;
use super::{Form, Limits, Number, Value, parse, write_string};

/// Deeper documents are left to the tree.
const DEPTH_MAX: usize = 64;
/// Objects of more members are left to the tree, which finds a repeated key among many faster.
const MEMBERS_MAX: usize = 64;

/// Appends to `out` what [`compact`](super::compact) prints of this document, without building a tree. If the document is
/// an object, `member` is told each of its keys, and where in `out` the value stands; a key comes once.
///
/// Answers `false`, with `out` as it was (`member` may have been told something), where only a tree will do: keys that are
/// repeated or have escapes, an object of more than 64 members, nesting deeper than 64 levels. The text has to be one JSON
/// document with nothing after it; of another text, whatever comes out is none.
#[must_use]
pub fn recompact(out: &mut String, text: &str, mut member: impl FnMut(&str, Range<usize>)) -> bool {
    print(out, text, &mut member).is_some()
}

/// Does what [`recompact`] does, faster where the text has the form of those before it, and answers where in `out` the
/// value of this member of the object stands, if there is one. Nothing where [`recompact`] answers `false`. The form is one
/// for this member's name.
#[must_use]
pub fn recompact_alike(
    form: &mut Form<()>,
    out: &mut String,
    text: &str,
    name: &str,
) -> Option<Option<Range<usize>>> {
    let before = out.len();
    if let Some(member) = print_alike(form, out, text) {
        return Some(member);
    }
    out.truncate(before);
    let mut member = None;
    let is_spaced = print(out, text, &mut |key, place| {
        if key == name {
            member = Some(place);
        }
    })?;
    // What stands between the values of this form is copied as it is.
    if !is_spaced {
        form.pass(text, Limits::default(), |key| (key == name).then_some(()));
    }
    Some(member)
}

/// Prints a text of the form that is known.
fn print_alike(form: &mut Form<()>, out: &mut String, text: &str) -> Option<Option<Range<usize>>> {
    let before = out.len();
    let mut member = None;
    form.find(text.as_bytes(), |(), place| member = Some(place))?;
    let at = |place: usize| before + place;
    let mut printed = member.clone().map(|place| at(place.start)..at(place.end));
    let mut copied = 0;
    for place in form.values() {
        let value = &text[place.clone()];
        if is_value_as_printed(value) {
            continue;
        }
        out.push_str(&text[copied..place.start]);
        copied = place.end;
        let length = out.len();
        write_value(out, value)?;
        let length = out.len() - length;
        // It moves what stands after it.
        if let (Some(printed), Some(member)) = (&mut printed, &member) {
            for (printed, unmoved) in [
                (&mut printed.start, member.start),
                (&mut printed.end, member.end),
            ] {
                if place.end <= unmoved {
                    *printed = *printed + length - value.len();
                }
            }
        }
    }
    out.push_str(&text[copied..]);
    Some(printed)
}

/// Whether a scalar value is sure to be printed as it stands.
fn is_value_as_printed(value: &str) -> bool {
    match value.as_bytes() {
        [b'"', text @ .., b'"'] => are_escapes_as_printed(text),
        [b'-' | b'0'..=b'9', ..] => is_as_printed(value),
        _ => true,
    }
}

fn are_escapes_as_printed(mut text: &[u8]) -> bool {
    loop {
        match &text[plain_length(text)..] {
            [] => return true,
            [b'\\', escaped, rest @ ..] if is_escape_as_printed(*escaped) => text = rest,
            _ => return false,
        }
    }
}

/// Whether a character is printed with a backslash and this after it.
fn is_escape_as_printed(escaped: u8) -> bool {
    matches!(escaped, b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f')
}

/// Prints a string or a number.
fn write_value(out: &mut String, value: &str) -> Option<()> {
    if !value.starts_with('"') {
        let _ = write!(out, "{}", Number::from_token(value)?);
        return Some(());
    }
    match parse(value.as_bytes(), Limits::default()) {
        Ok(Value::String(text)) => write_string(out, &text),
        _ => return None,
    }
    Some(())
}

/// Prints a text, and answers whether it had white space between its parts.
fn print(
    out: &mut String,
    text: &str,
    member: &mut impl FnMut(&str, Range<usize>),
) -> Option<bool> {
    let before = out.len();
    let mut printer = Printer {
        text,
        at: 0,
        copied: 0,
        is_spaced: false,
        out,
        keys: Vec::new(),
    };
    let whole = printer.document(member);
    let is_spaced = printer.is_spaced;
    if whole.is_none() {
        out.truncate(before);
    }
    whole.map(|()| is_spaced)
}

/// Goes through a text; what it has passed and not written yet is still to be copied.
struct Printer<'t, 'o> {
    text: &'t str,
    at: usize,
    copied: usize,
    /// Whether something was left out.
    is_spaced: bool,
    out: &'o mut String,
    /// Keys of the open objects, the innermost last.
    keys: Vec<&'t str>,
}

impl<'t> Printer<'t, '_> {
    fn document(&mut self, member: &mut impl FnMut(&str, Range<usize>)) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(0, member)?,
            _ => self.value(0)?,
        }
        self.copy();
        Some(())
    }

    /// The next byte that is not white space; what is, is left out.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        let next = *bytes.get(self.at)?;
        if next > b' ' {
            return Some(next);
        }
        self.copy();
        while bytes.get(self.at).is_some_and(|byte| *byte <= b' ') {
            self.at += 1;
        }
        self.copied = self.at;
        self.is_spaced = true;
        bytes.get(self.at).copied()
    }

    /// Writes what was passed.
    fn copy(&mut self) {
        self.out.push_str(&self.text[self.copied..self.at]);
        self.copied = self.at;
    }

    /// Where the next byte will be written.
    fn position(&self) -> usize {
        self.out.len() + self.at - self.copied
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(depth, &mut |_, _| {}),
            b'[' => self.list(depth),
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            b't' | b'n' => self.pass(4),
            b'f' => self.pass(5),
            _ => None,
        }
    }

    fn pass(&mut self, bytes: usize) -> Option<()> {
        self.at += bytes;
        (self.at <= self.text.len()).then_some(())
    }

    fn object(&mut self, depth: usize, member: &mut impl FnMut(&str, Range<usize>)) -> Option<()> {
        self.at += 1;
        if depth == DEPTH_MAX {
            return None;
        }
        let first = self.keys.len();
        while self.peek()? != b'}' {
            if self.keys.len() > first {
                self.at += 1;
                self.peek()?;
            }
            let key = self.string()?;
            let own = &self.keys[first..];
            if key.contains('\\') || own.len() == MEMBERS_MAX || own.contains(&key) {
                return None;
            }
            self.keys.push(key);
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.peek()?;
            let begin = self.position();
            self.value(depth + 1)?;
            member(key, begin..self.position());
        }
        self.at += 1;
        self.keys.truncate(first);
        Some(())
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if depth == DEPTH_MAX {
            return None;
        }
        let mut first = true;
        while self.peek()? != b']' {
            if !std::mem::take(&mut first) {
                self.at += 1;
            }
            self.value(depth + 1)?;
        }
        self.at += 1;
        Some(())
    }

    /// Passes a string and answers what stands between its quotes.
    fn string(&mut self) -> Option<&'t str> {
        let bytes = self.text.as_bytes();
        let begin = self.at;
        let mut at = begin + 1;
        let mut as_printed = true;
        loop {
            at += plain_length(bytes.get(at..)?);
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => as_printed &= is_escape_as_printed(*bytes.get(at + 1)?),
                _ => return None,
            }
            at += 2;
        }
        if as_printed {
            self.at = at + 1;
        } else {
            self.copy();
            write_value(self.out, &self.text[begin..=at])?;
            self.at = at + 1;
            self.copied = self.at;
        }
        Some(&self.text[begin + 1..at])
    }

    fn number(&mut self) -> Option<()> {
        let begin = self.at;
        let rest = &self.text.as_bytes()[begin..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte));
        let token = &self.text[begin..begin + length.unwrap_or(rest.len())];
        if is_as_printed(token) {
            self.at += token.len();
            return Some(());
        }
        self.copy();
        write_value(self.out, token)?;
        self.at += token.len();
        self.copied = self.at;
        Some(())
    }
}

/// Whether a number is sure to be printed as it stands: a whole one of any length, or a fraction of so few digits that no
/// shorter one means the same double, neither so small that it gets an exponent nor with a zero at its end.
fn is_as_printed(token: &str) -> bool {
    const DIGITS_MAX: usize = 15;
    const LEADING_ZEROS_MAX: usize = 5;
    let (token, is_negative) = match token.as_bytes() {
        [b'-', rest @ ..] => (rest, true),
        token => (token, false),
    };
    let whole = token.iter().take_while(|byte| byte.is_ascii_digit());
    let whole = whole.count();
    match &token[whole..] {
        // There is no negative zero in print.
        [] => !is_negative || token != b"0",
        [b'.', fraction @ ..] => {
            let zeros = fraction.iter().take_while(|byte| **byte == b'0').count();
            fraction.iter().all(u8::is_ascii_digit)
                && !fraction.ends_with(b"0")
                && whole + fraction.len() <= DIGITS_MAX
                && zeros <= LEADING_ZEROS_MAX
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, print_alike, recompact_alike};

    #[test]
    fn from_the_second_text_of_a_form_on_nothing_is_compared_but_what_stands_between_values() {
        let mut form = Form::default();
        let mut out = String::new();
        for _ in 0..2 {
            let text = r#"{"a":1,"name":["x",{"b":2.5}]}"#;
            assert_eq!(print_alike(&mut form, &mut out, text), None);
            assert_eq!(
                recompact_alike(&mut form, &mut out, text, "name"),
                Some(Some(14..29))
            );
            assert_eq!(std::mem::take(&mut out), text);
        }
        let other = r#"{"a":1e2,"name":["\/",{"b":-0}]}"#;
        assert_eq!(print_alike(&mut form, &mut out, other), Some(Some(16..29)));
        assert_eq!(out, r#"{"a":100,"name":["/",{"b":0}]}"#);
    }

    #[test]
    fn the_form_of_a_text_with_spaces_is_not_taken() {
        let mut form = Form::default();
        let mut out = String::new();
        for _ in 0..9 {
            let text = r#"{"a": 1}"#;
            assert_eq!(
                recompact_alike(&mut form, &mut out, text, "a"),
                Some(Some(5..6))
            );
            assert_eq!(std::mem::take(&mut out), r#"{"a":1}"#);
            assert_eq!(print_alike(&mut form, &mut out, text), None);
        }
    }
}
