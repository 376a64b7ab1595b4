//! What has served its time: bodies and rows past their retention, files without a row, pauses, replaced DKIM
//! keys, the write-ahead log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::mail::{SignedDuration, Timestamp};
use crate::store::{Directory, Journal, Pruned, Queue, RetentionPolicy, Store};

const ROUND_INTERVAL: Duration = Duration::from_secs(60);
/// Rows of each kind removed in one step.
const REMOVED_MAX: usize = 500;
/// Steps of removal in one round: the write-ahead log must be shortened between.
const STEPS_MAX: usize = 200;
/// How long the record of a replaced DKIM key is asked for at least: receivers may verify as late as when the message
/// is read (RFC 6376 §5.2).
const DKIM_OVERLAP_MIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Cleans up once a minute, and on and on while there is more to remove, until told to stop.
pub async fn run(store: Arc<Store>, policy: RetentionPolicy, stop: CancellationToken) {
    let mut rounds = tokio::time::interval(ROUND_INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => while clean(&store, policy, &stop).await {},
        }
    }
}

/// One round. Answers whether there may be more to remove.
async fn clean(store: &Store, policy: RetentionPolicy, stop: &CancellationToken) -> bool {
    let mut truncated = true;
    for _ in 0..STEPS_MAX {
        let pruned = store.prune(policy, Timestamp::now(), REMOVED_MAX).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot clean up; trying again in a minute");
            Pruned::default()
        });
        truncated = pruned.truncated;
        if pruned != (Pruned { truncated, ..Pruned::default() }) {
            tracing::debug!(?pruned, "removed what its retention had ended for");
        }
        if stop.is_cancelled() {
            return false;
        }
        if !truncated {
            break;
        }
    }
    if let Err(error) = store.tidy_holds(Timestamp::now()).await {
        tracing::warn!(%error, "cannot tidy up the pauses of the queue; trying again in a minute");
    }
    let before = Timestamp::now().checked_sub(DKIM_OVERLAP_MIN).unwrap_or(Timestamp::MIN);
    match store.remove_served_dkim_keys(before).await {
        Ok(0) => {}
        Ok(keys) => tracing::info!(keys, "removed DKIM keys that others have replaced"),
        Err(error) => tracing::warn!(%error, "cannot remove replaced DKIM keys; trying again in a minute"),
    }
    if let Err(error) = store.checkpoint().await {
        tracing::warn!(%error, "cannot shorten the write-ahead log; trying again in a minute");
    }
    truncated
}
