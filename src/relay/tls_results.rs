//! Counts TLS sessions with mail hosts for the reports that domains ask for (RFC 8460 §4).
//!
//! In memory, so that no attempt waits for it; once a minute and at the end of the relay what was counted is added to
//! the store. A crash loses what was counted since.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use crate::mail::{Date, DomainName, Timestamp};
use crate::model::{TlsFailure, TlsPolicyType};
use crate::store::{Store, TlsResult, TlsResults};

/// Kinds of sessions that are counted between two looks; of more, the new ones are not.
const KINDS_MAX: usize = 10_000;
const FLUSH_INTERVAL: Duration = Duration::from_secs(60);

/// Sessions that are not in the store yet.
#[derive(Default)]
pub struct TlsSessions {
    counts: Mutex<HashMap<Kind, u32>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Kind {
    day: Date,
    domain: DomainName,
    policy: TlsPolicyType,
    mx_host: String,
    failure: Option<TlsFailure>,
}

impl TlsSessions {
    /// Counts one session of today.
    pub fn count(
        &self,
        domain: &DomainName,
        mx_host: &str,
        policy: TlsPolicyType,
        failure: Option<TlsFailure>,
    ) {
        let day = TimeZone::UTC.to_datetime(Timestamp::now()).date();
        let kind = Kind { day, domain: domain.clone(), policy, mx_host: mx_host.to_owned(), failure };
        self.add(kind, 1);
    }

    /// Adds what was counted to the store; what cannot be written is kept.
    pub async fn flush(&self, store: &Store) {
        let counts = std::mem::take(&mut *self.lock());
        if counts.is_empty() {
            return;
        }
        let results: Vec<TlsResult> = counts.into_iter().map(|(kind, sessions)| kind.of(sessions)).collect();
        if let Err(error) = store.add_tls_results(results.clone()).await {
            tracing::warn!(%error, "cannot write what is to be reported on TLS");
            for TlsResult { day, domain, policy, mx_host, failure, sessions } in results {
                self.add(Kind { day, domain, policy, mx_host, failure }, sessions);
            }
        }
    }

    fn add(&self, kind: Kind, sessions: u32) {
        let mut counts = self.lock();
        let has_room = counts.len() < KINDS_MAX;
        match counts.entry(kind) {
            Entry::Occupied(mut entry) => *entry.get_mut() = entry.get().saturating_add(sessions),
            Entry::Vacant(entry) if has_room => drop(entry.insert(sessions)),
            Entry::Vacant(_) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    fn of(self, sessions: u32) -> TlsResult {
        let Self { day, domain, policy, mx_host, failure } = self;
        TlsResult { day, domain, policy, mx_host, failure, sessions }
    }
}

/// Writes once a minute until `stop`; the end of the relay writes once more.
pub async fn flush_loop(sessions: Arc<TlsSessions>, store: Arc<Store>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(FLUSH_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => sessions.flush(&store).await,
        }
    }
}
