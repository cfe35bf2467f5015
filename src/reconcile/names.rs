//! Texts and the tasks that each of them names, packed: a plan has a million of them.

use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::table::Table;

/// Texts by number, one after the other. Each takes its bytes and four more.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Texts {
    /// No texts, and room for the places of so many.
    pub(super) fn with_capacity(texts: usize) -> Self {
        Self {
            all: String::new(),
            ends: Vec::with_capacity(texts),
        }
    }

    /// The number that the next text gets. There are at most `u32::MAX`, as of tasks.
    pub(super) fn next(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    /// Adds a text.
    ///
    /// All are shorter than 4 GiB together, for they are parts of task requests, which have that limit; of one that is
    /// not, nothing is kept.
    pub(super) fn push(&mut self, text: &str) {
        let end = u32::try_from(self.all.len() + text.len());
        if end.is_ok() {
            self.all.push_str(text);
        }
        let before = self.ends.last().copied().unwrap_or(0);
        self.ends.push(end.unwrap_or(before));
    }

    /// The text of this number.
    pub(super) fn get(&self, number: u32) -> &str {
        &self.all[self.place(number)]
    }

    /// Whether this is the text of this number.
    fn is(&self, number: u32, text: &str) -> bool {
        self.all.as_bytes()[self.place(number)] == *text.as_bytes()
    }

    fn place(&self, number: u32) -> Range<usize> {
        let number = number as usize;
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        begin as usize..self.ends[number] as usize
    }
}

/// The tasks that a text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tasks<'n> {
    None,
    One(u32),
    /// In plan order.
    Several(&'n [u32]),
}

impl<'n> From<&'n [u32]> for Tasks<'n> {
    fn from(tasks: &'n [u32]) -> Self {
        match tasks {
            [] => Self::None,
            [task] => Self::One(*task),
            several => Self::Several(several),
        }
    }
}

/// Texts, each with the tasks it names; the empty text names none. A text that names one task, as nearly all do, takes its
/// bytes and about ten more.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    texts: Texts,
    /// The task that each text names; empty if text `n` names task `n`.
    tasks: Vec<u32>,
    /// The first of equal texts, by their hash.
    firsts: Table,
    /// All tasks of each text that names several; by its first number.
    several: HashMap<u32, Vec<u32>>,
    /// Seeded anew for each plan: whoever chooses the texts cannot choose where they are looked for.
    hasher: DefaultHashBuilder,
}

impl Names {
    /// Each text names the task of its number.
    pub(super) fn of_tasks(texts: Texts) -> Self {
        Self::new(texts, Vec::new())
    }

    /// Each text names the task that stands at its number; tasks are in plan order.
    pub(super) fn new(mut texts: Texts, mut tasks: Vec<u32>) -> Self {
        texts.all.shrink_to_fit();
        texts.ends.shrink_to_fit();
        tasks.shrink_to_fit();
        let end = texts.next();
        let named = (0..end).filter(|number| !texts.get(*number).is_empty());
        let mut names = Self {
            firsts: Table::new(named.count(), end),
            texts,
            tasks,
            ..Self::default()
        };
        for number in 0..end {
            names.add(number);
        }
        names
    }

    fn add(&mut self, number: u32) {
        let text = self.texts.get(number);
        if text.is_empty() {
            return;
        }
        let hash = self.hasher.hash_one(text);
        let is_it = |other| self.texts.is(other, text);
        let Some(first) = self.firsts.insert(hash, number, is_it) else {
            return;
        };
        let (first_task, task) = (self.task(first), self.task(number));
        match self.several.get_mut(&first) {
            Some(tasks) if tasks.last() == Some(&task) => {}
            Some(tasks) => tasks.push(task),
            None if first_task == task => {}
            None => _ = self.several.insert(first, vec![first_task, task]),
        }
    }

    /// The text of this number.
    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number)
    }

    /// The tasks that a text names.
    pub(super) fn tasks(&self, text: &str) -> Tasks<'_> {
        match self.find(text) {
            None => Tasks::None,
            Some(first) if self.several.is_empty() => Tasks::One(self.task(first)),
            Some(first) => match self.several.get(&first) {
                None => Tasks::One(self.task(first)),
                Some(tasks) => Tasks::Several(tasks),
            },
        }
    }

    /// The first task that a text names.
    pub(super) fn first_task(&self, text: &str) -> Option<u32> {
        self.find(text).map(|first| self.task(first))
    }

    /// Whether a text is the only one that names this task, and names no other. The answer may be no although it is so.
    pub(super) fn name_alone(&self, task: u32, text: &str) -> bool {
        let is_plain = self.tasks.is_empty() && self.several.is_empty();
        is_plain && task < self.texts.next() && !text.is_empty() && self.texts.is(task, text)
    }

    /// Whether every text is there, and names one task only.
    pub(super) fn tell_all_apart(&self) -> bool {
        self.several.is_empty() && (0..self.texts.next()).all(|n| !self.texts.get(n).is_empty())
    }

    /// The first number of a text.
    fn find(&self, text: &str) -> Option<u32> {
        let is_it = |number| self.texts.is(number, text);
        self.firsts.find(self.hasher.hash_one(text), is_it)
    }

    fn task(&self, number: u32) -> u32 {
        self.tasks.get(number as usize).copied().unwrap_or(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{Names, Tasks, Texts};

    fn texts<'t>(given: impl IntoIterator<Item = &'t str>) -> Texts {
        let mut texts = Texts::default();
        given.into_iter().for_each(|text| texts.push(text));
        texts
    }

    #[test]
    fn a_text_names_the_tasks_it_was_given_for_in_plan_order() {
        let names = Names::of_tasks(texts(["a", "b", "a", "", "ä", "a"]));
        assert_eq!(names.tasks("a"), Tasks::Several(&[0, 2, 5]));
        assert_eq!(names.tasks("b"), Tasks::One(1));
        assert_eq!(names.tasks("ä"), Tasks::One(4));
        assert_eq!(names.tasks("ab"), Tasks::None);
        assert_eq!(names.first_task("a"), Some(0));
        assert_eq!(names.text(4), "ä");
        assert!(!names.tell_all_apart());
    }

    #[test]
    fn the_empty_text_names_no_task() {
        let names = Names::of_tasks(texts(["", "a", ""]));
        assert_eq!(names.tasks(""), Tasks::None);
        assert_eq!((names.text(0), names.text(1), names.text(2)), ("", "a", ""));
        assert!(!names.tell_all_apart());
        assert_eq!(Names::default().tasks(""), Tasks::None);
        assert_eq!(Names::default().tasks("a"), Tasks::None);
        assert!(Names::default().tell_all_apart());
    }

    #[test]
    fn one_task_may_have_a_text_twice() {
        let names = Names::new(texts(["x", "x", "y", "x", "x"]), vec![3, 3, 3, 9, 9]);
        assert_eq!(names.tasks("x"), Tasks::Several(&[3, 9]));
        assert_eq!(names.tasks("y"), Tasks::One(3));
        assert!(Names::new(texts(["x", "x"]), vec![3, 3]).tell_all_apart());
    }

    /// Few different ones, short and long, plain and not.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[abä💡]{0,2}", "task-[0-9]{1,3}", "[\\PC]{0,40}"]
    }

    proptest! {
        #[test]
        fn names_are_what_a_map_of_sets_says(
            given in prop::collection::vec((text(), 0..3_u32), 0..120),
            others in prop::collection::vec(text(), 0..20),
            of_tasks in any::<bool>(),
        ) {
            let mut task = 0;
            let tasks: Vec<u32> = given.iter().map(|(_, step)| { task += step; task }).collect();
            let texts = texts(given.iter().map(|(text, _)| &**text));
            let mut map: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            for (number, (text, _)) in (0..).zip(&given).filter(|(_, (text, _))| !text.is_empty()) {
                let named = map.entry(text).or_default();
                named.push(if of_tasks { number } else { tasks[number as usize] });
                named.dedup();
            }
            let names = if of_tasks { Names::of_tasks(texts) } else { Names::new(texts, tasks) };
            for text in given.iter().map(|(text, _)| text).chain(&others) {
                let expected = map.get(&**text).map(Vec::as_slice).unwrap_or_default();
                prop_assert_eq!(names.tasks(text), Tasks::from(expected));
                prop_assert_eq!(names.first_task(text), expected.first().copied());
                for task in (0..200).filter(|task| names.name_alone(*task, text)) {
                    prop_assert_eq!(expected, [task]);
                }
            }
            for (number, (text, _)) in (0..).zip(&given) {
                prop_assert_eq!(names.text(number), text);
            }
        }
    }
}
