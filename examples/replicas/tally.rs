//! What was found wrong so far, and the line that says so at the end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tonic::Status;
use tonic_types::StatusExt;

use crate::client::Told;

pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// So many wrongs are printed; the rest is only counted.
const PRINTED_MAX: u64 = 40;

/// So much is kept of what a caller was told.
const HEARD_MAX: usize = 160;

#[derive(Default)]
pub struct Tally {
    /// Records with a receipt.
    acknowledged: AtomicU64,
    /// Those of them that a plan did not have later.
    lost: AtomicU64,
    /// Records that were applied twice.
    doubled: AtomicU64,
    /// Anything else that must not be.
    wrong: AtomicU64,
    try_again: AtomicU64,
    not_connected: AtomicU64,
    broken: AtomicU64,
    /// What callers were told, and how often.
    heard: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub fn wrong(&self, what: impl Display) {
        if self.wrong.fetch_add(1, Ordering::Relaxed) < PRINTED_MAX {
            eprintln!("wrong: {what}");
        }
    }

    /// Somebody's call did not succeed, which is wrong unless it may be made again.
    pub fn refused(&self, whose: impl Display, status: &Status) {
        let told = Told::by(status);
        let counter = match told {
            Told::ToTryAgain => &self.try_again,
            Told::NotConnected => &self.not_connected,
            Told::Broken => &self.broken,
            Told::ToGiveUp => {
                let details = status.get_error_details();
                let reason = details.error_info().map_or("", |info| &info.reason);
                let (code, message) = (status.code(), status.message());
                return self.wrong(format_args!(
                    "{whose} is told: {code:?} {reason}: {message}"
                ));
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut heard = format!("{told:?}: {:?} {}", status.code(), status.message());
        let mut source = status.source();
        while let Some(cause) = source {
            heard.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.chars().take(HEARD_MAX).collect();
        *all.entry(heard).or_default() += 1;
    }

    /// How many calls were told to try again, how many connections could not be made, and how many calls broke.
    pub fn told(&self) -> [u64; 3] {
        [&self.try_again, &self.not_connected, &self.broken]
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// What callers were told, and how often, a line each.
    pub fn heard(&self) -> String {
        let all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = all
            .iter()
            .map(|(what, times)| format!("{times:>8} x {what}\n"));
        lines.collect()
    }

    pub fn acknowledge(&self, records: usize) {
        self.acknowledged
            .fetch_add(records as u64, Ordering::Relaxed);
    }

    pub fn lose(&self, records: usize) {
        self.lost.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub fn double(&self, records: usize) {
        self.doubled.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Prints the last line, and says whether nothing was lost, doubled or wrong.
    pub fn close(&self) -> bool {
        let [acknowledged, lost, doubled, wrong] =
            [&self.acknowledged, &self.lost, &self.doubled, &self.wrong]
                .map(|counter| counter.load(Ordering::Relaxed));
        let equal = if wrong == 0 { "yes" } else { "no" };
        println!("acknowledged {acknowledged}, lost {lost}, doubled {doubled}, equal {equal}");
        lost == 0 && doubled == 0 && wrong == 0
    }
}
