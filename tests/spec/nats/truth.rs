//! What may not be otherwise, whoever is asked: kept beside the replicas of an exploration, and written without their code.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanout::coordinator::{Clock, cursor};
use fanout::engine::{Disposition, Entry, Event, Receipt, Spec, Timestamp};

/// One of the plans that have a name one after the other.
pub type Life = String;

/// Which plan this is.
pub fn life_of(spec: &Spec) -> Life {
    format!("{} {}", spec.plan_id, cursor(spec, 0))
}

fn name_of(life: &Life) -> &str {
    life.split(' ').next().unwrap_or_default()
}

/// A number that is another for another event.
pub fn digest(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.sequence, entry.at.0).hash(&mut hasher);
    match &entry.event {
        Event::PlanCreated(spec) => (&spec.plan_id, &spec.digest).hash(&mut hasher),
        event => format!("{event:?}").hash(&mut hasher),
    }
    hasher.finish()
}

/// What a receipt says, for who keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub disposition: Disposition,
    pub sequence: u64,
    pub task: Option<u32>,
    pub revision: Option<u32>,
}

impl Told {
    pub fn of(receipt: &Receipt) -> Self {
        Self {
            disposition: receipt.disposition,
            sequence: receipt.sequence,
            task: receipt.task,
            revision: receipt.held.as_ref().map(|held| held.revision),
        }
    }
}

#[derive(Default)]
struct Known {
    /// Digests of the events that anybody was shown.
    shown: BTreeMap<(Life, u64), u64>,
    /// The last event of which anybody was told.
    told: BTreeMap<Life, u64>,
    /// Plans that somebody was told are forgotten.
    forgotten: BTreeSet<Life>,
    /// Plans that somebody was told are registered, with their deadlines.
    registered: BTreeMap<Life, Option<Timestamp>>,
    /// Names of plans that somebody has asked to forget.
    may_be_forgotten: BTreeSet<String>,
    /// What became of marked records.
    receipts: BTreeMap<(Life, String), Told>,
    /// Where watchers are.
    watched: BTreeMap<String, (Life, u64)>,
    violations: Vec<String>,
}

/// What is known of all plans.
pub struct Truth {
    known: Mutex<Known>,
    clock: Clock,
    /// How far clocks may differ.
    skew: Duration,
}

/// How far everything was when somebody began to ask.
pub struct Before {
    told: BTreeMap<Life, u64>,
    forgotten: BTreeSet<Life>,
    registered: Vec<Life>,
}

impl Truth {
    pub fn new(clock: Clock, skew: Duration) -> Self {
        Self {
            known: Mutex::default(),
            clock,
            skew,
        }
    }

    /// Something is not as it has to be.
    pub fn violated(&self, what: String) {
        self.known.lock().unwrap().violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.known.lock().unwrap().violations.clone()
    }

    /// Somebody begins to ask.
    pub fn before(&self) -> Before {
        let known = self.known.lock().unwrap();
        Before {
            told: known.told.clone(),
            forgotten: known.forgotten.clone(),
            registered: known.registered.keys().cloned().collect(),
        }
    }

    /// Somebody who began to ask then was told that a plan is there, and at this sequence.
    pub fn is_at(&self, life: &Life, sequence: u64, before: &Before, who: &str) {
        let least = before.told.get(life).copied().unwrap_or_default();
        if sequence < least {
            self.violated(format!(
                "{who}: {life} is at {sequence}, and somebody was told of {least} before"
            ));
        }
        if before.forgotten.contains(life) {
            self.violated(format!("{who}: {life} is there, and was forgotten before"));
        }
        self.tell(life, sequence);
    }

    /// Somebody was told of this event.
    pub fn tell(&self, life: &Life, sequence: u64) {
        let mut known = self.known.lock().unwrap();
        let told = known.told.entry(life.clone()).or_default();
        *told = sequence.max(*told);
    }

    /// Somebody was shown an event.
    pub fn show(&self, life: &Life, sequence: u64, digest: u64, who: &str) {
        let mut known = self.known.lock().unwrap();
        let shown = known
            .shown
            .entry((life.clone(), sequence))
            .or_insert(digest);
        if *shown != digest {
            let what =
                format!("{who}: event {sequence} of {life} is another than was shown before");
            known.violations.push(what);
        }
    }

    /// Somebody was told what became of a record, which is the same each time.
    pub fn receipt(&self, life: &Life, mark: &str, told: Told) {
        let mut known = self.known.lock().unwrap();
        let key = (life.clone(), mark.to_owned());
        let first = *known.receipts.entry(key).or_insert(told);
        if first != told {
            let what = format!("record {mark} of {life}: first {first:?}, then {told:?}");
            known.violations.push(what);
        }
    }

    /// How far a watcher has seen a plan.
    pub fn watched(&self, who: &str, life: &Life, sequence: u64) {
        let mut known = self.known.lock().unwrap();
        known
            .watched
            .insert(who.to_owned(), (life.clone(), sequence));
    }

    /// Somebody was told that a plan is registered.
    pub fn registered(&self, spec: &Spec) {
        let mut known = self.known.lock().unwrap();
        known.registered.insert(life_of(spec), spec.deadline);
    }

    /// Somebody asks to forget what has this name.
    pub fn may_be_forgotten(&self, name: &str) {
        self.known
            .lock()
            .unwrap()
            .may_be_forgotten
            .insert(name.into());
    }

    /// Somebody was told that a plan is forgotten.
    pub fn forgotten(&self, life: &Life) {
        self.known.lock().unwrap().forgotten.insert(life.clone());
    }

    /// Somebody who began to ask then sees this plan under a name, or none.
    pub fn sees(&self, name: &str, life: Option<&Life>, before: &Before, who: &str) {
        let of_name = before
            .registered
            .iter()
            .filter(|known| name_of(known) == name);
        for missing in of_name.filter(|known| Some(*known) != life) {
            self.is_not_there(missing, who);
        }
    }

    /// A plan is not there. It is forgotten by itself when it has ended, and it does not end before its deadline.
    pub fn is_not_there(&self, life: &Life, who: &str) {
        let mut known = self.known.lock().unwrap();
        let deadline = known.registered.get(life).copied().flatten();
        let has_passed = |deadline: Timestamp| deadline <= self.clock.now().plus(self.skew);
        let name = name_of(life);
        let may_be = match name {
            "expired" => deadline.is_none_or(has_passed),
            _ => known.may_be_forgotten.contains(name),
        };
        if !may_be {
            let what = format!("{who}: {life} is not there, and nobody forgot it");
            known.violations.push(what);
        }
    }

    /// In the end: all that was said of these plans is so, and of no other that nobody forgot.
    pub fn check(&self, histories: &BTreeMap<Life, Vec<Arc<Entry>>>) {
        let registered = self.known.lock().unwrap().registered.clone();
        for life in registered
            .keys()
            .filter(|life| !histories.contains_key(*life))
        {
            self.is_not_there(life, "in the end");
        }
        for (life, history) in histories {
            for (entry, sequence) in history.iter().zip(1..) {
                if entry.sequence != sequence {
                    self.violated(format!(
                        "{life}: event {} stands at {sequence}",
                        entry.sequence
                    ));
                }
                self.show(life, sequence, digest(entry), "in the end");
            }
            let length = history.len() as u64;
            let told = self.known.lock().unwrap().told.get(life).copied();
            if told.is_some_and(|told| told > length) {
                self.violated(format!("{life} ends at {length}, and {told:?} was told"));
            }
            let is_end = |entry: &&Arc<Entry>| matches!(entry.event, Event::PlanEnded { .. });
            let end = history
                .iter()
                .find(is_end)
                .map_or(length, |end| end.sequence);
            let watched = self.known.lock().unwrap().watched.clone();
            for (who, (watched, at)) in watched {
                if name_of(&watched) == name_of(life) && (&watched, at) != (life, end) {
                    self.violated(format!(
                        "{who} of {life} has not seen {end}: {watched} {at}"
                    ));
                }
            }
            self.check_receipts(life, history);
        }
    }

    /// Each record is where its receipt says, and nowhere else.
    fn check_receipts(&self, life: &Life, history: &[Arc<Entry>]) {
        let mut known = self.known.lock().unwrap();
        let mut wrong = Vec::new();
        let documents: Vec<String> = history.iter().map(|entry| document(&entry.event)).collect();
        for ((of, mark), told) in &known.receipts {
            if of != life {
                continue;
            }
            let marked = format!("\"{mark}\"");
            let holds = |at: &usize| documents[*at].contains(&marked);
            let places: Vec<usize> = (0..documents.len()).filter(holds).collect();
            let is_there = match told.disposition {
                Disposition::Accepted | Disposition::SupersededPrevious | Disposition::Late => {
                    places == [told.sequence as usize - 1]
                }
                _ => places.len() == 1,
            };
            if !is_there {
                wrong.push(format!(
                    "record {mark} of {life} is in {places:?}: {told:?}"
                ));
            }
        }
        known.violations.append(&mut wrong);
    }
}

fn document(event: &Event) -> String {
    let bytes = match event {
        Event::RecordAccepted(held) => &held.document,
        Event::RecordQuarantined(quarantined) => &quarantined.document,
        _ => return String::new(),
    };
    String::from_utf8(bytes.to_vec()).unwrap()
}
