//! A JetStream stream in memory, that does what the real one is known to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout::journal::Nats;
use fanout::journal::nats::stream::{Asked, Away, Message, Published, Read, Stream, Subject};

/// The stream. All journals over it see the same messages.
#[derive(Default)]
pub struct Simulated {
    kept: Mutex<Kept>,
    /// Whom to tell what arrives: journals by their subjects' first word.
    followers: Mutex<Vec<Arc<Nats>>>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    messages: BTreeMap<u64, (String, Message)>,
    /// Where messages are, by their ids.
    ids: BTreeMap<String, u64>,
}

impl Simulated {
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
        let of_subject = kept.messages.values().filter(|(of, _)| of == subject);
        of_subject.map(|(_, message)| message.clone()).collect()
    }

    /// Changes a message, as a faulty disk does.
    pub fn damage(&self, position: u64, payload: Bytes) {
        self.lock().messages.get_mut(&position).unwrap().1.payload = payload;
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
    fn last_of(&self, subject: &str) -> Option<&Message> {
        let mut messages = self.messages.values().rev();
        messages
            .find(|(of, _)| of == subject)
            .map(|(_, message)| message)
    }

    fn insert(&mut self, subject: &str, payload: Bytes) -> u64 {
        self.last += 1;
        let message = Message {
            position: self.last,
            at: now_in_milliseconds(),
            payload,
        };
        self.messages
            .insert(self.last, (subject.to_owned(), message));
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
        if last != expected {
            return now(Ok(Published::Refused));
        }
        let position = kept.insert(subject, payload);
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
        let mut later = kept.messages.range(from..);
        let next = later.find(|(_, (of, _))| of == subject);
        now(Ok(next.map(|(_, (_, message))| message.clone())))
    }

    fn read(&self, subject: &str, from: u64) -> Read {
        let mut messages = self.messages(subject);
        messages.retain(|message| message.position >= from);
        Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)))
    }

    fn subjects(&self) -> Asked<'_, Vec<Subject>> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (subject, _) in self.lock().messages.values() {
            *counts.entry(subject.clone()).or_default() += 1;
        }
        let subjects = counts.into_iter();
        let subjects = subjects.map(|(name, messages)| Subject { name, messages });
        now(Ok(subjects.collect()))
    }

    fn forget(&self, subject: &str, before: u64) -> Asked<'_, ()> {
        let mut kept = self.lock();
        kept.messages
            .retain(|position, (of, _)| of != subject || *position >= before);
        now(Ok(()))
    }

    fn message_bytes_max(&self) -> usize {
        512
    }

    fn away(&self) -> Option<String> {
        None
    }
}
