//! Looking at a plan's file: what it holds, where it ends, and whether it can be trusted.

use std::io;

use nix::errno::Errno;

use super::ahead;
use super::files::FileHandle;
use super::frame::{self, Frames, Hash, Step};
use crate::journal::stored::{self, Unreadable};

/// What is wrong with a file that has something, and no entry among it.
pub(super) const NOT_CREATED_WHOLE: &str = "the plan's creation was not written whole";
/// How far apart the places are that are kept in mind for finding a sequence in a file.
const PLACE_BYTES: u64 = 64 << 10;

/// Where the entries after some sequence begin in a file, now and then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places(Vec<(u64, u64)>);

impl Places {
    /// Keeps in mind where the entries after this sequence begin. Places come in order, and the first is kept.
    pub(super) fn add(&mut self, after: u64, offset: u64) {
        let is_far = |last: &(u64, u64)| offset >= last.1 + PLACE_BYTES;
        if self.0.last().is_none_or(is_far) {
            self.0.push((after, offset));
        }
    }

    /// Forgets what is not before this offset.
    pub(super) fn cut(&mut self, end: u64) {
        while self.0.pop_if(|place| place.1 >= end).is_some() {}
    }

    /// The last place that is not behind the entry after this sequence.
    pub(super) fn find(&self, after: u64) -> Option<u64> {
        let behind = self.0.partition_point(|place| place.0 <= after);
        Some(self.0[..behind].last()?.1)
    }
}

/// A plan's file, as far as it can be trusted.
#[derive(Debug)]
pub(super) struct Examined {
    /// The plan.
    pub(super) plan_id: String,
    /// Number of the last entry.
    pub(super) sequence: u64,
    /// Where the next frame belongs.
    pub(super) end: u64,
    /// Bytes of the file.
    pub(super) length: u64,
    /// Hash of the last frame.
    pub(super) previous: Hash,
    /// Where its entries are.
    pub(super) places: Places,
    /// Whether there is anything behind the end.
    pub(super) has_tail: bool,
}

/// Why a plan's file is not one.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file was begun, and nothing was ever written to it.
    NeverWritten,
    /// What was written is not there any more.
    Damaged { offset: u64, problem: String },
    /// A later version wrote it.
    Later(String),
    /// The file cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    /// What the disk cannot read is damage of one plan; anything else may well be true of all plans.
    fn from(error: io::Error) -> Self {
        if error.raw_os_error() == Some(Errno::EIO as i32) {
            let problem = format!("the file cannot be read: {error}");
            Self::Damaged { offset: 0, problem }
        } else {
            Self::Io(error)
        }
    }
}

impl Fault {
    fn of(offset: u64, error: Unreadable) -> Self {
        match error {
            Unreadable::Later(_) => Self::Later(error.to_string()),
            Unreadable::Malformed(problem) => Self::Damaged { offset, problem },
        }
    }
}

impl Examined {
    /// Goes over the frames behind the first; answers where the first thing is that is none.
    fn go_over(&mut self, next: &mut dyn FnMut() -> io::Result<(u64, Step)>) -> Result<u64, Fault> {
        // Of an append in several frames, what all of them will have come to when the last one is there.
        let mut sequence = 0;
        loop {
            let (offset, step) = next()?;
            let Step::Frame(head, payload) = step else {
                return Ok(offset);
            };
            if head.after != sequence {
                let problem = format!("sequence {} follows sequence {sequence}", head.after);
                return Err(Fault::Damaged { offset, problem });
            }
            stored::check(payload).map_err(|error| Fault::of(offset, error))?;
            if head.entries > 0 {
                self.places.add(sequence, offset);
            }
            sequence += u64::from(head.entries);
            if !head.continues {
                self.sequence = sequence;
                self.end = offset + head.frame_bytes();
                self.previous = head.own;
            }
        }
    }
}

/// Reads the whole of a plan's file, and changes nothing.
pub(super) fn examine(file: &dyn FileHandle) -> Result<Examined, Fault> {
    let length = file.length()?;
    let mut frames = Frames::new(file, 0, length, Some(Hash::default()));
    let mut examined = match frames.next()? {
        Step::Frame(head, payload) if head.entries == 0 && head.after == 0 && !head.continues => {
            Examined {
                plan_id: stored::read_header(payload).map_err(|error| Fault::of(0, error))?,
                sequence: 0,
                end: frames.offset(),
                length,
                previous: head.own,
                places: Places::default(),
                has_tail: false,
            }
        }
        _ if frame::is_written(file, 0, length)? => {
            return Err(Fault::Damaged {
                offset: 0,
                problem: "the file's first frame is not as it was written".into(),
            });
        }
        _ => return Err(Fault::NeverWritten),
    };
    let wrong = ahead::read(frames, |next| examined.go_over(next))??;
    examined.places.cut(examined.end);
    examined.has_tail = frame::is_written(file, examined.end, length)?;
    if examined.has_tail && frame::later_than(file, wrong, length)?.is_some() {
        let problem = "a frame is not as it was written, and later ones are".into();
        return Err(Fault::Damaged {
            offset: wrong,
            problem,
        });
    }
    Ok(examined)
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn a_place_is_found_that_is_not_behind_the_entry() {
        let mut places = Places::default();
        assert_eq!(places.find(0), None);
        for (after, offset) in [(0, 100), (5, 200), (9, 70_000), (12, 80_000), (20, 200_000)] {
            places.add(after, offset);
        }
        let found = [0, 8, 9, 19, 20, 99].map(|after| places.find(after));
        assert_eq!(
            found,
            [100, 100, 70_000, 70_000, 200_000, 200_000].map(Some)
        );
    }
}
