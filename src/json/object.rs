//! Objects: members in document order, with keys that objects of one shape share.

use std::collections::HashMap;
use std::sync::Arc;

use triomphe::ThinArc;

use super::Value;

/// An object: its members in document order. A repeated key keeps its first position and takes its last value. Cloning
/// shares the members until one of the clones is changed.
#[derive(Clone, Debug, Default)]
pub struct Object {
    shape: Arc<Shape>,
    /// A value for each key, and behind them nulls: room for more. One piece of memory, because most objects are small
    /// and there are many.
    slots: Option<ThinArc<(), Value>>,
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
            slots: Some(nulls(members)),
        }
    }

    /// Makes an object of a known shape.
    ///
    /// # Panics
    /// There are more or fewer values than keys.
    #[must_use]
    pub fn of_shape(shape: Arc<Shape>, values: Vec<Value>) -> Self {
        assert_eq!(shape.len(), values.len(), "a value for each key");
        let slots = Some(ThinArc::from_header_and_iter((), values.into_iter()));
        Self { shape, slots }
    }

    /// Makes an object of a known shape out of these values, which become null, and room for members to come.
    pub(super) fn taking(shape: Arc<Shape>, values: &mut [Value], room: usize) -> Self {
        let mut slots = nulls(values.len() + room);
        with_own(&mut slots, |slots| {
            slots[..values.len()].swap_with_slice(values)
        });
        let slots = Some(slots);
        Self { shape, slots }
    }

    /// Makes an object of a known shape. Its values begin as nulls, and `fill` sets them where they stay, which costs a
    /// good deal less than handing them on.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn filled<E>(
        shape: Arc<Shape>,
        fill: impl FnOnce(&mut [Value]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut slots = nulls(shape.len());
        with_own(&mut slots, fill)?;
        let slots = Some(slots);
        Ok(Self { shape, slots })
    }

    /// Its keys.
    #[must_use]
    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let position = self.shape.position(key)?;
        self.slots().get(position)
    }

    /// The values in order.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.slots()[..self.len()]
    }

    /// Sets a key: in place if it is there, else at the end.
    pub fn set(&mut self, key: impl AsRef<str> + Into<Arc<str>>, value: impl Into<Value>) {
        let position = self.shape.position(key.as_ref());
        let position = position.unwrap_or_else(|| {
            let shape = Arc::make_mut(&mut self.shape);
            shape.push(key.into());
            shape.len() - 1
        });
        self.put(position, value.into());
    }

    /// Sets every member of `other`, in its order.
    pub fn extend(&mut self, other: &Self) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        for (key, value) in other.iter() {
            self.set(Arc::clone(key), value.clone());
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        if let Some(position) = self.shape.position(key) {
            self.remove_all(&[position]);
        }
    }

    /// Takes the members at these positions out, however many there are, in one pass.
    pub fn remove_all(&mut self, positions: &[usize]) {
        let mut stays = vec![true; self.len()];
        for position in positions {
            stays[*position] = false;
        }
        let staying = self.iter().zip(stays).filter(|(_, stays)| *stays);
        let (keys, values): (Vec<_>, Vec<_>) = staying
            .map(|((key, value), _)| (Arc::clone(key), value.clone()))
            .unzip();
        *self = Self::of_shape(Arc::new(keys.into_iter().collect()), values);
    }

    /// The members in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Value)> {
        self.shape.keys.iter().zip(self.slots())
    }

    fn slots(&self) -> &[Value] {
        self.slots.as_ref().map_or(&[], |slots| &slots.slice)
    }

    /// Puts a value where the key at this position has it; there may have been no room for it yet.
    fn put(&mut self, position: usize, value: Value) {
        if self.slots().len() <= position {
            self.take_slots((position + 1).next_power_of_two());
        } else if self.slots.as_ref().is_some_and(is_shared) {
            self.take_slots(self.slots().len());
        }
        if let Some(slots) = &mut self.slots {
            with_own(slots, |slots| slots[position] = value);
        }
    }

    /// Moves the values to so many slots of their own.
    #[cold]
    fn take_slots(&mut self, count: usize) {
        let given = self.slots();
        let slots = (0..count).map(|slot| given.get(slot).cloned().unwrap_or_default());
        self.slots = Some(ThinArc::from_header_and_iter((), slots));
    }
}

fn nulls(count: usize) -> ThinArc<(), Value> {
    ThinArc::from_header_and_iter((), (0..count).map(|_| Value::Null))
}

/// Changes slots that are not shared.
fn with_own<T>(slots: &mut ThinArc<(), Value>, change: impl FnOnce(&mut [Value]) -> T) -> T {
    slots.with_arc_mut(|slots| match triomphe::Arc::get_mut(slots) {
        Some(slots) => change(slots.slice_mut()),
        None => unreachable!("nobody else has them"),
    })
}

fn is_shared(slots: &ThinArc<(), Value>) -> bool {
    ThinArc::strong_count(slots) > 1
}

/// Objects are equal if they have equal members in the same order.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        (Arc::ptr_eq(&self.shape, &other.shape) || self.shape.keys == other.shape.keys)
            && self.values() == other.values()
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
                object.put(with.len() - 1, value.into());
            }
            _ => match object.shape.position(&self.key) {
                Some(position) => object.put(position, value.into()),
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
