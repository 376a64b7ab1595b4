//! Usage of the jobs of a transaction, collected while they run and summed before the commit.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::mail::Timestamp;
use crate::model::{Environment, EventKind, TenantId, UsageInterval};
use crate::store::{UsageCounts, UsedBy};

/// The key of a usage row: tenant, interval, start, environment.
pub(in crate::store) type UsageRow = (TenantId, UsageInterval, Timestamp, Environment);

/// Usage of the jobs of one transaction.
#[derive(Default)]
pub(in crate::store) struct UsageAccumulator {
    used: RefCell<Vec<(UsedBy, UsageCounts)>>,
    /// Events that they appended.
    events: RefCell<Vec<EventKind>>,
}

/// A state of the accumulator to return to.
#[derive(Clone, Copy)]
pub(in crate::store) struct UsageMark {
    used: usize,
    events: usize,
}

impl UsageAccumulator {
    /// Adds usage.
    pub(in crate::store) fn add(&self, by: UsedBy, counts: UsageCounts) {
        self.used.borrow_mut().push((by, counts));
    }

    /// Takes the usage, summed for each row, so that many messages of one tenant change a row once.
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

    /// The current state.
    pub(in crate::store) fn mark(&self) -> UsageMark {
        UsageMark { used: self.used.borrow().len(), events: self.events.borrow().len() }
    }

    /// Removes the usage of a failed job.
    pub(in crate::store) fn truncate(&self, mark: UsageMark) {
        self.used.borrow_mut().truncate(mark.used);
        self.events.borrow_mut().truncate(mark.events);
    }

    /// Adds an event.
    pub(in crate::store) fn note_event(&self, kind: EventKind) {
        self.events.borrow_mut().push(kind);
    }

    /// Takes the events.
    pub(in crate::store) fn take_events(&self) -> Vec<EventKind> {
        self.events.take()
    }
}
