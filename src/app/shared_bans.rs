//! Applies the bans of other nodes on the same database.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits::auth_limiter::AuthLimiter;
use crate::store::{Spool, Store};

/// Applies bans and their lifts until `stop`. A task that ends earlier stops the server.
pub async fn run(store: Arc<Store>, bans: Arc<AuthLimiter>, clock: Clock, stop: CancellationToken) {
    let Some(mut feed) = store.take_ban_feed() else { return stop.cancelled().await };
    match store.announced_bans().await {
        Ok(changes) => changes.into_iter().for_each(|change| bans.apply(change, clock.now())),
        Err(error) => tracing::warn!(%error, "the bans of other nodes were not read"),
    }
    while let Some(Some(change)) = stop.run_until_cancelled(feed.recv()).await {
        bans.apply(change, clock.now());
    }
    stop.cancelled().await;
}
