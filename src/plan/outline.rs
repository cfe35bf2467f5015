//! A plan before its task requests are made: they can be made one by one, in any order, and need not be kept.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use super::config::Config;
use super::document::{Plan, Reconciliation};
use super::grouping::Group;
use super::request::Requests;
use super::{Error, Limits};
use crate::json::{Object, Shape, Value};

/// Groups, and what it takes to make a task request of each.
#[derive(Debug)]
pub struct Outline {
    config: Config,
    groups: Vec<Group>,
    template_text_bytes: usize,
}

impl Outline {
    pub(super) fn new(config: Config, groups: Vec<Group>, limits: &Limits) -> Result<Self, Error> {
        if groups.len() > limits.tasks {
            return Err(Error::over("groups", "groups", limits.tasks));
        }
        Ok(Self {
            config,
            groups,
            template_text_bytes: limits.template_text_bytes,
        })
    }

    /// Makes sure that every task request can be made, by making them unless the template shows it.
    pub(super) fn check(self) -> Result<Self, Error> {
        let requests = Requests::new(&self.config, self.template_text_bytes);
        if !requests.surely_fit(&self.groups) {
            self.task_requests(0..self.groups.len())
                .try_for_each(|request| request.map(drop))?;
        }
        Ok(self)
    }

    /// The plan, with all its task requests.
    pub(super) fn plan(self) -> Result<Plan, Error> {
        // The list is made first, so that a large one need not be copied into place.
        let mut task_requests: Arc<[Value]> = self.groups.iter().map(|_| Value::Null).collect();
        let places = Arc::get_mut(&mut task_requests).into_iter().flatten();
        for (place, request) in places.zip(self.task_requests(0..self.groups.len())) {
            *place = request?;
        }
        Ok(Plan::new(&self, task_requests))
    }

    /// How many groups there are, and so task requests.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Items in all groups.
    #[must_use]
    pub fn item_count(&self) -> usize {
        self.groups.iter().map(|group| group.items.len()).sum()
    }

    /// How many items each group has.
    pub fn group_sizes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.groups.iter().map(|group| group.items.len())
    }

    /// The plan document's `schema`, `orchestrator` and `summary`.
    #[must_use]
    pub fn head(&self) -> Object {
        let mut summary = Object::with_capacity(4);
        summary.set("item_count", self.item_count());
        summary.set("group_count", self.groups.len());
        summary.set("task_count", self.groups.len());
        summary.set("config_schema", self.config.schema.clone());
        if let Some(more) = &self.config.summary {
            summary.extend(more);
        }
        let mut head = Object::with_capacity(3);
        head.set("schema", self.config.plan_schema.clone());
        head.set("orchestrator", self.config.orchestrator.clone());
        head.set("summary", Value::from(summary));
        head
    }

    /// Elements of the plan document's `groups`.
    pub fn group_entries(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = Value> {
        let names = ["key", "index", "item_count"].map(Arc::from);
        let shape: Arc<Shape> = Arc::new(names.into_iter().collect());
        range
            .clone()
            .zip(&self.groups[range])
            .map(move |(index, group)| {
                let Ok(entry) = Object::filled(Arc::clone(&shape), |values| {
                    values[0] = group.key.clone().into();
                    values[1] = index.into();
                    values[2] = group.items.len().into();
                    Ok::<_, Infallible>(())
                });
                entry.into()
            })
    }

    /// Elements of the plan document's `task_requests`. Once all could be made, they always can.
    pub fn task_requests(
        &self,
        range: Range<usize>,
    ) -> impl ExactSizeIterator<Item = Result<Value, Error>> {
        let mut requests = Requests::new(&self.config, self.template_text_bytes);
        let groups = range.clone().zip(&self.groups[range]);
        groups.map(move |(index, group)| requests.render(group, index))
    }

    /// The plan document's `reconciliation`: nothing recorded.
    #[must_use]
    pub fn reconciliation(&self) -> Value {
        let reconciliation = Reconciliation {
            group_count: self.groups.len(),
            task_count: self.groups.len(),
            ..Reconciliation::default()
        };
        reconciliation.document(self.config.reconciliation_schema.clone())
    }
}
