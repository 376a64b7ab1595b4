//! Request rate limits of keys and tenants per minute, and request counts for the usage of tenants. Platform keys have no
//! limit.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::mail::Timestamp;
use crate::model::{Environment, KeyId, LimitPeriod, RefusalCode, TenantId, UsageInterval};
use crate::policy::fixed_window::{FixedWindow, QuotaStatus};
use crate::store::{Ledger, Store, UsedBy};

use super::auth::Caller;
use crate::api::{Api, ApiError, Result};

/// Interval between writes of the counts; a crash loses at most this much.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts the request of an authenticated caller or refuses it, and adds the `RateLimit` headers to the response.
pub async fn run(api: &Api, caller: &Caller, now: Timestamp, request: Request, next: Next) -> Response {
    let mut headers = HeaderMap::new();
    let mut response = match api.request_limiter.admit(caller, &mut headers, now) {
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
}

struct Counts {
    minute: FixedWindow<RateLimitSubject>,
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
    /// A limiter with the configured limits.
    pub fn new(settings: &config::Api) -> Self {
        let counts = Counts { minute: FixedWindow::new(LimitPeriod::Minute), unwritten: HashMap::new() };
        Self {
            of_key_max: settings.key_requests_per_minute.into(),
            of_tenant_max: settings.requests_per_minute.into(),
            counts: Mutex::new(counts),
        }
    }

    /// Counts a request or refuses it. The headers describe the limit with the least remaining.
    pub fn admit(&self, caller: &Caller, headers: &mut HeaderMap, now: Timestamp) -> Result<()> {
        let Some(tenant) = &caller.tenant else { return Ok(()) };
        let of_tenant_max = tenant.rate_limit.requests_per_minute.map_or(self.of_tenant_max, u64::from);
        let limits = [
            (RateLimitSubject::Tenant(tenant.id, caller.key.environment), of_tenant_max),
            (RateLimitSubject::Key(caller.key.id, tenant.id), self.of_key_max),
        ];
        let limits = limits.into_iter().filter(|(_, limit)| *limit > 0);
        let mut counts = self.lock();
        let statuses = limits.clone().map(|(who, limit)| (who, counts.minute.status(&who, limit, now)));
        let tightest = statuses.min_by_key(|(_, status)| status.remaining());
        if let Some((who, status)) = tightest {
            let is_admitted = status.remaining() > 0;
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
        Ok(())
    }

    /// Stores the counts every few seconds and on shutdown.
    pub async fn write_until(&self, store: &Store, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WRITE_INTERVAL);
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            self.write(store).await;
            if is_last {
                return;
            }
        }
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
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
