//! A histogram of times that costs two additions for all observations that took the same time, and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Upper bounds of the buckets, in nanoseconds: 10 µs to 10 s, three to a factor of ten.
const BOUNDS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How many observations took how long.
pub(super) struct Histogram {
    /// Observations of each bucket, the last being for what is over all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(super) const fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Notes that something took so long, so many times.
    pub(super) fn observe(&self, time: Duration, times: u64) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanoseconds);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        let sum = nanoseconds.saturating_mul(times);
        self.nanoseconds.fetch_add(sum, Ordering::Relaxed);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of times is as exact as its reader's arithmetic"
    )]
    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound));
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.nanoseconds.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, Duration, Histogram, Ordering};

    #[test]
    fn a_time_is_counted_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let histogram = Histogram::new();
        for (nanoseconds, bucket) in [
            (0, 0),
            (10_000, 0),
            (10_001, 1),
            (1_000_000, 6),
            (10_000_000_000, 18),
            (10_000_000_001, BOUNDS.len()),
        ] {
            let before = histogram.counts[bucket].load(Ordering::Relaxed);
            histogram.observe(Duration::from_nanos(nanoseconds), 3);
            let after = histogram.counts[bucket].load(Ordering::Relaxed);
            assert_eq!(after - before, 3, "{nanoseconds} ns");
        }
        let sum = 3 * (10_000 + 10_001 + 1_000_000 + 10_000_000_000 + 10_000_000_001);
        assert_eq!(histogram.nanoseconds.load(Ordering::Relaxed), sum);
    }
}
