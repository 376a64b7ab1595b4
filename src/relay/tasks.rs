//! The background tasks of a relay: a stop waits for them, dropping the relay aborts them.

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Tasks that do not outlive the relay that runs them.
#[derive(Default)]
pub struct Tasks {
    /// Cancelled when tasks are to end as soon as it is safe.
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
