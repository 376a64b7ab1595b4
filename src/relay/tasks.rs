//! The background tasks of a relay. A stop waits for them; dropping the relay aborts them.

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The tasks of one relay.
#[derive(Default)]
pub struct Tasks {
    /// Cancelled at the stop: tasks end as soon as this is safe.
    pub stop: CancellationToken,
    tracker: TaskTracker,
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
