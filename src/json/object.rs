//! Objects: members in document order, with keys that objects of one shape share.

use std::collections::HashMap;
use std::sync::Arc;

use super::Value;

/// An object: its members in document order. A repeated key keeps its first position and takes its last value.
#[derive(Clone, Debug, Default)]
pub struct Object {
    shape: Arc<Shape>,
    values: Vec<Value>,
}

/// The keys of an object in document order, none of them twice. Most objects of a large document have one of a few
/// shapes, and share it.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    keys: Vec<Arc<str>>,
    /// The [bits](name_bit) of all keys. Most look-ups are for keys that are not there, and end here.
    names: u64,
    /// Position of each key, kept once there are more than [`LINEAR_MEMBERS`], so that no object is slow to read.
    index: Option<HashMap<Arc<str>, usize>>,
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

impl Object {
    /// Makes an empty object with room for `members`.
    #[must_use]
    pub fn with_capacity(members: usize) -> Self {
        let shape = Shape {
            keys: Vec::with_capacity(members),
            ..Shape::default()
        };
        Self {
            shape: Arc::new(shape),
            values: Vec::with_capacity(members),
        }
    }

    /// Makes an object of a known shape.
    ///
    /// # Panics
    /// There are more or fewer values than keys.
    #[must_use]
    pub fn of_shape(shape: Arc<Shape>, values: Vec<Value>) -> Self {
        assert_eq!(shape.len(), values.len(), "a value for each key");
        Self { shape, values }
    }

    /// Its keys.
    #[must_use]
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let position = self.shape.position(key)?;
        self.values.get(position)
    }

    /// Sets a key: in place if it is there, else at the end.
    pub fn set(&mut self, key: impl AsRef<str> + Into<Arc<str>>, value: impl Into<Value>) {
        match self.shape.position(key.as_ref()) {
            Some(position) => self.values[position] = value.into(),
            None => {
                Arc::make_mut(&mut self.shape).push(key.into());
                self.values.push(value.into());
            }
        }
    }

    /// Sets every member of `other`, in its order.
    pub fn extend(&mut self, other: &Self) {
        if self.is_empty() {
            self.shape = Arc::clone(&other.shape);
            self.values.extend_from_slice(&other.values);
            return;
        }
        self.values.reserve(other.len());
        for (key, value) in other.iter() {
            self.set(Arc::clone(key), value.clone());
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        if let Some(position) = self.shape.position(key) {
            Arc::make_mut(&mut self.shape).remove(position);
            self.values.remove(position);
        }
    }

    /// Takes the members at these positions out, however many there are, in one pass.
    pub fn remove_all(&mut self, positions: &[usize]) {
        let mut stays = vec![true; self.len()];
        for position in positions {
            stays[*position] = false;
        }
        let keys = self.shape.keys.iter().zip(&stays);
        let keys = keys.filter(|(_, stays)| **stays);
        self.shape = Arc::new(keys.map(|(key, _)| Arc::clone(key)).collect());
        let mut stays = stays.into_iter();
        self.values.retain(|_| stays.next().unwrap_or(true));
    }

    /// The members in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Value)> {
        self.shape.keys.iter().zip(&self.values)
    }
}

/// Objects are equal if they have equal members in the same order.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.shape, &other.shape) || self.shape.keys == other.shape.keys)
            && self.values == other.values
    }
}

impl Shape {
    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys in order.
    #[must_use]
    pub fn keys(&self) -> &[Arc<str>] {
        &self.keys
    }

    /// Where a key stands.
    #[must_use]
    pub fn position(&self, key: &str) -> Option<usize> {
        if self.names & name_bit(key) == 0 {
            return None;
        }
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.keys.iter().position(|name| **name == *key),
        }
    }

    /// Adds a key at the end, unless it is there; answers where it stands.
    pub fn add(&mut self, key: &Arc<str>) -> usize {
        self.position(key).unwrap_or_else(|| {
            self.push(Arc::clone(key));
            self.len() - 1
        })
    }

    fn push(&mut self, key: Arc<str>) {
        self.names |= name_bit(&key);
        if let Some(index) = &mut self.index {
            index.insert(Arc::clone(&key), self.keys.len());
        }
        self.keys.push(key);
        self.index_if_large();
    }

    fn remove(&mut self, position: usize) {
        self.keys.remove(position);
        self.index = None;
        self.index_if_large();
    }

    fn index_if_large(&mut self) {
        if self.index.is_none() && self.keys.len() > LINEAR_MEMBERS {
            let keys = self.keys.iter().enumerate();
            self.index = Some(keys.map(|(n, key)| (Arc::clone(key), n)).collect());
        }
    }
}

impl FromIterator<Arc<str>> for Shape {
    /// The keys in order; a repeated one counts where it comes first.
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(keys: I) -> Self {
        let mut shape = Self::default();
        for key in keys {
            shape.add(&key);
        }
        shape
    }
}

/// Shapes that were seen lately, so that objects which are made one by one share theirs. Forgets shapes; never grows.
#[derive(Debug)]
pub struct Shapes {
    recent: [Option<Arc<Shape>>; Self::PLACES],
}

impl Default for Shapes {
    fn default() -> Self {
        Self {
            recent: [const { None }; Self::PLACES],
        }
    }
}

impl Shapes {
    const PLACES: usize = 64;

    /// Makes the object share its shape with an equal one that was seen before.
    pub fn share(&mut self, object: &mut Object) {
        let shape = &mut object.shape;
        // The high half of the product depends on every bit of `names`.
        let mixed = shape.names.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let place = &mut self.recent[(mixed as usize + shape.len()) % Self::PLACES];
        match place {
            Some(known) if Arc::ptr_eq(known, shape) => {}
            Some(known) if known.keys == shape.keys => *shape = Arc::clone(known),
            _ => *place = Some(Arc::clone(shape)),
        }
    }
}

/// Sets one and the same key of many objects of a few shapes.
#[derive(Debug)]
pub struct Setter {
    key: Arc<str>,
    /// Shapes without the key and with it, placed by the address of the former.
    known: [Option<(Arc<Shape>, Arc<Shape>)>; Self::PLACES],
    shapes: Shapes,
}

impl Setter {
    const PLACES: usize = 16;

    /// A setter of this key.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            known: [const { None }; Self::PLACES],
            shapes: Shapes::default(),
        }
    }

    /// Does what [`Object::set`] does.
    pub fn set(&mut self, object: &mut Object, value: impl Into<Value>) {
        let place = Arc::as_ptr(&object.shape).addr() / size_of::<Shape>() % Self::PLACES;
        match &self.known[place] {
            Some((without, with)) if Arc::ptr_eq(without, &object.shape) => {
                object.shape = Arc::clone(with);
                object.values.push(value.into());
            }
            _ => match object.shape.position(&self.key) {
                Some(position) => object.values[position] = value.into(),
                None => {
                    let without = Arc::clone(&object.shape);
                    object.set(Arc::clone(&self.key), value);
                    self.shapes.share(object);
                    self.known[place] = Some((without, Arc::clone(&object.shape)));
                }
            },
        }
    }
}
