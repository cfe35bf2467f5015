//! The few things a journal asks of a file system, so that tests can put one in its place that fails and forgets.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

/// A file system. What was done through it survives a loss of power only as far as each method says.
pub trait Files: Send + Sync + 'static {
    /// Makes a directory, which is sure to stay when its parent was [synced](Files::sync_directory).
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or whatever the system says.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes sure of the names in a directory.
    ///
    /// # Errors
    /// Whatever the system says. What is sure then, nobody knows.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in any order. Those that are not UTF-8 are left out: nobody here made them.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Renames; both directories have to be synced for it to stay so.
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a directory and all that is in it.
    ///
    /// # Errors
    /// Whatever the system says. Some of it may be gone.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes an empty file, whose name is sure to stay when its directory was synced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or whatever the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or whatever the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Takes a lock that no two processes have at a time, until the answer is dropped; `None` if somebody has it.
    ///
    /// # Errors
    /// Whatever the system says.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
}

/// An open file.
pub trait FileHandle: Send + Sync {
    /// Bytes of the file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn length(&self) -> io::Result<u64>;

    /// Reads at least a byte, or answers 0 at the end of the file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of the bytes and answers how many. They are there for every reader, and for good after [`sync`].
    ///
    /// [`sync`]: FileHandle::sync
    ///
    /// # Errors
    /// Whatever the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Takes room for these bytes, which are 0 until they are written, so that writing them does not fail for want of it.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]; [`io::ErrorKind::Unsupported`] where the file system cannot; or whatever the
    /// system says.
    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Cuts the file to this length.
    ///
    /// # Errors
    /// Whatever the system says.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes sure of the file's bytes and its length.
    ///
    /// # Errors
    /// Whatever the system says. What is sure then, nobody knows, and asking again does not tell.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of the bytes.
///
/// # Errors
/// That of the first write that failed. Some of the bytes may be written.
pub(super) fn write_all_at(
    file: &dyn FileHandle,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer from the file; answers how much was there.
///
/// # Errors
/// Whatever the system says.
pub(super) fn read_all_at(
    file: &dyn FileHandle,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether there was no room for something.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// What a plan's records hold is for nobody else on the machine. What is there already keeps its mode.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Whether the process or the machine has too many files open, or too little memory. It says nothing of the disk, and may
/// be over soon.
pub(super) fn is_short(error: &io::Error) -> bool {
    let short = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    let told = error.raw_os_error();
    short.iter().any(|short| told == Some(*short as i32))
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut options = fs::File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let file = fs::File::options().read(true).write(true).open(path)?;
        Ok(Arc::new(SystemFile(file)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut options = fs::File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

struct SystemFile(fs::File);

impl FileHandle for SystemFile {
    fn length(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let [Ok(offset), Ok(bytes)] = [offset, bytes].map(i64::try_from) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        // By default the new bytes count as the file's.
        let reserve = || fallocate(&self.0, FallocateFlags::empty(), offset, bytes);
        loop {
            match reserve() {
                Err(Errno::EINTR) => {}
                reserved => return reserved.map_err(io::Error::from),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reserve(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
