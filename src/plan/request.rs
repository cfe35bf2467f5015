//! One group into one task request: rendered template, identity, orchestrator, execution descriptor.

use std::sync::Arc;

use super::Error;
use super::config::Config;
use super::grouping::{Group, first_text};
use super::template::{GroupScope, Scope, TextBudget, least_bytes};
use crate::json::{Object, Value};

pub(super) fn render_all(
    config: &Config,
    groups: &[Group],
    template_text_bytes: usize,
) -> Result<Vec<Value>, Error> {
    let mut budget = TextBudget::new("config.task_request_template", template_text_bytes);
    let names = Names::default();
    let prefix = in_id(&id_prefix(&config.orchestrator));
    groups
        .iter()
        .enumerate()
        .map(|(index, group)| render(config, group, index, &prefix, &names, &mut budget))
        .collect()
}

/// Keys that every task request has, made once and shared.
struct Names {
    id: Arc<str>,
    group_key: Arc<str>,
    orchestrator: Arc<str>,
    group_index: Arc<str>,
    runtime_execution: Arc<str>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            id: "id".into(),
            group_key: "group_key".into(),
            orchestrator: "orchestrator".into(),
            group_index: "group_index".into(),
            runtime_execution: "runtime_execution".into(),
        }
    }
}

fn render(
    config: &Config,
    group: &Group,
    index: usize,
    prefix: &str,
    names: &Names,
    budget: &mut TextBudget,
) -> Result<Value, Error> {
    let scope = Scope {
        group: Some(GroupScope::new(group, index)),
        names: &[
            ("orchestrator", &config.orchestrator),
            ("config", &config.document),
        ],
    };
    let template = &config.task_request_template;
    let mut request = Object::with_capacity(template.member_count() + 4);
    request.set(Arc::clone(&names.id), Value::Null);
    request.set(Arc::clone(&names.group_key), Value::Null);
    if let Err(other) = template.render_into(&mut request, &scope, budget)? {
        let found = other.as_ref().map_or("nothing", Value::kind);
        let problem = format!("must render to an object; for group {index} it renders to {found}");
        return Err(Error::new("config.task_request_template", problem));
    }
    if request.get("id").is_none_or(Value::is_blank) {
        let task_id = request.get("task_id").filter(|task_id| !task_id.is_blank());
        let id = match task_id {
            Some(task_id) => Value::shared_text(task_id),
            None => {
                let id = format!("{prefix}-{}", in_id(&group.key));
                budget.spend(id.len())?;
                id.into()
            }
        };
        request.set(Arc::clone(&names.id), id);
    }
    if request.get("group_key").is_none_or(Value::is_blank) {
        request.set(Arc::clone(&names.group_key), Arc::clone(&group.key));
    }
    budget.spend(config.orchestrator.as_object().map_or(0, least_bytes))?;
    let orchestrator = orchestrator(config, request.get("orchestrator"), index, names);
    request.set(Arc::clone(&names.orchestrator), orchestrator);
    if let Some(runtime_execution) = &config.runtime_execution {
        match runtime_execution.render(&scope, budget)? {
            Some(value) => request.set(Arc::clone(&names.runtime_execution), value),
            None => request.remove("runtime_execution"),
        }
    }
    Ok(request.into())
}

/// The config's orchestrator, the group's index, and what the template's own orchestrator adds.
fn orchestrator(config: &Config, own: Option<&Value>, index: usize, names: &Names) -> Value {
    let given = config.orchestrator.as_object();
    let mut orchestrator = Object::with_capacity(given.map_or(0, Object::len) + 1);
    if let Some(given) = given {
        orchestrator.extend(given);
    }
    orchestrator.set(Arc::clone(&names.group_index), index);
    if let Some(own) = own.and_then(Value::as_object) {
        orchestrator.extend(own);
    }
    orchestrator.into()
}

fn id_prefix(orchestrator: &Value) -> Arc<str> {
    first_text(orchestrator, &["run_id", "plan_id"]).unwrap_or_else(|| "fanout".into())
}

/// A part of an id, every run of characters outside `A-Za-z0-9._-` replaced by one `-`.
fn in_id(part: &str) -> String {
    let mut id = String::with_capacity(part.len());
    let mut replaced = false;
    for c in part.chars() {
        let keep = c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if keep {
            id.push(c);
        } else if !replaced {
            id.push('-');
        }
        replaced = !keep;
    }
    id
}
