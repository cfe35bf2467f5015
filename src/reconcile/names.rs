//! Texts and the tasks that each of them names, packed: a plan has a million of them.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

/// Texts, each with the tasks it names. Texts that name one task, as nearly all do, take their bytes and about 20 more.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// One after the other.
    texts: String,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The first task that each of them names.
    firsts: Vec<u32>,
    /// All tasks, in plan order, of those that name several.
    several: HashMap<u32, Vec<u32>>,
    /// Which text it is, by the text.
    table: HashTable<u32>,
    /// Seeded anew for each plan: those who choose the texts cannot choose where they are looked for.
    hasher: DefaultHashBuilder,
}

impl Names {
    /// The tasks that a text names, in plan order.
    pub(super) fn tasks(&self, text: &str) -> &[u32] {
        let Some(name) = self.find(text) else {
            return &[];
        };
        if let Some(tasks) = self.several.get(&name) {
            return tasks;
        }
        std::slice::from_ref(&self.firsts[name as usize])
    }

    /// Has a text name a task. Tasks come in plan order.
    pub(super) fn add(&mut self, text: &str, task: u32) {
        let Some(name) = self.find(text) else {
            return self.insert(text, task);
        };
        let first = self.firsts[name as usize];
        let tasks = match self.several.get_mut(&name) {
            Some(tasks) => tasks,
            None if first == task => return,
            None => self.several.entry(name).or_insert_with(|| vec![first]),
        };
        if tasks.last() != Some(&task) {
            tasks.push(task);
        }
    }

    fn insert(&mut self, text: &str, task: u32) {
        // A plan has fewer than 2^32 tasks, and each at most three names here.
        let Ok(name) = u32::try_from(self.ends.len()) else {
            return;
        };
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        self.firsts.push(task);
        let Self {
            texts,
            ends,
            table,
            hasher,
            ..
        } = self;
        let hash = |name: &u32| hasher.hash_one(text_of(texts, ends, *name));
        table.insert_unique(hasher.hash_one(text), name, hash);
    }

    fn find(&self, text: &str) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let is_it = |name: &u32| text_of(&self.texts, &self.ends, *name) == text;
        self.table.find(self.hasher.hash_one(text), is_it).copied()
    }
}

fn text_of<'n>(texts: &'n str, ends: &[usize], name: u32) -> &'n str {
    let name = name as usize;
    let begin = name.checked_sub(1).map_or(0, |before| ends[before]);
    &texts[begin..ends[name]]
}
