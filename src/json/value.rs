//! The document tree, and the reading rules that hold for every document: usable text, presence, dotted paths.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Number, Object, Text, trim};

/// A JSON value. Cloning shares strings, lists and objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(Text),
    /// A list.
    Array(Arc<[Value]>),
    /// An object.
    Object(Object),
}

impl Value {
    /// Makes a list.
    #[must_use]
    pub fn array(values: Vec<Self>) -> Self {
        Self::Array(values.into())
    }

    /// Makes a string.
    #[must_use]
    pub fn string(text: &str) -> Self {
        Self::String(text.into())
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The values of a list; none for every other value. They are moved if the list is not shared.
    #[must_use]
    pub fn into_list(self) -> Vec<Self> {
        match self {
            Self::Array(mut values) => match Arc::get_mut(&mut values) {
                Some(values) => values.iter_mut().map(std::mem::take).collect(),
                None => values.to_vec(),
            },
            _ => Vec::new(),
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Member of an object; nothing for every other value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_object()?.get(key)
    }

    /// Usable text: a string without white space at its ends, or a number as it prints. Anything else is empty.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::String(text) => Cow::Borrowed(trim(text)),
            Self::Number(number) => Cow::Owned(number.to_string()),
            _ => Cow::Borrowed(""),
        }
    }

    /// [`Value::text`], shared with the value where that needs no trimming.
    #[must_use]
    pub fn usable_text(&self) -> Text {
        match self {
            Self::String(text) if trim(text).len() == text.len() => text.clone(),
            other => other.text().as_ref().into(),
        }
    }

    /// [`Value::usable_text`], for those who keep texts as they keep keys.
    #[must_use]
    pub fn shared_text(&self) -> Arc<str> {
        self.usable_text().into()
    }

    /// Whether [`Value::text`] is empty.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        match self {
            Self::String(text) => trim(text).is_empty(),
            Self::Number(_) => false,
            _ => true,
        }
    }

    /// Whether the value counts as given: not null, false, 0 or the empty string.
    #[must_use]
    pub fn is_present(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) => false,
            Self::Number(number) => !number.is_zero(),
            Self::String(text) => !text.is_empty(),
            Self::Bool(true) | Self::Array(_) | Self::Object(_) => true,
        }
    }

    /// One step of a path: an object's own key, a list's canonical index, or a list's `length`.
    #[must_use]
    pub fn step(&self, part: &str) -> Option<Cow<'_, Self>> {
        match self {
            Self::Object(object) => object.get(part).map(Cow::Borrowed),
            Self::Array(values) if part == "length" => {
                Some(Cow::Owned(Self::Number(values.len().into())))
            }
            Self::Array(values) => values.get(canonical_index(part)?).map(Cow::Borrowed),
            _ => None,
        }
    }

    /// The value at a dotted path; an empty path finds nothing. `Some(Null)` and `None` are different answers.
    #[must_use]
    pub fn lookup(&self, path: &str) -> Option<Cow<'_, Self>> {
        if path.is_empty() {
            return None;
        }
        let Some((first, rest)) = path.split_once('.') else {
            return self.step(path);
        };
        let mut here = self.step(first)?;
        for part in rest.split('.') {
            here = match here {
                Cow::Borrowed(value) => value.step(part)?,
                Cow::Owned(value) => Cow::Owned(value.step(part)?.into_owned()),
            };
        }
        Some(here)
    }

    /// Whether both values say the same: as equal, but in objects the order of members does not matter.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Array(one), Self::Array(other)) => {
                one.len() == other.len() && one.iter().zip(&**other).all(|(a, b)| a.is_same(b))
            }
            (Self::Object(one), Self::Object(other)) => {
                let same = |(key, value): (&Arc<str>, &Self)| {
                    other.get(key).is_some_and(|other| value.is_same(other))
                };
                one.len() == other.len() && one.iter().all(same)
            }
            _ => self == other,
        }
    }

    /// What kind of value this is, in words, for error messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// A list index as documents write it: `0`, `12`; not `00`, `+1`, `1e0`.
fn canonical_index(part: &str) -> Option<usize> {
    let canonical =
        part == "0" || (!part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()));
    canonical.then(|| part.parse().ok()).flatten()
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::string(text)
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::String(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::String(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{Text, Value};

    #[test]
    fn a_value_takes_24_bytes_and_a_string_of_23_bytes_takes_no_more() {
        assert_eq!(size_of::<Value>(), 24);
        assert_eq!(size_of::<Text>(), 24);
        assert!(!Text::from("12345678901234567890123").is_heap_allocated());
        assert!(Text::from("123456789012345678901234").is_heap_allocated());
    }
}
