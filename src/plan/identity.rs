//! What identifies a task request or a record: the four keys, and the canonical one of them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::json::{Object, Value, trim};

/// The keys of a task request or a record: usable text, empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys<T = Arc<str>> {
    /// `task_id`.
    pub task_id: T,
    /// `id`.
    pub id: T,
    /// `sandbox_session_id`.
    pub sandbox_session_id: T,
    /// `group_key`.
    pub group_key: T,
}

impl Keys {
    /// Reads the keys of a document.
    #[must_use]
    pub fn of(document: &Object) -> Self {
        let text = |field| {
            document
                .get(field)
                .map(Value::shared_text)
                .unwrap_or_default()
        };
        Self {
            task_id: text("task_id"),
            id: text("id"),
            sandbox_session_id: text("sandbox_session_id"),
            group_key: text("group_key"),
        }
    }
}

impl<'d> Keys<Cow<'d, str>> {
    /// Reads the keys of a document, and copies none that is a string.
    #[must_use]
    pub fn borrowed(document: &'d Object) -> Self {
        let text = |field| document.get(field).map(Value::text).unwrap_or_default();
        Self {
            task_id: text("task_id"),
            id: text("id"),
            sandbox_session_id: text("sandbox_session_id"),
            group_key: text("group_key"),
        }
    }
}

impl<T: AsRef<str>> Keys<T> {
    /// The canonical id: the first of `task_id`, `id`, `group_key` that is not empty; empty if all are.
    #[must_use]
    pub fn canonical_id(&self) -> &str {
        [&self.task_id, &self.id, &self.group_key]
            .into_iter()
            .map(|key| trim(key.as_ref()))
            .find(|key| !key.is_empty())
            .unwrap_or_default()
    }
}

/// The value whose text is the canonical id of a document, if it has one.
#[must_use]
pub fn canonical_id(document: &Object) -> Option<&Value> {
    ["task_id", "id", "group_key"]
        .iter()
        .filter_map(|field| document.get(field))
        .find(|value| !value.is_blank())
}

/// A record as an object: a scalar is named by its position and stands as the `value`; a list has no members.
#[must_use]
pub fn record_object(record: Value, position: usize) -> Object {
    match record {
        Value::Object(record) => record,
        Value::Array(_) => Object::default(),
        scalar => {
            let mut record = Object::with_capacity(2);
            record.set("id", Value::string(&format!("record-{}", position + 1)));
            record.set("value", scalar);
            record
        }
    }
}
