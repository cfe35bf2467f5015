//! One vector: an input, and the document (or the refusal) it must give.

use fanout::json::{self, Number, Object, Value};
use fanout::plan::{self, FindingsInput, Input};
use fanout::reconcile;

/// Checks one line of a vector file.
///
/// # Errors
/// The answer differs; says how.
pub fn check(line: &str) -> Result<(), String> {
    let limits = json::Limits {
        depth: 1024,
        ..json::Limits::default()
    };
    let vector =
        json::parse(line.as_bytes(), limits).map_err(|error| format!("not a vector: {error}"))?;
    let text = |field| vector.get(field).and_then(Value::as_str);
    let name = text("name").unwrap_or("(no name)");
    let kind = text("kind").unwrap_or_default();
    let flag = |field| vector.get(field) == Some(&Value::Bool(true));

    let input = match text("input_text") {
        Some(text) => {
            json::parse(text.as_bytes(), json::Limits::default()).map_err(|error| error.to_string())
        }
        None => Ok(vector.get("input").cloned().unwrap_or(Value::Null)),
    };
    let answer = input.and_then(|input| run(kind, &input));

    let recommended = match text("recommended_text") {
        Some(text) => {
            Some(json::parse(text.as_bytes(), limits).map_err(|error| error.to_string())?)
        }
        None => vector.get("recommended").cloned(),
    };
    let expected = if flag("recommended_error") {
        None
    } else {
        match recommended {
            Some(recommended) => Some(recommended),
            None if flag("expected_error") => None,
            None => vector.get("expected").cloned(),
        }
    };
    match (answer, expected) {
        (Err(_), None) => Ok(()),
        (Ok(answer), Some(expected)) => match difference("", &answer, &expected) {
            None => Ok(()),
            Some(difference) => Err(format!("{name}: {difference}")),
        },
        (Ok(answer), None) => Err(format!(
            "{name}: expected an error, found {}",
            json::compact(&answer)
        )),
        (Err(error), Some(_)) => Err(format!(
            "{name}: expected a document, found the error {error}"
        )),
    }
}

fn run(kind: &str, input: &Value) -> Result<Value, String> {
    let limits = plan::Limits::default();
    let findings = || FindingsInput::from_document(input);
    let records = |input: &Value| {
        input
            .get("records")
            .and_then(Value::as_array)
            .unwrap_or_default()
            .to_vec()
    };
    let answer = match kind {
        "plan" => plan::plan(Input::from_document(input), &limits).map(|plan| plan.document()),
        "reconcile" => reconcile_document(input),
        "findings_items" => plan::normalize_items(&findings(), &limits).map(Value::array),
        "findings_plan" => plan::plan_findings(&findings(), &limits).map(|plan| plan.document()),
        "findings_config" => {
            plan::materialize_config(&findings(), &limits).map(|ready| ready.document())
        }
        "findings_reconcile_input" => plan::reconcile_input(
            &findings(),
            input.get("plan").cloned(),
            &records(input),
            &limits,
        ),
        "findings_reconcile" => plan::reconcile_input(
            &findings(),
            input.get("plan").cloned(),
            &records(input),
            &limits,
        )
        .and_then(|input| reconcile_document(&input)),
        other => return Err(format!("unknown kind {other}")),
    };
    answer.map_err(|error| error.to_string())
}

fn reconcile_document(document: &Value) -> Result<Value, plan::Error> {
    let input = Input::from_document(document);
    let config: Object = input.config.clone();
    let plan = match document.get("plan").filter(|plan| plan.is_present()) {
        Some(plan) => plan.clone(),
        None => plan::plan(input, &plan::Limits::default())?.document(),
    };
    let records = document.get("records").cloned().map(Value::into_list);
    let records = records.unwrap_or_default();
    reconcile::reconcile(&config, &plan, records)
}

/// Where two documents first differ, key order included; numbers are compared as
/// doubles unless both were written as integers, which are exact.
fn difference(path: &str, found: &Value, expected: &Value) -> Option<String> {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b.iter())
            .enumerate()
            .find_map(|(at, (a, b))| difference(&format!("{path}[{at}]"), a, b)),
        (Value::Object(a), Value::Object(b)) => {
            let keys = |object: &Object| {
                object
                    .iter()
                    .map(|(key, _)| key.to_string())
                    .collect::<Vec<_>>()
            };
            if keys(a) != keys(b) {
                return Some(format!(
                    "{path}: expected keys {:?}, found {:?}",
                    keys(b),
                    keys(a)
                ));
            }
            a.iter()
                .zip(b.iter())
                .find_map(|((key, a), (_, b))| difference(&format!("{path}.{key}"), a, b))
        }
        (Value::Number(a), Value::Number(b)) if same_number(a, b) => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!(
            "{path}: expected {}, found {}",
            json::compact(b),
            json::compact(a)
        )),
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    let either_is_a_double = matches!(a, Number::Float(_)) || matches!(b, Number::Float(_));
    a == b || (either_is_a_double && a.to_f64() == b.to_f64())
}
