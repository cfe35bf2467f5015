//! A page of a registered plan's result, written as text from the records' own text: no tree is built where none is needed.

use std::borrow::Cow;

use super::Settings;
use super::status::Status;
use crate::json::{self, Form, Object, Value};

/// The tasks' part of a result document: three lists without their brackets.
#[derive(Debug, Default)]
pub struct PageText {
    /// The form of the records that were added.
    form: Form<()>,
    records: String,
    outcomes: String,
    failed_task_ids: String,
    tasks: usize,
}

/// What a task brings to its page.
#[derive(Clone, Copy, Debug)]
pub enum Brought<'r> {
    /// Its reconciled record, a JSON object as it was accepted, and whether it counts as successful.
    Record(&'r [u8], bool),
    /// No record; the group key of the task.
    Nothing(&'r Value),
}

/// Deepest nesting of a record that can have been accepted.
const DEPTH_MAX: usize = 1_024;

impl PageText {
    /// An empty page with room for records of so many bytes.
    #[must_use]
    pub fn with_capacity(record_bytes: usize) -> Self {
        Self {
            records: String::with_capacity(record_bytes),
            ..Self::default()
        }
    }

    /// Adds the next task, unless that would make the page longer than `bytes_max` bytes: then it answers `false`, and the
    /// page is as it was.
    #[must_use]
    pub fn push(
        &mut self,
        settings: &Settings,
        task_id: &str,
        brought: Brought<'_>,
        bytes_max: usize,
    ) -> bool {
        let lists = [&self.records, &self.outcomes, &self.failed_task_ids];
        let before = lists.map(String::len);
        separate(&mut self.records);
        let successful = match brought {
            Brought::Record(document, successful) => {
                self.push_record(settings, document);
                successful
            }
            Brought::Nothing(group_key) => {
                self.push_missing(settings, task_id, group_key);
                settings.counts_missing_as_successful()
            }
        };
        if !successful {
            separate(&mut self.failed_task_ids);
            json::write_string(&mut self.failed_task_ids, task_id);
        }
        if self.bytes() <= bytes_max {
            self.tasks += 1;
            return true;
        }
        let lists = [
            &mut self.records,
            &mut self.outcomes,
            &mut self.failed_task_ids,
        ];
        for (list, length) in lists.into_iter().zip(before) {
            list.truncate(length);
        }
        false
    }

    /// Bytes of the lists.
    fn bytes(&self) -> usize {
        self.records.len() + self.outcomes.len() + self.failed_task_ids.len()
    }

    /// How many tasks it has.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    fn push_record(&mut self, settings: &Settings, document: &[u8]) {
        let path = settings.outcome_path.as_deref().unwrap_or_default();
        let (root, below) = match path.split_once('.') {
            Some((root, below)) => (root, Some(below)),
            None => (path, None),
        };
        let text = std::str::from_utf8(document).unwrap_or_default();
        let printed = json::recompact_alike(&mut self.form, &mut self.records, text, root);
        let Some(at_root) = printed else {
            // Read once when it was accepted; a document that cannot be read again would be a defect.
            let record = read(document);
            print(&mut self.records, &record);
            return self.push_outcome(settings.outcome(&record).as_ref());
        };
        if let Some(place) = at_root.filter(|_| !path.is_empty()) {
            let value = &self.records[place];
            match below {
                None if is_present(value) => {
                    separate(&mut self.outcomes);
                    self.outcomes.push_str(value);
                }
                None => {}
                Some(below) => {
                    let value = read(value.as_bytes());
                    let outcome = steps(&value, below).filter(|outcome| outcome.is_present());
                    self.push_outcome(outcome.as_deref());
                }
            }
        }
    }

    fn push_missing(&mut self, settings: &Settings, task_id: &str, group_key: &Value) {
        self.records.push_str("{\"id\":");
        json::write_string(&mut self.records, task_id);
        self.records.push_str(",\"group_key\":");
        print(&mut self.records, group_key);
        self.records.push_str(",\"status\":");
        json::write_string(&mut self.records, Status::MissingRecord.name());
        self.records.push('}');
        let outcome = settings.outcome_of_missing(task_id, group_key);
        self.push_outcome(outcome.as_deref());
    }

    fn push_outcome(&mut self, outcome: Option<&Value>) {
        if let Some(outcome) = outcome {
            separate(&mut self.outcomes);
            print(&mut self.outcomes, outcome);
        }
    }

    /// The result document: what [`document`](super::document) says of an empty page, with this one's lists in it.
    #[must_use]
    pub fn into_document(self, of_empty_page: &Object) -> String {
        let mut out = String::with_capacity(self.bytes() + DOCUMENT_BYTES);
        write_members(&mut out, of_empty_page, |out, key, value| match key {
            "records" => write_list(out, &self.records),
            "outcomes" => write_list(out, &self.outcomes),
            "reconciliation" => {
                let reconciliation = value.as_object().cloned().unwrap_or_default();
                write_members(out, &reconciliation, |out, key, value| match key {
                    "failed_task_ids" => write_list(out, &self.failed_task_ids),
                    _ => print(out, value),
                });
            }
            _ => print(out, value),
        });
        out
    }
}

/// What a document has beside its lists, as a rule.
const DOCUMENT_BYTES: usize = 4 << 10;

fn write_members(
    out: &mut String,
    object: &Object,
    mut value: impl FnMut(&mut String, &str, &Value),
) {
    let mut separator = '{';
    for (key, member) in object.iter() {
        out.push(separator);
        separator = ',';
        json::write_string(out, key);
        out.push(':');
        value(out, key, member);
    }
    if separator == '{' {
        out.push('{');
    }
    out.push('}');
}

fn write_list(out: &mut String, elements: &str) {
    out.push('[');
    out.push_str(elements);
    out.push(']');
}

/// A comma, unless this is the first element.
fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
}

fn print(out: &mut String, value: &Value) {
    let whole = json::write_compact_within(out, value, usize::MAX);
    debug_assert!(whole, "no text is longer than the address space");
}

fn read(document: &[u8]) -> Value {
    let limits = json::Limits {
        depth: DEPTH_MAX,
        ..json::Limits::default()
    };
    json::parse(document, limits).unwrap_or(Value::Null)
}

/// What the rest of a path finds. Unlike a whole one, an empty rest is a step.
fn steps<'v>(value: &'v Value, rest: &str) -> Option<Cow<'v, Value>> {
    rest.split('.')
        .try_fold(Cow::Borrowed(value), |value, part| match value {
            Cow::Borrowed(value) => value.step(part),
            Cow::Owned(value) => Some(Cow::Owned(value.step(part)?.into_owned())),
        })
}

/// [`Value::is_present`] of a compact text.
fn is_present(text: &str) -> bool {
    !matches!(text, "null" | "false" | "0" | "\"\"")
}

impl Settings {
    /// Whether the outcome path finds one in the record of every task that has none.
    #[must_use]
    pub fn all_missing_records_have_outcomes(&self) -> bool {
        matches!(self.outcome_path.as_deref(), Some("id" | "status"))
    }

    /// The outcome that the outcome path finds in the record of a task that has none.
    #[must_use]
    pub fn outcome_of_missing<'v>(
        &self,
        task_id: &str,
        group_key: &'v Value,
    ) -> Option<Cow<'v, Value>> {
        let found = match self.outcome_path.as_deref()? {
            "id" => Some(Cow::Owned(task_id.into())),
            "status" => Some(Cow::Owned(Status::MissingRecord.value())),
            "group_key" => Some(Cow::Borrowed(group_key)),
            path => steps(group_key, path.strip_prefix("group_key.")?),
        };
        found.filter(|outcome| outcome.is_present())
    }
}
