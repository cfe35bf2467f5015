//! A file system in memory that fails, fills up and loses power, as a seed says.
//!
//! What survives a loss of power: of a file what was synced, and of the rest any sectors, in any order; of names those whose
//! directories were synced, and of the others any.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard};

use fanout::journal::disk::files::{FileHandle, Files};

/// So much of a file reaches the disk as one.
const SECTOR_BYTES: usize = 512;

/// What fails, and what a mistaken journal would leave out.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Syncing a file whose path contains this fails.
    pub sync_fails: Option<String>,
    /// Writing to a file whose path contains this fails.
    pub write_fails: Option<String>,
    /// Renaming fails so.
    pub rename_fails: Option<io::ErrorKind>,
    /// Neither files nor directories can be opened, made or removed, for this number of the system's.
    pub opens_nothing: Option<i32>,
    /// All files together may have so many bytes.
    pub capacity: Option<u64>,
    /// Room cannot be taken ahead.
    pub reserves_nothing: bool,
    /// Writes write less than they were asked to.
    pub writes_are_short: bool,
    /// Syncing a file does nothing, and says that it did.
    pub files_are_not_synced: bool,
    /// Syncing a directory does nothing, and says that it did.
    pub directories_are_not_synced: bool,
    /// After so many more operations, power is lost.
    pub power_is_lost_after: Option<u64>,
}

/// The disk. It outlives the machines that use it, one after the other.
#[derive(Clone)]
pub struct Drive(Arc<Mutex<World>>);

struct World {
    seed: u64,
    /// Which machine uses it; the others are dead.
    boot: u64,
    faults: Faults,
    files: Vec<File>,
    names: Names,
    durable_names: Names,
    /// Changes of names that are not sure, in their order, with the directories that must be synced.
    changes: Vec<(Change, Vec<String>)>,
    locks: Vec<String>,
    syncs: u64,
    /// Names of the threads that have written to a file.
    writers: BTreeSet<String>,
}

/// By path: a file's number, or nothing for a directory.
type Names = BTreeMap<String, Option<usize>>;

#[derive(Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
}

enum Change {
    Add(String, Option<usize>),
    Remove(String),
    Rename(String, String),
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Remove(path) => names.retain(|name, _| !is_in(name, path)),
            Self::Rename(from, to) => {
                let moved: Vec<_> = names
                    .keys()
                    .filter(|name| is_in(name, from))
                    .cloned()
                    .collect();
                for name in moved {
                    let file = names.remove(&name).unwrap();
                    names.insert(format!("{to}{}", &name[from.len()..]), file);
                }
            }
        }
    }
}

fn is_in(name: &str, directory: &str) -> bool {
    name.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn text(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

impl World {
    /// The next random number below `most`.
    fn random(&mut self, most: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % most as u64) as usize
    }

    fn lose_power(&mut self) {
        self.boot += 1;
        self.locks.clear();
        self.faults.power_is_lost_after = None;
        for at in 0..self.files.len() {
            let (durable, now) = (self.files[at].durable.len(), self.files[at].now.len());
            let length = if self.random(2) == 0 { durable } else { now };
            let mut left = self.files[at].durable.clone();
            left.resize(length, 0);
            for begin in (0..length).step_by(SECTOR_BYTES) {
                let end = (begin + SECTOR_BYTES).min(length).min(now);
                if begin < end && self.random(2) == 0 {
                    left[begin..end].copy_from_slice(&self.files[at].now[begin..end]);
                }
            }
            self.files[at] = File {
                now: left.clone(),
                durable: left,
            };
        }
        for (change, _) in std::mem::take(&mut self.changes) {
            if self.random(2) == 0 {
                change.apply(&mut self.durable_names);
            }
        }
        // What is in a directory that is not there is not there either. Directories come before what is in them.
        let mut there = Names::new();
        for (name, file) in std::mem::take(&mut self.durable_names) {
            if parent(&name).is_empty() || there.contains_key(parent(&name)) {
                there.insert(name, file);
            }
        }
        self.durable_names = there;
        self.names = self.durable_names.clone();
    }

    fn change(&mut self, change: Change, directories: &[&str]) {
        change.apply(&mut self.names);
        let directories = directories.iter().map(|name| (*name).to_owned()).collect();
        self.changes.push((change, directories));
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.now.len() as u64).sum()
    }

    /// Makes a file longer, if there is room.
    fn extend(&mut self, file: usize, length: usize) -> io::Result<()> {
        let more = length.saturating_sub(self.files[file].now.len()) as u64;
        let room = self.faults.capacity.unwrap_or(u64::MAX);
        if more > 0 && self.bytes() + more > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = length.max(self.files[file].now.len());
        self.files[file].now.resize(length, 0);
        Ok(())
    }
}

impl Drive {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            seed,
            boot: 0,
            faults: Faults::default(),
            files: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            changes: Vec::new(),
            locks: Vec::new(),
            syncs: 0,
            writers: BTreeSet::new(),
        })))
    }

    /// The file system as this machine sees it, until power is lost.
    pub fn boot(&self) -> Arc<dyn Files> {
        let boot = self.0.lock().unwrap().boot;
        Arc::new(Machine {
            drive: self.clone(),
            boot,
        })
    }

    /// Another disk with what this one holds, of which all is sure.
    pub fn copy(&self) -> Self {
        let copy = Self::new(self.random(usize::MAX) as u64);
        let (from, mut to) = (self.0.lock().unwrap(), copy.0.lock().unwrap());
        to.files = from
            .files
            .iter()
            .map(|file| File {
                now: file.now.clone(),
                durable: file.now.clone(),
            })
            .collect();
        to.names = from.names.clone();
        to.durable_names = from.names.clone();
        drop(to);
        copy
    }

    /// What the only file holds whose path contains this text.
    pub fn read(&self, part: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.edit(part, |found| bytes.clone_from(found));
        bytes
    }

    /// Changes what fails.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.lock().unwrap().faults);
    }

    /// Loses power now.
    pub fn lose_power(&self) {
        self.0.lock().unwrap().lose_power();
    }

    /// Names of the threads that have written to a file, in order.
    pub fn writers(&self) -> Vec<String> {
        self.0.lock().unwrap().writers.iter().cloned().collect()
    }

    /// How often a file was synced.
    pub fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    /// A random number below `most`.
    pub fn random(&self, most: usize) -> usize {
        self.0.lock().unwrap().random(most)
    }

    /// The files whose path contains this text.
    pub fn paths(&self, part: &str) -> Vec<String> {
        let world = self.0.lock().unwrap();
        let files = world.names.iter().filter(|(_, file)| file.is_some());
        let paths = files.map(|(path, _)| path.clone());
        paths.filter(|path| path.contains(part)).collect()
    }

    /// Changes the only file whose path contains this text.
    pub fn edit(&self, part: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let paths = self.paths(part);
        assert_eq!(paths.len(), 1, "{paths:?}");
        let mut world = self.0.lock().unwrap();
        let file = world.names[&paths[0]].unwrap();
        edit(&mut world.files[file].now);
        world.files[file].durable = world.files[file].now.clone();
    }
}

/// A machine that has power.
struct Machine {
    drive: Drive,
    boot: u64,
}

impl Machine {
    /// Begins an operation, unless power is gone or goes now.
    fn world(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.drive.0.lock().unwrap();
        if world.boot != self.boot {
            return Err(broken());
        }
        if let Some(left) = &mut world.faults.power_is_lost_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                world.lose_power();
                return Err(broken());
            }
        }
        Ok(world)
    }

    /// Begins an operation that opens a file or a directory.
    fn opening(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world()?;
        match world.faults.opens_nothing {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Ok(world),
        }
    }

    fn handle(&self, path: &str, file: usize) -> Arc<dyn FileHandle> {
        Arc::new(Handle {
            machine: Self {
                drive: self.drive.clone(),
                boot: self.boot,
            },
            path: path.to_owned(),
            file,
        })
    }
}

impl Files for Machine {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let (path, mut world) = (text(path), self.world()?);
        if world.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !parent(&path).is_empty() && !world.names.contains_key(parent(&path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        world.change(Change::Add(path.clone(), None), &[parent(&path)]);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let (path, mut guard) = (text(path), self.opening()?);
        let world = &mut *guard;
        if world.faults.directories_are_not_synced {
            return Ok(());
        }
        let durable = &mut world.durable_names;
        world.changes.retain_mut(|(change, directories)| {
            directories.retain(|directory| *directory != path);
            if directories.is_empty() {
                change.apply(durable);
            }
            !directories.is_empty()
        });
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let (path, world) = (text(path), self.opening()?);
        if !world.names.contains_key(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = world.names.keys().filter(|name| parent(name) == path);
        Ok(names
            .map(|name| name[path.len() + 1..].to_owned())
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to, mut world) = (text(from), text(to), self.world()?);
        if let Some(kind) = world.faults.rename_fails {
            return Err(kind.into());
        }
        if !world.names.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let directories = [parent(&from).to_owned(), parent(&to).to_owned()];
        let directories = directories.each_ref().map(String::as_str);
        world.change(Change::Rename(from.clone(), to.clone()), &directories);
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let (path, mut guard) = (text(path), self.opening()?);
        let world = &mut *guard;
        for (name, file) in &world.names {
            if let Some(file) = file.filter(|_| is_in(name, &path)) {
                world.files[file].now.clear();
            }
        }
        world.change(Change::Remove(path.clone()), &[parent(&path)]);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let (path, mut world) = (text(path), self.opening()?);
        if world.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.files.push(File::default());
        let file = world.files.len() - 1;
        world.change(Change::Add(path.clone(), Some(file)), &[parent(&path)]);
        Ok(self.handle(&path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let (path, world) = (text(path), self.opening()?);
        match world.names.get(&path) {
            Some(Some(file)) => Ok(self.handle(&path, *file)),
            Some(None) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let (path, mut world) = (text(path), self.world()?);
        if world.locks.contains(&path) {
            return Ok(None);
        }
        world.locks.push(path.clone());
        let (drive, boot) = (self.drive.clone(), self.boot);
        Ok(Some(Box::new(Lock { drive, boot, path })))
    }
}

struct Lock {
    drive: Drive,
    boot: u64,
    path: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut world = self.drive.0.lock().unwrap();
        if world.boot == self.boot {
            world.locks.retain(|path| *path != self.path);
        }
    }
}

struct Handle {
    machine: Machine,
    path: String,
    file: usize,
}

impl Handle {
    fn is_in(&self, part: Option<&String>) -> bool {
        part.is_some_and(|part| self.path.contains(part))
    }
}

impl FileHandle for Handle {
    fn length(&self) -> io::Result<u64> {
        Ok(self.machine.world()?.files[self.file].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.machine.world()?;
        let bytes = &world.files[self.file].now;
        let bytes = bytes.get(offset as usize..).unwrap_or_default();
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.machine.world()?;
        let writer = std::thread::current().name().unwrap_or_default().to_owned();
        world.writers.insert(writer);
        if self.is_in(world.faults.write_fails.as_ref()) {
            return Err(broken());
        }
        let written = match world.faults.writes_are_short {
            true => 1 + world.random(bytes.len()),
            false => bytes.len(),
        };
        let (begin, end) = (offset as usize, offset as usize + written);
        world.extend(self.file, end)?;
        world.files[self.file].now[begin..end].copy_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut world = self.machine.world()?;
        if world.faults.reserves_nothing {
            return Err(io::ErrorKind::Unsupported.into());
        }
        world.extend(self.file, (offset + bytes) as usize)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.machine.world()?;
        world.files[self.file].now.truncate(length as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.machine.world()?;
        if self.is_in(world.faults.sync_fails.as_ref()) {
            return Err(broken());
        }
        world.syncs += 1;
        if !world.faults.files_are_not_synced {
            world.files[self.file].durable = world.files[self.file].now.clone();
        }
        Ok(())
    }
}
