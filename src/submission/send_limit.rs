//! Send limits of tenants per minute, hour and day, in recipients, separately for live and test mail.
//!
//! MAIL and RCPT only check, so that a client is refused early and keeps the recipients that fit. The message is
//! counted in one step before it is stored, and released if it is not stored, so concurrent sessions of a tenant
//! never exceed its limit. The counts of an hour and a day start with the usage in the
//! store.
//!
//! In a database that several nodes serve, a limit holds for all of them together ([`SharedWindow`]).

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::shared_window::{self, QuotaNeed, SharedLimits, SharedWindow};
use crate::clock::Clock;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::{Environment, LimitPeriod, Refusal, RefusalCode, TenantId, UsageInterval};
use crate::policy::fixed_window::QuotaStatus;
use crate::store::{Ledger, LimitLevel, LimitWarning, RateLimit, Store, StoreError, Tenant, UnusedQuota};

/// Percentage of a limit at which the tenant is warned.
const APPROACHING_PERCENT: u64 = 80;
/// Maximum of remembered warnings; beyond it, expired ones are removed.
const WARNINGS_MAX: usize = 10_000;

/// The periods of limits.
const PERIODS: [LimitPeriod; 3] = [LimitPeriod::Minute, LimitPeriod::Hour, LimitPeriod::Day];
/// The periods whose usage is in the store.
const STORED_PERIODS: [(LimitPeriod, UsageInterval); 2] =
    [(LimitPeriod::Day, UsageInterval::Day), (LimitPeriod::Hour, UsageInterval::Hour)];

/// Limits are counted per tenant and environment.
type Account = (TenantId, Environment);

/// The send limits of all tenants and their usage.
pub struct SendLimits {
    store: Arc<Store>,
    usage: Mutex<LimitUsage>,
}

struct LimitUsage {
    minute: SharedWindow<Account>,
    hour: SharedWindow<Account>,
    day: SharedWindow<Account>,
    /// The level of the last warning of each limit, and the end of its period.
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
    request: QuotaRequest,
    count: u64,
}

/// Recipients that remain counted.
pub struct ConfirmedQuota {
    request: QuotaRequest,
    count: u64,
}

impl QuotaRequest {
    /// The current limits of a tenant.
    pub fn new(tenant: &Tenant, environment: Environment, at: Timestamp) -> Self {
        Self { account: (tenant.id, environment), limits: tenant.rate_limit.at(environment, at), at }
    }

    /// Whether any limit applies.
    pub fn is_limited(&self) -> bool {
        self.limits().next().is_some()
    }

    fn limit_of(&self, period: LimitPeriod) -> Option<u64> {
        self.limits().find(|(of, _)| *of == period).map(|(_, limit)| limit)
    }

    /// The limits that apply, the longest period first.
    fn limits(&self) -> impl Iterator<Item = (LimitPeriod, u64)> + use<> {
        let RateLimit { emails_per_day, emails_per_hour, emails_per_minute, .. } = self.limits;
        let limits = [
            (LimitPeriod::Day, emails_per_day),
            (LimitPeriod::Hour, emails_per_hour),
            (LimitPeriod::Minute, emails_per_minute),
        ];
        limits.into_iter().filter_map(|(period, limit)| Some((period, limit?.into())))
    }
}

impl SendLimits {
    /// No usage yet.
    pub fn new(store: Arc<Store>) -> Self {
        let is_shared = store.shares_quota();
        let usage = LimitUsage {
            minute: SharedWindow::new(LimitPeriod::Minute, is_shared),
            hour: SharedWindow::new(LimitPeriod::Hour, is_shared),
            day: SharedWindow::new(LimitPeriod::Day, is_shared),
            warned: HashMap::new(),
        };
        Self { store, usage: Mutex::new(usage) }
    }

    /// Whether the limits allow this many recipients; counts nothing. The outer error is the store's.
    pub async fn check(&self, request: &QuotaRequest, count: u64) -> Result<Result<(), Refusal>, StoreError> {
        if self.store.shares_quota() {
            return self.take_blocks(request, count).await;
        }
        self.load(request).await?;
        Ok(self.check_remaining(&mut self.lock(), request, count))
    }

    /// Counts the recipients of a message, if the limits allow all of them.
    pub async fn take(
        &self,
        request: QuotaRequest,
        count: u64,
    ) -> Result<Result<QuotaReservation<'_>, Refusal>, StoreError> {
        let is_shared = self.store.shares_quota();
        let mut usage = loop {
            let taken = if is_shared { self.take_blocks(&request, count).await? } else { Ok(()) };
            if let Err(refusal) = taken {
                return Ok(Err(refusal));
            }
            if !is_shared {
                self.load(&request).await?;
            }
            let mut usage = self.lock();
            // Another message may have used the blocks, or they were given back.
            if request.limits().all(|(period, _)| usage.of(period).has(&request.account, count, request.at)) {
                break usage;
            }
        };
        if let Err(refusal) = self.check_remaining(&mut usage, &request, count) {
            return Ok(Err(refusal));
        }
        for (period, _) in STORED_PERIODS {
            if request.limit_of(period).is_none() {
                // From now on the count is incomplete; a new limit loads it from the store again.
                usage.of(period).forget(&request.account);
            }
        }
        for (period, limit) in request.limits() {
            usage.of(period).take(request.account, count, request.at);
            let status = usage.of(period).status(&request.account, limit, request.at);
            if status.remaining() == 0 {
                self.warn(&mut usage, &request, (period, status), LimitLevel::Exceeded);
            } else if status.percent() >= APPROACHING_PERCENT {
                self.warn(&mut usage, &request, (period, status), LimitLevel::Approaching);
            }
        }
        Ok(Ok(QuotaReservation { of: self, request, count }))
    }

    /// Releases the quota of a message that was not stored.
    pub fn release(&self, confirmed: &ConfirmedQuota) {
        let mut usage = self.lock();
        let QuotaRequest { account, at, .. } = confirmed.request;
        for (period, _) in confirmed.request.limits() {
            usage.of(period).release(account, confirmed.count, at);
        }
    }

    /// The limit with the least remaining quota; `None` without a limit.
    pub async fn status(&self, request: &QuotaRequest) -> Result<Option<QuotaStatus>, StoreError> {
        if self.store.shares_quota() {
            // Nothing is refused that needs nothing.
            let _ = self.take_blocks(request, 0).await?;
        } else {
            self.load(request).await?;
        }
        let mut usage = self.lock();
        let statuses = request
            .limits()
            .map(|(period, limit)| usage.of(period).status(&request.account, limit, request.at));
        Ok(statuses.min_by_key(QuotaStatus::remaining))
    }

    /// Loads the usage of the day and hour from the store, once. Nothing is counted before, so the loaded value is complete.
    async fn load(&self, request: &QuotaRequest) -> Result<(), StoreError> {
        for (period, _) in STORED_PERIODS {
            if request.limit_of(period).is_none()
                || self.lock().of(period).contains(&request.account, request.at)
            {
                continue;
            }
            let sent = self.stored_usage(request.account, period, period.end_of(request.at)).await?;
            self.lock().of(period).preload(request.account, sent, request.at);
        }
        Ok(())
    }

    /// What was sent in the period with this end, as far as the store knows.
    async fn stored_usage(
        &self,
        (tenant, environment): Account,
        period: LimitPeriod,
        ends_at: Timestamp,
    ) -> Result<u64, StoreError> {
        let Some(&(_, interval)) = STORED_PERIODS.iter().find(|(stored, _)| *stored == period) else {
            return Ok(0);
        };
        let from = period.start_of(ends_at - SignedDuration::from_secs(1));
        let parts = self.store.usage(tenant, interval, from, ends_at).await?;
        let of_account = parts.iter().find(|part| part.environment == environment);
        Ok(of_account.map_or(0, |part| part.counts.sent))
    }

    /// Takes blocks of all limits that apply, so that this much can be used, and refuses if a limit does not allow it.
    async fn take_blocks(
        &self,
        request: &QuotaRequest,
        count: u64,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let taken = request.limits().map(|limit| self.take_block(request, limit, count));
        let refused = try_join_all(taken).await?.into_iter().flatten().next();
        let Some((period, limit)) = refused else { return Ok(Ok(())) };
        let mut usage = self.lock();
        let status = usage.of(period).status(&request.account, limit, request.at);
        self.warn(&mut usage, request, (period, status), LimitLevel::Exceeded);
        Ok(Err(refuse(period, status, count)))
    }

    /// Takes a block of one limit, unless there is enough; returns the limit if it does not allow this much.
    async fn take_block(
        &self,
        request: &QuotaRequest,
        (period, limit): (LimitPeriod, u64),
        count: u64,
    ) -> Result<Option<(LimitPeriod, u64)>, StoreError> {
        let account = request.account;
        let need =
            QuotaNeed { key: account, subject: subject(account, period), limit, count, at: request.at };
        let window = || MutexGuard::map(self.lock(), |usage| usage.of(period));
        let used_before = |ends_at| self.stored_usage(account, period, ends_at);
        let is_allowed = shared_window::take_block(&self.store, window, need, used_before).await?;
        Ok((!is_allowed).then_some((period, limit)))
    }

    /// Shares the limits with other nodes until `stop`.
    pub async fn share_until(&self, clock: &Clock, stop: CancellationToken) {
        shared_window::share_until(self, &self.store, clock, stop).await;
    }

    fn check_remaining(
        &self,
        usage: &mut LimitUsage,
        request: &QuotaRequest,
        count: u64,
    ) -> Result<(), Refusal> {
        for (period, limit) in request.limits() {
            let status = usage.of(period).status(&request.account, limit, request.at);
            if status.remaining() < count {
                self.warn(usage, request, (period, status), LimitLevel::Exceeded);
                return Err(refuse(period, status, count));
            }
        }
        Ok(())
    }

    /// Warns the tenant, once per period and level.
    fn warn(
        &self,
        usage: &mut LimitUsage,
        request: &QuotaRequest,
        of: (LimitPeriod, QuotaStatus),
        level: LimitLevel,
    ) {
        let (period, QuotaStatus { limit, used, resets_at }) = of;
        let warned = usage.warned.get(&(request.account, period));
        if warned.is_some_and(|&(until, earlier)| until == resets_at && earlier >= level) {
            return;
        }
        if usage.warned.len() >= WARNINGS_MAX {
            usage.warned.retain(|_, (until, _)| *until > request.at);
        }
        usage.warned.insert((request.account, period), (resets_at, level));
        let (tenant_id, environment) = request.account;
        let at = request.at;
        let warning = LimitWarning { tenant_id, level, environment, period, limit, used, resets_at, at };
        self.store.warn_of_limit(warning);
    }

    fn lock(&self) -> MutexGuard<'_, LimitUsage> {
        self.usage.lock()
    }
}

impl SharedLimits for SendLimits {
    const WHAT: &'static str = "send limits";

    fn take_unused(&self) -> Vec<UnusedQuota> {
        let mut usage = self.lock();
        let mut unused = Vec::new();
        for period in PERIODS {
            let blocks = usage.of(period).take_unused().into_iter();
            unused.extend(blocks.map(|(account, ends_at, count)| UnusedQuota {
                subject: subject(account, period),
                ends_at,
                count,
            }));
        }
        unused
    }

    fn forget_ended(&self, now: Timestamp) {
        let mut usage = self.lock();
        PERIODS.into_iter().for_each(|period| usage.of(period).forget_ended(now));
    }
}

impl LimitUsage {
    fn of(&mut self, period: LimitPeriod) -> &mut SharedWindow<Account> {
        match period {
            LimitPeriod::Minute => &mut self.minute,
            LimitPeriod::Hour => &mut self.hour,
            LimitPeriod::Day => &mut self.day,
        }
    }
}

impl QuotaReservation<'_> {
    /// Confirms the quota: the message will be stored even if the caller is cancelled.
    pub fn confirm(mut self) -> ConfirmedQuota {
        ConfirmedQuota { request: self.request, count: std::mem::take(&mut self.count) }
    }
}

impl Drop for QuotaReservation<'_> {
    fn drop(&mut self) {
        self.of.release(&ConfirmedQuota { request: self.request, count: self.count });
    }
}

/// The name of a limit in the database.
fn subject((tenant, environment): Account, period: LimitPeriod) -> String {
    format!("mail/{tenant}/{environment}/{period}")
}

fn refuse(period: LimitPeriod, status: QuotaStatus, count: u64) -> Refusal {
    let QuotaStatus { limit, used, resets_at } = status;
    let code = match period {
        LimitPeriod::Minute => RefusalCode::SendLimitExceeded,
        LimitPeriod::Hour => RefusalCode::HourlySendLimitExceeded,
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
#[path = "tests/send_limit_nodes.rs"]
mod nodes_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqliteOptions;

    async fn limits() -> (tempfile::TempDir, SendLimits) {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteOptions::at(dir.path());
        (dir, SendLimits::new(Arc::new(Store::open(options).await.unwrap())))
    }

    fn quota_request(account: Account, per_day: Option<u32>, at: &str) -> QuotaRequest {
        let limits = RateLimit { emails_per_day: per_day, ..RateLimit::default() };
        QuotaRequest { account, limits, at: at.parse().unwrap() }
    }

    #[tokio::test]
    async fn quota_of_a_message_that_is_not_stored_is_released() {
        let (_dir, limits) = limits().await;
        let account = (TenantId::generate(Timestamp::UNIX_EPOCH), Environment::Live);
        let request = quota_request(account, Some(10), "2026-11-22T12:00:00Z");
        let used = async || limits.status(&request).await.unwrap().unwrap().used;
        let dropped = limits.take(request, 4).await.unwrap().unwrap();
        assert_eq!(used().await, 4);
        assert!(
            limits.take(request, 7).await.unwrap().is_err(),
            "messages that are not stored yet are counted"
        );
        drop(dropped);
        assert_eq!(used().await, 0);
        let quota = limits.take(request, 4).await.unwrap().unwrap().confirm();
        assert_eq!(used().await, 4);
        limits.release(&quota);
        assert_eq!(used().await, 0);
    }

    #[tokio::test]
    async fn a_limit_set_again_reloads_its_usage() {
        let (_dir, limits) = limits().await;
        let account = (TenantId::generate(Timestamp::UNIX_EPOCH), Environment::Live);
        let at = |per_day| quota_request(account, per_day, "2026-11-22T12:00:00Z");
        let _ = limits.take(at(Some(10)), 4).await.unwrap().unwrap().confirm();
        let _ = limits.take(at(None), 100).await.unwrap().unwrap().confirm();
        assert!(limits.status(&at(None)).await.unwrap().is_none());
        let status = limits.status(&at(Some(10))).await.unwrap().unwrap();
        assert_eq!(status.used, 0, "the usage is loaded from the store again, which has none");
    }
}
