//! Writing a plan document while its task requests are made: by a thread for each processor, and none of them is kept.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::Failure;
use super::files::write_by;
use crate::json::{PrettyObject, Value, pretty_elements};
use crate::plan::{Error, Outline};

/// Items and groups that one thread takes at a time; a larger group is taken by itself.
const PART: usize = 1_024;
/// Pieces of text that a thread may be ahead of the writer.
const PIECES_AHEAD: usize = 8;
/// Most threads that make text. Writing it is one thread's work, which several of these keep busy.
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

fn write(outline: &Outline, out: &mut dyn Write) -> io::Result<()> {
    let parts = &parts(outline.group_sizes())[..];
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(THREADS_MAX).min(parts.len());
    thread::scope(|scope| {
        let mut receivers = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = sync_channel(PIECES_AHEAD);
            receivers.push(receiver);
            // Of `n` threads each makes every `n`th part, of one list and then of the other.
            let own = parts.iter().skip(first).step_by(threads);
            // Nobody receives if writing failed, and then there is nothing left to do.
            let work = move || {
                let entries = |part| outline.group_entries(part).map(Ok);
                let requests = |part| outline.task_requests(part);
                let mut made = own.clone();
                made.all(|part| make(part, entries(part.clone()), &sender))
                    && own
                        .clone()
                        .all(|part| make(part, requests(part.clone()), &sender))
            };
            thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, work)?;
        }
        let mut document = PrettyObject::default();
        for (key, value) in outline.head().iter() {
            document.member(key, value);
        }
        for list in ["groups", "task_requests"] {
            document.begin_list(list);
            out.write_all(document.take().as_bytes())?;
            let mut in_turn = receivers.iter().cycle().take(parts.len());
            in_turn.try_for_each(|pieces| write_part(pieces, out))?;
            document.end_list(outline.group_count());
        }
        document.member("reconciliation", &outline.reconciliation());
        document.end();
        out.write_all(document.take().as_bytes())
    })
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

/// A piece of a part's text, or the end of the part.
type Piece = Result<Option<String>, Error>;

/// Makes the text of a part; answers whether it was received.
fn make(
    part: &Range<usize>,
    elements: impl Iterator<Item = Result<Value, Error>>,
    sender: &SyncSender<Piece>,
) -> bool {
    let mut received = true;
    let made = pretty_elements(part.start, elements, |piece| {
        received = received && sender.send(Ok(Some(piece))).is_ok();
        Ok(())
    });
    received && sender.send(made.map(|()| None)).is_ok()
}

fn write_part(pieces: &Receiver<Piece>, out: &mut dyn Write) -> io::Result<()> {
    loop {
        match pieces.recv() {
            Ok(Ok(Some(piece))) => out.write_all(piece.as_bytes())?,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(io::Error::other(error)),
            Err(_) => return Err(io::Error::other("a thread that made the document ended")),
        }
    }
}
