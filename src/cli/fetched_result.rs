//! A plan's result, fetched page by page and written as one document. What grows with the plan is kept in files without a
//! name, so that a result may be larger than memory.

use std::io::{self, Seek, Write};
use std::path::Path;

use tempfile::SpooledTempFile;

use super::Failure;
use super::client::{Client, explain};
use super::files::write_by;
use super::print;
use crate::json::{self, Object, Value};
use crate::proto::{Counts, EndReason, PlanStatus, ReconcileRequest, ReconcileResponse};

/// Records fetched at a time.
const PAGE_SIZE: i32 = 1_000;
/// Up to this size a list stays in memory.
const IN_MEMORY_BYTES: usize = 4 << 20;

/// A plan's result as it was when it was fetched.
pub(super) struct FetchedResult {
    pub(super) status: PlanStatus,
    /// Why the plan has ended, if it has.
    pub(super) end_reason: EndReason,
    pub(super) counts: Counts,
    /// The document without what is of single tasks.
    document: Object,
    records: List,
    outcomes: List,
    failed_task_ids: List,
}

/// Fetches a result.
pub(super) async fn fetch(client: &mut Client, plan_id: &str) -> Result<FetchedResult, Failure> {
    let mut whole: Option<Object> = None;
    let (mut records, mut outcomes) = (List::indented_by(4), List::indented_by(4));
    let mut failed_task_ids = List::indented_by(6);
    let last = each_page(client, plan_id, |document| {
        let member = |name| document.get(name).and_then(Value::as_array);
        records.extend(member("records").unwrap_or_default())?;
        outcomes.extend(member("outcomes").unwrap_or_default())?;
        let reconciliation = document.get("reconciliation");
        let failed = reconciliation.and_then(|counts| counts.get("failed_task_ids"));
        failed_task_ids.extend(failed.and_then(Value::as_array).unwrap_or_default())?;
        if let (None, Value::Object(page)) = (&whole, document) {
            whole = Some(without_lists(page));
        }
        Ok(())
    });
    let last = last.await?;
    Ok(FetchedResult {
        status: last.status(),
        end_reason: last.end_reason(),
        counts: last.counts.unwrap_or_default(),
        document: whole.unwrap_or_else(|| without_lists(Object::default())),
        records,
        outcomes,
        failed_task_ids,
    })
}

/// For each task in plan order, whether it has no record.
pub(super) async fn missing(client: &mut Client, plan_id: &str) -> Result<Vec<bool>, Failure> {
    let mut missing = Vec::new();
    let is_missing =
        |record: &Value| record.get("status").and_then(Value::as_str) == Some("missing_record");
    each_page(client, plan_id, |document| {
        let records = document.get("records").and_then(Value::as_array);
        missing.extend(records.unwrap_or_default().iter().map(is_missing));
        Ok(())
    })
    .await?;
    Ok(missing)
}

/// Hands the document of each page on, and answers the last page without it.
async fn each_page(
    client: &mut Client,
    plan_id: &str,
    mut take: impl FnMut(Value) -> Result<(), Failure>,
) -> Result<ReconcileResponse, Failure> {
    let mut page_token = String::new();
    loop {
        let request = ReconcileRequest {
            plan_id: plan_id.to_owned(),
            page_size: PAGE_SIZE,
            page_token,
            ..Default::default()
        };
        let page = client.reconcile(request).await;
        let mut page = page.map_err(|status| explain(&status))?.into_inner();
        take(print::document(&std::mem::take(&mut page.document)))?;
        if page.next_page_token.is_empty() {
            return Ok(page);
        }
        page_token = page.next_page_token;
    }
}

/// The document with its lists empty; what it lacks is put at its end.
fn without_lists(mut document: Object) -> Object {
    let empty = || Value::array(Vec::new());
    document.set("records", empty());
    document.set("outcomes", empty());
    let reconciliation = document.get("reconciliation").and_then(Value::as_object);
    let mut reconciliation = reconciliation.cloned().unwrap_or_default();
    reconciliation.set("failed_task_ids", empty());
    document.set("reconciliation", Value::from(reconciliation));
    document
}

impl FetchedResult {
    /// Whether the document says so.
    pub(super) fn is_completed(&self) -> bool {
        self.document.get("status").and_then(Value::as_str) == Some("completed")
    }

    /// Writes the document, as [`write_document`](super::files::write_document) writes one. It may be written again.
    pub(super) fn write(&mut self, output: Option<&Path>) -> Result<(), Failure> {
        write_by(output, |out| self.write_to(out))
    }

    fn write_to(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let (records, outcomes) = (&mut self.records, &mut self.outcomes);
        let failed_task_ids = &mut self.failed_task_ids;
        write_members(out, &self.document, 0, |out, key, value| match key {
            "records" => records.write_to(out),
            "outcomes" => outcomes.write_to(out),
            "reconciliation" => {
                let empty = Object::default();
                let reconciliation = value.as_object().unwrap_or(&empty);
                write_members(out, reconciliation, 2, |out, key, value| match key {
                    "failed_task_ids" => failed_task_ids.write_to(out),
                    _ => out.write_all(indented(value, 4).as_bytes()),
                })
            }
            _ => out.write_all(indented(value, 2).as_bytes()),
        })?;
        out.write_all(b"\n")
    }
}

/// A value as it is printed inside of others, indented by so many spaces but for its first line.
fn indented(value: &Value, spaces: usize) -> String {
    let pretty = json::pretty(value);
    pretty.trim_end().replace('\n', &line_start(spaces))
}

fn line_start(spaces: usize) -> String {
    format!("\n{}", " ".repeat(spaces))
}

fn write_members(
    out: &mut dyn Write,
    object: &Object,
    spaces: usize,
    mut write: impl FnMut(&mut dyn Write, &str, &Value) -> io::Result<()>,
) -> io::Result<()> {
    let start = line_start(spaces + 2);
    let mut before = "{";
    for (key, value) in object.iter() {
        let mut name = format!("{before}{start}");
        json::write_string(&mut name, key);
        name.push_str(": ");
        out.write_all(name.as_bytes())?;
        write(out, key, value)?;
        before = ",";
    }
    if object.is_empty() {
        return out.write_all(b"{}");
    }
    out.write_all(format!("{}}}", line_start(spaces)).as_bytes())
}

/// A list as it stands in the document; its elements are in a file once they are many.
struct List {
    elements: SpooledTempFile,
    is_empty: bool,
    spaces: usize,
}

impl List {
    /// An empty list, whose elements are indented by so many spaces.
    fn indented_by(spaces: usize) -> Self {
        Self {
            elements: SpooledTempFile::new(IN_MEMORY_BYTES),
            is_empty: true,
            spaces,
        }
    }

    fn extend(&mut self, values: &[Value]) -> Result<(), Failure> {
        let start = line_start(self.spaces);
        let mut text = String::new();
        for value in values {
            text.push_str(if self.is_empty { "[" } else { "," });
            text.push_str(&start);
            text.push_str(&indented(value, self.spaces));
            self.is_empty = false;
        }
        let kept = self.elements.write_all(text.as_bytes());
        kept.map_err(|error| {
            let directory = std::env::temp_dir();
            Failure::new(format!(
                "{}: failed to keep the result: {error}",
                directory.display()
            ))
        })
    }

    fn write_to(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_empty {
            return out.write_all(b"[]");
        }
        self.elements.rewind()?;
        io::copy(&mut self.elements, out)?;
        let end = line_start(self.spaces - 2);
        out.write_all(format!("{end}]").as_bytes())
    }
}
