//! Adds accepted messages to the search index, about a second after acceptance. Imports `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Duty, Journal, JournalCursor, Store};

/// Between two rounds, so that what is accepted meanwhile is indexed in one transaction.
const INTERVAL: Duration = Duration::from_secs(1);

/// Indexes new messages of the journal until `stop`.
pub async fn run(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    // What other writers add is found only by looking.
    let mut events = (!store.has_other_writers()).then(|| store.watch_events());
    loop {
        if index_all(&store, &stop).await {
            let is_stopped = stop.run_until_cancelled(wait_for_event(&mut events)).await.is_none();
            if is_stopped {
                return;
            }
        }
        if stop.run_until_cancelled(clock.sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Completes when there are events that were not seen here, at once if only a look shows that.
async fn wait_for_event(events: &mut Option<watch::Receiver<JournalCursor>>) {
    if let Some(events) = events {
        // The store is closed after the stop.
        let _ = events.changed().await;
    }
}

/// False if something may be left.
async fn index_all(store: &Store, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() && store.has_duty(Duty::SearchIndex) {
        match store.index_messages().await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(%error, "cannot index messages for search; retrying");
                return false;
            }
        }
    }
    true
}
