//! One plan's history in its subject: appends wait for the one that is on its way, and are then sent together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::{HEAD_BYTES, Head, Kind};
use super::publish::{drawn, publish};
use super::reader::{Place, Reader, Step};
use super::stream::{Away, Stream};
use crate::engine::Entry;
use crate::journal::disk::frame;
use crate::journal::{Answer, Error, History, Others};

/// What waits to be sent of one plan is refused from here on, unless it is a single append.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// So long it is believed that a history is still there: less than what says that it was forgotten is there.
const BELIEVED: Duration = Duration::from_secs(5);

type Done = oneshot::Sender<Result<(), Error>>;

/// Whom to tell what became of an append, with the sequence at its end.
type Told = Vec<(u64, Done)>;

/// A plan's subject.
pub(super) struct Plan {
    plan_id: Arc<str>,
    subject: Arc<str>,
    stream: Arc<dyn Stream>,
    others: Arc<Others>,
    appends: Mutex<Appends>,
    reading: tokio::sync::Mutex<ReadAhead>,
}

struct Appends {
    /// Up to here the history is known: was read, or acknowledged.
    known: Place,
    /// Of the last append that has its place.
    sequence: u64,
    /// What is to be sent, a message each unless a single append is larger.
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    /// Whether appends are on their way.
    sending: bool,
    /// The newest message that we were told of.
    arrived: u64,
    /// When it was last seen that the history is there.
    seen: Instant,
    /// Whether the history was forgotten.
    gone: bool,
    /// How often what was appended was not taken.
    losses: u64,
}

/// Appends that are to be sent together.
struct Batch {
    /// Room for a message's head, and the frames, still to be sealed.
    message: Vec<u8>,
    told: Told,
}

impl Batch {
    fn new() -> Self {
        Self {
            message: vec![0; HEAD_BYTES],
            told: Told::new(),
        }
    }

    /// The sequence at its end.
    fn last(&self) -> Option<u64> {
        self.told.last().map(|(last, _)| *last)
    }
}

/// Entries that were read, and may not have been taken yet.
#[derive(Default)]
struct ReadAhead {
    reader: Option<Reader>,
    entries: VecDeque<Arc<Entry>>,
}

impl Plan {
    pub(super) fn new(
        plan_id: Arc<str>,
        subject: Arc<str>,
        stream: Arc<dyn Stream>,
        others: Arc<Others>,
        known: Place,
    ) -> Self {
        Self {
            plan_id,
            subject,
            stream,
            others,
            appends: Mutex::new(Appends {
                sequence: known.sequence,
                arrived: known.position,
                known,
                waiting: VecDeque::new(),
                waiting_bytes: 0,
                sending: false,
                seen: Instant::now(),
                gone: false,
                losses: 0,
            }),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// No step under this lock leaves the state half-way.
    fn lock(&self) -> MutexGuard<'_, Appends> {
        self.appends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the history of this number, and not forgotten.
    pub(super) fn is_of(&self, history: u64) -> bool {
        let appends = self.lock();
        !appends.gone && appends.known.history == history
    }

    /// Whether the history was forgotten.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Takes nothing any more: the history was forgotten.
    pub(super) fn close(&self) {
        self.lock().gone = true;
    }

    /// There is a message at this place. Says so to whoever reads on, if it is not known.
    pub(super) fn arrived(&self, position: u64) {
        let mut appends = self.lock();
        appends.arrived = appends.arrived.max(position);
        // What is on its way is not known before it is acknowledged.
        if !appends.sending && appends.arrived > appends.known.position {
            self.others.add(Arc::clone(&self.plan_id));
        }
    }

    /// `losses` is how many whoever appends had heard of when it read on.
    fn append(self: &Arc<Self>, after: u64, entries: &[Arc<Entry>], losses: u64) -> Answer<()> {
        let mut appends = self.lock();
        let refused = |error| Answer::Ready(Err(error));
        if appends.gone {
            return refused(Error::NotFound);
        }
        // The same sequence may be that of others' entries now, in place of what was not taken.
        if appends.sequence != after || appends.losses != losses {
            let at = appends.sequence;
            return refused(Error::Conflict { at });
        }
        if entries.is_empty() {
            return Answer::Ready(Ok(()));
        }
        if let Some(away) = self.stream.away() {
            return refused(Error::Away(away));
        }
        if appends.waiting_bytes > WAITING_BYTES_MAX {
            let problem = format!("more than {WAITING_BYTES_MAX} bytes wait to be sent");
            return refused(Error::Full(problem));
        }
        let (done, answer) = oneshot::channel();
        if let Err(error) = appends.place(after, entries, self.message_bytes_max(), done) {
            return refused(error);
        }
        if !appends.sending {
            appends.sending = true;
            tokio::spawn(Arc::clone(self).send());
        }
        Answer::Pending(Box::pin(async move {
            let closed = Error::Failed("the journal was closed".into());
            answer.await.unwrap_or(Err(closed))
        }))
    }

    /// Most bytes of a message.
    fn message_bytes_max(&self) -> usize {
        self.stream.message_bytes_max().max(HEAD_BYTES + 1)
    }

    /// Sends what waits, until nothing does.
    async fn send(self: Arc<Self>) {
        loop {
            let (known, batch) = {
                let mut appends = self.lock();
                let Some(batch) = appends.waiting.pop_front() else {
                    appends.sending = false;
                    if appends.arrived > appends.known.position {
                        self.others.add(Arc::clone(&self.plan_id));
                    }
                    return;
                };
                appends.waiting_bytes -= batch.message.len();
                (appends.known, batch)
            };
            let last = batch.last().unwrap_or(known.sequence);
            let Batch { mut message, told } = batch;
            let mut hash = known.hash;
            frame::seal(&mut message[HEAD_BYTES..], 0, &mut hash);
            let began = Instant::now();
            let sent = self.send_append(known, last, hash, message).await;
            let mut appends = self.lock();
            match sent {
                Ok(position) => {
                    appends.seen = began;
                    appends.known = Place {
                        sequence: last,
                        position,
                        whole: position,
                        hash,
                        ..known
                    };
                    drop(appends);
                    tell(told, &Ok(()));
                }
                Err(error) => {
                    appends.gone |= error == Error::NotFound;
                    appends.sequence = appends.known.sequence;
                    appends.losses += 1;
                    appends.waiting_bytes = 0;
                    let waiting = std::mem::take(&mut appends.waiting);
                    drop(appends);
                    tell(told, &Err(error.clone()));
                    for batch in waiting {
                        tell(batch.told, &Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Sends an append, in as many messages as it needs; answers where the last one is.
    async fn send_append(
        &self,
        known: Place,
        last: u64,
        hash: frame::Hash,
        mut message: Vec<u8>,
    ) -> Result<u64, Error> {
        let mut head = Head {
            after: known.sequence,
            last,
            hash,
            ..Head::of(Kind::Entries, known.history, drawn())
        };
        let bytes_max = self.message_bytes_max();
        if message.len() <= bytes_max {
            head.write(&mut message);
            return publish(
                &*self.stream,
                &self.subject,
                known.position,
                &head,
                message.into(),
            )
            .await;
        }
        let mut position = known.position;
        let mut pieces = message[HEAD_BYTES..]
            .chunks(bytes_max - HEAD_BYTES)
            .peekable();
        while let Some(piece) = pieces.next() {
            head.continues = pieces.peek().is_some();
            let message = head.with(piece);
            position = publish(&*self.stream, &self.subject, position, &head, message).await?;
            head.piece += 1;
        }
        Ok(position)
    }

    async fn replay(self: Arc<Self>, after: u64, limit: usize) -> Result<Vec<Arc<Entry>>, Error> {
        let mut reading = self.reading.lock().await;
        let reading = &mut *reading;
        let known = {
            let appends = self.lock();
            if appends.gone {
                return Err(Error::NotFound);
            }
            appends.known
        };
        while reading
            .entries
            .pop_front_if(|entry| entry.sequence <= after)
            .is_some()
        {}
        let next = reading.entries.front().map(|entry| entry.sequence);
        let read_to = reading.reader.as_ref().map(Reader::place);
        let reads_on = match (next, read_to) {
            (Some(next), _) => next == after + 1,
            (None, Some(place)) => place.sequence == after && place.position >= known.position,
            (None, None) => false,
        };
        if !reads_on {
            reading.entries.clear();
            let place = if after >= known.sequence {
                known
            } else {
                Place {
                    history: known.history,
                    ..Place::default()
                }
            };
            reading.reader = Some(Reader::new(Arc::clone(&self.subject), place));
        }
        let Some(reader) = &mut reading.reader else {
            return Ok(Vec::new());
        };
        while reading.entries.len() < limit {
            match reader.next(&*self.stream).await {
                Ok(Step::Append(entries)) => {
                    let new = entries.into_iter().filter(|entry| entry.sequence > after);
                    reading.entries.extend(new);
                }
                Ok(Step::End) => break,
                Ok(Step::Gone) => {
                    self.close();
                    return Err(Error::NotFound);
                }
                Err(error) => {
                    reading.reader = None;
                    reading.entries.clear();
                    return Err(error);
                }
            }
        }
        self.has_read(reader.place());
        if reading.entries.len() <= limit {
            // Nothing of it stays: a history may be held for long after it was read.
            return Ok(std::mem::take(&mut reading.entries).into());
        }
        Ok(reading.entries.drain(..limit).collect())
    }

    /// The history is known up to here, unless something is on its way behind another place.
    fn has_read(&self, place: Place) {
        let mut appends = self.lock();
        let is_later = place.position > appends.known.position;
        if is_later && appends.sequence == appends.known.sequence {
            appends.known = place;
            appends.sequence = place.sequence;
        }
    }

    async fn latest(self: Arc<Self>) -> Result<u64, Error> {
        let away = |Away(why)| Error::Away(why);
        let (known, seen) = {
            let appends = self.lock();
            (appends.known, appends.seen)
        };
        let began = Instant::now();
        if began - seen < BELIEVED {
            // Asked for what comes next, the stream does not send what is known.
            let next = self.stream.next(&self.subject, known.position + 1).await;
            if next.map_err(away)?.is_none() {
                return Ok(known.sequence);
            }
        }
        let last = self.stream.last(&self.subject).await.map_err(away)?;
        let mut appends = self.lock();
        let Some(last) = last.filter(|_| !appends.gone) else {
            appends.gone = true;
            return Err(Error::NotFound);
        };
        let (head, _) = Head::read(&last.payload)?;
        if head.kind == Kind::Forgotten || head.history != known.history {
            appends.gone = true;
            return Err(Error::NotFound);
        }
        appends.seen = appends.seen.max(began);
        Ok(if head.continues {
            head.after
        } else {
            head.last
        })
    }
}

impl Appends {
    /// Puts an append behind what waits; `done` is told what becomes of it.
    fn place(
        &mut self,
        after: u64,
        entries: &[Arc<Entry>],
        message_bytes_max: usize,
        done: Done,
    ) -> Result<(), Error> {
        let part_bytes = message_bytes_max - HEAD_BYTES;
        let is_new = self.waiting.is_empty();
        if is_new {
            self.waiting.push_back(Batch::new());
        }
        let Some(batch) = self.waiting.back_mut() else {
            return Ok(());
        };
        let before = batch.message.len();
        if let Err(error) = frame::append(&mut batch.message, entries, part_bytes, after) {
            if is_new {
                self.waiting.pop_back();
            }
            return Err(error);
        }
        let bytes = batch.message.len() - before;
        if batch.message.len() > message_bytes_max && !batch.told.is_empty() {
            // It is for the next message.
            let mut next = Batch::new();
            next.message.extend_from_slice(&batch.message[before..]);
            batch.message.truncate(before);
            self.waiting.push_back(next);
            self.waiting_bytes += HEAD_BYTES;
        } else if is_new {
            self.waiting_bytes += HEAD_BYTES;
        }
        self.waiting_bytes += bytes;
        self.sequence += entries.len() as u64;
        if let Some(batch) = self.waiting.back_mut() {
            batch.told.push((self.sequence, done));
        }
        Ok(())
    }
}

/// Answers appends. Nobody may be waiting any more.
fn tell(waiting: Told, answer: &Result<(), Error>) {
    for (_, done) in waiting {
        drop(done.send(answer.clone()));
    }
}

/// A plan's history, for whoever has it.
pub(super) struct NatsHistory {
    plan: Arc<Plan>,
    /// How often what was appended had not been taken when this was last read.
    losses: Arc<AtomicU64>,
}

impl NatsHistory {
    pub(super) fn of(plan: Arc<Plan>) -> Self {
        let losses = plan.lock().losses;
        Self {
            plan,
            losses: Arc::new(AtomicU64::new(losses)),
        }
    }
}

impl History for NatsHistory {
    fn append(&self, after: u64, entries: &[Arc<Entry>]) -> Answer<()> {
        let losses = self.losses.load(Ordering::Relaxed);
        self.plan.append(after, entries, losses)
    }

    fn replay(&self, after: u64, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        let (plan, losses) = (Arc::clone(&self.plan), Arc::clone(&self.losses));
        Answer::Pending(Box::pin(async move {
            let before = plan.lock().losses;
            let read = plan.replay(after, limit).await?;
            losses.store(before, Ordering::Relaxed);
            Ok(read)
        }))
    }

    fn number(&self) -> u64 {
        self.plan.lock().known.history
    }

    fn latest(&self) -> Answer<u64> {
        Answer::Pending(Box::pin(Arc::clone(&self.plan).latest()))
    }
}
