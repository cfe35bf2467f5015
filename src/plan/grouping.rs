//! Items into groups: normalised, keyed, in order of first appearance; or explicit groups as given.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{Config, first_present};
use super::{Error, Limits};
use crate::json::{Object, Value};

/// One group: one task request will be made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its key: not empty, not necessarily unique among explicit groups.
    pub key: Arc<str>,
    /// Its normalised items: objects, each with an `index`.
    pub items: Arc<Vec<Value>>,
}

pub(super) fn group(
    config: &Config,
    items: Option<Value>,
    groups: Option<Value>,
    limits: &Limits,
) -> Result<Vec<Group>, Error> {
    let fields = config.document.as_object();
    let given = |beside: Option<Value>, name| {
        beside.filter(Value::is_present).or_else(|| {
            fields
                .and_then(|fields| first_present(fields, &[name]))
                .cloned()
        })
    };
    if let Some(Value::Array(entries)) = given(groups, "groups")
        && !entries.is_empty()
    {
        return explicit_groups(&entries, limits);
    }
    let items = match given(items, "items") {
        Some(Value::Array(items)) => Arc::unwrap_or_clone(items),
        _ => Vec::new(),
    };
    if items.len() > limits.items {
        return Err(Error::over("items", "items", limits.items));
    }
    Ok(group_by(normalized(items), |item| {
        group_key(item, &config.group_key_path)
    }))
}

/// Groups items by key, groups in order of first appearance.
pub(super) fn group_by(
    items: impl Iterator<Item = Value>,
    key: impl Fn(&Value) -> Arc<str>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut positions: HashMap<Arc<str>, usize> = HashMap::new();
    for item in items {
        let key = key(&item);
        let position = *positions.entry(key).or_insert_with_key(|key| {
            groups.push(Group {
                key: Arc::clone(key),
                // Most groups of a large plan are small.
                items: Arc::new(Vec::with_capacity(1)),
            });
            groups.len() - 1
        });
        Arc::make_mut(&mut groups[position].items).push(item);
    }
    groups
}

/// Counts each group's items from 0 again, as explicit groups are.
pub(super) fn reindex(mut groups: Vec<Group>) -> Vec<Group> {
    for group in &mut groups {
        let items = Arc::unwrap_or_clone(std::mem::take(&mut group.items));
        group.items = Arc::new(normalized(items).collect());
    }
    groups
}

fn explicit_groups(entries: &[Value], limits: &Limits) -> Result<Vec<Group>, Error> {
    let mut item_count = 0;
    let mut groups = Vec::with_capacity(entries.len().min(limits.tasks));
    for (position, entry) in entries.iter().enumerate() {
        let key = first_text(entry, &["key", "group_key", "id"])
            .unwrap_or_else(|| format!("group-{}", position + 1).into());
        let items = entry
            .get("items")
            .and_then(Value::as_array)
            .unwrap_or_default()
            .to_vec();
        item_count += items.len();
        if item_count > limits.items {
            return Err(Error::over("groups", "items in all groups", limits.items));
        }
        groups.push(Group {
            key,
            items: Arc::new(normalized(items).collect()),
        });
    }
    Ok(groups)
}

/// Items as objects that know their index: an object gets its `index`, anything else becomes `{value, index}`.
fn normalized(items: Vec<Value>) -> impl Iterator<Item = Value> {
    let name: Arc<str> = "index".into();
    items.into_iter().enumerate().map(move |(index, item)| {
        let mut object = match item {
            Value::Object(object) => Arc::unwrap_or_clone(object),
            other => {
                let mut object = Object::with_capacity(2);
                object.set("value", other);
                object
            }
        };
        object.set(Arc::clone(&name), index);
        object.into()
    })
}

/// The text at the path, else of `groupKey`, `kind`, `id`, else `default`.
fn group_key(item: &Value, path: &str) -> Arc<str> {
    let at_path = item
        .lookup(path)
        .map(|value| value.shared_text())
        .filter(|text| !text.is_empty());
    at_path
        .or_else(|| first_text(item, &["groupKey", "kind", "id"]))
        .unwrap_or_else(|| "default".into())
}

/// The first of these fields whose text is not empty.
pub(super) fn first_text(value: &Value, fields: &[&str]) -> Option<Arc<str>> {
    fields
        .iter()
        .filter_map(|field| value.get(field))
        .find(|value| !value.is_blank())
        .map(Value::shared_text)
}
