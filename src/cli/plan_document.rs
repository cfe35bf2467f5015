//! Writing a plan document while its task requests are made: by a thread for each processor, and none of them is kept.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Failure;
use super::files::write_by;
use crate::json::{PrettyObject, pretty_elements};
use crate::plan::Outline;

/// Items and groups that one thread takes at a time; a larger group is taken by itself.
const PART: usize = 1_024;
/// Text that a thread has ahead of its turn to write, at most, give or take a piece.
const AHEAD_BYTES_MAX: usize = 4 << 20;
/// Most threads that make text. Only one at a time can write.
const THREADS_MAX: usize = 8;
/// Documents may be nested deep, and printing them recurses.
const STACK_BYTES: usize = 16 << 20;

/// Writes the plan document, pretty, where [`write_document`](super::files::write_document) would.
pub(super) fn write_plan(output: Option<&Path>, outline: Outline) -> Result<(), Failure> {
    write_by(output, |out| write(&outline, out))?;
    // The process is about to end, which frees a large plan a good deal faster.
    std::mem::forget(outline);
    Ok(())
}

fn write(outline: &Outline, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let parts = &parts(outline.group_sizes())[..];
    let mut document = PrettyObject::default();
    for (key, value) in outline.head().iter() {
        document.member(key, value);
    }
    let before_lists = ["groups", "task_requests"].map(|list| {
        document.begin_list(list);
        let before = document.take();
        document.end_list(outline.group_count());
        before
    });
    document.member("reconciliation", &outline.reconciliation());
    document.end();

    let in_turn = InTurn::new(out);
    let work = || {
        let mut text = String::new();
        while let Some(mut turn) = in_turn.next(2 * parts.len()) {
            let (list, nth) = (turn.number / parts.len(), turn.number % parts.len());
            let (part, first) = (parts[nth].clone(), parts[nth].start);
            if nth == 0 {
                text.push_str(&before_lists[list]);
            }
            let take = |text: &mut String| turn.write(text, AHEAD_BYTES_MAX);
            let made = if list == 0 {
                let entries = outline.group_entries(part).map(Ok);
                pretty_elements(&mut text, first, entries, take)
            } else {
                let requests = outline.task_requests(part);
                let requests = requests.map(|made| made.map_err(io::Error::other));
                pretty_elements(&mut text, first, requests, take)
            };
            turn.end(made, &mut text);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads.min(THREADS_MAX).min(2 * parts.len()) {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work)?;
        }
        io::Result::Ok(())
    })?;
    in_turn.written()?.write_all(document.take().as_bytes())
}

/// Groups in their order, in parts of about the same size.
fn parts(group_sizes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut part, mut items) = (0..0, 0);
    for (group, size) in group_sizes.enumerate() {
        if items > 0 && items + size >= PART {
            parts.push(part);
            (part, items) = (group..group, 0);
        }
        part.end = group + 1;
        items += size + 1;
    }
    parts.push(part);
    parts
}

/// One output for many threads, which write what they make in the order in which they took it up.
struct InTurn<'o> {
    /// Number of the turn that nobody has taken yet.
    untaken: AtomicUsize,
    /// Number of the turn whose text comes next.
    current: AtomicUsize,
    output: Mutex<Output<'o>>,
    changed: Condvar,
}

struct Output<'o> {
    out: &'o mut (dyn Write + Send),
    /// Whether a turn was not written to its end, and so none after it.
    stopped: bool,
    /// Why, if that can be said.
    failed: Option<io::Error>,
}

impl<'o> InTurn<'o> {
    fn new(out: &'o mut (dyn Write + Send)) -> Self {
        Self {
            untaken: AtomicUsize::new(0),
            current: AtomicUsize::new(0),
            output: Mutex::new(Output {
                out,
                stopped: false,
                failed: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// The next of so many turns; `None` if there is none, or nothing is written any more.
    fn next(&self, turns: usize) -> Option<Turn<'_, 'o>> {
        let number = self.untaken.fetch_add(1, Ordering::Relaxed);
        let there_is = number < turns && !self.lock().stopped;
        there_is.then(|| Turn {
            in_turn: self,
            number,
        })
    }

    /// A thread that panicked had its turn stopped.
    fn lock(&self) -> MutexGuard<'_, Output<'o>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The output, when all turns have ended.
    fn written(self) -> io::Result<&'o mut (dyn Write + Send)> {
        let output = self.output.into_inner();
        let output = output.unwrap_or_else(PoisonError::into_inner);
        match (output.stopped, output.failed) {
            (_, Some(error)) => Err(error),
            (true, None) => Err(io::Error::other("the document was not written to its end")),
            (false, None) => Ok(output.out),
        }
    }
}

/// The right to write after all earlier turns. Dropped before it [ends](Self::end), it stops all that come after it.
struct Turn<'t, 'o> {
    in_turn: &'t InTurn<'o>,
    number: usize,
}

impl Turn<'_, '_> {
    /// Writes the text and clears it, unless others have their turn before; once it is so long, waits for them.
    fn write(&mut self, text: &mut String, ahead_max: usize) -> io::Result<()> {
        let is_current = || self.in_turn.current.load(Ordering::Relaxed) == self.number;
        if !is_current() && text.len() < ahead_max {
            return Ok(());
        }
        let output = self.in_turn.lock();
        let changed = &self.in_turn.changed;
        let output = changed.wait_while(output, |output| !output.stopped && !is_current());
        let mut output = output.unwrap_or_else(PoisonError::into_inner);
        if output.stopped {
            return Err(io::ErrorKind::Interrupted.into());
        }
        output.out.write_all(text.as_bytes())?;
        text.clear();
        Ok(())
    }

    /// Writes the rest of the text, if it could be made, and lets the next turn begin.
    fn end(mut self, made: io::Result<()>, text: &mut String) {
        let ended = made.and_then(|()| self.write(text, 0));
        let mut output = self.in_turn.lock();
        match ended {
            Ok(()) => self
                .in_turn
                .current
                .store(self.number + 1, Ordering::Relaxed),
            Err(error) if !output.stopped => output.failed = Some(error),
            Err(_) => {}
        }
    }
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let mut output = self.in_turn.lock();
        output.stopped |= self.in_turn.current.load(Ordering::Relaxed) <= self.number;
        self.in_turn.changed.notify_all();
    }
}
