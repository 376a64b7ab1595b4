//! Back-off of smart host accounts whose login was refused. Their mail waits without using up attempts, and single
//! attempts at growing intervals test the login. The state is in memory; after a restart the first refusal starts a new
//! back-off. Callers pass the time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use parking_lot::{Mutex, MutexGuard};

use crate::mail::{SignedDuration, Timestamp};
use crate::model::{QueueFilter, TenantId};

/// The wait after the first refusal; each further one doubles it.
const WAIT_MIN: SignedDuration = SignedDuration::from_mins(1);
const WAIT_MAX: SignedDuration = SignedDuration::from_mins(15);
/// Maximum of parts of the queue that show the back-off as their wait reason and are flushed when it ends. The mail of other
/// parts waits for its next attempt.
const SUBJECTS_MAX: usize = 1000;
/// How long a back-off is kept after its end if no mail is sent to the account.
const UNUSED_LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// A login at a smart host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SmartHostAccount {
    /// The owner; `None` is the platform.
    pub tenant: Option<TenantId>,
    /// Host and port.
    pub host: String,
    /// The user name.
    pub user: String,
    /// The revision of its password.
    pub password_revision: u32,
}

/// The back-off of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHostBackoff {
    /// The account.
    pub account: SmartHostAccount,
    /// The host's reply.
    pub reason: String,
    /// When the login was first refused.
    pub since: Timestamp,
    /// When the next attempt is allowed.
    pub until: Timestamp,
    /// The parts of the queue that wait for the account.
    pub subjects: HashSet<QueueFilter>,
}

struct BackoffState {
    reason: String,
    since: Timestamp,
    until: Timestamp,
    /// When the last wait began, and its length.
    refused_at: Timestamp,
    wait: SignedDuration,
    subjects: HashSet<QueueFilter>,
}

/// The back-offs of all accounts.
#[derive(Default)]
pub struct SmartHostBackoffs(Mutex<HashMap<SmartHostAccount, BackoffState>>);

impl SmartHostBackoffs {
    /// The active back-off of the account. After each wait one caller gets `None` and makes the next attempt; the
    /// others wait for its result.
    pub fn check(&self, account: &SmartHostAccount, now: Timestamp) -> Option<SmartHostBackoff> {
        let mut backoffs = self.lock();
        let state = backoffs.get_mut(account)?;
        // A wait that seems longer than the longest one began while the clock was ahead.
        if now >= state.until || state.until > now + WAIT_MAX {
            state.until = now + WAIT_MIN;
            return None;
        }
        Some(state.backoff(account))
    }

    /// Records a refused login. Returns the back-off, and whether it is new.
    pub fn record_refusal(
        &self,
        account: &SmartHostAccount,
        reason: &str,
        now: Timestamp,
    ) -> (SmartHostBackoff, bool) {
        let mut backoffs = self.lock();
        backoffs.retain(|_, state| state.until + UNUSED_LIFETIME > now);
        match backoffs.entry(account.clone()) {
            Entry::Vacant(vacant) => {
                let state = BackoffState {
                    reason: reason.to_owned(),
                    since: now,
                    until: now + WAIT_MIN,
                    refused_at: now,
                    wait: WAIT_MIN,
                    subjects: HashSet::new(),
                };
                (vacant.insert(state).backoff(account), true)
            }
            Entry::Occupied(mut occupied) => {
                let state = occupied.get_mut();
                // An attempt that began before the current wait does not extend it.
                if state.refused_at + state.wait <= now || state.refused_at > now {
                    state.refused_at = now;
                    state.wait = (state.wait * 2).min(WAIT_MAX);
                    state.until = now + state.wait;
                    reason.clone_into(&mut state.reason);
                }
                (state.backoff(account), false)
            }
        }
    }

    /// Records an accepted login. Returns the back-off that ends.
    pub fn record_success(&self, account: &SmartHostAccount) -> Option<SmartHostBackoff> {
        Some(self.lock().remove(account)?.backoff(account))
    }

    /// Ends the back-offs of a tenant's accounts other than its current one, if any.
    pub fn end_outdated(
        &self,
        tenant: TenantId,
        current: Option<&SmartHostAccount>,
    ) -> Vec<SmartHostBackoff> {
        let mut backoffs = self.lock();
        let is_outdated =
            |account: &SmartHostAccount| account.tenant == Some(tenant) && Some(account) != current;
        let outdated: Vec<SmartHostAccount> =
            backoffs.keys().filter(|account| is_outdated(account)).cloned().collect();
        outdated.iter().filter_map(|account| Some(backoffs.remove(account)?.backoff(account))).collect()
    }

    /// Adds a part of the queue that waits for the account. False if there are too many.
    pub fn add_subject(&self, account: &SmartHostAccount, subject: &QueueFilter) -> bool {
        let mut backoffs = self.lock();
        let Some(state) = backoffs.get_mut(account) else { return false };
        if !state.subjects.contains(subject) {
            if state.subjects.len() >= SUBJECTS_MAX {
                return false;
            }
            state.subjects.insert(subject.clone());
        }
        true
    }

    /// Whether no account has a back-off.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SmartHostAccount, BackoffState>> {
        self.0.lock()
    }
}

impl BackoffState {
    fn backoff(&self, account: &SmartHostAccount) -> SmartHostBackoff {
        SmartHostBackoff {
            account: account.clone(),
            reason: self.reason.clone(),
            since: self.since,
            until: self.until,
            subjects: self.subjects.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Host;

    fn account(tenant: Option<TenantId>, password_revision: u32) -> SmartHostAccount {
        SmartHostAccount { tenant, host: "h.example:587".into(), user: "u".into(), password_revision }
    }

    fn minute(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minutes * 60).unwrap()
    }

    #[test]
    fn waits_grow_with_each_refused_attempt() {
        let (backoffs, account) = (SmartHostBackoffs::default(), account(None, 1));
        assert_eq!(backoffs.check(&account, minute(0)), None);
        let (backoff, begins) = backoffs.record_refusal(&account, "535 no", minute(0));
        assert!(begins && backoff.until == minute(1) && backoff.reason == "535 no");
        // From an attempt that ran at the same time.
        assert!(!backoffs.record_refusal(&account, "535 no", minute(0)).1);
        let mut now = backoff.until;
        for wait in [2, 4, 8, 15, 15] {
            assert_eq!(backoffs.check(&account, now), None, "one may make an attempt");
            assert!(backoffs.check(&account, now).is_some(), "and no second one");
            let (backoff, begins) = backoffs.record_refusal(&account, "535 still", now);
            assert!(!begins && backoff.until == now + SignedDuration::from_mins(wait), "{wait}: {backoff:?}");
            now = backoff.until;
        }
        assert_eq!(backoffs.record_success(&account).map(|backoff| backoff.since), Some(minute(0)));
        assert!(backoffs.record_success(&account).is_none() && backoffs.check(&account, now).is_none());
    }

    #[test]
    fn a_back_off_that_began_while_the_clock_was_ahead_ends_when_it_is_set_right() {
        let (backoffs, account) = (SmartHostBackoffs::default(), account(None, 1));
        backoffs.record_refusal(&account, "535 no", minute(500_000));
        assert_eq!(backoffs.check(&account, minute(0)), None, "one may make an attempt");
        assert!(backoffs.check(&account, minute(0)).is_some());
        let (backoff, begins) = backoffs.record_refusal(&account, "535 no", minute(0));
        assert!(!begins && backoff.until <= minute(15), "{backoff:?}");
    }

    #[test]
    fn parts_of_the_queue_beyond_the_limit_are_not_added() {
        let (backoffs, account) = (SmartHostBackoffs::default(), account(None, 1));
        let part =
            |number: usize| QueueFilter::destination(Host::parse(&format!("d{number}.example")).unwrap());
        assert!(!backoffs.add_subject(&account, &part(0)), "there is no back-off");
        backoffs.record_refusal(&account, "535 no", minute(0));
        assert!((0..SUBJECTS_MAX).all(|number| backoffs.add_subject(&account, &part(number))));
        assert!(
            backoffs.add_subject(&account, &part(3)) && !backoffs.add_subject(&account, &part(SUBJECTS_MAX))
        );
    }

    #[test]
    fn an_attempt_without_a_result_is_followed_by_another() {
        let (backoffs, account) = (SmartHostBackoffs::default(), account(None, 1));
        backoffs.record_refusal(&account, "535 no", minute(0));
        assert_eq!(backoffs.check(&account, minute(1)), None);
        assert_eq!(backoffs.check(&account, minute(1)).map(|backoff| backoff.until), Some(minute(2)));
        assert_eq!(backoffs.check(&account, minute(2)), None);
    }

    #[test]
    fn another_password_is_another_account_and_ends_the_back_off_of_the_old_one() {
        let tenant = TenantId::generate(minute(0));
        let (backoffs, old, new) =
            (SmartHostBackoffs::default(), account(Some(tenant), 1), account(Some(tenant), 2));
        backoffs.record_refusal(&old, "535 no", minute(0));
        backoffs.record_refusal(&account(None, 1), "535 no", minute(0));
        assert!(backoffs.end_outdated(tenant, Some(&old)).is_empty());
        assert_eq!(backoffs.check(&new, minute(0)), None);
        let ended = backoffs.end_outdated(tenant, Some(&new));
        assert_eq!(ended.into_iter().map(|backoff| backoff.account).collect::<Vec<_>>(), [old]);
        assert!(!backoffs.is_empty(), "the platform's remains");
    }

    #[test]
    fn an_unused_back_off_is_removed() {
        let (backoffs, first) = (SmartHostBackoffs::default(), account(None, 1));
        backoffs.record_refusal(&first, "535 no", minute(0));
        backoffs.record_refusal(&account(None, 2), "535 no", minute(62));
        assert!(
            backoffs.record_success(&first).is_none() && backoffs.record_success(&account(None, 2)).is_some()
        );
    }
}
