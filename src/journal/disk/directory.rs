//! A journal's directory: its format, its lock, and where each plan is.
//!
//! `format` says which format it is, `lock` is held by the process that has it open, `plans/NAME/journal` is a plan's
//! file, `set-aside/` has plans that are damaged, and what is in `deleted/` is being removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OpenError;
use super::files::{FileHandle, Files, read_all_at, write_all_at};
use super::frame::{self, Hash};
use super::opening::{self, Examined, Fault};
use crate::journal::stored;

/// What `format` holds.
const FORMAT: &str = "fanout journal 2\n";
/// What it held before. What was written then is read as it is, and what is written from now on could not be read by what
/// wrote that.
const FORMAT_1: &str = "fanout journal 1\n";
/// Longer than any format's name.
const FORMAT_BYTES_MAX: u64 = 64;
/// So much of a plan's id begins the name of its directory.
const READABLE_MAX: usize = 40;

/// A journal's directory.
pub(super) struct Directory {
    pub(super) files: Arc<dyn Files>,
    path: PathBuf,
}

/// The name of a plan's directory: what of its id every file system can hold, and a hash of all of it.
pub(super) fn name_of(plan_id: &str) -> String {
    let safe = |c: char| match c {
        'a'..='z' | '0'..='9' | '-' => c,
        _ => '_',
    };
    let readable: String = plan_id.chars().take(READABLE_MAX).map(safe).collect();
    let hash = blake3::hash(plan_id.as_bytes()).to_hex();
    format!("{readable}.{}", &hash[..32])
}

impl Directory {
    /// A directory that is there, and its lock.
    pub(super) fn existing(
        files: Arc<dyn Files>,
        path: &Path,
    ) -> Result<(Self, Box<dyn Send + Sync>), OpenError> {
        match files.list(path) {
            Ok(names) if names.iter().any(|name| name == "format") => Self::lock(files, path),
            Ok(_) => Err(OpenError::Format {
                path: path.join("format"),
                found: "nothing".into(),
            }),
            Err(source) => Err(OpenError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The directory, which is made if it is not there, and its lock. From now on it is one of this version.
    pub(super) fn open(
        files: Arc<dyn Files>,
        path: &Path,
    ) -> Result<(Self, Box<dyn Send + Sync>), OpenError> {
        let (directory, lock) = Self::lock(files, path)?;
        directory.raise_format()?;
        Ok((directory, lock))
    }

    /// The directory, which is made if it is not there, and its lock.
    fn lock(files: Arc<dyn Files>, path: &Path) -> Result<(Self, Box<dyn Send + Sync>), OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        make(&*files, path).map_err(at(path))?;
        let lock = files.lock(&path.join("lock")).map_err(at(path))?;
        let Some(lock) = lock else {
            let path = path.to_owned();
            return Err(OpenError::InUse { path });
        };
        let directory = Self {
            files,
            path: path.to_owned(),
        };
        directory.check_format()?;
        for place in [
            directory.plans(),
            directory.set_aside(),
            directory.deleted(),
        ] {
            make(&*directory.files, &place).map_err(at(&place))?;
        }
        directory.files.sync_directory(path).map_err(at(path))?;
        Ok((directory, lock))
    }

    pub(super) fn plans(&self) -> PathBuf {
        self.path.join("plans")
    }

    pub(super) fn set_aside(&self) -> PathBuf {
        self.path.join("set-aside")
    }

    fn deleted(&self) -> PathBuf {
        self.path.join("deleted")
    }

    /// A plan's file.
    pub(super) fn file_of(&self, name: &str) -> PathBuf {
        self.plans().join(name).join("journal")
    }

    /// Reads the format, or writes it into a directory that has none and no plans either.
    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.path.join("format");
        let io = |source| OpenError::Io {
            path: path.clone(),
            source,
        };
        let file = match self.files.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let names = self.files.list(&self.path).map_err(io)?;
                if names.iter().any(|name| name == "plans") {
                    let found = "nothing".to_owned();
                    return Err(OpenError::Format { path, found });
                }
                self.files.create(&path).map_err(io)?
            }
            Err(error) => return Err(io(error)),
        };
        let found = read_format(&*file).map_err(io)?;
        if [FORMAT, FORMAT_1].map(str::as_bytes).contains(&&*found) {
            return Ok(());
        }
        // A process that was to write it may have come no further: then there are no plans.
        let is_begun = FORMAT.as_bytes().starts_with(&found);
        let plans = self.files.list(&self.plans());
        if is_begun && plans.is_err() {
            write_all_at(&*file, FORMAT.as_bytes(), 0).map_err(io)?;
            file.sync().map_err(io)?;
            // No plans without a format.
            return self.files.sync_directory(&self.path).map_err(io);
        }
        let found = String::from_utf8_lossy(&found).trim_end().to_owned();
        Err(OpenError::Format { path, found })
    }

    /// Has an earlier format be this one, before anything is written that only this one has. The names differ in one byte,
    /// so one of the two is there at any time.
    fn raise_format(&self) -> Result<(), OpenError> {
        let path = self.path.join("format");
        let raised = self.files.open(&path).and_then(|file| {
            if read_format(&*file)? != FORMAT_1.as_bytes() {
                return Ok(());
            }
            write_all_at(&*file, FORMAT.as_bytes(), 0)?;
            file.sync()
        });
        raised.map_err(|source| OpenError::Io { path, source })
    }

    /// Makes a plan's file, which will be there from now on. No plan of this name has entries.
    pub(super) fn create(&self, plan_id: &str) -> io::Result<(PathBuf, Examined)> {
        let name = name_of(plan_id);
        let (directory, path) = (self.plans().join(&name), self.file_of(&name));
        match self.files.create_directory(&directory) {
            // It was left by a creation or a deletion before that failed: there are no entries in it.
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && self.is_bare(&name)? =>
            {
                self.files.remove_directory(&directory)?;
                self.files.create_directory(&directory)?;
            }
            created => created?,
        }
        let written = self.write_first(plan_id, &path).and_then(|(_, examined)| {
            self.files.sync_directory(&directory)?;
            self.files.sync_directory(&self.plans())?;
            Ok(examined)
        });
        match written {
            Ok(examined) => Ok((path, examined)),
            Err(error) => {
                // If this fails too, the next process finds a plan without entries, and removes it.
                drop(self.files.remove_directory(&directory));
                Err(error)
            }
        }
    }

    /// Makes a plan's file where nobody sees it, has it written, and only then puts it in its place.
    pub(super) fn create_whole<E: From<io::Error>>(
        &self,
        plan_id: &str,
        write: impl FnOnce(&dyn FileHandle, &mut Examined) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = name_of(plan_id);
        // What is left here by a process that ends is removed by the next one.
        let directory = self.deleted().join(&name);
        self.files.create_directory(&directory)?;
        let path = directory.join("journal");
        let written =
            self.write_first(plan_id, &path)
                .map_err(E::from)
                .and_then(|(file, mut examined)| {
                    write(&*file, &mut examined)?;
                    file.sync()?;
                    self.files.sync_directory(&directory)?;
                    self.files.rename(&directory, &self.plans().join(&name))?;
                    self.files.sync_directory(&self.plans())?;
                    self.files.sync_directory(&self.deleted())?;
                    Ok(())
                });
        if written.is_err() {
            drop(self.files.remove_directory(&directory));
        }
        written
    }

    fn write_first(
        &self,
        plan_id: &str,
        path: &Path,
    ) -> io::Result<(Arc<dyn FileHandle>, Examined)> {
        let file = self.files.create(path)?;
        let mut first = Vec::new();
        frame::write(&mut first, &stored::header(plan_id), 0, 0, false);
        let mut previous = Hash::default();
        frame::seal(&mut first, 0, &mut previous);
        write_all_at(&*file, &first, 0)?;
        file.sync()?;
        let examined = Examined {
            plan_id: plan_id.to_owned(),
            sequence: 0,
            end: first.len() as u64,
            length: first.len() as u64,
            previous,
            places: opening::Places::default(),
            has_tail: false,
        };
        Ok((file, examined))
    }

    /// Forgets a plan. If that fails, it is where it was.
    pub(super) fn delete(&self, name: &str) -> io::Result<()> {
        let moved = self.move_away(name, &self.deleted())?;
        if let Err(error) = self.files.remove_directory(&moved) {
            // The next process tries again.
            tracing::warn!(path = %moved.display(), %error, "a forgotten plan's file is still there");
        }
        Ok(())
    }

    /// Moves a plan aside; answers where it is.
    pub(super) fn move_aside(&self, name: &str) -> io::Result<PathBuf> {
        self.move_away(name, &self.set_aside())
    }

    fn move_away(&self, name: &str, to: &Path) -> io::Result<PathBuf> {
        let taken = self.files.list(to)?;
        let is_free = |name: &String| !taken.contains(name);
        let mut names = (0_u64..).map(|number| format!("{name}.{number}"));
        let free = names.find(is_free).unwrap_or_default();
        let to_plan = to.join(free);
        let from_plan = self.plans().join(name);
        self.files.rename(&from_plan, &to_plan)?;
        let synced = self.files.sync_directory(to);
        let synced = synced.and_then(|()| self.files.sync_directory(&self.plans()));
        if let Err(error) = synced {
            drop(self.files.rename(&to_plan, &from_plan));
            return Err(error);
        }
        Ok(to_plan)
    }

    /// Removes what was being deleted when a process ended.
    pub(super) fn remove_deleted(&self) -> io::Result<()> {
        for name in self.files.list(&self.deleted())? {
            self.files.remove_directory(&self.deleted().join(name))?;
        }
        Ok(())
    }

    /// Whether there is nothing but a plan's file in its directory.
    pub(super) fn is_bare(&self, name: &str) -> io::Result<bool> {
        let names = self.files.list(&self.plans().join(name))?;
        Ok(names.iter().all(|name| name == "journal"))
    }

    /// Looks at a plan's file.
    pub(super) fn examine(&self, name: &str) -> Result<(Arc<dyn FileHandle>, Examined), Fault> {
        let file = match self.files.open(&self.file_of(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::NeverWritten);
            }
            Err(error) => return Err(error.into()),
        };
        let examined = opening::examine(&*file)?;
        if name_of(&examined.plan_id) != name {
            return Err(Fault::Damaged {
                offset: 0,
                problem: format!("the file is of plan {:?}", examined.plan_id),
            });
        }
        Ok((file, examined))
    }
}

/// What a format's file holds, of what it may hold.
fn read_format(file: &dyn FileHandle) -> io::Result<Vec<u8>> {
    let length = file.length()?.min(FORMAT_BYTES_MAX);
    let mut found = vec![0; usize::try_from(length).unwrap_or_default()];
    let read = read_all_at(file, &mut found, 0)?;
    found.truncate(read);
    Ok(found)
}

/// Makes a directory, and those it is in, if it is not there.
fn make(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.create_directory(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(error)?;
            make(files, parent)?;
            files.create_directory(path)?;
        }
        Err(error) => return Err(error),
    }
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => files.sync_directory(Path::new(".")),
        Some(parent) => files.sync_directory(parent),
        None => Ok(()),
    }
}
