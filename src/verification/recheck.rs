//! The regular check of all domains. Tenants share the lookups fairly, so that a tenant with many domains on
//! unresponsive DNS servers delays only its own checks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::Rounds;
use crate::mail::{SignedDuration, Timestamp};
use crate::model::TenantId;
use crate::store::{self, Directory, Duty};

use super::{CheckReason, Verifier};

/// Tenants checked at the same time.
const TENANTS_MAX: usize = 8;
/// Domains of one tenant checked at the same time. A batch takes as long as DNS timeouts: half a minute.
const BATCH_DOMAINS: usize = 4;

/// Checks every domain once per interval, until `stop`. A round begins when a check is due, or after a change of the directory.
pub async fn recheck_loop(verifier: Arc<Verifier>, stop: CancellationToken) {
    let check_interval = verifier.settings.check_interval;
    // Frequent polls for the few due domains spread the lookups over the interval.
    let poll_interval = (check_interval / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
    let interval = SignedDuration::try_from(check_interval).unwrap_or(SignedDuration::MAX);
    let recheck = Arc::new(Recheck { verifier: verifier.clone(), permits: Semaphore::new(TENANTS_MAX) });
    let mut rounds = Rounds::new(verifier.clock.clone(), poll_interval, verifier.store.watch_directory());
    let mut tasks = JoinSet::new();
    let (mut in_progress, mut tenant_of_task) = (HashSet::new(), HashMap::new());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rounds.next() => {}
            Some(ended) = tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| failed_task(&error), |(id, ())| id);
                // The tenant of a task that panicked is checked again in the next round.
                if let Some(tenant) = tenant_of_task.remove(&id) {
                    in_progress.remove(&tenant);
                }
                continue;
            }
        }
        let due = match verifier.store.has_duty(Duty::DomainChecks) {
            true => find_due(&verifier, interval).await,
            false => Ok(DueChecks::default()),
        };
        match due {
            Ok(DueChecks { before, tenants, next_in }) => {
                if let Some(next_in) = next_in {
                    rounds.again_after(next_in);
                }
                for tenant in tenants.into_iter().filter(|tenant| in_progress.insert(*tenant)) {
                    let recheck = recheck.clone();
                    let task = tasks.spawn(async move { recheck.check_all(tenant, before).await });
                    tenant_of_task.insert(task.id(), tenant);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the domains to check; retrying");
                rounds.again();
            }
        }
    }
}

/// The checks of a round.
#[derive(Default)]
struct DueChecks {
    /// Those of domains that were last checked before this time.
    before: Timestamp,
    tenants: Vec<TenantId>,
    /// The time until the next one is due, if the round has none.
    next_in: Option<Duration>,
}

async fn find_due(verifier: &Verifier, interval: SignedDuration) -> store::Result<DueChecks> {
    let now = verifier.clock.now();
    let before = now.checked_sub(interval).unwrap_or(Timestamp::MIN);
    let tenants = verifier.store.tenants_to_check(before).await?;
    let oldest = if tenants.is_empty() { verifier.store.oldest_domain_check().await? } else { Some(before) };
    let next_in = oldest.map(|oldest| Duration::try_from(oldest.duration_since(before)).unwrap_or_default());
    Ok(DueChecks { before, tenants, next_in })
}

fn failed_task(error: &JoinError) -> task::Id {
    tracing::error!(%error, "the task of a domain check failed");
    error.id()
}

struct Recheck {
    verifier: Arc<Verifier>,
    /// The semaphore is FIFO, so the tenant that waits longest is next.
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
                // The same domains would be returned again, and the loop would not end.
                Err(error) => {
                    tracing::warn!(%tenant, %error, "domain check failed; retrying");
                    return;
                }
            }
        }
    }

    /// Checks one batch. Returns the number of checked domains, or 0 if a check panicked.
    async fn check_batch(self: &Arc<Self>, tenant: TenantId, before: Timestamp) -> store::Result<usize> {
        let mut checks = JoinSet::new();
        for domain in self.verifier.store.domains_to_check(tenant, before, BATCH_DOMAINS).await? {
            let verifier = self.verifier.clone();
            checks.spawn(async move { verifier.check(&domain, CheckReason::Interval).await });
        }
        let mut checked = 0;
        let mut has_failed = false;
        while let Some(ended) = checks.join_next().await {
            match ended {
                Ok(result) => {
                    result?;
                    checked += 1;
                }
                Err(error) => {
                    failed_task(&error);
                    has_failed = true;
                }
            }
        }
        // The same domains would be returned again.
        Ok(if has_failed { 0 } else { checked })
    }
}
