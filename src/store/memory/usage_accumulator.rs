//! Usage of the jobs of a transaction, collected while they run and summed before the commit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::minute_series::UsageByMinute;
use crate::mail::{DomainName, Timestamp};
use crate::model::{BounceClass, DeliveryState, Environment, EventKind, KeyId, TenantId, UsageInterval};
use crate::store::{UsageCounts, UsedBy};

/// The key of a usage row: tenant, interval, start, environment.
pub(in crate::store) type UsageRow = (TenantId, UsageInterval, Timestamp, Environment);

/// The key of a row of usage by key and domain: tenant, day, environment, key, sending domain.
pub(in crate::store) type UsagePartRow =
    (TenantId, Timestamp, Environment, Option<KeyId>, Option<DomainName>);

/// Usage summed for each row.
#[derive(Default)]
pub(in crate::store) struct UsageSums {
    pub(in crate::store) intervals: BTreeMap<UsageRow, UsageCounts>,
    pub(in crate::store) parts: BTreeMap<UsagePartRow, UsageCounts>,
}

/// Usage of the jobs of one transaction.
#[derive(Default)]
pub(in crate::store) struct UsageAccumulator {
    used: RefCell<Vec<(UsedBy, Option<DomainName>, UsageCounts)>>,
    /// Events that they appended.
    events: RefCell<Vec<EventKind>>,
    /// What came of the deliveries that they recorded.
    results: RefCell<Vec<DeliveryResult>>,
    /// The usage that was taken, by minute.
    minutes: RefCell<UsageByMinute>,
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

/// A state of the accumulator to return to.
#[derive(Clone, Copy)]
pub(in crate::store) struct UsageMark {
    used: usize,
    events: usize,
    results: usize,
}

impl UsageAccumulator {
    /// Adds usage.
    pub(in crate::store) fn add(&self, by: UsedBy, domain: Option<DomainName>, counts: UsageCounts) {
        self.used.borrow_mut().push((by, domain, counts));
    }

    /// Takes the usage, summed for each row, so that many messages of one tenant change a row once.
    pub(in crate::store) fn take_sums(&self) -> UsageSums {
        let mut sums = UsageSums::default();
        let mut minutes: BTreeMap<(TenantId, Environment, i64), UsageCounts> = BTreeMap::new();
        for (by, domain, counts) in self.used.take() {
            for interval in [UsageInterval::Hour, UsageInterval::Day] {
                let row = (by.tenant_id, interval, interval.start_of(by.at), by.environment);
                *sums.intervals.entry(row).or_default() += counts;
            }
            let day = UsageInterval::Day.start_of(by.at);
            let row = (by.tenant_id, day, by.environment, by.key_id, domain);
            *sums.parts.entry(row).or_default() += counts;
            // Minutes have no API requests.
            let mail = UsageCounts { api_requests: 0, ..counts };
            if mail != UsageCounts::default() {
                let minute = (by.tenant_id, by.environment, by.at.as_second().div_euclid(60));
                *minutes.entry(minute).or_default() += mail;
            }
        }
        let minutes = minutes.into_iter().map(|((tenant, environment, minute), counts)| {
            let start = Timestamp::from_second(minute * 60).unwrap_or(Timestamp::MIN);
            (tenant, environment, start, counts)
        });
        self.minutes.replace(minutes.collect());
        sums
    }

    /// Takes the usage of the last sums, by minute.
    pub(in crate::store) fn take_minutes(&self) -> UsageByMinute {
        self.minutes.take()
    }

    /// The current state.
    pub(in crate::store) fn mark(&self) -> UsageMark {
        UsageMark {
            used: self.used.borrow().len(),
            events: self.events.borrow().len(),
            results: self.results.borrow().len(),
        }
    }

    /// Removes the usage of a failed job.
    pub(in crate::store) fn truncate(&self, mark: UsageMark) {
        self.used.borrow_mut().truncate(mark.used);
        self.events.borrow_mut().truncate(mark.events);
        self.results.borrow_mut().truncate(mark.results);
    }

    /// Adds an event.
    pub(in crate::store) fn note_event(&self, kind: EventKind) {
        self.events.borrow_mut().push(kind);
    }

    /// Takes the events.
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
