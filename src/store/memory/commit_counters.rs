//! Counts for metrics. Commits are counted after they succeed, so nothing that was rolled back is included.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::usage_accumulator::DeliveryResult;
use crate::histogram::{Histogram, UP_TO_DAYS, UP_TO_SECONDS};
use crate::model::{BounceClass, DeliveryState, EventKind};
use crate::store::{AttemptCount, StoreCounts};

/// The states in which a delivery ends by an attempt or by its lifetime.
const ENDS: [DeliveryState; 3] = [DeliveryState::Delivered, DeliveryState::Bounced, DeliveryState::Expired];
/// Each class, and none.
const CLASSES: usize = BounceClass::ALL.len() + 1;

/// Counts of commits, their events and stray body files.
#[derive(Debug)]
pub(in crate::store) struct CommitCounters {
    events: [AtomicU64; EventKind::ALL.len()],
    /// By the state afterwards and by class.
    attempts: [[AtomicU64; CLASSES]; DeliveryState::ALL.len()],
    /// From acceptance, for each of [`ENDS`].
    delivery_seconds: [Histogram; ENDS.len()],
    commits: AtomicU64,
    commit_seconds: Histogram,
    failed_commits: AtomicU64,
    repeated_commits: AtomicU64,
    stray_files: AtomicU64,
}

impl CommitCounters {
    pub(in crate::store) fn new() -> Self {
        Self {
            events: counts(),
            attempts: std::array::from_fn(|_| counts()),
            delivery_seconds: std::array::from_fn(|_| Histogram::new(UP_TO_DAYS)),
            commits: AtomicU64::new(0),
            commit_seconds: Histogram::new(UP_TO_SECONDS),
            failed_commits: AtomicU64::new(0),
            repeated_commits: AtomicU64::new(0),
            stray_files: AtomicU64::new(0),
        }
    }

    /// Counts a commit with its duration, events and results.
    pub(in crate::store) fn note_commit(
        &self,
        events: &[EventKind],
        results: &[DeliveryResult],
        took: Duration,
    ) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_seconds.observe(took);
        for &kind in events {
            if let Some(count) = self.events.get(kind as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        for result in results {
            self.note_result(result);
        }
    }

    fn note_result(&self, result: &DeliveryResult) {
        let class = result.class.map_or(0, |class| class as usize + 1);
        let attempts = self.attempts.get(result.state as usize).and_then(|counts| counts.get(class));
        if let Some(count) = attempts.filter(|_| result.was_attempted) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        for (_, histogram) in ENDS.iter().zip(&self.delivery_seconds).filter(|(end, _)| **end == result.state)
        {
            histogram.observe(result.age);
        }
    }

    /// Counts a failed commit.
    pub(in crate::store) fn note_failure(&self) {
        self.failed_commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a transaction that is repeated because one of its jobs failed after a change.
    pub(in crate::store) fn note_repetition(&self) {
        self.repeated_commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the number of body files without a message.
    pub(in crate::store) fn note_stray_files(&self, count: u64) {
        self.stray_files.store(count, Ordering::Relaxed);
    }

    pub(in crate::store) fn read(&self) -> StoreCounts {
        let delivery_seconds = self.delivery_seconds.iter().map(Histogram::read);
        StoreCounts {
            events: EventKind::ALL.iter().copied().zip(self.events.iter().map(read)).collect(),
            attempts: self.read_attempts(),
            delivery_seconds: ENDS.into_iter().zip(delivery_seconds).collect(),
            commits: read(&self.commits),
            commit_seconds: self.commit_seconds.read(),
            failed_commits: read(&self.failed_commits),
            repeated_commits: read(&self.repeated_commits),
            stray_files: read(&self.stray_files),
            free_disk_bytes: None,
        }
    }

    fn read_attempts(&self) -> Vec<AttemptCount> {
        let classes = || [None].into_iter().chain(BounceClass::ALL.iter().copied().map(Some));
        let of_state = |(&state, counts): (&DeliveryState, &[AtomicU64; CLASSES])| {
            let counts = classes().zip(counts.iter().map(read).collect::<Vec<_>>());
            counts.filter(|(_, count)| *count > 0).map(move |(class, count)| AttemptCount {
                state,
                class,
                count,
            })
        };
        DeliveryState::ALL.iter().zip(&self.attempts).flat_map(of_state).collect()
    }
}

fn counts<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_count_of_its_own() {
        let counters = CommitCounters::new();
        for (times, &kind) in EventKind::ALL.iter().enumerate() {
            counters.note_commit(&vec![kind; times], &[], Duration::from_millis(3));
        }
        let counts = counters.read();
        for (times, (kind, count)) in counts.events.into_iter().enumerate() {
            assert_eq!((kind, count), (EventKind::ALL[times], times as u64));
        }
        assert_eq!(counts.commits, EventKind::ALL.len() as u64);
        assert_eq!(counts.commit_seconds.count(), counts.commits);
    }

    #[test]
    fn attempts_are_counted_by_outcome_and_class_and_the_time_of_a_delivery_when_it_ends() {
        let counters = CommitCounters::new();
        let result = |state, class, was_attempted| DeliveryResult {
            state,
            class,
            was_attempted,
            age: Duration::from_secs(7),
        };
        let results = [
            result(DeliveryState::Deferred, Some(BounceClass::Network), true),
            result(DeliveryState::Deferred, Some(BounceClass::Network), true),
            result(DeliveryState::Delivered, None, true),
            // Its lifetime ended without another attempt.
            result(DeliveryState::Expired, Some(BounceClass::Network), false),
        ];
        counters.note_commit(&[], &results, Duration::ZERO);
        let counts = counters.read();
        let attempts: Vec<_> = counts.attempts.iter().map(|of| (of.state, of.class, of.count)).collect();
        let expected =
            [(DeliveryState::Deferred, Some(BounceClass::Network), 2), (DeliveryState::Delivered, None, 1)];
        assert_eq!(attempts, expected);
        let ends: Vec<_> = counts
            .delivery_seconds
            .iter()
            .map(|(state, reading)| (*state, reading.count(), reading.sum))
            .collect();
        assert_eq!(
            ends,
            [
                (DeliveryState::Delivered, 1, 7.0),
                (DeliveryState::Bounced, 0, 0.0),
                (DeliveryState::Expired, 1, 7.0),
            ]
        );
    }
}
