//! A histogram of durations. Threads count into it without a lock. Imports nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds for operations that a client waits for.
pub const UP_TO_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds in seconds for deliveries, which may be retried for days.
pub const UP_TO_DAYS: &[f64] =
    &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0];

/// Durations, counted by upper bound.
#[derive(Debug)]
pub struct Histogram {
    /// In ascending order.
    bounds: &'static [f64],
    /// One count for each bound, and one for durations above all bounds.
    counts: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

/// The content of a histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramReading {
    /// Each upper bound in seconds, and the number of durations between the bound before and this one. The last bound
    /// is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all durations in seconds.
    pub sum: f64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, in ascending order.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_us: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(count) = self.counts.get(self.bounds.partition_point(|bound| *bound < seconds)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// The content now. A duration that is counted at the same time may be missing from the sum.
    pub fn read(&self) -> HistogramReading {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        HistogramReading {
            buckets: bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect(),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

impl HistogramReading {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_under_the_first_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[0.5, 2.0]);
        for millis in [0, 500, 501, 2000, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets, [(0.5, 2), (2.0, 2), (f64::INFINITY, 1)]);
        assert_eq!((reading.count(), reading.sum), (5, 63.001));
    }
}
