//! Accounts at smart hosts that were refused: mail for them waits instead of being burnt, and one try after another
//! looks whether the login is taken again. Kept in memory, so forgotten by a restart, after which the first refusal
//! begins it anew. The time is an argument.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mail::{SignedDuration, Timestamp};
use crate::model::QueueFilter;
use crate::model::TenantId;

/// After the first refusal; each one after it twice as long as the one before.
const WAIT_FIRST: SignedDuration = SignedDuration::from_mins(1);
const WAIT_MAX: SignedDuration = SignedDuration::from_mins(15);
/// Subjects of notices that are remembered of one hold, to be lifted with it; others end with their time.
const SUBJECTS_MAX: usize = 1000;
/// A hold that nothing has asked about for so long after its end is forgotten: nothing waits for it any more.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// A login at a smart host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SmartHostAccount {
    /// Whose it is; `None` is the platform's.
    pub tenant: Option<TenantId>,
    /// Host and port.
    pub host: String,
    /// The user name.
    pub user: String,
    /// Which of its passwords.
    pub password_revision: u32,
}

/// An account whose mail waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmartHostBackoff {
    /// Which.
    pub account: SmartHostAccount,
    /// What the host said.
    pub reason: String,
    /// When it said so first.
    pub since: Timestamp,
    /// When the next try is.
    pub until: Timestamp,
    /// What the board has a notice of.
    pub subjects: HashSet<QueueFilter>,
}

struct State {
    reason: String,
    since: Timestamp,
    until: Timestamp,
    /// When the last wait began, and how long it was to be.
    refused_at: Timestamp,
    wait: SignedDuration,
    subjects: HashSet<QueueFilter>,
}

/// All of them.
#[derive(Default)]
pub struct SmartHostBackoffs(Mutex<HashMap<SmartHostAccount, State>>);

impl SmartHostBackoffs {
    /// Whether mail for the account has to wait. Who is told that it has not, while there is a hold, is the one that
    /// tries: others wait until it is known what came of it.
    pub fn ask(&self, account: &SmartHostAccount, now: Timestamp) -> Option<SmartHostBackoff> {
        let mut holds = self.lock();
        let state = holds.get_mut(account)?;
        if now >= state.until {
            state.until = now + WAIT_FIRST;
            return None;
        }
        Some(state.hold(account))
    }

    /// The account was refused. Answers the hold, and whether it begins.
    pub fn refuse(
        &self,
        account: &SmartHostAccount,
        reason: &str,
        now: Timestamp,
    ) -> (SmartHostBackoff, bool) {
        let mut holds = self.lock();
        holds.retain(|_, state| state.until + MEMORY > now);
        match holds.entry(account.clone()) {
            Entry::Vacant(vacant) => {
                let state = State {
                    reason: reason.to_owned(),
                    since: now,
                    until: now + WAIT_FIRST,
                    refused_at: now,
                    wait: WAIT_FIRST,
                    subjects: HashSet::new(),
                };
                (vacant.insert(state).hold(account), true)
            }
            Entry::Occupied(mut occupied) => {
                let state = occupied.get_mut();
                // What was under way when the wait began proves nothing new.
                if state.refused_at + state.wait <= now {
                    state.refused_at = now;
                    state.wait = (state.wait * 2).min(WAIT_MAX);
                    state.until = now + state.wait;
                    reason.clone_into(&mut state.reason);
                }
                (state.hold(account), false)
            }
        }
    }

    /// The account was taken. Answers the hold that there was.
    pub fn accept(&self, account: &SmartHostAccount) -> Option<SmartHostBackoff> {
        Some(self.lock().remove(account)?.hold(account))
    }

    /// This is a tenant's account now, or it has none: holds of any other end.
    pub fn settle(&self, tenant: TenantId, current: Option<&SmartHostAccount>) -> Vec<SmartHostBackoff> {
        let mut holds = self.lock();
        let is_past = |account: &SmartHostAccount| account.tenant == Some(tenant) && Some(account) != current;
        let past: Vec<SmartHostAccount> = holds.keys().filter(|account| is_past(account)).cloned().collect();
        past.iter().filter_map(|account| Some(holds.remove(account)?.hold(account))).collect()
    }

    /// The board has a notice of this subject because of the account.
    pub fn note(&self, account: &SmartHostAccount, subject: QueueFilter) {
        if let Some(state) = self.lock().get_mut(account)
            && state.subjects.len() < SUBJECTS_MAX
        {
            state.subjects.insert(subject);
        }
    }

    /// Whether there is none: then nothing else need be asked.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SmartHostAccount, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&self, account: &SmartHostAccount) -> SmartHostBackoff {
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

    fn account(tenant: Option<TenantId>, password_revision: u32) -> SmartHostAccount {
        SmartHostAccount { tenant, host: "h.example:587".into(), user: "u".into(), password_revision }
    }

    fn minute(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minutes * 60).unwrap()
    }

    #[test]
    fn waits_grow_from_one_refused_try_to_the_next() {
        let (holds, account) = (SmartHostBackoffs::default(), account(None, 1));
        assert_eq!(holds.ask(&account, minute(0)), None);
        let (hold, begins) = holds.refuse(&account, "535 no", minute(0));
        assert!(begins && hold.until == minute(1) && hold.reason == "535 no");
        // What was under way at the same time.
        assert!(!holds.refuse(&account, "535 no", minute(0)).1);
        let mut now = hold.until;
        for wait in [2, 4, 8, 15, 15] {
            assert_eq!(holds.ask(&account, now), None, "one may try");
            assert!(holds.ask(&account, now).is_some(), "and no second one");
            let (hold, begins) = holds.refuse(&account, "535 still", now);
            assert!(!begins && hold.until == now + SignedDuration::from_mins(wait), "{wait}: {hold:?}");
            now = hold.until;
        }
        assert_eq!(holds.accept(&account).map(|hold| hold.since), Some(minute(0)));
        assert!(holds.accept(&account).is_none() && holds.ask(&account, now).is_none());
    }

    #[test]
    fn a_try_that_settles_nothing_is_followed_by_another() {
        let (holds, account) = (SmartHostBackoffs::default(), account(None, 1));
        holds.refuse(&account, "535 no", minute(0));
        assert_eq!(holds.ask(&account, minute(1)), None);
        assert_eq!(holds.ask(&account, minute(1)).map(|hold| hold.until), Some(minute(2)));
        assert_eq!(holds.ask(&account, minute(2)), None);
    }

    #[test]
    fn another_password_is_another_account_and_ends_the_hold_of_the_old_one() {
        let tenant = TenantId::generate(minute(0));
        let (holds, old, new) =
            (SmartHostBackoffs::default(), account(Some(tenant), 1), account(Some(tenant), 2));
        holds.refuse(&old, "535 no", minute(0));
        holds.refuse(&account(None, 1), "535 no", minute(0));
        assert!(holds.settle(tenant, Some(&old)).is_empty());
        assert_eq!(holds.ask(&new, minute(0)), None);
        let ended = holds.settle(tenant, Some(&new));
        assert_eq!(ended.into_iter().map(|hold| hold.account).collect::<Vec<_>>(), [old]);
        assert!(!holds.is_empty(), "nobody else's");
    }

    #[test]
    fn what_nothing_waits_for_is_forgotten() {
        let (holds, first) = (SmartHostBackoffs::default(), account(None, 1));
        holds.refuse(&first, "535 no", minute(0));
        holds.refuse(&account(None, 2), "535 no", minute(62));
        assert!(holds.accept(&first).is_none() && holds.accept(&account(None, 2)).is_some());
    }
}
