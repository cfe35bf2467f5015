//! One plan's file: appends come in here, wait for a writer together, and are done in their order.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Durability;
use super::ahead;
use super::files::{FileHandle, is_full, is_short, write_all_at};
use super::frame::{self, Frames, HEAD_BYTES, Hash};
use super::opening::{Examined, Places};
use super::replay::{self, Broken};
use super::shared::Shared;
use crate::engine::Entry;
use crate::journal::stored::Pieces;
use crate::journal::{Answer, Error, History};
use crate::telemetry;

/// What waits to be written of one plan is refused from here on, unless it is a single append.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Room is taken for at least so much more than is needed now, and at most.
const RESERVE_BYTES_MIN: u64 = 16 << 10;
const RESERVE_BYTES_MAX: u64 = 4 << 20;
/// What a file is a multiple of: the least that file systems give.
const RESERVE_UNIT: u64 = 4 << 10;
/// With [`Durability::Fsync`], zeros are written this far ahead at most, and as far as the file is long. To sync what
/// stands where something stood before takes the disk half the time of room that was only taken: of that the file system
/// has to note that it is written now, and has to sync its note. A write half as long needs none: its note is cheap.
const ZEROS_BYTES_MAX: u64 = 256 << 10;
static ZEROS: [u8; ZEROS_BYTES_MAX as usize] = [0; ZEROS_BYTES_MAX as usize];
/// With [`Durability::Os`], zeros are written before frames, up to the next multiple of that: the system finds pages for so
/// much at once much cheaper than for a few frames, and to write over them is cheap. Frames of so many bytes need none.
const FRAMES_BYTES_LONG: usize = 64 << 10;
/// With [`Durability::Os`], the disk is asked to have what was written each time it is so much.
const SYNC_BYTES: u64 = 16 << 20;

type Done = oneshot::Sender<Result<(), Error>>;

/// A plan's file.
pub(super) struct PlanFile {
    /// Where it is.
    pub(super) path: PathBuf,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    /// Of the last append that has its place.
    sequence: u64,
    /// Of the last append that is done.
    done: u64,
    /// Bytes of the file up to there.
    end: u64,
    /// And how many of them are sure to be on the disk.
    synced: u64,
    /// Where the next append's frames belong.
    placed: u64,
    /// Hash of the last frame before `end`.
    previous: Hash,
    places: Places,
    /// Frames to be written.
    waiting: Vec<u8>,
    /// Whom to tell, each with the sequence at the end of its append.
    waiting_done: Vec<(u64, Done)>,
    /// Whether a writer has this plan, or will.
    queued: bool,
    /// Bytes of the file, with room that was taken ahead.
    reserved: u64,
    /// Whether the file system can take room ahead.
    reserves: bool,
    /// How far something was written, if only zeros.
    zeroed: u64,
    /// Open while the plan is busy.
    file: Option<Arc<dyn FileHandle>>,
    /// Why nothing goes any more.
    failed: Option<Error>,
}

impl PlanFile {
    /// The file as it was found.
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>, found: Examined) -> Self {
        Self {
            path,
            shared,
            state: Mutex::new(State {
                sequence: found.sequence,
                done: found.sequence,
                end: found.end,
                synced: found.end,
                placed: found.end,
                previous: found.previous,
                places: found.places,
                waiting: Vec::new(),
                waiting_done: Vec::new(),
                queued: false,
                reserved: found.length,
                reserves: true,
                zeroed: found.end,
                file: None,
                failed: None,
            }),
        }
    }

    /// No step under this lock leaves the state half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing any more.
    pub(super) fn close(&self, why: Error) {
        let mut state = self.lock();
        state.failed.get_or_insert(why);
        state.file = None;
    }

    /// Takes appends again: it was [closed](Self::close) to be forgotten, and could not be.
    pub(super) fn open_again(&self) {
        let mut state = self.lock();
        if state.failed == Some(Error::NotFound) {
            state.failed = None;
        }
    }

    /// Whether there is no entry in it, and none on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().sequence == 0
    }

    /// Lets go of the open file, unless somebody is using the plan now.
    pub(super) fn let_go(&self) -> bool {
        let state = self.state.try_lock();
        state.map(|mut state| state.file = None).is_ok()
    }

    fn opened(self: &Arc<Self>, state: &mut State) -> io::Result<Arc<dyn FileHandle>> {
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let file = self.shared.files.open(&self.path)?;
        state.file = Some(Arc::clone(&file));
        self.shared.has_opened(self);
        Ok(file)
    }

    fn append(self: &Arc<Self>, after: u64, entries: &[Arc<Entry>]) -> Answer<()> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Answer::Ready(Err(failed.clone()));
        }
        if state.sequence != after {
            let at = state.sequence;
            return Answer::Ready(Err(Error::Conflict { at }));
        }
        if entries.is_empty() {
            return Answer::Ready(Ok(()));
        }
        match self.shared.durability {
            Durability::Fsync => self.append_waiting(&mut state, entries),
            Durability::Os => Answer::Ready(self.append_now(&mut state, entries)),
        }
    }

    fn append_waiting(self: &Arc<Self>, state: &mut State, entries: &[Arc<Entry>]) -> Answer<()> {
        if state.waiting.len() > WAITING_BYTES_MAX {
            let problem = format!("more than {WAITING_BYTES_MAX} bytes wait to be written");
            return Answer::Ready(Err(Error::Full(problem)));
        }
        if let Err(error) = self.place(state, entries) {
            return Answer::Ready(Err(error));
        }
        if !state.queued {
            state.queued = self.shared.queue.add(Arc::clone(self));
            if !state.queued {
                state.failed = Some(closed());
                return Answer::Ready(Err(closed()));
            }
        }
        let (done, answer) = oneshot::channel();
        state.waiting_done.push((state.sequence, done));
        Answer::Pending(Box::pin(async move {
            answer.await.unwrap_or_else(|_| Err(closed()))
        }))
    }

    fn append_now(
        self: &Arc<Self>,
        state: &mut State,
        entries: &[Arc<Entry>],
    ) -> Result<(), Error> {
        let placed = self.place(state, entries);
        let mut frames = std::mem::take(&mut state.waiting);
        placed?;
        let mut previous = state.previous;
        frame::seal(&mut frames, state.synced, &mut previous);
        let file = match self.opened(state) {
            Ok(file) => file,
            Err(error) => {
                state.take_back();
                return Err(self.cannot_open(state, &error));
            }
        };
        let (offset, zeros) = state.zeros_before(frames.len());
        let written = match write_all_at(&*file, &ZEROS[..zeros], offset) {
            Err(error) if !is_full(&error) => Err(error),
            // Without room for zeros there may still be some for the frames.
            _ => write_all_at(&*file, &frames, state.end),
        };
        match written {
            Ok(()) => {
                telemetry::metrics::journal_wrote(frames.len());
                state.end += frames.len() as u64;
                state.done = state.sequence;
                state.previous = previous;
                self.shared.give_back(frames);
            }
            // What was written of it ends in the middle of a frame, or of an append: it counts for nothing.
            Err(error) if is_full(&error) => {
                state.take_back();
                return Err(Error::Full(error.to_string()));
            }
            Err(error) => return Err(self.fail(state, "write", &error)),
        }
        if state.end - state.synced >= SYNC_BYTES && !state.queued {
            state.queued = self.shared.queue.add(Arc::clone(self));
        }
        Ok(())
    }

    /// Puts an append behind what waits, if there is room for it.
    fn place(self: &Arc<Self>, state: &mut State, entries: &[Arc<Entry>]) -> Result<(), Error> {
        if state.waiting.capacity() == 0 {
            state.waiting = self.shared.memory();
        }
        let begin = state.waiting.len();
        let part_bytes = self.shared.part_bytes;
        let pieces = frame::append(&mut state.waiting, entries, part_bytes, state.sequence)?;
        let room = self.make_room(state, (state.waiting.len() - begin) as u64);
        match room {
            Ok(()) => state.place(&pieces),
            Err(_) => state.waiting.truncate(begin),
        }
        room
    }

    /// Takes room for so many bytes more.
    fn make_room(self: &Arc<Self>, state: &mut State, bytes: u64) -> Result<(), Error> {
        let needed = state.placed + bytes;
        if needed <= state.reserved || !state.reserves {
            return Ok(());
        }
        let file = match self.opened(state) {
            Ok(file) => file,
            Err(error) => return Err(self.cannot_open(state, &error)),
        };
        let ahead = needed.clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        let mut reserve = |upto: u64| {
            let upto = upto.next_multiple_of(RESERVE_UNIT);
            let reserved = file.reserve(state.reserved, upto - state.reserved);
            reserved.map(|()| state.reserved = upto)
        };
        let reserved = match reserve(needed + ahead) {
            Err(error) if is_full(&error) => reserve(needed),
            other => other,
        };
        match reserved {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(Error::Full(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                state.reserves = false;
                Ok(())
            }
            Err(error) => Err(self.fail(state, "make room", &error)),
        }
    }

    /// Writes all that waits, and answers whether there is more by now. Called by one writer at a time.
    pub(super) fn write_waiting(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        let mut frames = std::mem::take(&mut state.waiting);
        let waiting_done = std::mem::take(&mut state.waiting_done);
        let file = match &state.failed {
            Some(failed) => Err(failed.clone()),
            None => {
                let opened = self.opened(&mut state);
                opened.map_err(|error| self.cannot_open(&mut state, &error))
            }
        };
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                state.take_back();
                state.queued = false;
                drop(state);
                tell(waiting_done, &Err(error));
                return false;
            }
        };
        let mut previous = state.previous;
        let (end, synced) = (state.end, state.synced);
        let written_to = end + frames.len() as u64;
        let zeros = match self.shared.durability {
            Durability::Fsync => state.zeros(written_to),
            // Who appends writes there meanwhile.
            Durability::Os => 0,
        };
        drop(state);

        frame::seal(&mut frames, synced, &mut previous);
        let written = write_all_at(&*file, &frames, end);
        let written = written.and_then(|()| match zeros {
            0 => Ok(()),
            zeros => write_all_at(&*file, &ZEROS[..zeros], written_to),
        });
        let written = written.map_err(|error| named("write", &error));
        let written = written.and_then(|()| file.sync().map_err(|error| named("sync", &error)));

        let mut state = self.lock();
        if let Err(error) = written {
            let error = self.fail(&mut state, "keep what was appended", &error);
            state.queued = false;
            drop(state);
            tell(waiting_done, &Err(error));
            return false;
        }
        telemetry::metrics::journal_wrote(frames.len());
        if let Some((sequence, _)) = waiting_done.last() {
            state.end = written_to;
            state.done = *sequence;
            state.previous = previous;
        }
        // Without appends of its own, this was for what was written before it began.
        state.synced = written_to;
        state.queued = !state.waiting_done.is_empty();
        let more = state.queued;
        drop(state);
        self.shared.give_back(frames);
        tell(waiting_done, &Ok(()));
        more
    }

    /// What an append is told for which the file could not be opened. Nothing of it was written.
    fn cannot_open(&self, state: &mut State, error: &io::Error) -> Error {
        if is_short(error) {
            return Error::Away(error.to_string());
        }
        self.fail(state, "open", error)
    }

    /// Has the plan fail, for good.
    fn fail(&self, state: &mut State, what: &str, error: &io::Error) -> Error {
        let problem = format!("cannot {what} in {}: {error}", self.path.display());
        let failed = Error::Failed(problem.clone());
        // Also one that is being forgotten, which may not succeed.
        if !matches!(state.failed, Some(Error::Failed(_))) {
            state.failed = Some(failed.clone());
        }
        state.file = None;
        state.waiting = Vec::new();
        let waiting_done = std::mem::take(&mut state.waiting_done);
        tell(waiting_done, &Err(failed.clone()));
        tracing::error!(path = %self.path.display(), %error, "a plan's history has failed: cannot {what}");
        self.shared.has_failed(problem);
        failed
    }

    fn replay(self: &Arc<Self>, after: u64, limit: usize) -> Result<Vec<Arc<Entry>>, Error> {
        let mut state = self.lock();
        if let Some(Error::NotFound) = state.failed {
            return Err(Error::NotFound);
        }
        let (done, end) = (state.done, state.end);
        let begin = state.places.find(after);
        let (Some(begin), true) = (begin, after < done && limit > 0) else {
            return Ok(Vec::new());
        };
        let failed = |error: io::Error| {
            if is_short(&error) {
                return Error::Away(error.to_string());
            }
            let path = self.path.display();
            Error::Failed(format!("cannot read {path}: {error}"))
        };
        let file = self.opened(&mut state).map_err(failed)?;
        drop(state);

        let frames = Frames::new(&*file, begin, end, None);
        let entries = ahead::read(frames, |next| replay::entries(next, after, limit, end));
        entries.map_err(failed)?.map_err(|broken| match broken {
            Broken::Io(error) => failed(error),
            Broken::Journal(error) => error,
        })
    }
}

impl State {
    /// How many zeros to write behind what is written up to here.
    fn zeros(&mut self, written_to: u64) -> usize {
        let is_long = written_to - self.end >= ZEROS_BYTES_MAX / 2;
        if written_to <= self.zeroed || is_long {
            return 0;
        }
        let ahead = written_to.clamp(RESERVE_BYTES_MIN, ZEROS_BYTES_MAX);
        self.zeroed = self.reserved.clamp(written_to, written_to + ahead);
        usize::try_from(self.zeroed - written_to).unwrap_or_default()
    }

    /// Where to write zeros, and how many, before so many bytes of frames are written at the end.
    fn zeros_before(&mut self, bytes: usize) -> (u64, usize) {
        let written_to = self.end + bytes as u64;
        let begin = self.zeroed.max(self.end);
        if written_to <= begin {
            return (begin, 0);
        }
        self.zeroed = written_to;
        if bytes >= FRAMES_BYTES_LONG {
            return (begin, 0);
        }
        let ahead = written_to.clamp(RESERVE_BYTES_MIN, ZEROS_BYTES_MAX);
        let end = (written_to / ahead + 1) * ahead;
        let end = end.min(self.reserved).min(begin + ZEROS_BYTES_MAX);
        if end < written_to {
            return (begin, 0);
        }
        self.zeroed = end;
        (begin, usize::try_from(end - begin).unwrap_or_default())
    }

    /// Takes the places of frames that were put behind what waits.
    fn place(&mut self, pieces: &Pieces) {
        for piece in pieces {
            if piece.entries > 0 {
                self.places.add(self.sequence, self.placed);
            }
            self.placed += (HEAD_BYTES + piece.payload.len()) as u64;
            self.sequence += u64::from(piece.entries);
        }
    }

    /// Takes the places back of what was placed and is not in the file, and of which nothing is being written.
    fn take_back(&mut self) {
        (self.sequence, self.placed) = (self.done, self.end);
        self.places.cut(self.end);
    }
}

/// Answers appends. Nobody may be waiting any more.
fn tell(waiting: Vec<(u64, Done)>, answer: &Result<(), Error>) {
    for (_, done) in waiting {
        drop(done.send(answer.clone()));
    }
}

fn closed() -> Error {
    Error::Failed("the journal was closed".into())
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// A plan's history, for whoever has it.
pub(super) struct DiskHistory(pub(super) Arc<PlanFile>);

impl History for DiskHistory {
    fn append(&self, after: u64, entries: &[Arc<Entry>]) -> Answer<()> {
        self.0.append(after, entries)
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        let plan = Arc::clone(&self.0);
        super::on_a_thread_of_its_own(move || plan.replay(after, limit))
    }

    fn latest(&self) -> Answer<u64> {
        Answer::Ready(Ok(self.0.lock().done))
    }
}
