//! One group into one task request: rendered template, identity, orchestrator, execution descriptor.

use std::convert::Infallible;
use std::sync::Arc;

use super::Error;
use super::config::Config;
use super::expression::{GroupScope, Scope};
use super::grouping::{Group, first_text};
use super::template::{MISSING_COST, Template, TextBudget, member_cost};
use crate::json::{Object, Shape, Shapes, Text, Value};

/// What it takes to render one task request after the other.
pub(super) struct Requests<'c> {
    config: &'c Config,
    body: Body<'c>,
    id_prefix: String,
    budget: TextBudget,
    orchestrator: Orchestrator,
    /// What printing the config's orchestrator takes at least.
    orchestrator_cost: usize,
}

/// The orchestrator of all task requests.
struct Orchestrator {
    /// The config's, and a `group_index`.
    members: Object,
    /// Where that stands.
    group_index: usize,
}

impl Orchestrator {
    fn new(mut members: Object) -> Self {
        members.set("group_index", Value::Null);
        let group_index = members.shape().position("group_index");
        Self {
            members,
            group_index: group_index.unwrap_or_default(),
        }
    }

    /// With the group's index, and what the template's own orchestrator adds.
    fn with(&self, own: Option<&Object>, index: usize, shapes: &mut Shapes) -> Value {
        let members = &self.members;
        let Ok(mut orchestrator) = Object::filled(Arc::clone(members.shape()), |values| {
            values.clone_from_slice(members.values());
            values[self.group_index] = index.into();
            Ok::<_, Infallible>(())
        });
        if let Some(own) = own {
            orchestrator.extend(own);
            shapes.share(&mut orchestrator);
        }
        orchestrator.into()
    }
}

/// What the template makes of a group.
enum Body<'c> {
    Members(Members),
    /// No object, or perhaps one.
    Other(&'c Template),
}

/// The members of all task requests that lack none of them.
struct Members {
    /// `id`, `group_key`, those of the template, `orchestrator` and `runtime_execution`: a key stands where it comes first.
    shape: Arc<Shape>,
    /// For each key the template of its value and what it costs, if the template has it.
    templates: Vec<Option<(Template, usize)>>,
    task_id: Option<usize>,
    orchestrator: usize,
    /// Where it stands if the config has one.
    runtime_execution: Option<usize>,
}

const ID: usize = 0;
const GROUP_KEY: usize = 1;

impl Members {
    /// The keys that the template has come with their templates and costs.
    fn new(config: &Config, template: impl Iterator<Item = (Arc<str>, (Template, usize))>) -> Self {
        let mut shape: Shape = ["id", "group_key"].map(Arc::from).into_iter().collect();
        let mut templates = vec![None; shape.len()];
        for (key, template) in template {
            let place = shape.add(&key);
            templates.resize(shape.len(), None);
            templates[place] = Some(template);
        }
        let orchestrator = shape.add(&"orchestrator".into());
        let runtime_execution = config.runtime_execution.as_ref();
        let runtime_execution = runtime_execution.map(|_| shape.add(&"runtime_execution".into()));
        templates.resize(shape.len(), None);
        Self {
            task_id: shape.position("task_id"),
            shape: Arc::new(shape),
            templates,
            orchestrator,
            runtime_execution,
        }
    }

    /// Puts `orchestrator` and `runtime_execution` behind all that the template found, as it did not find its own.
    fn put_last(&self, request: &mut Object, not_found: &[usize]) {
        for place in [Some(self.orchestrator), self.runtime_execution] {
            let Some(place) = place else { continue };
            let found = self.templates[place].is_some() && !not_found.contains(&place);
            let key = &self.shape.keys()[place];
            if !found && let Some(value) = request.get(key).cloned() {
                request.remove(key);
                request.set(Arc::clone(key), value);
            }
        }
    }

    /// Constant members cost nothing: they are shared.
    fn of_constants(config: &Config, members: &Object) -> Self {
        let templates = members.iter().map(|(key, value)| {
            let template = Template::Constant(value.clone());
            (Arc::clone(key), (template, 0))
        });
        Self::new(config, templates)
    }
}

impl<'c> Body<'c> {
    fn of(config: &'c Config) -> Self {
        match &config.task_request_template {
            Template::Object(keys, templates) => {
                let members = keys.keys().iter().zip(templates).map(|(key, template)| {
                    let cost = member_cost(key);
                    (Arc::clone(key), (template.clone(), cost))
                });
                Self::Members(Members::new(config, members))
            }
            Template::Constant(Value::Object(object)) => {
                Self::Members(Members::of_constants(config, object))
            }
            other => Self::Other(other),
        }
    }
}

impl<'c> Requests<'c> {
    pub(super) fn new(config: &'c Config, template_text_bytes: usize) -> Self {
        let given = config.orchestrator.as_object().cloned().unwrap_or_default();
        let orchestrator_cost = given.iter().map(|(key, _)| member_cost(key)).sum();
        Self {
            config,
            body: Body::of(config),
            id_prefix: in_id(&id_prefix(&config.orchestrator)),
            budget: TextBudget::new("config.task_request_template", template_text_bytes),
            orchestrator: Orchestrator::new(given),
            orchestrator_cost,
        }
    }

    /// Whether it can be told without rendering that all these groups render to objects within the budget.
    pub(super) fn surely_fit(&self, groups: &[Group]) -> bool {
        let longest_key = groups.iter().map(|group| group.key.len()).max();
        let longest_key = longest_key.unwrap_or_default();
        let body = match &self.body {
            Body::Members(members) => {
                let mut members = members.templates.iter().flatten();
                members.try_fold(0, |sum, (template, cost)| {
                    Some(template.most_cost(longest_key)? + cost + sum)
                })
            }
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
        let other;
        let members = match &self.body {
            Body::Members(members) => members,
            Body::Other(template) => {
                let rendered = rendered(template, &scope, &mut self.budget, index)?;
                other = Members::of_constants(config, &rendered);
                &other
            }
        };
        let budget = &mut self.budget;
        let (mut missing, mut not_found) = (Vec::new(), Vec::new());
        let mut request = Object::filled(Arc::clone(&members.shape), |values| {
            for (place, member) in members.templates.iter().enumerate() {
                let Some((template, cost)) = member else {
                    continue;
                };
                if template.render(&mut values[place], &scope, budget)? {
                    budget.spend(*cost)?;
                    continue;
                }
                budget.spend(MISSING_COST)?;
                if place == members.orchestrator || Some(place) == members.runtime_execution {
                    not_found.push(place);
                } else if place != ID && place != GROUP_KEY {
                    missing.push(place);
                }
            }
            if values[ID].is_blank() {
                let task_id = members.task_id.map(|place| &values[place]);
                values[ID] = match task_id.filter(|task_id| !task_id.is_blank()) {
                    Some(task_id) => task_id.usable_text().into(),
                    None => {
                        let id = format!("{}-{}", self.id_prefix, in_id(&group.key));
                        budget.spend(id.len())?;
                        Value::string(&id)
                    }
                };
            }
            if values[GROUP_KEY].is_blank() {
                values[GROUP_KEY] = group.key.clone().into();
            }
            budget.spend(self.orchestrator_cost)?;
            let orchestrator = &mut values[members.orchestrator];
            let own = std::mem::take(orchestrator);
            let shapes = &mut budget.shapes;
            *orchestrator = self.orchestrator.with(own.as_object(), index, shapes);
            let runtime_execution = config.runtime_execution.as_ref();
            if let (Some(template), Some(place)) = (runtime_execution, members.runtime_execution)
                && !template.render(&mut values[place], &scope, budget)?
            {
                missing.push(place);
            }
            Ok::<_, Error>(())
        })?;
        budget.leave_out(&mut request, &missing);
        if !not_found.is_empty() {
            members.put_last(&mut request, &not_found);
        }
        budget.shapes.share(&mut request);
        Ok(request.into())
    }
}

/// What a template that is no object itself renders to, if that is one.
fn rendered(
    template: &Template,
    scope: &Scope<'_>,
    budget: &mut TextBudget,
    index: usize,
) -> Result<Object, Error> {
    let mut rendered = Value::Null;
    let found = template.render(&mut rendered, scope, budget)?;
    if let Value::Object(object) = rendered {
        return Ok(object);
    }
    let found = if found { rendered.kind() } else { "nothing" };
    let problem = format!("must render to an object; for group {index} it renders to {found}");
    Err(Error::new("config.task_request_template", problem))
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
