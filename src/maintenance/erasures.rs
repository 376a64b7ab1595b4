//! Applies erasures of recipients that are not complete: after a crash, after a restore, and while a delivery was in
//! progress. Imports `queue` and `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Rounds};
use crate::queue::QueueManager;
use crate::store::Duty;

const INTERVAL: Duration = Duration::from_secs(60);

/// Applies them at the start, and every minute in which something changes or a delivery is in the way, until `stop`.
pub async fn run(queue: Arc<QueueManager>, clock: Clock, stop: CancellationToken) {
    let mut rounds = Rounds::new(clock.clone(), INTERVAL, queue.store().watch_changes());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rounds.next() => {}
        }
        if !queue.store().has_duty(Duty::Erasures) {
            continue;
        }
        match queue.erase_recipients(clock.now()).await {
            Ok(done) => {
                if done.erasures > 0 {
                    tracing::info!(erasures = done.erasures, "recipients erased");
                }
                if done.open_deliveries > 0 {
                    rounds.again();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "recipients cannot be erased; retrying in a minute");
                rounds.again();
            }
        }
    }
}
