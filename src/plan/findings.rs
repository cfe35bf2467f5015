//! Finding packets: many findings from many tools, turned into items, groups and a config that plans them.

use std::sync::Arc;

use super::config::{object_or_empty, path};
use super::expression::{self, Scope};
use super::grouping::{Group, first_text, group_by};
use super::template::{Template, TextBudget};
use super::{Error, Limits, first_present};
use crate::json::{Object, Shape, Text, Value};

const FINDINGS_CONFIG_SCHEMA: &str = "homeboy/generic-finding-packet-fanout-config/v1";

/// Fields of the input that are not config fields when they stand at its top level.
const INPUT_FIELDS: [&str; 15] = [
    "config",
    "packets",
    "finding_packets",
    "findingPackets",
    "policy",
    "plan",
    "records",
    "items",
    "groups",
    "orchestrator",
    "task_request_template",
    "taskRequestTemplate",
    "runtime_execution",
    "runtimeExecution",
    "runtime",
];

/// Fields of an item that is made of a finding; the packet comes last, if the policy wants it.
const ITEM_FIELDS: [&str; 11] = [
    "id",
    "packet_id",
    "finding_id",
    "index",
    "packet_index",
    "group_key",
    "type",
    "severity",
    "path",
    "message",
    "finding",
];

/// Packets, policy and config.
#[derive(Clone, Debug, Default)]
pub struct FindingsInput {
    /// The input as given: `packets`, `policy` and config fields, at its top level or in `config`.
    input: Object,
    /// Its `config`, with the config fields of the top level behind its own.
    config: Object,
}

impl FindingsInput {
    /// Reads `{packets, policy, config, ...config fields}`.
    #[must_use]
    pub fn from_document(document: &Value) -> Self {
        let input = document.as_object().cloned().unwrap_or_default();
        let mut config = input
            .get("config")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (key, value) in input.iter() {
            if !INPUT_FIELDS.contains(&&**key) && config.get(key).is_none() {
                config.set(Arc::clone(key), value.clone());
            }
        }
        Self { input, config }
    }

    /// Puts packets and policy beside a config.
    #[must_use]
    pub fn new(packets: Option<Value>, policy: Option<Value>, config: Object) -> Self {
        let mut input = Object::default();
        if let Some(packets) = packets {
            input.set("packets", packets);
        }
        if let Some(policy) = policy {
            input.set("policy", policy);
        }
        Self { input, config }
    }

    /// What a config asks for by itself: its packets, if it has some and neither items nor groups.
    #[must_use]
    pub fn of_config(config: &Object) -> Option<Self> {
        let has = |fields: &[&str]| first_present(config, fields).is_some();
        let of_packets = has(&["packets", "finding_packets"]) && !has(&["items", "groups"]);
        of_packets.then(|| Self::new(None, None, config.clone()))
    }

    fn packets(&self) -> &[Value] {
        first_present(
            &self.input,
            &["packets", "finding_packets", "findingPackets"],
        )
        .or_else(|| first_present(&self.config, &["packets", "finding_packets"]))
        .and_then(Value::as_array)
        .unwrap_or_default()
    }

    fn policy(&self) -> Result<Policy, Error> {
        let policy = first_present(&self.input, &["policy"])
            .or_else(|| first_present(&self.config, &["finding_policy", "findingPolicy"]));
        let empty = Object::default();
        Policy::read(policy.and_then(Value::as_object).unwrap_or(&empty))
    }
}

/// How packets and findings are named and grouped.
struct Policy {
    packet_id_path: String,
    findings_path: String,
    finding_id_path: String,
    group_by: Value,
    group_key_template: Text,
    fallback_group_key: Text,
    include_packet: bool,
}

impl Policy {
    fn read(policy: &Object) -> Result<Self, Error> {
        let one_path =
            |name: &str, camel, default: &str| match first_present(policy, &[name, camel]) {
                None => Ok(default.to_owned()),
                Some(value) => path(value).ok_or_else(|| {
                    Error::new(
                        format!("policy.{name}"),
                        format!("expected one path, found {}", value.kind()),
                    )
                }),
            };
        let text = |name, camel| {
            let value = first_present(policy, &[name, camel]);
            value.map(Value::usable_text).unwrap_or_default()
        };
        let paths = first_present(
            policy,
            &["group_by", "groupBy", "group_key_paths", "groupKeyPaths"],
        );
        let group_by = match paths {
            Some(paths @ Value::Array(entries)) if !entries.is_empty() => paths.clone(),
            _ => Value::array(vec!["finding.type".into(), "finding.severity".into()]),
        };
        let fallback_group_key = text("fallback_group_key", "fallbackGroupKey");
        Ok(Self {
            packet_id_path: one_path("packet_id_path", "packetIdPath", "id")?,
            findings_path: one_path("findings_path", "findingsPath", "findings")?,
            finding_id_path: one_path("finding_id_path", "findingIdPath", "id")?,
            group_by,
            group_key_template: text("group_key_template", "groupKeyTemplate"),
            fallback_group_key: if fallback_group_key.is_empty() {
                "default".into()
            } else {
                fallback_group_key
            },
            include_packet: policy.get("include_packet") != Some(&Value::Bool(false)),
        })
    }

    fn document(&self) -> Value {
        let mut document = Object::with_capacity(7);
        document.set("packet_id_path", self.packet_id_path.as_str());
        document.set("findings_path", self.findings_path.as_str());
        document.set("finding_id_path", self.finding_id_path.as_str());
        document.set("group_by", self.group_by.clone());
        document.set("group_key_template", self.group_key_template.clone());
        document.set("fallback_group_key", self.fallback_group_key.clone());
        document.set("include_packet", Value::Bool(self.include_packet));
        document.into()
    }

    fn packet_id(&self, packet: &Value, position: usize) -> Text {
        text_at(packet, &self.packet_id_path)
            .or_else(|| first_text(packet, &["packet_id", "key"]))
            .unwrap_or_else(|| format!("packet-{}", position + 1).into())
    }

    fn finding_id(&self, finding: &Value, position: usize) -> Text {
        text_at(finding, &self.finding_id_path)
            .or_else(|| first_text(finding, &["finding_id", "rule_id", "code"]))
            .unwrap_or_else(|| format!("finding-{}", position + 1).into())
    }

    fn findings(&self, packet: &Value) -> Vec<Value> {
        if let Some(Value::Array(findings)) = packet.lookup(&self.findings_path).as_deref() {
            return findings.to_vec();
        }
        for field in ["findings", "diagnostics"] {
            if let Some(findings) = packet.get(field).and_then(Value::as_array) {
                return findings.to_vec();
            }
        }
        match packet.get("finding") {
            Some(finding @ (Value::Object(_) | Value::Array(_))) => vec![finding.clone()],
            _ => Vec::new(),
        }
    }
}

/// The group key of one finding: template or paths, else the fallback.
struct GroupKey<'p> {
    policy: &'p Policy,
    template: Option<Template>,
    paths: Vec<String>,
}

impl<'p> GroupKey<'p> {
    fn new(policy: &'p Policy) -> Self {
        let template = &policy.group_key_template;
        let paths = policy.group_by.as_array().unwrap_or_default();
        let as_path = |entry: &Value| match entry {
            Value::String(_) | Value::Number(_) => path(entry),
            _ => None,
        };
        Self {
            policy,
            template: (!template.is_empty()).then(|| Template::compile_text(template)),
            paths: paths.iter().filter_map(as_path).collect(),
        }
    }

    fn of(&self, packet: &Value, finding: &Value, budget: &mut TextBudget) -> Result<Text, Error> {
        let names = [("packet", packet), ("finding", finding)];
        let key = match &self.template {
            Some(template) => {
                let scope = Scope {
                    group: None,
                    names: &names,
                };
                let mut rendered = Value::Null;
                template.render(&mut rendered, &scope, budget)?;
                rendered.usable_text()
            }
            None => {
                let mut key = String::new();
                for path in &self.paths {
                    let text = path.split_once('.').and_then(|(root, below)| {
                        let (_, value) = names.iter().find(|(name, _)| *name == root)?;
                        usable(expression::at(value, Some(below))?.usable_text())
                    });
                    budget.spend(1 + text.as_ref().map_or(0, |text| text.len()))?;
                    if let Some(text) = text {
                        if !key.is_empty() {
                            key.push(':');
                        }
                        key.push_str(&text);
                    }
                }
                key.into()
            }
        };
        Ok(if key.is_empty() {
            self.policy.fallback_group_key.clone()
        } else {
            key
        })
    }
}

/// Turns every finding of every packet into an item.
///
/// # Errors
/// The policy has a field of the wrong type, or a limit is passed.
pub fn normalize_items(input: &FindingsInput, limits: &Limits) -> Result<Vec<Value>, Error> {
    let policy = input.policy()?;
    let group_key = GroupKey::new(&policy);
    let mut budget = TextBudget::new("packets", limits.template_text_bytes);
    let fields = ITEM_FIELDS.into_iter().map(Arc::from);
    let packet = policy.include_packet.then(|| Arc::from("packet"));
    let shape: Arc<Shape> = Arc::new(fields.chain(packet).collect());
    let mut items = Vec::new();
    for (packet_index, packet) in input.packets().iter().enumerate() {
        let packet = wrap_scalar(packet);
        let packet_id = policy.packet_id(&packet, packet_index);
        for (index, finding) in policy.findings(&packet).iter().enumerate() {
            if items.len() == limits.items {
                return Err(Error::over(
                    "packets",
                    "findings in all packets",
                    limits.items,
                ));
            }
            let finding = wrap_scalar(finding);
            let finding_id = policy.finding_id(&finding, index);
            let text = |fields: &[&str]| first_text(&finding, fields).unwrap_or_default();
            // A packet's id is repeated for each of its findings.
            budget.spend(packet_id.len() + finding_id.len())?;
            let mut values = Vec::with_capacity(shape.len());
            values.extend([
                Value::string(&format!("{packet_id}:{finding_id}")),
                packet_id.clone().into(),
                finding_id.into(),
                index.into(),
                packet_index.into(),
                group_key.of(&packet, &finding, &mut budget)?.into(),
                text(&["type", "kind", "rule_id"]).into(),
                text(&["severity"]).into(),
                text(&["path", "file"]).into(),
                text(&["message", "description"]).into(),
                finding,
            ]);
            if policy.include_packet {
                values.push(packet.clone());
            }
            let item = Object::of_shape(Arc::clone(&shape), values);
            items.push(item.into());
        }
    }
    Ok(items)
}

/// Packets made ready for planning.
#[derive(Clone, Debug)]
pub struct Materialized {
    /// The config, with schema, template, summary and policy filled in.
    pub config: Object,
    /// The findings' groups; each item's `index` is still that in its packet.
    pub groups: Vec<Group>,
    /// All items.
    pub items: Vec<Value>,
}

impl Materialized {
    /// The document `{config, groups, items}`.
    #[must_use]
    pub fn document(&self) -> Value {
        let group = |(index, group): (usize, &Group)| {
            let mut entry = Object::with_capacity(3);
            entry.set("key", group.key.clone());
            entry.set("index", index);
            entry.set("items", Value::Array(Arc::clone(&group.items)));
            Value::from(entry)
        };
        let mut document = Object::with_capacity(3);
        document.set("config", Value::from(self.config.clone()));
        document.set(
            "groups",
            Value::array(self.groups.iter().enumerate().map(group).collect()),
        );
        document.set("items", Value::array(self.items.clone()));
        document.into()
    }
}

/// Fills in what a config needs to plan findings, and groups them.
///
/// # Errors
/// As [`normalize_items`].
pub fn materialize_config(input: &FindingsInput, limits: &Limits) -> Result<Materialized, Error> {
    let policy = input.policy()?;
    let items = normalize_items(input, limits)?;
    let groups = group_by(&mut items.clone(), |item| {
        item.get("group_key")
            .map(Value::usable_text)
            .unwrap_or_default()
    });
    let mut config = input.config.clone();
    let schema = first_present(&config, &["schema"]).cloned();
    config.set(
        "schema",
        schema.unwrap_or_else(|| FINDINGS_CONFIG_SCHEMA.into()),
    );
    let either = |from_input: &[&str], from_config: &[&str]| {
        first_present(&input.input, from_input)
            .or_else(|| first_present(&input.config, from_config))
            .cloned()
    };
    config.set(
        "orchestrator",
        object_or_empty(either(&["orchestrator"], &["orchestrator"]).as_ref()),
    );
    let spellings = ["task_request_template", "taskRequestTemplate"];
    let template = either(&spellings, &spellings).unwrap_or_else(default_template);
    config.set("task_request_template", template);
    let spellings = ["runtime_execution", "runtimeExecution", "runtime"];
    let runtime = first_present(&input.config, &spellings)
        .or_else(|| first_present(&input.input, &spellings))
        .cloned();
    if let Some(runtime) = runtime {
        config.set("runtime_execution", runtime);
    }
    config.set("summary", summary(input, &policy, items.len()));
    config.set("finding_policy", policy.document());
    Ok(Materialized {
        config,
        groups,
        items,
    })
}

fn summary(input: &FindingsInput, policy: &Policy, finding_count: usize) -> Value {
    let by_template = !policy.group_key_template.is_empty();
    let mut grouping = Object::with_capacity(2);
    grouping.set("strategy", if by_template { "template" } else { "paths" });
    grouping.set("paths", policy.group_by.clone());
    let mut summary = Object::with_capacity(3);
    summary.set("packet_count", input.packets().len());
    summary.set("finding_count", finding_count);
    summary.set("grouping", Value::from(grouping));
    if let Some(more) = input.config.get("summary").and_then(Value::as_object) {
        summary.extend(more);
    }
    summary.into()
}

fn default_template() -> Value {
    let mut inputs = Object::with_capacity(1);
    inputs.set("findings", "{{group.items}}");
    let mut template = Object::with_capacity(6);
    template.set("id", "finding-packet-{{group.key}}");
    template.set("group_key", "{{group.key}}");
    template.set("item_ids", "{{group.item_ids}}");
    template.set("packet_ids", "{{group.packet_ids}}");
    template.set("finding_count", "{{group.item_count}}");
    template.set("inputs", Value::from(inputs));
    template.into()
}

/// The input for reconciling a findings plan: `{config, plan, records}`, every record with its canonical id and group
/// key, and without id lists that are not lists.
///
/// # Errors
/// As [`materialize_config`] and, if there is no plan to take, as planning it.
pub fn reconcile_input(
    input: &FindingsInput,
    plan: Option<Value>,
    records: &[Value],
    limits: &Limits,
) -> Result<Value, Error> {
    let plan = match plan.filter(Value::is_present) {
        Some(plan) => plan,
        None => super::plan_findings(input, limits)?.document(),
    };
    let record = |(position, record): (usize, &Value)| {
        let mut record = super::record_object(record.clone(), position);
        let id = super::canonical_id(&record).map(Value::usable_text);
        let document = Value::from(record.clone());
        record.set("id", id.unwrap_or_default());
        record.set(
            "group_key",
            first_text(&document, &["group_key", "groupKey"]).unwrap_or_default(),
        );
        for field in ["finding_ids", "packet_ids"] {
            if record
                .get(field)
                .is_some_and(|ids| ids.as_array().is_none())
            {
                record.remove(field);
            }
        }
        Value::from(record)
    };
    let mut document = Object::with_capacity(3);
    document.set(
        "config",
        Value::from(materialize_config(input, limits)?.config),
    );
    document.set("plan", plan);
    document.set(
        "records",
        Value::array(records.iter().enumerate().map(record).collect()),
    );
    Ok(document.into())
}

fn text_at(value: &Value, path: &str) -> Option<Text> {
    usable(value.lookup(path)?.usable_text())
}

fn usable(text: Text) -> Option<Text> {
    (!text.is_empty()).then_some(text)
}

/// A scalar packet or finding stands as the `value` of an object.
fn wrap_scalar(value: &Value) -> Value {
    match value {
        Value::Object(_) | Value::Array(_) => value.clone(),
        scalar => {
            let mut object = Object::with_capacity(1);
            object.set("value", scalar.clone());
            object.into()
        }
    }
}
