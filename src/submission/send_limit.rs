//! How much tenants may send in a minute and in a day, counted in recipients, for live and test mail apart.
//!
//! At MAIL and RCPT only a look is taken, so that a client hears early and keeps the recipients for which there is
//! room. What counts is taken in one step before the message is written, and given back if it is not: so the
//! sessions of a tenant together never pass its limit. The count of a day begins with what the store knows of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::mail::Timestamp;
use crate::model::{Environment, LimitPeriod, Refusal, RefusalCode, TenantId, UsageInterval};
use crate::policy::fixed_window::{FixedWindow, QuotaStatus};
use crate::store::{Ledger, LimitLevel, LimitWarning, RateLimit, Store, StoreError, Tenant};

/// Percent of a limit at which the tenant is told.
const APPROACHING_PERCENT: u64 = 80;
/// Warnings remembered; more are forgotten as their periods end.
const WARNINGS_MAX: usize = 10_000;

/// Who has a limit of its own.
type Account = (TenantId, Environment);

/// The limits of all tenants and what was used of them.
pub struct SendLimits {
    store: Arc<Store>,
    spent: Mutex<Spent>,
}

struct Spent {
    minute: FixedWindow<Account>,
    day: FixedWindow<Account>,
    /// The last warning of each limit, and until when it holds.
    warned: HashMap<(Account, LimitPeriod), (Timestamp, LimitLevel)>,
}

/// Who wants to send, and when.
#[derive(Debug, Clone, Copy)]
pub struct QuotaRequest {
    account: Account,
    limits: RateLimit,
    at: Timestamp,
}

/// Recipients that were counted for a message. Dropped before [`QuotaReservation::keep`] they are given back.
#[must_use]
pub struct QuotaReservation<'a> {
    of: &'a SendLimits,
    wish: QuotaRequest,
    count: u64,
}

/// Recipients that stay counted.
pub struct ConfirmedQuota {
    wish: QuotaRequest,
    count: u64,
}

impl QuotaRequest {
    /// Of a tenant as it is now.
    pub fn new(tenant: &Tenant, environment: Environment, at: Timestamp) -> Self {
        Self { account: (tenant.id, environment), limits: tenant.rate_limit, at }
    }

    /// Whether there is a limit at all.
    pub fn is_limited(&self) -> bool {
        self.limits().next().is_some()
    }

    /// The limits that the tenant has, the one that ends last first.
    fn limits(&self) -> impl Iterator<Item = (LimitPeriod, u64)> + use<> {
        let RateLimit { emails_per_day, emails_per_minute, .. } = self.limits;
        let limits = [(LimitPeriod::Day, emails_per_day), (LimitPeriod::Minute, emails_per_minute)];
        limits.into_iter().filter_map(|(period, limit)| Some((period, limit?.into())))
    }
}

impl SendLimits {
    /// Nothing was counted yet.
    pub fn new(store: Arc<Store>) -> Self {
        let spent = Spent {
            minute: FixedWindow::new(LimitPeriod::Minute),
            day: FixedWindow::new(LimitPeriod::Day),
            warned: HashMap::new(),
        };
        Self { store, spent: Mutex::new(spent) }
    }

    /// Whether there is room for so many recipients now; nothing is counted. The outer error is the store's.
    pub async fn check(&self, wish: &QuotaRequest, count: u64) -> Result<Result<(), Refusal>, StoreError> {
        self.learn(wish).await?;
        Ok(self.look(&mut self.lock(), wish, count))
    }

    /// Counts the recipients of a message, if there is room for all.
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
            // From here on the count misses something; under a new limit the store is asked again.
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

    /// The message was not written after all.
    pub fn give_back(&self, kept: &ConfirmedQuota) {
        let mut spent = self.lock();
        for (period, _) in kept.wish.limits() {
            spent.of(period).give_back(&kept.wish.account, kept.count, kept.wish.at);
        }
    }

    /// How the limit stands that leaves the least room; `None` if the tenant has none.
    pub async fn standing(&self, wish: &QuotaRequest) -> Result<Option<QuotaStatus>, StoreError> {
        self.learn(wish).await?;
        let mut spent = self.lock();
        let standings =
            wish.limits().map(|(period, limit)| spent.of(period).standing(&wish.account, limit, wish.at));
        Ok(standings.min_by_key(QuotaStatus::remaining))
    }

    /// The first time in a day the store is asked for what was sent in it. Nothing can be taken before that, so what
    /// it answers misses nothing.
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

    /// Tells the tenant, unless it was told in this period.
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
    /// From now on the message may be written, even if nobody waits to hear of it.
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
            format!(
                "{count} recipients are more than the tenant may send to in a {period}, which is {limit}"
            ),
            "send to fewer at a time, or ask the operator of the platform to raise the limit",
        );
    }
    Refusal::new(
        code,
        format!("the tenant may send to {limit} recipients in a {period} and has sent to {used}"),
        format!("try again at {resets_at}, when the {period} ends, or ask the operator to raise the limit"),
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
