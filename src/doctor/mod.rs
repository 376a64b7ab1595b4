//! Looks at what mail needs to leave and to arrive. `checks` decide on facts, without I/O. A check is OK only on a fact that
//! was seen. Whatever a fix says makes the check right.

mod checks;
mod finding;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::Config;
use crate::dns::Resolver;
use crate::mail::SignedDuration;
use crate::queue::QueueManager;
use crate::store::Store;
use crate::tls::Certificate;
use crate::verification::Verifier;

pub use self::finding::{Diagnosis, Finding, Fix, FixRecord};

/// How old a diagnosis of the server may be before a request runs it again.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// What the doctor looks at in a running server.
pub struct DoctorDependencies {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The queue, the webhooks, the domains.
    pub store: Arc<Store>,
    /// Why mail waits.
    pub queue: Arc<QueueManager>,
    /// The name servers of the relay.
    pub resolver: Resolver,
    /// The certificate in use.
    pub certificate: Arc<Certificate>,
    /// The records of domains.
    pub verifier: Arc<Verifier>,
    /// The clock.
    pub clock: Clock,
}

/// The doctor of a running server.
pub struct Doctor {
    parts: DoctorDependencies,
    last: Mutex<Option<Arc<Diagnosis>>>,
    /// One run at a time.
    running: tokio::sync::Mutex<()>,
}

impl Doctor {
    /// Nothing has been looked at yet.
    pub fn new(parts: DoctorDependencies) -> Self {
        Self { parts, last: Mutex::default(), running: tokio::sync::Mutex::default() }
    }

    /// The last diagnosis, if it is not too old, or a new one. Requests that come during a run share its result.
    pub async fn diagnose(&self, refresh: bool) -> Arc<Diagnosis> {
        let asked_at = self.parts.clock.now();
        let _running = self.running.lock().await;
        let last = self.last();
        let is_usable = |last: &Arc<Diagnosis>| {
            if refresh { last.at >= asked_at } else { asked_at.duration_since(last.at) < LIFETIME }
        };
        if let Some(last) = last.filter(is_usable) {
            return last;
        }
        let fresh = Arc::new(Diagnosis::new(
            self.parts.config.hostname.to_string(),
            vec![checks::hostname(&self.parts.config.hostname)],
            self.parts.clock.now(),
            0,
        ));
        *self.last.lock() = Some(Arc::clone(&fresh));
        fresh
    }

    /// The last diagnosis, for metrics and the overview.
    pub fn last(&self) -> Option<Arc<Diagnosis>> {
        self.last.lock().clone()
    }
}
