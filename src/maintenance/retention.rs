//! Removes data after its retention: bodies, rows, files without a row, expired pauses and replaced DKIM keys. Also
//! truncates the write-ahead log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::mail::{SignedDuration, Timestamp};
use crate::store::{Directory, Duty, Journal, Pruned, Queue, RetentionPolicy, Store};

const INTERVAL: Duration = Duration::from_secs(60);
/// Rows of each kind removed in one step.
const BATCH_MAX: usize = 500;
/// Maximum of steps in a round, after which the write-ahead log is truncated.
const STEPS_MAX: usize = 200;
/// Minimum time for which a replaced DKIM key stays published: a receiver may verify a signature when the message is
/// read (RFC 6376 §5.2).
const DKIM_OVERLAP_MIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Runs a round every minute, and the next round at once if more data can be removed.
pub async fn run(store: Arc<Store>, policy: RetentionPolicy, clock: Clock, stop: CancellationToken) {
    let mut ticks = clock.interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ticks.tick() => {}
        }
        while store.has_duty(Duty::Retention) && clean(&store, policy, &clock, &stop).await {}
    }
}

fn log(pruned: &Pruned) {
    tracing::debug!(
        bodies = pruned.bodies,
        transcripts = pruned.transcripts,
        messages = pruned.messages,
        events = pruned.events,
        rejections = pruned.rejections,
        audit_entries = pruned.audit_entries,
        webhook_deliveries = pruned.webhook_deliveries,
        suppressions = pruned.suppressions,
        submission_keys = pruned.submission_keys,
        usage_rows = pruned.usage_rows,
        idempotent_responses = pruned.idempotent_responses,
        reports = pruned.reports,
        erasures = pruned.erasures,
        "removed expired data"
    );
}

/// Runs one round. Returns true if more data may remain.
async fn clean(store: &Store, policy: RetentionPolicy, clock: &Clock, stop: &CancellationToken) -> bool {
    if let Err(error) = store.extend_partitions(clock.now()).await {
        tracing::warn!(%error, "cannot make new partitions; retrying in a minute");
    }
    let mut truncated = true;
    for _ in 0..STEPS_MAX {
        let pruned = store.prune(policy, clock.now(), BATCH_MAX).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "retention failed; retrying in a minute");
            Pruned::default()
        });
        truncated = pruned.truncated;
        if pruned != (Pruned { truncated, ..Pruned::default() }) {
            log(&pruned);
        }
        if stop.is_cancelled() {
            return false;
        }
        if !truncated {
            break;
        }
    }
    if let Err(error) = store.expire_pauses(clock.now()).await {
        tracing::warn!(%error, "cannot remove expired pauses; retrying in a minute");
    }
    let before = clock.now().checked_sub(DKIM_OVERLAP_MIN).unwrap_or(Timestamp::MIN);
    match store.delete_retired_dkim_keys(before).await {
        Ok(0) => {}
        Ok(keys) => tracing::info!(keys, "removed replaced DKIM keys"),
        Err(error) => tracing::warn!(%error, "cannot remove replaced DKIM keys; retrying in a minute"),
    }
    if let Err(error) = store.checkpoint().await {
        tracing::warn!(%error, "cannot truncate the write-ahead log; retrying in a minute");
    }
    truncated
}
