//! Waiting for a condition, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The timeout of a condition: far above the time that it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Probes until there is a result. Panics with `what` at the timeout.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Some(answer)) => return answer,
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            _ => panic!("timeout after {PATIENCE:?}: waited until {what}"),
        }
    }
}
