//! What runs for the connections of a listener, and the end of it all: told, waited for, then cut.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{ApiError, Result};

/// How long a stop waits for running requests before they and their connections are cut.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The tasks of a listener. Clones are the same.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// No new request is begun.
    pub stop: CancellationToken,
    /// Ends what the stop has waited for too long.
    cut: CancellationToken,
}

impl Tasks {
    /// None yet.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, cut: CancellationToken::new() }
    }

    /// Runs a connection until it ends or is cut.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move { cut.run_until_cancelled_owned(connection).await });
    }

    /// Does some work to its end, even if whoever waits for it here goes away.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let cut = self.cut.clone();
        let work = self.tracker.spawn(async move { cut.run_until_cancelled_owned(work).await });
        work.await.map_err(ApiError::internal)?.ok_or_else(ApiError::stopping)
    }

    /// Waits for what runs, and cuts it if it takes too long.
    pub async fn end(self) {
        self.tracker.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tracker.wait()).await.is_err() {
            tracing::warn!("requests to the API ran on past the stop and were cut");
        }
        self.cut.cancel();
        self.tracker.wait().await;
    }
}

/// Runs hyper's own tasks, which are the streams of HTTP/2.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.tracker.spawn(future);
    }
}
