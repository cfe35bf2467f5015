//! Printing: compact for embedding and the wire, pretty for files, both byte for byte as ECMAScript prints.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use super::parse::plain_length;
use super::{Object, Shape, Value};

/// The value without white space.
#[must_use]
pub fn compact(value: &Value) -> String {
    let mut out = String::new();
    let whole = write_compact_within(&mut out, value, usize::MAX);
    debug_assert!(whole, "no text is longer than the address space");
    out
}

/// Appends the value without white space, and stops with `false` soon after `out` is longer than `limit` bytes.
/// Values share what they embed, so a small one can print very large.
#[must_use]
pub fn write_compact_within(out: &mut String, value: &Value, limit: usize) -> bool {
    match value {
        Value::Array(values) => {
            out.push('[');
            for (position, value) in values.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                if !write_compact_within(out, value, limit) {
                    return false;
                }
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (position, (key, value)) in object.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                if !write_compact_within(out, value, limit) {
                    return false;
                }
            }
            out.push('}');
        }
        scalar => write_scalar(out, scalar),
    }
    out.len() <= limit
}

/// The value indented by two spaces, with a final newline: the form of document files.
#[must_use]
pub fn pretty(value: &Value) -> String {
    let mut whole = String::new();
    let Ok(()) = pretty_in_pieces(value, |piece| {
        whole.push_str(piece);
        Ok::<_, Infallible>(())
    });
    whole
}

/// [`pretty`], handed on piece by piece, so that a large document is never in memory as text.
///
/// # Errors
/// The first one of `take`.
pub fn pretty_in_pieces<E>(
    value: &Value,
    mut take: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let mut out = String::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    Lines::default().write(&mut out, value, 0, &mut |piece| {
        take(piece)?;
        piece.clear();
        Ok(())
    })?;
    out.push('\n');
    take(&out)
}

/// [`pretty`] for an object that is never in memory as a whole: it is put together member by member, and its long lists
/// are written by [`pretty_elements`].
#[derive(Debug, Default)]
pub struct PrettyObject {
    members: usize,
    text: String,
}

impl PrettyObject {
    /// Writes a member.
    pub fn member(&mut self, key: &str, value: &Value) {
        self.key(key);
        let text = &mut self.text;
        let Ok(()) = Lines::default().write(text, value, 1, &mut |_| Ok::<_, Infallible>(()));
    }

    /// Begins a member that is a list. The text so far belongs before its elements.
    pub fn begin_list(&mut self, key: &str) {
        self.key(key);
        self.text.push('[');
    }

    /// Ends that list, which has so many elements.
    pub fn end_list(&mut self, elements: usize) {
        if elements > 0 {
            new_line(&mut self.text, 0, 1);
        }
        self.text.push(']');
    }

    /// Ends the document.
    pub fn end(&mut self) {
        self.text
            .push_str(if self.members == 0 { "{}\n" } else { "\n}\n" });
    }

    /// Hands out the text that was written since the last time.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn key(&mut self, key: &str) {
        if self.members == 0 {
            self.text.push('{');
        }
        new_line(&mut self.text, self.members, 1);
        self.members += 1;
        write_pretty_key(&mut self.text, key);
    }
}

/// Elements of a list in a [`PrettyObject`], from the position `from` on, behind what `out` has. Whenever that is a piece
/// or more, `take` may take it out, and if it does not, it is asked again soon. The rest stays in `out`.
///
/// # Errors
/// The first one of `elements` or `take`.
pub fn pretty_elements<E>(
    out: &mut String,
    from: usize,
    elements: impl Iterator<Item = Result<Value, E>>,
    mut take: impl FnMut(&mut String) -> Result<(), E>,
) -> Result<(), E> {
    let mut lines = Lines::default();
    for (position, element) in (from..).zip(elements) {
        new_line(out, position, 2);
        lines.write(out, &element?, 2, &mut take)?;
    }
    Ok(())
}

/// About how long the pieces of a document are; a longer string in it makes a longer one.
const PIECE_BYTES: usize = 512 << 10;

/// How the lines begin on which the members of an object stand: comma, line feed, indentation, key, colon.
type Beginnings = [Box<str>];

/// The beginnings of lines that were printed lately. Large documents repeat them over and over.
#[derive(Default)]
struct Lines {
    places: Vec<Place>,
}

/// A shape and a depth that were seen lately, and from the second time on what is printed of them.
#[derive(Default)]
struct Place {
    of: Option<(Arc<Shape>, usize)>,
    lines: Option<Rc<Beginnings>>,
}

impl Lines {
    /// Two to this power.
    const PLACES_LOG2: u32 = 6;

    fn of(&mut self, shape: &Arc<Shape>, depth: usize) -> Option<Rc<Beginnings>> {
        if self.places.is_empty() {
            self.places
                .resize_with(1 << Self::PLACES_LOG2, Place::default);
        }
        let mixed = (Arc::as_ptr(shape).addr() ^ depth).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.places[mixed >> (usize::BITS - Self::PLACES_LOG2)];
        match &place.of {
            Some((known, at)) if Arc::ptr_eq(known, shape) && *at == depth => {
                let lines = place.lines.get_or_insert_with(|| {
                    let keys = shape.keys().iter();
                    keys.map(|key| beginning(key, depth)).collect()
                });
                Some(Rc::clone(lines))
            }
            _ => {
                place.of = Some((Arc::clone(shape), depth));
                place.lines = None;
                None
            }
        }
    }

    fn write<E>(
        &mut self,
        out: &mut String,
        value: &Value,
        depth: usize,
        take: &mut impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        match value {
            Value::Array(values) if !values.is_empty() => {
                out.push('[');
                for (position, value) in values.iter().enumerate() {
                    new_line(out, position, depth + 1);
                    self.write(out, value, depth + 1, take)?;
                }
                new_line(out, 0, depth);
                out.push(']');
            }
            Value::Object(object) if !object.is_empty() => {
                out.push('{');
                self.write_members(out, object, depth + 1, take)?;
                new_line(out, 0, depth);
                out.push('}');
            }
            Value::Array(_) => out.push_str("[]"),
            Value::Object(_) => out.push_str("{}"),
            scalar => write_scalar(out, scalar),
        }
        if out.len() >= PIECE_BYTES {
            take(out)?;
        }
        Ok(())
    }

    fn write_members<E>(
        &mut self,
        out: &mut String,
        object: &Object,
        depth: usize,
        take: &mut impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(lines) = self.of(object.shape(), depth) else {
            for (position, (key, value)) in object.iter().enumerate() {
                new_line(out, position, depth);
                write_pretty_key(out, key);
                self.write(out, value, depth, take)?;
            }
            return Ok(());
        };
        for (position, (line, value)) in lines.iter().zip(object.values()).enumerate() {
            // Nothing is before the first, so it has no comma.
            out.push_str(&line[usize::from(position == 0)..]);
            match value {
                // The most usual one, without a call.
                Value::String(text) if out.len() < PIECE_BYTES => write_string(out, text),
                value => self.write(out, value, depth, take)?,
            }
        }
        Ok(())
    }
}

fn beginning(key: &str, depth: usize) -> Box<str> {
    let mut line = String::new();
    new_line(&mut line, 1, depth);
    write_pretty_key(&mut line, key);
    line.into()
}

fn new_line(out: &mut String, position: usize, depth: usize) {
    if position > 0 {
        out.push(',');
    }
    let known = depth.min(LINE_STARTS.len() - 1);
    out.push_str(LINE_STARTS[known]);
    for _ in known..depth {
        out.push_str("  ");
    }
}

/// How lines start at the first depths: a line feed and the indentation.
const LINE_STARTS: [&str; 17] = {
    const DEEPEST: &str = "\n                                ";
    let mut starts = [""; 17];
    let mut depth = 0;
    while depth < starts.len() {
        starts[depth] = DEEPEST.split_at(1 + 2 * depth).0;
        depth += 1;
    }
    starts
};

fn write_scalar(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => number.write(out),
        Value::String(text) => write_string(out, text),
        Value::Array(_) | Value::Object(_) => unreachable!("not a scalar"),
    }
}

/// Appends a string in quotes, escaping only what must be.
pub fn write_string(out: &mut String, text: &str) {
    write_begun_string(out, text);
    out.push('"');
}

/// Appends a key as a line of a pretty document has it.
fn write_pretty_key(out: &mut String, key: &str) {
    write_begun_string(out, key);
    out.push_str("\": ");
}

/// Appends a string without the quote at its end.
fn write_begun_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    loop {
        let plain = plain_length(rest.as_bytes());
        out.push_str(&rest[..plain]);
        let Some(byte) = rest.as_bytes().get(plain) else {
            break;
        };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            8 => out.push_str("\\b"),
            12 => out.push_str("\\f"),
            other => {
                let _ = write!(out, "\\u{other:04x}");
            }
        }
        rest = &rest[plain + 1..];
    }
}
