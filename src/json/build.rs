//! Building the tree of a document while it is read.

use std::sync::Arc;

use super::parse::{Error, Reader};
use super::{Number, Object, Shape, Shapes, Value};

/// Builds the tree. Objects repeat each other's keys, so one is expected to have the shape of the last that began alike.
pub(super) struct Builder {
    recent_keys: [Option<Arc<str>>; Self::PLACES],
    /// Shapes of objects by their first key.
    expected: [Option<Arc<Shape>>; Self::PLACES],
    shapes: Shapes,
    /// The values of what is open.
    stack: Vec<Value>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            recent_keys: [const { None }; Self::PLACES],
            expected: [const { None }; Self::PLACES],
            shapes: Shapes::default(),
            stack: Vec::new(),
        }
    }
}

impl Builder {
    const PLACES: usize = 64;

    pub(super) fn value(&mut self, reader: &mut Reader<'_>) -> Result<Value, Error> {
        self.stack_value(reader)?;
        Ok(self.stack.pop().unwrap_or_default())
    }

    /// Reads a value to the end of the stack.
    fn stack_value(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let value = match reader.peek() {
            Some(b'{') => self.object(reader)?.into(),
            Some(b'[') => {
                let start = self.stack.len();
                reader.elements(|reader| self.stack_value(reader))?;
                Value::Array(self.stack.drain(start..).collect())
            }
            Some(b'"') => Value::String(reader.string()?.into()),
            Some(b'-' | b'0'..=b'9') => {
                let start = reader.position();
                let token = reader.number()?;
                let number = Number::from_token(token);
                Value::Number(number.ok_or_else(|| {
                    reader.error_at(start, "number is beyond the range of a double")
                })?)
            }
            _ => match reader.word()? {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            },
        };
        self.stack.push(value);
        Ok(())
    }

    fn object(&mut self, reader: &mut Reader<'_>) -> Result<Object, Error> {
        let start = self.stack.len();
        // Planning adds an index to each element of the outermost list.
        let room = usize::from(reader.depth() <= 1);
        let mut first_key = None;
        let mut expected: Option<Arc<Shape>> = None;
        // What is built as soon as a key is not the expected one.
        let mut own: Option<Shape> = None;
        reader.members(|reader, key| {
            if first_key.is_none() {
                let place = place(&key);
                first_key = Some(place);
                expected.clone_from(&self.expected[place]);
            }
            let values = self.stack.len() - start;
            if own.is_none() {
                let next = expected.as_ref().and_then(|it| it.keys().get(values));
                if next.is_some_and(|next| **next == *key) {
                    return self.stack_value(reader);
                }
            }
            let key = self.key(&key);
            let own = own.get_or_insert_with(|| begun(expected.as_deref(), values));
            let position = own.add(&key);
            self.stack_value(reader)?;
            if position < values {
                // A repeated key takes its last value.
                self.stack.swap_remove(start + position);
            }
            Ok(())
        })?;
        let values = &mut self.stack[start..];
        let is_expected =
            own.is_none() && expected.as_ref().is_some_and(|it| it.len() == values.len());
        let shape = match (own, expected) {
            (None, Some(expected)) if is_expected => expected,
            (None, expected) => Arc::new(begun(expected.as_deref(), values.len())),
            (Some(own), _) => Arc::new(own),
        };
        let mut object = Object::taking(shape, values, room);
        self.stack.truncate(start);
        if !is_expected {
            self.shapes.share(&mut object);
            if let Some(place) = first_key {
                self.expected[place] = Some(Arc::clone(object.shape()));
            }
        }
        Ok(object)
    }

    fn key(&mut self, key: &str) -> Arc<str> {
        match &mut self.recent_keys[place(key)] {
            Some(known) if **known == *key => Arc::clone(known),
            slot => Arc::clone(slot.insert(key.into())),
        }
    }
}

/// Where a key is looked for.
fn place(key: &str) -> usize {
    let bytes = key.as_bytes();
    let ends = bytes.first().map_or(0, |b| usize::from(*b))
        + bytes.last().map_or(0, |b| usize::from(*b) * 7);
    (ends + bytes.len()) % Builder::PLACES
}

/// The shape that begins with so many of the expected keys.
fn begun(expected: Option<&Shape>, keys: usize) -> Shape {
    let expected = expected.map_or(&[][..], Shape::keys);
    expected[..keys].iter().cloned().collect()
}
