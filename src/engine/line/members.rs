//! One object of JSON on a line: its members as they are written, and as they are asked for.

use bytes::Bytes;

use super::{LineError, Result, wrong};
use crate::engine::spec::kept_limits;
use crate::json::{self, Value};

/// An object that is being written.
pub(super) struct Line<'o> {
    out: &'o mut String,
    is_first: bool,
}

impl<'o> Line<'o> {
    pub(super) fn begin(out: &'o mut String) -> Self {
        out.push('{');
        Self {
            out,
            is_first: true,
        }
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }

    pub(super) fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        json::write_string(self.out, key);
        self.out.push(':');
    }

    pub(super) fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.push_str(value);
    }

    pub(super) fn number(&mut self, key: &str, number: impl Into<u64>) {
        self.raw(key, itoa::Buffer::new().format(number.into()));
    }

    pub(super) fn number_if_given(&mut self, key: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        json::write_string(self.out, text);
    }

    /// An object that `write` writes.
    pub(super) fn object(&mut self, key: &str, write: impl FnOnce(&mut Line<'_>)) {
        self.key(key);
        let mut object = Line::begin(self.out);
        write(&mut object);
        object.end();
    }

    /// A list, of which `write` writes each [element](Line::element).
    pub(super) fn list(&mut self, key: &str, write: impl FnOnce(&mut Line<'_>)) {
        self.key(key);
        self.out.push('[');
        let mut list = Line {
            out: self.out,
            is_first: true,
        };
        write(&mut list);
        self.out.push(']');
    }

    /// The next element of a list: any JSON.
    pub(super) fn element(&mut self, value: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        self.out.push_str(value);
    }

    /// The next element of a list: an object that `write` writes.
    pub(super) fn element_object(&mut self, write: impl FnOnce(&mut Line<'_>)) {
        self.element("");
        let mut object = Line::begin(self.out);
        write(&mut object);
        object.end();
    }

    /// An object as it is; one of several lines, or with space around it, as a string.
    pub(super) fn document(&mut self, key: &str, document: &[u8]) {
        // Documents were read as JSON, so they are text.
        let document = String::from_utf8_lossy(document);
        let is_bare = document.starts_with('{') && document.ends_with('}');
        if is_bare && !document.contains(['\n', '\r']) {
            self.raw(key, &document);
        } else {
            self.text(key, &document);
        }
    }

    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        self.raw(key, if flag { "true" } else { "false" });
    }
}

/// The members of an object that have not been asked for.
pub(super) struct Members<'t>(Vec<json::scan::Member<'t>>);

impl<'t> Members<'t> {
    pub(super) fn read(line: &'t [u8]) -> Result<Self> {
        let mut members = Vec::new();
        let scanned = json::scan::members(line, limits(), |member| members.push(member));
        scanned.map_err(|error| LineError(error.to_string()))?;
        Ok(Self(members))
    }

    /// Nothing may be passed over.
    pub(super) fn end(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some(member) => Err(wrong(&member.key, "is unknown")),
        }
    }

    pub(super) fn raw_if_given(&mut self, key: &str) -> Option<&'t str> {
        let position = self.0.iter().position(|member| member.key == key)?;
        Some(self.0.swap_remove(position).value)
    }

    pub(super) fn raw(&mut self, key: &str) -> Result<&'t str> {
        self.raw_if_given(key)
            .ok_or_else(|| wrong(key, "is missing"))
    }

    pub(super) fn value(&mut self, key: &str) -> Result<Value> {
        value(key, self.raw(key)?)
    }

    pub(super) fn number_if_given<N: std::str::FromStr>(&mut self, key: &str) -> Result<Option<N>> {
        let number = self.raw_if_given(key).map(str::parse).transpose();
        number.map_err(|_| wrong(key, "expected a whole number that fits"))
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self, key: &str) -> Result<N> {
        self.number_if_given(key)?
            .ok_or_else(|| wrong(key, "is missing"))
    }

    pub(super) fn numbers(&mut self, key: &str) -> Result<Vec<u32>> {
        let value = self.value(key)?;
        let number = |value: &Value| value.text().parse().ok();
        let numbers = value.as_array().map(|values| values.iter().map(number));
        let numbers: Option<Option<Vec<_>>> = numbers.map(Iterator::collect);
        numbers
            .flatten()
            .ok_or_else(|| wrong(key, "expected a list of whole numbers"))
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool> {
        let flag = self.raw(key)?.parse();
        flag.map_err(|_| wrong(key, "expected true or false"))
    }

    pub(super) fn text_if_given(&mut self, key: &str) -> Result<Option<String>> {
        let Some(raw) = self.raw_if_given(key) else {
            return Ok(None);
        };
        match value(key, raw)?.as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(wrong(key, "expected a string")),
        }
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String> {
        self.text_if_given(key)?
            .ok_or_else(|| wrong(key, "is missing"))
    }

    pub(super) fn document(&mut self, key: &str) -> Result<Bytes> {
        let raw = self.raw(key)?;
        match value(key, raw)? {
            Value::String(text) => Ok(text.as_str().to_owned().into()),
            Value::Object(_) => Ok(raw.to_owned().into()),
            _ => Err(wrong(key, "expected an object, or one in a string")),
        }
    }
}

/// A line has its documents inside it.
fn limits() -> json::Limits {
    let limits = kept_limits();
    json::Limits {
        depth: limits.depth + 3,
        ..limits
    }
}

fn value(key: &str, text: &str) -> Result<Value> {
    json::parse(text.as_bytes(), limits()).map_err(|error| wrong(key, &error.to_string()))
}
