//! Texts and the tasks that each of them names, packed: a plan has a million of them.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

/// Texts, each with the tasks it names. A text that names one task, as nearly all do, takes its bytes and about 20 more.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// One after the other.
    texts: String,
    /// What is to be known of each, by its hash.
    table: HashTable<Name>,
    /// All tasks, in plan order, of each text that names several; by where the text begins.
    several: HashMap<u32, Vec<u32>>,
    /// Seeded anew for each plan: whoever chooses the texts cannot choose where they are looked for.
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    begin: u32,
    length: u32,
    /// The first task that it names.
    task: u32,
}

impl Name {
    fn text(self, texts: &str) -> &str {
        &texts[self.begin as usize..][..self.length as usize]
    }
}

impl Names {
    /// No names, and room for so many.
    pub(super) fn with_capacity(names: usize) -> Self {
        Self {
            table: HashTable::with_capacity(names),
            ..Self::default()
        }
    }

    /// The tasks that a text names, in plan order.
    pub(super) fn tasks(&self, text: &str) -> &[u32] {
        match self.find(text) {
            None => &[],
            Some(name) if self.several.is_empty() => std::slice::from_ref(&name.task),
            Some(name) => match self.several.get(&name.begin) {
                None => std::slice::from_ref(&name.task),
                Some(tasks) => tasks,
            },
        }
    }

    /// Has a text name a task. Tasks come in plan order.
    ///
    /// All texts together are shorter than 4 GiB: they are parts of task requests, which have that limit.
    pub(super) fn add(&mut self, text: &str, task: u32) {
        let Some(&Name {
            begin, task: first, ..
        }) = self.find(text)
        else {
            return self.insert(text, task);
        };
        let tasks = match self.several.get_mut(&begin) {
            Some(tasks) => tasks,
            None if first == task => return,
            None => self.several.entry(begin).or_insert_with(|| vec![first]),
        };
        if tasks.last() != Some(&task) {
            tasks.push(task);
        }
    }

    fn insert(&mut self, text: &str, task: u32) {
        let places = [self.texts.len(), text.len(), self.texts.len() + text.len()];
        let [Ok(begin), Ok(length), Ok(_)] = places.map(u32::try_from) else {
            return;
        };
        self.texts.push_str(text);
        let name = Name {
            begin,
            length,
            task,
        };
        let (texts, hasher) = (&self.texts, &self.hasher);
        let hash = |name: &Name| hasher.hash_one(name.text(texts));
        self.table.insert_unique(hasher.hash_one(text), name, hash);
    }

    fn find(&self, text: &str) -> Option<&Name> {
        if self.table.is_empty() {
            return None;
        }
        let is_it = |name: &Name| name.text(&self.texts) == text;
        self.table.find(self.hasher.hash_one(text), is_it)
    }
}
