//! The threads that write: each takes a plan with something to write, and writes all of it with one wait for the disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::plan_file::PlanFile;

/// How many plans are written at a time.
pub(super) const WRITERS: usize = 4;

/// Plans that have something to write, each at most once.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    plans: VecDeque<Arc<PlanFile>>,
    closed: bool,
}

impl Queue {
    /// Has a plan written, once. Answers `false` if nothing is written any more.
    pub(super) fn add(&self, plan: Arc<PlanFile>) -> bool {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.plans.push_back(plan);
            self.changed.notify_one();
        }
        !waiting.closed
    }

    /// Has a plan written that a writer has just written; also when no other is taken any more.
    fn add_again(&self, plan: Arc<PlanFile>) {
        self.lock().plans.push_back(plan);
        self.changed.notify_one();
    }

    /// Nothing under this lock can fail half-way.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next plan to write; `None` when there is none and there will be none.
    fn next(&self) -> Option<Arc<PlanFile>> {
        let mut waiting = self.lock();
        loop {
            match waiting.plans.pop_front() {
                None if waiting.closed => return None,
                None => {
                    let changed = self.changed.wait(waiting);
                    waiting = changed.unwrap_or_else(PoisonError::into_inner);
                }
                found => return found,
            }
        }
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.changed.notify_all();
    }
}

/// The threads; when this is dropped, they finish what is in the queue.
pub(super) struct Writers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them.
    ///
    /// # Errors
    /// The system has no more threads.
    pub(super) fn start(queue: &Arc<Queue>) -> io::Result<Self> {
        let mut writers = Self {
            queue: Arc::clone(queue),
            threads: Vec::with_capacity(WRITERS),
        };
        for number in 1..=WRITERS {
            let queue = Arc::clone(queue);
            let write = move || {
                while let Some(plan) = queue.next() {
                    // What is appended meanwhile is written in a next turn, after the other plans.
                    if plan.write_waiting() {
                        queue.add_again(plan);
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("journal-{number}"));
            writers.threads.push(thread.spawn(write)?);
        }
        Ok(writers)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A writer that panicked has left its appends without an answer, and they say so.
            drop(thread.join());
        }
    }
}
