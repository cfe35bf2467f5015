//! Request ids: which were used, and for what, so that a repeated request is not done twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Error, PlanView, cursor};
use crate::engine::{Spec, Timestamp};

/// What a request id was used for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    fingerprint: blake3::Hash,
    /// The plan it was about.
    pub(super) plan_id: Arc<str>,
    /// What tells that plan from others of its name.
    cursor: String,
    /// The answer of a deletion; everything else can be asked again.
    pub(super) deleted: Option<Arc<PlanView>>,
}

impl Known {
    /// Whether it was used for this very plan, and not for another of its name.
    pub(super) fn was_about(&self, spec: &Spec) -> bool {
        self.cursor == cursor(spec, 0)
    }
}

/// The request ids of the last while.
#[derive(Debug)]
pub(super) struct RequestIds {
    known: HashMap<Arc<str>, Known>,
    /// The same ids, oldest first, with the time they are forgotten.
    oldest: VecDeque<(Timestamp, Arc<str>)>,
    most: usize,
    life: Duration,
}

/// Hash of what a request asks.
pub(super) fn fingerprint(verb: &str, subject: &str) -> blake3::Hash {
    blake3::hash(format!("{verb}\0{subject}").as_bytes())
}

impl RequestIds {
    pub(super) fn new(most: usize, life: Duration) -> Self {
        Self {
            known: HashMap::new(),
            oldest: VecDeque::new(),
            most,
            life,
        }
    }

    /// What the id was used for, if it was used for this; an empty id is never known.
    pub(super) fn known(
        &mut self,
        request_id: &str,
        fingerprint: blake3::Hash,
        now: Timestamp,
    ) -> Result<Option<Known>, Error> {
        while self.oldest.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, id)) = self.oldest.pop_front() {
                self.known.remove(&id);
            }
        }
        match self.known.get(request_id) {
            None => Ok(None),
            Some(known) if known.fingerprint == fingerprint => Ok(Some(known.clone())),
            Some(_) => Err(Error::RequestIdReused {
                request_id: request_id.to_owned(),
            }),
        }
    }

    /// Gives an id back that was used last, for what was not done after all.
    pub(super) fn give_back(&mut self, request_id: &str) {
        if self
            .oldest
            .pop_back_if(|(_, last)| **last == *request_id)
            .is_some()
        {
            self.known.remove(request_id);
        }
    }

    /// Uses the id for this; using it again for the same is no error.
    pub(super) fn claim(
        &mut self,
        request_id: &str,
        fingerprint: blake3::Hash,
        spec: &Spec,
        deleted: Option<Arc<PlanView>>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if self.known(request_id, fingerprint, now)?.is_some() {
            return Ok(());
        }
        if self.known.len() >= self.most {
            return Err(Error::QuotaExceeded {
                what: "request ids of the last 24 hours",
                setting: "request_ids_max",
                limit: self.most as u64,
            });
        }
        let id: Arc<str> = request_id.into();
        self.oldest
            .push_back((now.plus(self.life), Arc::clone(&id)));
        self.known.insert(
            id,
            Known {
                fingerprint,
                plan_id: Arc::clone(&spec.plan_id),
                cursor: cursor(spec, 0),
                deleted,
            },
        );
        Ok(())
    }
}
