//! The journal on disk: a directory for each plan, and in it one file that is only ever written at its end.
//!
//! A plan's whole history is kept until the plan is forgotten, so nothing is ever compacted. What is appended at the same
//! time to one plan waits for the disk together. `frame` says what a file looks like, `proto/fanout/journal/v1` what is in
//! it, and `directory` where it is.

mod ahead;
mod care;
mod directory;
pub mod files;
pub(super) mod frame;
mod opening;
mod plan_file;
mod replay;
mod shared;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Answer, Error, History, Journal};
pub use care::{CareError, Finding, Verified, export, import, verify};
use directory::Directory;
use files::{Files, SystemFiles};
use opening::{Fault, NOT_CREATED_WHOLE};
use plan_file::{DiskHistory, PlanFile};
use shared::Shared;
use writers::Writers;

/// A plan is written in pieces of at most so many bytes, unless a single task is larger.
const PART_BYTES: usize = 1 << 20;

/// When an append is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it: neither a crash of the process nor of the machine loses it.
    #[default]
    Fsync,
    /// When the operating system has it: a crash of the process loses nothing, one of the machine what was not written
    /// yet. What is there after that is still a beginning of each history.
    Os,
}

/// What a journal on disk is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is. It is made if it is not there.
    pub directory: PathBuf,
    /// When an append is done.
    pub durability: Durability,
    /// A plan with many tasks is written in pieces of at most so many bytes, unless a single task is larger.
    pub part_bytes: usize,
}

impl Options {
    /// A journal in this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            durability: Durability::default(),
            part_bytes: PART_BYTES,
        }
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system does not let us.
    #[error("{}: {source}", path.display())]
    Io {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is no journal, or one of another version.
    #[error("{}: expected \"fanout journal 2\", found {found:?}", path.display())]
    Format {
        /// Where it should say so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A plan holds something that this version does not know.
    #[error("{}: {problem}", path.display())]
    LaterVersion {
        /// The plan's file.
        path: PathBuf,
        /// What it is.
        problem: String,
    },
}

/// What was done to plans when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpeningReport {
    /// Entries that were found, in all plans.
    pub entries: u64,
    /// Plans whose last append had not been written whole. It was cut off.
    pub cut: Vec<Cut>,
    /// Plans that are damaged. They are not served.
    pub set_aside: Vec<SetAside>,
    /// How many plans were begun and never had an entry. They were removed.
    pub never_written: usize,
}

/// An end that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The plan.
    pub plan_id: String,
    /// Where its file ends now.
    pub offset: u64,
    /// Bytes that were cut off, with room that was taken ahead.
    pub bytes: u64,
}

/// A plan that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Where in its file the damage begins.
    pub offset: u64,
    /// What is wrong there.
    pub problem: String,
}

/// The journal on disk; see the module.
pub struct Disk {
    directory: Arc<Directory>,
    shared: Arc<Shared>,
    plans: Arc<Plans>,
    report: OpeningReport,
    /// Stopped when the journal is dropped, after all that was appended is done.
    _writers: Writers,
}

#[derive(Default)]
struct Plans(Mutex<Named>);

#[derive(Default)]
struct Named {
    open: BTreeMap<Arc<str>, Arc<PlanFile>>,
    /// Plans that are being created or deleted.
    busy: BTreeSet<Arc<str>>,
}

impl Plans {
    /// Nothing under this lock can fail half-way.
    fn lock(&self) -> MutexGuard<'_, Named> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Opens a journal: reads and checks all of it, cuts off what was not written whole, and sets damaged plans aside.
    /// Blocks meanwhile.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(SystemFiles), options)
    }

    /// [`Disk::open`] on another file system.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open_on(files: Arc<dyn Files>, options: &Options) -> Result<Self, OpenError> {
        let (directory, lock) = Directory::open(Arc::clone(&files), &options.directory)?;
        let shared = Shared::new(files, options.durability, options.part_bytes, lock);
        let shared = Arc::new(shared);
        let io = |source| OpenError::Io {
            path: options.directory.clone(),
            source,
        };
        directory.remove_deleted().map_err(io)?;
        let mut report = OpeningReport::default();
        let mut named = Named::default();
        for name in directory.files.list(&directory.plans()).map_err(io)? {
            if let Some((plan_id, plan)) = open_plan(&directory, &shared, &name, &mut report)? {
                named.open.insert(plan_id, Arc::new(plan));
            }
        }
        let writers = Writers::start(&shared.queue).map_err(io)?;
        Ok(Self {
            directory: Arc::new(directory),
            shared,
            plans: Arc::new(Plans(Mutex::new(named))),
            report,
            _writers: writers,
        })
    }

    /// What was done to plans when the journal was opened.
    #[must_use]
    pub fn opening_report(&self) -> &OpeningReport {
        &self.report
    }

    /// Whether all is well: `None`, or what the first plan that failed died of. It stays so until the journal is opened
    /// again.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Option<String>> {
        self.shared.health()
    }
}

/// Opens a plan, repairs what can be, and reports what cannot.
fn open_plan(
    directory: &Directory,
    shared: &Arc<Shared>,
    name: &str,
    report: &mut OpeningReport,
) -> Result<Option<(Arc<str>, PlanFile)>, OpenError> {
    let path = directory.file_of(name);
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let found = directory.examine(name);
    if matches!(found, Err(Fault::NeverWritten)) && !directory.is_bare(name).map_err(io)? {
        tracing::warn!(path = %path.display(), "there is no plan here, but something else: left alone");
        return Ok(None);
    }
    let fault = match found {
        Ok((file, mut found)) if found.sequence > 0 => {
            if found.has_tail {
                file.truncate(found.end).map_err(io)?;
                let bytes = found.length - found.end;
                found.length = found.end;
                tracing::warn!(
                    plan.id = found.plan_id,
                    offset = found.end,
                    bytes,
                    "the end of a plan's file had not been written whole, and was cut off"
                );
                report.cut.push(Cut {
                    plan_id: found.plan_id.clone(),
                    offset: found.end,
                    bytes,
                });
            }
            // What was found may be with the operating system only; whoever is told of it counts on it.
            file.sync().map_err(io)?;
            report.entries += found.sequence;
            let plan_id = found.plan_id.as_str().into();
            let plan = PlanFile::new(path, Arc::clone(shared), found);
            return Ok(Some((plan_id, plan)));
        }
        Ok((_, found)) if found.has_tail => Fault::Damaged {
            offset: found.end,
            problem: NOT_CREATED_WHOLE.into(),
        },
        Ok(_) => Fault::NeverWritten,
        Err(fault) => fault,
    };
    match fault {
        Fault::NeverWritten => {
            directory.delete(name).map_err(io)?;
            report.never_written += 1;
        }
        Fault::Damaged { offset, problem } => {
            let path = directory.move_aside(name).map_err(io)?;
            tracing::error!(
                path = %path.display(),
                offset,
                problem,
                "a plan is damaged, and was set aside"
            );
            report.set_aside.push(SetAside {
                path,
                offset,
                problem,
            });
        }
        Fault::Later(problem) => return Err(OpenError::LaterVersion { path, problem }),
        Fault::Io(error) => return Err(io(error)),
    }
    Ok(None)
}

/// Does what takes a while without keeping other tasks waiting; done also if nobody waits for it.
fn on_a_thread_of_its_own<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Answer<T> {
    let work = tokio::task::spawn_blocking(work);
    Answer::Pending(Box::pin(async move {
        work.await
            .unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
    }))
}

/// What a plan's directory could not be made or removed for.
fn refused(shared: &Shared, plan_id: &str, error: &io::Error) -> Error {
    if files::is_full(error) {
        return Error::Full(error.to_string());
    }
    if files::is_short(error) {
        return Error::Away(error.to_string());
    }
    let problem = format!("plan {plan_id:?}: {error}");
    shared.has_failed(problem.clone());
    Error::Failed(problem)
}

impl Journal for Disk {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let plan_id: Arc<str> = plan_id.into();
        let mut named = self.plans.lock();
        if named.open.contains_key(&plan_id) || !named.busy.insert(Arc::clone(&plan_id)) {
            return Answer::Ready(Err(Error::Exists));
        }
        drop(named);
        let (directory, shared) = (Arc::clone(&self.directory), Arc::clone(&self.shared));
        let plans = Arc::clone(&self.plans);
        on_a_thread_of_its_own(move || {
            let created = directory.create(&plan_id);
            let mut named = plans.lock();
            named.busy.remove(&plan_id);
            let (path, first) = created.map_err(|error| refused(&shared, &plan_id, &error))?;
            let plan = Arc::new(PlanFile::new(path, shared, first));
            named.open.insert(plan_id, Arc::clone(&plan));
            Ok(Arc::new(DiskHistory(plan)) as Arc<dyn History>)
        })
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        let plan = self.plans.lock().open.get(plan_id).cloned();
        let history = plan.map(|plan| Arc::new(DiskHistory(plan)) as Arc<dyn History>);
        Answer::Ready(history.ok_or(Error::NotFound))
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        Answer::Ready(Ok(self.plans.lock().open.keys().cloned().collect()))
    }

    fn failure(&self) -> Option<watch::Receiver<Option<String>>> {
        Some(self.health())
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        let mut named = self.plans.lock();
        let Some((plan_id, plan)) = named.open.remove_entry(plan_id) else {
            return Answer::Ready(Ok(()));
        };
        named.busy.insert(Arc::clone(&plan_id));
        drop(named);
        plan.close(Error::NotFound);
        let (directory, shared) = (Arc::clone(&self.directory), Arc::clone(&self.shared));
        let plans = Arc::clone(&self.plans);
        on_a_thread_of_its_own(move || {
            let deleted = directory.delete(&directory::name_of(&plan_id));
            let mut named = plans.lock();
            named.busy.remove(&plan_id);
            // Without entries it is not there for the next process either.
            if deleted.is_err() && !plan.is_empty() {
                plan.open_again();
                named.open.insert(Arc::clone(&plan_id), plan);
            }
            drop(named);
            deleted.map_err(|error| refused(&shared, &plan_id, &error))
        })
    }
}
