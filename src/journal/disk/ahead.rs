//! Frames that are read and checked on a thread of their own, a little ahead of whoever makes entries of them.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::frame::{Frames, Step};

/// To read no more than this is not worth a thread.
const ALONE_BYTES_MAX: u64 = 4 << 20;
/// Frames are handed over when they are so many bytes.
const TOGETHER_BYTES: u64 = 256 << 10;
/// So often, and then it is waited until some are taken.
const AHEAD_MAX: usize = 16;

/// Has `take` the frames one after the other, each with its place in the file; also what comes after the last frame.
///
/// # Errors
/// The system has no more threads.
pub(super) fn read<T>(
    mut frames: Frames<'_>,
    take: impl FnOnce(&mut dyn FnMut() -> io::Result<(u64, Step)>) -> T,
) -> io::Result<T> {
    if frames.left() <= ALONE_BYTES_MAX {
        return Ok(take(&mut || placed(&mut frames)));
    }
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD_MAX);
        let read = move || {
            let mut goes_on = true;
            while goes_on {
                let begin = frames.offset();
                let mut together = Vec::new();
                while goes_on && frames.offset() - begin < TOGETHER_BYTES {
                    let next = placed(&mut frames);
                    goes_on = matches!(next, Ok((_, Step::Frame(..))));
                    together.push(next);
                }
                // Nobody may want more.
                goes_on &= sender.send(together).is_ok();
            }
        };
        let thread = thread::Builder::new().name("journal-ahead".to_owned());
        thread.spawn_scoped(scope, read)?;
        let mut together = Vec::new().into_iter();
        Ok(take(&mut || {
            loop {
                if let Some(next) = together.next() {
                    return next;
                }
                let ended = || io::Error::other("there is nothing after the last frame");
                together = receiver.recv().map_err(|_| ended())?.into_iter();
            }
        }))
    })
}

fn placed(frames: &mut Frames<'_>) -> io::Result<(u64, Step)> {
    let offset = frames.offset();
    Ok((offset, frames.next()?))
}
