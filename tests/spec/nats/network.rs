//! What is between replicas and their stream: it delays, loses, repeats and cuts off, all drawn from one seed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fanout::journal::Nats;
use fanout::journal::nats::stream::{Asked, Away, Message, Published, Read, Stream, Subject};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep};

use super::simulated::Simulated;

/// So long a client of the real stream waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// So long a message may be on its way at most.
pub const ON_ITS_WAY: u64 = 9_000;

/// Chance, from a seed. What is drawn for one purpose does not depend on what is drawn for others, so that a run goes the
/// same way again also where the order of things that happen at the same time is not the same.
pub struct Chance {
    seed: u64,
    drawn: Mutex<HashMap<String, u64>>,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: Mutex::default(),
        }
    }

    /// A number below `most`, the next for this purpose.
    pub fn below(&self, most: u64, purpose: &str) -> u64 {
        let mut drawn = self.drawn.lock().unwrap();
        let nth = drawn.entry(purpose.to_owned()).or_default();
        *nth += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, purpose, *nth).hash(&mut hasher);
        hasher.finish() % most
    }

    /// Whether something happens that does so `share` times in a thousand.
    pub fn is(&self, share: u64, purpose: &str) -> bool {
        self.below(1_000, purpose) < share
    }

    /// A time of less than so many milliseconds, mostly much shorter.
    pub fn time(&self, most: u64, purpose: &str) -> Duration {
        let most = match self.below(4, purpose) {
            0 => most,
            _ => most / 20 + 1,
        };
        Duration::from_millis(self.below(most, purpose))
    }
}

/// The network between a stream and its clients.
pub struct Network {
    stream: Arc<Simulated>,
    pub chance: Chance,
    /// How many of a thousand messages and answers go wrong.
    wrong: u64,
    /// Longest way, in milliseconds.
    way: u64,
    message_bytes_max: usize,
    is_calm: AtomicBool,
    began: Instant,
    trace: Mutex<DefaultHasher>,
    links: Mutex<Vec<Weak<Link>>>,
    /// When the stream took its messages.
    taken: Mutex<BTreeMap<u64, Instant>>,
}

impl Network {
    pub fn new(seed: u64, stream: Simulated) -> Arc<Self> {
        let chance = Chance::new(seed);
        let one_of = |choices: &[u64], purpose: &str| {
            choices[chance.below(choices.len() as u64, purpose) as usize]
        };
        Arc::new(Self {
            stream: Arc::new(stream),
            wrong: one_of(&[0, 10, 50, 150, 300], "wrong"),
            way: one_of(&[2, 20, 200, 1_000], "way"),
            message_bytes_max: one_of(&[150, 300, 1_000, 10_000], "bytes") as usize,
            chance,
            is_calm: AtomicBool::new(false),
            began: Instant::now(),
            trace: Mutex::default(),
            links: Mutex::default(),
            taken: Mutex::default(),
        })
    }

    /// Another client, of this name. What it is told of goes to its journal.
    pub fn link(self: &Arc<Self>, name: String) -> (Arc<Link>, Arc<Nats>) {
        let link = Arc::new_cyclic(|this| Link {
            this: Weak::clone(this),
            network: Arc::clone(self),
            name,
            journal: OnceLock::new(),
            cut: Mutex::new(None),
            is_dead: AtomicBool::new(false),
        });
        let journal = Arc::new(Nats::on(Arc::clone(&link) as Arc<dyn Stream>, "fanout"));
        drop(link.journal.set(Arc::downgrade(&journal)));
        self.links.lock().unwrap().push(Arc::downgrade(&link));
        (link, journal)
    }

    /// From now on nothing goes wrong, but for what is on its way.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
        for link in self.links() {
            *link.cut.lock().unwrap() = None;
        }
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    fn links(&self) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap();
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// A number that is another if messages came at other times, or others did.
    pub fn trace(&self) -> u64 {
        self.trace.lock().unwrap().finish()
    }

    /// The message comes to the stream; all are told, or not, or late.
    fn land(&self, subject: &str, expected: u64, id: &str, payload: Bytes) -> Published {
        let before = self.stream.end();
        let published = self.stream.publish(subject, expected, id, payload);
        let published = published.now_or_never().unwrap().unwrap();
        let position = self.stream.end();
        let (now, refused) = (self.began.elapsed(), published == Published::Refused);
        (now, subject, expected, refused).hash(&mut *self.trace.lock().unwrap());
        if position > before {
            self.taken.lock().unwrap().insert(position, Instant::now());
            for link in self.links() {
                link.told(subject.to_owned(), position);
            }
        }
        published
    }

    /// The message as it is said to be of so long ago as it is in the run's time.
    fn aged(&self, mut message: Message) -> Message {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = self.taken.lock().unwrap()[&message.position].elapsed();
        message.at = now.saturating_sub(age).as_millis().try_into().unwrap();
        message
    }
}

/// Until when a client is cut off, and how it takes that.
struct Cut {
    until: Instant,
    is_silent: bool,
    is_known: bool,
}

/// One client's connection to the stream.
pub struct Link {
    this: Weak<Link>,
    network: Arc<Network>,
    name: String,
    journal: OnceLock<Weak<Nats>>,
    cut: Mutex<Option<Cut>>,
    is_dead: AtomicBool,
}

/// What becomes of a message to the stream.
enum Fate {
    Arrives,
    /// It arrives, and nobody says so.
    Unsaid,
    /// It arrives when its sender has given up waiting.
    Late,
    Lost,
    /// The stream says that it cannot say.
    Busy,
    NoRoom,
}

impl Link {
    fn draw(&self, most: u64, purpose: &str) -> u64 {
        let purpose = format!("{} {purpose}", self.name);
        self.network.chance.below(most, &purpose)
    }

    fn way(&self, purpose: &str) -> Duration {
        let most = if self.network.is_calm() {
            2
        } else {
            self.network.way
        };
        let purpose = format!("{} {purpose}", self.name);
        self.network.chance.time(most, &purpose)
    }

    fn goes_wrong(&self, purpose: &str) -> bool {
        !self.network.is_calm() && self.draw(1_000, purpose) < self.network.wrong
    }

    /// Cuts the client off for so long.
    pub fn cut(&self, time: Duration) {
        let cut = Cut {
            until: Instant::now() + time,
            is_silent: self.draw(2, "silent") == 0,
            is_known: self.draw(2, "known") == 0,
        };
        *self.cut.lock().unwrap() = Some(cut);
    }

    /// The client's process has died: it is told nothing any more.
    pub fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    fn is_cut(&self) -> Option<bool> {
        let cut = self.cut.lock().unwrap();
        let cut = cut.as_ref().filter(|cut| cut.until > Instant::now());
        cut.map(|cut| cut.is_silent)
    }

    fn told(self: Arc<Self>, subject: String, position: u64) {
        let purpose = format!("told {subject}");
        let times = match self.draw(10, &purpose) {
            _ if self.network.is_calm() => 1,
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..times {
            let (link, subject, way) = (Arc::clone(&self), subject.clone(), self.way(&purpose));
            tokio::spawn(async move {
                sleep(way).await;
                let journal = link.journal.get().and_then(Weak::upgrade);
                let hears = link.is_cut().is_none() && !link.is_dead.load(Ordering::Relaxed);
                if let Some(journal) = journal.filter(|_| hears) {
                    journal.arrived(&subject, position);
                }
            });
        }
    }

    /// Nothing is done by who is dead.
    async fn lives(&self) {
        if self.is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// On its way to the stream, or back from there.
    async fn travels(&self, purpose: &str) -> Result<(), Away> {
        sleep(self.way(purpose)).await;
        self.lives().await;
        match self.is_cut() {
            None => Ok(()),
            Some(is_silent) => Err(self.hears_nothing(is_silent).await),
        }
    }

    async fn hears_nothing(&self, is_silent: bool) -> Away {
        if is_silent {
            sleep(ANSWER_TIMEOUT).await;
        }
        self.lives().await;
        Away("the network of the test".into())
    }

    async fn ask<T>(
        &self,
        what: &str,
        subject: &str,
        ask: impl FnOnce(&Simulated) -> Asked<'_, T>,
    ) -> Result<T, Away> {
        let purpose = format!("{what} {subject}");
        self.lives().await;
        self.travels(&purpose).await?;
        if self.goes_wrong(&purpose) {
            return Err(self.hears_nothing(self.draw(2, &purpose) == 0).await);
        }
        let answer = ask(&self.network.stream).now_or_never().unwrap()?;
        self.travels(&purpose).await?;
        Ok(answer)
    }
}

impl Stream for Link {
    fn publish(
        &self,
        subject: &str,
        expected: u64,
        id: &str,
        payload: Bytes,
    ) -> Asked<'_, Published> {
        let (subject, id) = (subject.to_owned(), id.to_owned());
        Box::pin(async move {
            let purpose = format!("publish {subject}");
            self.lives().await;
            let fate = match (self.goes_wrong(&purpose), self.draw(11, &purpose)) {
                (false, _) => Fate::Arrives,
                (true, 0..3) => Fate::Unsaid,
                (true, 3..6) => Fate::Late,
                (true, 6..8) => Fate::Lost,
                (true, 8..10) => Fate::Busy,
                (true, _) => Fate::NoRoom,
            };
            let is_silent = self.draw(2, &purpose) == 0;
            if matches!(fate, Fate::Late) && self.is_cut().is_none() {
                let network = Arc::clone(&self.network);
                let way = network.chance.below(ON_ITS_WAY, &purpose);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(way)).await;
                    network.land(&subject, expected, &id, payload);
                });
                return Err(self.hears_nothing(is_silent).await);
            }
            self.travels(&purpose).await?;
            let published = match fate {
                Fate::Arrives => self.network.land(&subject, expected, &id, payload),
                Fate::Busy => Published::Refused,
                Fate::NoRoom => Published::Full("of the test".into()),
                Fate::Unsaid => {
                    self.network.land(&subject, expected, &id, payload);
                    return Err(self.hears_nothing(is_silent).await);
                }
                Fate::Lost | Fate::Late => return Err(self.hears_nothing(is_silent).await),
            };
            self.travels(&purpose).await?;
            Ok(published)
        })
    }

    fn last(&self, subject: &str) -> Asked<'_, Option<Message>> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let last = self.ask("last", &subject, |stream| stream.last(&subject));
            Ok(last.await?.map(|last| self.network.aged(last)))
        })
    }

    fn next(&self, subject: &str, from: u64) -> Asked<'_, Option<Message>> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let next = self.ask("next", &subject, |stream| stream.next(&subject, from));
            next.await
        })
    }

    fn read(&self, subject: &str, from: u64) -> Read {
        let link = self.this.upgrade().unwrap();
        let messages = self.network.stream.read(subject, from);
        let purpose = format!("read {subject}");
        Box::pin(messages.then(move |message| {
            let (link, purpose) = (Arc::clone(&link), purpose.clone());
            async move {
                link.travels(&purpose).await?;
                match link.goes_wrong(&purpose) {
                    true => Err(link.hears_nothing(false).await),
                    false => message,
                }
            }
        }))
    }

    fn subjects(&self) -> Asked<'_, Vec<Subject>> {
        Box::pin(self.ask("subjects", "", |stream| stream.subjects()))
    }

    fn forget(&self, subject: &str, before: u64) -> Asked<'_, ()> {
        let subject = subject.to_owned();
        Box::pin(async move {
            let forget = self.ask("forget", &subject, |stream| stream.forget(&subject, before));
            forget.await
        })
    }

    fn message_bytes_max(&self) -> usize {
        self.network.message_bytes_max
    }

    fn away(&self) -> Option<String> {
        let cut = self.cut.lock().unwrap();
        let cut = cut.as_ref().filter(|cut| cut.until > Instant::now());
        cut.filter(|cut| cut.is_known).map(|_| "cut off".to_owned())
    }
}
