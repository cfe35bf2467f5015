//! Where plans' histories are kept.
//!
//! The contract, which every implementation keeps and [`contract`](../tests/spec/journal.rs) tests by name:
//! - **Acknowledged is kept**: once [`Journal::append`] answers `Ok`, the entries come back from [`Journal::replay`] for
//!   as long as this journal's promise holds (memory: the life of the process).
//! - **Order**: entries come back in the order of their sequences, without gaps.
//! - **Compare and append**: an append names the sequence it follows. If the history is at another one, nothing is
//!   appended and [`Error::Conflict`] says where it is; of two appends at the same place exactly one succeeds.
//! - **Deleted is gone**: after [`Journal::delete`] a plan is not listed and has no history.

mod memory;

pub use memory::Memory;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::engine::Entry;

/// An answer that may take a while.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Why a journal did not do what was asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Somebody else appended first. Read on, decide again.
    #[error("the plan's history is at sequence {at}")]
    Conflict {
        /// Where the history is.
        at: u64,
    },
    /// There is no such plan.
    #[error("no such plan")]
    NotFound,
}

/// Keeps histories; see the module for what that promises.
pub trait Journal: Send + Sync {
    /// Appends entries right after sequence `after`; 0 begins a history.
    fn append<'a>(
        &'a self,
        plan_id: &'a str,
        after: u64,
        entries: &'a [Arc<Entry>],
    ) -> Answer<'a, ()>;

    /// At most `limit` entries after sequence `after`, in order.
    fn replay<'a>(
        &'a self,
        plan_id: &'a str,
        after: u64,
        limit: usize,
    ) -> Answer<'a, Vec<Arc<Entry>>>;

    /// The plans that have a history, in the order of their names.
    fn plans(&self) -> Answer<'_, Vec<Arc<str>>>;

    /// Forgets a plan. Forgetting one that is not there is no error.
    fn delete<'a>(&'a self, plan_id: &'a str) -> Answer<'a, ()>;
}
