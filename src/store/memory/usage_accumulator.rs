//! What the jobs of a transaction use, noted while they run and summed before the commit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::mail::Timestamp;
use crate::model::{BounceClass, DeliveryState, Environment, EventKind, TenantId, UsageInterval};
use crate::store::{UsageCounts, UsedBy};

/// The key of a row of usage: whose, how long, since when, where.
pub(in crate::store) type UsageRow = (TenantId, UsageInterval, Timestamp, Environment);

/// What the jobs of one transaction have used so far.
#[derive(Default)]
pub(in crate::store) struct UsageAccumulator {
    used: RefCell<Vec<(UsedBy, UsageCounts)>>,
    /// What they appended to the journal.
    events: RefCell<Vec<EventKind>>,
    /// What came of the deliveries that they recorded.
    results: RefCell<Vec<DeliveryResult>>,
}

/// What came of one delivery, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct DeliveryResult {
    pub(in crate::store) state: DeliveryState,
    pub(in crate::store) class: Option<BounceClass>,
    /// False if a lifetime ended without another attempt.
    pub(in crate::store) was_attempted: bool,
    /// Since the acceptance of the message.
    pub(in crate::store) age: Duration,
}

/// How much was noted at a time.
#[derive(Clone, Copy)]
pub(in crate::store) struct UsageMark {
    used: usize,
    events: usize,
    results: usize,
}

impl UsageAccumulator {
    /// Notes that something was used.
    pub(in crate::store) fn add(&self, by: UsedBy, counts: UsageCounts) {
        self.used.borrow_mut().push((by, counts));
    }

    /// What was used, summed for each row of usage: many messages of one tenant are one change of its rows.
    pub(in crate::store) fn take_sums(&self) -> BTreeMap<UsageRow, UsageCounts> {
        let mut sums = BTreeMap::<UsageRow, UsageCounts>::new();
        for (by, counts) in self.used.take() {
            for interval in [UsageInterval::Hour, UsageInterval::Day] {
                let row = (by.tenant_id, interval, interval.start_of(by.at), by.environment);
                *sums.entry(row).or_default() += counts;
            }
        }
        sums
    }

    /// How much is noted.
    pub(in crate::store) fn mark(&self) -> UsageMark {
        UsageMark {
            used: self.used.borrow().len(),
            events: self.events.borrow().len(),
            results: self.results.borrow().len(),
        }
    }

    /// Forgets what a job noted that failed.
    pub(in crate::store) fn truncate(&self, mark: UsageMark) {
        self.used.borrow_mut().truncate(mark.used);
        self.events.borrow_mut().truncate(mark.events);
        self.results.borrow_mut().truncate(mark.results);
    }

    /// Notes an event.
    pub(in crate::store) fn note_event(&self, kind: EventKind) {
        self.events.borrow_mut().push(kind);
    }

    /// The events that are noted.
    pub(in crate::store) fn take_events(&self) -> Vec<EventKind> {
        self.events.take()
    }

    /// Notes what came of a delivery.
    pub(in crate::store) fn note_result(&self, result: DeliveryResult) {
        self.results.borrow_mut().push(result);
    }

    /// The results that are noted.
    pub(in crate::store) fn take_results(&self) -> Vec<DeliveryResult> {
        self.results.take()
    }
}
