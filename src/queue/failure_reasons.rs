//! Why deliveries failed lately: counts by site, class and outcome, with the last reply. In memory.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::mail::Timestamp;
use crate::model::{BounceClass, DeliveryState, TenantId};

/// Minutes that are kept, besides the present one.
const MINUTES_MAX: u32 = 60;
/// Keys of the platform.
const KEYS_MAX: usize = 1000;
/// Keys of one tenant.
const KEYS_OF_TENANT_MAX: usize = 32;
const TENANTS_MAX: usize = 2000;
const REPLY_OCTETS_MAX: usize = 300;

/// What deliveries failed with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FailureKey {
    /// The site, or the host of a smart host.
    pub site: String,
    /// The class of the reply.
    pub class: Option<BounceClass>,
    /// Deferred, bounced or expired.
    pub outcome: DeliveryState,
}

/// How often it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureReason {
    /// What.
    pub key: FailureKey,
    /// Deliveries in the window.
    pub count: u64,
    /// The last reply, shortened.
    pub last_reply: String,
    /// When.
    pub last_at: Timestamp,
}

#[derive(Debug)]
struct Record {
    /// The minutes with failures and their counts, in order.
    minutes: VecDeque<(u32, u32)>,
    last_reply: String,
    last_at: Timestamp,
}

type Records = HashMap<FailureKey, Record>;
/// Those of each tenant, with the time of its last failure.
type RecordsByTenant = HashMap<TenantId, (Timestamp, Records)>;

/// The failures of the last hour: of all tenants together, and of each.
#[derive(Debug, Default)]
pub struct FailureReasons(Mutex<(Records, RecordsByTenant)>);

impl FailureReasons {
    /// Counts a delivery that did not succeed.
    pub fn note(&self, tenant: TenantId, key: FailureKey, reply: &str, now: Timestamp) {
        let mut all = self.0.lock();
        let (of_all, of_tenants) = &mut *all;
        note(of_all, KEYS_MAX, key.clone(), reply, now);
        if of_tenants.len() >= TENANTS_MAX && !of_tenants.contains_key(&tenant) {
            let oldest = of_tenants.iter().min_by_key(|(_, (last_at, _))| *last_at).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                of_tenants.remove(&oldest);
            }
        }
        let (last_at, records) = of_tenants.entry(tenant).or_insert_with(|| (now, Records::new()));
        *last_at = now;
        note(records, KEYS_OF_TENANT_MAX, key, reply, now);
    }

    /// The failures of the last minutes, at most 60; the most frequent first.
    pub fn read(&self, tenant: Option<TenantId>, minutes: u32, now: Timestamp) -> Vec<FailureReason> {
        let all = self.0.lock();
        let none = Records::new();
        let of_tenant = |tenant| all.1.get(&tenant).map_or(&none, |(_, records)| records);
        let records = tenant.map_or(&all.0, of_tenant);
        let first = minute_of(now).saturating_sub(minutes);
        let reason = |(key, record): (&FailureKey, &Record)| {
            let counted = record.minutes.iter().filter(|(minute, _)| *minute >= first);
            let count = counted.map(|(_, count)| u64::from(*count)).sum();
            let (last_reply, last_at) = (record.last_reply.clone(), record.last_at);
            (count > 0).then(|| FailureReason { key: key.clone(), count, last_reply, last_at })
        };
        let mut reasons: Vec<_> = records.iter().filter_map(reason).collect();
        reasons.sort_by(|a, b| (b.count, &a.key).cmp(&(a.count, &b.key)));
        reasons
    }
}

fn note(records: &mut Records, max: usize, key: FailureKey, reply: &str, now: Timestamp) {
    if records.len() >= max && !records.contains_key(&key) {
        let oldest = records.iter().min_by_key(|(_, record)| record.last_at).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            records.remove(&oldest);
        }
    }
    let minute = minute_of(now);
    let fresh = || Record { minutes: VecDeque::new(), last_reply: String::new(), last_at: now };
    let record = records.entry(key).or_insert_with(fresh);
    match record.minutes.back_mut() {
        // A result may be recorded a little after one of a later minute.
        Some((last, count)) if *last >= minute => *count = count.saturating_add(1),
        _ => record.minutes.push_back((minute, 1)),
    }
    while record.minutes.front().is_some_and(|(oldest, _)| minute.saturating_sub(*oldest) > MINUTES_MAX) {
        record.minutes.pop_front();
    }
    record.last_reply = reply[..reply.floor_char_boundary(REPLY_OCTETS_MAX)].to_owned();
    record.last_at = now;
}

fn minute_of(time: Timestamp) -> u32 {
    u32::try_from(time.as_second() / 60).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_key_and_tenant_and_end_after_an_hour() {
        let reasons = FailureReasons::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = |site: &str| FailureKey {
            site: site.into(),
            class: Some(BounceClass::Network),
            outcome: DeliveryState::Deferred,
        };
        let (a, b) = (TenantId::generate(at(1)), TenantId::generate(at(2)));
        reasons.note(a, key("x"), "421 one", at(10_000));
        reasons.note(b, key("x"), "421 two", at(10_400));
        let read = |tenant, minutes, now| {
            let found = reasons.read(tenant, minutes, at(now));
            found.into_iter().map(|one| (one.count, one.last_reply)).collect::<Vec<_>>()
        };
        assert_eq!(read(None, 60, 10_450), [(2, "421 two".to_owned())]);
        assert_eq!(read(None, 5, 10_450), [(1, "421 two".to_owned())]);
        assert_eq!(read(None, 5, 10_659), [(1, "421 two".to_owned())]);
        assert_eq!(read(None, 5, 10_740), Vec::<(u64, String)>::new());
        assert_eq!(read(Some(a), 60, 10_450), [(1, "421 one".to_owned())]);
        assert_eq!(read(None, 60, 14_040), Vec::<(u64, String)>::new());
    }

    #[test]
    fn a_tenant_cannot_displace_the_failures_of_another() {
        let reasons = FailureReasons::default();
        let now = Timestamp::from_second(1000).unwrap();
        let key = |number: usize| FailureKey {
            site: format!("s{number}"),
            class: None,
            outcome: DeliveryState::Bounced,
        };
        let (a, b) = (TenantId::generate(now), TenantId::generate(now));
        reasons.note(a, key(0), "550 no", now);
        (1..2 * KEYS_MAX).for_each(|number| reasons.note(b, key(number), "550 no", now));
        assert_eq!(reasons.read(Some(a), 60, now).len(), 1);
        assert_eq!(reasons.read(Some(b), 60, now).len(), KEYS_OF_TENANT_MAX);
        assert_eq!(reasons.read(None, 60, now).len(), KEYS_MAX);
    }

    #[test]
    fn beyond_the_maximum_the_tenant_that_has_had_no_failure_for_the_longest_time_gives_way() {
        let reasons = FailureReasons::default();
        let at = |second: usize| Timestamp::from_second(10_000 + second as i64).unwrap();
        let note = |tenant, second| {
            let key = FailureKey { site: "x".into(), class: None, outcome: DeliveryState::Bounced };
            reasons.note(tenant, key, "550 no", at(second));
        };
        let tenants: Vec<_> = (0..=TENANTS_MAX).map(|second| TenantId::generate(at(second))).collect();
        (0..TENANTS_MAX).for_each(|number| note(tenants[number], number));
        note(tenants[0], TENANTS_MAX);
        note(tenants[TENANTS_MAX], TENANTS_MAX);
        let is_known = |number: usize| !reasons.read(Some(tenants[number]), 60, at(TENANTS_MAX)).is_empty();
        assert_eq!([0, 1, 2, TENANTS_MAX].map(is_known), [true, false, true, true]);
    }
}
