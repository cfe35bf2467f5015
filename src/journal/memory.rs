//! The journal that lives and dies with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Answer, Error, History, Journal};
use crate::engine::{Entry, Event};

/// Histories in memory. They share their entries with the live plans, so keeping them costs a pointer each.
#[derive(Default)]
pub struct Memory {
    histories: Mutex<BTreeMap<Arc<str>, Arc<MemoryHistory>>>,
}

#[derive(Default)]
struct MemoryHistory {
    entries: Mutex<Vec<Arc<Entry>>>,
}

/// No step of this journal can fail half-way, so what a panic left locked is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal for Memory {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let mut histories = lock(&self.histories);
        if histories.contains_key(plan_id) {
            return Answer::Ready(Err(Error::Exists));
        }
        let history = Arc::new(MemoryHistory::default());
        histories.insert(plan_id.into(), Arc::clone(&history));
        Answer::Ready(Ok(history))
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let history = lock(&self.histories).get(plan_id).cloned();
        Answer::Ready(
            history
                .map(|history| history as Arc<dyn History>)
                .ok_or(Error::NotFound),
        )
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        Answer::Ready(Ok(lock(&self.histories).keys().cloned().collect()))
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        lock(&self.histories).remove(plan_id);
        Answer::Ready(Ok(()))
    }
}

impl History for MemoryHistory {
    fn append(&self, after: u64, new: &[Arc<Entry>]) -> Answer<()> {
        let mut entries = lock(&self.entries);
        let at = entries.len() as u64;
        if at != after {
            return Answer::Ready(Err(Error::Conflict { at }));
        }
        if let Some(Event::PlanCreated(spec)) = new.first().map(|first| &first.event) {
            // As many as come if every task gets its record: no larger memory is needed on the way.
            entries.reserve_exact(new.len() + spec.tasks.len() + 1);
        }
        entries.extend_from_slice(new);
        Answer::Ready(Ok(()))
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        let skipped = usize::try_from(after).unwrap_or(usize::MAX);
        Answer::Ready(Ok(lock(&self.entries)
            .iter()
            .skip(skipped)
            .take(limit)
            .cloned()
            .collect()))
    }

    fn latest(&self) -> Answer<u64> {
        Answer::Ready(Ok(lock(&self.entries).len() as u64))
    }
}
