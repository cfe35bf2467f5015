//! Expressions of templates, and what they can see: a group, or other values by name.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::Arc;

use super::grouping::Group;
use super::template::fill;
use crate::json::{self, Object, Value};

/// The most that a count takes as text.
const INTEGER_BYTES: usize = 20;

/// What an expression names.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// A value computed from the group's items.
    Computed(Computed),
    /// A path: the name at its root, and the path below it.
    Path(String, Option<String>),
}

/// The names that are computed rather than looked up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Computed {
    Key,
    Index,
    Items,
    ItemCount,
    ItemIds,
    PacketIds,
    FindingIds,
}

/// What a template can see.
pub(super) struct Scope<'s> {
    /// The group that is rendered, by the name `group`, if there is one.
    pub(super) group: Option<GroupScope<'s>>,
    /// Other values by the name that paths begin with.
    pub(super) names: &'s [(&'s str, &'s Value)],
}

/// The group as a template sees it: `{key, index, items}`. What is made from its items is made when it is first asked
/// for, and once: a template can ask a million times.
pub(super) struct GroupScope<'s> {
    group: &'s Group,
    index: usize,
    whole: OnceCell<Value>,
    item_ids: OnceCell<Value>,
    packet_ids: OnceCell<Value>,
    finding_ids: OnceCell<Value>,
}

impl Expression {
    pub(super) fn read(text: &str) -> Self {
        let path = json::trim(text);
        match path {
            "group.key" => Self::Computed(Computed::Key),
            "group.index" => Self::Computed(Computed::Index),
            "group.items" => Self::Computed(Computed::Items),
            "group.item_count" => Self::Computed(Computed::ItemCount),
            "group.item_ids" => Self::Computed(Computed::ItemIds),
            "group.packet_ids" => Self::Computed(Computed::PacketIds),
            "group.finding_ids" => Self::Computed(Computed::FindingIds),
            _ => match path.split_once('.') {
                Some((root, below)) => Self::Path(root.to_owned(), Some(below.to_owned())),
                None => Self::Path(path.to_owned(), None),
            },
        }
    }

    /// Appends what the expression finds as text, and stops with `false` soon after `out` is longer than `limit`.
    pub(super) fn write(&self, scope: &Scope<'_>, out: &mut String, limit: usize) -> bool {
        // The most usual one, without a value in between.
        if let (Self::Computed(Computed::Key), Some(group)) = (self, &scope.group) {
            out.push_str(&group.group.key);
            return true;
        }
        match self.evaluate(scope) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => {
                out.push_str(&text);
                true
            }
            Some(value) => json::write_compact_within(out, &value, limit),
        }
    }

    /// The most text that it finds, if that can be told by the longest key of a group.
    pub(super) fn most_bytes(&self, longest_key: usize) -> Option<usize> {
        match self {
            Self::Computed(Computed::Key) => Some(longest_key),
            Self::Computed(Computed::Index | Computed::ItemCount) => Some(INTEGER_BYTES),
            _ => None,
        }
    }

    /// Puts what the expression finds in a place; answers whether it found something.
    pub(super) fn evaluate_into(&self, place: &mut Value, scope: &Scope<'_>) -> bool {
        if let (Self::Computed(Computed::Key), Some(group)) = (self, &scope.group) {
            fill(place, Value::String(group.group.key.clone()));
            return true;
        }
        let Some(found) = self.evaluate(scope) else {
            return false;
        };
        fill(place, found);
        true
    }

    fn evaluate(&self, scope: &Scope<'_>) -> Option<Value> {
        match self {
            Self::Computed(computed) => Some(scope.group.as_ref()?.computed(*computed)),
            Self::Path(root, below) => {
                let below = below.as_deref();
                if let Some(group) = scope.group.as_ref().filter(|_| root == "group") {
                    return group.at(below);
                }
                let (_, value) = scope.names.iter().find(|(name, _)| name == root)?;
                at(value, below)
            }
        }
    }
}

/// The value itself, or what a path below it finds.
pub(super) fn at(value: &Value, below: Option<&str>) -> Option<Value> {
    match below {
        None => Some(value.clone()),
        // Unlike a lookup, an empty path is a step here: to the member without a name.
        Some(below) => below.split('.').try_fold(value.clone(), |value, part| {
            Some(value.step(part)?.into_owned())
        }),
    }
}

impl<'s> GroupScope<'s> {
    pub(super) fn new(group: &'s Group, index: usize) -> Self {
        Self {
            group,
            index,
            whole: OnceCell::new(),
            item_ids: OnceCell::new(),
            packet_ids: OnceCell::new(),
            finding_ids: OnceCell::new(),
        }
    }

    fn computed(&self, computed: Computed) -> Value {
        let (made, make): (_, fn(&[Value]) -> Value) = match computed {
            Computed::Key => return self.group.key.clone().into(),
            Computed::Index => return self.index.into(),
            Computed::Items => return Value::Array(Arc::clone(&self.group.items)),
            Computed::ItemCount => return self.group.items.len().into(),
            Computed::ItemIds => (&self.item_ids, item_ids),
            Computed::PacketIds => (&self.packet_ids, packet_ids),
            Computed::FindingIds => (&self.finding_ids, finding_ids),
        };
        made.get_or_init(|| make(&self.group.items)).clone()
    }

    fn whole(&self) -> Value {
        let make = || {
            let mut group = Object::with_capacity(3);
            for name in ["key", "index", "items"] {
                if let Some(member) = self.member(name) {
                    group.set(name, member);
                }
            }
            group.into()
        };
        self.whole.get_or_init(make).clone()
    }

    fn at(&self, below: Option<&str>) -> Option<Value> {
        let Some(below) = below else {
            return Some(self.whole());
        };
        let (name, below) = match below.split_once('.') {
            Some((name, below)) => (name, Some(below)),
            None => (below, None),
        };
        at(&self.member(name)?, below)
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "key" => self.computed(Computed::Key),
            "index" => self.computed(Computed::Index),
            "items" => self.computed(Computed::Items),
            _ => return None,
        })
    }
}

fn item_ids(items: &[Value]) -> Value {
    ids(items, ["id", "key"])
}

fn finding_ids(items: &[Value]) -> Value {
    ids(items, ["finding_id", "id"])
}

fn packet_ids(items: &[Value]) -> Value {
    let mut seen = HashSet::new();
    let texts = items
        .iter()
        .filter_map(|item| item.get("packet_id"))
        .map(Value::usable_text);
    let distinct = texts.filter(|text| !text.is_empty() && seen.insert(text.clone()));
    Value::array(distinct.map(Value::String).collect())
}

/// Text of the first field that has any, else the item's index counted from 1.
fn ids(items: &[Value], fields: [&str; 2]) -> Value {
    let id = |(position, item): (usize, &Value)| {
        let named = fields
            .iter()
            .filter_map(|field| item.get(field))
            .find(|value| !value.is_blank());
        named.map_or_else(
            || {
                let index = item
                    .get("index")
                    .and_then(|index| index.text().parse().ok());
                Value::string(&(index.unwrap_or(position) + 1).to_string())
            },
            |value| Value::String(value.usable_text()),
        )
    };
    Value::Array(items.iter().enumerate().map(id).collect())
}
