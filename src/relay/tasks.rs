//! The tasks of a relay: they are waited for when it stops, and end at once when it is dropped before.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks that do not outlive the relay that runs them.
#[derive(Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abandoned: CancellationToken,
}

impl Tasks {
    /// Starts one.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abandoned = self.abandoned.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = abandoned.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Ends all that run, each where it waits.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Waits until all have ended.
    pub async fn end(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
