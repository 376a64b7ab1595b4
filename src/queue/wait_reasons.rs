//! Reasons why mail waits that only the queue manager or a delivery agent knows. The API reads them from the snapshot.
//! Pauses, suspensions and times of the next attempt are in the store and not recorded here.
//!
//! A record is about a part of the queue. It ends at its time or when it is removed. Records are in memory only.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::mail::Timestamp;
use crate::model::{QueueFilter, TenantId, WaitReason};

/// Maximum of records; more are ignored.
const RECORDS_MAX: usize = 10_000;

/// Why a part of the queue waits, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitRecord {
    /// The code.
    pub reason: WaitReason,
    /// One line of text without secrets.
    pub detail: String,
    /// When it began.
    pub since: Timestamp,
    /// `None` if the end is unknown.
    pub until: Option<Timestamp>,
}

/// The current reasons: one record for each part and reason.
#[derive(Debug, Default)]
pub struct WaitRegistry(Mutex<HashMap<(QueueFilter, WaitReason), WaitRecord>>);

impl WaitRegistry {
    /// Adds a record. It replaces one with the same part and reason and keeps its beginning.
    pub fn post(&self, part: QueueFilter, record: WaitRecord, now: Timestamp) {
        let mut records = self.lock();
        if records.len() >= RECORDS_MAX {
            records.retain(|_, record| record.is_valid_at(now));
        }
        let key = (part, record.reason);
        let has_capacity = records.len() < RECORDS_MAX;
        match records.get_mut(&key) {
            Some(earlier) if earlier.is_valid_at(now) => {
                *earlier = WaitRecord { since: earlier.since, ..record }
            }
            Some(earlier) => *earlier = record,
            None if has_capacity => drop(records.insert(key, record)),
            None => {}
        }
    }

    /// Removes a record.
    pub fn lift(&self, part: &QueueFilter, reason: WaitReason) {
        self.lock().remove(&(part.clone(), reason));
    }

    /// The valid records at a time, in no order.
    pub fn records(&self, now: Timestamp) -> Vec<(QueueFilter, WaitRecord)> {
        let records = self.lock();
        let holding = records.iter().filter(|(_, record)| record.is_valid_at(now));
        holding.map(|((part, _), record)| (part.clone(), record.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(QueueFilter, WaitReason), WaitRecord>> {
        // Each change is one step of the map.
        self.0.lock()
    }
}

/// A site or smart host with connections, waiting claims or a back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteStatus {
    /// The name of the site or smart host.
    pub name: String,
    /// The tenant of the smart host or sandbox; `None` if all tenants share it.
    pub tenant_id: Option<TenantId>,
    /// Known domains, in order, at most a hundred.
    pub domains: Vec<String>,
    /// The connection limit.
    pub connections_max: usize,
    /// Open connections.
    pub connections: usize,
    /// Claimed deliveries that wait for a connection.
    pub waiting: usize,
    /// The end of the back-off.
    pub backoff_until: Option<Timestamp>,
    /// The reason of the back-off: the reply or error.
    pub reason: Option<String>,
}

impl WaitRecord {
    fn is_valid_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Host;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn record(since: i64, until: Option<i64>) -> WaitRecord {
        WaitRecord {
            reason: WaitReason::SiteBackoff,
            detail: "421".into(),
            since: at(since),
            until: until.map(at),
        }
    }

    fn site(name: &str) -> QueueFilter {
        QueueFilter::destination(Host::parse(name).unwrap())
    }

    #[test]
    fn a_notice_ends_with_its_time_or_when_it_is_lifted() {
        let registry = WaitRegistry::default();
        registry.post(site("a.example"), record(1, Some(10)), at(1));
        registry.post(site("b.example"), record(1, None), at(1));
        assert_eq!(registry.records(at(9)).len(), 2);
        assert_eq!(registry.records(at(10)), [(site("b.example"), record(1, None))]);
        registry.lift(&site("b.example"), WaitReason::SiteBackoff);
        assert!(registry.records(at(10)).is_empty());
    }

    #[test]
    fn a_notice_that_is_posted_again_keeps_its_beginning_while_it_holds() {
        let registry = WaitRegistry::default();
        registry.post(site("a.example"), record(1, Some(10)), at(1));
        registry.post(site("a.example"), record(5, Some(20)), at(5));
        assert_eq!(registry.records(at(15)), [(site("a.example"), record(1, Some(20)))]);
        registry.post(site("a.example"), record(30, None), at(30));
        assert_eq!(registry.records(at(30)), [(site("a.example"), record(30, None))]);
    }

    #[test]
    fn the_board_is_limited_and_what_has_ended_makes_room() {
        let registry = WaitRegistry::default();
        for number in 0..RECORDS_MAX {
            registry.post(site(&format!("d{number}.example")), record(1, Some(10)), at(1));
        }
        registry.post(site("late.example"), record(1, None), at(1));
        assert_eq!(registry.records(at(1)).len(), RECORDS_MAX);
        registry.post(site("late.example"), record(11, None), at(11));
        assert_eq!(registry.records(at(11)).len(), 1);
    }
}
