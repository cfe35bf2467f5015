//! The journal that lives and dies with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Answer, Error, Journal};
use crate::engine::Entry;

/// Histories in memory. They share their entries with the live plans, so keeping them costs a pointer each.
#[derive(Debug, Default)]
pub struct Memory {
    histories: Mutex<BTreeMap<Arc<str>, Vec<Arc<Entry>>>>,
}

impl Memory {
    /// No step of this journal can fail half-way, so a lock that a panic left behind guards a sound map.
    fn histories(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Vec<Arc<Entry>>>> {
        self.histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for Memory {
    fn append<'a>(
        &'a self,
        plan_id: &'a str,
        after: u64,
        entries: &'a [Arc<Entry>],
    ) -> Answer<'a, ()> {
        let appended = {
            let mut histories = self.histories();
            let at = histories
                .get(plan_id)
                .map_or(0, |history| history.len() as u64);
            if at == after {
                match histories.get_mut(plan_id) {
                    Some(history) => history.extend_from_slice(entries),
                    None => drop(histories.insert(plan_id.into(), entries.to_vec())),
                }
                Ok(())
            } else {
                Err(Error::Conflict { at })
            }
        };
        Box::pin(std::future::ready(appended))
    }

    fn replay<'a>(
        &'a self,
        plan_id: &'a str,
        after: u64,
        limit: usize,
    ) -> Answer<'a, Vec<Arc<Entry>>> {
        let histories = self.histories();
        let entries = histories.get(plan_id).map(|history| {
            let skipped = usize::try_from(after).unwrap_or(usize::MAX);
            history.iter().skip(skipped).take(limit).cloned().collect()
        });
        Box::pin(std::future::ready(entries.ok_or(Error::NotFound)))
    }

    fn plans(&self) -> Answer<'_, Vec<Arc<str>>> {
        let plans = self.histories().keys().cloned().collect();
        Box::pin(std::future::ready(Ok(plans)))
    }

    fn delete<'a>(&'a self, plan_id: &'a str) -> Answer<'a, ()> {
        self.histories().remove(plan_id);
        Box::pin(std::future::ready(Ok(())))
    }
}
