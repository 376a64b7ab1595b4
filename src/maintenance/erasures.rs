//! Applies erasures of recipients that are not complete: after a crash, after a restore, and while a delivery was in
//! progress. Imports `queue` and `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::queue::QueueManager;
use crate::store::Duty;

const INTERVAL: Duration = Duration::from_secs(60);

/// Applies them at the start, and every minute until `stop`.
pub async fn run(queue: Arc<QueueManager>, clock: Clock, stop: CancellationToken) {
    let mut ticks = clock.interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ticks.tick() => {}
        }
        if !queue.store().has_duty(Duty::Erasures) {
            continue;
        }
        match queue.erase_recipients(clock.now()).await {
            Ok(0) => {}
            Ok(erasures) => tracing::info!(erasures, "recipients erased"),
            Err(error) => tracing::warn!(%error, "recipients cannot be erased; retrying in a minute"),
        }
    }
}
