//! What a producer sends, and what each of its records must come to: known from the seed alone.

use std::collections::BTreeMap;

use fanout::proto::{Disposition, Record};

/// Numbers that look random and are the same for the same seed (SplitMix64).
pub struct Draw(u64);

impl Draw {
    pub fn of(seed: u64, stream: u64) -> Self {
        let mut draw = Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw.next();
        draw
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of the numbers below this.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// One record, and what it must come to.
#[derive(Clone, Copy)]
pub struct Sent {
    pub task: u64,
    pub payload: u64,
    pub disposition: Disposition,
    pub revision: u32,
}

/// All that one producer sends, by offset.
pub struct Expected {
    pub producer: String,
    pub seed: u64,
    pub sent: Vec<Sent>,
}

impl Expected {
    /// So many records for every so-manieth task from this one on. One in eight says again what its task has.
    pub fn of(seed: u64, nth: u64, producers: u64, tasks: u64, records: u64) -> Self {
        let own = (tasks - nth).div_ceil(producers);
        let mut draw = Draw::of(seed, nth);
        let mut has: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
        let mut sent = Vec::new();
        for offset in 0..records {
            // Every task has a record at last: the first ones go through all of them.
            let task = if offset < own {
                offset
            } else {
                draw.below(own)
            };
            let task = nth + task * producers;
            let again = draw.below(8) == 0;
            let (payload, disposition, revision) = match has.get(&task) {
                Some((payload, revision)) if again => (*payload, Disposition::Duplicate, *revision),
                Some((_, revision)) => (offset, Disposition::SupersededPrevious, revision + 1),
                None => (offset, Disposition::Accepted, 1),
            };
            has.insert(task, (payload, revision));
            sent.push(Sent {
                task,
                payload,
                disposition,
                revision,
            });
        }
        Self {
            producer: format!("producer {nth}"),
            seed: seed ^ nth,
            sent,
        }
    }

    /// What each task has at the end: its name, and the payload.
    pub fn finally(&self) -> BTreeMap<String, u64> {
        let last = self.sent.iter().map(|sent| (name(sent.task), sent.payload));
        last.collect()
    }
}

impl Sent {
    pub fn record(&self) -> Record {
        let Self { task, payload, .. } = self;
        Record {
            task_id: name(*task),
            body: format!(
                r#"{{"status":"succeeded","attempt":1,"outcome":{{"payload":{payload},"checks":{{"lint":true,"tests":"passed"}}}},"usage":{{"input_tokens":1{payload},"seconds":1.5e1}},"summary":"this is what came of task {task}, and nothing else had to be changed"}}"#
            )
            .into(),
            ..Default::default()
        }
    }
}

pub fn name(task: u64) -> String {
    format!("task-{task}")
}
