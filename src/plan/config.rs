//! The config's fields, their spellings and defaults.

use super::Error;
use super::template::Template;
use crate::json::{Object, Value};

const CONFIG_SCHEMA: &str = "homeboy/generic-fanout-reconcile-config/v1";
const PLAN_SCHEMA: &str = "homeboy/fanout-reconcile-plan/v1";
const RECONCILIATION_SCHEMA: &str = "homeboy/generic-fanout-reconcile-reconciliation/v1";
/// Spellings of the execution descriptor, the one that wins first.
const RUNTIME_SPELLINGS: [&str; 4] = [
    "runtime",
    "runtime_execution",
    "runtimeExecution",
    "executor",
];

/// A config as planning reads it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The whole config, as templates see it.
    pub(super) document: Value,
    /// The `orchestrator` object, or an empty one.
    pub(super) orchestrator: Value,
    /// Where an item's group key stands.
    pub(super) group_key_path: String,
    pub(super) task_request_template: Template,
    pub(super) runtime_execution: Option<Template>,
    pub(super) schema: Value,
    pub(super) plan_schema: Value,
    pub(super) reconciliation_schema: Value,
    pub(super) summary: Option<Object>,
}

/// The first of a field's spellings whose value counts as given.
#[must_use]
pub fn first_present<'c>(config: &'c Object, spellings: &[&str]) -> Option<&'c Value> {
    spellings
        .iter()
        .find_map(|name| config.get(name).filter(|value| value.is_present()))
}

impl Config {
    /// Reads the fields that planning needs.
    ///
    /// # Errors
    /// A field has a type that cannot mean anything.
    pub fn read(config: Object) -> Result<Self, Error> {
        let given = |spellings: &[&str]| first_present(&config, spellings);
        let or_schema = |spellings: &[&str], default| {
            given(spellings).cloned().unwrap_or(Value::string(default))
        };
        let group_key_path = match given(&["group_key_path", "groupKeyPath", "group_by", "groupBy"])
        {
            None => "group_key".to_owned(),
            Some(value) => path(value).ok_or_else(|| {
                Error::new(
                    "config.group_key_path",
                    format!("expected one path, found {}", value.kind()),
                )
            })?,
        };
        let template = match given(&["task_request_template", "taskRequestTemplate"]) {
            None => Object::default().into(),
            Some(value) => value.clone(),
        };
        Ok(Self {
            orchestrator: object_or_empty(config.get("orchestrator")),
            group_key_path,
            task_request_template: Template::compile(&template),
            runtime_execution: given(&RUNTIME_SPELLINGS).and_then(descriptor),
            schema: or_schema(&["schema"], CONFIG_SCHEMA),
            plan_schema: or_schema(&["plan_schema", "planSchema"], PLAN_SCHEMA),
            reconciliation_schema: reconciliation_schema(&config),
            summary: match config.get("summary") {
                Some(Value::Object(summary)) => Some(summary.clone()),
                _ => None,
            },
            document: config.into(),
        })
    }
}

/// The schema name that a config gives reconciliations.
pub(crate) fn reconciliation_schema(config: &Object) -> Value {
    first_present(config, &["reconciliation_schema", "reconciliationSchema"])
        .cloned()
        .unwrap_or_else(|| Value::string(RECONCILIATION_SCHEMA))
}

/// A path: a string, a number, or a list of just one of them. The existing documents hold all three.
pub(crate) fn path(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => match &values[..] {
            [one @ (Value::String(_) | Value::Number(_))] => path(one),
            _ => None,
        },
        _ => None,
    }
}

/// An execution descriptor counts if it is an object, list or string that is not empty.
fn descriptor(value: &Value) -> Option<Template> {
    let empty = match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => true,
    };
    (!empty).then(|| Template::compile(value))
}

pub(super) fn object_or_empty(value: Option<&Value>) -> Value {
    match value {
        Some(object @ Value::Object(_)) => object.clone(),
        _ => Object::default().into(),
    }
}
