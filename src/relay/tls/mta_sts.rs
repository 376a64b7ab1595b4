//! MTA-STS policies of destinations (RFC 8461): discovered by a TXT record, fetched over HTTPS, cached in the store.
//!
//! A cached policy applies until it expires, even if the DNS record or the policy server disappears: this protects
//! against an attacker who can forge both (§10.2). Each domain has at most one fetch at a time, in a task of its own. A
//! delivery waits for the fetch at most ten seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Method, StatusCode};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client;
use crate::clock::{Clock, Instant};
use crate::config;
use crate::dns::{DnsError, Resolver};
use crate::http_client::{self, Limits, OverflowPolicy, Request, Response, SendError};
use crate::mail::{DomainName, SignedDuration, Timestamp};
use crate::model::TlsFailure;
use crate::policy::mta_sts::{POLICY_OCTETS_MAX, StsMode, StsPolicy, read_record};
use crate::policy::tls::{StsLookup, StsLookupError};
use crate::queue::QueueManager;
use crate::relay::RelayError;
use crate::relay::tasks::Tasks;
use crate::store::{Duty, Store, StoreError, StsPolicies, StsRecord};

/// Maximum of domains in memory; the store has all domains.
const DOMAINS_MAX: usize = 10_000;
/// Maximum of concurrent fetches, and of running and waiting fetches together.
const FETCHES_MAX: usize = 32;
const FETCHES_WAITING_MAX: usize = 256;
/// How long a delivery waits for the first policy of a domain.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The time between a failed fetch and the next one.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The age at which a policy is fetched again although its id is unchanged (RFC 8461 §3.3).
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
/// How often old policies are refreshed, and how many at a time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);
const REFRESHED_MAX: usize = 500;

/// Fetches and caches policies.
pub struct MtaSts {
    client: http_client::Client,
    resolver: Resolver,
    store: Arc<Store>,
    clock: Clock,
    port: u16,
    timeout: Duration,
    domains: Mutex<HashMap<DomainName, DomainState>>,
    fetches: Semaphore,
}

/// The state of one domain.
#[derive(Clone, Default)]
struct DomainState {
    cached: Option<CachedPolicy>,
    failure: Option<FailedFetch>,
    /// Closed when the running fetch ends.
    fetch: Option<watch::Receiver<()>>,
}

/// A policy that was fetched.
#[derive(Clone)]
struct CachedPolicy {
    id: String,
    policy: Arc<StsPolicy>,
    fetched_at: Timestamp,
    expires_at: Timestamp,
}

impl CachedPolicy {
    /// Whether it need not be fetched again. One with a lifetime below two days is fetched again after half of it, before it
    /// expires (RFC 8461 §3.3).
    fn is_fresh(&self, now: Timestamp) -> bool {
        let age_max = AGE_MAX.min(self.expires_at.duration_since(self.fetched_at) / 2);
        now < self.fetched_at.saturating_add(age_max).unwrap_or(now)
    }
}

/// A fetch that failed.
#[derive(Clone)]
struct FailedFetch {
    id: String,
    at: Instant,
    fault: StsLookupError,
}

impl MtaSts {
    /// Reads the file with certificate authorities.
    ///
    /// # Errors
    /// [`RelayError::CaFile`].
    pub fn new(config: &config::Relay, queue: &QueueManager, resolver: Resolver) -> Result<Self, RelayError> {
        let networks = &config.allowed_private_networks;
        let client = http_client::Client::new(resolver.clone(), config.ca_file.as_deref(), networks);
        Ok(Self {
            client: client.map_err(RelayError::CaFile)?,
            resolver,
            store: queue.store().clone(),
            clock: queue.clock().clone(),
            port: config.mta_sts.port,
            timeout: config.mta_sts.fetch_timeout,
            domains: Mutex::default(),
            fetches: Semaphore::new(FETCHES_MAX),
        })
    }

    /// The policy of a domain, fetched if it is not cached or has changed.
    pub async fn policy_for(self: &Arc<Self>, tasks: &Tasks, domain: &DomainName) -> StsLookup {
        self.find(tasks, domain).await.unwrap_or_else(|error| {
            tracing::warn!(%domain, %error, "cannot read an MTA-STS policy from the store");
            StsLookup::Unknown(error.to_string())
        })
    }

    async fn find(self: &Arc<Self>, tasks: &Tasks, domain: &DomainName) -> Result<StsLookup, StoreError> {
        let known = self.state_of(domain).await?;
        let now = self.clock.now();
        let cached = known.cached.clone().filter(|cached| now < cached.expires_at);
        let id = match (self.record_id(domain).await, &cached) {
            (Ok(Some(id)), _) => id,
            (Err(error), None) => return Ok(unavailable(&error.to_string(), None)),
            // An attacker who can suppress the record must not be able to disable the policy.
            (Ok(None) | Err(_), _) => return Ok(lookup_of(cached)),
        };
        let failure = known
            .failure
            .clone()
            .filter(|failure| failure.id == id && self.clock.elapsed_since(failure.at) < FAILURE_LIFETIME);
        let is_same = cached.as_ref().is_some_and(|cached| cached.id == id);
        let is_fresh = cached.as_ref().is_some_and(|cached| cached.is_fresh(now));
        Ok(match (cached, failure) {
            (Some(cached), _) if is_same && is_fresh => lookup_of(Some(cached)),
            (Some(cached), Some(_)) => lookup_of(Some(cached)),
            (None, Some(failure)) => StsLookup::Unavailable(failure.fault),
            (cached, None) => {
                let Some(mut fetch) = self.begin_fetch(tasks, domain, id, known) else {
                    return Ok(cached.map_or_else(
                        || unavailable("too many policy fetches are in progress", None),
                        |cached| lookup_of(Some(cached)),
                    ));
                };
                // A policy with the same id applies during its refresh.
                if !is_same
                    && tokio::time::timeout(WAIT_MAX, fetch.changed()).await.is_err()
                    && cached.is_none()
                {
                    return Ok(unavailable(
                        "its server did not answer within ten seconds",
                        Some(TlsFailure::StsPolicyFetchError),
                    ));
                }
                let known = self.state_of(domain).await?;
                match (known.cached.filter(|cached| now < cached.expires_at), known.failure) {
                    (None, Some(failure)) => StsLookup::Unavailable(failure.fault),
                    (cached, _) => lookup_of(cached),
                }
            }
        })
    }

    /// The state in memory, else from the store. Another node may have fetched a policy since that is old in memory.
    async fn state_of(&self, domain: &DomainName) -> Result<DomainState, StoreError> {
        let now = self.clock.now();
        let is_recent =
            |known: &&DomainState| known.cached.as_ref().is_none_or(|cached| cached.is_fresh(now));
        if let Some(known) = self.lock().get(domain).filter(is_recent) {
            return Ok(known.clone());
        }
        let record = self.store.sts_policy(domain, now).await?;
        let cached = record.and_then(|record| {
            let StsRecord { policy_id, policy, fetched_at, expires_at, .. } = record;
            let policy = Arc::new(StsPolicy::parse(&policy).ok()?);
            Some(CachedPolicy { id: policy_id, policy, fetched_at, expires_at })
        });
        let mut domains = self.lock();
        if domains.len() >= DOMAINS_MAX {
            domains.retain(|_, known| known.fetch.is_some());
        }
        let known = domains.entry(domain.clone()).or_default();
        let fetched_at = |cached: &Option<CachedPolicy>| cached.as_ref().map(|cached| cached.fetched_at);
        if fetched_at(&cached) > fetched_at(&known.cached) {
            known.cached = cached;
        }
        Ok(known.clone())
    }

    /// The policy id in the TXT record, if there is a record.
    async fn record_id(&self, domain: &DomainName) -> Result<Option<String>, DnsError> {
        match self.resolver.texts(&format!("_mta-sts.{domain}")).await {
            Ok(texts) => Ok(read_record(texts.iter().map(String::as_str))),
            Err(DnsError::NoSuchDomain | DnsError::NoRecords) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Joins the running fetch, or starts one; `None` if too many fetches run. `known` is the present state of the
    /// domain.
    fn begin_fetch(
        self: &Arc<Self>,
        tasks: &Tasks,
        domain: &DomainName,
        id: String,
        known: DomainState,
    ) -> Option<watch::Receiver<()>> {
        let mut domains = self.lock();
        if let Some(fetch) = domains.get(domain).and_then(|known| known.fetch.clone()) {
            return Some(fetch);
        }
        if domains.values().filter(|known| known.fetch.is_some()).count() >= FETCHES_WAITING_MAX {
            return None;
        }
        let (done, fetch) = watch::channel(());
        domains.entry(domain.clone()).or_insert(known).fetch = Some(fetch.clone());
        drop(domains);
        let (sts, domain, stop) = (self.clone(), domain.clone(), tasks.stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(sts.refresh(&domain, id)).await;
            if let Some(known) = sts.lock().get_mut(&domain) {
                known.fetch = None;
            }
            drop(done);
        });
        Some(fetch)
    }

    /// Fetches the policy of a domain and caches it, or the failure.
    async fn refresh(&self, domain: &DomainName, id: String) {
        // The semaphore is never closed.
        let _permit = self.fetches.acquire().await;
        let fetched = self.fetch(domain).await;
        let now = self.clock.now();
        match fetched {
            Ok((text, policy)) => {
                let lifetime = SignedDuration::from_secs(i64::try_from(policy.max_age_s).unwrap_or(0));
                let expires_at = now.saturating_add(lifetime).unwrap_or(now);
                let cached =
                    CachedPolicy { id: id.clone(), policy: Arc::new(policy), fetched_at: now, expires_at };
                {
                    let mut domains = self.lock();
                    let known = domains.entry(domain.clone()).or_default();
                    (known.cached, known.failure) = (Some(cached), None);
                }
                let record = StsRecord {
                    domain: domain.clone(),
                    policy_id: id,
                    policy: text,
                    fetched_at: now,
                    expires_at,
                };
                if let Err(error) = self.store.store_sts_policy(record).await {
                    tracing::warn!(%domain, %error, "cannot store an MTA-STS policy");
                }
            }
            Err((failure, reason)) => {
                tracing::warn!(%domain, %reason, "cannot fetch an MTA-STS policy");
                let fault = StsLookupError { reason, failure: Some(failure) };
                // RFC 8461 §3.3: the cached policy continues to apply. A domain that is not in memory may have a policy
                // in the store.
                if let Some(known) = self.lock().get_mut(domain) {
                    known.failure = Some(FailedFetch { id, at: self.clock.instant(), fault });
                }
            }
        }
    }

    /// RFC 8461 §3.3: one GET, certificate checked, no redirect followed.
    async fn fetch(&self, domain: &DomainName) -> Result<(String, StsPolicy), (TlsFailure, String)> {
        let response = self.get(domain).await?;
        read_policy(&response).map_err(|reason| (TlsFailure::StsPolicyInvalid, reason))
    }

    async fn get(&self, domain: &DomainName) -> Result<Response, (TlsFailure, String)> {
        let fail = |reason: String| (TlsFailure::StsPolicyFetchError, reason);
        let mut url = Url::parse(&format!("https://mta-sts.{domain}/.well-known/mta-sts.txt"))
            .map_err(|error| fail(error.to_string()))?;
        url.set_port(Some(self.port)).map_err(|()| fail("a URL without a port".to_owned()))?;
        let request = Request { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() };
        let limits = Limits {
            timeout: self.timeout,
            body_octets_max: POLICY_OCTETS_MAX,
            overflow: OverflowPolicy::Refuse,
        };
        let response = self.client.send(request, limits).await.map_err(|error| match &error {
            SendError::Tls(cause) if client::is_certificate_fault(cause) => {
                (TlsFailure::StsWebpkiInvalid, error.to_string())
            }
            _ => fail(error.to_string()),
        })?;
        match response.status {
            StatusCode::OK => Ok(response),
            status => Err(fail(format!("its server replied {}", status.as_u16()))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DomainName, DomainState>> {
        self.domains.lock()
    }
}

fn read_policy(response: &Response) -> Result<(String, StsPolicy), String> {
    // RFC 8461 §3.2: the media type keeps users who may upload files from setting a policy.
    let media = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("text/plain") {
        return Err("its server did not send the media type text/plain".into());
    }
    let text =
        String::from_utf8(response.body.to_vec()).map_err(|_| "the policy is not UTF-8 text".to_owned())?;
    let policy = StsPolicy::parse(&text).map_err(|error| error.to_string())?;
    Ok((text, policy))
}

/// RFC 8461 §5: mode `none` withdraws a policy.
fn lookup_of(cached: Option<CachedPolicy>) -> StsLookup {
    match cached {
        Some(cached) if cached.policy.mode != StsMode::None => StsLookup::Policy(cached.policy),
        _ => StsLookup::Absent,
    }
}

fn unavailable(reason: &str, failure: Option<TlsFailure>) -> StsLookup {
    StsLookup::Unavailable(StsLookupError { reason: reason.to_owned(), failure })
}

/// Refreshes each policy daily, even if no mail is sent to its domain (RFC 8461 §3.3).
pub async fn refresh_loop(sts: Arc<MtaSts>, stop: CancellationToken) {
    let mut interval = sts.clock.interval(REFRESH_INTERVAL);
    let refreshing = async {
        loop {
            interval.tick().await;
            if !sts.store.has_duty(Duty::StsPolicies) {
                continue;
            }
            let now = sts.clock.now();
            let before = now.saturating_sub(AGE_MAX).unwrap_or(now);
            let stale = match sts.store.stale_sts_policies(before, now, REFRESHED_MAX).await {
                Ok(stale) => stale,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the MTA-STS policies to refresh");
                    continue;
                }
            };
            for record in stale {
                let id = sts.record_id(&record.domain).await.ok().flatten().unwrap_or(record.policy_id);
                sts.refresh(&record.domain, id).await;
            }
        }
    };
    stop.run_until_cancelled(refreshing).await;
}
