//! What the jobs of a transaction use, noted while they run and summed before the commit.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::mail::Timestamp;
use crate::model::{Environment, EventKind, TenantId, UsageInterval};
use crate::store::{UsageCounts, UsedBy};

/// The key of a row of usage: whose, how long, since when, where.
pub(in crate::store) type UsageRow = (TenantId, UsageInterval, Timestamp, Environment);

/// What the jobs of one transaction have used so far.
#[derive(Default)]
pub(in crate::store) struct UsageAccumulator {
    used: RefCell<Vec<(UsedBy, UsageCounts)>>,
    /// What they appended to the journal.
    events: RefCell<Vec<EventKind>>,
}

/// How much was noted at a time.
#[derive(Clone, Copy)]
pub(in crate::store) struct UsageMark {
    used: usize,
    events: usize,
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
        UsageMark { used: self.used.borrow().len(), events: self.events.borrow().len() }
    }

    /// Forgets what a job noted that failed.
    pub(in crate::store) fn truncate(&self, mark: UsageMark) {
        self.used.borrow_mut().truncate(mark.used);
        self.events.borrow_mut().truncate(mark.events);
    }

    /// Notes an event.
    pub(in crate::store) fn note_event(&self, kind: EventKind) {
        self.events.borrow_mut().push(kind);
    }

    /// The events that are noted.
    pub(in crate::store) fn take_events(&self) -> Vec<EventKind> {
        self.events.take()
    }
}
