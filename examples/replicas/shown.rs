//! What any replica has shown for each event of a plan, as a digest: the others have to show the same.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use fanout::proto::Result as TaskResult;
use prost::Message;

use crate::tally::Tally;

/// The digests of one plan's results, by sequence; 0 where none was shown.
pub struct Shown {
    plan_id: String,
    digests: Mutex<Vec<u64>>,
}

/// A digest of a message.
pub fn digest(message: &impl Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.encode_to_vec().hash(&mut hasher);
    hasher.finish().max(1)
}

impl Shown {
    pub fn of(plan_id: &str) -> Self {
        Self {
            plan_id: plan_id.to_owned(),
            digests: Mutex::default(),
        }
    }

    pub fn plan_id(&self) -> &str {
        &self.plan_id
    }

    /// A replica shows this result.
    pub fn show(&self, replica: usize, result: &TaskResult, tally: &Tally) {
        let found = digest(result);
        let sequence = usize::try_from(result.sequence).unwrap_or_default();
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() <= sequence {
            digests.resize(sequence + 1, 0);
        }
        let known = std::mem::replace(&mut digests[sequence], found);
        drop(digests);
        if known != 0 && known != found {
            tally.wrong(format_args!(
                "replica {replica} shows another result for event {sequence} of {}",
                self.plan_id
            ));
        }
    }

    /// The sequences that were shown.
    pub fn sequences(&self) -> Vec<u64> {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = (0..)
            .zip(digests.iter())
            .filter(|(_, digest)| **digest != 0);
        shown.map(|(sequence, _)| sequence).collect()
    }
}
