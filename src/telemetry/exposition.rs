//! What `/metrics` answers: what was counted, and a census of what is there now, as OpenMetrics text.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::{COMMIT, VERSION, calls, metrics};
use crate::engine::PlanStatus;

/// What kind of text [`page`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What one server has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Whether it may be sent work.
    pub is_ready: bool,
    /// Connections.
    pub connections: u64,
    /// Live plans that are open.
    pub incomplete_plans: u64,
    /// That have ended well.
    pub completed_plans: u64,
    /// That have ended otherwise.
    pub failed_plans: u64,
    /// Tasks of live plans with a successful record.
    pub successful_tasks: u64,
    /// With another record.
    pub failed_tasks: u64,
    /// That have given a sign of life and have no record.
    pub running_tasks: u64,
    /// Of which nothing was heard.
    pub waiting_tasks: u64,
    /// Records that were set aside and that nothing was done about.
    pub quarantined_records: u64,
    /// Watchers.
    pub watchers: u64,
    /// Events that the watcher which is furthest behind has not taken yet.
    pub watch_lag: u64,
    /// Appends that the journal has not acknowledged yet.
    pub appends_waiting: u64,
}

/// The page.
#[must_use]
pub fn page(census: Census) -> String {
    let mut registry = Registry::with_prefix("fanout");
    registry.register_collector(Box::new(Everything(census)));
    let mut page = String::new();
    // A text takes all that is written to it.
    let _ = prometheus_client::encoding::text::encode(&mut page, &registry);
    page
}

#[derive(Debug)]
struct Everything(Census);

type Encoded = std::fmt::Result;

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let Self(census) = self;
        let to = &mut encoder;

        let records = metrics::DISPOSITIONS.iter().zip(&metrics::RECORDS);
        let records =
            records.map(|((_, label), counter)| ([("disposition", *label)], counter.get()));
        counters(to, "records", "Records by what became of them", records)?;
        histogram(
            to,
            "receipt_seconds",
            "Time from a record's arrival to its receipt",
            &metrics::RECEIPTS,
        )?;
        let plans = [
            (PlanStatus::Incomplete, census.incomplete_plans),
            (PlanStatus::Completed, census.completed_plans),
            (PlanStatus::Failed, census.failed_plans),
        ];
        let plans = plans.map(|(status, count)| ([("state", status.name())], count));
        gauges(to, "plans", "Live plans by state", plans)?;
        let tasks = [
            ([("state", "successful")], census.successful_tasks),
            ([("state", "failed")], census.failed_tasks),
            ([("state", "running")], census.running_tasks),
            ([("state", "waiting")], census.waiting_tasks),
        ];
        gauges(to, "tasks", "Tasks of live plans by state", tasks)?;
        counter(
            to,
            "plans_registered",
            "Plans registered",
            metrics::PLANS_REGISTERED.get(),
        )?;
        let ended = metrics::END_REASONS.iter().zip(&metrics::PLANS_ENDED);
        let ended = ended.map(|(reason, counter)| ([("reason", reason.name())], counter.get()));
        counters(to, "plans_ended", "Plans ended by reason", ended)?;
        gauge(
            to,
            "quarantined_records",
            "Records set aside that nothing was done about",
            census.quarantined_records,
        )?;

        let streams = calls::STREAMS.iter().zip(&calls::OPEN);
        let streams = streams.map(|((kind, _), open)| ([("kind", *kind)], open.get()));
        gauges(to, "streams", "Open streams by kind", streams)?;
        gauge(to, "watchers", "Watchers", census.watchers)?;
        gauge(
            to,
            "watch_lag_events",
            "Events that the watcher furthest behind has not taken",
            census.watch_lag,
        )?;
        let ended = calls::METHODS
            .iter()
            .zip(&calls::ENDED)
            .flat_map(|(method, codes)| {
                let codes = calls::CODES.iter().zip(codes);
                codes.map(|(code, counter)| ([("method", *method), ("code", *code)], counter.get()))
            });
        // What never happened is not said: there are hundreds of pairs.
        let ended = ended.filter(|(_, count)| *count > 0);
        counters(to, "calls", "Calls that ended, by method and code", ended)?;
        gauge(to, "connections", "Open connections", census.connections)?;
        counter(
            to,
            "connections_refused",
            "Connections closed at once because too many were open",
            metrics::CONNECTIONS_REFUSED.get(),
        )?;

        gauge(
            to,
            "journal_appends_waiting",
            "Appends that the journal has not acknowledged",
            census.appends_waiting,
        )?;
        histogram(
            to,
            "journal_append_seconds",
            "Time until the journal answered an append that had to be waited for",
            &metrics::APPENDS,
        )?;
        counter(
            to,
            "journal_written_bytes",
            "Bytes written to the journal",
            metrics::JOURNAL_BYTES.get(),
        )?;
        counter(
            to,
            "journal_writes",
            "Writes to the journal, each of all that waited for it",
            metrics::JOURNAL_WRITES.get(),
        )?;
        counter(
            to,
            "journal_replays",
            "Histories of plans read from the journal",
            metrics::REPLAYS.get(),
        )?;

        gauge(
            to,
            "ready",
            "Whether work may be sent",
            census.is_ready.into(),
        )?;
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory of the process";
            gauge(to, "resident_memory_bytes", help, bytes)?;
        }
        to.encode_descriptor("build", "What was built", None, MetricType::Info)?
            .encode_info(&[("version", VERSION), ("commit", COMMIT)])
    }
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: u64) -> Encoded {
    let encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(count).encode(encoder)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, count: u64) -> Encoded {
    let encoder = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(count).encode(encoder)
}

fn histogram(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, of: &Histogram) -> Encoded {
    of.encode(to.encode_descriptor(name, help, None, MetricType::Histogram)?)
}

fn counters<const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl IntoIterator<Item = ([(&'static str, &'static str); N], u64)>,
) -> Encoded {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in counts {
        let mut encoder: MetricEncoder<'_> = family.encode_family(&labels)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn gauges<const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl IntoIterator<Item = ([(&'static str, &'static str); N], u64)>,
) -> Encoded {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, count) in counts {
        family.encode_family(&labels)?.encode_gauge(&count)?;
    }
    Ok(())
}

/// What Linux says of the process's memory.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
