//! The document tree, and the reading rules that hold for every document: usable text, presence, dotted paths.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Number, trim};

/// A JSON value. Cloning shares strings, lists and objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(Arc<str>),
    /// A list.
    Array(Arc<Vec<Value>>),
    /// An object.
    Object(Arc<Object>),
}

/// An object: its members in document order. A repeated key keeps its first position and takes its last value.
#[derive(Clone, Debug, Default)]
pub struct Object {
    members: Vec<(Arc<str>, Value)>,
    /// The [bits](name_bit) of all keys. Most look-ups are for keys that are not there, and end here.
    names: u64,
    /// Position of each key, kept once there are more than [`LINEAR_MEMBERS`], so that no object is slow to read.
    #[expect(
        clippy::box_collection,
        reason = "objects are many and most have no index: a pointer, not a map"
    )]
    index: Option<Box<HashMap<Arc<str>, usize>>>,
}

/// One of 64 bits for a key: cheap to tell, and seldom the same for two keys of one object.
fn name_bit(key: &str) -> u64 {
    let bytes = key.as_bytes();
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(*byte));
    let mixed = bytes.len() * 7 + end(bytes.first()) * 3 + end(bytes.last());
    1 << (mixed % 64)
}

/// Up to this many members, comparing every key is faster than hashing one.
const LINEAR_MEMBERS: usize = 24;

impl Value {
    /// Makes a list.
    #[must_use]
    pub fn array(values: Vec<Self>) -> Self {
        Self::Array(Arc::new(values))
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
            Self::Array(values) => Arc::unwrap_or_clone(values),
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
    pub fn shared_text(&self) -> Arc<str> {
        match self {
            Self::String(text) if trim(text).len() == text.len() => Arc::clone(text),
            other => other.text().as_ref().into(),
        }
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
        let mut here = Cow::Borrowed(self);
        for part in path.split('.') {
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
        Self::Object(Arc::new(object))
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
        Self::String(text)
    }
}

impl Object {
    /// Makes an empty object with room for `members`.
    #[must_use]
    pub fn with_capacity(members: usize) -> Self {
        Self {
            members: Vec::with_capacity(members),
            names: 0,
            index: None,
        }
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|position| &self.members[position].1)
    }

    /// Sets a key: in place if it is there, else at the end.
    pub fn set(&mut self, key: impl AsRef<str> + Into<Arc<str>>, value: impl Into<Value>) {
        match self.position(key.as_ref()) {
            Some(position) => self.members[position].1 = value.into(),
            None => self.push(key.into(), value.into()),
        }
    }

    /// Sets every member of `other`, in its order.
    pub fn extend(&mut self, other: &Self) {
        self.members.reserve(other.len());
        if self.is_empty() {
            self.members.extend_from_slice(&other.members);
            self.names = other.names;
            self.index.clone_from(&other.index);
            return;
        }
        for (key, value) in &other.members {
            self.set(Arc::clone(key), value.clone());
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        if let Some(position) = self.position(key) {
            self.members.remove(position);
            self.index = None;
            self.index_if_large();
        }
    }

    /// The members in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Value)> {
        self.members.iter().map(|(key, value)| (key, value))
    }

    fn position(&self, key: &str) -> Option<usize> {
        if self.names & name_bit(key) == 0 {
            return None;
        }
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.members.iter().position(|(name, _)| &**name == key),
        }
    }

    fn push(&mut self, key: Arc<str>, value: Value) {
        self.names |= name_bit(&key);
        if let Some(index) = &mut self.index {
            index.insert(Arc::clone(&key), self.members.len());
        }
        self.members.push((key, value));
        self.index_if_large();
    }

    fn index_if_large(&mut self) {
        if self.index.is_none() && self.members.len() > LINEAR_MEMBERS {
            let keys = self.members.iter().enumerate();
            self.index = Some(Box::new(
                keys.map(|(n, (key, _))| (Arc::clone(key), n)).collect(),
            ));
        }
    }
}

/// Objects are equal if they have equal members in the same order.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members
    }
}
