//! A JetStream stream in memory, that does what the real one is known to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout::journal::Nats;
use fanout::journal::nats::stream::{Asked, Away, Message, Published, Read, Stream, Subject};

/// What a stream does that no stream may: tests have to see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It takes a message whatever place is expected.
    ComparesNothing,
    /// It says of each 16th message that it has it, and has not.
    Forgets,
}

/// The stream. All journals over it see the same messages.
#[derive(Default)]
pub struct Simulated {
    fault: Fault,
    kept: Mutex<Kept>,
    /// Whom to tell what arrives: journals by their subjects' first word.
    followers: Mutex<Vec<Arc<Nats>>>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    subjects: BTreeMap<String, BTreeMap<u64, Message>>,
    /// Where messages are, by their ids.
    ids: BTreeMap<String, u64>,
    /// Most bytes of all messages.
    bytes_max: Option<usize>,
}

impl Simulated {
    /// A stream with a fault.
    pub fn with(fault: Fault) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }

    /// The last message's place, of whatever subject.
    pub fn end(&self) -> u64 {
        self.lock().last
    }

    /// A journal of one process over this stream, which is told of what arrives.
    pub fn journal(self: &Arc<Self>) -> Arc<Nats> {
        let nats = Arc::new(Nats::on(Arc::clone(self) as Arc<dyn Stream>, "fanout"));
        self.followers.lock().unwrap().push(Arc::clone(&nats));
        nats
    }

    /// Appends what some process may have sent, whatever it is.
    pub fn insert(&self, subject: &str, payload: Bytes) -> u64 {
        let mut kept = self.lock();
        let position = kept.insert(subject, payload);
        drop(kept);
        self.tell(subject, position);
        position
    }

    /// The messages of a subject.
    pub fn messages(&self, subject: &str) -> Vec<Message> {
        let kept = self.lock();
        let of_subject = kept.subjects.get(subject);
        of_subject.map_or(Vec::new(), |messages| messages.values().cloned().collect())
    }

    /// Changes a message, as a faulty disk does.
    pub fn damage(&self, position: u64, payload: Bytes) {
        let mut kept = self.lock();
        let mut subjects = kept.subjects.values_mut();
        let message = subjects.find_map(|messages| messages.get_mut(&position));
        message.unwrap().payload = payload;
    }

    /// Has room for no more than is there now, and `more` bytes.
    pub fn fill_up(&self, more: usize) {
        let mut kept = self.lock();
        kept.bytes_max = Some(kept.bytes() + more);
    }

    /// Has all messages be older by so much.
    pub fn let_pass(&self, time: Duration) {
        let older = u64::try_from(time.as_millis()).unwrap();
        let mut kept = self.lock();
        let messages = kept.subjects.values_mut().flat_map(BTreeMap::values_mut);
        messages.for_each(|message| message.at -= older);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    fn tell(&self, subject: &str, position: u64) {
        for follower in &*self.followers.lock().unwrap() {
            follower.arrived(subject, position);
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let messages = self.subjects.values().flat_map(BTreeMap::values);
        messages.map(|message| message.payload.len()).sum()
    }

    fn last_of(&self, subject: &str) -> Option<&Message> {
        let last = self.subjects.get(subject)?.last_key_value();
        last.map(|(_, message)| message)
    }

    fn forget(&mut self, subject: &str, is_forgotten: impl Fn(u64) -> bool) {
        let Some(messages) = self.subjects.get_mut(subject) else {
            return;
        };
        messages.retain(|position, _| !is_forgotten(*position));
        if messages.is_empty() {
            self.subjects.remove(subject);
        }
    }

    fn insert(&mut self, subject: &str, payload: Bytes) -> u64 {
        self.last += 1;
        let message = Message {
            position: self.last,
            at: now_in_milliseconds(),
            payload,
        };
        let messages = self.subjects.entry(subject.to_owned()).or_default();
        messages.insert(self.last, message);
        self.last
    }
}

fn now_in_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_millis().try_into().unwrap()
}

fn now<T: Send + 'static>(answer: Result<T, Away>) -> Asked<'static, T> {
    Box::pin(std::future::ready(answer))
}

impl Stream for Simulated {
    fn publish(
        &self,
        subject: &str,
        expected: u64,
        id: &str,
        payload: Bytes,
    ) -> Asked<'_, Published> {
        let mut kept = self.lock();
        if let Some(position) = kept.ids.get(id) {
            return now(Ok(Published::At(*position)));
        }
        let last = kept.last_of(subject).map_or(0, |last| last.position);
        if last != expected && self.fault != Fault::ComparesNothing {
            return now(Ok(Published::Refused));
        }
        if kept
            .bytes_max
            .is_some_and(|most| kept.bytes() + payload.len() > most)
        {
            return now(Ok(Published::Full("maximum bytes exceeded".into())));
        }
        let position = kept.insert(subject, payload);
        if self.fault == Fault::Forgets && position.is_multiple_of(16) {
            kept.forget(subject, |at| at == position);
        }
        kept.ids.insert(id.to_owned(), position);
        drop(kept);
        self.tell(subject, position);
        now(Ok(Published::At(position)))
    }

    fn last(&self, subject: &str) -> Asked<'_, Option<Message>> {
        now(Ok(self.lock().last_of(subject).cloned()))
    }

    fn next(&self, subject: &str, from: u64) -> Asked<'_, Option<Message>> {
        let kept = self.lock();
        let messages = kept.subjects.get(subject);
        let next = messages.and_then(|messages| messages.range(from..).next());
        now(Ok(next.map(|(_, message)| message.clone())))
    }

    fn read(&self, subject: &str, from: u64) -> Read {
        let mut messages = self.messages(subject);
        messages.retain(|message| message.position >= from);
        Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)))
    }

    fn subjects(&self) -> Asked<'_, Vec<Subject>> {
        let kept = self.lock();
        let subjects = kept.subjects.iter().map(|(name, messages)| Subject {
            name: name.clone(),
            messages: messages.len(),
        });
        now(Ok(subjects.collect()))
    }

    fn forget(&self, subject: &str, before: u64) -> Asked<'_, ()> {
        self.lock().forget(subject, |at| at < before);
        now(Ok(()))
    }

    fn message_bytes_max(&self) -> usize {
        512
    }

    fn away(&self) -> Option<String> {
        None
    }
}
