//! Request ids: which were used, and for what, so that a repeated request is not done twice. A tenant uses no more of them
//! than its share, so that others may use theirs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::name::tenant_of;
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
    /// As how many it counts.
    size: usize,
}

impl Known {
    /// Whether it was used for this very plan, and not for another of its name.
    pub(super) fn was_about(&self, spec: &Spec) -> bool {
        self.cursor == cursor(spec, 0)
    }
}

/// An answer that is kept counts as one more for so many bytes of it.
const ANSWER_BYTES_OF_ONE: usize = 1 << 10;

/// The request ids of the last while.
#[derive(Debug)]
pub(super) struct RequestIds {
    known: HashMap<Arc<str>, Known>,
    /// The same ids, oldest first, with the time they are forgotten.
    oldest: VecDeque<(Timestamp, Arc<str>)>,
    /// As how many they count, and those of each tenant that has any.
    size: usize,
    sizes: HashMap<Box<str>, usize>,
    most: usize,
    tenant_most: usize,
    life: Duration,
}

/// Hash of what a request asks.
pub(super) fn fingerprint(verb: &str, subject: &str) -> blake3::Hash {
    blake3::hash(format!("{verb}\0{subject}").as_bytes())
}

impl RequestIds {
    pub(super) fn new(most: usize, tenant_most: usize, life: Duration) -> Self {
        Self {
            known: HashMap::new(),
            oldest: VecDeque::new(),
            size: 0,
            sizes: HashMap::new(),
            most,
            tenant_most,
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
                self.forget(&id);
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
            self.forget(request_id);
        }
    }

    fn forget(&mut self, request_id: &str) {
        let Some(known) = self.known.remove(request_id) else {
            return;
        };
        self.size -= known.size;
        let tenant = tenant_of(request_id);
        if let Some(size) = self.sizes.get_mut(tenant) {
            *size -= known.size;
            if *size == 0 {
                self.sizes.remove(tenant);
            }
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
        let tenant = tenant_of(request_id);
        let of_tenant = self.sizes.get(tenant).copied().unwrap_or_default();
        let size = 1 + deleted.as_deref().map_or(0, answer_bytes) / ANSWER_BYTES_OF_ONE;
        let full = |what, setting, limit: usize| Error::QuotaExceeded {
            what,
            setting,
            limit: limit as u64,
        };
        if of_tenant + size > self.tenant_most {
            let what = "request ids of the tenant in the last 24 hours";
            return Err(full(what, "tenant_request_ids_max", self.tenant_most));
        }
        if self.size + size > self.most {
            let what = "request ids of the last 24 hours";
            return Err(full(what, "request_ids_max", self.most));
        }
        self.size += size;
        self.sizes.insert(tenant.into(), of_tenant + size);
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
                size,
            },
        );
        Ok(())
    }
}

/// What an answer that is kept takes, beside what each does: only labels may be many.
fn answer_bytes(deleted: &PlanView) -> usize {
    let labels = deleted.spec.labels.iter();
    labels.map(|(key, value)| key.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::{Duration, Error, RequestIds, Spec, Timestamp, fingerprint};
    use crate::engine::Terms;
    use crate::json;
    use crate::plan::{self, Input};

    const LIFE: Duration = Duration::from_secs(1);

    fn spec() -> Spec {
        let config = br#"{"items":[1],"task_request_template":{"id":"t"}}"#;
        let config = json::parse(config, json::Limits::default()).expect("a document");
        let config = config.as_object().expect("an object");
        let input = Input {
            config: config.clone(),
            items: None,
            groups: None,
        };
        let planned = plan::plan(input, &plan::Limits::default()).expect("a plan");
        let spec = Spec::new(Terms::default(), config, &planned, 1_000).expect("a spec");
        let digest = "d".repeat(64);
        Spec { digest, ..spec }
    }

    #[test]
    fn a_tenant_uses_no_more_ids_than_its_share_until_they_are_forgotten() {
        let spec = spec();
        let mut ids = RequestIds::new(3, 2, LIFE);
        let begin = Timestamp(0);
        let claim = |ids: &mut RequestIds, id: &str, now| {
            let claimed = ids.claim(id, fingerprint("seal", "p"), &spec, None, now);
            claimed.map_err(|error| match error {
                Error::QuotaExceeded { setting, limit, .. } => (setting, limit),
                other => panic!("{other}"),
            })
        };
        for id in ["t\0a", "t\0b", "t\0a"] {
            assert_eq!(claim(&mut ids, id, begin), Ok(()), "{id:?}");
        }
        let of_tenant = Err(("tenant_request_ids_max", 2));
        assert_eq!(claim(&mut ids, "t\0c", begin), of_tenant);
        assert_eq!(claim(&mut ids, "t\0p\0c", begin), of_tenant);
        assert_eq!(claim(&mut ids, "a", begin), Ok(()));
        let of_all = Err(("request_ids_max", 3));
        assert_eq!(claim(&mut ids, "u\0a", begin), of_all);
        ids.give_back("a");
        assert_eq!(claim(&mut ids, "u\0a", begin), Ok(()));
        let later = begin.plus(LIFE);
        assert_eq!(claim(&mut ids, "t\0c", later), Ok(()));
        assert_eq!((ids.size, ids.sizes.len()), (1, 1));
    }
}
