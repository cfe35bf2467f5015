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
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            recent_keys: [const { None }; Self::PLACES],
            expected: [const { None }; Self::PLACES],
            shapes: Shapes::default(),
        }
    }
}

impl Builder {
    const PLACES: usize = 64;

    pub(super) fn value(&mut self, reader: &mut Reader<'_>) -> Result<Value, Error> {
        Ok(match reader.peek() {
            Some(b'{') => self.object(reader)?.into(),
            Some(b'[') => {
                let mut values = Vec::new();
                reader.elements(|reader| {
                    values.push(self.value(reader)?);
                    Ok(())
                })?;
                Value::array(values)
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
        })
    }

    fn object(&mut self, reader: &mut Reader<'_>) -> Result<Object, Error> {
        let mut values = Vec::new();
        let mut first_key = None;
        let mut expected: Option<Arc<Shape>> = None;
        // What is built as soon as a key is not the expected one.
        let mut own: Option<Object> = None;
        reader.members(|reader, key| {
            if values.is_empty() && own.is_none() {
                let place = place(&key);
                first_key = Some(place);
                expected.clone_from(&self.expected[place]);
                // Planning adds an index to each element of the outermost list.
                let more = usize::from(reader.depth() <= 2);
                let likely = expected.as_ref().map_or(4, |shape| shape.len() + more);
                values.reserve_exact(likely.min(Self::PLACES));
            }
            if own.is_none() {
                let next = expected.as_ref().and_then(|it| it.keys().get(values.len()));
                if next.is_some_and(|next| **next == *key) {
                    values.push(self.value(reader)?);
                    return Ok(());
                }
                own = Some(begun(expected.as_deref(), &mut values));
            }
            let key = self.key(&key);
            let value = self.value(reader)?;
            if let Some(own) = &mut own {
                own.set(key, value);
            }
            Ok(())
        })?;
        let mut object = match (own, expected) {
            (Some(own), _) => own,
            (None, Some(expected)) if expected.len() == values.len() => {
                return Ok(Object::of_shape(expected, values));
            }
            (None, expected) => begun(expected.as_deref(), &mut values),
        };
        self.shapes.share(&mut object);
        if let Some(place) = first_key {
            self.expected[place] = Some(Arc::clone(object.shape()));
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

/// The object that begins with the values read so far, and the keys expected for them.
fn begun(expected: Option<&Shape>, values: &mut Vec<Value>) -> Object {
    let keys = expected.map_or(&[][..], Shape::keys);
    let shape: Shape = keys[..values.len()].iter().cloned().collect();
    Object::of_shape(Arc::new(shape), std::mem::take(values))
}
