//! The regular check of all domains. Tenants share the lookups fairly, so that a tenant with many domains on
//! unresponsive DNS servers delays only its own checks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::mail::{SignedDuration, Timestamp};
use crate::model::TenantId;
use crate::store::{self, Directory};

use super::Verifier;

/// Tenants checked at the same time.
const TENANTS_MAX: usize = 8;
/// Domains of one tenant checked at the same time. A batch takes as long as DNS timeouts: half a minute.
const BATCH_DOMAINS: usize = 4;

/// Checks every domain once per interval, until `stop`.
pub async fn recheck_loop(verifier: Arc<Verifier>, stop: CancellationToken) {
    let check_interval = verifier.settings.check_interval;
    // Frequent polls for the few due domains spread the lookups over the interval.
    let poll_interval = (check_interval / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
    let interval = SignedDuration::try_from(check_interval).unwrap_or(SignedDuration::MAX);
    let recheck = Arc::new(Recheck { verifier: verifier.clone(), permits: Semaphore::new(TENANTS_MAX) });
    let mut tasks = JoinSet::new();
    let mut in_progress = HashSet::new();
    while !stop.is_cancelled() {
        let before = verifier.clock.now().checked_sub(interval).unwrap_or(Timestamp::MIN);
        match verifier.store.tenants_to_check(before).await {
            Ok(tenants) => {
                for tenant in tenants.into_iter().filter(|tenant| in_progress.insert(*tenant)) {
                    let recheck = recheck.clone();
                    tasks.spawn(async move {
                        recheck.check_all(tenant, before).await;
                        tenant
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "domain check failed; retrying");
            }
        }
        let next = verifier.clock.sleep(poll_interval);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut next => break,
                Some(Ok(tenant)) = tasks.join_next() => in_progress.remove(&tenant),
            };
        }
    }
}

struct Recheck {
    verifier: Arc<Verifier>,
    /// FIFO: the tenant that waits longest is next.
    permits: Semaphore,
}

impl Recheck {
    /// Checks the domains of a tenant that were last checked before a time, in batches.
    async fn check_all(self: &Arc<Self>, tenant: TenantId, before: Timestamp) {
        loop {
            let Ok(_permit) = self.permits.acquire().await else { return };
            match self.check_batch(tenant, before).await {
                Ok(0) => return,
                Ok(_) => {}
                // Stop here: the same domains would be returned and retried endlessly.
                Err(error) => {
                    tracing::warn!(%tenant, %error, "domain check failed; retrying");
                    return;
                }
            }
        }
    }

    /// Checks one batch. Returns the number of domains.
    async fn check_batch(self: &Arc<Self>, tenant: TenantId, before: Timestamp) -> store::Result<usize> {
        let mut checks = JoinSet::new();
        for domain in self.verifier.store.domains_to_check(tenant, before, BATCH_DOMAINS).await? {
            let verifier = self.verifier.clone();
            checks.spawn(async move { verifier.check(&domain).await });
        }
        let mut checked = 0;
        while let Some(Ok(result)) = checks.join_next().await {
            result?;
            checked += 1;
        }
        Ok(checked)
    }
}
