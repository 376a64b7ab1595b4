//! When addresses were last suppressed. Mail that was accepted long enough after that was checked at acceptance, so the relay
//! needs no query before it sends it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::TenantId;

/// Maximum of owners with a time of their own. Beyond it, all share one.
const OWNERS_MAX: usize = 10_000;
/// The longest time between the check of a recipient at RCPT and the acceptance of the message. `config` limits
/// `smtp.session_timeout` to it.
const CHECKED_BEFORE_MAX: SignedDuration = SignedDuration::from_hours(1);

/// See [`Directory::may_have_suppressed_since`](crate::store::Directory::may_have_suppressed_since). Clones share the times.
#[derive(Debug, Clone)]
pub(in crate::store) struct SuppressionTimes(Arc<Mutex<Times>>);

#[derive(Debug)]
struct Times {
    /// Mail that was accepted until then has to be checked.
    everyone: Timestamp,
    owners: HashMap<Option<TenantId>, Timestamp>,
}

impl SuppressionTimes {
    /// Suppressions until `opened_at` are unknown.
    pub(in crate::store) fn new(opened_at: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Times { everyone: opened_at, owners: HashMap::new() })))
    }

    /// Notes that a tenant, or the platform, suppresses an address. Called before the commit, so nobody can see a
    /// suppression that is not noted.
    pub(in crate::store) fn note(&self, owner: Option<TenantId>, at: Timestamp) {
        let until = at.checked_add(CHECKED_BEFORE_MAX).unwrap_or(Timestamp::MAX);
        let mut times = self.0.lock();
        let noted = times.owners.entry(owner).or_insert(until);
        *noted = until.max(*noted);
        if times.owners.len() > OWNERS_MAX {
            let latest = times.owners.values().copied().max().unwrap_or(until);
            *times = Times { everyone: latest.max(times.everyone), owners: HashMap::new() };
        }
    }

    pub(in crate::store) fn may_concern(&self, tenant: TenantId, accepted_at: Timestamp) -> bool {
        let times = self.0.lock();
        let of = |owner| times.owners.get(&owner).is_some_and(|until| accepted_at <= *until);
        accepted_at <= times.everyone || of(Some(tenant)) || of(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mail_that_may_have_been_checked_before_a_suppression_of_its_tenant_or_the_platform_is_concerned()
    {
        let at = |hours| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        let (tenant, other) = (TenantId::generate(at(0)), TenantId::generate(at(0)));
        let times = SuppressionTimes::new(at(1));
        assert!(times.may_concern(tenant, at(1)) && !times.may_concern(tenant, at(2)));
        times.note(Some(tenant), at(4));
        assert!(times.may_concern(tenant, at(5)) && !times.may_concern(tenant, at(6)));
        assert!(!times.may_concern(other, at(5)));
        times.note(None, at(9));
        assert!(times.may_concern(other, at(10)) && !times.may_concern(other, at(11)));
    }

    #[test]
    fn the_number_of_owners_is_limited_and_none_is_forgotten() {
        let times = SuppressionTimes::new(Timestamp::UNIX_EPOCH);
        let at = Timestamp::from_second(1).unwrap();
        let first = TenantId::generate(at);
        times.note(Some(first), at);
        for _ in 0..OWNERS_MAX + 10 {
            times.note(Some(TenantId::generate(at)), at);
        }
        assert!(times.0.lock().owners.len() <= OWNERS_MAX);
        assert!(times.may_concern(first, at));
    }
}
