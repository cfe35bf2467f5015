//! Entries of the frames of a plan's file.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread;

use super::frame::Step;
use crate::engine::Entry;
use crate::journal::Error;
use crate::journal::stored::{Reading, Unreadable};

/// Why there are no entries.
pub(super) enum Broken {
    /// The file cannot be read.
    Io(io::Error),
    /// What is in it cannot.
    Journal(Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Broken {
    fn damaged(offset: u64, problem: &dyn Display) -> Self {
        Self::Journal(Error::Damaged(format!("{problem} (offset {offset})")))
    }

    fn unreadable(offset: u64, error: Unreadable) -> Self {
        match error {
            Unreadable::Later(_) => Self::Journal(Error::Failed(error.to_string())),
            Unreadable::Malformed(problem) => Self::damaged(offset, &problem),
        }
    }
}

/// At most `limit` entries after sequence `after`, of the frames that `next` has, up to the end of the file. A plan's
/// creation, which may have a million tasks, is made beside the entries that follow it.
pub(super) fn entries(
    next: &mut dyn FnMut() -> io::Result<(u64, Step)>,
    after: u64,
    limit: usize,
    end: u64,
) -> Result<Vec<Arc<Entry>>, Broken> {
    thread::scope(|scope| {
        let mut reading = Reading::default();
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut creating = None;
        let mut reached = 0;
        while reached < end && entries.len() + usize::from(creating.is_some()) < limit {
            let (offset, step) = next()?;
            let Step::Frame(head, payload) = step else {
                let problem = "a frame is not as it was written";
                return Err(Broken::damaged(offset, &problem));
            };
            reached = offset + head.frame_bytes();
            let is_before = head.after + u64::from(head.entries) <= after;
            if is_before && !reading.is_under_way() {
                continue;
            }
            let read = reading.read_beside(payload, &mut entries);
            if let Some(creation) = read.map_err(|error| Broken::unreadable(offset, error))? {
                let thread = thread::Builder::new().name("journal-plan".to_owned());
                let created = thread.spawn_scoped(scope, move || creation.entry())?;
                creating = Some((offset, entries.len(), created));
            }
            if head.after < after {
                entries.retain(|entry| entry.sequence > after);
            }
        }
        if let Some((offset, place, created)) = creating {
            let created = created.join();
            let created = created.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let created = created.map_err(|error| Broken::unreadable(offset, error))?;
            entries.insert(place, Arc::new(created));
        }
        entries.truncate(limit);
        Ok(entries)
    })
}
