//! Output: tables for people, JSON lines for machines, and text that cannot play tricks on a terminal.

use prost_types::Timestamp;

use crate::json::{self, Number, Object, Value};
use crate::proto;

/// Control and direction characters escaped: ids and messages come from anywhere.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        let direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n') || direction {
            printable.extend(c.escape_unicode());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Text of one line and at most so many characters.
pub(super) fn short(text: &str, most: usize) -> String {
    let one_line = printable(&text.replace('\n', " "));
    if one_line.chars().count() <= most {
        return one_line;
    }
    one_line
        .chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Rows in columns as wide as their widest cell.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| {
        row.iter()
            .map(|cell| cell.chars().count())
            .collect::<Vec<_>>()
    };
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = cell.max(*width);
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// One JSON object on a line.
pub(super) fn json_line(object: Object) -> String {
    json::compact(&object.into()) + "\n"
}

/// An object from pairs.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    let mut object = Object::with_capacity(N);
    for (key, value) in members {
        object.set(key, value);
    }
    object
}

/// A count.
pub(super) fn number(count: u64) -> Value {
    Value::Number(i64::try_from(count).map_or(Number::UInt(count), Number::Int))
}

/// A JSON document as a value; null if it is none.
pub(super) fn document(bytes: &[u8]) -> Value {
    json::parse(
        bytes,
        json::Limits {
            depth: 1024,
            ..json::Limits::default()
        },
    )
    .unwrap_or(Value::Null)
}

/// An enum value's name without the enum's prefix, in lower case: `completed`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

pub(super) fn plan_status(status: proto::PlanStatus) -> String {
    word(status.as_str_name(), "PLAN_STATUS_")
}

pub(super) fn task_status(status: proto::TaskStatus) -> String {
    word(status.as_str_name(), "TASK_STATUS_")
}

pub(super) fn end_reason(reason: proto::EndReason) -> String {
    word(reason.as_str_name(), "END_REASON_")
}

/// The counts as an object.
pub(super) fn counts(counts: &proto::Counts) -> Value {
    object([
        ("items", number(counts.items)),
        ("groups", number(counts.groups)),
        ("tasks", number(counts.tasks)),
        ("recorded", number(counts.recorded)),
        ("successful", number(counts.successful)),
        ("failed", number(counts.failed)),
        ("missing", number(counts.missing)),
        ("running", number(counts.running)),
        ("outcomes", number(counts.outcomes)),
        ("quarantined", number(counts.quarantined)),
    ])
    .into()
}

/// How many there are of something: `1 record`, `2 records`.
pub(super) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The counts in one line.
pub(super) fn counts_line(counts: &proto::Counts) -> String {
    let mut line = format!(
        "{} of {} tasks recorded: {} successful, {} failed, {} missing",
        counts.recorded, counts.tasks, counts.successful, counts.failed, counts.missing
    );
    if counts.quarantined > 0 {
        let quarantined = counted(counts.quarantined, "record");
        line.push_str(&format!("; {quarantined} in quarantine"));
    }
    line
}

/// A plan as an object.
pub(super) fn plan(plan: &proto::Plan) -> Object {
    let time = |time: &Option<Timestamp>| {
        time.as_ref()
            .map_or(Value::Null, |time| Value::string(&time.to_string()))
    };
    let mut labels = Object::default();
    let mut sorted: Vec<_> = plan.labels.iter().collect();
    sorted.sort();
    for (key, value) in sorted {
        labels.set(key.as_str(), value.as_str());
    }
    object([
        ("plan_id", plan.plan_id.as_str().into()),
        ("status", plan_status(plan.status()).as_str().into()),
        ("end_reason", end_reason(plan.end_reason()).as_str().into()),
        ("end_note", plan.end_note.as_str().into()),
        ("counts", counts(&plan.counts.unwrap_or_default())),
        ("sequence", number(plan.sequence)),
        ("cursor", plan.cursor.as_str().into()),
        ("digest", plan.digest.as_str().into()),
        ("labels", labels.into()),
        ("create_time", time(&plan.create_time)),
        ("deadline", time(&plan.deadline)),
        ("end_time", time(&plan.end_time)),
        ("expire_time", time(&plan.expire_time)),
    ])
}

#[cfg(test)]
mod tests {
    use super::{printable, short, table};

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        assert_eq!(
            printable("a\u{1b}[31mb\u{202e}c"),
            "a\\u{1b}[31mb\\u{202e}c"
        );
    }

    #[test]
    fn long_text_is_cut_to_one_line_with_an_ellipsis() {
        assert_eq!(short("one\ntwo three", 8), "one two…");
        assert_eq!(short("one", 8), "one");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".into(), "1".into()],
            vec!["long".into(), "2".into()],
        ];
        assert_eq!(table(&["ID", "N"], &rows), "ID    N\na     1\nlong  2\n");
    }
}
