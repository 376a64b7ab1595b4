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
    /// Cancelled when the attempts that run now must end.
    attempts_ended: Mutex<CancellationToken>,
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

    /// Cancelled when the attempts that run now must end. The results of others are written all the same.
    pub fn attempts_ended(&self) -> CancellationToken {
        self.attempts_ended.lock().clone()
    }

    /// Ends the attempts that run now, at their next await.
    pub fn end_attempts(&self) {
        std::mem::take(&mut *self.attempts_ended.lock()).cancel();
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
