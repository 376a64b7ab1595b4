//! Tells the other nodes of the database which sites back off, and applies what they tell.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::queue::QueueManager;
use crate::store::Spool;

/// Between two announcements, each of them of all back-offs that began meanwhile.
const INTERVAL: Duration = Duration::from_millis(500);

/// Runs until `stop`. A task that ends earlier stops the server.
pub async fn run(queue: Arc<QueueManager>, stop: CancellationToken) {
    let Some(mut feed) = queue.store().take_backoff_feed() else { return stop.cancelled().await };
    let mut tick = queue.clock().interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(backoff) = feed.recv() => queue.apply_announced_backoff(backoff),
            _ = tick.tick() => {
                let backoffs = queue.take_unannounced_backoffs();
                if !backoffs.is_empty()
                    && let Err(error) = queue.store().announce_backoffs(backoffs).await
                {
                    tracing::warn!(%error, "other nodes were not told which sites back off; they find out by themselves");
                }
            }
        }
    }
}
