//! What a run shows of itself: bars on a terminal, lines elsewhere, nothing if asked for nothing.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::print::{self, short};
use crate::json::Value;
use crate::proto::{Disposition, Receipt, TaskStatus};

/// The display of one run.
#[derive(Clone)]
pub(super) struct Display {
    kind: DisplayKind,
    /// The tasks that run, or wait for their receipt.
    shown: Arc<Mutex<HashMap<String, Shown>>>,
}

#[derive(Clone)]
enum DisplayKind {
    Bars(MultiProgress, ProgressBar),
    Lines,
    Nothing,
}

struct Shown {
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Display {
    pub(super) fn new(tasks: u64, quiet: bool) -> Self {
        let kind = if quiet {
            DisplayKind::Nothing
        } else if std::io::stderr().is_terminal() {
            let bars = MultiProgress::new();
            let total = bars.add(ProgressBar::new(tasks));
            let style =
                ProgressStyle::with_template("[{elapsed_precise}] {bar:32} {pos}/{len} tasks");
            if let Ok(style) = style {
                total.set_style(style);
            }
            total.enable_steady_tick(Duration::from_millis(200));
            DisplayKind::Bars(bars, total)
        } else {
            DisplayKind::Lines
        };
        Self {
            kind,
            shown: Arc::default(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<String, Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, task_id: &str) {
        let bar = match &self.kind {
            DisplayKind::Bars(bars, _) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_message(short(task_id, 60));
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            DisplayKind::Lines | DisplayKind::Nothing => None,
        };
        self.shown().insert(
            task_id.to_owned(),
            Shown {
                since: Instant::now(),
                bar,
            },
        );
    }

    pub(super) fn stop(&self, task_id: &str) {
        let bar = self
            .shown()
            .get_mut(task_id)
            .and_then(|shown| shown.bar.take());
        if let (DisplayKind::Bars(bars, _), Some(bar)) = (&self.kind, bar) {
            bar.finish_and_clear();
            bars.remove(&bar);
        }
    }

    pub(super) fn receipt(&self, task_id: &str, receipt: &Receipt) {
        let seconds = self
            .shown()
            .remove(task_id)
            .map_or(0.0, |shown| shown.since.elapsed().as_secs_f64());
        let word = match receipt.disposition() {
            Disposition::Accepted | Disposition::SupersededPrevious | Disposition::Duplicate => {
                print::task_status(receipt.status())
            }
            refused => print::word(refused.as_str_name(), "DISPOSITION_"),
        };
        let line = format!(
            "{word:<12} {}  {seconds:.1} s{}",
            short(task_id, 80),
            trouble(receipt)
        );
        match &self.kind {
            DisplayKind::Bars(bars, total) => {
                // A terminal that is gone shows nothing; the run goes on.
                let _ = bars.println(line);
                // A refused record is followed by another one of its task.
                total.inc(u64::from(receipt.violation.is_none()));
            }
            DisplayKind::Lines => eprintln!("{line}"),
            DisplayKind::Nothing => {}
        }
    }

    /// Says something that nobody asked to be spared.
    pub(super) fn say(&self, line: &str) {
        match &self.kind {
            DisplayKind::Bars(bars, _) => bars.suspend(|| eprintln!("{line}")),
            DisplayKind::Lines | DisplayKind::Nothing => eprintln!("{line}"),
        }
    }

    pub(super) fn finish(&self) {
        if let DisplayKind::Bars(_, total) = &self.kind {
            total.finish_and_clear();
        }
    }
}

/// Why a record failed, in a few words.
fn trouble(receipt: &Receipt) -> String {
    if receipt.status() != TaskStatus::Failed {
        return String::new();
    }
    let record = print::document(&receipt.record);
    let message = record
        .get("executor_error")
        .and_then(|error| error.get("message"))
        .and_then(Value::as_str);
    message
        .map(|message| format!("  ({})", short(message, 100)))
        .unwrap_or_default()
}
