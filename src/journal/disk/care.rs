//! What operators do with a journal that no server has open: look whether it is sound, write a plan's history as lines of
//! JSON, and make a plan of such lines.
//!
//! The first line names the format and the plan and says how many entries there are, each of which has a line.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use super::directory::{Directory, name_of};
use super::files::{FileHandle, Files, write_all_at};
use super::frame::{self, Frames, Step};
use super::opening::{Examined, Fault, NOT_CREATED_WHOLE};
use super::{OpenError, PART_BYTES};
use crate::engine::{Entry, Event, LineError};
use crate::journal::stored::Reading;

/// What lines begin with.
const HEADING: &str = "fanout/history/v1";
/// Entries that are read from lines, and then written together.
const ENTRIES_AT_A_TIME: usize = 256;

/// A plan's file, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name of its directory.
    pub name: String,
    /// The plan, if the file says so.
    pub plan_id: Option<String>,
    /// Entries that can be trusted.
    pub entries: u64,
    /// Bytes of the file that hold something.
    pub bytes: u64,
    /// What is to be said of it.
    pub finding: Finding,
}

/// What is to be said of a plan's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Every byte is as it was written.
    Sound,
    /// Nothing was written to it. It is removed when the journal is opened.
    NeverWritten,
    /// Its last append was not written whole, or is damaged, which looks the same. It is cut off when the journal is opened.
    Torn {
        /// Where the end begins that is cut off.
        offset: u64,
        /// Its bytes, with room that was taken ahead.
        bytes: u64,
    },
    /// It cannot be trusted. It is set aside when the journal is opened.
    Damaged {
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A later version wrote it. The journal cannot be opened by this one.
    Later(String),
    /// It cannot be read.
    Unreadable(String),
}

/// Why a history was not written or read as lines.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no such plan, or it is damaged.
    #[error("plan {plan_id:?}: {problem}")]
    Plan {
        /// The plan.
        plan_id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A line is not what it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Looks at every plan of a journal that is not in use, and changes nothing. In the order of their directories' names.
///
/// # Errors
/// See [`OpenError`].
pub fn verify(files: Arc<dyn Files>, path: &Path) -> Result<Vec<Verified>, OpenError> {
    let (directory, _lock) = Directory::existing(files, path)?;
    let names = directory.files.list(&directory.plans());
    let mut names = names.map_err(|source| OpenError::Io {
        path: directory.plans(),
        source,
    })?;
    names.sort();
    let verify = |name: String| {
        let examined = directory.examine(&name);
        verified(name, examined.map(|(_, examined)| examined))
    };
    Ok(names.into_iter().map(verify).collect())
}

fn verified(name: String, examined: Result<Examined, Fault>) -> Verified {
    let (plan_id, entries, bytes, finding) = match examined {
        Ok(found) => {
            let finding = match (found.has_tail, found.sequence) {
                // Nothing can be cut off: the plan would be gone.
                (true, 0) => Finding::Damaged {
                    offset: found.end,
                    problem: NOT_CREATED_WHOLE.into(),
                },
                (true, _) => Finding::Torn {
                    offset: found.end,
                    bytes: found.length - found.end,
                },
                (false, 0) => Finding::NeverWritten,
                (false, _) => Finding::Sound,
            };
            (Some(found.plan_id), found.sequence, found.end, finding)
        }
        Err(fault) => {
            let finding = match fault {
                Fault::NeverWritten => Finding::NeverWritten,
                Fault::Damaged { offset, problem } => Finding::Damaged { offset, problem },
                Fault::Later(problem) => Finding::Later(problem),
                Fault::Io(error) => Finding::Unreadable(error.to_string()),
            };
            (None, 0, 0, finding)
        }
    };
    Verified {
        name,
        plan_id,
        entries,
        bytes,
        finding,
    }
}

/// Writes the history of a plan, of a journal that is not in use, as lines; answers how many entries it has.
///
/// # Errors
/// See [`CareError`]. Some lines may be written.
pub fn export(
    files: Arc<dyn Files>,
    path: &Path,
    plan_id: &str,
    to: &mut dyn Write,
) -> Result<u64, CareError> {
    let (directory, _lock) = Directory::existing(files, path)?;
    let wrong = |problem: String| CareError::Plan {
        plan_id: plan_id.to_owned(),
        problem,
    };
    let (file, found) = match directory.examine(&name_of(plan_id)) {
        Ok(found) => found,
        Err(Fault::NeverWritten) => return Err(wrong("there is no such plan".into())),
        Err(Fault::Damaged { offset, problem }) => {
            return Err(wrong(format!("{problem} (offset {offset})")));
        }
        Err(Fault::Later(problem)) => return Err(wrong(problem)),
        Err(Fault::Io(error)) => return Err(error.into()),
    };
    let mut line = String::new();
    Entry::write_heading(HEADING, plan_id, found.sequence, &mut line);
    line.push('\n');
    let mut frames = Frames::new(&*file, 0, found.end, None);
    let mut reading = Reading::default();
    let mut entries = Vec::new();
    let mut exported = 0;
    while let Step::Frame(_, payload) = frames.next()? {
        let read = reading.read(payload, &mut entries);
        read.map_err(|error| wrong(error.to_string()))?;
        for entry in entries.drain(..) {
            exported += 1;
            entry.write_line(&mut line);
            line.push('\n');
        }
        to.write_all(line.as_bytes())?;
        line.clear();
    }
    to.flush()?;
    if exported != found.sequence {
        let of = found.sequence;
        return Err(wrong(format!("only {exported} of {of} entries are there")));
    }
    Ok(exported)
}

/// Makes a plan of lines that [`export`] has written, in a journal that is not in use, and that is made if it is not there;
/// answers the plan and how many entries it has. The plan is there when all of it is.
///
/// # Errors
/// See [`CareError`]. Nothing has changed.
pub fn import(
    files: Arc<dyn Files>,
    path: &Path,
    from: &mut dyn BufRead,
) -> Result<(String, u64), CareError> {
    let (directory, _lock) = Directory::open(files, path)?;
    let mut lines = Lines {
        from,
        number: 0,
        line: Vec::new(),
    };
    let heading = lines.next(|line| Entry::read_heading(HEADING, line))?;
    let (plan_id, expected) = heading.ok_or_else(|| lines.wrong("there is none"))?;
    let taken = directory.files.list(&directory.plans())?;
    if taken.contains(&name_of(&plan_id)) {
        let problem = "there is a plan of this name already".to_owned();
        return Err(CareError::Plan { plan_id, problem });
    }
    directory.remove_deleted()?;
    directory.create_whole(&plan_id, |file, place| {
        let mut some = Vec::new();
        let (mut tasks, mut set_aside, mut unresolved) = (0, 0, HashSet::new());
        while let Some(entry) = lines.next(Entry::read_line)? {
            let sequence = place.sequence + some.len() as u64 + 1;
            if entry.sequence != sequence {
                return Err(lines.wrong(&format!("expected sequence {sequence}")));
            }
            match &entry.event {
                Event::PlanCreated(spec) if sequence == 1 && *spec.plan_id == *plan_id => {
                    tasks = spec.tasks.len();
                }
                Event::PlanCreated(_) => {
                    return Err(lines.wrong("another plan, or the same again, is created"));
                }
                _ if sequence == 1 => return Err(lines.wrong("expected the plan's creation")),
                Event::RecordQuarantined(record) => {
                    set_aside += 1;
                    if record.id != set_aside {
                        return Err(lines.wrong(&format!("expected id {set_aside}")));
                    }
                    unresolved.insert(record.id);
                }
                Event::QuarantineResolved { id, .. } if !unresolved.remove(id) => {
                    return Err(lines.wrong(&format!("there is no record {id} set aside")));
                }
                _ => {}
            }
            if let Some(task) = entry
                .event
                .last_task()
                .filter(|task| *task as usize >= tasks)
            {
                return Err(lines.wrong(&format!("there is no task {task} of {tasks}")));
            }
            some.push(Arc::new(entry));
            if some.len() == ENTRIES_AT_A_TIME {
                append(file, place, &mut some)?;
            }
        }
        append(file, place, &mut some)?;
        if place.sequence == expected && expected > 0 {
            return Ok(());
        }
        let problem = format!("{} of {expected} entries are there", place.sequence);
        Err(lines.wrong(&problem))
    })?;
    Ok((plan_id, expected))
}

/// Writes entries behind those that are there.
fn append(
    file: &dyn FileHandle,
    place: &mut Examined,
    entries: &mut Vec<Arc<Entry>>,
) -> io::Result<()> {
    let mut frames = Vec::new();
    frame::append(&mut frames, entries, PART_BYTES, place.sequence).map_err(io::Error::other)?;
    place.sequence += entries.len() as u64;
    // All is sure before the plan is anywhere.
    frame::seal(&mut frames, place.end, &mut place.previous);
    write_all_at(file, &frames, place.end)?;
    place.end += frames.len() as u64;
    entries.clear();
    Ok(())
}

/// Lines with their numbers.
struct Lines<'f> {
    from: &'f mut dyn BufRead,
    number: u64,
    line: Vec<u8>,
}

impl Lines<'_> {
    /// What `read` makes of the next line, if there is one.
    fn next<T>(
        &mut self,
        read: impl FnOnce(&[u8]) -> Result<T, LineError>,
    ) -> Result<Option<T>, CareError> {
        self.line.clear();
        self.number += 1;
        if self.from.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        match read(&self.line) {
            Ok(read) => Ok(Some(read)),
            Err(error) => Err(self.wrong(&error.to_string())),
        }
    }

    fn wrong(&self, problem: &str) -> CareError {
        CareError::Line {
            line: self.number,
            problem: problem.to_owned(),
        }
    }
}
