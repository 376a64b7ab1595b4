//! Counts TLS sessions with mail hosts for the reports that domains ask for (RFC 8460 §4).
//!
//! Counts are kept in memory, so that no attempt waits for the store, and are written once a minute and when the
//! relay stops. A crash loses the counts since the last write.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::mail::{Date, DomainName};
use crate::model::{TlsFailure, TlsPolicyType};
use crate::store::{Store, TlsResult, TlsResults};

/// Maximum of counters between two writes; beyond it no counter is added.
const COUNTERS_MAX: usize = 10_000;
const FLUSH_INTERVAL: Duration = Duration::from_secs(60);

/// Counts of sessions that are not in the store yet.
pub struct TlsSessionCounts {
    clock: Clock,
    counts: Mutex<HashMap<CounterKey, u32>>,
}

#[derive(PartialEq, Eq, Hash)]
struct CounterKey {
    day: Date,
    domain: DomainName,
    policy: TlsPolicyType,
    mx_host: String,
    failure: Option<TlsFailure>,
}

impl TlsSessionCounts {
    /// No counts.
    pub fn new(clock: Clock) -> Self {
        Self { clock, counts: Mutex::default() }
    }

    /// Counts one session under today's date.
    pub fn count(
        &self,
        domain: &DomainName,
        mx_host: &str,
        policy: TlsPolicyType,
        failure: Option<TlsFailure>,
    ) {
        let day = self.clock.now().to_zoned(TimeZone::UTC).date();
        let key = CounterKey { day, domain: domain.clone(), policy, mx_host: mx_host.to_owned(), failure };
        self.add(key, 1);
    }

    /// Adds the counts to the store; keeps them if that fails.
    pub async fn flush(&self, store: &Store) {
        let counts = std::mem::take(&mut *self.lock());
        if counts.is_empty() {
            return;
        }
        let results: Vec<TlsResult> =
            counts.into_iter().map(|(key, sessions)| key.with_count(sessions)).collect();
        if let Err(error) = store.add_tls_results(results.clone()).await {
            tracing::warn!(%error, "cannot store the session counts for TLS reports; retrying in a minute");
            for TlsResult { day, domain, policy, mx_host, failure, sessions } in results {
                self.add(CounterKey { day, domain, policy, mx_host, failure }, sessions);
            }
        }
    }

    fn add(&self, key: CounterKey, sessions: u32) {
        let mut counts = self.lock();
        let has_capacity = counts.len() < COUNTERS_MAX;
        match counts.entry(key) {
            Entry::Occupied(mut entry) => *entry.get_mut() = entry.get().saturating_add(sessions),
            Entry::Vacant(entry) if has_capacity => drop(entry.insert(sessions)),
            Entry::Vacant(_) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CounterKey, u32>> {
        self.counts.lock()
    }
}

impl CounterKey {
    fn with_count(self, sessions: u32) -> TlsResult {
        let Self { day, domain, policy, mx_host, failure } = self;
        TlsResult { day, domain, policy, mx_host, failure, sessions }
    }
}

/// Writes once a minute until `stop`; the relay writes once more when it ends.
pub async fn flush_loop(counts: Arc<TlsSessionCounts>, store: Arc<Store>, stop: CancellationToken) {
    let mut interval = counts.clock.interval(FLUSH_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = interval.tick() => counts.flush(&store).await,
        }
    }
}
