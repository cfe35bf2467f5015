//! Where plans' histories are kept.
//!
//! The contract, which every implementation keeps and `tests/spec/journal.rs` tests by name:
//! - **Acknowledged is kept**: once an append is done, its entries come back from [`History::replay`] for as long as this
//!   journal's promise holds (memory: the life of the process; disk: the life of the disk).
//! - **Order**: entries come back in the order of their sequences, without gaps. An append has its place when
//!   [`History::append`] returns, also if it is [pending](Answer::Pending); the next may follow it at once. They are done
//!   in their order, and if one fails, so do all that follow it, until whoever appended has read on.
//! - **Compare and append**: an append names the sequence it follows. If the history is at another one, nothing is
//!   appended and [`Error::Conflict`] says where it is; of two appends at the same place exactly one succeeds.
//! - **All or nothing**: the entries of one append are all there after a crash, or none of them is.
//! - **No room is no damage**: [`Error::Full`] has changed nothing, and the same append may succeed later.
//! - **Away is open**: [`Error::Away`] says that nobody knows whether it was done. If it was, it is read on.
//! - **Others may append**: where other processes share a journal, each of them reads on what others have appended, and
//!   [`History::latest`] says how far there is to read.
//! - **Deleted is gone**: after [`Journal::delete`] a plan is not listed and cannot be opened.

pub mod disk;
mod memory;
pub mod nats;
mod others;
mod stored;

pub use disk::Disk;
pub use memory::Memory;
pub use nats::Nats;
pub use others::Others;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::engine::Entry;

/// Why a journal did not do what was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Somebody else appended first. Read on, decide again.
    #[error("the plan's history is at sequence {at}")]
    Conflict {
        /// Where the history is.
        at: u64,
    },
    /// There is a history of this name already.
    #[error("there is a history of this name already")]
    Exists,
    /// There is no such history.
    #[error("there is no history of this name")]
    NotFound,
    /// There is no room for it. Nothing has changed; try again when there is.
    #[error("the journal is full: {0}")]
    Full(String),
    /// Where it is kept cannot be reached, or not be opened now. It may have been done all the same; try again.
    #[error("the journal is away: {0}")]
    Away(String),
    /// What was kept is not what was appended. Nothing of the history can be trusted.
    #[error("the history is damaged: {0}")]
    Damaged(String),
    /// The journal cannot say what it has, and takes nothing until it is opened again.
    #[error("the journal has failed: {0}")]
    Failed(String),
}

/// An answer that is there, or takes a while and must then be waited for by somebody who is not going away.
pub enum Answer<T> {
    /// Here it is.
    Ready(Result<T, Error>),
    /// Dropping this leaves open whether the work was done.
    Pending(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>),
}

impl<T> Answer<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// As whatever was asked for.
    pub async fn wait(self) -> Result<T, Error> {
        match self {
            Self::Ready(answer) => answer,
            Self::Pending(answer) => answer.await,
        }
    }
}

/// Keeps histories; see the module for what that promises.
pub trait Journal: Send + Sync {
    /// Begins a history.
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>>;

    /// The history of a plan.
    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>>;

    /// The plans that have a history, in the order of their names.
    fn plans(&self) -> Answer<Vec<Arc<str>>>;

    /// Forgets a plan. Forgetting one that is not there is no error.
    fn delete(&self, plan_id: &str) -> Answer<()>;

    /// Forgets the plan whose history has this [number](History::number), and none that has its name after it.
    fn delete_only(&self, plan_id: &str, _number: u64) -> Answer<()> {
        self.delete(plan_id)
    }

    /// What the journal has failed of, while it has: then it should not be sent work. Nothing for a journal that cannot
    /// fail.
    fn failure(&self) -> Option<watch::Receiver<Option<String>>> {
        None
    }

    /// The plans that others append to. Nothing for a journal that only this process has.
    fn others(&self) -> Option<Arc<Others>> {
        None
    }
}

/// The history of one plan.
pub trait History: Send + Sync {
    /// Appends entries right after sequence `after`; 0 is the beginning.
    fn append(&self, after: u64, entries: &[Arc<Entry>]) -> Answer<()>;

    /// At most `limit` entries after sequence `after`, in order.
    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>>;

    /// What tells it from other histories of its name. Always 0 where only this process has the journal.
    fn number(&self) -> u64 {
        0
    }

    /// Sequence of the last entry whose append anybody was told is done before this is called; 0 if there is none.
    fn latest(&self) -> Answer<u64>;
}
