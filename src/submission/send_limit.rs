//! Send limits of tenants per minute and day, in recipients, separately for live and test mail.
//!
//! MAIL and RCPT only check, so that a client is refused early and keeps the recipients that fit. The message is
//! counted in one step before it is stored, and released if it is not stored, so concurrent sessions of a tenant
//! never exceed its limit. The count of a day starts with the usage in the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::Timestamp;
use crate::model::{Environment, LimitPeriod, Refusal, RefusalCode, TenantId, UsageInterval};
use crate::policy::fixed_window::{FixedWindow, QuotaStatus};
use crate::store::{Ledger, LimitLevel, LimitWarning, RateLimit, Store, StoreError, Tenant};

/// Percentage of a limit at which the tenant is warned.
const APPROACHING_PERCENT: u64 = 80;
/// Maximum of remembered warnings; beyond it, expired ones are removed.
const WARNINGS_MAX: usize = 10_000;

/// Limits are counted per tenant and environment.
type Account = (TenantId, Environment);

/// The send limits of all tenants and their usage.
pub struct SendLimits {
    store: Arc<Store>,
    spent: Mutex<Spent>,
}

struct Spent {
    minute: FixedWindow<Account>,
    day: FixedWindow<Account>,
    /// The last warning of each limit, and the end of its period.
    warned: HashMap<(Account, LimitPeriod), (Timestamp, LimitLevel)>,
}

/// The account, limits and time of a submission.
#[derive(Debug, Clone, Copy)]
pub struct QuotaRequest {
    account: Account,
    limits: RateLimit,
    at: Timestamp,
}

/// Recipients counted for a message; released on drop unless confirmed by [`QuotaReservation::confirm`].
#[must_use]
pub struct QuotaReservation<'a> {
    of: &'a SendLimits,
    wish: QuotaRequest,
    count: u64,
}

/// Recipients that remain counted.
pub struct ConfirmedQuota {
    wish: QuotaRequest,
    count: u64,
}

impl QuotaRequest {
    /// The current limits of a tenant.
    pub fn new(tenant: &Tenant, environment: Environment, at: Timestamp) -> Self {
        Self { account: (tenant.id, environment), limits: tenant.rate_limit, at }
    }

    /// Whether any limit applies.
    pub fn is_limited(&self) -> bool {
        self.limits().next().is_some()
    }

    /// The limits that apply, the longest period first.
    fn limits(&self) -> impl Iterator<Item = (LimitPeriod, u64)> + use<> {
        let RateLimit { emails_per_day, emails_per_minute, .. } = self.limits;
        let limits = [(LimitPeriod::Day, emails_per_day), (LimitPeriod::Minute, emails_per_minute)];
        limits.into_iter().filter_map(|(period, limit)| Some((period, limit?.into())))
    }
}

impl SendLimits {
    /// No usage yet.
    pub fn new(store: Arc<Store>) -> Self {
        let spent = Spent {
            minute: FixedWindow::new(LimitPeriod::Minute),
            day: FixedWindow::new(LimitPeriod::Day),
            warned: HashMap::new(),
        };
        Self { store, spent: Mutex::new(spent) }
    }

    /// Whether the limits allow this many recipients; counts nothing. The outer error is the store's.
    pub async fn check(&self, wish: &QuotaRequest, count: u64) -> Result<Result<(), Refusal>, StoreError> {
        self.learn(wish).await?;
        Ok(self.look(&mut self.lock(), wish, count))
    }

    /// Counts the recipients of a message, if the limits allow all of them.
    pub async fn take(
        &self,
        wish: QuotaRequest,
        count: u64,
    ) -> Result<Result<QuotaReservation<'_>, Refusal>, StoreError> {
        self.learn(&wish).await?;
        let mut spent = self.lock();
        if let Err(refusal) = self.look(&mut spent, &wish, count) {
            return Ok(Err(refusal));
        }
        if wish.limits.emails_per_day.is_none() {
            // From now on the count is incomplete; a new limit loads it from the store again.
            spent.day.forget(&wish.account);
        }
        for (period, limit) in wish.limits() {
            spent.of(period).take(wish.account, count, wish.at);
            let standing = spent.of(period).standing(&wish.account, limit, wish.at);
            if standing.remaining() == 0 {
                self.warn(&mut spent, &wish, (period, standing), LimitLevel::Exceeded);
            } else if standing.percent() >= APPROACHING_PERCENT {
                self.warn(&mut spent, &wish, (period, standing), LimitLevel::Approaching);
            }
        }
        Ok(Ok(QuotaReservation { of: self, wish, count }))
    }

    /// Releases the quota of a message that was not stored.
    pub fn give_back(&self, kept: &ConfirmedQuota) {
        let mut spent = self.lock();
        for (period, _) in kept.wish.limits() {
            spent.of(period).give_back(&kept.wish.account, kept.count, kept.wish.at);
        }
    }

    /// The limit with the least remaining quota; `None` without a limit.
    pub async fn standing(&self, wish: &QuotaRequest) -> Result<Option<QuotaStatus>, StoreError> {
        self.learn(wish).await?;
        let mut spent = self.lock();
        let standings =
            wish.limits().map(|(period, limit)| spent.of(period).standing(&wish.account, limit, wish.at));
        Ok(standings.min_by_key(QuotaStatus::remaining))
    }

    /// Loads the usage of the day from the store once. Nothing is counted before, so the loaded value is complete.
    async fn learn(&self, wish: &QuotaRequest) -> Result<(), StoreError> {
        if wish.limits.emails_per_day.is_none() || self.lock().day.knows(&wish.account, wish.at) {
            return Ok(());
        }
        let (tenant, environment) = wish.account;
        let (from, to) = (LimitPeriod::Day.start_of(wish.at), LimitPeriod::Day.end_of(wish.at));
        let days = self.store.usage(tenant, UsageInterval::Day, from, to).await?;
        let sent = days.iter().find(|day| day.environment == environment).map_or(0, |day| day.counts.sent);
        self.lock().day.learn(wish.account, sent, wish.at);
        Ok(())
    }

    fn look(&self, spent: &mut Spent, wish: &QuotaRequest, count: u64) -> Result<(), Refusal> {
        for (period, limit) in wish.limits() {
            let standing = spent.of(period).standing(&wish.account, limit, wish.at);
            if standing.remaining() < count {
                self.warn(spent, wish, (period, standing), LimitLevel::Exceeded);
                return Err(refuse(period, standing, count));
            }
        }
        Ok(())
    }

    /// Warns the tenant, once per period and level.
    fn warn(
        &self,
        spent: &mut Spent,
        wish: &QuotaRequest,
        of: (LimitPeriod, QuotaStatus),
        level: LimitLevel,
    ) {
        let (period, QuotaStatus { limit, used, resets_at }) = of;
        let told = spent.warned.get(&(wish.account, period));
        if told.is_some_and(|&(until, earlier)| until == resets_at && earlier >= level) {
            return;
        }
        if spent.warned.len() >= WARNINGS_MAX {
            spent.warned.retain(|_, (until, _)| *until > wish.at);
        }
        spent.warned.insert((wish.account, period), (resets_at, level));
        let (tenant_id, environment) = wish.account;
        let at = wish.at;
        let warning = LimitWarning { tenant_id, level, environment, period, limit, used, resets_at, at };
        self.store.warn_of_limit(warning);
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    fn of(&mut self, period: LimitPeriod) -> &mut FixedWindow<Account> {
        match period {
            LimitPeriod::Minute => &mut self.minute,
            LimitPeriod::Day => &mut self.day,
        }
    }
}

impl QuotaReservation<'_> {
    /// Confirms the quota: the message will be stored even if the caller is cancelled.
    pub fn keep(mut self) -> ConfirmedQuota {
        ConfirmedQuota { wish: self.wish, count: std::mem::take(&mut self.count) }
    }
}

impl Drop for QuotaReservation<'_> {
    fn drop(&mut self) {
        self.of.give_back(&ConfirmedQuota { wish: self.wish, count: self.count });
    }
}

fn refuse(period: LimitPeriod, standing: QuotaStatus, count: u64) -> Refusal {
    let QuotaStatus { limit, used, resets_at } = standing;
    let code = match period {
        LimitPeriod::Minute => RefusalCode::SendLimitExceeded,
        LimitPeriod::Day => RefusalCode::DailySendLimitExceeded,
    };
    if count > limit {
        return Refusal::new(
            code,
            format!("{count} recipients exceed the send limit of {limit} recipients per {period}"),
            "send to fewer recipients at a time, or ask the operator to raise the limit",
        );
    }
    Refusal::new(
        code,
        format!("the send limit of {limit} recipients per {period} is reached: {used} are used"),
        format!(
            "try again after {resets_at}, when the {period} ends, or ask the operator to raise the limit"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    fn limits() -> (tempfile::TempDir, SendLimits) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::at(dir.path());
        (dir, SendLimits::new(Arc::new(Store::open(options).unwrap())))
    }

    fn wish(account: Account, per_day: Option<u32>, at: &str) -> QuotaRequest {
        let limits = RateLimit { emails_per_day: per_day, ..RateLimit::default() };
        QuotaRequest { account, limits, at: at.parse().unwrap() }
    }

    #[tokio::test]
    async fn what_is_not_written_is_given_back() {
        let (_dir, limits) = limits();
        let account = (TenantId::generate(Timestamp::UNIX_EPOCH), Environment::Live);
        let wish = wish(account, Some(10), "2026-11-22T12:00:00Z");
        let used = async || limits.standing(&wish).await.unwrap().unwrap().used;
        let dropped = limits.take(wish, 4).await.unwrap().unwrap();
        assert_eq!(used().await, 4);
        assert!(limits.take(wish, 7).await.unwrap().is_err(), "what is on its way counts");
        drop(dropped);
        assert_eq!(used().await, 0);
        let kept = limits.take(wish, 4).await.unwrap().unwrap().keep();
        assert_eq!(used().await, 4);
        limits.give_back(&kept);
        assert_eq!(used().await, 0);
    }

    #[tokio::test]
    async fn a_limit_that_was_lifted_for_a_while_does_not_remember_a_count_with_a_hole() {
        let (_dir, limits) = limits();
        let account = (TenantId::generate(Timestamp::UNIX_EPOCH), Environment::Live);
        let at = |per_day| wish(account, per_day, "2026-11-22T12:00:00Z");
        let _ = limits.take(at(Some(10)), 4).await.unwrap().unwrap().keep();
        let _ = limits.take(at(None), 100).await.unwrap().unwrap().keep();
        assert!(limits.standing(&at(None)).await.unwrap().is_none());
        let standing = limits.standing(&at(Some(10))).await.unwrap().unwrap();
        assert_eq!(standing.used, 0, "the store, which has seen none of this, is asked again");
    }
}
