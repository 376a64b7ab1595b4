//! Appends the events of keys that expire soon. Imports `store`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Rounds};
use crate::store::{Directory, Duty, Store};

const INTERVAL: Duration = Duration::from_secs(60);

/// Looks for such keys within a minute after a change of a key, and every hour, until `stop`.
pub async fn run(store: Arc<Store>, clock: Clock, stop: CancellationToken) {
    let mut rounds = Rounds::new(clock.clone(), INTERVAL, store.watch_directory());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = rounds.next() => {}
        }
        if !store.has_duty(Duty::KeyExpiry) {
            continue;
        }
        match store.append_key_expiries(clock.now()).await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "keys expire soon"),
            Err(error) => {
                tracing::warn!(%error, "cannot look for keys that expire soon; retrying in a minute");
                rounds.again();
            }
        }
    }
}
