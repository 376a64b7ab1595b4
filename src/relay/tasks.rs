//! The background tasks of a relay. A stop waits for them; dropping the relay aborts them.

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The tasks of one relay.
#[derive(Default)]
pub struct Tasks {
    /// Cancelled at the stop: tasks end as soon as this is safe.
    pub stop: CancellationToken,
    tracker: TaskTracker,
    /// Cancelled when the deliveries that run now must end.
    deliveries_ended: Mutex<CancellationToken>,
    aborted: CancellationToken,
}

impl Tasks {
    /// Starts a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let aborted = self.aborted.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = aborted.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Starts a delivery.
    pub fn spawn_delivery(&self, delivery: impl Future<Output = ()> + Send + 'static) {
        let ended = self.deliveries_ended.lock().clone();
        self.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = delivery => {}
            }
        });
    }

    /// Ends the deliveries that run now, at their next await.
    pub fn end_deliveries(&self) {
        std::mem::take(&mut *self.deliveries_ended.lock()).cancel();
    }

    /// Aborts all tasks at their next await when the guard is dropped.
    pub fn abort_on_drop(&self) -> DropGuard {
        self.aborted.clone().drop_guard()
    }

    /// Waits until all have ended.
    pub async fn end(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
