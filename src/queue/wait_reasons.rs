//! Why mail waits, where only the queue manager or a delivery agent knows it. The API reads it from the snapshot. What
//! the store knows itself (pauses, suspensions, times of the next attempt) is not recorded here.
//!
//! A record is about a part of the queue. It ends at its time or when it is removed. It is in memory only: what holds
//! after a restart is recorded anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mail::Timestamp;
use crate::model::{QueueFilter, TenantId, WaitReason};

/// Records kept; more are not taken, for nobody reads so many.
const RECORDS_MAX: usize = 10_000;

/// Why something waits, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitRecord {
    /// For programs.
    pub reason: WaitReason,
    /// For people: one line, no secret.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
    /// `None` if that is not known.
    pub until: Option<Timestamp>,
}

/// The reasons that hold. One record for each part and reason.
#[derive(Debug, Default)]
pub struct WaitRegistry(Mutex<HashMap<(QueueFilter, WaitReason), WaitRecord>>);

impl WaitRegistry {
    /// Adds a record in the place of an earlier one with the same part and reason, whose beginning it keeps.
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

    /// What holds at a time, in no order.
    pub fn records(&self, now: Timestamp) -> Vec<(QueueFilter, WaitRecord)> {
        let records = self.lock();
        let holding = records.iter().filter(|(_, record)| record.is_valid_at(now));
        holding.map(|((part, _), record)| (part.clone(), record.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(QueueFilter, WaitReason), WaitRecord>> {
        // Each change is one step of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A site, or a smart host, that is in use, waited for, or left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteStatus {
    /// The site's name, or the smart host's.
    pub name: String,
    /// Whose smart host it is, or whose sandbox; `None` for what all tenants share.
    pub tenant_id: Option<TenantId>,
    /// Domains that are known to be there, in order; at most a hundred are named.
    pub domains: Vec<String>,
    /// Connections that it may have now.
    pub connections_max: usize,
    /// Connections that it has.
    pub connections: usize,
    /// Deliveries that the relay has claimed and that wait for a connection.
    pub waiting: usize,
    /// Nothing is sent before this time.
    pub backoff_until: Option<Timestamp>,
    /// Why: the reply, or what happened.
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
