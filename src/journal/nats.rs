//! The journal on NATS JetStream, which many processes share: one stream, and a subject for each plan.
//!
//! Whoever appends says which message of the subject it follows; of two that follow the same one, the stream takes one.
//! The other reads on, and decides again. So there are no leaders, and no process owns a plan. What is appended while a
//! message is on its way is sent together in the next.
//!
//! What is acknowledged is as safe as the stream is: with `sync_interval: always` and three replicas it survives the loss
//! of a server. That what is read is what was written is checked here, by the frames' hashes.

mod history;
mod jetstream;
mod message;
mod publish;
mod reader;
pub mod stream;
mod subject;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, Error, History, Journal, Others};
use history::{NatsHistory, Plan};
use jetstream::JetStream;
pub use jetstream::{OpenError, Options, check_servers};
use message::{Head, Kind};
use publish::{drawn, publish};
use reader::{Place, Reader, Step};
use stream::{Away, Message, Stream};

/// A history of which so long nothing more has come, and that has no entry, was begun by a process that died.
const BEGUN_LIFE: Duration = Duration::from_secs(30);
/// How long it stays said that a plan was forgotten, for whoever follows it elsewhere.
const FORGOTTEN_LIFE: Duration = Duration::from_secs(10);
/// How often to try again to forget a plan that others append to.
const FORGET_ATTEMPTS: usize = 8;

/// The journal on NATS; see the module.
pub struct Nats {
    shared: Arc<Shared>,
    health: Option<watch::Receiver<Option<String>>>,
    _keepers: Vec<AbortOnDropHandle<()>>,
}

struct Shared {
    stream: Arc<dyn Stream>,
    /// The stream's name.
    name: String,
    /// Plans that somebody has.
    plans: Mutex<HashMap<Arc<str>, Weak<Plan>>>,
    others: Arc<Others>,
}

impl Nats {
    /// Begins to connect. Until there is a connection and the stream is found or made, the journal has
    /// [failed](Journal::failure), and answers with [`Error::Away`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn connect(options: &Options) -> Result<Self, OpenError> {
        let stream = JetStream::connect(options).await?;
        let mut nats = Self::on(Arc::clone(&stream) as Arc<dyn Stream>, &options.stream);
        nats.health = Some(stream.health());
        let looking = tokio::spawn(Arc::clone(&stream).look_after());
        let shared = Arc::clone(&nats.shared);
        let following = tokio::spawn(async move {
            let mut arrivals = std::pin::pin!(stream.arrivals());
            while let Some(arrival) = arrivals.next().await {
                match arrival {
                    Some((subject, position)) => shared.arrived(&subject, position),
                    None => shared.all_may_have_arrived(),
                }
            }
        });
        nats._keepers = [looking, following].map(AbortOnDropHandle::new).into();
        Ok(nats)
    }

    /// A journal on this stream, of this name. Whoever calls tells it what [arrives](Self::arrived).
    #[must_use]
    pub fn on(stream: Arc<dyn Stream>, name: &str) -> Self {
        let shared = Shared {
            stream,
            name: name.to_owned(),
            plans: Mutex::default(),
            others: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
            health: None,
            _keepers: Vec::new(),
        }
    }

    /// There is a message at this place of a subject.
    pub fn arrived(&self, subject: &str, position: u64) {
        self.shared.arrived(subject, position);
    }
}

impl Shared {
    /// No step under this lock leaves the map half-way.
    fn plans(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<Plan>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, subject: &str, position: u64) {
        let plan_id = subject::plan_of(&self.name, subject);
        let plan = plan_id.and_then(|plan_id| self.plan(&plan_id));
        if let Some(plan) = plan {
            plan.arrived(position);
        }
    }

    fn all_may_have_arrived(&self) {
        for (plan_id, plan) in &*self.plans() {
            if plan.strong_count() > 0 {
                self.others.add(Arc::clone(plan_id));
            }
        }
    }

    fn plan(&self, plan_id: &str) -> Option<Arc<Plan>> {
        self.plans().get(plan_id)?.upgrade()
    }

    /// Notes a plan that somebody is to have, unless somebody has it.
    fn have(&self, plan_id: &str, subject: &str, known: Place) -> Arc<dyn History> {
        let mut plans = self.plans();
        if let Some(plan) = plans.get(plan_id).and_then(Weak::upgrade)
            && plan.is_of(known.history)
        {
            return Arc::new(NatsHistory::of(plan));
        }
        if plans.len() == plans.capacity() {
            plans.retain(|_, plan| plan.strong_count() > 0);
        }
        let plan_id: Arc<str> = plan_id.into();
        let plan = Plan::new(
            Arc::clone(&plan_id),
            subject.into(),
            Arc::clone(&self.stream),
            Arc::clone(&self.others),
            known,
        );
        let plan = Arc::new(plan);
        plans.insert(plan_id, Arc::downgrade(&plan));
        Arc::new(NatsHistory::of(plan))
    }

    async fn last(&self, subject: &str) -> Result<Option<(Message, Head)>, Error> {
        let last = self.stream.last(subject).await;
        let Some(last) = last.map_err(|Away(why)| Error::Away(why))? else {
            return Ok(None);
        };
        let (head, _) = Head::read(&last.payload)?;
        Ok(Some((last, head)))
    }

    async fn create(self: Arc<Self>, plan_id: Arc<str>) -> Result<Arc<dyn History>, Error> {
        let subject = subject::of(&self.name, &plan_id)?;
        let expected = match self.last(&subject).await? {
            None => 0,
            Some((last, head)) if head.kind == Kind::Forgotten => last.position,
            Some((last, head)) if !head.has_entries() && age(&last) > BEGUN_LIFE => last.position,
            Some(_) => return Err(Error::Exists),
        };
        let history = drawn();
        let head = Head::of(Kind::Begun, history, drawn());
        let position = publish(&*self.stream, &subject, expected, &head, head.with(&[])).await;
        let position = position.map_err(|error| match error {
            Error::Conflict { .. } => Error::Exists,
            other => other,
        })?;
        if expected > 0 {
            // Pieces of an entry that never was are as large as a plan. Who reads passes over them, too.
            drop(self.stream.forget(&subject, position).await);
        }
        let known = Place {
            position,
            whole: position,
            history,
            ..Place::default()
        };
        Ok(self.have(&plan_id, &subject, known))
    }

    async fn open(self: Arc<Self>, plan_id: Arc<str>) -> Result<Arc<dyn History>, Error> {
        let subject = subject::of(&self.name, &plan_id)?;
        let Some((last, head)) = self.last(&subject).await? else {
            return Err(Error::NotFound);
        };
        let mut known = Place {
            history: head.history,
            ..Place::default()
        };
        match head.kind {
            Kind::Forgotten => {
                self.forget_later(subject, last.position);
                return Err(Error::NotFound);
            }
            Kind::Begun => (known.position, known.whole) = (last.position, last.position),
            Kind::Entries if !head.continues => {
                (known.position, known.whole) = (last.position, last.position);
                known.sequence = head.last;
                known.hash = head.hash;
            }
            // Somebody is appending, or has died of it.
            Kind::Entries => {
                let mut reader = Reader::new(subject.as_str().into(), known);
                while let Step::Append(_) = reader.next(&*self.stream).await? {}
                known = reader.place();
            }
        }
        Ok(self.have(&plan_id, &subject, known))
    }

    async fn plan_ids(self: Arc<Self>) -> Result<Vec<Arc<str>>, Error> {
        let subjects = self.stream.subjects().await;
        let subjects = subjects.map_err(|Away(why)| Error::Away(why))?;
        let mut plan_ids: Vec<Arc<str>> = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let Some(plan_id) = subject::plan_of(&self.name, &subject.name) else {
                continue;
            };
            // Only what has a single message may say that it was forgotten.
            if subject.messages <= 1
                && let Some((last, head)) = self.last(&subject.name).await?
                && head.kind == Kind::Forgotten
            {
                if age(&last) > FORGOTTEN_LIFE {
                    self.forget_later(subject.name, last.position);
                }
                continue;
            }
            plan_ids.push(plan_id.into());
        }
        plan_ids.sort();
        Ok(plan_ids)
    }

    /// Forgets a plan: whatever has the name, or only the history of this number.
    async fn delete(self: Arc<Self>, plan_id: Arc<str>, only: Option<u64>) -> Result<(), Error> {
        let subject = subject::of(&self.name, &plan_id)?;
        let mut full = None;
        for _ in 0..FORGET_ATTEMPTS {
            let Some((last, head)) = self.last(&subject).await? else {
                if let Some(history) = full {
                    self.close(&plan_id, history);
                }
                return Ok(());
            };
            // Somebody has forgotten the plan that is meant, and perhaps made another of its name.
            let is_meant = only.is_none_or(|number| number == head.history);
            if head.kind == Kind::Forgotten || !is_meant {
                return Ok(());
            }
            let forgotten = Head::of(Kind::Forgotten, head.history, drawn());
            let place = publish(
                &*self.stream,
                &subject,
                last.position,
                &forgotten,
                forgotten.with(&[]),
            )
            .await;
            match place {
                Ok(position) => {
                    self.close(&plan_id, head.history);
                    let forgotten = self.stream.forget(&subject, position).await;
                    if let Err(Away(why)) = forgotten {
                        tracing::warn!(
                            plan.id = &*plan_id,
                            why,
                            "a forgotten plan's messages are still there"
                        );
                    }
                    self.forget_later(subject, position);
                    return Ok(());
                }
                Err(Error::Full(_)) => {
                    // All but its last message makes room for the one that says so to those who follow it. Where there
                    // is none even then, they learn it when they look for that one.
                    let before = last.position + u64::from(full.is_some());
                    let forgotten = self.stream.forget(&subject, before).await;
                    forgotten.map_err(|Away(why)| Error::Away(why))?;
                    full = Some(head.history);
                }
                Err(Error::Conflict { .. }) => {}
                Err(Error::NotFound) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Away("others append to the plan all the time".into()))
    }

    /// Who has this history here, which was forgotten, appends to it no more.
    fn close(&self, plan_id: &str, history: u64) {
        let mut plans = self.plans();
        let plan = plans.get(plan_id).and_then(Weak::upgrade);
        if let Some(plan) = plan.filter(|plan| plan.is_of(history)) {
            plans.remove(plan_id);
            plan.close();
        }
    }

    /// Removes what says that a plan was forgotten, when those who follow it have seen it.
    fn forget_later(&self, subject: String, position: u64) {
        let stream = Arc::clone(&self.stream);
        tokio::spawn(async move {
            tokio::time::sleep(FORGOTTEN_LIFE).await;
            // Whoever lists plans tries again.
            drop(stream.forget(&subject, position + 1).await);
        });
    }
}

/// How long ago the stream took a message. Clocks may differ.
fn age(message: &Message) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
        .saturating_sub(Duration::from_millis(message.at))
}

impl Journal for Nats {
    fn create(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        Answer::Pending(Box::pin(Arc::clone(&self.shared).create(plan_id.into())))
    }

    fn open(&self, plan_id: &str) -> Answer<Arc<dyn History>> {
        if let Some(plan) = self.shared.plan(plan_id).filter(|plan| !plan.is_gone()) {
            return Answer::Ready(Ok(Arc::new(NatsHistory::of(plan))));
        }
        Answer::Pending(Box::pin(Arc::clone(&self.shared).open(plan_id.into())))
    }

    fn plans(&self) -> Answer<Vec<Arc<str>>> {
        Answer::Pending(Box::pin(Arc::clone(&self.shared).plan_ids()))
    }

    fn delete(&self, plan_id: &str) -> Answer<()> {
        let deleting = Arc::clone(&self.shared).delete(plan_id.into(), None);
        Answer::Pending(Box::pin(deleting))
    }

    fn delete_only(&self, plan_id: &str, number: u64) -> Answer<()> {
        let deleting = Arc::clone(&self.shared).delete(plan_id.into(), Some(number));
        Answer::Pending(Box::pin(deleting))
    }

    fn failure(&self) -> Option<watch::Receiver<Option<String>>> {
        self.health.clone()
    }

    fn others(&self) -> Option<Arc<Others>> {
        Some(Arc::clone(&self.shared.others))
    }
}
