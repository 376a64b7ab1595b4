//! Request rate limits of keys and tenants per minute, and request counts for the usage of tenants. Platform keys have no
//! limit.
//!
//! In a database that several nodes serve, a limit holds for all of them together ([`SharedWindow`]).

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use hyper::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::mail::Timestamp;
use crate::model::{Environment, KeyId, LimitPeriod, RefusalCode, TenantId, UsageInterval};
use crate::policy::fixed_window::QuotaStatus;
use crate::store::{Ledger, Store, UnusedQuota, UsedBy};
use crate::submission::shared_window::{self, QuotaNeed, SharedLimits, SharedWindow};

use super::auth::Caller;
use crate::api::{Api, ApiError, Result};

/// Interval between writes of the counts; a crash loses at most this much.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts the request of an authenticated caller or refuses it, and adds the `RateLimit` headers to the response.
pub async fn run(api: &Api, caller: &Caller, now: Timestamp, request: Request, next: Next) -> Response {
    let mut headers = HeaderMap::new();
    let mut response = match api.request_limiter.admit(&api.store, caller, &mut headers, now).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    response.headers_mut().extend(headers);
    response
}

/// Counts requests per key and tenant, and refuses those over a limit.
pub struct RequestLimiter {
    of_key_max: u64,
    of_tenant_max: u64,
    counts: Mutex<Counts>,
    /// Notified when there are counts to store.
    counted: Notify,
}

struct Counts {
    minute: SharedWindow<RateLimitSubject>,
    /// Counts by hour that are not stored yet.
    unwritten: HashMap<UsedBy, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum RateLimitSubject {
    /// A key; the sessions of a platform key count for each tenant.
    Key(KeyId, TenantId),
    /// Tests of a tenant take no request from its live mail.
    Tenant(TenantId, Environment),
}

impl RequestLimiter {
    /// A limiter with the configured limits, which nodes may share.
    pub fn new(settings: &config::Api, is_shared: bool) -> Self {
        let counts =
            Counts { minute: SharedWindow::new(LimitPeriod::Minute, is_shared), unwritten: HashMap::new() };
        Self {
            of_key_max: settings.key_requests_per_minute.into(),
            of_tenant_max: settings.requests_per_minute.into(),
            counts: Mutex::new(counts),
            counted: Notify::new(),
        }
    }

    /// Counts a request or refuses it. The headers describe the limit with the least remaining.
    pub async fn admit(
        &self,
        store: &Store,
        caller: &Caller,
        headers: &mut HeaderMap,
        now: Timestamp,
    ) -> Result<()> {
        let Some(tenant) = &caller.tenant else { return Ok(()) };
        let of_tenant_max = tenant.rate_limit.requests_per_minute.map_or(self.of_tenant_max, u64::from);
        let limits = [
            (RateLimitSubject::Tenant(tenant.id, caller.key.environment), of_tenant_max),
            (RateLimitSubject::Key(caller.key.id, tenant.id), self.of_key_max),
        ];
        let limits = limits.into_iter().filter(|(_, limit)| *limit > 0);
        let is_shared = store.shares_quota();
        let (mut counts, is_refused) = loop {
            let mut is_refused = false;
            if is_shared {
                let taken = limits.clone().map(|(who, limit)| self.take_block(store, who, limit, now));
                is_refused = try_join_all(taken).await?.contains(&false);
            }
            let mut counts = self.lock();
            // Another request may have used the blocks, or they were given back.
            if is_refused || limits.clone().all(|(who, _)| counts.minute.has(&who, 1, now)) {
                break (counts, is_refused);
            }
        };
        let statuses = limits.clone().map(|(who, limit)| (who, counts.minute.status(&who, limit, now)));
        let tightest = statuses.min_by_key(|(_, status)| status.remaining());
        if let Some((who, status)) = tightest {
            let is_admitted = status.remaining() > 0 && !is_refused;
            let used = status.used + u64::from(is_admitted);
            write_headers("ratelimit", QuotaStatus { used, ..status }, headers, now);
            if !is_admitted {
                return Err(refuse(who, status, now));
            }
        }
        for (who, _) in limits {
            counts.minute.take(who, 1, now);
        }
        let at = UsageInterval::Hour.start_of(now);
        let key_id = Some(caller.key.id);
        let by = UsedBy { tenant_id: tenant.id, key_id, environment: caller.key.environment, at };
        *counts.unwritten.entry(by).or_default() += 1;
        self.counted.notify_one();
        Ok(())
    }

    /// Takes a block of a limit, unless there is one; returns false if the limit does not allow it.
    async fn take_block(
        &self,
        store: &Store,
        who: RateLimitSubject,
        limit: u64,
        now: Timestamp,
    ) -> Result<bool> {
        let need = QuotaNeed { key: who, subject: who.to_string(), limit, count: 1, at: now };
        let window = || MutexGuard::map(self.lock(), |counts| &mut counts.minute);
        // Nothing is stored of a minute.
        let used_before = |_| std::future::ready(Ok(0));
        Ok(shared_window::take_block(store, window, need, used_before).await?)
    }

    /// Shares the limits with other nodes until `stop`.
    pub async fn share_until(&self, store: &Store, clock: &Clock, stop: CancellationToken) {
        shared_window::share_until(self, store, clock, stop).await;
    }

    /// Stores the counts a few seconds after a request and on shutdown.
    pub async fn write_until(&self, store: &Store, stop: CancellationToken) {
        let next = async || {
            self.counted.notified().await;
            tokio::time::sleep(WRITE_INTERVAL).await;
        };
        while stop.run_until_cancelled(next()).await.is_some() {
            self.write(store).await;
        }
        self.write(store).await;
    }

    async fn write(&self, store: &Store) {
        let unwritten = mem::take(&mut self.lock().unwritten);
        if unwritten.is_empty() {
            return;
        }
        if let Err(error) =
            store.count_requests(unwritten.iter().map(|(by, count)| (*by, *count)).collect()).await
        {
            tracing::warn!(%error, "storing request counts failed; retrying");
            let mut counts = self.lock();
            for (by, count) in unwritten {
                *counts.unwritten.entry(by).or_default() += count;
            }
            self.counted.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }
}

impl SharedLimits for RequestLimiter {
    const WHAT: &'static str = "request limits";

    fn take_unused(&self) -> Vec<UnusedQuota> {
        let unused = self.lock().minute.take_unused().into_iter();
        unused.map(|(who, ends_at, count)| UnusedQuota { subject: who.to_string(), ends_at, count }).collect()
    }

    fn forget_ended(&self, now: Timestamp) {
        self.lock().minute.forget_ended(now);
    }
}

impl fmt::Display for RateLimitSubject {
    /// The name of the limit in the database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key, tenant) => write!(f, "requests/{tenant}/{key}"),
            Self::Tenant(tenant, environment) => write!(f, "requests/{tenant}/{environment}"),
        }
    }
}

/// Adds three headers of a limit: the limit, the remaining count, and the seconds until the reset.
pub fn write_headers(name: &str, status: QuotaStatus, headers: &mut HeaderMap, now: Timestamp) {
    for (what, value) in [
        ("limit", status.limit),
        ("remaining", status.remaining()),
        ("reset", status.seconds_to_reset(now).get().into()),
    ] {
        if let Ok(name) = format!("{name}-{what}").parse::<hyper::header::HeaderName>() {
            headers.insert(name, value.into());
        }
    }
}

fn refuse(who: RateLimitSubject, status: QuotaStatus, now: Timestamp) -> ApiError {
    let QuotaStatus { limit, resets_at, .. } = status;
    let (whose, raised_by) = match who {
        RateLimitSubject::Tenant(..) => ("the tenant", "rate_limit.requests_per_minute of the tenant"),
        RateLimitSubject::Key(..) => ("the API key", "api.key_requests_per_minute"),
    };
    let mut error = ApiError::new(
        RefusalCode::RateLimited,
        format!("limit reached: {limit} requests per minute for {whose}"),
        format!("try again at {resets_at}; the operator of the platform raises the limit with {raised_by}"),
    );
    error.retry_after_s = Some(status.seconds_to_reset(now));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeySecret;
    use crate::store::contract::postgres::PostgresHarness;
    use crate::store::contract::{Harness, new_key, new_tenant, now};
    use crate::store::{Directory, SqliteOptions};

    async fn caller(store: &Store) -> Caller {
        let tenant = store.create_tenant(new_tenant("a"), now()).await.unwrap();
        let key = store
            .create_key(new_key(Some(tenant.id), &KeySecret::generate(Environment::Live)), now())
            .await
            .unwrap();
        (key, Some(tenant)).into()
    }

    fn limiter(per_minute: u32, is_shared: bool) -> RequestLimiter {
        let settings = config::Api { key_requests_per_minute: per_minute, ..config::Api::default() };
        RequestLimiter::new(&settings, is_shared)
    }

    async fn admits(limiter: &RequestLimiter, store: &Store, caller: &Caller, at: Timestamp) -> bool {
        limiter.admit(store, caller, &mut HeaderMap::new(), at).await.is_ok()
    }

    #[tokio::test]
    async fn requests_of_a_minute_are_counted_until_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(SqliteOptions::at(dir.path())).await.unwrap();
        let (caller, limiter, at) = (caller(&store).await, limiter(3, false), now());
        for admitted in [true, true, true, false] {
            assert_eq!(admits(&limiter, &store, &caller, at).await, admitted);
        }
        assert!(admits(&limiter, &store, &caller, LimitPeriod::Minute.end_of(at)).await);
    }

    #[tokio::test]
    async fn a_limit_holds_for_all_nodes_together() {
        if !PostgresHarness::is_available() {
            return;
        }
        let harness = PostgresHarness::new().await;
        let one = Store::open(harness.options()).await.unwrap();
        let other = Store::open(harness.options_of_node("other")).await.unwrap();
        let caller = caller(&one).await;
        let nodes = [(limiter(20, true), one), (limiter(20, true), other)];
        let (minute, mut admitted) = (LimitPeriod::Minute.start_of(now()), 0);
        for round in 0..30 {
            // As if each round were long after the other, so that a refusal is asked for again.
            let at = minute + Duration::from_secs(round);
            for (limiter, store) in &nodes {
                admitted += u32::from(admits(limiter, store, &caller, at).await);
                shared_window::give_back_unused(limiter, store).await;
            }
        }
        assert_eq!(admitted, 20);
    }
}
