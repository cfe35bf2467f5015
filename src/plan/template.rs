//! Templates: JSON whose strings may hold `{{ path }}` expressions. Compiled once, rendered for each group.
//!
//! A string that is exactly one expression becomes the value it names, typed; otherwise each expression is replaced by
//! text. Keys are not rendered, and what is inserted is not rendered again.

use std::collections::HashSet;
use std::sync::Arc;

use super::Error;
use super::grouping::Group;
use crate::json::{self, Object, Value};

/// A compiled template.
#[derive(Clone, Debug)]
pub(super) enum Template {
    /// Holds no expression.
    Constant(Value),
    /// Exactly one expression.
    Exact(Expression),
    /// Text with expressions in it.
    Text(Vec<Part>),
    Array(Vec<Template>),
    Object(Vec<(Arc<str>, Template)>),
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Expression(Expression),
}

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

/// The group as a template sees it: `{key, index, items}`. The object itself is made only for whoever asks for it whole.
pub(super) struct GroupScope<'s> {
    pub(super) group: &'s Group,
    pub(super) index: usize,
}

/// Where the text of templates is put together, and how much more of it there may be.
pub(super) struct TextBudget {
    limit: usize,
    left: usize,
    /// Kept from one text to the next.
    buffer: String,
}

impl TextBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            left: limit,
            buffer: String::new(),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| {
            Error::over(
                "config.task_request_template",
                "bytes of text from templates",
                self.limit,
            )
        })?;
        Ok(())
    }
}

impl Template {
    pub(super) fn compile(template: &Value) -> Self {
        match template {
            Value::String(text) => Self::compile_text(text),
            Value::Array(values) => {
                let parts: Vec<_> = values.iter().map(Self::compile).collect();
                if parts.iter().all(Self::is_constant) {
                    return Self::Constant(template.clone());
                }
                Self::Array(parts)
            }
            Value::Object(object) => {
                let members: Vec<_> = object
                    .iter()
                    .map(|(key, value)| (Arc::clone(key), Self::compile(value)))
                    .collect();
                if members.iter().all(|(_, member)| member.is_constant()) {
                    return Self::Constant(template.clone());
                }
                Self::Object(members)
            }
            scalar => Self::Constant(scalar.clone()),
        }
    }

    pub(super) fn compile_text(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, expression, after)) = next_expression(rest) {
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(Part::Expression(Expression::read(expression)));
            rest = after;
        }
        if parts.is_empty() {
            return Self::Constant(Value::string(text));
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        match <[Part; 1]>::try_from(parts) {
            Ok([Part::Expression(expression)]) => Self::Exact(expression),
            Ok(parts) => Self::Text(parts.into()),
            Err(parts) => Self::Text(parts),
        }
    }

    fn is_constant(&self) -> bool {
        matches!(self, Self::Constant(_))
    }

    /// Renders; `None` is a missing value, which leaves its object or becomes null in its list.
    pub(super) fn render(
        &self,
        scope: &Scope<'_>,
        budget: &mut TextBudget,
    ) -> Result<Option<Value>, Error> {
        Ok(match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Exact(expression) => expression.evaluate(scope),
            Self::Text(parts) => {
                let mut text = std::mem::take(&mut budget.buffer);
                text.clear();
                for part in parts {
                    let before = text.len();
                    match part {
                        Part::Literal(literal) => text.push_str(literal),
                        Part::Expression(expression) => match expression.evaluate(scope) {
                            None | Some(Value::Null) => {}
                            Some(Value::String(value)) => text.push_str(&value),
                            Some(value) => {
                                if !json::write_compact_within(
                                    &mut text,
                                    &value,
                                    before + budget.left,
                                ) {
                                    budget.spend(budget.left + 1)?;
                                }
                            }
                        },
                    }
                    budget.spend(text.len() - before)?;
                }
                let value = Value::string(&text);
                budget.buffer = text;
                Some(value)
            }
            Self::Array(parts) => {
                let mut values = Vec::with_capacity(parts.len());
                for part in parts {
                    values.push(part.render(scope, budget)?.unwrap_or(Value::Null));
                }
                Some(Value::array(values))
            }
            Self::Object(members) => {
                let mut object = Object::with_capacity(members.len());
                render_members(members, scope, budget, &mut object)?;
                Some(object.into())
            }
        })
    }

    /// Renders into an object that is there already. What does not render to an object is answered as it is.
    pub(super) fn render_into(
        &self,
        object: &mut Object,
        scope: &Scope<'_>,
        budget: &mut TextBudget,
    ) -> Result<Result<(), Option<Value>>, Error> {
        if let Self::Object(members) = self {
            render_members(members, scope, budget, object)?;
            return Ok(Ok(()));
        }
        Ok(match self.render(scope, budget)? {
            Some(Value::Object(rendered)) => {
                object.extend(&rendered);
                Ok(())
            }
            other => Err(other),
        })
    }

    /// How many members the rendered object is likely to have.
    pub(super) fn member_count(&self) -> usize {
        match self {
            Self::Object(members) => members.len(),
            Self::Constant(Value::Object(object)) => object.len(),
            _ => 0,
        }
    }
}

fn render_members(
    members: &[(Arc<str>, Template)],
    scope: &Scope<'_>,
    budget: &mut TextBudget,
    object: &mut Object,
) -> Result<(), Error> {
    for (key, member) in members {
        if let Some(value) = member.render(scope, budget)? {
            object.set(Arc::clone(key), value);
        }
    }
    Ok(())
}

/// Splits off the leftmost expression: `{{`, at least one character other than `}`, `}}`.
fn next_expression(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find("{{")?;
        let inner = &text[open + 2..];
        let length = inner.find('}')?;
        if length > 0 && inner[length..].starts_with("}}") {
            return Some((&text[..open], &inner[..length], &inner[length + 2..]));
        }
        // `{{{a}}}`: the leftmost match begins at the first brace that can begin one.
        from = if length == 0 {
            open + 2
        } else {
            open + 2 + length
        };
    }
}

impl Expression {
    fn read(text: &str) -> Self {
        let path = json::trim(text);
        match path {
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

    fn evaluate(&self, scope: &Scope<'_>) -> Option<Value> {
        match self {
            Self::Computed(computed) => {
                let group = scope.group.as_ref()?;
                Some(computed.of(&group.group.items))
            }
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
fn at(value: &Value, below: Option<&str>) -> Option<Value> {
    match below {
        None => Some(value.clone()),
        // Unlike a lookup, an empty path is a step here: to the member without a name.
        Some(below) => below.split('.').try_fold(value.clone(), |value, part| {
            Some(value.step(part)?.into_owned())
        }),
    }
}

impl GroupScope<'_> {
    fn at(&self, below: Option<&str>) -> Option<Value> {
        let Some(below) = below else {
            let mut group = Object::with_capacity(3);
            for name in ["key", "index", "items"] {
                group.set(name, self.member(name)?);
            }
            return Some(group.into());
        };
        let (name, below) = match below.split_once('.') {
            Some((name, below)) => (name, Some(below)),
            None => (below, None),
        };
        at(&self.member(name)?, below)
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "key" => Value::String(Arc::clone(&self.group.key)),
            "index" => self.index.into(),
            "items" => Value::Array(Arc::clone(&self.group.items)),
            _ => return None,
        })
    }
}

impl Computed {
    fn of(self, items: &[Value]) -> Value {
        match self {
            Self::ItemCount => items.len().into(),
            Self::ItemIds => ids(items, ["id", "key"]),
            Self::FindingIds => ids(items, ["finding_id", "id"]),
            Self::PacketIds => {
                let mut seen = HashSet::new();
                let texts = items
                    .iter()
                    .filter_map(|item| item.get("packet_id"))
                    .map(Value::shared_text);
                let distinct =
                    texts.filter(|text| !text.is_empty() && seen.insert(Arc::clone(text)));
                Value::array(distinct.map(Value::String).collect())
            }
        }
    }
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
            |value| Value::String(value.shared_text()),
        )
    };
    Value::array(items.iter().enumerate().map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::next_expression;

    #[test]
    fn the_leftmost_expression_that_is_closed_by_two_braces_is_found() {
        let cases = [
            ("a{{b}}c", Some(("a", "b", "c"))),
            ("{{{a}}}", Some(("", "{a", "}"))),
            ("{{}}", None),
            ("{{ }}", Some(("", " ", ""))),
            ("{{a}b}}", None),
            ("{{a}b}} {{c}}", Some(("{{a}b}} ", "c", ""))),
            ("{{}}{{x}}", Some(("{{}}", "x", ""))),
            ("{{}{{x}}", Some(("{{}", "x", ""))),
            ("{{a", None),
            ("{{{{a}}", Some(("", "{{a", ""))),
        ];
        for (text, expected) in cases {
            assert_eq!(next_expression(text), expected, "{text}");
        }
    }
}
