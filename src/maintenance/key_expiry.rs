//! Appends the events of keys that expire soon. Imports `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{Directory, Duty, Store};

const INTERVAL: Duration = Duration::from_secs(60);

/// Looks for such keys every minute until `stop`.
pub async fn run(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    let mut ticks = clock.interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = ticks.tick() => {}
        }
        if !store.has_duty(Duty::KeyExpiry) {
            continue;
        }
        match store.append_key_expiries(clock.now()).await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "keys expire soon"),
            Err(error) => {
                tracing::warn!(%error, "cannot look for keys that expire soon; retrying in a minute")
            }
        }
    }
}
