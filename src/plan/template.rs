//! Templates: JSON whose strings may hold `{{ path }}` expressions. Compiled once, rendered for each group.
//!
//! A string that is exactly one expression becomes the value it names, typed; otherwise each expression is replaced by
//! text. Keys are not rendered, and what is inserted is not rendered again.

use std::sync::Arc;

use super::Error;
use super::expression::{Expression, Scope};
use crate::json::{Object, Shape, Shapes, Value};

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
    /// Keys, and a template for each of them.
    Object(Arc<Shape>, Vec<Template>),
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Expression(Expression),
}

/// Where the text of templates is put together, and how much more of what they make there may be.
///
/// A small template makes much of many groups, so it is counted while it is made: text in full, and of each value that
/// is made anew the least that it takes when printed. Nothing is refused for it that fits when it is printed, but for a
/// byte of each expression that finds nothing.
pub(super) struct TextBudget {
    /// The field that is named if there is more.
    field: &'static str,
    limit: usize,
    left: usize,
    /// Kept from one text to the next.
    buffer: String,
    /// Shapes of objects that have not what their template has.
    pub(super) shapes: Shapes,
}

/// The least that a member takes when printed, beside its key: quotes, colon, value, comma.
const MEMBER_BYTES: usize = 5;
/// The least that an element takes.
const ELEMENT_BYTES: usize = 2;
/// What is missing costs no memory, but time.
pub(super) const MISSING_COST: usize = 1;

/// The least that a member takes when printed.
pub(super) fn member_cost(key: &str) -> usize {
    key.len() + MEMBER_BYTES
}

impl TextBudget {
    pub(super) fn new(field: &'static str, limit: usize) -> Self {
        Self {
            field,
            limit,
            left: limit,
            buffer: String::new(),
            shapes: Shapes::default(),
        }
    }

    /// Takes the members at these positions out of an object.
    pub(super) fn leave_out(&mut self, object: &mut Object, missing: &[usize]) {
        if !missing.is_empty() {
            object.remove_all(missing);
            self.shapes.share(object);
        }
    }

    /// Whether so much may be spent.
    pub(super) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.left
    }

    /// Counts bytes. The error is boxed, because every part of a template answers with it or a small value.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Box<Error>> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.error())?;
        Ok(())
    }

    #[cold]
    fn error(&self) -> Box<Error> {
        let error = Error::over(self.field, "bytes of text from templates", self.limit);
        Box::new(error)
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
                    .map(|(_, value)| Self::compile(value))
                    .collect();
                if members.iter().all(Self::is_constant) {
                    return Self::Constant(template.clone());
                }
                Self::Object(Arc::clone(object.shape()), members)
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

    /// The most that one group costs of the budget, if that can be told without rendering.
    pub(super) fn most_cost(&self, longest_key: usize) -> Option<usize> {
        let sum = |templates: &[Self]| {
            let costs = templates.iter().map(|it| it.most_cost(longest_key));
            costs.sum::<Option<usize>>()
        };
        Some(match self {
            Self::Constant(_) | Self::Exact(_) => 0,
            Self::Text(parts) => {
                let part = |part: &Part| match part {
                    Part::Literal(literal) => Some(literal.len()),
                    Part::Expression(expression) => expression.most_bytes(longest_key),
                };
                parts.iter().map(part).sum::<Option<usize>>()?
            }
            Self::Array(parts) => sum(parts)? + parts.len() * ELEMENT_BYTES,
            Self::Object(shape, templates) => {
                let keys = shape.keys().iter().map(|key| member_cost(key));
                sum(templates)? + keys.sum::<usize>()
            }
        })
    }

    /// Renders into a place that holds null, and leaves that if the value is missing; answers whether there was one.
    /// Values are made where they stay: to hand them on is a good part of what they cost.
    pub(super) fn render(
        &self,
        place: &mut Value,
        scope: &Scope<'_>,
        budget: &mut TextBudget,
    ) -> Result<bool, Box<Error>> {
        match self {
            Self::Constant(value) => fill(place, value.clone()),
            Self::Exact(expression) => return Ok(expression.evaluate_into(place, scope)),
            Self::Text(parts) => {
                let mut text = std::mem::take(&mut budget.buffer);
                text.clear();
                for part in parts {
                    let before = text.len();
                    match part {
                        Part::Literal(literal) => text.push_str(literal),
                        Part::Expression(expression) => {
                            if !expression.write(scope, &mut text, before + budget.left) {
                                return Err(budget.error());
                            }
                        }
                    }
                    budget.spend(text.len() - before)?;
                }
                fill(place, Value::string(&text));
                budget.buffer = text;
            }
            Self::Array(parts) => {
                budget.spend(parts.len().saturating_mul(ELEMENT_BYTES))?;
                let mut elements = vec![Value::Null; parts.len()];
                for (part, place) in parts.iter().zip(&mut elements) {
                    part.render(place, scope, budget)?;
                }
                fill(place, Value::array(elements));
            }
            Self::Object(shape, templates) => {
                let mut missing = Vec::new();
                let mut object = Object::filled(Arc::clone(shape), |values| {
                    let members = shape.keys().iter().zip(templates).zip(values);
                    for (position, ((key, template), value)) in members.enumerate() {
                        if template.render(value, scope, budget)? {
                            budget.spend(member_cost(key))?;
                        } else {
                            budget.spend(MISSING_COST)?;
                            missing.push(position);
                        }
                    }
                    Ok::<_, Box<Error>>(())
                })?;
                budget.leave_out(&mut object, &missing);
                fill(place, object.into());
            }
        }
        Ok(true)
    }
}

/// Sets a place that holds null. There is nothing to free in it, and so nothing to look for.
pub(super) fn fill(place: &mut Value, value: Value) {
    std::mem::forget(std::mem::replace(place, value));
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
