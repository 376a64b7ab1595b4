//! Tasks of a listener and their graceful shutdown: stop new requests, wait, then abort.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{ApiError, Result};

/// How long a shutdown waits for running requests before it aborts them.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The tasks of a listener. Clones share them.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// No new request starts once this is cancelled.
    pub stop: CancellationToken,
    /// Aborts tasks at the end of the grace period.
    abort: CancellationToken,
}

impl Tasks {
    /// Without tasks.
    pub fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, abort: CancellationToken::new() }
    }

    /// Runs a connection until it ends or is aborted.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        self.tracker.spawn(async move { abort.run_until_cancelled_owned(connection).await });
    }

    /// Runs work to completion, even if the caller is dropped.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let abort = self.abort.clone();
        let work = self.tracker.spawn(async move { abort.run_until_cancelled_owned(work).await });
        work.await.map_err(ApiError::internal)?.ok_or_else(ApiError::stopping)
    }

    /// Waits for running tasks, and aborts them after the grace period.
    pub async fn end(self) {
        self.tracker.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tracker.wait()).await.is_err() {
            tracing::warn!("API requests were aborted at the end of the shutdown grace period");
        }
        self.abort.cancel();
        self.tracker.wait().await;
    }
}

/// Runs the tasks of hyper: the streams of HTTP/2.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.tracker.spawn(future);
    }
}
