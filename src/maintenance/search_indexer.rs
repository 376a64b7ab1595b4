//! Adds accepted messages to the search index, about a second after acceptance. Imports `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Duty, Journal, Store};

const INTERVAL: Duration = Duration::from_secs(1);

/// Indexes new messages of the journal until `stop`.
pub async fn run(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    let mut ticks = clock.interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ticks.tick() => {}
        }
        while !stop.is_cancelled() && store.has_duty(Duty::SearchIndex) {
            match store.index_messages().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot index messages for search; retrying");
                    break;
                }
            }
        }
    }
}
