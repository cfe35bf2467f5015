//! What all plans of a journal share: the file system, the writers' queue, open files, memory for frames, and whether all is
//! well.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use super::Durability;
use super::files::Files;
use super::plan_file::PlanFile;
use super::writers::Queue;

/// Files of plans that are kept open; the others are opened when they are needed.
const OPEN_FILES_MAX: usize = 128;

/// Memory for frames that is kept for the next ones, so many times and of so many bytes at most: memory that is new costs
/// more than what is written into it.
const FRAMES_KEPT_MAX: usize = 8;
const FRAMES_BYTES_KEPT_MAX: usize = 2 << 20;

/// What all plans of a journal share.
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) durability: Durability,
    /// A plan is written in frames of at most so many bytes.
    pub(super) part_bytes: usize,
    pub(super) queue: Arc<Queue>,
    /// Plans with an open file, the one that was opened first at the front.
    opened: Mutex<VecDeque<Weak<PlanFile>>>,
    /// Memory for frames, the last used at the end.
    frames: Mutex<Vec<Vec<u8>>>,
    health: watch::Sender<Option<String>>,
    /// Keeps other processes out.
    _lock: Box<dyn Send + Sync>,
}

impl Shared {
    pub(super) fn new(
        files: Arc<dyn Files>,
        durability: Durability,
        part_bytes: usize,
        lock: Box<dyn Send + Sync>,
    ) -> Self {
        Self {
            files,
            durability,
            part_bytes,
            queue: Arc::default(),
            opened: Mutex::default(),
            frames: Mutex::default(),
            health: watch::Sender::new(None),
            _lock: lock,
        }
    }

    /// A plan has opened its file; one that did so long ago may have to let go of its own.
    pub(super) fn has_opened(&self, plan: &Arc<PlanFile>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push_back(Arc::downgrade(plan));
        if opened.len() <= OPEN_FILES_MAX {
            return;
        }
        if let Some(oldest) = opened.pop_front().and_then(|plan| plan.upgrade())
            && !oldest.let_go()
        {
            // It is busy, so its turn is not over.
            opened.push_back(Arc::downgrade(&oldest));
        }
    }

    /// Memory to put frames into; there are none in it.
    pub(super) fn memory(&self) -> Vec<u8> {
        let mut kept = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop().unwrap_or_default()
    }

    /// Nobody needs these frames any more.
    pub(super) fn give_back(&self, mut frames: Vec<u8>) {
        let is_kept = 1..=FRAMES_BYTES_KEPT_MAX;
        if !is_kept.contains(&frames.capacity()) {
            return;
        }
        frames.clear();
        let mut kept = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < FRAMES_KEPT_MAX {
            kept.push(frames);
        }
    }

    /// Something could not be written.
    pub(super) fn has_failed(&self, problem: String) {
        self.health.send_if_modified(|health| {
            let is_first = health.is_none();
            health.get_or_insert(problem);
            is_first
        });
    }

    pub(super) fn health(&self) -> watch::Receiver<Option<String>> {
        self.health.subscribe()
    }
}
