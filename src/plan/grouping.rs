//! Items into groups: normalised, keyed, in order of first appearance; or explicit groups as given.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::hash_table::{Entry, HashTable};

use super::config::{Config, first_present};
use super::{Error, Limits};
use crate::json::{Object, Setter, Text, Value};

/// One group: one task request will be made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its key: not empty, not necessarily unique among explicit groups.
    pub key: Text,
    /// Its normalised items: objects, each with an `index`.
    pub items: Arc<[Value]>,
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
    let Some(Value::Array(mut items)) = given(items, "items") else {
        return Ok(Vec::new());
    };
    if items.len() > limits.items {
        return Err(Error::over("items", "items", limits.items));
    }
    // Where they are, unless somebody else has them, too.
    let items = Arc::make_mut(&mut items);
    normalize(items, &mut Setter::new("index"));
    Ok(group_by(items, |item| {
        group_key(item, &config.group_key_path)
    }))
}

/// Groups items by key, groups in order of first appearance, and leaves nulls in their places.
///
/// First it is found out which group each item is in, so that each group's list is made once and at its size.
pub(super) fn group_by(items: &mut [Value], key: impl Fn(&Value) -> Text) -> Vec<Group> {
    let hasher = RandomState::new();
    // Four bytes each, so that the table of a large plan stays in the cache.
    let mut positions: HashTable<u32> = HashTable::with_capacity(items.len());
    let mut groups: Vec<(Text, u32)> = Vec::with_capacity(items.len());
    let mut group_of: Vec<u32> = Vec::with_capacity(items.len());
    for item in &*items {
        let key = key(item);
        let entry = positions.entry(
            hasher.hash_one(&key),
            |group| groups[*group as usize].0 == key,
            |group| hasher.hash_one(&groups[*group as usize].0),
        );
        let group = match entry {
            Entry::Occupied(group) => *group.get(),
            Entry::Vacant(place) => {
                #[expect(clippy::cast_possible_truncation, reason = "memory ends before that")]
                let group = groups.len() as u32;
                place.insert(group);
                groups.push((key, 0));
                group
            }
        };
        groups[group as usize].1 += 1;
        group_of.push(group);
    }

    // The items' positions sorted by group. Each group's part grows from where the one before it will end.
    let mut begins_at = 0;
    let mut ends: Vec<u32> = Vec::with_capacity(groups.len());
    for (_, size) in &groups {
        ends.push(begins_at);
        begins_at += size;
    }
    let mut sorted: Vec<u32> = vec![0; items.len()];
    for (item, group) in (0..).zip(group_of) {
        let end = &mut ends[group as usize];
        sorted[*end as usize] = item;
        *end += 1;
    }
    let group = |((key, size), end): ((Text, u32), u32)| {
        let own = sorted[(end - size) as usize..end as usize].iter();
        let items = own.map(|item| std::mem::take(&mut items[*item as usize]));
        Group {
            key,
            items: items.collect(),
        }
    };
    groups.into_iter().zip(ends).map(group).collect()
}

/// Counts each group's items from 0 again, as explicit groups are.
pub(super) fn reindex(mut groups: Vec<Group>) -> Vec<Group> {
    let mut index = Setter::new("index");
    for group in &mut groups {
        normalize(Arc::make_mut(&mut group.items), &mut index);
    }
    groups
}

fn explicit_groups(entries: &[Value], limits: &Limits) -> Result<Vec<Group>, Error> {
    let mut item_count = 0;
    let mut index = Setter::new("index");
    let mut groups = Vec::with_capacity(entries.len().min(limits.tasks));
    for (position, entry) in entries.iter().enumerate() {
        let key = first_text(entry, &["key", "group_key", "id"])
            .unwrap_or_else(|| format!("group-{}", position + 1).into());
        let mut items = entry
            .get("items")
            .and_then(Value::as_array)
            .unwrap_or_default()
            .to_vec();
        item_count += items.len();
        if item_count > limits.items {
            return Err(Error::over("groups", "items in all groups", limits.items));
        }
        normalize(&mut items, &mut index);
        groups.push(Group {
            key,
            items: items.into(),
        });
    }
    Ok(groups)
}

/// Makes items objects that know their index: an object gets its `index`, anything else becomes `{value, index}`.
fn normalize(items: &mut [Value], set_index: &mut Setter) {
    for (index, item) in items.iter_mut().enumerate() {
        if !matches!(item, Value::Object(_)) {
            let mut object = Object::with_capacity(2);
            object.set("value", std::mem::take(item));
            *item = object.into();
        }
        if let Value::Object(object) = item {
            set_index.set(object, index);
        }
    }
}

/// The text at the path, else of `groupKey`, `kind`, `id`, else `default`.
fn group_key(item: &Value, path: &str) -> Text {
    let at_path = item
        .lookup(path)
        .map(|value| value.usable_text())
        .filter(|text| !text.is_empty());
    at_path
        .or_else(|| first_text(item, &["groupKey", "kind", "id"]))
        .unwrap_or_else(|| "default".into())
}

/// The first of these fields whose text is not empty.
pub(super) fn first_text(value: &Value, fields: &[&str]) -> Option<Text> {
    fields
        .iter()
        .filter_map(|field| value.get(field))
        .find(|value| !value.is_blank())
        .map(Value::usable_text)
}
