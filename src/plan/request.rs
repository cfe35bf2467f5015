//! One group into one task request: rendered template, identity, orchestrator, execution descriptor.

use std::sync::Arc;

use super::Error;
use super::config::Config;
use super::expression::{GroupScope, Scope};
use super::grouping::{Group, first_text};
use super::template::{MISSING_COST, Template, TextBudget, member_cost};
use crate::json::{Object, Setter, Shape, Shapes, Text, Value};

/// What it takes to render one task request after the other.
pub(super) struct Requests<'c> {
    config: &'c Config,
    body: Body<'c>,
    id_prefix: String,
    budget: TextBudget,
    /// What printing the config's orchestrator takes at least.
    orchestrator_cost: usize,
    set_group_index: Setter,
    set_orchestrator: Setter,
    set_runtime_execution: Setter,
    shapes: Shapes,
}

/// The members that the template gives a task request, behind its `id` and `group_key`.
enum Body<'c> {
    /// Keys in their order, and for each of them its template and what it costs; `id` and `group_key`, which come
    /// first, may have none.
    Members(Arc<Shape>, Vec<Option<(&'c Template, usize)>>),
    /// Constant members.
    Constant(&'c Object),
    /// No object, or perhaps one.
    Other(&'c Template),
}

impl<'c> Body<'c> {
    fn of(template: &'c Template) -> Self {
        match template {
            Template::Object(keys, templates) => {
                let mut shape: Shape = ["id", "group_key"].map(Arc::from).into_iter().collect();
                let mut members = vec![None; shape.len()];
                for (key, template) in keys.keys().iter().zip(templates) {
                    let place = shape.add(key);
                    members.resize(shape.len(), None);
                    members[place] = Some((template, member_cost(key)));
                }
                Self::Members(Arc::new(shape), members)
            }
            Template::Constant(Value::Object(object)) => Self::Constant(object),
            other => Self::Other(other),
        }
    }

    fn render(
        &self,
        scope: &Scope<'_>,
        budget: &mut TextBudget,
        index: usize,
    ) -> Result<Object, Error> {
        let rendered;
        let members = match self {
            Self::Members(shape, members) => {
                // Room for the orchestrator and the execution descriptor.
                let mut values = Vec::with_capacity(shape.len() + 2);
                let mut missing = Vec::new();
                for (place, member) in members.iter().enumerate() {
                    let Some((template, cost)) = member else {
                        values.push(Value::Null);
                        continue;
                    };
                    if template.render_onto(&mut values, scope, budget)? {
                        budget.spend(*cost)?;
                    } else {
                        budget.spend(MISSING_COST)?;
                        // The first two get a value in any case.
                        missing.extend(Some(place).filter(|place| *place >= 2));
                    }
                }
                let mut request = Object::of_shape(Arc::clone(shape), values);
                budget.leave_out(&mut request, &missing);
                return Ok(request);
            }
            Self::Constant(members) => *members,
            Self::Other(template) => match template.render(scope, budget)? {
                Some(Value::Object(object)) => {
                    rendered = object;
                    &rendered
                }
                other => {
                    let found = other.as_ref().map_or("nothing", Value::kind);
                    let problem = format!(
                        "must render to an object; for group {index} it renders to {found}"
                    );
                    return Err(Error::new("config.task_request_template", problem));
                }
            },
        };
        let mut request = Object::with_capacity(members.len() + 4);
        request.set("id", Value::Null);
        request.set("group_key", Value::Null);
        request.extend(members);
        Ok(request)
    }
}

impl<'c> Requests<'c> {
    pub(super) fn new(config: &'c Config, template_text_bytes: usize) -> Self {
        let orchestrator = config.orchestrator.as_object();
        let cost = |object: &Object| object.iter().map(|(key, _)| member_cost(key)).sum();
        Self {
            config,
            body: Body::of(&config.task_request_template),
            id_prefix: in_id(&id_prefix(&config.orchestrator)),
            budget: TextBudget::new("config.task_request_template", template_text_bytes),
            orchestrator_cost: orchestrator.map_or(0, cost),
            set_group_index: Setter::new("group_index"),
            set_orchestrator: Setter::new("orchestrator"),
            set_runtime_execution: Setter::new("runtime_execution"),
            shapes: Shapes::default(),
        }
    }

    /// Whether it can be told without rendering that all these groups render to objects within the budget.
    pub(super) fn surely_fit(&self, groups: &[Group]) -> bool {
        let longest_key = groups.iter().map(|group| group.key.len()).max();
        let longest_key = longest_key.unwrap_or_default();
        let body = match &self.body {
            Body::Members(_, members) => members.iter().flatten().try_fold(0, |sum, member| {
                let (template, cost) = member;
                Some(template.most_cost(longest_key)? + cost + sum)
            }),
            Body::Constant(_) => Some(0),
            Body::Other(_) => None,
        };
        let runtime_execution = self.config.runtime_execution.as_ref();
        let runtime_execution =
            runtime_execution.map_or(Some(0), |template| template.most_cost(longest_key));
        let (Some(body), Some(runtime_execution)) = (body, runtime_execution) else {
            return false;
        };
        let id = self.id_prefix.len() + 1 + longest_key;
        let each = body + runtime_execution + id + self.orchestrator_cost;
        self.budget.allows(each.saturating_mul(groups.len()))
    }

    pub(super) fn render(&mut self, group: &Group, index: usize) -> Result<Value, Error> {
        let config = self.config;
        let scope = Scope {
            group: Some(GroupScope::new(group, index)),
            names: &[
                ("orchestrator", &config.orchestrator),
                ("config", &config.document),
            ],
        };
        let budget = &mut self.budget;
        let mut request = self.body.render(&scope, budget, index)?;
        if request.get("id").is_none_or(Value::is_blank) {
            let task_id = request.get("task_id").filter(|task_id| !task_id.is_blank());
            let id = match task_id {
                Some(task_id) => Value::usable_text(task_id),
                None => {
                    let id = format!("{}-{}", self.id_prefix, in_id(&group.key));
                    budget.spend(id.len())?;
                    id.into()
                }
            };
            request.set("id", id);
        }
        if request.get("group_key").is_none_or(Value::is_blank) {
            request.set("group_key", group.key.clone());
        }
        budget.spend(self.orchestrator_cost)?;
        let orchestrator = self.orchestrator(request.get("orchestrator"), index);
        self.set_orchestrator.set(&mut request, orchestrator);
        if let Some(runtime_execution) = &config.runtime_execution {
            match runtime_execution.render(&scope, &mut self.budget)? {
                Some(value) => self.set_runtime_execution.set(&mut request, value),
                None => request.remove("runtime_execution"),
            }
        }
        self.shapes.share(&mut request);
        Ok(request.into())
    }

    /// The config's orchestrator, the group's index, and what the template's own orchestrator adds.
    fn orchestrator(&mut self, own: Option<&Value>, index: usize) -> Value {
        let mut orchestrator = match self.config.orchestrator.as_object() {
            Some(given) => {
                let mut values = Vec::with_capacity(given.len() + 1);
                values.extend(given.iter().map(|(_, value)| value.clone()));
                Object::of_shape(Arc::clone(given.shape()), values)
            }
            None => Object::default(),
        };
        self.set_group_index.set(&mut orchestrator, index);
        if let Some(own) = own.and_then(Value::as_object) {
            orchestrator.extend(own);
            self.shapes.share(&mut orchestrator);
        }
        orchestrator.into()
    }
}

fn id_prefix(orchestrator: &Value) -> Text {
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
