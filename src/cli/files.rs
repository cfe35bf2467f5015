//! Documents in files: read with the place of the first error, written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Failure;
use crate::json::{self, Halves, Limits, Object, Parsed, Value};

/// Documents may be nested deep, and reading them recurses.
const STACK_BYTES: usize = 16 << 20;

/// How deep task requests stand in a plan document.
const PLAN_DEPTH: usize = 2;

/// Whether standard input was read to its end; another time there would be nothing.
static STDIN_IS_READ: AtomicBool = AtomicBool::new(false);

/// Reads a file, or standard input if it is `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: io::Error| Failure::new(format!("{}: failed to read: {error}", path.display()));
    if path == Path::new("-") {
        if STDIN_IS_READ.swap(true, Ordering::Relaxed) {
            let problem = "-: standard input can be read only once, but two inputs are `-`";
            return Err(Failure::new(problem));
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    }
    fs::read(path).map_err(failed)
}

/// Reads one JSON document.
pub(super) fn read_document(path: &Path) -> Result<Value, Failure> {
    read_within(path, Limits::default())
}

/// Reads a plan document. A template may be as deep as any document, and so may be the items that are put in it.
pub(super) fn read_plan(path: &Path) -> Result<Value, Failure> {
    let limits = Limits::default();
    let depth = 2 * limits.depth + PLAN_DEPTH;
    read_within(path, Limits { depth, ..limits })
}

fn read_within(path: &Path, limits: Limits) -> Result<Value, Failure> {
    json::parse(&read(path)?, limits).map_err(|error| at(path, &error))
}

/// Reads a config; anything but an object counts as an empty one.
pub(super) fn read_config(path: &Path) -> Result<Object, Failure> {
    let config = read_document(path)?;
    Ok(config.as_object().cloned().unwrap_or_default())
}

/// Reads a list, written as one JSON list or as JSON Lines. `null`, and whatever else counts as nothing, is no list, and no
/// error.
pub(super) fn read_list(path: &Path) -> Result<Value, Failure> {
    let text = read(path)?;
    let halves = Halves::of(&text, Limits::default());
    let parsed = match halves.and_then(|halves| parse_halves(&halves).ok()) {
        Some(list) => Ok(Parsed::One(list)),
        // Another form, or something is wrong.
        None => json::parse_lines(&text, Limits::default()),
    };
    match parsed.map_err(|error| at(path, &error))? {
        Parsed::Lines(values) => Ok(Value::array(values)),
        Parsed::One(list @ Value::Array(_)) => Ok(list),
        Parsed::One(nothing) if !nothing.is_present() => Ok(Value::Null),
        Parsed::One(other) => {
            let expected = "expected a list, or one JSON object on each line";
            Err(Failure::new(format!(
                "{}:1:1: {expected}, found {}",
                path.display(),
                other.kind()
            )))
        }
    }
}

/// Reads a long list with two threads.
fn parse_halves(halves: &Halves<'_>) -> Result<Value, json::Error> {
    thread::scope(|scope| {
        let reading = thread::Builder::new().stack_size(STACK_BYTES);
        let second = reading.spawn_scoped(scope, || halves.second());
        halves.whole(|| second.ok()?.join().ok()?)
    })
}

fn at(path: &Path, error: &json::Error) -> Failure {
    Failure::new(format!("{}:{error}", path.display()))
}

/// Writes a document, pretty, to a file or to standard output (`-` or nothing). A file is replaced at once, so nobody
/// ever reads half of it; missing directories are made.
pub(super) fn write_document(output: Option<&Path>, document: &Value) -> Result<(), Failure> {
    write_by(output, |out| {
        json::pretty_in_pieces(document, |piece| out.write_all(piece.as_bytes()))
    })
}

/// [`write_document`] for one that `write` writes.
pub(super) fn write_by(
    output: Option<&Path>,
    write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
) -> Result<(), Failure> {
    match output.filter(|path| *path != Path::new("-")) {
        None => print(|out| {
            // Past the buffer, which takes large pieces apart to find the ends of lines.
            out.flush()?;
            write(&mut File::from(out.as_fd().try_clone_to_owned()?))
        })
        .map(drop),
        Some(path) => write_file(path, write)
            .map_err(|error| Failure::new(format!("{}: failed to write: {error}", path.display()))),
    }
}

/// Writes to standard output, and answers whether anybody reads it. A reader that has seen enough (`| head`) is no
/// failure.
pub(super) fn write_out(text: &str) -> Result<bool, Failure> {
    print(|out| out.write_all(text.as_bytes()))
}

fn print(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!(
            "failed to write to standard output: {error}"
        ))),
    }
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
) -> io::Result<()> {
    // A link is followed, also to what is not there yet, and what is no regular file (a pipe, a terminal) cannot be replaced.
    let path = match (fs::canonicalize(path), fs::read_link(path)) {
        (Ok(path), _) => path,
        (Err(_), Ok(target)) => path.parent().unwrap_or(Path::new("")).join(target),
        (Err(_), Err(_)) => path.to_owned(),
    };
    if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        return write(&mut file);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&directory)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file: what the umask leaves of this. A file that is replaced keeps its mode.
        let mode = fs::metadata(&path).map_or(0o666, |metadata| metadata.permissions().mode());
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    let mut file = builder.prefix(".fanout-").tempfile_in(&directory)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}
