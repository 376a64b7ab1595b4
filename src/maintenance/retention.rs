//! Removes data after its retention: bodies, rows, files without a row, expired pauses and replaced DKIM keys. Also
//! empties the write-ahead log after changes.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Rounds};
use crate::mail::{SignedDuration, Timestamp};
use crate::store::{Directory, Duty, Journal, Pruned, Queue, Result, RetentionPolicy, Store};

const INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks for old data after one that has found none. Retention is counted in days.
const PAUSE_AFTER_NOTHING: Duration = Duration::from_secs(10 * 60);
/// Rows of each kind removed in one step.
const BATCH_MAX: usize = 500;
/// Maximum of steps in a round, after which the write-ahead log is truncated.
const STEPS_MAX: usize = 200;
/// Minimum time for which a replaced DKIM key stays published: a receiver may verify a signature when the message is
/// read (RFC 6376 §5.2).
const DKIM_OVERLAP_MIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What a round did.
struct Round {
    has_removed: bool,
    /// There may be more to remove.
    is_truncated: bool,
}

/// Runs a round in every minute in which something changes, until `stop`; the next one begins at once if more data can be
/// removed. A round empties the write-ahead log. It looks for old data unless the last look, a short time ago, has found none.
pub async fn run(store: Arc<Store>, policy: RetentionPolicy, clock: Clock, stop: CancellationToken) {
    let mut rounds = Rounds::new(clock.clone(), INTERVAL, store.watch_changes());
    let mut look_at = clock.instant();
    while stop.run_until_cancelled(rounds.next()).await.is_some() {
        if !store.has_duty(Duty::Retention) {
            continue;
        }
        if clock.instant() >= look_at {
            match look(&store, policy, &clock, &stop).await {
                Ok(false) if !store.has_other_writers() => look_at = clock.instant() + PAUSE_AFTER_NOTHING,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "retention failed; retrying in a minute");
                    rounds.again();
                }
            }
        }
        empty_log(&store).await;
    }
}

/// Removes old data until none is left. False if there was none.
async fn look(
    store: &Store,
    policy: RetentionPolicy,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<bool> {
    let mut has_removed = false;
    loop {
        let round = clean(store, policy, clock, stop).await?;
        has_removed |= round.has_removed;
        if !round.is_truncated {
            return Ok(has_removed);
        }
        empty_log(store).await;
    }
}

async fn empty_log(store: &Store) {
    if let Err(error) = store.checkpoint().await {
        tracing::warn!(%error, "cannot empty the write-ahead log; retrying after the next change");
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

/// Removes old data, pauses and keys.
async fn clean(
    store: &Store,
    policy: RetentionPolicy,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Round> {
    if let Err(error) = store.extend_partitions(clock.now()).await {
        tracing::warn!(%error, "cannot make new partitions; retrying in a minute");
    }
    let mut round = Round { has_removed: false, is_truncated: true };
    for _ in 0..STEPS_MAX {
        let pruned = store.prune(policy, clock.now(), BATCH_MAX).await?;
        round.is_truncated = pruned.truncated;
        if pruned != (Pruned { truncated: pruned.truncated, ..Pruned::default() }) {
            log(&pruned);
            round.has_removed = true;
        }
        if stop.is_cancelled() || !round.is_truncated {
            break;
        }
    }
    if stop.is_cancelled() {
        return Ok(Round { is_truncated: false, ..round });
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
    Ok(round)
}
